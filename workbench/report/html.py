r"""A report as one HTML file: self-contained, accessible, interactive, and able to be read back.

1. Jinja2 fills `templates/report.html.j2` with everything escaped and with nothing hidden
   (`wording.visible`); the style sheet, the script and Plotly are inline. A comparison of two
   reports is `templates/comparison.html.j2`, of the same parts.
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
from typing import TYPE_CHECKING, Any

from workbench.core import plots, reading
from workbench.report import document, figures, vector, wording

if TYPE_CHECKING:
    from workbench.report.comparing import Comparison

_TEMPLATES = Path(__file__).parent / "templates"
_OPENING = '<script type="application/json" id="report">'
_OPENING_OF_BOTH = '<script type="application/json" id="comparison">'
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
        is_figure: Whether it is a figure, drawn or not.
        place: Where the figure is in the page's JSON; empty for what is not drawn.
        height: Pixels of the drawn figure.
        still: Data address of the vector graphic; empty where there is none.
        reason: Why a picture is missing; empty where none is.
        table: Of the exhibit, or the figure's numbers.
        folded: Whether the table is the figure's numbers and opens on demand.
    """

    label: str
    caption: str
    is_figure: bool
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
    return _page(
        "report.html.j2",
        (_OPENING, report.model_dump_json(by_alias=True)),
        kind="Model audit",
        what="report",
        title=wording.title(report),
        reports=(report,),
        report=report,
        groups=wording.groups(report),
        exhibits=_exhibits(report),
    )


def render_comparison(comparison: Comparison) -> str:
    """Write a comparison as HTML.

    Args:
        comparison: The comparison.

    Returns:
        The page.
    """
    from workbench.report import changes

    story = changes.tell(comparison)
    drawn = [_shown(one, label, f"{i}") for i, (label, one) in enumerate(story.exhibits)]
    kept = json.dumps([one.figure for _, one in story.exhibits])
    return _page(
        "comparison.html.j2",
        (_OPENING_OF_BOTH, comparison.model_dump_json(by_alias=True)),
        figures=kept,
        kind="Model comparison",
        what="comparison",
        title=story.title,
        reports=comparison.reports,
        comparison=comparison,
        story=story,
        exhibits=drawn,
    )


def _page(template: str, data: tuple[str, str], *, figures: str = "", **shown: Any) -> str:
    """Fill a template: what opens the data and the data themselves, figures, and what is shown."""
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
    opening, plain = data
    # Each is a file of ours or of Plotly's, or escaped for its place: none is text to escape again.
    inline = {
        name: markupsafe.Markup(text)  # noqa: S704 - see above
        for name, text in {
            "css": _own("report.css"),
            "script": _own("report.js"),
            "plotly": _plotly(),
            "opening": opening,
            "data": _in_script(plain),
            "figures": _in_script(figures),
            "style": _in_script(_figure_style()),
        }.items()
    }
    return environment.get_template(template).render(
        wording=wording, policy=_policy(), maps=_name_of_maps(), **inline, **shown
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
    return _data(text, _OPENING, "report")


def read_comparison(text: str) -> str:
    """Take the comparison's JSON out of a page.

    Args:
        text: The page.

    Returns:
        The JSON; `Comparison.model_validate_json` checks what it says.

    Raises:
        ValueError: If the page does not hold exactly one comparison.
    """
    return _data(text, _OPENING_OF_BOTH, "comparison")


def _data(text: str, opening: str, what: str) -> str:
    """What stands between the opening of an element and its end, if it is JSON."""
    count = text.count(opening)
    if count != 1:
        raise ValueError(
            f"this HTML file is no {what} of the workbench: expected exactly one element "
            f"{opening}, found {count}"
        )
    _, _, rest = text.partition(opening)
    found, closing, _ = rest.partition(_CLOSING)
    if not closing:
        raise ValueError(f"this {what} is cut off: its data are not ended by {_CLOSING}")
    try:
        reading.json_of(found)
    except reading.UnreadableError as error:
        raise ValueError(f"the data of this {what} are damaged: {error}") from error
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
        (section.id, index): _shown(
            one, labels[section.id, index], f"sections.{number}.exhibits.{index}.figure"
        )
        for number, section in enumerate(report.sections)
        for index, one in enumerate(section.exhibits)
        if (section.id, index) in labels
    }


def _shown(one: document.Exhibit, label: str, place: str) -> Shown:
    shown = Shown(
        label=label,
        caption=one.caption,
        is_figure=one.figure is not None,
        place="",
        height=0,
        still="",
        reason="",
        table=one.table,
        folded=False,
    )
    if one.figure is None:
        return shown if one.table else dataclasses.replace(shown, reason=wording.NOTHING_KEPT)
    kinds = {figures.kind(trace) for trace in figures.traces(one.figure)}
    still, reason = "", ""
    try:
        drawn = vector.draw(one.figure).encode()
        still = f"data:image/svg+xml;base64,{base64.b64encode(drawn).decode()}"
    except vector.CannotDraw:
        reason = wording.ON_SCREEN_ONLY
    interactive = kinds <= figures.INTERACTIVE
    if not interactive:
        reason = wording.NOT_DRAWN
    return dataclasses.replace(
        shown,
        place=place if interactive else "",
        height=vector.height(one.figure),
        still=still,
        reason=reason,
        table=one.table or figures.table(one.figure),
        folded=one.table is None,
    )
