"""Which continuous input makes a unit most active?

1. Inputs live in coordinates (`parametrization`: pixels or waves, decorrelated colours) and obey a
   constraint (`constraints`: a ball or a box), since a linear unit has no maximum without one.
2. Several start at random and climb the objective together by Adam, in the units of lucid: learning
   rate .05, 512 steps, a random transform of the input before every step (images only, unless asked
   for), gradients redirected while an example gets none (`redirected`). With diversity the restarts
   are also pushed apart.
3. Every few steps, and at the end, the inputs are measured without transforms; each restart
   keeps the best that it has been.
4. The optimum is compared with the best example of the data, if there is any, and with what the
   same optimization finds in a network of the same architecture whose weights are shuffled within
   every tensor. The restarts are compared with each other.

Source: Olah, Mordvintsev and Schubert 2017, "Feature Visualization", doi 10.23915/distill.00007,
and their library lucid; Adebayo et al. 2018, arXiv 1810.03292 (random weights as a control).

Units and sign: activations in the unit of the hook point. With direction −1 the objective is
climbed downward; activations are always shown as the network has them.

Limits: a local maximum per restart; agreement between restarts says how many different ones there
are, not that a better one does not exist. The network is read through ReLU-like gradients: a
discrete step in it is invisible.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Float32, Float64

from analyses.feature_visualization.inputs import (
    constraints,
    drawing,
    objectives,
    parametrization,
    redirected,
    transforms,
    watching,
)
from workbench.core import results
from workbench.core.engine import running

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule

ANALYSIS = "feature_visualization.optimize_input"
# Sees the best input of each restart so far, and its activation.
Watch = Callable[[Float32[np.ndarray, "restart *shape"], Float64[np.ndarray, " restart"]], None]
# How often, over a run, inputs are measured without transforms.
_LOOKS = 16
_MOST_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class OptimizedInput(results.Result):
    """Inputs that a unit responds to most (or least), one a restart.

    Attributes:
        unit: What was optimized.
        kind: "image", "sequence" or "vector".
        constraint: What inputs were allowed, in words.
        direction: 1 for the most active input, −1 for the least active one.
        inputs: The optimum of each restart.
        activations: Activation at each, without transforms.
        trace: Objective at every step, transforms included, larger is better.
        best_example: Index in the data of the example that does best; None without data.
        best_example_input: That example.
        best_example_activation: Its activation.
        quantile: Share of the data that the best optimum beats.
        n_examples: Examples in the data; 0 without data.
        agreement: Mean cosine between the optima of two restarts, over all pairs, each optimum
            centred on its own mean; None for one restart.
        control_activations: Activation at the optima of the network with shuffled weights.
        control_best_example: Activation of that network's best example.
        control_agreement: Agreement of its optima.
    """

    unit: str
    kind: str
    constraint: str
    direction: int
    inputs: Float32[np.ndarray, "restart *shape"]
    activations: Float64[np.ndarray, " restart"]
    trace: Float64[np.ndarray, "step restart"]
    best_example: int | None
    best_example_input: Float32[np.ndarray, "*shape"] | None
    best_example_activation: float | None
    quantile: float | None
    n_examples: int
    agreement: float | None
    control_activations: Float64[np.ndarray, " restart"] | None
    control_best_example: float | None
    control_agreement: float | None

    @property
    def best(self) -> int:
        """The restart that did best."""
        return int((self.direction * self.activations).argmax())

    @property
    def beats_the_data(self) -> bool | None:
        """Whether the best optimum does better than every example; None without data."""
        if self.best_example_activation is None:
            return None
        found = self.direction * self.activations[self.best]
        return bool(found > self.direction * self.best_example_activation)

    def to_frame(self) -> pd.DataFrame:
        """One row an input: the optima, the best example, the control's optima."""
        rows: list[dict[str, Any]] = [
            {"source": "optimum", "index": i, "activation": value}
            for i, value in enumerate(self.activations.tolist())
        ]
        if self.best_example is not None:
            value = self.best_example_activation
            rows.append({"source": "best example", "index": self.best_example, "activation": value})
        if self.control_activations is not None:
            rows += [
                {"source": "shuffled weights", "index": i, "activation": value}
                for i, value in enumerate(self.control_activations.tolist())
            ]
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """The optima, best first, and the best example: images in a row, others as lines."""
        order = (-self.direction * self.activations).argsort()[:_MOST_SHOWN]
        shown = [(f"restart {i}: {self.activations[i]:.3g}", self.inputs[i]) for i in order]
        if self.best_example_input is not None and self.best_example_activation is not None:
            title = f"example {self.best_example}: {self.best_example_activation:.3g}"
            shown.append((title, self.best_example_input))
        return drawing.pictured(shown) if self.kind == "image" else drawing.lines(shown)

    def summary(self) -> str:
        """What was found, in words, with its comparisons."""
        most = "most" if self.direction == 1 else "least"
        found = self.activations[self.best]
        text = (
            f"The input with {self.constraint} for which {self.unit} is {most} active: "
            f"{found:.4g}, the best of {len(self.activations)} restarts"
        )
        text += (
            "" if self.agreement is None else f" (mean cosine between them {self.agreement:.2f})"
        )
        if self.best_example_activation is not None and self.quantile is not None:
            verb = "more" if self.beats_the_data else "no more"
            text += (
                f". That is {verb} extreme than the best of {self.n_examples:,} examples (number "
                f"{self.best_example}, {self.best_example_activation:.4g}); it beats "
                f"{100 * self.quantile:.4g} % of them"
            )
        if self.control_activations is not None:
            control = self.direction * (self.direction * self.control_activations).max()
            text += f". With shuffled weights the same optimization reaches {control:.4g}"
            if self.control_best_example is not None:
                text += f", and the best example {self.control_best_example:.4g}"
        return text + "."


