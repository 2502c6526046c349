"""Taking the stream apart, from a target back to the tokens.

The trace starts at the state after the last layer at the target position. Each state that it
reaches is taken apart; parts whose share is above a floor are kept as edges, and where they come
from is reached next. So a long prompt costs what is on the way to its target, not all of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from analyses.contributions import graph, naming, parts
from workbench.core import results
from workbench.core.engine import running
from workbench.core.prompts.prompt import Prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "contributions.trace"
_FLOOR = 0.01
_WIDEST = 64
# Updates smaller than this fraction of the stream are rounding, which has no shares.
_ROUNDING = 1e-6

Tensor = torch.Tensor


def trace(
    model: TransformerBridge,
    prompt: Prompt | str | Sequence[int],
    *,
    target: int = -1,
    floor: float | int = _FLOOR,
    widest: int = _WIDEST,
    progress: running.Progress | None = None,
) -> graph.ContributionGraph:
    """Take the stream at a position apart, and what it is made of, back to the tokens.

    Args:
        model: Any bridge that `decoder` can take apart.
        prompt: Text, token ids, or a prompt.
        target: Position that the graph leads to; negative counts from the end.
        floor: Smallest share of an edge that is kept, by either measure; 0 keeps all.
        widest: Most positions of one state that are taken apart: those that most of the target
            passes through.
        progress: Called with the fraction done; what it raises stops the trace.

    Returns:
        The graph.

    Raises:
        ValueError: If there is no such position, floor or widest make no sense, or the model is no
            sum that we know.
    """
    if not 0 <= floor < 1:
        raise ValueError(f"floor = {floor}; expected a share of 0 or more, and below 1")
    if widest < 1:
        raise ValueError(f"widest = {widest}; expected at least one position")
    progress = progress or running.no_progress
    started = time.perf_counter()
    prompt = Prompt.of(model, prompt)
    target = prompt.position(target)
    progress(0.0, "running the prompt")
    with parts.locked(model):
        stream = parts.Stream.of(model, prompt, target)
        traced = _Traced(stream, float(floor), widest)
        n_steps = len(stream.layout)
        for done, step in enumerate(reversed(range(n_steps))):
            progress(done / n_steps, f"{stream.layout.adds[step]} {stream.layout.layers[step]}")
            traced.descend(step)
    return graph.ContributionGraph(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "ids": list(prompt.ids),
                "target": target,
                "floor": float(floor),
                "widest": widest,
            },
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        prompt=prompt,
        target=target,
        layout=stream.layout,
        floor=float(floor),
        widest=widest,
        cut=traced.cut,
        **traced.arrays(),
    )


class _Traced:
    """What the trace has found so far, from the target down."""

    def __init__(self, stream: parts.Stream, floor: float, widest: int) -> None:
        self._stream, self._floor, self._widest = stream, floor, widest
        # How much of the target passes through each position of the state that is next.
        self._flow = {stream.length - 1: 1.0}
        self._edges: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._nodes: list[tuple[int, int, float]] = []
        self.cut = 0

    def descend(self, step: int) -> None:
        """Take the states after a step apart that were reached, and reach those before it."""
        order = sorted(self._flow, key=lambda position: (-self._flow[position], -position))
        self.cut += max(0, len(order) - self._widest)
        stream, adds = self._stream, self._stream.layout.adds[step]
        layer = stream.layout.layers[step]
        pattern = None if adds == "mlp" else stream.pattern(layer)
        below: dict[int, float] = {}
        edges, values = list[np.ndarray](), list[np.ndarray]()
        for position in sorted(order[: self._widest]):
            table, shares = _apart(stream, step, pattern, position)
            with np.errstate(invalid="ignore"):
                large = (shares >= self._floor).any(1) | (shares <= -self._floor).any(1)
            table, shares = table[large], shares[large]
            self._nodes.append((step + 1, position, float(shares[:, 0].sum())))
            edges.append(np.column_stack([table, np.full(len(table), position)]))
            flows = self._flow[position] * shares[:, :1]
            values.append(np.column_stack([shares, flows]))
            for (kind, _, source), (flow,) in zip(table, flows, strict=True):
                if naming.KINDS[kind] not in naming.BIASES:
                    below[int(source)] = below.get(int(source), 0.0) + float(flow)
        rows = np.concatenate(edges)
        fixed = np.column_stack([np.full(len(rows), layer), np.full(len(rows), step)])
        self._edges.append(np.column_stack([rows, fixed]))
        self._values.append(np.concatenate(values))
        self._flow = below

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the graph, first step first."""
        names = ("kinds", "heads", "sources", "targets", "layers", "steps")
        edges = np.concatenate(self._edges[::-1]).astype(np.int64)
        values = np.concatenate(self._values[::-1]).astype(np.float32)
        found: dict[str, np.ndarray] = {
            name: np.ascontiguousarray(edges[:, i]) for i, name in enumerate(names)
        }
        for name, column in zip(("shares", "updates", "flows"), values.T, strict=True):
            found[name] = np.ascontiguousarray(column)
        nodes = self._nodes[::-1]
        found["states"], found["positions"] = (
            np.array([node[i] for node in nodes], dtype=np.int64) for i in range(2)
        )
        found["kept"] = np.array([node[2] for node in nodes], dtype=np.float32)
        return found


def _apart(
    stream: parts.Stream,
    step: int,
    pattern: Float[Tensor, "1 head query key"] | None,
    position: int,
) -> tuple[Int[np.ndarray, "part 3"], Float[np.ndarray, "part 2"]]:
    """Kind, head and source of every part of a state, and its shares by both measures."""
    moved = stream.moved(step, pattern, position)
    others = stream.others(step, position)
    rows = torch.stack(list(others.values()))
    state, update = stream.state(step + 1)[position], stream.update(step, position)
    measured = torch.cat([_measured(rows, state, update), _measured(moved, state, update)])
    near, along = measured[:, 0].clamp(min=0), measured[:, 1]
    near = near / near.sum().clamp(min=torch.finfo(near.dtype).tiny)
    size = float(update @ update)
    along = along / size if size > (_ROUNDING * float(state.norm())) ** 2 else 0 * along
    shares = torch.stack([near, along], 1).cpu().numpy()
    heads, keys = moved.shape[:2]
    # A bias comes from nowhere; its own position stands in for that.
    table = [(naming.KINDS.index(kind), -1, position) for kind in others]
    grid = np.indices((heads, keys)).reshape(2, -1).T
    table = np.concatenate(
        [np.array(table), np.column_stack([np.zeros(len(grid), dtype=np.int64), grid])]
    )
    # What is carried over is no part of the update.
    shares[0, 1] = np.nan
    return table, shares


def _measured(
    rows: Float[Tensor, "*rows d_model"],
    state: Float[Tensor, " d_model"],
    update: Float[Tensor, " d_model"],
) -> Float[Tensor, "part 2"]:
    """By how much each part brings nothing closer to the state, and its product with the update."""
    rows = rows.reshape(-1, rows.shape[-1])
    near = state.abs().sum() - (state - rows).abs().sum(-1)
    return torch.stack([near, rows @ update], 1)
