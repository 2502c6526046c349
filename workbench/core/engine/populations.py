"""Populations: all units of a model or network side by side, read and edited over a concept.

1. `of_model` takes the neurons, heads, stream coordinates or dictionary latents of a language
   model, `of_network` the channels of a network, all as one list of units. Each unit is in a place:
   what lies at one hook point (the neurons of a layer, its heads, a branch).
2. `Bench` reads a concept's examples: one number an example and unit.
3. It also runs the model on the examples with an `Edit` in place, and hands the logits at each
   example to a score. An edit gives units their mean everywhere (at all tokens or places), or to
   each example what another example has there.

Units: activations as the model has them; a head's number is the L2 norm of what it adds to the
stream. Logits of a text are those after the example's token, or after its last one.

Limits: what another example has can be given at one token only (not where units are read as a mean
over tokens); images are given whole maps. All examples of a row are edited in one run, so that a
later one sees the edits before it.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Int

from workbench.core import results
from workbench.core.engine import running, scan
from workbench.core.engine import units as families
from workbench.core.prompts import tokenization
from workbench.core.prompts.corpus import Corpus

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.concepts import Concept, Examples

Tensor = torch.Tensor
# Logits at the examples and which examples these are, to a number (or several) an example.
Score = Callable[[Tensor, Int[np.ndarray, " example"]], Tensor]
# Inputs of a network that run together, and logits of a language model that are held together.
_TOGETHER, _LOGITS = 256, 40_000_000
_IMAGE = 2


@dataclasses.dataclass(frozen=True)
class Place:
    """What lies at one hook point.

    Attributes:
        name: As a reader calls it: "neuron 2" (the neurons of layer 2), "mixed0.branch5".
        hook: The hook point.
        kind: Of its units: "neuron", "head", "channel", "latent", "direction", or a stream.
        layer: Depth in the model, 0 first; branches side by side have one depth.
        size: How many units.
    """

    name: str
    hook: str
    kind: str
    layer: int
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """Units that are given other values.

    Attributes:
        units: Which, as the population numbers them.
        donors: For each example the one whose activation it gets; None for the mean over all
            examples, everywhere.
    """

    units: Int[np.ndarray, " unit"]
    donors: Int[np.ndarray, " example"] | None = None


class Population(abc.ABC):
    """Units of a subject.

    Attributes:
        places: What they lie at, in the order of the units.
    """

    places: tuple[Place, ...]

    @functools.cached_property
    def place(self) -> Int[np.ndarray, " unit"]:
        """Number of each unit's place."""
        return np.repeat(np.arange(len(self.places)), [place.size for place in self.places])

    @functools.cached_property
    def index(self) -> Int[np.ndarray, " unit"]:
        """Number of each unit within its place."""
        return np.concatenate([np.arange(place.size) for place in self.places])

    @functools.cached_property
    def layer(self) -> Int[np.ndarray, " unit"]:
        """Depth of each unit."""
        return np.array([place.layer for place in self.places])[self.place]

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each unit: "neuron 2.13", "mixed0.branch5.7"."""
        return tuple(f"{p.name}.{i}" for p in self.places for i in range(p.size))

    def __len__(self) -> int:
        """How many units."""
        return sum(place.size for place in self.places)

    def numbers(self, names: Sequence[str]) -> Int[np.ndarray, " unit"]:
        """Units by name.

        Raises:
            ValueError: If there is none of a name.
        """
        known = {name: number for number, name in enumerate(self.names)}
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f"there is no unit {missing[0]!r} among the {len(self):,} that are looked at "
                f"({self.names[0]} to {self.names[-1]})"
            )
        return np.array([known[name] for name in names], dtype=np.int64)

    @abc.abstractmethod
    def bench(self, concept: Concept) -> Bench:
        """Prepare a concept's inputs for this subject.

        Args:
            concept: What is looked for.

        Returns:
            The bench.

        Raises:
            ValueError: If the subject cannot read the inputs.
        """

    @abc.abstractmethod
    def provenance(
        self, *, analysis: str, parameters: dict[str, Any], seed: int, wall_time: float
    ) -> results.Provenance:
        """Describe a run on the subject.

        Args:
            analysis: Module and function.
            parameters: Every argument that changes numbers; JSON types only.
            seed: Its seed.
            wall_time: Seconds.

        Returns:
            The provenance.
        """


class Bench(abc.ABC):
    """A concept's examples in front of a population.

    Attributes:
        population: Whose units.
        concept: The concept.
        examples: What counts; positions are those in the rows that the subject reads.
    """

    def __init__(self, population: Population, concept: Concept, examples: Examples) -> None:
        self.population, self.concept, self.examples = population, concept, examples

    @functools.cached_property
    def values(self) -> Float32[np.ndarray, "example unit"]:
        """Every unit at every example, read once.

        Raises:
            ValueError: If a value is not finite.
        """
        table = self.read()
        if not np.isfinite(table).all():
            bad = int(np.flatnonzero(~np.isfinite(table).all(0))[0])
            raise ValueError(
                f"{self.population.names[bad]} is not a finite number at some examples of "
                f"{self.concept.name!r}: the model's weights or its number format are broken"
            )
        table.setflags(write=False)
        return table

    @abc.abstractmethod
    def read(
        self, progress: running.Progress = running.no_progress
    ) -> Float32[np.ndarray, "example unit"]:
        """Every unit at every example."""

    @abc.abstractmethod
    def scores(
        self, score: Score, edit: Edit | None = None
    ) -> Float32[np.ndarray, "example *score"]:
        """Run the subject on all examples.

        Args:
            score: What is kept of the logits at each example.
            edit: What is changed; nothing if not given.

        Returns:
            One row an example, in their order.
        """


def of_model(
    model: TransformerBridge,
    kinds: str | Sequence[str] = "neuron",
    *,
    layers: Sequence[int] | None = None,
    dictionary: Any = None,
) -> Population:
    """Units of a language model.

    Args:
        model: The bridge.
        kinds: Any of `units.KINDS`.
        layers: Which layers; all if not given.
        dictionary: Instead of the coordinates of one kind in one layer: the latents of a sparse
            autoencoder that reads there.

    Returns:
        The population, in the order of the layers.

    Raises:
        ValueError: If a kind or layer does not exist.
    """
    chosen = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    wanted = range(int(model.cfg.n_layers)) if layers is None else sorted(set(layers))
    if not chosen or not wanted:
        raise ValueError("no units: give at least one kind and one layer")
    found = [
        families.family(model, kind, layer, dictionary=dictionary)
        for layer in wanted
        for kind in dict.fromkeys(chosen)
    ]
    return _ModelPopulation(model, found, dictionary)


def of_network(network: HookedRootModule, hooks: Sequence[str] | None = None) -> Population:
    """Channels of a network.

    Args:
        network: Any network with hook points, whose `cfg.input_shape` says what it reads.
        hooks: Hook points whose channels (axis 1) are the units. All but the last one
            (`hook_logits`) and those that only gather others of the same stage, if not given.

    Returns:
        The population, in the order of the stages.

    Raises:
        ValueError: If there is no such hook point.
    """
    own = copy.deepcopy(network).eval().requires_grad_(False)
    known = list(own.hook_dict)
    chosen = _branches(known) if hooks is None else list(hooks)
    missing = [hook for hook in chosen if hook not in known]
    if missing or not chosen:
        raise ValueError(
            f"the network has no hook point {missing[0]!r}: it has {', '.join(known)}"
            if missing
            else "no hook points: give at least one"
        )
    return _NetworkPopulation(network, own, chosen)


def population_of(
    subject: Any,
    kinds: str | Sequence[str] = "neuron",
    *,
    layers: Sequence[int] | None = None,
    dictionary: Any = None,
) -> Population:
    """Units of whatever is given: a language model, a network, or a population as it is.

    Args:
        subject: A bridge, a network with hook points, or a population.
        kinds: Of a language model's units.
        layers: Of a language model.
        dictionary: Of a language model.

    Returns:
        The population.

    Raises:
        ValueError: If it is none of these.
    """
    from transformer_lens.HookedRootModule import HookedRootModule
    from transformer_lens.model_bridge import TransformerBridge

    if isinstance(subject, Population):
        return subject
    if isinstance(subject, TransformerBridge):
        return of_model(subject, kinds, layers=layers, dictionary=dictionary)
    if isinstance(subject, HookedRootModule):
        return of_network(subject)
    raise ValueError(
        f"a {type(subject).__name__} has no units: give a language model (load_model) or a network "
        "with hook points (load_network)"
    )


def _branches(hooks: Sequence[str]) -> list[str]:
    """Hook points that gather no others and are not the class scores."""
    stages = {hook.rsplit(".", 1)[0] for hook in hooks if "." in hook}
    gathers = {stage for stage in stages if any(s.startswith(f"{stage}.") for s in stages)}
    return [h for h in hooks if "." in h and h.rsplit(".", 1)[0] not in gathers]


class _ModelPopulation(Population):
    """Units of a bridge."""

    def __init__(
        self, model: TransformerBridge, found: Sequence[families.Family], dictionary: Any
    ) -> None:
        self.model, self.families, self.dictionary = model, tuple(found), dictionary
        self.places = tuple(
            Place(f"{f.kind} {f.layer}", f.hook, f.kind, f.layer, f.size) for f in found
        )

    def bench(self, concept: Concept) -> Bench:
        if not concept.is_text:
            raise ValueError(
                f"{concept.name!r} holds arrays of shape {concept.inputs.shape[1:]}: a language "
                "model reads texts or rows of tokens"
            )
        return _TextBench(self, concept)

    def provenance(
        self, *, analysis: str, parameters: dict[str, Any], seed: int, wall_time: float
    ) -> results.Provenance:
        more = {"places": [place.name for place in self.places]}
        more |= families.marks(None, self.dictionary)
        return results.provenance(
            self.model,
            analysis=analysis,
            parameters={**more, **parameters},
            seed=seed,
            wall_time=wall_time,
        )


class _TextBench(Bench):
    """Rows of tokens in front of a bridge."""

    population: _ModelPopulation

    def __init__(self, population: _ModelPopulation, concept: Concept) -> None:
        rows, shift = _rows(population.model, concept)
        found = concept.examples()
        self._rows, self._shift = rows, shift
        lengths = np.array([len(row) for row in rows])
        at = {"token": found.position + shift, "last": lengths[found.row] - 1}
        # A mean or maximum over a text has no position of its own; its logits are the last ones.
        position = at.get(concept.reading, at["last"])
        super().__init__(population, concept, dataclasses.replace(found, position=position))
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._corpus = Corpus(concept.name, np.concatenate(rows).astype(np.int32), starts)

    def read(
        self, progress: running.Progress = running.no_progress
    ) -> Float32[np.ndarray, "example unit"]:
        population, corpus = self.population, self._corpus
        starts = np.cumsum([0, *(place.size for place in population.places)])
        table = np.full((len(self.examples), len(population)), np.nan, dtype=np.float32)
        pooled = self.concept.reading in ("mean", "max")
        example_at = np.full(corpus.n_tokens, -1, dtype=np.int64)
        if pooled:
            example_of_row = np.full(len(corpus), -1, dtype=np.int64)
            example_of_row[self.examples.row] = np.arange(len(self.examples))
            example_at = np.repeat(example_of_row, corpus.lengths)
            # What the model puts in front is no part of the text.
            example_at[(corpus.firsts[:-1, None] + np.arange(self._shift)).ravel()] = -1
        else:
            places = corpus.firsts[self.examples.row] + self.examples.position
            example_at[places] = np.arange(len(self.examples))
        reader = scan.Reader(population.model, corpus, population.families)
        for done, chunk in enumerate(corpus.chunks()):
            example = example_at[corpus.numbers(chunk)]
            here = np.flatnonzero(example >= 0)

            def keep(number: int, values: Tensor, example: Any = example, here: Any = here) -> None:
                columns = slice(starts[number], starts[number + 1])
                chosen = values[torch.from_numpy(here).to(values.device)].float()
                if pooled:
                    whole, inverse = np.unique(example[here], return_inverse=True)
                    table[whole, columns] = _pooled(chosen, inverse, self.concept.reading)
                else:
                    table[example[here], columns] = chosen.cpu().numpy()

            reader.read(chunk, keep)
            progress((done + 1) / corpus.n_chunks, "reading the examples")
        return table

    def scores(
        self, score: Score, edit: Edit | None = None
    ) -> Float32[np.ndarray, "example *score"]:
        model, corpus, examples = self.population.model, self._corpus, self.examples
        if edit is not None and edit.donors is not None and self.concept.reading in ("mean", "max"):
            raise ValueError(
                f"{self.concept.name!r} is read as the {self.concept.reading} over tokens, so what "
                "another text has there fits no token: read it at the last one (reading='last')"
            )
        found: np.ndarray | None = None
        for chunk in corpus.chunks():
            most = max(1, _LOGITS // (chunk.tokens.shape[1] * int(model.cfg.d_vocab)))
            for start in range(0, len(chunk.rows), most):
                rows = chunk.rows[start : start + most]
                tokens = chunk.tokens[start : start + most, : int(corpus.lengths[rows].max())]
                where = np.full(len(corpus), -1)
                where[rows] = np.arange(len(rows))
                chosen = np.flatnonzero(where[examples.row] >= 0)
                if not len(chosen):
                    continue
                spots = (where[examples.row[chosen]], examples.position[chosen])
                hooks = {} if edit is None else self._hooks(edit, spots, chosen)
                logits = running.run(model, tokens, hooks)[spots[0], spots[1]]
                with torch.inference_mode():
                    kept = score(logits.float(), chosen).float().cpu().numpy()
                if found is None:
                    found = np.full((len(examples), *kept.shape[1:]), np.nan, dtype=np.float32)
                found[chosen] = kept
        assert found is not None, "a concept has examples"
        return found

    @functools.cached_property
    def _raw(self) -> dict[str, Tensor]:
        """Activation of each hook point at every example: what edits write."""
        held: dict[str, list[Tensor]] = {}
        order: list[np.ndarray] = []
        corpus, examples = self._corpus, self.examples
        hooks = sorted({place.hook for place in self.population.places})
        for chunk in corpus.chunks():
            where = np.full(len(corpus), -1)
            where[chunk.rows] = np.arange(len(chunk.rows))
            chosen = np.flatnonzero(where[examples.row] >= 0)
            _, kept = running.run_and_keep(self.population.model, chunk.tokens, hooks)
            spots = (where[examples.row[chosen]], examples.position[chosen])
            for hook, value in kept.items():
                held.setdefault(hook, []).append(value[spots[0], spots[1]])
            order.append(chosen)
        back = np.argsort(np.concatenate(order), kind="stable")
        return {hook: torch.cat(values)[torch.from_numpy(back)] for hook, values in held.items()}

    def _hooks(
        self, edit: Edit, spots: tuple[np.ndarray, np.ndarray], chosen: np.ndarray
    ) -> dict[str, running.HookFunction]:
        population = self.population
        rows, positions = torch.from_numpy(spots[0]), torch.from_numpy(spots[1])
        by_hook: dict[str, list[running.HookFunction]] = {}
        for number, family in enumerate(population.families):
            mine = edit.units[population.place[edit.units] == number]
            if not len(mine):
                continue
            index = torch.from_numpy(population.index[mine])
            raw = self._raw[family.hook]
            everywhere = edit.donors is None
            given = (
                raw.mean(0) if edit.donors is None else raw[torch.from_numpy(edit.donors[chosen])]
            )

            def write(  # noqa: PLR0913, PLR0917 -- all but the first are bound in this loop
                activation: Tensor,
                family: families.Family = family,
                index: Tensor = index,
                given: Tensor = given,
                everywhere: bool = everywhere,
                raw: Tensor = raw,
            ) -> Tensor:
                spot = (...,) if everywhere else (rows, positions)
                changed = activation.clone()
                changed[spot] = _written(family, activation[spot], given, index, raw)
                return changed

            by_hook.setdefault(family.hook, []).append(write)
        return {
            hook: functools.partial(_one_after_another, several)
            for hook, several in by_hook.items()
        }


def _one_after_another(functions: Sequence[running.HookFunction], activation: Tensor) -> Tensor:
    for function in functions:
        activation = function(activation)
    return activation


def _written(
    family: families.Family, own: Tensor, given: Tensor, index: Tensor, raw: Tensor
) -> Tensor:
    """The activation with some of a family's units replaced by those of another activation."""
    if family.kind == "head":
        changed = own.clone()
        changed[..., index, :] = given[..., index, :]
        return changed
    if family.kind == "latent":
        # The mean of a latent is not the latent of the mean.
        wanted = (
            family.read(raw[:, None]).mean((0, 1))
            if given.ndim == 1
            else (family.read(given[:, None])[:, 0])
        )
        now = family.read(own if own.ndim > _IMAGE else own[:, None])
        now = now if own.ndim > _IMAGE else now[:, 0]
        writes = torch.stack([family.direction(int(i)) for i in index])
        return own + (wanted[..., index] - now[..., index]) @ writes
    changed = own.clone()
    changed[..., index] = given[..., index]
    return changed


