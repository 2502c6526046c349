"""How far outside of the data do optimized inputs of a network lie?

1. Half of the data makes two distributions: that of the inputs, and that of the unit's layer.
2. The optima, the most extreme examples, the held-out half, and the same with its entries shuffled:
   Mahalanobis distance and distance to the nearest example of the first half, in both.

Source: Mahalanobis 1936; Lee et al. 2018, arXiv 1807.03888 (distance of hidden activations as a
measure of what is outside).

Units: activations as the network has them; Mahalanobis distance in standard deviations; a quantile
is the share of held-out examples that is at most as large.

Limits: those of the package.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.subplots
import torch
from jaxtyping import Float

from analyses.feature_visualization.inputs import objectives, watching
from analyses.feature_visualization.inputs.optimizing import OptimizedInput
from analyses.feature_visualization.outside import cloud
from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.networks import sources

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule

INPUT_ANALYSIS = "feature_visualization.compare_input_with_data"
# Inputs that the distribution is made of, and as many held out.
_MOST_INPUTS = 2048
# Inputs that go through the network at once.
_TOGETHER = 256


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Inputs of one kind, and how each lies to the data.

    Attributes:
        activation: Of the unit.
        distance: Mahalanobis distance of the input.
        nearest: Its Euclidean distance to the nearest example.
        layer_distance: Mahalanobis distance of the unit's layer.
        layer_nearest: Euclidean distance of the layer to that of the nearest example.
    """

    activation: Float[np.ndarray, " point"]
    distance: Float[np.ndarray, " point"]
    nearest: Float[np.ndarray, " point"]
    layer_distance: Float[np.ndarray, " point"]
    layer_nearest: Float[np.ndarray, " point"]


