"""What is left of the loss when waves, directions or neurons of a network are kept or removed?

1. On the logits: keep or remove the waves of some frequencies, or put the formula in their place.
2. In the model, under hooks on the neurons at `=`: hold some at their mean, or keep or remove the
   part of their deviations from it that lies along the writers of the keys: u_k and v_k, what W_L
   reads for each wave over the answers.
3. The same with random frequencies, and with as many random directions.

Source: Nanda et al. 2023, arXiv 2301.05217 (sections 4 and 5).

Units: losses in nats a pair over the residues, without the logit of `=`.

Limits: removing directions of the neurons' space takes all that overlaps with them. In a network
that has learnt, W_L has hardly more rank than its keys have waves, so that what writes any other
frequency, however faintly, lies in the very same directions: these are no fair comparison.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Bool, Float, Float64, Int64

from analyses.grokking import measuring
from workbench.core.engine import running
from workbench.core.modular import fourier as spectrum
from workbench.core.modular import theory
from workbench.core.modular.network import Snapshot
from workbench.core.modular.tasks import Task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

NEURONS, PATTERN = "blocks.0.mlp.hook_post", "blocks.0.attn.hook_pattern"
NULL_KINDS = ("keep", "remove", "map keep", "map remove")
# Pairs that go through the model at once: bounds its activations to some hundred megabytes.
_BATCH = 8192

Edited = Callable[[Float[torch.Tensor, "batch neuron"]], torch.Tensor]


def snapshot_of(model: TransformerBridge, task: Task) -> Snapshot:
    """Run all pairs of a task through a bridge and keep what the measures need.

    Args:
        model: A one-layer bridge that reads `a b =`.
        task: Which pairs.

    Returns:
        Weights and activations, in the order of `task.pairs()`.
    """
    p = task.p
    seen: dict[str, list[torch.Tensor]] = {NEURONS: [], PATTERN: []}

    def keep(name: str, last: Callable[[torch.Tensor], torch.Tensor]) -> running.HookFunction:
        def look(activation: torch.Tensor) -> torch.Tensor:
            seen[name].append(last(activation).float().cpu().clone())
            return activation

        return look

    hooks = {
        NEURONS: keep(NEURONS, lambda neurons: neurons[:, -1]),
        PATTERN: keep(PATTERN, lambda pattern: pattern[:, :, -1]),
    }
    logits = _logits(model, task, hooks)
    with torch.inference_mode():
        embedding = model.W_E[:p].double().cpu().numpy()
        unembedding = model.W_U[:, :p].double().cpu()
        written = model.blocks[0].mlp.W_out.double().cpu()
        squares = sum(float(w.double().square().sum()) for w in model.original_model.parameters())
        return Snapshot(
            embedding=embedding,
            neuron_logit=(written @ unembedding).T.contiguous().numpy(),
            logits=logits,
            hidden=torch.cat(seen[NEURONS]).numpy(),
            pattern=torch.cat(seen[PATTERN]).numpy(),
            squared_weights=squares,
        )


@dataclasses.dataclass(frozen=True)
class Trial:
    """An edit before it is judged: the loss of every pair, and the logits where a model made them.

    Attributes:
        name: As in `Edit`.
        kind: As in `Edit`.
        frequencies: As in `Edit`.
        through: As in `Edit`.
        losses: Loss of every pair of the group.
        sizes: Coefficient of every frequency's term that is left.
    """

    name: str
    kind: str
    frequencies: tuple[int, ...]
    through: str
    losses: Float64[np.ndarray, " pair"]
    sizes: Float64[np.ndarray, " frequency"] | None = None


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the tests work on; pairs are those of the group, by element of a, then of b.

    Attributes:
        model: The bridge.
        where: Layout of its task.
        group: The task's group.
        task: The task.
        keys: Key frequencies.
        logits: Of every pair of the group for every residue.
        sums: Element a + b of each.
        answers: Answer of each.
        tested: Which were not trained on.
        found: The logits' waves.
        hidden: Deviation of each neuron from its mean.
        mean: That mean.
        to_logits: W_L, for every residue as the answer.
        written: What the deviations add to the logits.
    """

    model: TransformerBridge
    where: measuring.Layout
    group: theory.Cyclic
    task: Task
    keys: tuple[int, ...]
    logits: Float64[np.ndarray, "pair choice"]
    sums: Int64[np.ndarray, " pair"]
    answers: Int64[np.ndarray, " pair"]
    tested: Bool[np.ndarray, " pair"]
    found: measuring.Waves
    hidden: Float64[np.ndarray, "pair neuron"]
    mean: Float64[np.ndarray, " neuron"]
    to_logits: Float64[np.ndarray, "choice neuron"]
    written: Float64[np.ndarray, "pair choice"]

    @property
    def basis(self) -> Float64[np.ndarray, "row residue"]:
        """Waves over the answers."""
        return spectrum.fourier_basis(self.group.n)

    def rows(self, frequencies: Sequence[int]) -> list[int]:
        """Rows of the basis that belong to some frequencies."""
        return [row for k in frequencies for row in spectrum.basis_rows(self.group.n, int(k))]

    def writers(self, frequencies: Sequence[int]) -> Float64[np.ndarray, "row neuron"]:
        """For each wave of some frequencies the neurons that write it: u_k and v_k."""
        return self.basis[self.rows(frequencies)] @ self.to_logits[self.group.answer]


