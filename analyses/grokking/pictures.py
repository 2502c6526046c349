"""What does a checkpoint look like from inside, in the Fourier basis of the group?

1. Residues and pairs are put in the order of the group's elements (`theory.Cyclic`), so that waves
   are waves on screen. Where the theory does not hold they stay in the order of the residues: a
   network without waves shows none.
2. Embedding: norm of W_E's component along each cosine and sine.
3. Attention: from `=` to a, of each head, over all pairs, with the frequency that explains most.
4. Neurons: the share of each one's variance that each frequency explains, the neurons sorted by
   their best one; of one neuron its value at every pair, and its power at each two frequencies.
5. Logits: the power of one answer's logit at each two frequencies, and the size of each term
   cos(w_k(a + b - c)).
6. From outside: the curves of a run as far as it is, with what was measured of its checkpoints, and
   the test losses of several runs.

Source: Nanda et al. 2023, arXiv 2301.05217 (section 4 and appendix).

Units and sign: losses and logits in nats; power as a share of the variance over all
pairs, the mean left out.

Limits: a picture is of one checkpoint and no test; `fourier` tests what these suggest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.subplots
from jaxtyping import Float, Float64, Int64

from analyses.grokking import tracking
from workbench.core import plots
from workbench.core.modular import fourier, theory
from workbench.core.modular.curves import Curves
from workbench.core.modular.network import Snapshot
from workbench.core.modular.tasks import Task

# Heads side by side, and the height of a row of square pictures.
_ABREAST, _HEIGHT = 4, 290
# Share of the power from which on a cell is circled.
_MUCH = 0.05
# Points of a curve: more cannot be told apart on a screen.
_POINTS = 500


@dataclasses.dataclass(frozen=True)
class Order:
    """In which order residues and pairs are drawn.

    Attributes:
        first: Residue a of each element.
        answer: Residue of each element as an answer.
        cube: Index of the pair of elements (i, j) among the task's pairs.
        elements: What the elements are, for an axis.
        applies: Whether the operation is addition of these elements.
    """

    first: Int64[np.ndarray, " residue"]
    answer: Int64[np.ndarray, " residue"]
    cube: Int64[np.ndarray, "residue residue"]
    elements: str
    applies: bool

    @property
    def n(self) -> int:
        """How many elements there are."""
        return len(self.first)

    def table(
        self, values: Float[np.ndarray, "pair *unit"]
    ) -> Float[np.ndarray, "residue residue *unit"]:
        """Values of pairs over the elements of both operands."""
        return values[self.cube]


def order(task: Task) -> Order:
    """Put a task's residues in the order in which waves are waves.

    Args:
        task: Any task.

    Returns:
        The order of its group's elements, or of the residues where there is no such group.
    """
    group = theory.cyclic(task)
    residues = np.arange(task.p, dtype=np.int64)
    first, second, answer = (
        (residues,) * 3 if group is None else (group.first, group.second, group.answer)
    )
    index = np.full((task.p, task.p), -1, dtype=np.int64)
    pairs = task.pairs().numpy()
    index[pairs[:, 0], pairs[:, 1]] = np.arange(len(pairs))
    logarithms = group is not None and group.n < task.p
    return Order(
        first=first,
        answer=answer,
        cube=index[np.ix_(first, second)],
        elements="discrete logarithm of" if logarithms else "residue",
        applies=group is not None,
    )


def progress(curves: Curves, measured: Sequence[tracking.ProgressMeasures] = ()) -> go.Figure:
    """A training as far as it is: losses on the left; accuracy, weights, measures on the right.

    Args:
        curves: Of the run.
        measured: What was measured of some of its checkpoints, one checkpoint each, in the order of
            their steps.

    Returns:
        The figure; curves are thinned to 500 points.
    """
    made = curves.arrays()
    chosen = _thinned(len(made["test_steps"]))
    steps = made["test_steps"][chosen]
    # A test after the last step so far: the loss of that step is not known yet.
    train = np.append(made["train_loss"], np.nan)[np.minimum(steps, len(made["train_loss"]))]
    at = np.array([one.steps[-1] for one in measured])

    def column(name: str) -> np.ndarray:
        return np.array([getattr(one, name)[-1] for one in measured])

    traces = [
        _line(steps, train, "train loss", 0, ""),
        _line(steps, made["test_loss"][chosen], "test loss", 1, ""),
        _line(steps, made["test_accuracy"][chosen], "test accuracy", 1, "2", legend=False),
        _line(steps, made["squared_weights"][chosen], "Σw²", 5, "3", legend=False),
    ]
    live = (
        ("restricted_loss", "restricted loss", 2, ""),
        ("excluded_loss", "excluded loss", 3, ""),
        ("gini_neuron_logit", "Gini of the neuron-logit map", 4, "4"),
        ("logit_explained", "logits, by the keys' formula", 5, "4"),
        ("neurons_explained", "neurons, by one frequency", 3, "4"),
    )
    traces += [
        _line(at, column(name), title, colour, axis, mode="lines+markers", legend=not axis)
        for name, title, colour, axis in live
        if measured and np.isfinite(column(name)).any()
    ]
    # Drawn twice a second while a network is trained: built in one go, which is quicker.
    return go.Figure({"data": traces, "layout": _LAYOUTS[3 if measured else 2]})


def comparison(runs: Mapping[str, Curves]) -> go.Figure:
    """Test losses of several runs over their steps.

    Args:
        runs: Curves by the name of the run.

    Returns:
        A curve a run.
    """
    figure = go.Figure()
    for index, (name, curves) in enumerate(runs.items()):
        made = curves.arrays()
        chosen = _thinned(len(made["test_steps"]))
        loss = made["test_loss"][chosen]
        figure.add_trace(_line(made["test_steps"][chosen], loss, plots.escape(name), index, ""))
    figure.update_layout(template=plots.TEMPLATE, hovermode="x unified", showlegend=True)
    # One below the other: names of runs are long.
    figure.update_layout(legend={"orientation": "v", "yanchor": "bottom", "y": 1.02})
    figure.update_xaxes(title=_STEP)
    return figure.update_yaxes(title="test loss (nats a pair)", type="log", **plots.POWERS_OF_TEN)


def _thinned(count: int) -> np.ndarray:
    """Places of at most so many points, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(int))