@dataclasses.dataclass(frozen=True)
class Settings:
    """How one optimization runs.

    Attributes:
        coordinates: In which inputs are optimized.
        constraint: What inputs are allowed.
        transforms: Random changes before each step.
        steps: Steps of Adam.
        lr: Its learning rate.
        restarts: Inputs that are optimized side by side.
        direction: 1 to climb, −1 to descend.
        diversity: Weight of the restarts' similarity.
        seed: Seed of the starts and the transforms.
    """

    coordinates: parametrization.Parametrization
    constraint: constraints.Constraint
    transforms: tuple[transforms.Transform, ...]
    steps: int
    lr: int | float
    restarts: int
    direction: int
    diversity: int | float
    seed: int


def optimize_input(  # noqa: PLR0913 -- one call for all kinds of inputs; all but two have defaults
    network: HookedRootModule,
    unit: objectives.Objective,
    *,
    parametrization: str | None = None,
    steps: int = 512,
    lr: int | float = 0.05,
    restarts: int = 4,
    transforms: Sequence[transforms.Transform] | None = None,
    constraint: constraints.Constraint | None = None,
    direction: int = 1,
    diversity: int | float = 0.0,
    control: bool = False,
    seed: int = 0,
    data: Float[np.ndarray, "example *shape"] | None = None,
    shape: tuple[int, ...] | None = None,
    watch: Watch | None = None,
    progress: running.Progress | None = None,
) -> OptimizedInput:
    """Find the continuous inputs for which a unit is most (or least) active.

    Args:
        network: Any `HookedRootModule` that reads vectors, sequences (channel, place) or images
            (channel, row, column); it is not changed.
        unit: A `Target`, `LogOdds`, `Direction` or `Layer`, or a sum of them.
        parametrization: "fourier", "pixel", or None for "pixel" on vectors, "fourier" on others.
        steps: Steps of Adam.
        lr: Its learning rate.
        restarts: Inputs that are optimized side by side, from different starts.
        transforms: Random changes before each step; None for lucid's on images, none on others.
        constraint: `Ball` or `Box`; None for the one that `constraints.default` takes from the
            data: a box for images, a ball for others.
        direction: 1 for the most active input, −1 for the least active one.
        diversity: Weight of the mean similarity of the restarts at the unit's hook point, which is
            taken off the mean objective (in units of activation).
        control: Also run the same optimization on the network with shuffled weights.
        seed: Seed of the starts, the transforms and the shuffling.
        data: Examples to compare with, or None.
        shape: Of one input; None for that of the data or, without data, of `network.cfg`.
        watch: Called every few steps with the best input of each restart so far and its
            activation, for whoever wants to see them grow.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The optima with their activations and comparisons; equal seeds give equal bits.

    Raises:
        ValueError: If an argument is out of its range, the hook point, channel or position does
            not exist, or a number is not finite.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    data = None if data is None else np.asarray(data, dtype=np.float32)
    settings = settled(
        network,
        data,
        shape,
        name=parametrization,
        changes=transforms,
        constraint=constraint,
        numbers=(steps, lr, restarts, direction, diversity, seed),
    )
    copy = watching.private_copy(network)
    watching.require_hooks(copy, unit.hooks)
    # Says what is wrong with the unit or the shape before anything is optimized.
    watching.measured(copy, unit, np.zeros((1, *settings.coordinates.shape), np.float32))
    share = 0.5 if control else 1.0
    inputs, activations, trace = _climb(
        copy, unit, settings, lambda done, note: report(share * done, note), watch
    )
    best, quantile, of_data = _compared(copy, unit, data, activations, direction)
    controls = _Controls(None, None, None)
    if control:
        controls = _controlled(
            copy, unit, settings, data, lambda done, note: report(0.5 + 0.5 * done, note)
        )
    report(1.0, "done")
    return OptimizedInput(
        provenance=watching.provenance(
            network,
            analysis=ANALYSIS,
            parameters=_parameters(unit, settings, control, data),
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        unit=unit.label,
        kind=_kind(settings),
        constraint=str(settings.constraint),
        direction=direction,
        inputs=inputs,
        activations=activations,
        trace=trace,
        best_example=best,
        best_example_input=None if data is None or best is None else data[best].copy(),
        best_example_activation=None if best is None else float(of_data[best]),
        quantile=quantile,
        n_examples=len(of_data),
        agreement=_agreement(inputs),
        control_activations=controls.activations,
        control_best_example=controls.best_example,
        control_agreement=controls.agreement,
    )


def settled(
    network: HookedRootModule,
    data: Float[np.ndarray, "example *shape"] | None,
    shape: tuple[int, ...] | None,
    *,
    name: str | None,
    changes: Sequence[transforms.Transform] | None,
    constraint: constraints.Constraint | None,
    numbers: tuple[int, int | float, int, int, int | float, int],
) -> Settings:
    """Check every argument, and fill in what was left open.

    Args:
        network: That is to be looked into.
        data: Examples, or None.
        shape: Of one input, or None for that of the data or of the network's configuration.
        name: Of the parametrization, or None.
        changes: Transforms, or None for those of the kind of input.
        constraint: Or None for that of the kind of input and the data.
        numbers: Steps, learning rate, restarts, direction, diversity, seed.

    Returns:
        How the optimization runs.

    Raises:
        ValueError: If an argument is out of its range, or the shape is not known.
    """
    steps, lr, restarts, direction, diversity, seed = numbers
    _require_numbers(steps, lr, restarts, direction, diversity)
    shape = _shape(network, data, shape)
    coordinates = parametrization.choose(name, shape)
    kind = parametrization.kind_of(shape)
    chosen = transforms.standard(kind, shape) if changes is None else tuple(changes)
    transforms.require(chosen, kind)
    allowed = constraint or constraints.default(kind, shape, data)
    return Settings(
        coordinates, allowed, chosen, steps, float(lr), restarts, direction, float(diversity), seed
    )


def _require_numbers(
    steps: int, lr: int | float, restarts: int, direction: int, diversity: int | float
) -> None:
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps = {steps}, restarts = {restarts}; expected at least 1 of each")
    if not (np.isfinite(lr) and lr > 0):
        raise ValueError(f"lr = {lr}; expected a positive number")
    if direction not in {1, -1}:
        raise ValueError(f"direction = {direction}; expected 1 (most active) or -1 (least active)")
    if not (np.isfinite(diversity) and diversity >= 0):
        raise ValueError(f"diversity = {diversity}; expected a number of at least 0")
    if diversity and restarts == 1:
        raise ValueError("diversity sets restarts apart from each other: give at least 2 restarts")


def _shape(
    network: HookedRootModule, data: np.ndarray | None, shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Shape of one input, from whoever knows it."""
    if data is not None:
        if not len(data) or not np.isfinite(data).all():
            raise ValueError(
                f"data of shape {data.shape} must hold at least one example, and finite numbers"
            )
        if shape is not None and tuple(shape) != data.shape[1:]:
            raise ValueError(f"shape = {shape}, but the examples have shape {data.shape[1:]}")
        return tuple(data.shape[1:])
    known = shape or getattr(getattr(network, "cfg", None), "input_shape", None)
    if known is None:
        raise ValueError("the shape of an input is not known: give data or shape")
    return tuple(known)


