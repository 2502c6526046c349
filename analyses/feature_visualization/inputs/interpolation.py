"""How does the input that one unit wants become the input that another one wants?

1. A row of inputs is optimized side by side. The first one climbs the first unit, the last one the
   second, and each one between them (1 − share) · first + share · second.
2. By themselves they would be a row of unrelated optima: each starts at random and finds a way of
   its own to please the same mixture. So neighbours in the row are held together: their mean
   squared difference, at an early layer or in the input itself, is taken off the objective (lucid's
   alignment). What changes along the row is then what has to change.
3. The same row is first optimized without alignment, from the same starts. That is the control, and
   it sets the scale: with `alignment` 1 the differences between its neighbours would cost as much
   as all of its inputs gain.
4. The row is compared with it, and with straight blends of its own first and last input: how alike
   neighbours are, and what both units say to every input.

Source: Olah et al. 2017, "Feature Visualization", doi 10.23915/distill.00007, section "Interaction
between neurons"; lucid's `objectives.alignment`.

Units and sign: activations in the unit of each unit's hook point; likeness is the cosine of two
neighbours, each centred on its own mean; shares run from 0 (the first unit) to 1 (the second).

Limits: a mixture is a sum of activations, so a unit whose activations are much larger than the
other's wins early in the row. Straight blends are as alike as can be, but nothing says that the
units like them: compare their activations, too. A row is one local maximum.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.subplots
import torch
from jaxtyping import Float, Float32, Float64

from analyses.feature_visualization.inputs import (
    constraints,
    drawing,
    objectives,
    optimizing,
    parametrization,
    transforms,
    watching,
)
from workbench.core import plots, results
from workbench.core.engine import running

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule

ANALYSIS = "feature_visualization.interpolated_inputs"
_FEWEST = 3
_ALIGNED, _APART, _BLENDED = "aligned", "not aligned", "straight blends"


@dataclasses.dataclass(frozen=True)
class Row:
    """Inputs from one unit to the other.

    Attributes:
        inputs: One a frame, in the order of the shares.
        first: The first unit's activation at each.
        second: The second unit's.
    """

    inputs: Float32[np.ndarray, "point *shape"]
    first: Float64[np.ndarray, " point"]
    second: Float64[np.ndarray, " point"]

    @property
    def likeness(self) -> Float64[np.ndarray, " point"]:
        """Cosine of each frame and the next one, each centred on its own mean."""
        flat = self.inputs.reshape(len(self.inputs), -1).astype(np.float64)
        flat = flat - flat.mean(1, keepdims=True)
        unit = flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-12)
        return (unit[:-1] * unit[1:]).sum(1)


@dataclasses.dataclass(frozen=True)
class InterpolatedInputs(results.Result):
    """A row of inputs from one unit to another, optimized together.

    Attributes:
        first: The unit that the row begins with.
        second: The unit that it ends with.
        kind: "image", "sequence" or "vector".
        constraint: What inputs were allowed, in words.
        shares: Of the second unit in what each frame climbs.
        alignment: As it was asked for; 1 weighs differences as much as activations.
        weight: What it came to: activation per mean squared difference of two neighbours.
        aligned_at: Hook point at which neighbours were held together; "input" for the input.
        aligned: The row.
        apart: The row without alignment, from the same starts.
        blends: Straight blends of the row's own first and last input.
    """

    first: str
    second: str
    kind: str
    constraint: str
    shares: Float64[np.ndarray, " point"]
    alignment: float
    weight: float
    aligned_at: str
    aligned: Row
    apart: Row
    blends: Row

    def mixture(self, row: Row) -> Float64[np.ndarray, " point"]:
        """What each frame was to climb: (1 − share) · first + share · second.

        Args:
            row: One of the three.

        Returns:
            One number a frame.
        """
        return (1 - self.shares) * row.first + self.shares * row.second

    def to_frame(self) -> pd.DataFrame:
        """One row a frame of each of the three rows."""
        tables = [
            pd.DataFrame(
                {
                    "row": name,
                    "share": self.shares,
                    "first": row.first,
                    "second": row.second,
                    "mixture": self.mixture(row),
                    "likeness to the next": [*row.likeness, np.nan],
                }
            )
            for name, row in self._rows()
        ]
        return pd.concat(tables, ignore_index=True)

    def figure(self) -> go.Figure:
        """The three rows of inputs below each other, and both units' activations along them."""
        frames, rows = len(self.shares), self._rows()
        whole: list[list[Any]] = [[{"colspan": frames}, *[None] * (frames - 1)]]
        figure = plotly.subplots.make_subplots(
            rows=len(rows) + 1,
            cols=frames,
            specs=[[{}] * frames for _ in rows] + whole,
            row_titles=[*(name for name, _ in rows), "activation"],
            column_titles=[f"{100 * share:.0f} %" for share in self.shares],
        )
        for at, (_, row) in enumerate(rows, start=1):
            for column, one in enumerate(row.inputs, start=1):
                figure.add_trace(self._drawn(one), row=at, col=column)
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        for trace in self._activations():
            figure.add_trace(trace, row=len(rows) + 1, col=1)
        last: dict[str, Any] = {"row": len(rows) + 1, "col": 1}
        figure.update_xaxes(visible=True, title="share of the second unit", **last)
        figure.update_yaxes(visible=True, **last)
        return figure.update_layout(
            template=plots.TEMPLATE, height=740, legend={"orientation": "h", "y": -0.24}
        )

    def summary(self) -> str:
        """What was found, in words, with its controls."""
        middle = len(self.shares) // 2
        text = (
            f"{len(self.shares)} inputs with {self.constraint}, from {self.first} to {self.second}"
            f", optimized together with alignment {self.alignment:g} at {self.aligned_at}. The "
            f"first unit goes from {self.aligned.first[0]:.4g} to {self.aligned.first[-1]:.4g}, "
            f"the second from {self.aligned.second[0]:.4g} to {self.aligned.second[-1]:.4g}. "
            "Neighbours have a mean cosine of "
        )
        text += ", ".join(f"{row.likeness.mean():.2f} ({name})" for name, row in self._rows())
        text += f". At a share of {self.shares[middle]:.2g} the mixture of both reaches "
        return (
            text
            + ", ".join(f"{self.mixture(row)[middle]:.4g} ({name})" for name, row in self._rows())
            + "."
        )

    def _rows(self) -> tuple[tuple[str, Row], ...]:
        return (_ALIGNED, self.aligned), (_APART, self.apart), (_BLENDED, self.blends)

    def _drawn(self, one: np.ndarray) -> go.Image | go.Scatter:
        if self.kind == "image":
            return drawing.picture(one)
        line = np.atleast_2d(one)[0].astype(np.float64)
        return go.Scatter(y=line, mode="lines", line={"color": plots.COLOURS[-1]}, showlegend=False)

    def _activations(self) -> list[go.Scatter]:
        traces: list[go.Scatter] = []
        for (name, row), dash in zip(self._rows(), ("solid", "dash", "dot"), strict=True):
            for unit, values, colour in (
                (self.first, row.first, plots.COLOURS[0]),
                (self.second, row.second, plots.COLOURS[1]),
            ):
                line = {"color": colour, "dash": dash}
                label = plots.escape(f"{unit}, {name}")
                traces.append(
                    go.Scatter(x=self.shares, y=values, mode="lines", line=line, name=label)
                )
        return traces


