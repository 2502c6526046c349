"""Exact patching of every cell of a site, as fast as the model allows.

1. Run clean and corrupted prompts of one length as a batch, and keep the site's activations.
2. For each cell (`cells`), run the base prompts again with what the intervention writes there
   (`interventions`).
3. Measure every run at the last position, prompt by prompt.

The fast way (`fast`) takes a decoder apart and recomputes only what a cell changes, many cells at
once; the plain way (`plain`) is one forward pass of the bridge a cell. They give the same numbers;
what the fast way does not know runs the plain way, and the result says so and why.

In a causal model nothing before the first difference of a pair differs between its runs, so
patching there changes nothing: those cells get the unpatched value itself instead of a run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from workbench.core.engine import (
    budget,
    cells,
    decoder,
    fast,
    interventions,
    metrics,
    plain,
    preflight,
    running,
)

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

Intervention = interventions.Intervention
FAST = "recomputing only what each patch changes, from the model's parts"


@dataclasses.dataclass(frozen=True)
class Measured:
    """Metric of every prompt in every patched run, and in the two baselines.

    Attributes:
        patched: Metric in each patched run; NaN where a cell was not asked for.
        clean: Metric of each clean prompt.
        corrupted: Metric of each corrupted prompt.
        engine: How it was computed: `FAST`, or "one forward pass a cell, because …".
    """

    patched: Float[np.ndarray, "prompt slot column"]
    clean: Float[np.ndarray, " prompt"]
    corrupted: Float[np.ndarray, " prompt"]
    engine: str


@dataclasses.dataclass(frozen=True)
class Swept:
    """Metric of every prompt in every patched run of a site, and in the two baselines.

    Attributes:
        axes: What the cells are indexed by, in order, out of layer, position (with patterns query
            and key), and head, group, neuron, direction or latent.
        patched: Metric in each patched run; NaN where a cell was not asked for.
        clean: Metric of each clean prompt.
        corrupted: Metric of each corrupted prompt.
        engine: How it was computed.
    """

    axes: tuple[str, ...]
    patched: Float[np.ndarray, "prompt *cell"]
    clean: Float[np.ndarray, " prompt"]
    corrupted: Float[np.ndarray, " prompt"]
    engine: str


def sweep(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    site: str,
    metric: str | metrics.Function,
    intervention: Intervention,
    positions: cells.Positions = "each",
    layers: Sequence[int] | None = None,
    only: Iterable[tuple[int, ...]] | None = None,
    memory: float = budget.DEFAULT_MEGABYTES,
    batch_size: int | None = None,
    engine: str = "auto",
    progress: running.Progress = running.no_progress,
) -> Swept:
    """Patch every cell of a site, one at a time.

    Args:
        model: Any bridge.
        pairs: Clean and corrupted prompts.
        site: One of `sites.SITES`.
        metric: One of `metrics.METRICS`, or a user's function.
        intervention: What is put where.
        positions: Where; see `cells.columns`.
        layers: Which layers; None for all.
        only: Cells to measure, as indices of the result's axes; the rest is NaN. None for all.
        memory: Most megabytes beside the model.
        batch_size: Most prompts in one forward pass; None for what the memory allows.
        engine: "auto", "fast" or "plain".
        progress: Called again and again with the fraction done; may raise to cancel.

    Returns:
        The metric everywhere.

    Raises:
        ValueError: If an argument is unknown, logits are not finite, or another prompt's
            activation is asked for where there is no other prompt of that length.
    """
    place = cells.place(model, site)
    slots, columns = cells.slots(model, place, layers), cells.columns(pairs, positions)
    parts = cells.parts(model, place)
    layers_in_all = len(slots) // len(parts)
    cube = (len(slots), len(columns))
    wanted = None
    if only is not None:
        # The index of each slot and column, where the result has it.
        index = np.arange(len(slots) * len(columns)).reshape(1, *cube)
        _, place_of = arranged(index, place, positions, layers_in_all)
        wanted = np.zeros(cube, dtype=bool)
        wanted.flat[[int(place_of[0][tuple(cell)]) for cell in only]] = True
    measured = measure(
        model,
        pairs,
        place=place,
        slots=slots,
        columns=columns,
        wanted=wanted,
        metric=metrics.find(metric),
        intervention=intervention,
        memory=memory,
        batch_size=batch_size,
        engine=engine,
        progress=progress,
    )
    axes, patched = arranged(measured.patched, place, positions, layers_in_all)
    return Swept(axes, patched, measured.clean, measured.corrupted, measured.engine)


def arranged(
    patched: Num[np.ndarray, "prompt slot column"],
    place: cells.Place,
    positions: cells.Positions,
    layers: int,
) -> tuple[tuple[str, ...], Num[np.ndarray, "prompt *cell"]]:
    """The slots and columns of every part of some layers on the axes of a site.

    Args:
        patched: One number a prompt, slot and column.
        place: What was patched.
        positions: Where.
        layers: In how many layers.

    Returns:
        Names of the axes after the prompts, and the numbers on them.
    """
    n, slots, columns = patched.shape
    _, at, *part = place.site.axes
    where = {at: columns}
    if positions == "pairs":
        length = math.isqrt(columns)
        where = {"query": length, "key": length}
    elif positions == "all":
        where = {}
    parts = slots // layers
    named = {"layer": layers, **where, **dict.fromkeys(part, parts)}
    cube = patched.reshape(n, layers, parts, columns).swapaxes(2, 3)
    return tuple(named), np.ascontiguousarray(cube).reshape(n, *named.values())


def measure(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    place: cells.Place,
    slots: Sequence[cells.Slot],
    columns: Sequence[cells.Column],
    metric: metrics.Measure,
    intervention: Intervention,
    wanted: Bool[np.ndarray, "slot column"] | None = None,
    memory: float = budget.DEFAULT_MEGABYTES,
    batch_size: int | None = None,
    engine: str = "auto",
    progress: running.Progress = running.no_progress,
) -> Measured:
    """Patch any cells, one at a time; `sweep` with its cells spelt out.

    Args:
        model: Any bridge.
        pairs: Clean and corrupted prompts.
        place: What is patched.
        slots: Layer and part of each row of the result.
        columns: Where, for each column of the result.
        metric: What is measured.
        intervention: What is put where.
        wanted: Which cells to measure; None for all.
        memory: Most megabytes beside the model.
        batch_size: Most prompts in one forward pass; None for what the memory allows.
        engine: "auto" for the fast way where it is possible; "fast" or "plain".
        progress: Called again and again with the fraction done; may raise to cancel.

    Returns:
        The metric everywhere.

    Raises:
        ValueError: As for `sweep`.
    """
    _require(pairs, place, columns, intervention, memory)
    asked = np.ones((len(slots), len(columns)), bool) if wanted is None else wanted
    layers = sorted({layer for layer, _ in slots})
    runner, how = _runner(model, pairs, place, layers, metric, memory, engine)
    batches = _batches(model, pairs, memory, batch_size, kept_logits=how != FAST)
    largest = max(map(len, batches))
    source = interventions.Source(model, pairs, intervention, runner.read, largest)
    n = len(pairs)
    patched = np.full((n, *asked.shape), np.nan)
    clean, corrupted = np.empty(n), np.empty(n)
    cells_in_all, done = max(1, int(asked.sum()) * len(batches)), 0
    first, causal = _first_reached(model, pairs, intervention), preflight.is_causal(model)
    for indices in batches:
        progress(done / cells_in_all, f"{len(indices)} prompts unpatched")
        batch = runner.batch(indices, source)
        clean[indices], corrupted[indices] = batch.clean, batch.corrupted
        unpatched = (batch.clean, batch.corrupted)[source.ends[0]]
        out = np.where(asked, unpatched[:, None, None], np.nan)
        where = [
            _reaching(cells.spots(column, indices, source.ends), first[indices], column.key, causal)
            for column in columns
        ]
        for more in batch.fill(out, slots, where, [column.key for column in columns], asked):
            done += more
            progress(done / cells_in_all, f"cell {done} of {cells_in_all}")
        patched[indices] = out
    return Measured(patched, clean, corrupted, how)


def _require(
    pairs: ContrastPairs,
    place: cells.Place,
    columns: Sequence[cells.Column],
    intervention: Intervention,
    memory: float,
) -> None:
    pattern = place.site.kind == "pattern"
    if pattern and pairs.aligned:
        raise ValueError(
            "attention patterns of prompts of different length have different keys, so one cannot "
            "be written over the other: patch q and k, or use pairs of equal length"
        )
    if pattern and intervention.reference:
        raise ValueError(
            "attention patterns of reference texts have keys of their own, so there is no mean "
            "over them: leave out the reference texts"
        )
    if not pattern and any(column.key is not None for column in columns):
        raise ValueError(
            f"positions='pairs' (of a query and a key) is for patterns, and not for "
            f"{place.site.kind}"
        )
    if not memory > 0:
        raise ValueError(f"memory = {memory}; expected a number of megabytes above 0")


def _runner(  # noqa: PLR0913, PLR0917 -- the arguments of `measure`
    model: TransformerBridge,
    pairs: ContrastPairs,
    place: cells.Place,
    layers: Sequence[int],
    metric: metrics.Measure,
    memory: float,
    engine: str,
) -> tuple[fast.Runner | plain.Runner, str]:
    """The fast way if it is possible, and how it is done in words."""
    if engine not in ("auto", "fast", "plain"):
        raise ValueError(f"engine = {engine!r}; expected 'auto', 'fast' or 'plain'")
    why = "it was asked for"
    if engine != "plain":
        try:
            return fast.Runner(model, pairs, place, layers, metric, memory), FAST
        except decoder.NotTakenApart as error:
            if engine == "fast":
                raise
            why = f"{model.cfg.model_name!r} cannot be taken apart: {error.reason}"
    return plain.Runner(model, pairs, place, layers, metric), f"one forward pass a cell: {why}"


def _batches(
    model: TransformerBridge,
    pairs: ContrastPairs,
    memory: float,
    batch_size: int | None,
    *,
    kept_logits: bool,
) -> list[Int[np.ndarray, " batch"]]:
    """Prompts of one length that are run together."""
    found: list[np.ndarray] = []
    for group in pairs.groups():
        length = max(pairs.lengths(int(group[0])))
        size = budget.prompts(model.cfg, length, memory, kept_logits=kept_logits)
        size = min(size, batch_size or size)
        found += [group[start : start + size] for start in range(0, len(group), size)]
    return found


def _first_reached(
    model: TransformerBridge, pairs: ContrastPairs, intervention: Intervention
) -> Int[np.ndarray, " prompt"]:
    """First position of each prompt at which what is written can differ from what is there."""
    first = pairs.first_differences()
    # Only a prompt's own other run is known to agree with it before the first difference.
    own = intervention.ablation is None and preflight.is_causal(model)
    return first if own else np.zeros_like(first)


def _reaching(
    where: cells.Spots, first: Int[np.ndarray, " batch"], key: int | None, causal: bool
) -> cells.Spots:
    """The positions at which writing can change anything."""
    if key is not None and causal:
        # No query looks ahead, whatever is written.
        where = where.where(where.at >= key)
    moved = where.at != where.taken
    return where.where(moved | (where.at >= first[where.prompts]))