def _line(
    x: np.ndarray,
    y: np.ndarray,
    name: str,
    colour: int,
    axis: str,
    *,
    mode: str = "lines",
    legend: bool = True,
) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        name=name,
        mode=mode,
        line={"color": plots.COLOURS[colour % len(plots.COLOURS)]},
        marker={"size": 5},
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
        showlegend=legend,
    )


def _progress_layout(panels: int) -> dict[str, Any]:
    layout: dict[str, Any] = {
        "template": plots.TEMPLATE,
        "height": 400,
        "hovermode": "x unified",
        # Keeps zoom and hidden curves while new points come.
        "uirevision": "progress",
        "margin": {"l": 62, "r": 16, "t": 48, "b": 48},
        "xaxis": {"anchor": "y", "domain": [0.0, 0.56], "title": _STEP, "nticks": 6} | _PLAIN,
        "yaxis": _PLAIN
        | {
            "title": {"text": "loss (nats a pair)", "standoff": 6},
            "type": "log",
            **plots.POWERS_OF_TEN,
        },
        "annotations": [],
    }
    gap = 0.17
    height = (1 - gap * (panels - 1)) / panels
    for place, title in enumerate(_PANELS[:panels]):
        top, number = 1 - place * (height + gap), place + 2
        lowest = place == panels - 1
        layout[f"xaxis{number}"] = {
            "anchor": f"y{number}",
            "domain": [0.66, 1.0],
            "nticks": 5,
            "matches": "x",
            "showticklabels": lowest,
            "title": _STEP if lowest else None,
        } | _PLAIN
        layout[f"yaxis{number}"] = _PLAIN | {
            "anchor": f"x{number}",
            "domain": [max(top - height, 0.0), top],
            "rangemode": "tozero",
            "nticks": 4,
        }
        above = {"xref": "paper", "x": 0.66, "xanchor": "left", "yref": "paper", "y": top}
        text = {"text": title, "showarrow": False, "yanchor": "bottom", "font": {"size": 13}}
        layout["annotations"].append(above | text)
    return layout