def _rows(model: TransformerBridge, concept: Concept) -> tuple[list[np.ndarray], int]:
    """Rows of tokens, and how many of them stand before what labels are given for."""
    n_ctx, d_vocab = int(model.cfg.n_ctx), int(model.cfg.d_vocab)
    if not isinstance(concept.inputs[0], str):
        rows = [np.asarray(row, dtype=np.int64) for row in concept.inputs]
        for row in rows:
            if len(row) > n_ctx or row.min() < 0 or row.max() >= d_vocab:
                raise ValueError(
                    f"a row of {concept.name!r} has {len(row)} tokens from {row.min()} to "
                    f"{row.max()}: the model reads up to {n_ctx} tokens from 0 to {d_vocab - 1}"
                )
        return rows, 0
    rows = [np.array(tokenization.encode(model, text), dtype=np.int64) for text in concept.inputs]
    shift = len(tokenization.front(model))
    if concept.per_token:
        for row, labels, text in zip(rows, concept.labels, concept.inputs, strict=True):
            if len(row) - shift != len(labels):
                raise ValueError(
                    f"{text!r} has {len(labels)} labels, and the model makes "
                    f"{len(row) - shift} tokens of it: "
                    + " | ".join(tokenization.strings(model, row[shift:].tolist()))
                )
    return rows, shift