@dataclasses.dataclass(frozen=True)
class _Task:
    """What a row of inputs is to do."""

    first: objectives.Objective
    second: objectives.Objective
    shares: np.ndarray
    aligned_at: str | None

    @property
    def hooks(self) -> tuple[str, ...]:
        """Hook points to watch, each once."""
        at = () if self.aligned_at is None else (self.aligned_at,)
        return tuple(dict.fromkeys((*self.first.hooks, *self.second.hooks, *at)))

    def mixture(self, held: Mapping[str, torch.Tensor]) -> Float[torch.Tensor, " point"]:
        """What each frame climbs."""
        first, second = self.first.measure(held), self.second.measure(held)
        share = torch.as_tensor(self.shares).to(first)
        return (1 - share) * first + share * second

    def difference(
        self, held: Mapping[str, torch.Tensor], inputs: torch.Tensor
    ) -> Float[torch.Tensor, ""]:
        """Mean squared difference of neighbours, summed over the row."""
        values = inputs if self.aligned_at is None else held[self.aligned_at]
        return (values[1:] - values[:-1]).square().flatten(1).mean(1).sum()


def interpolated_inputs(
    network: HookedRootModule,
    first: objectives.Objective,
    second: objectives.Objective,
    *,
    frames: int = 5,
    alignment: int | float = 0.3,
    aligned_at: str | None = None,
    parametrization: str | None = None,
    steps: int = 512,
    lr: int | float = 0.05,
    transforms: Sequence[transforms.Transform] | None = None,
    constraint: constraints.Constraint | None = None,
    seed: int = 0,
    data: Float[np.ndarray, "example *shape"] | None = None,
    shape: tuple[int, ...] | None = None,
    progress: running.Progress | None = None,
) -> InterpolatedInputs:
    """Optimize a row of inputs from one unit to another, neighbours held together.

    Args:
        network: Any `HookedRootModule`, as for `optimize_input`; it is not changed.
        first: The unit that the row begins with.
        second: The unit that it ends with.
        frames: Inputs in the row, both ends included.
        alignment: How firmly neighbours are held together. 1 weighs their mean squared difference
            such that the row without alignment would lose as much as it gains; 0 is none.
        aligned_at: Hook point of an early layer at which they are compared; None for the input.
        parametrization: "fourier", "pixel", or None for "pixel" on vectors, "fourier" on others.
        steps: Steps of Adam.
        lr: Its learning rate.
        transforms: Random changes before each step, the same for the whole row; None for lucid's
            on images, none on others.
        constraint: `Ball` or `Box`; None as for `optimize_input`.
        seed: Seed of the starts and the transforms.
        data: Examples, from which the shape and the constraint are taken, or None.
        shape: Of one input; None for that of the data or, without data, of `network.cfg`.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The row with its controls; equal seeds give equal bits.

    Raises:
        ValueError: If an argument is out of its range, the hook point, channel or position does
            not exist, or a number is not finite.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    if frames < _FEWEST:
        raise ValueError(f"frames = {frames}; expected at least {_FEWEST}, both ends included")
    if not (np.isfinite(alignment) and alignment >= 0):
        raise ValueError(f"alignment = {alignment}; expected a number of at least 0")
    data = None if data is None else np.asarray(data, dtype=np.float32)
    settings = optimizing.settled(
        network,
        data,
        shape,
        name=parametrization,
        changes=transforms,
        constraint=constraint,
        numbers=(steps, lr, frames, 1, 0.0, seed),
    )
    task = _Task(first, second, np.linspace(0, 1, frames), aligned_at)
    copy = watching.private_copy(network)
    watching.require_hooks(copy, task.hooks)
    for unit in (first, second):
        # Says what is wrong with a unit or the shape before anything is optimized.
        watching.measured(copy, unit, np.zeros((1, *settings.coordinates.shape), np.float32))
    apart = _row(copy, task, settings, 0.0, lambda done, note: report(0.5 * done, note))
    weight = float(alignment) * _scale(copy, task, apart)
    aligned = _row(copy, task, settings, weight, lambda done, note: report(0.5 + done / 2, note))
    blends = _measured(copy, task, _blended(aligned.inputs, task.shares))
    report(1.0, "done")
    return InterpolatedInputs(
        provenance=watching.provenance(
            network,
            analysis=ANALYSIS,
            parameters=_parameters(task, settings, alignment, data),
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        first=first.label,
        second=second.label,
        kind=_kind(settings),
        constraint=str(settings.constraint),
        shares=task.shares,
        alignment=float(alignment),
        weight=weight,
        aligned_at=aligned_at or "input",
        aligned=aligned,
        apart=apart,
        blends=blends,
    )


def _row(
    network: HookedRootModule,
    task: _Task,
    settings: optimizing.Settings,
    weight: float,
    report: running.Progress,
) -> Row:
    """The best row of one optimization."""
    best = _Best(network, task, weight)
    score = functools.partial(_score, task, weight)
    optimizing.climb(network, task.hooks, settings, score, look=best.look, report=report)
    return _measured(network, task, best.inputs)


def _score(
    task: _Task, weight: float, held: Mapping[str, torch.Tensor], inputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each frame climbs, and the loss of the row."""
    values = task.mixture(held)
    loss = -values.sum()
    if weight:
        loss = loss + weight * task.difference(held, inputs)
    return values, loss