_STEP = {"text": "step", "standoff": 6}
# A browser takes a third less time to draw axes that do not look for room for their labels.
_PLAIN = {"automargin": False, "ticklabeloverflow": "allow"}
_PANELS = (
    "test accuracy",
    "squared weights",
    f'<span style="color: {plots.COLOURS[4]}">Gini</span>, explained: '
    f'<span style="color: {plots.COLOURS[5]}">logits</span>, '
    f'<span style="color: {plots.COLOURS[3]}">neurons</span>',
)
_LAYOUTS = {panels: _progress_layout(panels) for panels in (2, 3)}


def embedding(snapshot: Snapshot, ordered: Order) -> go.Figure:
    """Norm of the embedding along each cosine and sine.

    Args:
        snapshot: The checkpoint.
        ordered: Order of its task.

    Returns:
        Two bars a frequency.
    """
    norms = fourier.component_norms(snapshot.embedding[ordered.first])
    figure = go.Figure()
    # Row 0 of the basis is the constant; cosines and sines take turns after it.
    for name, values, colour in (
        ("cosine", norms[1::2], plots.COLOURS[0]),
        ("sine", norms[2::2], plots.COLOURS[3]),
    ):
        every = np.arange(1, len(values) + 1)
        drawn = "k = %{x}: %{y:.3g}"
        figure.add_trace(
            go.Bar(x=every, y=values, name=name, marker={"color": colour}, hovertemplate=drawn)
        )
    figure.update_layout(template=plots.TEMPLATE, height=_HEIGHT, barmode="group", bargap=0.15)
    figure.update_xaxes(title={"text": "frequency k", "standoff": 6})
    return figure.update_yaxes(title="norm in the embedding", rangemode="tozero")


