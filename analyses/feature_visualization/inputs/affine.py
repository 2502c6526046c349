"""In which region around an input is a unit of a ReLU network exactly linear?

1. Run the network at the input and note which neurons are on. Holding that pattern makes the
   network one affine map; gradient and offset of the unit under it are exact.
2. Under the same map the input of every ReLU is affine, too, with a gradient of its own. The
   region in which the pattern holds is a polytope: the intersection of one half-space a neuron.
   The distance to its nearest face is the smallest |input of a ReLU| / |its gradient|, exactly.
3. Along the unit's gradient, upward and downward, and along random directions, the first face that
   is met is found in the same way.
4. The affine map is compared with the network itself at random points within the region, out to
   nine tenths of the nearest boundary and along each random direction.

Source: Hanin and Rolnick 2019, arXiv 1901.09021 (linear regions and distances to their boundaries);
Croce, Andriushchenko and Hein 2019, arXiv 1810.07481 (exact distances by half-spaces).

Units and sign: distances are Euclidean, in the unit of the input; `inf` where no boundary is met.

Limits: the region is that of all ReLUs on the way to the hook point; a neuron that the unit does
not depend on ends it as well, so the unit may go on being linear beyond. Computed in float64. Only
networks out of linear layers, average pooling and ReLUs; max pooling is refused.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Float64
from torch.utils._python_dispatch import TorchDispatchMode

from analyses.feature_visualization.inputs import objectives, watching
from workbench.core import plots, results
from workbench.core.networks import sources

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule

ANALYSIS = "feature_visualization.linear_region"
_RELUS = {"relu", "relu_"}
# What may run besides: affine in the input, as long as one factor of a product is a weight; that
# is what the comparison with the network itself is for.
_AFFINE = frozenset(
    "addmm mm bmm addbmm baddbmm matmul linear convolution _convolution mkldnn_convolution "
    "avg_pool1d avg_pool2d _adaptive_avg_pool2d mean sum add add_ sub sub_ rsub mul mul_ div "
    "div_ neg t transpose permute view _unsafe_view reshape alias expand unsqueeze squeeze "
    "slice select cat stack clone copy_ detach constant_pad_nd pad unbind split "
    "split_with_sizes empty empty_like zeros zeros_like as_strided contiguous _to_copy view_as "
    "flatten index lift_fresh unfold mv dot _reshape_alias".split()
)
_BATCH = 256
# Of the way to the boundary: where the affine map is compared with the network.
_WITHIN = 0.9
# Slopes below this are rounding: the neuron does not depend on the input that way.
_NO_SLOPE = 1e-12
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class LinearRegion(results.Result):
    """The affine map of a unit around one input, and how far it holds.

    Attributes:
        unit: The unit.
        input: The input.
        value: The unit there.
        gradient: Slope of the affine map, in the shape of the input.
        offset: Value of the affine map at the origin of the input space.
        worst_error: Largest difference between the affine map and the network, over the points
            that were compared, relative to the larger of the unit's value and 1.
        n_points: Those points.
        nearest: Exact distance to the nearest boundary.
        nearest_relu: Which ReLU it belongs to, in the order in which they run.
        nearest_neuron: Which neuron in it (flat index).
        upward: Distance to the first boundary along the gradient.
        downward: The same against the gradient.
        random: The same along random directions.
        n_neurons: Neurons on the way to the unit.
        n_active: Those that are on.
        margins: Distance of each ReLU's nearest face, in their order.
    """

    unit: str
    input: Float64[np.ndarray, "*shape"]
    value: float
    gradient: Float64[np.ndarray, "*shape"]
    offset: float
    worst_error: float
    n_points: int
    nearest: float
    nearest_relu: int
    nearest_neuron: int
    upward: float
    downward: float
    random: Float64[np.ndarray, " direction"]
    n_neurons: int
    n_active: int
    margins: Float64[np.ndarray, " relu"]

    def at(self, inputs: Float[np.ndarray, "example *shape"]) -> Float64[np.ndarray, " example"]:
        """The affine map at other inputs.

        Args:
            inputs: Inputs of the network.

        Returns:
            Its values: those of the unit within the region.
        """
        return inputs.reshape(len(inputs), -1) @ self.gradient.ravel() + self.offset

    def to_frame(self) -> pd.DataFrame:
        """One row a distance."""
        rows = [("nearest", self.nearest), ("upward", self.upward), ("downward", self.downward)]
        rows += [(f"relu {i}", float(margin)) for i, margin in enumerate(self.margins)]
        rows += [(f"random {i}", float(distance)) for i, distance in enumerate(self.random)]
        return pd.DataFrame(rows, columns=["boundary", "distance"])

    def figure(self) -> go.Figure:
        """Distances to the boundary: the nearest, along the gradient, and a random direction's."""
        finite = self.random[np.isfinite(self.random)]
        typical = float(np.median(finite)) if finite.size else np.nan
        values = np.array([self.nearest, self.upward, self.downward, typical])
        return plots.bars(
            np.where(np.isfinite(values), values, np.nan),
            labels=["nearest", "up the gradient", "down the gradient", "random (median)"],
            value_title="distance to the boundary",
        )

    def summary(self) -> str:
        """How far the unit is linear, in words."""
        return (
            f"{self.unit} is {self.value:.4g} at this input and exactly affine around it (slope "
            f"{np.linalg.norm(self.gradient):.4g}; differs from the network by at most "
            f"{self.worst_error:.1e} at {self.n_points} points). The nearest boundary is "
            f"{self.nearest:.4g} away, at neuron {self.nearest_neuron} of ReLU "
            f"{self.nearest_relu}; {self.upward:.4g} along the gradient, {self.downward:.4g} "
            f"against it; the nearest over {len(self.random)} random directions is "
            f"{self.random.min():.4g}. {self.n_active:,} of {self.n_neurons:,} neurons are on."
        )