class _Best:
    """The best that the row has been as a whole, measured without transforms."""

    def __init__(self, network: HookedRootModule, task: _Task, weight: float) -> None:
        self._network, self._task, self._weight = network, task, weight
        self._loss = np.inf
        self.inputs = np.zeros(0, np.float32)

    def look(self, inputs: Float32[np.ndarray, "point *shape"]) -> None:
        mixture, difference = _seen(self._network, self._task, inputs)
        loss = self._weight * difference - mixture.sum()
        # The first row is kept in any case: what is not finite ends the search elsewhere.
        if loss < self._loss or not self.inputs.size:
            self.inputs, self._loss = inputs, loss


def _seen(network: HookedRootModule, task: _Task, inputs: np.ndarray) -> tuple[np.ndarray, float]:
    """Mixture of every frame, and difference of neighbours, without transforms and gradients."""
    device, dtype = watching.place_of(network)
    row = torch.tensor(inputs).to(device, dtype)
    with torch.no_grad(), watching.watching(network, task.hooks) as held:
        network(row)
        mixture = task.mixture(held).double().cpu().numpy()
        return mixture, float(task.difference(held, row))


def _scale(network: HookedRootModule, task: _Task, row: Row) -> float:
    """What the row gains for a unit of its neighbours' difference; 0 if there is none."""
    mixture, difference = _seen(network, task, row.inputs)
    return float(abs(mixture.sum()) / difference) if difference > 0 else 0.0


def _measured(network: HookedRootModule, task: _Task, inputs: np.ndarray) -> Row:
    first, second = (watching.measured(network, one, inputs) for one in (task.first, task.second))
    return Row(inputs, first, second)


def _blended(inputs: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Straight blends of the first and the last input."""
    at = shares.reshape(-1, *[1] * (inputs.ndim - 1))
    return ((1 - at) * inputs[0] + at * inputs[-1]).astype(np.float32)


def _kind(settings: optimizing.Settings) -> str:
    return parametrization.kind_of(settings.coordinates.shape)


def _parameters(
    task: _Task,
    settings: optimizing.Settings,
    alignment: int | float,
    data: np.ndarray | None,
) -> dict[str, Any]:
    return {
        "first": repr(task.first),
        "second": repr(task.second),
        "frames": settings.restarts,
        "alignment": float(alignment),
        "aligned_at": task.aligned_at,
        "parametrization": settings.coordinates.name,
        "shape": list(settings.coordinates.shape),
        "constraint": repr(settings.constraint),
        "transforms": [repr(one) for one in settings.transforms],
        "steps": settings.steps,
        "lr": settings.lr,
        "n_examples": 0 if data is None else len(data),
    }