def attention(snapshot: Snapshot, ordered: Order) -> go.Figure:
    """Attention from `=` to a at every pair, a picture a head.

    Args:
        snapshot: The checkpoint.
        ordered: Order of its task.

    Returns:
        Heat maps on one scale, each with the frequency that explains most of it.
    """
    pattern = ordered.table(snapshot.pattern[:, :, 0])
    frequency, explained = fourier.best_frequency(fourier.explained_by_frequency(pattern))
    heads = pattern.shape[2]
    columns = min(heads, _ABREAST)
    rows = -(-heads // columns)
    figure = plotly.subplots.make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.2 / rows,
        subplot_titles=[
            f"head {head}: k = {frequency[head]}, {explained[head]:.0%}" for head in range(heads)
        ],
    )
    for head in range(heads):
        place = {"row": head // columns + 1, "col": head % columns + 1}
        figure.add_trace(
            go.Heatmap(z=_light(pattern[:, :, head].T), coloraxis="coloraxis", hovertemplate=_AT),
            **place,
        )
    figure.update_layout(template=plots.TEMPLATE, height=_HEIGHT * rows)
    figure.update_layout(coloraxis=_colours("attention to a"))
    figure.update_annotations(font={"size": 13})
    figure.update_xaxes(title={"text": f"{ordered.elements} a", "standoff": 6}, row=rows)
    figure.update_yaxes(title=f"{ordered.elements} b", col=1)
    return _square(figure)


def neurons(snapshot: Snapshot, ordered: Order) -> go.Figure:
    """Which frequency explains how much of each neuron.

    Args:
        snapshot: The checkpoint.
        ordered: Order of its task.

    Returns:
        A heat map, frequencies upwards, neurons sorted by their best frequency and then by how much
        it explains of them.
    """
    shares = neuron_shares(snapshot, ordered)
    sorted_ = by_frequency(shares)
    explained = fourier.best_frequency(shares)[1]
    figure = go.Figure(
        go.Heatmap(
            z=_light(shares[:, sorted_]),
            y=np.arange(1, len(shares) + 1),
            customdata=np.tile(sorted_.astype(np.int32), (len(shares), 1)),
            coloraxis="coloraxis",
            hovertemplate="neuron %{customdata}, k = %{y}<br><b>%{z:.3f}</b><extra></extra>",
        )
    )
    clear = int((explained >= fourier.EXPLAINED).sum())
    figure.update_layout(
        template=plots.TEMPLATE,
        height=_HEIGHT,
        coloraxis=_colours("share explained", most=1.0),
        title={
            "text": f"{clear} of {len(sorted_)} neurons: one frequency explains "
            f"{fourier.EXPLAINED:.0%} or more",
            "font": {"size": 13},
        },
        margin={"t": 40},
    )
    title = {"text": "neurons, sorted by their best frequency", "standoff": 6}
    figure.update_xaxes(title=title, showgrid=False)
    return figure.update_yaxes(title="frequency k", showgrid=False)


def neuron_shares(snapshot: Snapshot, ordered: Order) -> Float64[np.ndarray, "frequency neuron"]:
    """Share of each neuron's variance that each single frequency explains."""
    return fourier.explained_by_frequency(ordered.table(snapshot.hidden))


def by_frequency(shares: Float64[np.ndarray, "frequency neuron"]) -> Int64[np.ndarray, " neuron"]:
    """Neurons sorted by their best frequency, and those of one frequency by how much it explains.

    Args:
        shares: From `neuron_shares`.

    Returns:
        Indices of the neurons.
    """
    frequency, explained = fourier.best_frequency(shares)
    return np.lexsort((-explained, frequency))


def neuron(snapshot: Snapshot, ordered: Order, index: int) -> go.Figure:
    """One neuron at every pair, and at which frequencies it moves.

    Args:
        snapshot: The checkpoint.
        ordered: Order of its task.
        index: Which neuron.

    Returns:
        Two heat maps: its activation, and its power.

    Raises:
        ValueError: If there is no such neuron.
    """
    count = snapshot.hidden.shape[1]
    if not 0 <= index < count:
        raise ValueError(f"neuron {index} does not exist; there are {count}, from 0 on")
    return _table_and_power(ordered.table(snapshot.hidden[:, index]), ordered, "activation")


def logits(snapshot: Snapshot, ordered: Order, answer: int) -> go.Figure:
    """One answer's logit in frequencies of a and b, and the terms of the formula in all of them.

    Args:
        snapshot: The checkpoint.
        ordered: Order of its task.
        answer: The residue c whose logit is drawn.

    Returns:
        A heat map of power, and a bar a frequency.

    Raises:
        ValueError: If the answer is no residue.
    """
    p = snapshot.logits.shape[1]
    if not 0 <= answer < p:
        raise ValueError(f"answer {answer}; expected a residue from 0 to {p - 1}")
    power = power_by_frequencies(ordered.table(snapshot.logits[:, answer]))
    figure = plotly.subplots.make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.42, 0.58],
        horizontal_spacing=0.2,
        subplot_titles=[
            f"logit of c = {answer}: share of its variance",
            "size of cos(w(a + b - c)) in all logits",
        ],
    )
    figure.add_trace(_power_map(power), row=1, col=1)
    own = ordered.table(snapshot.logits)[:, :, ordered.answer]
    sizes = fourier.term_sizes(fourier.sums_by_answer(own))
    every = np.arange(1, len(sizes) + 1)
    bars = go.Bar(
        x=every, y=sizes, marker={"color": plots.COLOURS[0]}, hovertemplate="k = %{x}: %{y:.3g}"
    )
    figure.add_trace(bars, row=1, col=2)
    figure.update_layout(template=plots.TEMPLATE, height=_HEIGHT, showlegend=False)
    figure.update_layout(coloraxis=_colours("share", x=0.345))
    _ring(figure, power, "")
    figure.update_annotations(font={"size": 13})
    figure.update_xaxes(title={"text": "frequency of a", "standoff": 6}, row=1, col=1)
    figure.update_yaxes(title="frequency of b", row=1, col=1)
    figure.update_xaxes(title={"text": "frequency k", "standoff": 6}, row=1, col=2)
    return figure.update_yaxes(title="coefficient (nats)", row=1, col=2)


