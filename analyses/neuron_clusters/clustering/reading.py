"""What do units do: their values over examples, and what is known of each example?

1. Text (a `Corpus`, or texts): at so many of its tokens, drawn at random; special ones do not
   count. A bundled model reads its own corpus if nothing is given.
2. A `Concept`: its examples, with its labels; an array of inputs of a network: each input.
3. A network of modular arithmetic (`a b =`): every pair of residues, at `=`.

Limits: units of a network are read as `Concept.reading` says, the mean over places if nothing does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int

from analyses.feature_visualization import places
from analyses.neuron_clusters import marks
from workbench.core import results
from workbench.core.engine import running, scan
from workbench.core.engine import units as families
from workbench.core.modular import fourier, theory
from workbench.core.modular.tasks import Task, TaskError
from workbench.core.prompts.concepts import Concept
from workbench.core.prompts.corpus import Corpus, CorpusError

if TYPE_CHECKING:
    from workbench.core.engine.populations import Bench, Population

# Examples without which a correlation says nothing.
FEWEST = 20
_POSITIONS, _PIECE = 3, 4096
_BEFORE, _LONGEST = 5, 60


@dataclasses.dataclass(frozen=True, eq=False)
class Readings:
    """Units over examples.

    Attributes:
        values: Of every unit.
        name: What a reader calls the inputs.
        mark: For the parameters of a provenance.
        corpus: Where examples are tokens of a text.
        rows: Row of each example there.
        positions: Position of each example there.
        bench: Where examples are of a concept, or inputs of a network.
        chosen: Which of the bench's examples they are.
        classes: Class of each example, where classes are known.
        group: Of a modular network: its cyclic group, whose pairs are the examples, (i, j) in
            order.
    """

    values: Float32[np.ndarray, "example unit"]
    name: str
    mark: dict[str, Any]
    corpus: Corpus | None = None
    rows: Int[np.ndarray, " example"] | None = None
    positions: Int[np.ndarray, " example"] | None = None
    bench: Bench | None = None
    chosen: Int[np.ndarray, " example"] | None = None
    classes: tuple[str, ...] = ()
    group: theory.Cyclic | None = None


def read(
    population: Population,
    inputs: Any,
    *,
    most: int,
    classes: Sequence[str] | None,
    task: Task | None,
    seed: int,
    report: running.Progress,
) -> Readings | None:
    """Read units over whatever is given.

    Args:
        population: The units.
        inputs: A corpus, texts, a concept, an array of a network's inputs, or None.
        most: Examples at the most; of more, so many are drawn.
        classes: Class of each input of a network.
        task: Of a modular network.
        seed: Of the draw.
        report: Told how far it is.

    Returns:
        The readings; None where nothing is given and the subject brings nothing along.

    Raises:
        ValueError: If the inputs are none of these, too few, or not for this subject.
    """
    model = getattr(population, "model", None)
    rng = np.random.default_rng(seed)
    if classes is not None and not isinstance(inputs, np.ndarray):
        raise ValueError("classes belong to an array of a network's inputs, one for each of these")
    if model is not None and not isinstance(inputs, Concept):
        if inputs is None:
            group = group_of(model, task)
            if group is not None and all(place.kind == "neuron" for place in population.places):
                return _every_pair(population, model, group, report)
            try:
                inputs = Corpus.bundled(model)
            except CorpusError:
                return None
        if isinstance(inputs, np.ndarray):
            raise ValueError(
                "a language model reads a Corpus, texts or a Concept, not an array of inputs"
            )
        corpus = inputs if isinstance(inputs, Corpus) else Corpus.from_texts(model, inputs)
        return _tokens(population, model, corpus, most, rng, report)
    if inputs is None:
        return None
    return _examples(population, inputs, most, classes, rng, report)


def group_of(model: Any, task: Task | None) -> theory.Cyclic | None:
    """The cyclic group that a network of modular arithmetic computes in; None for other models.

    Args:
        model: The bridge.
        task: Its task; addition modulo its number of tokens less one if not given.

    Returns:
        The group.
    """
    cfg = model.cfg
    if cfg.n_layers != 1 or cfg.n_ctx != _POSITIONS or cfg.normalization_type is not None:
        return None
    if task is None:
        try:
            task = Task(p=int(cfg.d_vocab) - 1)
        except TaskError:
            return None
    return theory.cyclic(task) if task.p < cfg.d_vocab else None


def _every_pair(
    population: Population, model: Any, group: theory.Cyclic, report: running.Progress
) -> Readings:
    first, second = np.meshgrid(group.first, group.second, indexing="ij")
    equals = np.full(first.size, int(model.cfg.d_vocab) - 1)
    tokens = torch.from_numpy(np.stack([first.ravel(), second.ravel(), equals], 1))
    hook = population.places[0].hook
    pieces: list[np.ndarray] = []
    for start in range(0, len(tokens), _PIECE):
        report(start / len(tokens), "reading every pair")
        some = tokens[start : start + _PIECE].to(model.cfg.device)
        _, kept = running.run_and_keep(model, some, [hook])
        pieces.append(kept[hook][:, -1].float().cpu().numpy())
    name = f"every pair of {group.n} elements, at ="
    mark = {"pairs": results.mark(tokens.numpy())}
    return Readings(_finite(population, np.concatenate(pieces)), name, mark, group=group)


def _tokens(  # noqa: PLR0917 -- one step of `read`
    population: Population,
    model: Any,
    corpus: Corpus,
    most: int,
    rng: np.random.Generator,
    report: running.Progress,
) -> Readings:
    drawn = places.sample(corpus, 2 * most, rng)
    drawn = drawn[places.counted(corpus, drawn)]
    if len(drawn) > most:
        drawn = np.sort(rng.choice(drawn, most, replace=False, shuffle=False))
    _enough(len(drawn), corpus.name)
    at = np.full(corpus.n_tokens, -1)
    at[drawn] = np.arange(len(drawn))
    known: tuple[families.Family, ...] = getattr(population, "families", ())
    starts = np.cumsum([0, *(place.size for place in population.places)])
    table = np.full((len(drawn), len(population)), np.nan, dtype=np.float32)
    rows, positions = corpus.locate(drawn)
    # Rows without a drawn token are not run.
    some = np.unique(rows)
    smaller = corpus.take(some)
    reader = scan.Reader(model, smaller, known)
    for done, chunk in enumerate(smaller.chunks()):
        report(done / smaller.n_chunks, f"reading {corpus.name}")
        row, position = smaller.locate(smaller.numbers(chunk))
        example = at[corpus.firsts[some[row]] + position]
        here = np.flatnonzero(example >= 0)

        def keep(number: int, values: torch.Tensor, example: Any = example, here: Any = here):
            picked = values[torch.from_numpy(here).to(values.device)].float().cpu().numpy()
            table[example[here], starts[number] : starts[number + 1]] = picked

        reader.read(chunk, keep)
    mark = {"corpus": corpus.fingerprint}
    return Readings(
        _finite(population, table), corpus.name, mark, corpus=corpus, rows=rows, positions=positions
    )


def _examples(  # noqa: PLR0917 -- one step of `read`
    population: Population,
    inputs: Any,
    most: int,
    classes: Sequence[str] | None,
    rng: np.random.Generator,
    report: running.Progress,
) -> Readings:
    if isinstance(inputs, np.ndarray):
        # Inputs of which nothing is known have their number for a target.
        number = np.arange(len(inputs), dtype=np.float64)[:, None]
        _enough(len(inputs), "the array of inputs")
        concept = Concept(inputs, number, "inputs", reading="mean")
        if classes is not None and len(classes) != len(inputs):
            raise ValueError(f"{len(classes):,} classes for {len(inputs):,} inputs: give one each")
        labels = None if classes is None else np.array([str(one) for one in classes])
    elif isinstance(inputs, Concept):
        concept = inputs
        has = concept.examples().labels
        names = np.array(["not " + concept.name, concept.name])
        labels = None if concept.graded else names[has.astype(np.int64)]
    else:
        raise ValueError(
            f"a {type(inputs).__name__} is nothing to read: give a Concept, or an array of inputs "
            "of a network, or a Corpus or texts of a language model"
        )
    report(0.0, "reading the examples")
    bench = population.bench(concept)
    count = len(bench.examples)
    _enough(count, concept.name)
    chosen = np.sort(rng.choice(count, min(most, count), replace=False, shuffle=False))
    mark: dict[str, Any] = {"concept": marks.described(concept)}
    if labels is not None:
        mark["classes"] = results.mark(np.unique(labels, return_inverse=True)[1].reshape(-1))
    known = () if labels is None else tuple(str(label) for label in labels[chosen])
    return Readings(
        bench.values[chosen], concept.name, mark, bench=bench, chosen=chosen, classes=known
    )


def spoken(model: Any, readings: Readings, example: int) -> str:
    """An example in a few words.

    Args:
        model: The bridge; None for a network.
        readings: What was read.
        example: Which example.

    Returns:
        The last few tokens up to it, its text, its pair of elements, or the number of the input.
    """
    if readings.group is not None:
        i, j = divmod(example, readings.group.n)
        return f"{readings.group.first[i]} {readings.group.second[j]} ="
    if readings.corpus is not None and readings.rows is not None and readings.positions is not None:
        row, position = int(readings.rows[example]), int(readings.positions[example])
        tokens = readings.corpus.row(row)[max(0, position - _BEFORE) : position + 1]
        return places.text(model, tokens.tolist())[-_LONGEST:]
    if readings.bench is not None and readings.chosen is not None:
        row = int(readings.bench.examples.row[readings.chosen[example]])
        given = readings.bench.concept.inputs[row]
        position = int(readings.bench.examples.position[readings.chosen[example]])
        if isinstance(given, str):
            return given[:_LONGEST] + (f" (token {position})" if position >= 0 else "")
        if readings.bench.concept.is_text:
            return places.text(model, [int(t) for t in given[: position + 1][-_BEFORE - 1 :]])
        return f"input {row}" + (f" ({readings.classes[example]})" if readings.classes else "")
    return f"example {example}"


def shares(readings: Readings) -> Float64[np.ndarray, "frequency unit"]:
    """Share of each unit's variance over both operands that each frequency explains.

    Args:
        readings: Of a network of modular arithmetic.

    Returns:
        One row a frequency.

    Raises:
        ValueError: If they are of something else.
    """
    if readings.group is None:
        raise ValueError(
            "by='function' compares waves over residues: the model must be one layer without "
            "normalisation that reads `a b =` of a cyclic group, and no inputs given; give "
            "by='coactivation'"
        )
    n = readings.group.n
    return fourier.explained_by_frequency(readings.values.reshape(n, n, -1))


def _enough(count: int, name: str) -> None:
    if count < FEWEST:
        raise ValueError(
            f"{name} has {count:,} examples: give at least {FEWEST}, or correlations of units are "
            "those of chance"
        )


def _finite(population: Population, table: np.ndarray) -> np.ndarray:
    if not np.isfinite(table).all():
        bad = int(np.flatnonzero(~np.isfinite(table).all(0))[0])
        raise ValueError(
            f"{population.names[bad]} is not a finite number at some examples: the model's weights "
            "or its number format are broken"
        )
    return table
