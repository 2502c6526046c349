"""A report's figures as vector graphics: Plotly's JSON drawn by matplotlib, without a browser.

1. Every pair of axes of the figure becomes a matplotlib axes in the same place: domains, ranges,
   logarithms, categories, ticks and titles are Plotly's.
2. Each trace is drawn on the axes that it names; shapes and annotations follow; colour bars stand
   where Plotly puts them.
3. The margins grow until every text is inside, and the page is written as SVG whose text is
   outlines: it looks the same with any fonts, and the same figure gives the same bytes.

The JSON may come from a file that anyone wrote. It is read with `figures`' readers, by which a part
of another type counts as absent; what then makes no picture (lists of unequal lengths, numbers that
are too large) is a `CannotDraw`.

Limits: what moves, answers the pointer or is styled beyond colour, width, dash and symbol is left
out. A trace of another kind raises `CannotDraw`. More than 5,000 marks of a trace are an image
within the graphic, so that a page stays readable by machines that are not large.
"""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

from workbench.report import figures
from workbench.report.vector import marks, notes, ticks
from workbench.report.vector.page import CannotDraw, Page, height
from workbench.report.vector.style import SETTINGS, WIDTH, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["WIDTH", "CannotDraw", "built", "draw", "height", "printable"]

# rcParams of matplotlib are one for the whole process.
_LOCK = threading.Lock()


def draw(figure: figures.Json) -> str:
    """Draw a figure.

    Args:
        figure: Plotly's JSON, with plain lists.

    Returns:
        The SVG: outlines only, no script, no style sheet of its own, no link.

    Raises:
        CannotDraw: If the figure has a trace of a kind that is not drawn here, or is damaged.
    """
    import matplotlib as mpl
    from matplotlib.backends import backend_svg

    with _LOCK, mpl.rc_context(SETTINGS):
        made = built(figure)
        written = io.StringIO()
        backend_svg.FigureCanvasSVG(made).print_svg(
            written, metadata={"Date": None, "Creator": None}
        )
    return written.getvalue()


def built(figure: figures.Json) -> Figure:
    """Build matplotlib's form of a figure.

    Args:
        figure: Plotly's JSON, with plain lists.

    Returns:
        The figure, ready to be written.

    Raises:
        CannotDraw: If the figure has a trace of a kind that is not drawn here, or is damaged.
    """
    unknown = sorted({figures.kind(one) for one in figures.traces(figure)} - marks.KINDS)
    if unknown:
        raise CannotDraw(
            f"a figure with traces of kind {', '.join(map(repr, unknown))} is drawn in the "
            f"interactive report only; drawn here: {', '.join(sorted(marks.KINDS))}"
        )
    try:
        return _built(figure)
    except CannotDraw:
        raise
    except (ArithmeticError, ValueError) as error:
        raise CannotDraw(f"a figure is damaged: {error}") from error


def _built(figure: figures.Json) -> Figure:
    page = Page(figure)
    for panel in page.panels:
        marks.draw(page, panel)
    notes.reach(page)
    for panel in page.panels:
        for letter in "xy":
            ticks.dress(panel, letter)
    page.match_axes()
    notes.draw(page)
    page.write_legend()
    page.fit_margins()
    return page.figure
