"""What a page about two models says: what changed most, in words, figures and tables.

1. HTML and PDF say everything about a comparison through `tell`, so that both say the same. It is a
   pure function of the comparison: nothing is computed that its JSON does not hold.
2. The most important changes are those whose verdict changed with them, one that fails now before
   the others; then those of questions in which a reader is interested first. Each finding is heard
   once before one is heard twice; of one finding the change that is largest for its interval.
3. A figure shows the differences that have an interval of their own, another one the numbers that
   changed beyond the intervals of both models. Each number has a scale of its own.

Units and sign: differences are B minus A, the second model minus the first.

Limits: a figure shows a few numbers; the tables have all.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.core import plots
from workbench.report import exhibits, headlines, wording
from workbench.report.comparing import NO_CHANGE, Change, Comparison, told
from workbench.report.document import Exhibit, Finding, Measured, Report, Table
from workbench.report.spec import Verdict

if TYPE_CHECKING:
    import plotly.graph_objects as go

LIMITS = (
    "Two models were compared, not two ways to train one: how much two trainings alike would "
    "differ was not looked at.",
    "Both were asked what was chosen on the first model (behaviours, units, concepts); what only "
    "the second one does was not asked.",
    "Differences on the same prompts are corrected for how many behaviours were asked; numbers "
    "that are judged by the two intervals are not corrected for how many there are.",
    "In another architecture a unit or a site of the same name is another one.",
    "A change that was not found may be there: other prompts, or more of them, might show it.",
)
COLUMNS = ("number", "about", "A", "B", "B minus A", "n", "adjusted p", "changed")
NOT_SAID = "not said"
ALIKE = "the same"
# The manifest has the rest of it.
_DIGEST = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{48}\b")
# Scales and rows that a figure shows.
_MOST_PANELS, _MOST_ROWS = 6, 40
_PIXELS_OF_A_ROW, _PIXELS_AROUND, _PIXELS_BETWEEN = 30, 70, 74
_LONGEST_LABEL = 44
_CAVEATS = {
    "paired": "One set of weights each: two trainings alike may differ as much.",
    "intervals": "One of many numbers that were judged by whether two intervals overlap, without a "
    "correction for how many there are.",
}
_JUDGED = {True: "changed", False: "not shown to change", None: "cannot be judged"}


@dataclasses.dataclass(frozen=True)
class Headline:
    """An important change.

    Attributes:
        statement: What changed, and by how much.
        evidence: How sure that is.
        caveat: What speaks most against relying on it.
    """

    statement: str
    evidence: str
    caveat: str


@dataclasses.dataclass(frozen=True)
class Judged:
    """A finding that both models have.

    Attributes:
        about: The behaviour, unit or concept.
        question: In words.
        first: Verdict on the first model.
        second: Verdict on the second one.
        statements: What was found in each.
    """

    about: str
    question: str
    first: Verdict
    second: Verdict
    statements: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Story:
    """Everything that a page about a comparison shows.

    Attributes:
        title: What it is called.
        outcome: How much changed, in sentences.
        headlines: The most important changes.
        moved: Findings whose verdict changed.
        unmoved: Findings whose verdict did not.
        examined: Facts: name, of the first model, of the second one.
        figures: Pictures of the changes.
        changed: Every number that changed; none if no number did.
        others: Every other number; none if there is none.
        left_out: What could not be compared, and why.
        limits: What the comparison cannot tell.
        confidence: What the intervals cover.
    """

    title: str
    outcome: str
    headlines: tuple[Headline, ...]
    moved: tuple[Judged, ...]
    unmoved: tuple[Judged, ...]
    examined: tuple[tuple[str, str, str], ...]
    figures: tuple[Exhibit, ...]
    changed: Exhibit | None
    others: Exhibit | None
    left_out: tuple[str, ...]
    limits: tuple[str, ...]
    confidence: str

    @property
    def exhibits(self) -> tuple[tuple[str, Exhibit], ...]:
        """Figures and tables in their order, each with what it is called."""
        tables = [one for one in (self.changed, self.others) if one is not None]
        return (
            *((f"Figure {i}", one) for i, one in enumerate(self.figures, start=1)),
            *((f"Table {i}", one) for i, one in enumerate(tables, start=1)),
        )


def tell(found: Comparison) -> Story:
    """Say everything about a comparison.

    Args:
        found: The comparison.

    Returns:
        What a page shows.
    """
    findings = tuple({one.id: one for one in report.findings} for report in found.reports)
    judged = [
        Judged(
            about=findings[0][one.id].about,
            question=wording.TITLES[findings[0][one.id].question],
            first=one.first,
            second=one.second,
            statements=(_said(findings[0][one.id]), _said(findings[1][one.id])),
        )
        for one in found.verdicts
        if all(one.id in known for known in findings)
    ]
    figures = (differences(found), both(found))
    return Story(
        title=f"Comparison: {found.names[1]} against {found.names[0]}",
        outcome=_outcome(found),
        headlines=important(found),
        moved=tuple(one for one in judged if one.first != one.second),
        unmoved=tuple(one for one in judged if one.first == one.second),
        examined=_examined(*found.reports),
        figures=tuple(one for one in figures if one is not None),
        changed=_table(found.changed, "Numbers that changed, verdicts that changed first"),
        others=_table(
            [one for one in found.changes if not one.changed],
            "Numbers that were not shown to change, or that cannot be judged",
        ),
        left_out=found.left_out,
        limits=tuple(dict.fromkeys([*LIMITS, *(x for one in found.reports for x in one.limits)])),
        confidence=f"{100 * found.reports[0].manifest.spec.confidence:g}%",
    )


def important(found: Comparison) -> tuple[Headline, ...]:
    """The most important changes.

    Args:
        found: The comparison.

    Returns:
        Three, or all where fewer numbers changed.
    """
    moved = {one.id: one for one in found.verdicts if one.changed}
    by_finding: dict[str, list[Change]] = {}
    for one in sorted(found.changed, key=_strength, reverse=True):
        by_finding.setdefault(one.id, []).append(one)
    order = sorted(
        by_finding.values(),
        key=lambda some: (
            headlines.URGENCY.index(moved[some[0].id].second)
            if some[0].id in moved
            else len(headlines.URGENCY),
            headlines.INTEREST.index(some[0].question),
        ),
    )
    rounds = max(map(len, order), default=0)
    chosen = [some[i] for i in range(rounds) for some in order if i < len(some)]
    caveats = {one.id: one.caveat for one in found.reports[1].findings}
    made: list[Headline] = []
    for one in chosen[: headlines.MOST]:
        pair = moved.get(one.id)
        verdict = (
            f" The verdict was {wording.WORDS[pair.first]} and is {wording.WORDS[pair.second]}."
            if pair is not None
            else ""
        )
        caveat = " ".join(filter(None, (_CAVEATS[one.rule], caveats.get(one.id, ""))))
        made.append(Headline(_statement(one), _evidence(one) + verdict, caveat))
    return tuple(made)


def differences(found: Comparison) -> Exhibit | None:
    """Draw the differences that have an interval.

    Args:
        found: The comparison.

    Returns:
        A panel a number, a row a behaviour; none where no difference has an interval.
    """
    known = [one for one in found.changes if one.low is not None and one.high is not None]
    panels = _panels(known)
    if not panels:
        return None

    def marks(rows: Sequence[Change]) -> list[dict[str, Any]]:
        kinds = (("changed", True, 0, "circle"), ("not shown to change", False, -1, "circle-open"))
        return [
            _row_of_points(
                name,
                [(place, one.gap) for place, one in enumerate(rows) if one.changed is kind],
                colour=plots.COLOURS[colour],
                symbol=symbol,
            )
            for name, kind, colour, symbol in kinds
        ]

    drawn = _drawn(panels, marks, "B minus A", zero=True)
    return exhibits.figure(
        drawn,
        "How much each number differs on the same prompts, with its interval. At the dotted line "
        "the two models are alike." + _left_out(known, panels),
    )


def both(found: Comparison) -> Exhibit | None:
    """Draw the numbers that changed beyond the intervals of both models.

    Args:
        found: The comparison.

    Returns:
        A panel a number, each with both models; none where there is none.
    """
    known = [one for one in found.changed if one.rule == "intervals"]
    panels = _panels(known)
    if not panels:
        return None

    def marks(rows: Sequence[Change]) -> list[dict[str, Any]]:
        kinds: tuple[tuple[str, Callable[[Change], Measured], int, str, float], ...] = (
            ("A", lambda one: one.first, -1, "circle-open", -0.13),
            ("B", lambda one: one.second, 0, "circle", 0.13),
        )
        return [
            _row_of_points(
                name,
                [(place + beside, of(one)) for place, one in enumerate(rows)],
                colour=plots.COLOURS[colour],
                symbol=symbol,
            )
            for name, of, colour, symbol, beside in kinds
        ]

    drawn = _drawn(panels, marks, "", zero=False)
    return exhibits.figure(
        drawn,
        "Numbers of both models whose intervals do not overlap." + _left_out(known, panels),
    )


def _said(one: Finding) -> str:
    return one.statement if not one.reason else f"{one.statement} {one.reason}"


def _outcome(found: Comparison) -> str:
    first, second = (one.manifest.fingerprint for one in found.reports)
    if first == second:
        return f"{found.outcome} Both have the same fingerprint: they are one and the same model."
    moved = found.changed or any(one.changed for one in found.verdicts)
    return found.outcome if moved else f"{found.outcome} {NO_CHANGE}"


def _statement(one: Change) -> str:
    first, second = one.first.value or 0.0, one.second.value or 0.0
    way = "rose" if second > first else "fell"
    start = f"{one.about}: {one.name} {way}"
    if one.rule == "paired":
        return f"{start} by {told(_size(one))}."
    return f"{start} from {wording.value(one.first)} to {wording.value(one.second)}."


def _size(one: Change) -> Measured:
    """How much it rose or fell: the difference without its sign."""
    gap = one.gap
    if gap.value is None or gap.value >= 0:
        return gap
    low, high = gap.low, gap.high
    return gap.model_copy(
        update={
            "value": -gap.value,
            "low": None if high is None else -high,
            "high": None if low is None else -low,
        }
    )


def _evidence(one: Change) -> str:
    values = f"{told(one.first)} became {told(one.second)}"
    if one.rule == "paired":
        p = wording.number(one.p_value)
        return f"{values}, measured on the same {one.n} prompts (adjusted p = {p})."
    return f"{values}; the two intervals do not overlap."


def _strength(one: Change) -> float:
    """How large a change is for the width of what it is known by."""
    if one.difference is None:
        return 0.0
    if one.rule == "paired":
        width = _width(one.gap)
    else:
        width = math.hypot(_width(one.first), _width(one.second))
    return abs(one.difference) / width if width > 0 else math.inf


def _width(one: Measured) -> float:
    return 0.0 if one.low is None or one.high is None else one.high - one.low


def _examined(first: Report, second: Report) -> tuple[tuple[str, str, str], ...]:
    one, other = (
        {name: _DIGEST.sub(r"\1…", value) for name, value in report.examined}
        for report in (first, second)
    )
    return tuple(
        (name, one.get(name, NOT_SAID), ALIKE if same else other.get(name, NOT_SAID))
        for name in dict.fromkeys([*one, *other])
        for same in [one.get(name) == other.get(name)]
    )


def _table(changes: Sequence[Change], caption: str) -> Exhibit | None:
    if not changes:
        return None
    rows = [
        (
            one.name,
            one.about,
            told(one.first),
            told(one.second),
            told(one.gap),
            "no count" if one.n is None else wording.number(one.n),
            "no p" if one.p_value is None else wording.number(one.p_value),
            _JUDGED[one.changed],
        )
        for one in changes
    ]
    return Exhibit(caption=f"{caption}.", table=Table(columns=COLUMNS, rows=tuple(rows)))


Panels = dict[tuple[str, str], list[Change]]


def _panels(changes: Iterable[Change]) -> Panels:
    """Changes by number and unit, as many as a figure shows."""
    found: Panels = {}
    for one in changes:
        found.setdefault((one.name, one.first.unit), []).append(one)
    kept: Panels = {}
    room = _MOST_ROWS
    for key, rows in list(found.items())[:_MOST_PANELS]:
        if room > 0:
            kept[key] = rows[:room]
            room -= len(rows)
    return kept


def _left_out(known: Sequence[Change], panels: Panels) -> str:
    missing = len(known) - sum(map(len, panels.values()))
    return f" {missing} more are in the tables alone." if missing else ""


def _row_of_points(
    name: str, points: Sequence[tuple[float, Measured]], *, colour: str, symbol: str
) -> dict[str, Any]:
    """A trace of points with their intervals, one a row."""
    known = [(place, one, one.value) for place, one in points if one.value is not None]
    ends = [(value, one.low, one.high) for _, one, value in known]
    return {
        "name": name,
        "legendgroup": name,
        "mode": "markers",
        "x": [value for value, _, _ in ends],
        "y": [place for place, _, _ in known],
        "marker": {"color": colour, "symbol": symbol, "size": 9},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [0.0 if high is None else max(high - value, 0.0) for value, _, high in ends],
            "arrayminus": [0.0 if low is None else max(value - low, 0.0) for value, low, _ in ends],
            "color": colour,
            "thickness": 1.6,
        },
        "hovertemplate": f"%{{x:.4g}}<extra>{name}</extra>",
    }


def _drawn(
    panels: Panels,
    marks: Callable[[Sequence[Change]], list[dict[str, Any]]],
    what: str,
    *,
    zero: bool,
) -> go.Figure:
    import plotly.graph_objects as go
    from plotly import subplots

    heights = [_PIXELS_OF_A_ROW * len(rows) for rows in panels.values()]
    inside = sum(heights) + _PIXELS_BETWEEN * (len(heights) - 1)
    figure = subplots.make_subplots(
        rows=len(panels),
        cols=1,
        row_heights=heights,
        vertical_spacing=_PIXELS_BETWEEN / inside if len(panels) > 1 else None,
    )
    seen: set[str] = set()
    for number, ((name, unit), rows) in enumerate(panels.items(), start=1):
        for trace in marks(rows):
            if trace["x"]:
                shown = go.Scatter(showlegend=trace["name"] not in seen, **trace)
                figure.add_trace(shown, row=number, col=1)
                seen.add(trace["name"])
        title = _label(f"{name}{f', {what}' if what else ''}{f' ({unit})' if unit else ''}", 120)
        figure.update_xaxes(title=title, row=number, col=1)
        figure.update_yaxes(
            tickvals=list(range(len(rows))),
            ticktext=[_label(one.about, _LONGEST_LABEL) for one in rows],
            range=[len(rows) - 0.5, -0.5],
            showgrid=False,
            zeroline=False,
            row=number,
            col=1,
        )
        if zero:
            line = {"color": plots.COLOURS[-1], "dash": "dot", "width": 1.5}
            figure.add_vline(x=0, line=line, row=number, col=1)  # pyright: ignore[reportArgumentType] - plotly's stubs
    return figure.update_layout(
        template=plots.TEMPLATE, height=inside + _PIXELS_AROUND + _PIXELS_BETWEEN, showlegend=True
    )


def _label(text: str, longest: int) -> str:
    shown = wording.visible(" ".join(text.split()))
    cut = shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
    return plots.escape(cut)