def linear_region(
    network: HookedRootModule,
    target: objectives.Objective,
    input: Float[np.ndarray, "*shape"],
    *,
    directions: int = 64,
    seed: int = 0,
) -> LinearRegion:
    """Find the affine map of a unit around an input, and the distances to where it ends.

    Args:
        network: A ReLU network; it is not changed.
        target: A `Target`, a `Direction` without cosine power, or a sum of such.
        input: One input.
        directions: Random directions to look along.
        seed: Their seed.

    Returns:
        The region.

    Raises:
        ValueError: If the network has other nonlinearities, the unit does not exist, is no affine
            function of the activations, or the input does not fit or is not finite.
    """
    started = time.perf_counter()
    # A copy: the result makes its arrays read-only.
    point = np.array(input, dtype=np.float64)
    if not np.isfinite(point).all() or not point.size:
        raise ValueError("the input must hold finite numbers")
    if directions < 1:
        raise ValueError(f"directions = {directions}; expected at least 1")
    frozen = _Frozen(network, target, point)
    gradient = frozen.gradient()
    norms = frozen.gradient_norms()
    margins, (relu, neuron) = _nearest(frozen.inputs_of_relus, norms)
    random = np.random.default_rng(seed).standard_normal((directions, *point.shape))
    random /= np.linalg.norm(random.reshape(directions, -1), axis=1).reshape(-1, *[1] * point.ndim)
    slope = float(np.linalg.norm(gradient))
    ways = random if not slope else np.concatenate([random, [gradient / slope, -gradient / slope]])
    reached = frozen.distances(ways)
    upward, downward = (reached[-2], reached[-1]) if slope else (np.inf, np.inf)
    offset = frozen.value - float((gradient * point).sum())
    nearest = float(margins.min()) if margins.size else np.inf
    error, n_points = _worst_error(
        frozen, (gradient, offset), random, nearest, reached[:directions]
    )
    if error > _TOLERANCE:
        raise ValueError(
            f"{target.label} is not affine where no ReLU switches (relative error {error:.1e}): "
            "the network or the objective has another nonlinearity"
        )
    return LinearRegion(
        provenance=results.described(
            sources.network_name(network),
            sources.network_fingerprint(network),
            analysis=ANALYSIS,
            parameters={"unit": repr(target), "directions": directions},
            seed=seed,
            wall_time=time.perf_counter() - started,
            dtype="float64",
        ),
        unit=target.label,
        input=point,
        value=frozen.value,
        gradient=gradient,
        offset=offset,
        worst_error=error,
        n_points=n_points,
        nearest=nearest,
        nearest_relu=relu,
        nearest_neuron=neuron,
        upward=float(upward),
        downward=float(downward),
        random=reached[:directions],
        n_neurons=sum(values.size for values in frozen.inputs_of_relus),
        n_active=sum(int((values > 0).sum()) for values in frozen.inputs_of_relus),
        margins=margins,
    )