def bench_of(
    model: TransformerBridge,
    task: Task,
    where: measuring.Layout,
    snapshot: Snapshot,
    keys: tuple[int, ...],
) -> Bench:
    """Lay out what the tests work on.

    Args:
        model: The bridge.
        task: Its task.
        where: The task's layout.
        snapshot: What the bridge gave for it.
        keys: Key frequencies.

    Returns:
        The pairs of the group, in the order of its elements.
    """
    group, order = measuring.group_of(where), where.cube.ravel()
    tested = np.zeros(len(where.sums), dtype=bool)
    tested[where.test] = True
    hidden = snapshot.hidden[order].astype(np.float64)
    mean = hidden.mean(0)
    hidden -= mean
    return Bench(
        model=model,
        where=where,
        group=group,
        task=task,
        keys=keys,
        logits=snapshot.logits[order],
        sums=where.sums[order],
        answers=where.answers[order],
        tested=tested[order],
        found=measuring.waves(snapshot.logits, where),
        hidden=hidden,
        mean=mean,
        to_logits=snapshot.neuron_logit,
        written=hidden @ snapshot.neuron_logit.T,
    )


def on_logits(bench: Bench) -> list[Trial]:
    """The tests that change what came out of the model.

    Args:
        bench: What to work on.

    Returns:
        The unchanged model, then the tests.
    """
    found, keys, sums = bench.found, bench.keys, bench.sums
    kept = measuring.restricted(found, bench.where, keys)[sums]
    formula = np.full(len(sums), measuring.trigonometric(found, keys))

    def without(frequencies: tuple[int, ...]) -> np.ndarray:
        return measuring.excluded(bench.logits, found, frequencies, sums, bench.answers)

    return [
        Trial("unchanged", "model", (), "model", _losses(bench, bench.logits)),
        Trial("keys' waves only", "keep", keys, "logits", kept),
        Trial("without the keys' waves", "remove", keys, "logits", without(keys)),
        *(
            Trial(f"without k = {k}", "remove one", (k,), "logits", without((k,)))
            for k in bench.keys
        ),
        Trial("formula instead", "formula", keys, "logits", formula),
    ]


def in_model(
    bench: Bench, clusters: dict[int, np.ndarray], report: running.Progress
) -> list[Trial]:
    """The tests that change the neurons inside of the model.

    Args:
        bench: What to work on.
        clusters: Neurons of each key.
        report: Told of the progress.

    Returns:
        The tests; keys without neurons have none.
    """
    across = torch.from_numpy(scipy.linalg.orth(bench.writers(bench.keys).T))
    mean = torch.from_numpy(bench.mean)

    def on_directions(hidden: torch.Tensor) -> torch.Tensor:
        return (hidden - mean) @ across @ across.T

    def held(neurons: np.ndarray) -> Edited:
        def hold(hidden: torch.Tensor) -> torch.Tensor:
            hidden[:, neurons] = mean[neurons]
            return hidden

        return hold

    keys = bench.keys
    edits: list[tuple[str, str, tuple[int, ...], Edited]] = [
        (f"neurons of k = {k} at their mean", "neurons", (k,), held(neurons))
        for k, neurons in clusters.items()
        if len(neurons)
    ]
    every = np.arange(len(bench.mean))
    edits += [
        ("all neurons at their mean", "all neurons", (), held(every)),
        (
            "key directions of W_L only",
            "map keep",
            keys,
            lambda hidden: mean + on_directions(hidden),
        ),
        (
            "without the key directions of W_L",
            "map remove",
            keys,
            lambda hidden: hidden - on_directions(hidden),
        ),
    ]
    trials: list[Trial] = []
    for done, (name, kind, frequencies, edit) in enumerate(edits):
        report(done / len(edits), name)
        logits = _logits(bench.model, bench.task, {NEURONS: _at_last(edit)})
        sizes = spectrum.term_sizes(measuring.waves(logits, bench.where).own)
        losses = _losses(bench, logits[bench.where.cube.ravel()])
        trials.append(Trial(name, kind, frequencies, "model", losses, sizes))
    return trials