@dataclasses.dataclass(frozen=True)
class InputAgainstData(results.Result):
    """How far outside of the data optimized inputs lie.

    Attributes:
        unit: What was optimized.
        layer: Hook point of the unit's layer: all its channels at the unit's place, or their mean
            over all places.
        direction: 1 for the most active input, −1 for the least active one.
        n_examples: Examples in the data.
        n_fitted: Examples that the distribution is made of.
        shrinkage: Of the covariance of the inputs.
        layer_shrinkage: Of that of the layer.
        optima: The optimum of each restart.
        examples: The most extreme examples of the data.
        held_out: Other examples, of which none made the distribution.
        shuffled: The held-out examples with their entries shuffled.
        best: Which restart did best.
    """

    unit: str
    layer: str
    direction: int
    n_examples: int
    n_fitted: int
    shrinkage: float
    layer_shrinkage: float
    optima: Inputs
    examples: Inputs
    held_out: Inputs
    shuffled: Inputs
    best: int

    @property
    def times(self) -> float:
        """The best optimum's activation over the best example's; NaN if that has another sign."""
        optimum, example = float(self.optima.activation[self.best]), self._best_example
        return optimum / example if optimum * example > 0 else float("nan")

    @property
    def _best_example(self) -> float:
        return float(self.direction * (self.direction * self.examples.activation).max())

    def quantiles(self, kind: str, measure: str) -> Float[np.ndarray, " point"]:
        """Share of the held-out examples that are at most as large.

        Args:
            kind: "optima", "examples", "held_out" or "shuffled".
            measure: "activation", "distance", "nearest", "layer_distance" or "layer_nearest".

        Returns:
            One an input.

        Raises:
            ValueError: If there is no such kind or measure.
        """
        cloud.require_known(kind, measure, _KINDS, _MEASURES)
        found, held = getattr(self, kind), self.held_out
        return cloud.share_below(getattr(found, measure), getattr(held, measure))

    def p_value(self, measure: str) -> float:
        """Of a value as large as the best optimum's, were it a held-out example.

        Args:
            measure: As for `quantiles`.

        Returns:
            The p-value; at least one over one more than the held-out examples.
        """
        value = float(getattr(self.optima, measure)[self.best])
        return evidence.p_value(value, getattr(self.held_out, measure))

    def to_frame(self) -> pd.DataFrame:
        """One row an input: its kind, and where it lies in each regard."""
        frames: list[pd.DataFrame] = []
        for kind, name in _KINDS.items():
            columns: dict[str, Any] = {"kind": name}
            for measure in _MEASURES:
                columns[measure.replace("_", " ")] = getattr(getattr(self, kind), measure)
                if measure != "activation":
                    columns[f"{measure.replace('_', ' ')} quantile"] = self.quantiles(kind, measure)
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def figure(self) -> go.Figure:
        """Activation against distance from the data: of the inputs, and of the layer."""
        titles = ["the input", f"the layer ({plots.escape(self.layer)})"]
        figure = plotly.subplots.make_subplots(
            rows=1, cols=2, subplot_titles=titles, shared_yaxes=True
        )
        shown: list[Inputs] = [getattr(self, kind) for kind in _DRAWN]
        measures = ("distance", "layer_distance")
        trace = plots.scatter(len(measures) * sum(len(inputs.activation) for inputs in shown))
        for column, measure in enumerate(measures, start=1):
            for kind, inputs, marker in zip(_DRAWN, shown, cloud.MARKERS, strict=True):
                figure.add_trace(
                    trace(
                        x=getattr(inputs, measure),
                        y=inputs.activation,
                        mode="markers",
                        name=_KINDS[kind],
                        showlegend=column == 1,
                        marker=marker,
                        hovertemplate="%{y:.4g} at a distance of %{x:.3g}<extra></extra>",
                    ),
                    row=1,
                    col=column,
                )
        figure.update_layout(
            template=plots.TEMPLATE, showlegend=True, legend={"orientation": "h", "y": -0.32}
        )
        figure.update_xaxes(title="Mahalanobis distance from the data")
        figure.update_yaxes(title=f"activation of {plots.escape(self.unit)}", col=1)
        return figure

    def summary(self) -> str:
        """Where the best optimum lies, between held-out, top and shuffled examples."""
        optimum = self.optima.activation[self.best]
        times = "" if np.isnan(self.times) else f", {self.times:.2f} times it"
        most = "most" if self.direction == 1 else "least"
        text = (
            f"The optimum of {self.unit} of {self.provenance.model} has an activation of "
            f"{optimum:.4g}; the {most} active of {self.n_examples:,} examples has "
            f"{self._best_example:.4g}{times}."
        )
        for where, start in (("input", ""), (f"layer ({self.layer})", "layer_")):
            values = getattr(self.optima, f"{start}distance")[self.best]
            near = getattr(self.optima, f"{start}nearest")[self.best]
            medians = {
                kind: np.median(self.quantiles(kind, f"{start}distance"))
                for kind in ("examples", "shuffled")
            }
            text += (
                f" The {where} lies {values:.3g} standard deviations from the data, no nearer than "
                f"{self.quantiles('optima', f'{start}distance')[self.best]:.1%} of "
                f"{len(self.held_out.activation):,} held-out examples (p = "
                f"{self.p_value(f'{start}distance'):.2g}); the {len(self.examples.activation)} "
                f"{most} active examples lie at quantile {medians['examples']:.2f} in the median, "
                f"examples with shuffled entries at {medians['shuffled']:.2f}. The nearest example "
                f"is {near:.3g} away, no nearer than for "
                f"{self.quantiles('optima', f'{start}nearest')[self.best]:.1%} of those held out."
            )
        return text


_KINDS = {
    "optima": "optimized",
    "examples": "top example",
    "held_out": "held-out example",
    "shuffled": "shuffled entries",
}
_MEASURES = ("activation", "distance", "nearest", "layer_distance", "layer_nearest")
# From the back to the front.
_DRAWN = ("held_out", "shuffled", "examples", "optima")