class _Pattern(TorchDispatchMode):
    """Sees every operation: notes what goes into each ReLU, and can hold which neurons are on.

    Without a pattern ReLUs do what they do, and an operation that is not known to be affine is
    refused. With one, ReLU number k multiplies by pattern k, so the whole network is affine.
    """

    def __init__(self, pattern: list[torch.Tensor] | None, hooks: tuple[str, ...]) -> None:
        super().__init__()
        self.pattern = pattern
        # Hook points of the unit that have not fired: what runs after them all is of no concern.
        self.waiting = set(hooks)
        self.seen: list[torch.Tensor] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Pass an operation on, or do a ReLU's work."""
        name = func.overloadpacket.__name__
        if not self.waiting:
            return func(*args, **(kwargs or {}))
        if name in _RELUS:
            values = args[0].clone()
            self.seen.append(values)
            on = values > 0 if self.pattern is None else self.pattern[len(self.seen) - 1]
            out = values * on
            return args[0].copy_(out) if name == "relu_" else out
        if name not in _AFFINE:
            raise ValueError(
                f"a linear region needs a network of linear layers, average pooling and ReLUs; "
                f"this one also uses {name}"
            )
        return func(*args, **(kwargs or {}))


class _Frozen:
    """A network at one input, with the pattern of its ReLUs held: an affine function."""

    def __init__(
        self, network: HookedRootModule, target: objectives.Objective, point: np.ndarray
    ) -> None:
        self._network = watching.private_copy(network).double()
        self.point = point
        self._target, self._point = target, torch.from_numpy(point)
        watching.require_hooks(self._network, target.hooks)
        device, _ = watching.place_of(self._network)
        self._point = self._point.to(device)
        start = self._point[None]
        value, seen = self._run(start, None)
        if not bool(value.isfinite().all()):
            raise ValueError(f"{target.label} is not a finite number at the input")
        self.value = float(value[0])
        self._pattern = [values > 0 for values in seen]
        self._at_point = [values[0] for values in seen]
        self.inputs_of_relus = [values.cpu().numpy() for values in self._at_point]

    def gradient(self) -> Float64[np.ndarray, "*shape"]:
        """Slope of the unit; the network is affine here, so that is the true gradient."""
        start = self._point[None].clone().requires_grad_(True)
        with watching.watching(self._network, self._target.hooks) as held:
            self._network(start)
            value = self._target.measure(held)
        (slope,) = torch.autograd.grad(value.sum(), start)
        return slope[0].cpu().numpy()

    def gradient_norms(self) -> list[np.ndarray]:
        """Norm of the gradient of each ReLU's input, one entry of the input after the other."""
        squares = [torch.zeros_like(values) for values in self._at_point]
        basis = torch.arange(self._point.numel(), device=self._point.device).split(_BATCH)
        for some in basis:
            ways = torch.zeros(len(some), self._point.numel()).to(self._point)
            ways[torch.arange(len(some)), some] = 1
            for total, slopes in zip(squares, self._slopes(ways), strict=True):
                total.add_(slopes.square().sum(0))
        return [total.sqrt().cpu().numpy() for total in squares]

    def distances(
        self, ways: Float64[np.ndarray, "direction *shape"]
    ) -> Float64[np.ndarray, " direction"]:
        """Distance to the first ReLU that switches along each unit vector."""
        reached = np.full(len(ways), np.inf)
        flat = torch.from_numpy(ways.reshape(len(ways), -1)).to(self._point)
        for values, slopes in zip(self._at_point, self._slopes(flat), strict=True):
            when = -values[None] / slopes
            # A neuron that is moved away from its boundary never meets it; nor does one at rest.
            first = torch.where((when > 0) & (slopes.abs() > _NO_SLOPE), when, torch.inf)
            reached = np.minimum(reached, first.flatten(1).amin(1).cpu().numpy())
        return reached

    def network_at(
        self, inputs: Float64[np.ndarray, "example *shape"]
    ) -> Float64[np.ndarray, " example"]:
        """The network itself, its ReLUs free."""
        return watching.measured(self._network, self._target, inputs)

    def _slopes(self, ways: torch.Tensor) -> list[torch.Tensor]:
        """How fast each ReLU's input changes along directions: exact, since all is affine."""
        moved = self._point[None] + ways.reshape(-1, *self._point.shape)
        _, seen = self._run(moved, self._pattern)
        return [there - here for there, here in zip(seen, self._at_point, strict=True)]

    def _run(
        self, inputs: torch.Tensor, pattern: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The unit, and what went into each ReLU up to it."""
        mode = _Pattern(pattern, self._target.hooks)

        def note(values: torch.Tensor, hook: Any) -> None:
            mode.waiting.discard(hook.name)

        hooks: list[Any] = [(name, note) for name in self._target.hooks]
        with torch.no_grad(), watching.watching(self._network, self._target.hooks) as held:
            try:
                with self._network.hooks(fwd_hooks=hooks), mode:
                    self._network(inputs)
            except (RuntimeError, IndexError) as error:
                reason = str(error).splitlines()[0]
                raise ValueError(
                    f"the network cannot read an input of shape {tuple(inputs.shape[1:])}: {reason}"
                ) from error
            value = self._target.measure(held)
        return value, mode.seen


def _nearest(
    values: list[np.ndarray], norms: list[np.ndarray]
) -> tuple[Float64[np.ndarray, " relu"], tuple[int, int]]:
    """Distance of each ReLU's nearest face, and which ReLU and neuron has the nearest of all."""
    distances = [
        np.divide(np.abs(value), norm, out=np.full(value.shape, np.inf), where=norm > _NO_SLOPE)
        for value, norm in zip(values, norms, strict=True)
    ]
    margins = np.array([distance.min() for distance in distances], dtype=np.float64)
    if not margins.size:
        return margins, (-1, -1)
    relu = int(margins.argmin())
    return margins, (relu, int(distances[relu].argmin()))


def _worst_error(
    frozen: _Frozen,
    affine_map: tuple[np.ndarray, float],
    ways: np.ndarray,
    nearest: float,
    reached: np.ndarray,
) -> tuple[float, int]:
    """Largest relative difference between affine map and network within the region."""
    gradient, offset = affine_map
    around = np.full(len(ways), nearest if np.isfinite(nearest) else 1.0)
    along = np.where(np.isfinite(reached), reached, 1.0)
    far = _WITHIN * np.concatenate([around, along]).reshape(-1, *[1] * gradient.ndim)
    points = frozen.point + far * np.concatenate([ways, ways])
    affine = (points * gradient).reshape(len(points), -1).sum(1) + offset
    difference = np.abs(affine - frozen.network_at(points))
    return float(difference.max() / max(abs(frozen.value), 1.0)), len(points)
