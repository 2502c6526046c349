"""What do the weights and activations of one moment say about waves, and how well would waves do?

1. Order the pairs by the elements of the group (`theory.Cyclic`), so that the answer of elements
   i and j is element i + j. Pairs outside of the group take no part in what follows.
2. Directions of frequency k: cos(w_k(a + b)) and sin(w_k(a + b)), w_k = 2πk/n, as functions of the
   pair. P_S projects the logits of each answer on those of the key set S.
3. Restricted loss: of P_S L + mean(L - P_S L). Excluded loss: of L - P_S L. Trigonometric loss: of
   Σ_k α_k cos(w_k(a + b - c)), α_k by projection, over the answers of the group.
4. Which frequency explains each neuron and each head's attention to a, and how much of it.

Source: Nanda et al. 2023, arXiv 2301.05217; Roy & Vetterli 2007 (effective rank).

Units and sign: losses in nats a pair over the residues, without the logit of `=`; float64.

Limits: P_S L depends on a + b only, so that it is kept as one row a sum: the formulas below are the
projections of the full table all the same.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import joblib
import numpy as np
import scipy.linalg
import scipy.special
from jaxtyping import Bool, Float, Float64, Int64

from workbench.core.engine import running
from workbench.core.modular import fourier, theory
from workbench.core.modular.network import Snapshot
from workbench.core.modular.tasks import Task

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

# The embedding's rule: a norm of more than this share of the largest one.
EMBEDDING_SHARE = 0.25
# Each checkpoint at work holds some hundred megabytes at p = 113.
_MOST_WORKERS = 8


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a task's pairs lie: in the split, and in the group.

    Attributes:
        group: The group, or None where the theory does not hold.
        answers: True answer of each pair.
        labels: Label of each pair that training sees.
        train: Indices of the training pairs.
        test: Indices of the others.
        cube: Index of the pair of elements (i, j).
        sums: Element i + j of each pair, -1 for pairs outside of the group.
    """

    group: theory.Cyclic | None
    answers: Int64[np.ndarray, " pair"]
    labels: Int64[np.ndarray, " pair"]
    train: Int64[np.ndarray, " _"]
    test: Int64[np.ndarray, " _"]
    cube: Int64[np.ndarray, "residue residue"]
    sums: Int64[np.ndarray, " pair"]

    @functools.cached_property
    def inside(self) -> Bool[np.ndarray, " pair"]:
        """Which pairs the theory is about."""
        return self.sums >= 0

    def within(self, indices: Int64[np.ndarray, " point"]) -> Int64[np.ndarray, " _"]:
        """Those of some pairs that the theory is about."""
        return indices[self.inside[indices]]

    def by_element(
        self, values: Float[np.ndarray, "pair part"]
    ) -> Float[np.ndarray, "residue residue part"]:
        """Values of pairs as a cube over the elements of both operands."""
        return values[self.cube]


def layout(task: Task) -> Layout:
    """Find every pair of a task in its split and in its group.

    Args:
        task: The task.

    Returns:
        Its layout.
    """
    pairs, group = task.pairs().numpy(), theory.cyclic(task)
    train, test = (part.numpy() for part in task.split())
    cube = np.zeros((0, 0), dtype=np.int64)
    sums = np.full(len(pairs), -1, dtype=np.int64)
    if group is not None:
        index = np.full((task.p, task.p), -1, dtype=np.int64)
        index[pairs[:, 0], pairs[:, 1]] = np.arange(len(pairs))
        cube = index[np.ix_(group.first, group.second)]
        element = np.arange(group.n)
        sums[cube] = (element[:, None] + element) % group.n
    return Layout(
        group=group,
        answers=task.answers().numpy(),
        labels=task.labels().numpy(),
        train=train,
        test=test,
        cube=cube,
        sums=sums,
    )