def _pooled(values: Tensor, group: np.ndarray, reading: str) -> np.ndarray:
    """Mean or maximum over the tokens of each group."""
    to = torch.from_numpy(group).to(values.device)[:, None].expand_as(values)
    out = torch.zeros(int(group.max()) + 1, values.shape[1], device=values.device)
    how = "mean" if reading == "mean" else "amax"
    return out.scatter_reduce(0, to, values, how, include_self=False).cpu().numpy()


class _NetworkPopulation(Population):
    """Channels of a network."""

    def __init__(
        self, network: HookedRootModule, own: HookedRootModule, hooks: Sequence[str]
    ) -> None:
        self.network, self.own, self.hooks = network, own, list(hooks)
        # Hooks of two runs would see each other.
        self.lock = threading.RLock()
        weight = next(iter(own.parameters()))
        self.device, self.dtype = weight.device, weight.dtype
        config: Any = own.cfg
        with torch.inference_mode():
            blank = torch.zeros((1, *config.input_shape), device=self.device, dtype=self.dtype)
            seen = self.run(blank, {})[1]
        depth = {name: i for i, name in enumerate(dict.fromkeys(h.split(".")[0] for h in hooks))}
        self.places = tuple(
            Place(
                hook.removesuffix(".hook_out"),
                hook,
                "channel",
                depth[hook.split(".")[0]],
                int(seen[hook].shape[1]),
            )
            for hook in hooks
        )

    def run(
        self, inputs: Tensor, edits: dict[str, Callable[[Tensor], Tensor]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and what passes the hook points, after the edits."""
        seen: dict[str, Tensor] = {}

        def look(name: str) -> Any:
            def hook(activation: Tensor, hook: object = None) -> Tensor:
                seen[name] = edits[name](activation) if name in edits else activation
                return seen[name]

            return hook

        with (
            self.lock,
            torch.inference_mode(),
            self.own.hooks(fwd_hooks=[(name, look(name)) for name in self.hooks]),
        ):
            return self.own(inputs), seen

    def bench(self, concept: Concept) -> Bench:
        config: Any = self.own.cfg
        if concept.is_text or concept.inputs.shape[1:] != tuple(config.input_shape):
            given = "texts" if concept.is_text else f"arrays of shape {concept.inputs.shape[1:]}"
            raise ValueError(
                f"{concept.name!r} holds {given}: this network reads arrays of shape "
                f"{tuple(config.input_shape)}"
            )
        return _ArrayBench(self, concept)

    def provenance(
        self, *, analysis: str, parameters: dict[str, Any], seed: int, wall_time: float
    ) -> results.Provenance:
        from workbench.core.networks import sources

        return results.described(
            sources.network_name(self.network),
            sources.network_fingerprint(self.network),
            analysis=analysis,
            parameters={"places": [place.name for place in self.places], **parameters},
            seed=seed,
            wall_time=wall_time,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
        )


class _ArrayBench(Bench):
    """Inputs in front of a network."""

    population: _NetworkPopulation

    def __init__(self, population: _NetworkPopulation, concept: Concept) -> None:
        super().__init__(population, concept, concept.examples())

    def _inputs(self, examples: np.ndarray) -> Tensor:
        rows = self.concept.inputs[self.examples.row[examples]]
        return torch.tensor(rows).to(self.population.device, self.population.dtype)

    def read(
        self, progress: running.Progress = running.no_progress
    ) -> Float32[np.ndarray, "example unit"]:
        count = len(self.examples)
        pieces: list[np.ndarray] = []
        for start in range(0, count, _TOGETHER):
            here = np.arange(start, min(start + _TOGETHER, count))
            _, seen = self.population.run(self._inputs(here), {})
            columns = [self._one_number(seen[hook]) for hook in self.population.hooks]
            pieces.append(torch.cat(columns, 1).float().cpu().numpy())
            progress(min(1.0, (start + _TOGETHER) / count), "reading the examples")
        return np.concatenate(pieces)

    def _one_number(self, activation: Tensor) -> Tensor:
        if activation.ndim == _IMAGE:
            return activation
        flat = activation.flatten(2)
        return flat.amax(2) if self.concept.reading == "max" else flat.mean(2)

    @functools.cached_property
    def _means(self) -> dict[str, Tensor]:
        """Mean of each channel over all examples and places."""
        sums: dict[str, Tensor] = {}
        for start in range(0, len(self.examples), _TOGETHER):
            here = np.arange(start, min(start + _TOGETHER, len(self.examples)))
            for hook, seen in self.population.run(self._inputs(here), {})[1].items():
                flat = seen.double().flatten(2).mean(2) if seen.ndim > _IMAGE else seen.double()
                sums[hook] = sums.get(hook, torch.zeros_like(flat[0])) + flat.sum(0)
        return {hook: total / len(self.examples) for hook, total in sums.items()}

    def scores(
        self, score: Score, edit: Edit | None = None
    ) -> Float32[np.ndarray, "example *score"]:
        pieces: list[np.ndarray] = []
        for start in range(0, len(self.examples), _TOGETHER):
            here = np.arange(start, min(start + _TOGETHER, len(self.examples)))
            edits = {} if edit is None else self._edits(edit, here)
            logits, _ = self.population.run(self._inputs(here), edits)
            with torch.inference_mode():
                pieces.append(score(logits.float(), here).float().cpu().numpy())
        return np.concatenate(pieces)

    def _edits(self, edit: Edit, here: np.ndarray) -> dict[str, Callable[[Tensor], Tensor]]:
        population = self.population
        given = (
            {} if edit.donors is None else population.run(self._inputs(edit.donors[here]), {})[1]
        )
        # Made before the run: a run within a run would lose the outer one's hooks.
        means = {} if edit.donors is not None else self._means
        edits: dict[str, Callable[[Tensor], Tensor]] = {}
        for number, hook in enumerate(population.hooks):
            mine = edit.units[population.place[edit.units] == number]
            if not len(mine):
                continue
            index = torch.from_numpy(population.index[mine])

            def write(activation: Tensor, hook: str = hook, index: Tensor = index) -> Tensor:
                changed = activation.clone()
                if edit.donors is not None:
                    changed[:, index] = given[hook][:, index]
                else:
                    mean = means[hook][index].to(activation)
                    changed[:, index] = mean.reshape(-1, *[1] * (activation.ndim - 2))
                return changed

            edits[hook] = write
        return edits
