"""The fast way of patching: the same numbers as forward passes, from the model's parts.

Given the activations of the unpatched run and what is written (`interventions`):

1. What a cell changes is followed by hand to the end of its own layer's part, at the positions
   where it stands: a query or a pattern changes one head's output at its position, a key or value
   those of all later positions, an output the stream there. Many cells of a layer go together.
2. From there on `recompute` takes only the rows that changed through the remaining layers.
3. The last position is measured; where the answers' logits determine the metric, only those are
   computed.

A change at the last layer that stands anywhere but at the last position reaches nothing that is
measured, so it is not computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from workbench.core.engine import (
    budget,
    cells,
    decoder,
    interventions,
    metrics,
    preflight,
    recompute,
    running,
)

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

Tensor = torch.Tensor
# Sites whose change spreads inside of attention to every later position.
_SPREADING = ("k", "v")
# Sites that are followed through attention to its heads' outputs.
_INSIDE = ("q", "k", "v", "pattern", "z")


class Runner:
    """Patches cells of batches of prompts, all together."""

    def __init__(  # noqa: PLR0913, PLR0917 -- made by a sweep only
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        place: cells.Place,
        layers: Sequence[int],
        measure: metrics.Measure,
        megabytes: float,
    ) -> None:
        """Take the model apart for every length of the pairs.

        Args:
            model: The bridge.
            pairs: The prompts.
            place: What is patched.
            layers: In which layers.
            measure: What is measured.
            megabytes: Memory budget.

        Raises:
            NotTakenApart: If the model is no decoder that can be taken apart.
        """
        self.model, self.pairs, self.place, self.measure = model, pairs, place, measure
        self.layers, self.megabytes = sorted(set(layers)), megabytes
        self._decoders: dict[int, decoder.Decoder] = {}
        for group in pairs.groups():
            for tokens in pairs.batch(group[:2]):
                self.parts(tokens)

    def parts(self, tokens: Int[Tensor, "batch position"]) -> decoder.Decoder:
        """The model in parts, proven on prompts of that length."""
        length = tokens.shape[1]
        if length not in self._decoders:
            self._decoders[length] = decoder.taken_apart(self.model, tokens[:2])
        return self._decoders[length]

    def run(self, tokens: Int[Tensor, "batch position"]) -> decoder.Activations:
        """Activations of some prompts."""
        kind = self.place.site.kind
        parts = self.parts(tokens)
        also = [kind] if kind in ("pattern", "neuron") else []
        with running.lock_of(self.model), torch.inference_mode():
            return parts.run(parts.embed(tokens), also)

    def run_both(
        self, clean: Int[Tensor, "batch position"], corrupted: Int[Tensor, "batch other_position"]
    ) -> tuple[decoder.Activations, decoder.Activations]:
        """Activations of clean and corrupted prompts, in one run where they have one length."""
        if clean.shape != corrupted.shape:
            return self.run(clean), self.run(corrupted)
        both, n = self.run(torch.cat((clean, corrupted))), len(clean)
        return _rows(both, slice(None, n)), _rows(both, slice(n, None))

    def coordinates(self, run: decoder.Activations) -> dict[str, Tensor]:
        """Coordinates at the place, by hook point."""
        with torch.inference_mode():
            return {
                self.place.names[layer]: self.place.read(_kept(run, self.place.site.kind, layer))
                for layer in self.layers
            }

    def read(self, tokens: Int[Tensor, "batch position"]) -> dict[str, Tensor]:
        """Coordinates at the place of some prompts, by hook point."""
        return self.coordinates(self.run(tokens))

    def batch(self, indices: Int[np.ndarray, " batch"], source: interventions.Source) -> Batch:
        """Prompts of one length: their baseline runs, and what is written into them."""
        return Batch(self, indices, source)


def _rows(run: decoder.Activations, chosen: slice) -> decoder.Activations:
    """The activations of some of the prompts of a run."""
    fields = dataclasses.fields(run)
    kept = ([value[chosen] for value in getattr(run, field.name)] for field in fields)
    return decoder.Activations(*kept)


def _kept(run: decoder.Activations, kind: str, layer: int) -> Tensor:
    if kind in ("resid_pre", "resid_post"):
        return run.resid[layer + (kind == "resid_post")]
    return getattr(run, kind)[layer]


@dataclasses.dataclass(frozen=True)
class _Runs:
    """Patched runs that go together: which cell of which prompt each is, and where it changes."""

    slot: Int[Tensor, " run"]
    column: Int[Tensor, " run"]
    entry: recompute.Entry


class Batch:
    """Prompts of one length.

    Attributes:
        clean: Metric of each clean prompt.
        corrupted: Metric of each corrupted prompt.
    """

    def __init__(
        self, runner: Runner, indices: Int[np.ndarray, " batch"], source: interventions.Source
    ) -> None:
        """Run the prompts, and find what is written.

        Args:
            runner: Whose batch it is.
            indices: Which prompts.
            source: What is written.
        """
        self._runner, self._place = runner, runner.place
        self._kind = runner.place.site.kind
        tokens = runner.pairs.batch(indices)
        runs = runner.run_both(*tokens)
        self._parts = runner.parts(tokens[source.ends[0]])
        self._base = runs[source.ends[0]]
        self._new = source.written(indices, *map(runner.coordinates, runs))
        # Of the last layer that was asked for: cells come layer by layer.
        self._written_heads: tuple[int, Tensor] = (-1, self._base.resid[0])
        self._targets = self._make_targets(indices, runs[0].resid[-1][:, -1])
        self._rows = budget.rows(runner.model.cfg, runner.megabytes)
        everybody = torch.arange(len(indices), device=self._base.resid[0].device)
        self.clean, self.corrupted = (self._values(run.resid[-1][:, -1], everybody) for run in runs)

    def _make_targets(
        self, indices: Int[np.ndarray, " batch"], clean: Float[Tensor, "batch d_model"]
    ) -> metrics.Targets:
        pairs, measure = self._runner.pairs, self._runner.measure
        self._tokens: Tensor | None = None
        if not measure.answers_only:
            return metrics.targets(pairs, indices, self._logits(clean))
        found = metrics.targets(pairs, indices, clean[:, :1])
        self._tokens, reduced = found.among_answers()
        return reduced

    def fill(
        self,
        out: Float[np.ndarray, "batch slot column"],
        slots: Sequence[cells.Slot],
        columns: Sequence[cells.Spots],
        keys: Sequence[int | None],
        wanted: Bool[np.ndarray, "slot column"],
    ) -> Iterator[int]:
        """Measure cells.

        Args:
            out: Where the metric goes; prompts that a column does not touch keep what is there.
            slots: Layer and part of each.
            columns: Where each writes in these prompts.
            keys: With patterns: the only key that each column writes.
            wanted: Which cells to measure.

        Yields:
            About how many cells were measured since the last time.
        """
        packs = self._packs(self._all_runs(slots, columns, keys, wanted))
        total, counted, done = int(wanted.sum()), 0, 0
        possible = max(1, total * out.shape[0])
        while True:
            # The lock is taken anew for each pack, so that others get their turn.
            with running.lock_of(self._runner.model), torch.inference_mode():
                pack = next(packs, None)
                if pack is None:
                    break
                streams = recompute.ends(self._parts, self._base, [runs.entry for runs in pack])
                prompts = torch.cat([runs.entry.prompts for runs in pack])
                slot = torch.cat([runs.slot for runs in pack])
                column = torch.cat([runs.column for runs in pack])
                values = self._values(streams, prompts)
            out[prompts.cpu().numpy(), slot.cpu().numpy(), column.cpu().numpy()] = values
            counted += len(prompts)
            now = min(total, total * counted // possible)
            yield now - done
            done = now
        yield total - done

    def _packs(self, runs: Iterator[_Runs]) -> Iterator[list[_Runs]]:
        """Runs put together as long as their rows are within the budget."""
        length = self._base.resid[0].shape[1]
        pack: list[_Runs] = []
        rows = 0
        for some in runs:
            size = int((length - some.entry.starts).sum())
            if pack and rows + size > self._rows:
                yield pack
                pack, rows = [], 0
            pack.append(some)
            rows += size
        if pack:
            yield pack

    def _all_runs(
        self,
        slots: Sequence[cells.Slot],
        columns: Sequence[cells.Spots],
        keys: Sequence[int | None],
        wanted: Bool[np.ndarray, "slot column"],
    ) -> Iterator[_Runs]:
        """Runs of all cells, layer by layer."""
        layer_of = np.array([layer for layer, _ in slots])
        part_of = np.array([-1 if part is None else part for _, part in slots])
        for layer in sorted(set(layer_of.tolist())):
            here = np.flatnonzero(layer_of == layer)
            asked = wanted[here]
            if not asked.any():
                continue
            if self._kind in _SPREADING or any(_many(where) for where in columns):
                for column, where in enumerate(columns):
                    chosen = here[asked[:, column]]
                    if len(chosen) and len(where.prompts):
                        yield from self._wide(layer, chosen, part_of, column, where, keys[column])
                continue
            for key, group in _by_key(keys):
                yield from self._narrow(layer, here, part_of, columns, group, asked, key)

    def _narrow(  # noqa: PLR0913, PLR0917 -- one step of `_all_runs`
        self,
        layer: int,
        slots: Int[np.ndarray, " slot"],
        part_of: Int[np.ndarray, " every_slot"],
        columns: Sequence[cells.Spots],
        group: Sequence[int],
        asked: Bool[np.ndarray, "slot column"],
        key: int | None,
    ) -> Iterator[_Runs]:
        """Runs that change at a single position each, all columns together."""
        at, length = self._entry_layer(layer), self._base.resid[0].shape[1]
        spot_column = np.concatenate([np.full(len(columns[c].prompts), c) for c in group])
        prompts, starts, taken = (
            np.concatenate([getattr(columns[c], name) for c in group])
            for name in ("prompts", "at", "taken")
        )
        possible = asked[:, spot_column]
        if at == len(self._parts.layers):
            possible = possible & (starts == length - 1)
        slot_index, spot = np.nonzero(possible)
        # By column first, so that runs of about the same length stand together.
        order = np.lexsort((slot_index, spot))
        slot_index, spot = slot_index[order], spot[order]
        for chunk in _chunks(length - starts[spot], self._rows):
            chosen, where = slots[slot_index[chunk]], spot[chunk]
            spots = cells.Spots(prompts[where], starts[where], taken[where])
            parts, pr, position, source = self._tensors(part_of[chosen], spots)
            rows = self._rows_of(layer, parts, pr, position, source, key)
            slot, column = self._tensor(chosen), self._tensor(spot_column[where])
            yield _Runs(slot, column, recompute.Entry(at, position, pr, rows[:, None]))

    def _wide(  # noqa: PLR0913, PLR0917 -- one step of `_all_runs`
        self,
        layer: int,
        slots: Int[np.ndarray, " slot"],
        part_of: Int[np.ndarray, " every_slot"],
        column: int,
        where: cells.Spots,
        key: int | None,
    ) -> Iterator[_Runs]:
        """Runs of one column that change at several positions."""
        at, length = self._entry_layer(layer), self._base.resid[0].shape[1]
        spread = None
        if self._kind in (*_SPREADING, "q"):
            spread = self._inside(layer, where)
            where = _onward(where, length) if self._kind in _SPREADING else where
            where = cells.Spots(where.prompts, where.at, where.at)
        if at == len(self._parts.layers):
            where = where.where(where.at == length - 1)
            if not len(where.prompts):
                return
        start = int(where.at.min())
        touched, run_of_spot = np.unique(where.prompts, return_inverse=True)
        per_pack = max(1, self._rows // (len(touched) * (length - start)))
        for some in _pieces(slots, per_pack):
            runs = len(some) * len(touched)
            prompts = self._tensor(np.tile(touched, len(some)))
            spot = np.tile(np.arange(len(where.prompts)), len(some))
            offset = np.repeat(np.arange(len(some)) * len(touched), len(where.prompts))
            run = self._tensor(run_of_spot[spot] + offset)
            part = np.repeat(part_of[some], len(where.prompts))
            parts, pr, position, source = self._tensors(part, where.where(spot))
            rows = self._base.resid[at][prompts, start:].clone()
            rows[run, position - start] = self._rows_of(
                layer, parts, pr, position, source, key, spread
            )
            starts = torch.full((runs,), start, device=rows.device)
            slot = self._tensor(np.repeat(some, len(touched)))
            entry = recompute.Entry(at, starts, prompts, rows)
            yield _Runs(slot, torch.full_like(slot, column), entry)

    def _entry_layer(self, layer: int) -> int:
        return layer if self._kind == "resid_pre" else layer + 1

    def _inside(
        self, layer: int, where: cells.Spots
    ) -> Float[Tensor, "batch position head d_head"]:
        """Every head's output, were all parts of the queries, keys or values written at once."""
        block, base = self._parts.layers[layer], self._base
        old = _kept(base, self._kind, layer)
        written = old.clone()
        prompts, at, taken = (self._tensor(x) for x in (where.prompts, where.at, where.taken))
        written[prompts, at] = self._new[self._place.names[layer]][prompts, taken]
        positions = torch.arange(old.shape[1], device=old.device)
        q, k, v = base.rotated_q[layer], base.rotated_k[layer], base.v[layer]
        if self._kind == "q":
            q = block.rotate_queries(written, positions)
        elif self._kind == "k":
            k = block.rotate_keys(written, positions)
        else:
            v = written
        return block.attend(q, k, v)

    def _heads(self, layer: int) -> Float[Tensor, "batch position head d_head"]:
        """Every head's output from what is written, where each position is by itself."""
        new = self._new[self._place.names[layer]]
        block, base = self._parts.layers[layer], self._base
        if self._kind == "z":
            return new
        if self._kind == "pattern":
            return block.mix(new, base.v[layer])
        positions = torch.arange(new.shape[1], device=new.device)
        q = block.rotate_queries(new, positions)
        return block.attend(q, base.rotated_k[layer], base.v[layer])

    def _rows_of(  # noqa: PLR0913, PLR0917 -- the coordinates of runs
        self,
        layer: int,
        parts: Tensor | None,
        prompts: Tensor,
        at: Tensor,
        taken: Tensor,
        key: int | None,
        spread: Tensor | None = None,
    ) -> Float[Tensor, "run d_model"]:
        """The stream that each run enters with, at one position each."""
        block, base, kind = self._parts.layers[layer], self._base, self._kind
        new = self._new[self._place.names[layer]]
        if kind in _INSIDE:
            z = self._head_rows(layer, parts, prompts, at, taken, key, spread)
            return block.after(base.resid[layer][prompts, at], block.attn_out(z))
        old = _kept(base, kind, layer)[prompts, at]
        written = self._place.rows(old, new[prompts, taken], parts)
        if kind in ("resid_pre", "resid_post"):
            return written
        before, attn_out = base.resid[layer][prompts, at], base.attn_out[layer][prompts, at]
        if kind == "attn_out":
            return block.after(before, written)
        return before + attn_out + (written if kind == "mlp_out" else block.neurons_out(written))

    def _head_rows(  # noqa: PLR0913, PLR0917 -- the coordinates of runs
        self,
        layer: int,
        parts: Tensor | None,
        prompts: Tensor,
        at: Tensor,
        taken: Tensor,
        key: int | None,
        spread: Tensor | None,
    ) -> Float[Tensor, "run head d_head"]:
        """Every head's output at one position of each run, one head or group of it new."""
        assert parts is not None
        z = self._base.z[layer][prompts, at]
        run = torch.arange(len(z), device=z.device)
        if key is not None:
            new, old = self._new[self._place.names[layer]], self._base.pattern[layer]
            change = new[prompts, parts, taken, key] - old[prompts, parts, at, key]
            values = self._base.v[layer]
            group = parts // (z.shape[1] // values.shape[2])
            z[run, parts] += change[:, None] * values[prompts, key, group]
            return z
        if spread is None and self._written_heads[0] != layer:
            self._written_heads = (layer, self._heads(layer))
        source = self._written_heads[1] if spread is None else spread
        rows = source[prompts, taken]
        groups = self._place.site.part == "group"
        count = self._base.v[layer].shape[2] if groups else z.shape[1]
        z.unflatten(1, (count, -1))[run, parts] = rows.unflatten(1, (count, -1))[run, parts]
        return z

    def _values(
        self, streams: Float[Tensor, "run d_model"], prompts: Int[Tensor, " run"]
    ) -> Float[np.ndarray, " run"]:
        """The metric of runs that ended in these streams."""
        vocabulary = int(self._runner.model.cfg.d_vocab)
        width = vocabulary if self._tokens is None else len(self._tokens)
        size = budget.logit_rows(self._runner.model.cfg, width, self._runner.megabytes)
        found: list[np.ndarray] = []
        for some, whose in zip(streams.split(size), prompts.split(size), strict=True):
            logits = self._logits(some)
            preflight.require_finite(self._runner.model, logits)
            targets = self._targets.rows(whose)
            found.append(metrics.values(self._runner.measure, logits, targets))
        return np.concatenate(found)

    def _logits(self, streams: Float[Tensor, "run d_model"]) -> Float[Tensor, "run token"]:
        with running.lock_of(self._runner.model), torch.inference_mode():
            return self._parts.logits(streams, self._tokens)

    def _tensor(self, values: np.ndarray) -> Int[Tensor, "*shape"]:
        return torch.as_tensor(values, device=self._base.resid[0].device)

    def _tensors(
        self, part: Int[np.ndarray, " run"], where: cells.Spots
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """Parts, prompts, positions and source positions of runs, where the model is."""
        whole = len(part) > 0 and part[0] < 0
        return (
            None if whole else self._tensor(part),
            self._tensor(where.prompts),
            self._tensor(where.at),
            self._tensor(where.taken),
        )


def _many(where: cells.Spots) -> bool:
    """Whether a column writes several positions of some prompt, or moves anything."""
    return len(np.unique(where.prompts)) < len(where.prompts) or bool(
        (where.at != where.taken).any()
    )


def _onward(where: cells.Spots, length: int) -> cells.Spots:
    """Every position of each prompt from its first one on."""
    prompts = np.unique(where.prompts)
    found = [
        (prompt, position)
        for prompt in prompts
        for position in range(where.at[where.prompts == prompt].min(), length)
    ]
    table = np.array(found, dtype=np.int64).reshape(-1, 2)
    return cells.Spots(table[:, 0], table[:, 1], table[:, 1])


def _by_key(keys: Sequence[int | None]) -> list[tuple[int | None, list[int]]]:
    """Columns that write the same key, or all keys."""
    found: dict[int | None, list[int]] = {}
    for column, key in enumerate(keys):
        found.setdefault(key, []).append(column)
    return list(found.items())


def _chunks(sizes: Int[np.ndarray, " run"], most: int) -> Iterator[slice]:
    """Consecutive runs whose rows together are at most `most`, or a single one."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = 0 if start == 0 else ends[start - 1]
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(start, stop)
        start = stop


def _pieces(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