def _at_last(edit: Edited) -> running.HookFunction:
    """Edit the neurons at `=`, in float64."""

    def replace(activation: torch.Tensor) -> torch.Tensor:
        changed = activation.clone()
        changed[:, -1] = edit(activation[:, -1].double().cpu()).to(activation)
        return changed

    return replace


def _logits(
    model: TransformerBridge, task: Task, hooks: dict[str, running.HookFunction]
) -> Float64[np.ndarray, "pair choice"]:
    """Logits of the residues at `=`, for all pairs."""
    pairs = task.pairs()
    tokens = torch.cat([pairs, torch.full((len(pairs), 1), task.p)], dim=1)
    parts = [
        running.run(model, batch, hooks)[:, -1, : task.p].double().cpu()
        for batch in tokens.split(_BATCH)
    ]
    return torch.cat(parts).numpy()


def _losses(bench: Bench, logits: np.ndarray) -> Float64[np.ndarray, " pair"]:
    return measuring.cross_entropies(logits, bench.answers)


@dataclasses.dataclass(frozen=True)
class Null:
    """Test loss of the same edits with random frequencies or directions.

    Attributes:
        sets: A row a random set; columns are those of `NULL_KINDS`.
        single: Without one other frequency, for as many of them.
    """

    sets: Float64[np.ndarray, "sample cell"]
    single: Float64[np.ndarray, " choice"]

    def of(self, kind: str) -> np.ndarray:
        """Test losses of an edit's random counterparts; none for edits that have no such."""
        if kind == "remove one":
            return self.single
        if kind in NULL_KINDS:
            return self.sets[:, NULL_KINDS.index(kind)]
        return np.zeros(0)


def null_of(bench: Bench, n_random: int, seed: int, report: running.Progress) -> Null:
    """Keep and remove random frequencies, and random directions of the neurons, instead.

    What follows the neurons is linear, so that no further forward pass is needed here.

    Args:
        bench: What to work on.
        n_random: Random sets; none where there are fewer other frequencies than keys.
        seed: Their seed.
        report: Told of the progress.

    Returns:
        Their test losses.
    """
    others = np.setdiff1d(np.arange(1, spectrum.n_frequencies(bench.group.n) + 1), bench.keys)
    count = n_random if len(others) >= len(bench.keys) else 0
    tested, found, width = bench.tested, bench.found, len(bench.rows(bench.keys))
    sums, answers, logits = bench.sums[tested], bench.answers[tested], bench.logits[tested]
    hidden, written = bench.hidden[tested], bench.written[tested]

    def without(frequencies: tuple[int, ...]) -> float:
        return float(measuring.excluded(logits, found, frequencies, sums, answers).mean())

    def mean_loss(changed: np.ndarray) -> float:
        return float(measuring.cross_entropies(changed, answers).mean())

    def piece(index: int) -> tuple[float, float, float, float]:
        rng = np.random.default_rng([seed, index])
        chosen = tuple(int(k) for k in rng.choice(others, len(bench.keys), replace=False))
        across = scipy.linalg.orth(rng.normal(size=(hidden.shape[1], width)))
        part = (hidden @ across) @ (bench.to_logits @ across).T
        kept = measuring.restricted(found, bench.where, chosen)[sums].mean()
        return (
            float(kept),
            without(chosen),
            mean_loss(logits - written + part),
            mean_loss(logits - part),
        )

    rows = measuring.in_threads(piece, range(count), report, "random set")
    compared = np.random.default_rng(seed).permutation(others)[:count]
    single = [without((int(k),)) for k in compared]
    return Null(
        np.array(rows, dtype=np.float64).reshape(-1, len(NULL_KINDS)),
        np.array(single, dtype=np.float64),
    )


def terms_of_neurons(bench: Bench) -> Float64[np.ndarray, "frequency neuron"]:
    """What each neuron by itself adds to the coefficient of each term in the logits."""
    n = bench.group.n
    by_sum = spectrum.sums_by_answer(bench.hidden.reshape(n, n, -1))
    reads = np.fft.rfft(by_sum, axis=0)[1:]
    writes = np.fft.rfft(bench.to_logits[bench.group.answer], axis=0)[1:]
    return (reads * writes.conj()).real * spectrum.multiplicity(n)[:, None] / n**3


def residual_share(bench: Bench) -> float:
    """Power that reaches the logits past the neurons, over all of the logits' power."""

    def power(logits: np.ndarray) -> float:
        moving = logits - logits.mean(0)
        return float(np.square(moving - moving.mean(1, keepdims=True)).sum())

    total = power(bench.logits)
    return power(bench.logits - bench.written) / total if total > 0 else 0.0