def compare_input_with_data(
    network: HookedRootModule,
    unit: objectives.Objective,
    optimized: OptimizedInput,
    data: Float[np.ndarray, "example *shape"],
    *,
    examples: int = 20,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> InputAgainstData:
    """Say how far outside of the data optimized inputs lie, as inputs and at the unit's layer.

    Args:
        network: The network that they were optimized on.
        unit: The objective that they were optimized for; of several hook points the first is its
            layer.
        optimized: What `optimize_input` gave.
        data: Examples, of the same shape.
        examples: How many of the most extreme examples are compared.
        seed: Of the split of the data, and of the shuffling.
        progress: Told how far it is; may raise to stop.

    Returns:
        The comparison.

    Raises:
        ValueError: If the inputs are of another network, unit or shape, the data are few or all the
            same, or a number is not finite.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    data = np.asarray(data, dtype=np.float32)
    _require_inputs(network, unit, optimized, data, examples)
    copy = watching.private_copy(network)
    watching.require_hooks(copy, unit.hooks)
    rng = np.random.default_rng(seed)
    report(0.0, "measuring the data")
    activations = watching.measured(copy, unit, data)
    sign = optimized.direction
    top = np.argsort(-sign * activations, kind="stable")[:examples]
    order = rng.permutation(len(data))
    half = len(data) // 2
    fitted = np.setdiff1d(order[:half][:_MOST_INPUTS], top)
    held = np.sort(order[half:][:_MOST_INPUTS])
    report(0.3, "how the data are distributed")
    layer = _Layer(copy, unit)
    clouds = [cloud.Cloud.of(of) for of in (_flat(data[fitted]), layer.of(data[fitted]))]
    shuffled = rng.permuted(_flat(data[held]), axis=1).reshape(data[held].shape)
    groups: list[Inputs] = []
    for done, inputs in enumerate((optimized.inputs, data[top], data[held], shuffled)):
        report(0.5 + 0.125 * done, "measuring inputs")
        groups.append(_measured(layer, clouds, inputs))
    return InputAgainstData(
        provenance=watching.provenance(
            network,
            analysis=INPUT_ANALYSIS,
            parameters={
                "unit": repr(unit),
                "optimized": results.mark(optimized.inputs),
                "data": results.mark(data),
                "examples": examples,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        unit=unit.label,
        layer=unit.hooks[0],
        direction=sign,
        n_examples=len(data),
        n_fitted=len(fitted),
        shrinkage=clouds[0].shrinkage,
        layer_shrinkage=clouds[1].shrinkage,
        optima=groups[0],
        examples=groups[1],
        held_out=groups[2],
        shuffled=groups[3],
        best=optimized.best,
    )


def _require_inputs(
    network: HookedRootModule,
    unit: objectives.Objective,
    optimized: OptimizedInput,
    data: np.ndarray,
    examples: int,
) -> None:
    if optimized.unit != unit.label:
        raise ValueError(f"these inputs were optimized for {optimized.unit}, not for {unit.label}")
    if optimized.provenance.fingerprint != sources.network_fingerprint(network):
        raise ValueError(
            f"these inputs were optimized on {optimized.provenance.model}, whose weights are not "
            "those of this network: optimize them anew"
        )
    if data.shape[1:] != optimized.inputs.shape[1:]:
        raise ValueError(
            f"the examples have shape {data.shape[1:]}, the optimized inputs "
            f"{optimized.inputs.shape[1:]}: give the data that the network reads"
        )
    least = 2 * (cloud.FEWEST + examples)
    if examples < 1 or len(data) < least:
        raise ValueError(
            f"{len(data)} examples, {examples} of them on top: expected at least 1 on top, and "
            f"{least} in all"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Layer:
    """The channels of a unit's layer: at its place, or the mean over all places."""

    network: HookedRootModule
    unit: objectives.Objective

    def of(self, inputs: np.ndarray) -> Float[np.ndarray, "example width"]:
        device, dtype = watching.place_of(self.network)
        hook, position = self.unit.hooks[0], getattr(self.unit, "position", None)
        found: list[torch.Tensor] = []
        with torch.no_grad(), watching.watching(self.network, [hook]) as held:
            for start in range(0, len(inputs), _TOGETHER):
                self.network(torch.tensor(inputs[start : start + _TOGETHER]).to(device, dtype))
                values = held[hook]
                if position is None:
                    values = values.reshape(*values.shape[:2], -1).mean(2)
                else:
                    place = (position,) if isinstance(position, int) else position
                    values = values[(slice(None), slice(None), *place)]
                found.append(values.double().cpu())
        return torch.cat(found).numpy()


def _measured(layer: _Layer, clouds: Sequence[cloud.Cloud], inputs: np.ndarray) -> Inputs:
    of_inputs, of_layer = clouds
    flat, vectors = _flat(inputs), layer.of(inputs)
    return Inputs(
        activation=watching.measured(layer.network, layer.unit, inputs),
        distance=of_inputs.distance(flat),
        nearest=of_inputs.nearest(flat),
        layer_distance=of_layer.distance(vectors),
        layer_nearest=of_layer.nearest(vectors),
    )


def _flat(inputs: np.ndarray) -> Float[np.ndarray, "example width"]:
    return inputs.reshape(len(inputs), -1)