def in_threads(
    piece: Callable[[Item], Outcome],
    items: Sequence[Item],
    report: running.Progress,
    noun: str,
) -> list[Outcome]:
    """Do independent pieces of work side by side.

    Args:
        piece: One piece; most of its time is spent where numpy and torch let other threads run.
        items: What it is called with.
        report: Told of the progress after every few pieces; may raise to cancel.
        noun: What the items are, for the report.

    Returns:
        One outcome an item, in their order.
    """
    workers = min(_MOST_WORKERS, joblib.cpu_count())
    pool: Any = joblib.Parallel(n_jobs=workers, prefer="threads")
    done: list[Outcome] = []
    while len(done) < len(items):
        done += pool(joblib.delayed(piece)(item) for item in items[len(done) :][:workers])
        report(len(done) / len(items), f"{noun} {len(done)} of {len(items)}")
    return done


def cross_entropies(
    logits: Float64[np.ndarray, "pair choice"], labels: Int64[np.ndarray, " pair"]
) -> Float64[np.ndarray, " pair"]:
    """Cross-entropy of each pair in nats.

    Args:
        logits: Of each pair for every answer.
        labels: Index of the right one.

    Returns:
        log Σ_c exp(L_c) - L_label, computed so that losses far below 1e-7 keep their digits.
    """
    scaled = logits - logits.max(1, keepdims=True)
    own = scaled[np.arange(len(labels)), labels]
    np.exp(scaled, out=scaled)
    return np.log(scaled.sum(1)) - own


def mean_or_nan(values: Float[np.ndarray, " point"] | Bool[np.ndarray, " point"]) -> float:
    """Mean, NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


@dataclasses.dataclass(frozen=True)
class Waves:
    """The logits' part that depends on a + b, which is all that projections on S need.

    Attributes:
        table: Sum of the logits over the pairs of each a + b, for every residue as the answer.
        own: The same for the answers of the group only, in the order of its elements.
        answer: Residue of each element as an answer.
        variance: Sum of squares of the logits of the group's answers, centred over them.
    """

    table: Float64[np.ndarray, "residue choice"]
    own: Float64[np.ndarray, "residue residue"]
    answer: Int64[np.ndarray, " residue"]
    variance: float

    @property
    def n(self) -> int:
        """Elements of the group."""
        return len(self.table)

    @property
    def mean(self) -> Float64[np.ndarray, " choice"]:
        """Mean logit of each answer over all pairs of the group."""
        return self.table.sum(0) / self.n**2

    def projected(self, frequencies: tuple[int, ...]) -> Float64[np.ndarray, "residue choice"]:
        """P_S L: for each a + b, the logits' part along the waves of some frequencies."""
        spectrum = np.fft.rfft(self.table, axis=0)
        kept = np.zeros_like(spectrum)
        kept[list(frequencies)] = spectrum[list(frequencies)]
        return np.fft.irfft(kept, self.n, axis=0) / self.n

    def explained(self, frequencies: tuple[int, ...]) -> float:
        """Share of the logits' variance along cos(w_k(a + b - c)) of some frequencies."""
        return fourier.explained_by_terms(self.own, self.variance, frequencies)


def waves(logits: Float64[np.ndarray, "pair choice"], where: Layout) -> Waves:
    """Sum the logits by a + b.

    Args:
        logits: Of every pair of the task for every residue.
        where: The task's layout; its theory must hold.

    Returns:
        The sums.
    """
    group = group_of(where)
    cube = where.by_element(logits)
    table = fourier.sums_by_answer(cube)
    own = cube if group.n == logits.shape[1] else cube[:, :, group.answer]
    variance = np.vdot(own, own) - group.n * np.square(own.mean(2)).sum()
    return Waves(table, table[:, group.answer], group.answer, float(variance))


def group_of(where: Layout) -> theory.Cyclic:
    """The group of a layout.

    Raises:
        ValueError: If the theory does not hold for its task.
    """
    if where.group is None:
        raise ValueError("the Fourier terms do not apply to this operation; see `theory.why_not`")
    return where.group


def restricted(
    found: Waves, where: Layout, frequencies: tuple[int, ...]
) -> Float64[np.ndarray, " residue"]:
    """Loss with the waves of some frequencies only, and the mean of everything else.

    Args:
        found: The logits' waves.
        where: The layout that they are from.
        frequencies: The k that are kept.

    Returns:
        Loss of every pair by its a + b, which is all that it depends on.
    """
    kept = found.projected(frequencies)
    return cross_entropies(kept + found.mean, group_of(where).answer)


