"""Scans: one pass of a model over a corpus, reduced as it goes, in memory that does not grow.

1. Each chunk of the corpus goes through the layers up to the last one that is looked at, in parts
   (`decoder`) where the model can be taken apart, else under hooks; nothing is unembedded.
2. At each family of units the chunk's activations are handed over as one table [token, unit] and
   forgotten again before the next layer.
3. `Reduction` keeps of all tables: the k largest and the k smallest values of each unit and where
   they stand, mean and spread, how often it is positive, and the values at a sample of tokens that
   is drawn before the scan, the same for all units.

What is kept depends on the corpus alone, bit for bit: chunks never change, sums are added chunk by
chunk in float64, and of equal values the one that is met first stays. So a scan that is interrupted
and goes on (`Reduction.save`, `Reduction.load`) ends as one that was not.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Bool, Float, Int

from workbench.core import files
from workbench.core.engine import decoder, running

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.engine.units import Family
    from workbench.core.prompts.corpus import Chunk, Corpus

Tensor = torch.Tensor
Consume = Callable[[int, Float[Tensor, "token unit"]], None]
# Into so many runs of tokens a table is parted, of which later ones are seldom worth a look.
_RUNS = 128
# Which activation of a layer each hook point shows.
_STREAMS = ("resid_pre", "z", "attn_out", "neuron", "mlp_out", "resid_post")


class ScanError(ValueError):
    """A scan cannot go on; the message says why."""


class Reader:
    """Runs chunks of a corpus and hands over what the families read."""

    def __init__(
        self, model: TransformerBridge, corpus: Corpus, families: Sequence[Family]
    ) -> None:
        """Look whether the model can be taken apart.

        Args:
            model: The bridge.
            corpus: What it will read.
            families: What is looked at.
        """
        self._model, self._families = model, families
        self._last = max(family.layer for family in families)
        longest = int(np.argmax(corpus.lengths))
        row = torch.as_tensor(corpus.row(longest).astype(np.int64))[None]
        try:
            self._parts: decoder.Decoder | None = decoder.taken_apart(model, row)
        except decoder.NotTakenApart:
            self._parts = None

    def read(self, chunk: Chunk, consume: Consume) -> None:
        """Run a chunk; its tables go to `consume` with the number of their family.

        Args:
            chunk: Rows of the corpus.
            consume: Called once a family, in the order of the layers; keeps no table.

        Raises:
            ScanError: If an activation is not finite.
        """
        counted = chunk.counted.to(self._model.cfg.device)
        # Where every token counts, a table needs no selection, which would copy it.
        whole = bool(counted.all())

        def hand_over(number: int, activation: Tensor) -> None:
            read = self._families[number].read(activation)
            table = read.flatten(0, 1) if whole else read[counted]
            consume(number, table)

        with running.lock_of(self._model), torch.inference_mode():
            if self._parts is not None and self._parts.still_holds():
                self._in_parts(self._parts, chunk.tokens, hand_over)
            else:
                self._under_hooks(chunk.tokens, hand_over)

    def _in_parts(
        self,
        parts: decoder.Decoder,
        tokens: Int[Tensor, "row position"],
        hand_over: Callable[[int, Tensor], None],
    ) -> None:
        resid = parts.embed(tokens)
        positions = torch.arange(resid.shape[1], device=resid.device)
        for number, layer in enumerate(parts.layers[: self._last + 1]):
            here = {
                kind: [
                    place
                    for place, family in enumerate(self._families)
                    if family.layer == number and family.site == kind
                ]
                for kind in _STREAMS
            }

            def show(kind: str, value: Tensor, here: dict[str, list[int]] = here) -> None:
                for place in here[kind]:
                    hand_over(place, value)

            show("resid_pre", resid)
            later = any(here[kind] for kind in _STREAMS[1:])
            if number == self._last and not later:
                return
            z = _attended(layer, resid, positions)
            show("z", z)
            attn_out = layer.attn_out(z)
            del z
            show("attn_out", attn_out)
            if number == self._last and not any(here[kind] for kind in _STREAMS[3:]):
                return
            middle = resid + attn_out
            read = resid if layer.parallel else middle
            del resid, attn_out
            if number == self._last and not any(here[kind] for kind in _STREAMS[4:]):
                show("neuron", layer.neurons(read))
                return
            if here["neuron"]:
                neurons, mlp_out = layer.neurons_and_out(read)
                show("neuron", neurons)
                del neurons
            else:
                mlp_out = layer.mlp_out(read)
            show("mlp_out", mlp_out)
            # Into the sum that nobody was shown; memory that is new costs as much as the sum.
            resid = middle.add_(mlp_out)
            del read, middle, mlp_out
            show("resid_post", resid)

    def _under_hooks(
        self, tokens: Int[Tensor, "row position"], hand_over: Callable[[int, Tensor], None]
    ) -> None:
        places: dict[str, list[int]] = {}
        for place, family in enumerate(self._families):
            places.setdefault(family.hook, []).append(place)

        def look(hook: str) -> running.HookFunction:
            def see(activation: Tensor) -> Tensor:
                for place in places[hook]:
                    hand_over(place, activation)
                return activation

            return see

        with running.hooked(self._model, {hook: look(hook) for hook in places}):
            after = self._last + 1
            self._model(
                tokens.to(self._model.cfg.device),
                return_type="logits",
                stop_at_layer=after if after < self._model.cfg.n_layers else None,
            )


def _attended(
    layer: decoder.Layer,
    resid: Float[Tensor, "batch position d_model"],
    positions: Int[Tensor, " position"],
) -> Float[Tensor, "batch position head d_head"]:
    """Output of each head; what it is made of is forgotten on return."""
    normed = layer.normed(resid)
    q = layer.rotate_queries(layer.project("q", normed), positions)
    k = layer.rotate_keys(layer.project("k", normed), positions)
    return layer.attend(q, k, layer.project("v", normed))


def tables(
    model: TransformerBridge, corpus: Corpus, family: Family
) -> Iterator[tuple[Chunk, Float[Tensor, "token unit"]]]:
    """All activations of one family, chunk by chunk.

    Args:
        model: The bridge.
        corpus: What it reads.
        family: What is looked at.

    Yields:
        Each chunk with its table.
    """
    reader = Reader(model, corpus, [family])
    for chunk in corpus.chunks():
        kept: list[Tensor] = []
        reader.read(chunk, lambda _, table, to=kept: to.append(table))
        yield chunk, kept[0]


@dataclasses.dataclass
class Extremes:
    """The k most extreme values of each unit so far, and where they stand; of equal ones the first.

    A unit has a row for each end of its range that is asked for, one after another.

    Attributes:
        values: Times the sign of the end, largest first; -inf where there are less than k yet.
        places: Number of the token in the corpus; -1 where there is none.
        signs: Of the ends: 1 for the largest values, -1 for the smallest.
    """

    values: Float[Tensor, "end k"]
    places: Int[Tensor, "end k"]
    signs: tuple[int, ...] = (1,)

    @classmethod
    def none(
        cls, units: int, k: int, device: torch.device | str, *, signs: tuple[int, ...] = (1,)
    ) -> Extremes:
        """Nothing seen."""
        rows = units * len(signs)
        return cls(
            torch.full((rows, k), -torch.inf, device=device),
            torch.full((rows, k), -1, dtype=torch.long, device=device),
            signs,
        )

    def of(self, units: slice) -> Extremes:
        """Some of the units; what they meet goes into these here."""
        ends = len(self.signs)
        rows = slice(units.start * ends, units.stop * ends)
        return Extremes(self.values[rows], self.places[rows], self.signs)

    def at(self, sign: int) -> Extremes:
        """One end of all units."""
        rows = slice(self.signs.index(sign), None, len(self.signs))
        return Extremes(self.values[rows], self.places[rows], (sign,))

    def meet(self, table: Float[Tensor, "token unit"], places: Int[Tensor, " token"]) -> None:
        """Take in the values of some more tokens.

        1. The most extreme value of each run of tokens, of every unit and end.
        2. A run in which nothing is beyond what is kept already is not read again.

        Args:
            table: The values.
            places: Where the tokens stand in the corpus.
        """
        length = max(1, len(table) // _RUNS)
        whole = len(table) - len(table) % length
        runs = table[:whole].unflatten(0, (-1, length))
        ends = [runs.amax(1) if sign > 0 else -runs.amin(1) for sign in self.signs]
        bound, worth = self._worth_a_look(torch.stack(ends, 2).flatten(1))
        rows, found = worth.T.nonzero(as_tuple=True)
        if len(rows):
            signs = torch.tensor(self.signs, dtype=table.dtype, device=table.device)
            near = runs[found, :, rows // len(ends)] * signs[rows % len(ends), None]
            hits, offsets = (near > bound[rows, None]).nonzero(as_tuple=True)
            tokens = found[hits] * length + offsets
            self._merge(rows[hits], near[hits, offsets], places[tokens])
        if whole < len(table):
            self.meet(table[whole:], places[whole:])

    def _worth_a_look(
        self, most: Float[Tensor, "run end"]
    ) -> tuple[Float[Tensor, " end"], Bool[Tensor, "run end"]]:
        """A bound that what is kept must be above, and in which runs something is.

        At least k values are no smaller than the k-th largest of the runs' largest values, so what
        is smaller is none of the k largest. Of runs whose largest value is that very one the first
        k are enough, as of equal values the first is kept; where a unit is silent, all are equal.
        """
        k = self.values.shape[1]
        bound = self.values[:, -1].clone()
        worth = most > bound
        crowded = (worth.sum(0) > k).nonzero()[:, 0]
        if len(crowded):
            here = most[:, crowded]
            last = here.topk(k, dim=0).values[-1]
            equal = here == last
            worth[:, crowded] = (here > last) | (equal & (equal.cumsum(0) <= k))
            bound[crowded] = torch.nextafter(last, torch.tensor(-torch.inf).to(last))
        return bound, worth

    def _merge(
        self,
        rows: Int[Tensor, " hit"],
        values: Float[Tensor, " hit"],
        places: Int[Tensor, " hit"],
    ) -> None:
        """Put new values, by row and in the order in which they are met, among those kept."""
        if not len(rows):
            return
        changed, counts = torch.unique_consecutive(rows, return_counts=True)
        group = torch.repeat_interleave(torch.arange(len(changed), device=rows.device), counts)
        first = torch.cumsum(counts, 0) - counts
        slot = torch.arange(len(rows), device=rows.device) - first[group]
        shape = (len(changed), int(counts.max()))
        new = torch.full(shape, -torch.inf, dtype=values.dtype, device=values.device)
        where = torch.full(shape, -1, dtype=torch.long, device=values.device)
        new[group, slot], where[group, slot] = values, places
        both = torch.cat([self.values[changed], new], 1)
        best = torch.sort(both, dim=1, descending=True, stable=True).indices
        best = best[:, : self.values.shape[1]]
        self.values[changed] = both.gather(1, best)
        self.places[changed] = torch.cat([self.places[changed], where], 1).gather(1, best)


class Reduction:
    """What is kept of a scan.

    Attributes:
        chunks: How many chunks were read.
        tokens: How many tokens these had.
        top: The largest values.
        bottom: The smallest ones, negated.
        sums: Of each unit's values.
        squares: Of each unit's squared values.
        positive: At how many tokens each unit is above zero.
        sample: Places of the tokens whose values are all kept.
        is_whole: Whether no chunk is half taken in.
        sampled: Values at the sampled tokens; NaN at those that do not count, or are not met yet.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        k: int,
        sample: Int[np.ndarray, " sampled"],
        device: torch.device | str = "cpu",
    ) -> None:
        """Start with nothing seen.

        Args:
            sizes: How many units each family has.
            k: How many extremes are kept.
            sample: Places of tokens whose values are all kept, ascending.
            device: Where the model is.
        """
        self.chunks = self.tokens = 0
        self.is_whole = True
        self._first = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        units = self._first[-1]
        self._ends = Extremes.none(units, k, device, signs=(1, -1))
        self.top, self.bottom = self._ends.at(1), self._ends.at(-1)
        self.sums, self.squares = (
            torch.zeros(units, dtype=torch.float64, device=device) for _ in range(2)
        )
        self.positive = torch.zeros(units, dtype=torch.long, device=device)
        self.sampled = torch.full((len(sample), units), torch.nan, device=device)
        self.sample = sample
        self._places = torch.zeros(0, dtype=torch.long, device=device)
        self._room = torch.empty(0, 0, device=device)
        self._slots: tuple[Tensor, Tensor] = (self._places, self._places)

    def begin(self, places: Int[np.ndarray, " token"]) -> None:
        """Say where the tokens of the next tables stand in the corpus."""
        device = self.sums.device
        self._places, self.is_whole = torch.as_tensor(places, device=device), False
        at = np.searchsorted(self.sample, places).clip(max=max(0, len(self.sample) - 1))
        hit = self.sample[at] == places if len(self.sample) else np.zeros(len(places), bool)
        self._slots = (
            torch.as_tensor(np.flatnonzero(hit), device=device),
            torch.as_tensor(at[hit], device=device),
        )

    def take(self, family: int, table: Float[Tensor, "token unit"]) -> None:
        """Take in one family's table of the chunk.

        Raises:
            ScanError: If a value is not finite.
        """
        table = table.float()
        units = slice(self._first[family], self._first[family + 1])
        if self._room.shape != table.shape:
            self._room = torch.empty_like(table)
        # Into memory that is there, and as numbers: sums of truth values take ten times as long.
        squares = torch.mul(table, table, out=self._room).sum(0)
        # A square that is too large for its format would be one of the model's numbers gone wrong.
        if not bool(torch.isfinite(squares).all()):
            raise ScanError("an activation is not finite: nothing can be ranked by it")
        self.sums[units] += table.sum(0)
        self.squares[units] += squares
        self.positive[units] += torch.gt(table, 0, out=self._room).sum(0).long()
        self._ends.of(units).meet(table, self._places)
        inside, slots = self._slots
        self.sampled[slots, units] = table[inside]

    def end(self) -> None:
        """The chunk is done."""
        self.chunks += 1
        self.tokens += len(self._places)
        self.is_whole = True

    def save(self, folder: Path, key: dict[str, Any]) -> None:
        """Write everything, replacing what was there only once it is whole.

        Args:
            folder: Where to.
            key: What determines the scan; JSON types.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = {"chunks": self.chunks, "tokens": self.tokens, "key": key}
        # One file, so that numbers and how far they go are replaced together.
        content = safetensors.torch.save(
            {name: value.contiguous() for name, value in self._tensors().items()},
            metadata={"state": json.dumps(state, sort_keys=True)},
        )
        files.write_whole(folder / "state.safetensors", content)

    def load(self, folder: Path, key: dict[str, Any]) -> bool:
        """Go on from what `save` wrote.

        Args:
            folder: Where to look.
            key: What determines the scan.

        Returns:
            Whether something was there; else nothing changed.

        Raises:
            ScanError: If what is there is damaged or of another scan.
        """
        file = folder / "state.safetensors"
        if not file.is_file():
            return False
        try:
            with safetensors.safe_open(file, "pt") as held:
                state = json.loads((held.metadata() or {})["state"])
                found = {name: held.get_tensor(name) for name in held.keys()}
            if state["key"] != json.loads(json.dumps(key)):
                raise ScanError(f"{folder} holds another scan: choose another folder")
            for name, mine in self._tensors().items():
                mine.copy_(found[name])
            self.chunks, self.tokens = int(state["chunks"]), int(state["tokens"])
        except (safetensors.SafetensorError, KeyError, RuntimeError, json.JSONDecodeError) as error:
            raise ScanError(f"{folder} is damaged ({error}): delete it to begin anew") from error
        return True

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "top.values": self.top.values,
            "top.places": self.top.places,
            "bottom.values": self.bottom.values,
            "bottom.places": self.bottom.places,
            "sums": self.sums,
            "squares": self.squares,
            "positive": self.positive,
            "sampled": self.sampled,
        }
