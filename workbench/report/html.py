r"""A report as one HTML file: self-contained, accessible, interactive, and able to be read back.

1. Jinja2 fills `templates/report.html.j2` with everything escaped and with nothing hidden
   (`wording.visible`); the style sheet, the script and Plotly are inline.
2. The report's JSON stands once in the page, with `<`, `>` and `&` as `\u003c` and so on, so that
   no string in it can end its element. The page's script draws the figures from it; `read` takes
   it back, and `render` of that gives the same page to the byte. A number that was altered in the
   visible page, or in the JSON alone, is found by this.
3. Each figure is also a vector graphic (`vector`), shown without JavaScript and in print, and its
   numbers are a table.
4. The content security policy allows the page's own scripts and style sheet by their hashes, and
   images that are within the page. Nothing can be fetched, sent or evaluated.

What is left open for Plotly, and why it is harmless: it makes an empty style element, which it
fills by the browser's interface for style sheets (the hash of nothing is allowed for this); it sets
style attributes (`style-src-attr 'unsafe-inline'`), which can change how an element looks, and,
with every source of images and fonts but the page itself closed, fetch nothing; and it makes a
picture for download out of the figure (`img-src blob:`), which only the page's own script can.

Limits: a figure of a kind that needs a network (maps) or WebGL is not drawn; this is said. Two
versions of Plotly or matplotlib give two pages of the same report.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from workbench.core import plots
from workbench.report import document, figures, vector, wording

_TEMPLATES = Path(__file__).parent / "templates"
_OPENING = '<script type="application/json" id="report">'
_CLOSING = "</script>"
# What could end the element, and what an editor or a terminal would not show as it is.
_NOT_IN_SCRIPT = re.compile(r"[<>&]|[^\x20-\x7e]")
# Plotly brings a style sheet for maps along and adds it as soon as it is loaded, unless an element
# of its name is there.
_SHEET_FOR_MAPS = re.compile(r'document\.getElementById\("([0-9a-f]{64})"\)')


@dataclasses.dataclass(frozen=True)
class Shown:
    """An exhibit as the page shows it.

    Attributes:
        label: "Figure 3".
        caption: What one sees.
        place: Section and exhibit in the report's JSON; empty for what is not drawn.
        height: Pixels of the drawn figure.
        still: Data address of the vector graphic; empty where there is none.
        reason: Why a picture is missing; empty where none is.
        table: Of the exhibit, or the figure's numbers.
        folded: Whether the table is the figure's numbers and opens on demand.
    """

    label: str
    caption: str
    place: str
    height: int
    still: str
    reason: str
    table: document.Table | None
    folded: bool


def render(report: document.Report) -> str:
    """Write a report as HTML.

    Args:
        report: The report.

    Returns:
        The page.
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_with_nothing_hidden,
    )
    # Each is a file of ours or of Plotly's, or escaped for its place: none is text to escape again.
    inline = {
        name: markupsafe.Markup(text)  # noqa: S704 - see above
        for name, text in {
            "css": _own("report.css"),
            "script": _own("report.js"),
            "plotly": _plotly(),
            "data": _in_script(report.model_dump_json(by_alias=True)),
            "style": _in_script(_figure_style()),
        }.items()
    }
    return environment.get_template("report.html.j2").render(
        report=report,
        wording=wording,
        groups=wording.groups(report),
        exhibits=_exhibits(report),
        policy=_policy(),
        maps=_name_of_maps(),
        opening=markupsafe.Markup(_OPENING),  # noqa: S704 - a constant
        **inline,
    )


def read(text: str) -> str:
    """Take the report's JSON out of a page.

    Args:
        text: The page.

    Returns:
        The JSON; `Report.model_validate_json` checks what it says.

    Raises:
        ValueError: If the page does not hold exactly one report.
    """
    count = text.count(_OPENING)
    if count != 1:
        raise ValueError(
            "this HTML file is no report of the workbench: expected exactly one element "
            f"{_OPENING}, found {count}"
        )
    _, _, rest = text.partition(_OPENING)
    found, closing, _ = rest.partition(_CLOSING)
    if not closing:
        raise ValueError(f"this report is cut off: its data are not ended by {_CLOSING}")
    try:
        json.loads(found)
    except ValueError as error:
        raise ValueError(f"the data of this report are damaged: {error}") from error
    return found


def _with_nothing_hidden(value: Any) -> Any:
    """Applied by Jinja2 to all that is shown, before it is escaped."""
    import markupsafe

    if isinstance(value, str) and not isinstance(value, markupsafe.Markup):
        return wording.visible(value)
    return value


def _in_script(text: str) -> str:
    """JSON for the inside of a script element: the same JSON, with no character that ends it."""
    return _NOT_IN_SCRIPT.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    if found[0] in "<>&":
        return f"\\u{ord(found[0]):04x}"
    return json.dumps(found[0])[1:-1]


@functools.cache
def _own(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    from plotly import offline

    return offline.get_plotlyjs()


def _figure_style() -> str:
    """The workbench's style of figures, with the colours of text on light and on dark pages."""
    import plotly.io as pio

    template = pio.templates[plots.TEMPLATE].to_plotly_json()
    return json.dumps(
        {"template": template, "text": plots.TEXT_COLOURS, "kinds": sorted(figures.INTERACTIVE)}
    )


def _name_of_maps() -> str:
    found = _SHEET_FOR_MAPS.search(_plotly())
    return found[1] if found else "no-maps"


def _policy() -> str:
    scripts = " ".join(map(_hash, (_plotly(), _own("report.js"))))
    styles = " ".join(map(_hash, (_own("report.css"), "")))
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {scripts}",
            f"style-src {styles}",
            "style-src-attr 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _exhibits(report: document.Report) -> dict[tuple[str, int], Shown]:
    labels = wording.labels(report)
    return {
        (section.id, index): _shown(one, labels[section.id, index], f"{number}.{index}")
        for number, section in enumerate(report.sections)
        for index, one in enumerate(section.exhibits)
        if (section.id, index) in labels
    }


def _shown(one: document.Exhibit, label: str, place: str) -> Shown:
    if one.figure is None:
        reason = "" if one.table else wording.NOTHING_KEPT
        return Shown(label, one.caption, "", 0, "", reason, one.table, folded=False)
    kinds = {figures.kind(trace) for trace in figures.traces(one.figure)}
    still, reason = "", ""
    try:
        drawn = vector.draw(one.figure).encode()
        still = f"data:image/svg+xml;base64,{base64.b64encode(drawn).decode()}"
    except vector.CannotDraw:
        reason = wording.INTERACTIVE_ONLY
    interactive = kinds <= figures.INTERACTIVE
    if not interactive:
        reason = wording.NOT_DRAWN
    return Shown(
        label=label,
        caption=one.caption,
        place=place if interactive else "",
        height=vector.height(one.figure),
        still=still,
        reason=reason,
        table=one.table or figures.table(one.figure),
        folded=one.table is None,
    )