def excluded(
    logits: Float64[np.ndarray, "pair choice"],
    found: Waves,
    frequencies: tuple[int, ...],
    sums: Int64[np.ndarray, " pair"],
    labels: Int64[np.ndarray, " pair"],
) -> Float64[np.ndarray, " pair"]:
    """Loss of some pairs without the waves of some frequencies.

    Args:
        logits: Of pairs inside of the group.
        found: The waves of all pairs.
        frequencies: The k that are removed.
        sums: Element a + b of these pairs.
        labels: Their labels.

    Returns:
        Loss of each of these pairs.
    """
    return cross_entropies(logits - found.projected(frequencies)[sums], labels)


def trigonometric(found: Waves, frequencies: tuple[int, ...]) -> float:
    """Loss of any pair when its logits are Σ_k α_k cos(w_k(a + b - c)) of some frequencies.

    It is the same for every pair: the logits depend on a + b - c alone.
    """
    element, chosen = np.arange(found.n), np.array(frequencies, dtype=np.int64)
    angle = 2 * np.pi * (np.outer(element, chosen) % found.n) / found.n
    logits = np.cos(angle) @ fourier.term_sizes(found.own)[chosen - 1]
    return float(cross_entropies(logits[None], np.zeros(1, dtype=np.int64))[0])


def effective_rank(matrix: Float[np.ndarray, "row column"]) -> float:
    """Exponential of the entropy of the singular values' shares (Roy & Vetterli 2007)."""
    singular: np.ndarray = np.asarray(scipy.linalg.svdvals(matrix))
    total = singular.sum()
    return float(np.exp(np.sum(scipy.special.entr(singular / total)))) if total > 0 else 0.0


def keys_by_embedding(shares: Float[np.ndarray, " frequency"]) -> tuple[int, ...]:
    """Frequencies whose norm in the embedding is above a quarter of the largest frequency's.

    Args:
        shares: Each frequency's share of the embedding's power, which is its norm squared.

    Returns:
        The frequencies, lowest first.
    """
    norms = np.sqrt(shares)
    return tuple(int(i) + 1 for i in np.flatnonzero(norms > EMBEDDING_SHARE * norms.max()))


def keys_by_neurons(
    frequency: Int64[np.ndarray, " neuron"], explained: Float64[np.ndarray, " neuron"]
) -> tuple[int, ...]:
    """Frequencies that are the best one of some neuron which one frequency explains."""
    return tuple(int(k) for k in np.unique(frequency[explained >= fourier.EXPLAINED]))


@dataclasses.dataclass(frozen=True)
class Measured:
    """Everything that is measured at one moment; NaN, -1 where the theory does not hold.

    Attributes:
        train_loss: On the training pairs, with the labels trained on.
        test_loss: On the test pairs, with the true answers.
        train_accuracy: Share of the training pairs whose highest logit is the label.
        test_accuracy: Share of the test pairs whose highest logit is the answer.
        restricted_loss: On the test pairs, waves of the keys and the mean only.
        excluded_loss: On the training pairs, without the waves of all keys.
        excluded_by_key: On the training pairs, without those of one key.
        trigonometric_loss: Of the formula, all pairs.
        logit_explained: Share of the logits' variance along the formula's terms.
        gini_embedding: Gini coefficient of the embedding's Fourier components' norms.
        gini_neuron_logit: The same of the neuron-logit map.
        squared_weights: Sum of squares of all weights.
        effective_rank: Of the neuron-logit map.
        frequency_shares: Share of each frequency in the neuron-logit map's power.
        embedding_shares: The same in the embedding's.
        neuron_frequency: Best frequency of each neuron.
        neuron_explained: Share of its variance that this one explains.
        attention_frequency: Best frequency of each head's attention to a.
        attention_explained: Share of its variance that this one explains.
    """

    train_loss: float
    test_loss: float
    train_accuracy: float
    test_accuracy: float
    restricted_loss: float
    excluded_loss: float
    excluded_by_key: Float64[np.ndarray, " key"]
    trigonometric_loss: float
    logit_explained: float
    gini_embedding: float
    gini_neuron_logit: float
    squared_weights: float
    effective_rank: float
    frequency_shares: Float64[np.ndarray, " frequency"]
    embedding_shares: Float64[np.ndarray, " frequency"]
    neuron_frequency: Int64[np.ndarray, " neuron"]
    neuron_explained: Float64[np.ndarray, " neuron"]
    attention_frequency: Int64[np.ndarray, " head"]
    attention_explained: Float64[np.ndarray, " head"]