def power_by_frequencies(
    table: Float[np.ndarray, "residue residue"],
) -> Float64[np.ndarray, "frequency frequency"]:
    """Power of a function of two elements at each frequency of one and of the other.

    Args:
        table: Its values, a row an element of a.

    Returns:
        Shares of its variance; row and column 0 are the constant of a and of b. All 0 for a
        function that never changes.
    """
    n = len(table)
    basis = fourier.fourier_basis(n)
    squared = np.square(basis @ table.astype(np.float64) @ basis.T)
    starts = np.array([0, *range(1, n, 2)])
    power = np.add.reduceat(np.add.reduceat(squared, starts, axis=0), starts, axis=1)
    power[0, 0] = 0.0
    total = power.sum()
    # Rounding alone is no variance.
    return power / total if total > 1e-12 * squared.sum() else np.zeros_like(power)


_AT = "a at %{x}, b at %{y}<br><b>%{z:.3g}</b><extra></extra>"


def _table_and_power(
    table: Float[np.ndarray, "residue residue"], ordered: Order, what: str
) -> go.Figure:
    figure = plotly.subplots.make_subplots(
        rows=1,
        cols=2,
        horizontal_spacing=0.24,
        subplot_titles=[f"{what} at every pair", "share of its variance"],
    )
    values = go.Heatmap(z=_light(table.T), coloraxis="coloraxis2", hovertemplate=_AT)
    figure.add_trace(values, row=1, col=1)
    power = power_by_frequencies(table)
    figure.add_trace(_power_map(power), row=1, col=2)
    _ring(figure, power, "2")
    figure.update_annotations(font={"size": 13})
    figure.update_layout(template=plots.TEMPLATE, height=_HEIGHT)
    figure.update_layout(coloraxis=_colours("share"), coloraxis2=_colours(what, x=0.39))
    figure.update_xaxes(title={"text": f"{ordered.elements} a", "standoff": 6}, row=1, col=1)
    figure.update_yaxes(title=f"{ordered.elements} b", row=1, col=1)
    figure.update_xaxes(title={"text": "frequency of a", "standoff": 6}, row=1, col=2)
    figure.update_yaxes(title="frequency of b", row=1, col=2)
    return _square(figure)


def _power_map(power: Float64[np.ndarray, "frequency frequency"]) -> go.Heatmap:
    drawn = "k of a = %{x}, k of b = %{y}<br><b>%{z:.2%}</b><extra></extra>"
    return go.Heatmap(z=_light(power.T), coloraxis="coloraxis", hovertemplate=drawn)


def _ring(figure: go.Figure, power: Float64[np.ndarray, "frequency frequency"], axis: str) -> None:
    """Circle the cells with much of the power: among thousands one cell is easily overlooked."""
    size = {"x0": -6, "x1": 6, "y0": -6, "y1": 6, "xsizemode": "pixel", "ysizemode": "pixel"}
    for a, b in np.argwhere(power >= _MUCH):
        place = {"xref": f"x{axis}", "yref": f"y{axis}", "xanchor": int(a), "yanchor": int(b)}
        line = {"color": plots.COLOURS[3], "width": 1.5}
        figure.add_shape({"type": "circle", **place, **size, "line": line})


def _light(values: Float[np.ndarray, "row column"]) -> np.ndarray:
    """What a screen can show of the values, in half of the bytes."""
    return values.astype(np.float32)


def _colours(title: str, *, x: float | None = None, most: float | None = None) -> dict[str, Any]:
    bar: dict[str, Any] = {"title": {"text": title, "side": "right"}, "thickness": 10}
    if x is not None:
        bar["x"] = x
    scale: dict[str, Any] = {"colorscale": plots.SEQUENTIAL, "colorbar": bar, "cmin": 0.0}
    return scale if most is None else scale | {"cmax": most}


def _square(figure: go.Figure) -> go.Figure:
    figure.update_xaxes(showgrid=False, zeroline=False, constrain="domain")
    return figure.update_yaxes(showgrid=False, zeroline=False)