def _kind(settings: Settings) -> str:
    return parametrization.kind_of(settings.coordinates.shape)


# What each input climbs and the loss of all of them, from activations and the inputs themselves.
Score = Callable[[Mapping[str, torch.Tensor], torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def climb(
    network: HookedRootModule,
    hooks: Sequence[str],
    settings: Settings,
    score: Score,
    *,
    look: Callable[[Float32[np.ndarray, "restart *shape"]], None],
    report: running.Progress,
) -> Float64[np.ndarray, "step restart"]:
    """Move inputs by Adam along the gradient of a loss.

    Args:
        network: A private copy.
        hooks: Hook points whose activations the score needs.
        settings: How.
        score: What each input climbs, larger is better, and the loss of all of them together.
        look: Called every few steps and at the end with the inputs as they are, for the caller to
            measure and keep what is best.
        report: Called with the fraction done and a note.

    Returns:
        What each input climbed at each step, transforms included.

    Raises:
        ValueError: If a number stops being finite.
    """
    device, dtype = watching.place_of(network)
    generator = torch.Generator().manual_seed(settings.seed)
    coordinates = settings.coordinates.start(settings.restarts, generator).to(device, dtype)
    coordinates.requires_grad_(True)
    optimizer = torch.optim.Adam([coordinates], lr=settings.lr)
    every = max(1, settings.steps // _LOOKS)
    trace = np.empty((settings.steps, settings.restarts))
    with watching.watching(network, hooks) as held:
        for step in range(settings.steps):
            if step % every == 0:
                report(step / settings.steps, f"step {step} of {settings.steps}")
                look(_inputs(coordinates, settings))
            inputs = _changed(coordinates, settings, generator)
            with redirected.Redirected():
                network(inputs)
            values, loss = score(held, inputs)
            # Inputs are told apart by the sum: each one's gradient is its own.
            (coordinates.grad,) = torch.autograd.grad(loss, [coordinates])
            optimizer.step()
            trace[step] = values.detach().double().cpu().numpy()
    look(_inputs(coordinates, settings))
    if not np.isfinite(trace).all():
        raise ValueError("the objective stopped being a finite number: choose a smaller lr")
    return trace


def _climb(
    network: HookedRootModule,
    unit: objectives.Objective,
    settings: Settings,
    report: running.Progress,
    watch: Watch | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, their activations and the objective's trace, of one optimization."""
    best = _Best(network, unit, settings)

    def look(inputs: np.ndarray) -> None:
        best.look(inputs)
        if watch is not None:
            watch(best.inputs.copy(), best.activations.copy())

    score = functools.partial(_score, unit, settings)
    trace = climb(network, unit.hooks, settings, score, look=look, report=report)
    return best.inputs, best.activations, trace


def _score(
    unit: objectives.Objective,
    settings: Settings,
    held: Mapping[str, torch.Tensor],
    inputs: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each restart climbs, and the loss of all of them."""
    values = settings.direction * unit.measure(held)
    loss = -values.sum()
    if settings.diversity:
        alike = objectives.similarity(held[unit.hooks[0]])
        loss = loss + settings.diversity * settings.restarts * alike
    return values, loss


def _inputs(coordinates: torch.Tensor, settings: Settings) -> Float32[np.ndarray, "restart *shape"]:
    """Inputs that coordinates stand for, as they are."""
    with torch.no_grad():
        free = settings.coordinates.free(coordinates)
        return settings.constraint.enforce(free).float().cpu().numpy()


def _changed(
    coordinates: torch.Tensor, settings: Settings, generator: torch.Generator
) -> torch.Tensor:
    """Inputs that coordinates stand for, after a draw of the transforms."""
    inputs = settings.constraint.enforce(settings.coordinates.free(coordinates))
    if not settings.transforms:
        return inputs
    box = settings.constraint
    grey = (box.low + box.high) / 2 if isinstance(box, constraints.Box) else 0.0
    return transforms.apply(settings.transforms, inputs, generator, grey=grey)


class _Best:
    """The best inputs that each restart has been, measured without transforms."""

    def __init__(
        self, network: HookedRootModule, unit: objectives.Objective, settings: Settings
    ) -> None:
        self._network, self._unit, self._settings = network, unit, settings
        self.inputs = np.zeros((settings.restarts, *settings.coordinates.shape), np.float32)
        self.activations = np.full(settings.restarts, -settings.direction * np.inf)

    def look(self, inputs: Float32[np.ndarray, "restart *shape"]) -> None:
        found = watching.measured(self._network, self._unit, inputs)
        better = self._settings.direction * (found - self.activations) > 0
        self.inputs[better], self.activations[better] = inputs[better], found[better]


def _compared(
    network: HookedRootModule,
    unit: objectives.Objective,
    data: np.ndarray | None,
    activations: np.ndarray,
    direction: int,
) -> tuple[int | None, float | None, np.ndarray]:
    """Best example, share of the examples that the best optimum beats, and all activations."""
    if data is None:
        return None, None, np.zeros(0)
    of_data = watching.measured(network, unit, data)
    best = int((direction * of_data).argmax())
    beaten = direction * of_data < (direction * activations).max()
    return best, float(beaten.mean()), of_data


@dataclasses.dataclass(frozen=True)
class _Controls:
    activations: np.ndarray | None
    best_example: float | None
    agreement: float | None


def _controlled(
    network: HookedRootModule,
    unit: objectives.Objective,
    settings: Settings,
    data: np.ndarray | None,
    report: running.Progress,
) -> _Controls:
    """The same optimization with the weights of every tensor shuffled among themselves."""
    shuffled = watching.private_copy(network)
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.no_grad():
        for weight in shuffled.parameters():
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.flatten()[order].reshape(weight.shape))
    inputs, activations, _ = _climb(shuffled, unit, settings, report)
    best, _, of_data = _compared(shuffled, unit, data, activations, settings.direction)
    example = None if best is None else float(of_data[best])
    return _Controls(activations, example, _agreement(inputs))


def _agreement(inputs: np.ndarray) -> float | None:
    """Mean cosine over all pairs of inputs, each centred on its own mean."""
    n = len(inputs)
    if n == 1:
        return None
    flat = inputs.reshape(n, -1).astype(np.float64)
    flat = flat - flat.mean(1, keepdims=True)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-12)
    return float(((unit @ unit.T).sum() - (unit**2).sum()) / (n * (n - 1)))


def _parameters(
    unit: objectives.Objective, settings: Settings, control: bool, data: np.ndarray | None
) -> dict[str, Any]:
    return {
        "unit": repr(unit),
        "parametrization": settings.coordinates.name,
        "shape": list(settings.coordinates.shape),
        "constraint": repr(settings.constraint),
        "transforms": [repr(one) for one in settings.transforms],
        "steps": settings.steps,
        "lr": settings.lr,
        "restarts": settings.restarts,
        "direction": settings.direction,
        "diversity": settings.diversity,
        "control": control,
        "n_examples": 0 if data is None else len(data),
    }