def measure(snapshot: Snapshot, where: Layout, keys: tuple[int, ...]) -> Measured:
    """Measure one moment of a training.

    Args:
        snapshot: Its weights and activations.
        where: The task's layout.
        keys: Key frequencies.

    Returns:
        All measures.
    """
    true = cross_entropies(snapshot.logits, where.answers)
    guesses = snapshot.logits.argmax(1)
    train, test = where.train, where.test
    trained = cross_entropies(snapshot.logits[train], where.labels[train])
    return Measured(
        train_loss=mean_or_nan(trained),
        test_loss=mean_or_nan(true[test]),
        train_accuracy=mean_or_nan(guesses[train] == where.labels[train]),
        test_accuracy=mean_or_nan(guesses[test] == where.answers[test]),
        squared_weights=snapshot.squared_weights,
        effective_rank=effective_rank(snapshot.neuron_logit),
        **(_without_theory(snapshot) if where.group is None else _terms(snapshot, where, keys)),
    )


def shares_of_map(snapshot: Snapshot, where: Layout) -> Float64[np.ndarray, " frequency"]:
    """Share of each frequency in the power of the neuron-logit map."""
    return fourier.frequency_shares(snapshot.neuron_logit[group_of(where).answer])


def _terms(snapshot: Snapshot, where: Layout, keys: tuple[int, ...]) -> dict[str, Any]:
    group = group_of(where)
    found = waves(snapshot.logits, where)
    train, test = where.within(where.train), where.within(where.test)

    of_training = (snapshot.logits[train], found)

    def without(frequencies: tuple[int, ...]) -> float:
        lost = excluded(*of_training, frequencies, where.sums[train], where.labels[train])
        return mean_or_nan(lost)

    embedding = snapshot.embedding[group.first]
    neurons = fourier.explained_by_frequency(where.by_element(snapshot.hidden))
    attention = fourier.explained_by_frequency(where.by_element(snapshot.pattern[:, :, 0]))
    neuron_frequency, neuron_explained = fourier.best_frequency(neurons)
    attention_frequency, attention_explained = fourier.best_frequency(attention)
    to_logits = fourier.component_norms(snapshot.neuron_logit[group.answer])
    return {
        "restricted_loss": mean_or_nan(restricted(found, where, keys)[where.sums[test]]),
        "excluded_loss": without(keys),
        "excluded_by_key": np.array([without((key,)) for key in keys], dtype=np.float64),
        "trigonometric_loss": trigonometric(found, keys),
        "logit_explained": found.explained(keys),
        "gini_embedding": fourier.gini(fourier.component_norms(embedding)),
        "gini_neuron_logit": fourier.gini(to_logits),
        "frequency_shares": shares_of_map(snapshot, where),
        "embedding_shares": fourier.frequency_shares(embedding),
        "neuron_frequency": neuron_frequency,
        "neuron_explained": neuron_explained,
        "attention_frequency": attention_frequency,
        "attention_explained": attention_explained,
    }


def _without_theory(snapshot: Snapshot) -> dict[str, Any]:
    nothing = float("nan")
    neurons, heads = snapshot.hidden.shape[1], snapshot.pattern.shape[1]
    frequencies = fourier.n_frequencies(len(snapshot.embedding))
    scalars = ("restricted_loss", "excluded_loss", "trigonometric_loss", "logit_explained")
    return {
        **dict.fromkeys((*scalars, "gini_embedding", "gini_neuron_logit"), nothing),
        "excluded_by_key": np.zeros(0),
        "frequency_shares": np.full(frequencies, nothing),
        "embedding_shares": np.full(frequencies, nothing),
        "neuron_frequency": np.full(neurons, -1, dtype=np.int64),
        "neuron_explained": np.full(neurons, nothing),
        "attention_frequency": np.full(heads, -1, dtype=np.int64),
        "attention_explained": np.full(heads, nothing),
    }
