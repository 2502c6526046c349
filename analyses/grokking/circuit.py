"""By which waves does this network compute, and does it do so with nothing else?

1. Run all pairs, keep the logits, the neurons and the attention at `=` (`measuring.Snapshot`).
2. Explain: key frequencies by the power of W_L = W_U W_out; the size α_k of each term
   cos(w_k(a + b - c)) in the logits and the share of their variance that the keys' terms hold; the
   neurons that each key's waves explain; how far the neurons drive each key direction of W_L by
   cos(w_k(a + b)) or sin(w_k(a + b)).
3. Test on the logits: keep only the keys' waves, remove them, remove one at a time, and put the
   formula Σ α_k cos(w_k(a + b - c)) in place of the logits.
4. Test in the model, under hooks on the neurons: hold each key's neurons at their mean, project the
   neurons' deviations from their mean on the key directions of W_L, or remove those.
5. Null: the same with random sets of as many other frequencies; for projections as many random
   directions, for neurons as many random neurons. p = (r + 1) / (n + 1), r of the n random ones
   being at least as extreme.

Source: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability",
arXiv 2301.05217 (sections 4 and 5).

Units and sign: losses in nats a pair, without the logit of `=`, with bootstrap intervals over
pairs; shares and explained variance are fractions. Kept waves are extreme by a low loss, removed
ones by a high one.

Limits: one layer without normalisation, so that neurons reach the logits through W_L alone. The
waves of a few frequencies are keys by chance in a network that has learnt nothing: the tests tell,
not the list. A raw loss after the removal of neurons says little about what they do; the share of
their own term that goes with them, and of the others' terms, says more.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.subplots
from jaxtyping import Float, Int

from analyses.grokking import interventions, measuring, tracking
from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.modular import fourier as spectrum
from workbench.core.modular import theory
from workbench.core.modular.tasks import Task, TaskError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# A pair is read as `a b =`.
_POSITIONS = 3
ANALYSIS = "grokking.fourier"
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Edit:
    """One test: what was changed, and the loss that is left.

    Attributes:
        name: What was done, for a reader.
        kind: "model", "keep", "remove", "remove one", "formula", "neurons", "all neurons",
            "map keep" or "map remove".
        frequencies: The frequencies that it is about.
        through: "model" where the edit was made inside of it, "logits" where on what came out.
        test_loss: Mean loss of the test pairs.
        test_low: Lower end of its interval.
        test_high: Upper end.
        loss: Mean loss of all pairs.
        low: Lower end of its interval.
        high: Upper end.
        random: Test loss of the same with each random set of other frequencies (for "map keep" and
            "map remove" of directions; for "remove one" without one other frequency).
        p_value: Share of the sets, this one counted in, that are at least as extreme; NaN without
            random ones.
    """

    name: str
    kind: str
    frequencies: tuple[int, ...]
    through: str
    test_loss: float
    test_low: float
    test_high: float
    loss: float
    low: float
    high: float
    random: tuple[float, ...]
    p_value: float


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The neurons that one key's waves explain.

    Attributes:
        frequency: The key.
        neurons: Their indices.
        explained: Mean share of their variance that it explains; NaN for none.
        removed: Share of the key's own term in the logits that goes when they stay at their mean.
        removed_elsewhere: Largest share of another key's term that goes with it, in size.
        p_value: Share of random sets of as many neurons, this one counted in, that remove as much
            of the term.
    """

    frequency: int
    neurons: tuple[int, ...]
    explained: float
    removed: float
    removed_elsewhere: float
    p_value: float


@dataclasses.dataclass(frozen=True)
class Direction:
    """One key direction of W_L: a wave over the answers, and the neurons that write it.

    Attributes:
        frequency: The key.
        wave: "cos" or "sin".
        share: Its share of the power of W_L, the constant left out.
        explained: Share of the variance of what the neurons write along it that the same wave of
            a + b explains.
    """

    frequency: int
    wave: str
    share: float
    explained: float


@dataclasses.dataclass(frozen=True)
class FourierCircuit(results.Result):
    """The waves that a network computes with, and what is left of it with and without them.

    Attributes:
        task: What it was taken to compute.
        theory: How the Fourier terms apply to it.
        keys: Key frequencies: share of W_L's power, or given.
        keys_by_embedding: Those by the embedding's norms.
        keys_by_neurons: Those by explained neurons.
        frequency_shares: Share of each frequency in the power of W_L.
        embedding_shares: The same in the embedding's.
        term_sizes: Coefficient α_k of each frequency's term in the logits.
        logit_explained: Share of the logits' variance along the keys' terms.
        neuron_frequency: Frequency that explains most of each neuron.
        neuron_explained: Share of the neuron's variance that it explains.
        attention_frequency: Frequency that explains most of each head's attention to a.
        attention_explained: Share of its variance that it explains.
        clusters: The neurons of each key.
        directions: The key directions of W_L.
        edits: The tests, the unchanged model first.
        residual_share: Power of what reaches the logits past the neurons, as a share of that of the
            logits, the mean over pairs and answers left out of both.
        n_test: Test pairs that the theory is about.
        n_pairs: All pairs that the theory is about.
        confidence: Level of the intervals.
    """

    task: Task
    theory: str
    keys: tuple[int, ...]
    keys_by_embedding: tuple[int, ...]
    keys_by_neurons: tuple[int, ...]
    frequency_shares: Float[np.ndarray, " frequency"]
    embedding_shares: Float[np.ndarray, " frequency"]
    term_sizes: Float[np.ndarray, " frequency"]
    logit_explained: float
    neuron_frequency: Int[np.ndarray, " neuron"]
    neuron_explained: Float[np.ndarray, " neuron"]
    attention_frequency: Int[np.ndarray, " head"]
    attention_explained: Float[np.ndarray, " head"]
    clusters: tuple[Cluster, ...]
    directions: tuple[Direction, ...]
    edits: tuple[Edit, ...]
    residual_share: float
    n_test: int
    n_pairs: int
    confidence: float

    @property
    def key_share(self) -> float:
        """Share of the power of W_L in the key directions."""
        return float(self.frequency_shares[np.array(self.keys) - 1].sum())

    @property
    def neurons_explained(self) -> float:
        """Share of the neurons that one frequency explains."""
        return float((self.neuron_explained >= spectrum.EXPLAINED).mean())

    def edit(self, kind: str, frequency: int | None = None) -> Edit:
        """Look a test up.

        Args:
            kind: Kind of the test.
            frequency: Its frequency, for the kinds that are about one at a time.

        Returns:
            The test.

        Raises:
            ValueError: If there is none.
        """
        for edit in self.edits:
            if edit.kind == kind and frequency in (None, *edit.frequencies):
                return edit
        kinds = ", ".join(dict.fromkeys(edit.kind for edit in self.edits))
        raise ValueError(f"no test {kind!r} of frequency {frequency}; the kinds are {kinds}")

    def to_frame(self) -> pd.DataFrame:
        """One row a test: both losses with intervals, and the random sets beside them."""
        frame = pd.DataFrame([dataclasses.asdict(edit) for edit in self.edits])
        random = [np.array(edit.random) for edit in self.edits]
        frame["random_mean"] = [measuring.mean_or_nan(losses) for losses in random]
        frame["n_random"] = [len(losses) for losses in random]
        frame["n_test"], frame["n_pairs"] = self.n_test, self.n_pairs
        return frame.drop(columns="random")

    def neurons_frame(self) -> pd.DataFrame:
        """One row a neuron: the frequency that explains most of it, how much, and whether key."""
        return pd.DataFrame(
            {
                "neuron": np.arange(len(self.neuron_frequency)),
                "frequency": self.neuron_frequency,
                "explained": self.neuron_explained,
                "key": np.isin(self.neuron_frequency, self.keys),
            }
        )

    def figure(self) -> go.Figure:
        """Share of each frequency in W_L's power; below it the loss of each test, logarithmic."""
        figure = plotly.subplots.make_subplots(rows=2, cols=1, vertical_spacing=0.16)
        every = np.arange(1, len(self.frequency_shares) + 1)
        colours = np.where(np.isin(every, self.keys), plots.COLOURS[0], plots.COLOURS[-1])
        bars = go.Bar(x=every, y=self.frequency_shares, marker={"color": colours}, name="share")
        figure.add_trace(bars, row=1, col=1)
        names = [edit.name for edit in self.edits]
        for edit in self.edits:
            if edit.random:
                cloud = go.Scatter(
                    x=[edit.name] * len(edit.random),
                    y=edit.random,
                    mode="markers",
                    marker={"color": plots.COLOURS[-1], "size": 4, "opacity": 0.5},
                    name="random sets",
                    hovertemplate="random set: %{y:.3g}<extra></extra>",
                )
                figure.add_trace(cloud, row=2, col=1)
        losses = np.array([edit.test_loss for edit in self.edits])
        reach = np.array([(edit.test_low, edit.test_high) for edit in self.edits])
        points = go.Scatter(
            x=names,
            y=losses,
            mode="markers",
            marker={"color": plots.COLOURS[0], "size": 10},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": np.maximum(reach[:, 1] - losses, 0),
                "arrayminus": np.maximum(losses - reach[:, 0], 0),
            },
            name="test loss",
            hovertemplate="%{x}<br>%{y:.3g} nats a pair<extra></extra>",
        )
        figure.add_trace(points, row=2, col=1)
        chance = {"dash": "dot", "color": plots.COLOURS[-1]}
        figure.add_hline(y=float(np.log(self.task.p)), line=chance, row=2, col=1)  # pyright: ignore[reportArgumentType]
        figure.update_layout(template=plots.TEMPLATE, height=620, showlegend=False)
        figure.update_xaxes(title={"text": "frequency", "standoff": 6}, row=1, col=1)
        figure.update_yaxes(title="share of the power of W_L", row=1, col=1)
        # Names end at their tick: those on the right would need room beside the figure otherwise.
        figure.update_xaxes(tickangle=-40, row=2, col=1)
        figure.update_xaxes(categoryorder="array", categoryarray=names, row=2, col=1)
        return figure.update_yaxes(
            title="test loss (nats a pair)", type="log", **plots.POWERS_OF_TEN, row=2, col=1
        )

    def summary(self) -> str:
        """The keys, what they explain, what the tests show, and how far that goes."""
        keep, remove = self.edit("keep"), self.edit("remove")
        inside, outside = self.edit("map keep"), self.edit("map remove")
        spread = 1 / len(self.frequency_shares)
        assigned = sum(len(cluster.neurons) for cluster in self.clusters)
        lines = [
            f"{self.provenance.model}, {self.task.operation} modulo {self.task.p}: key frequencies "
            f"{', '.join(map(str, self.keys))} hold {self.key_share:.1%} of the power of the "
            f"neuron-logit map (an even spread would give each {spread:.1%}). Their formula "
            f"Σ α cos(w(a + b - c)) explains {self.logit_explained:.1%} of the logits' variance; "
            f"{assigned} of {len(self.neuron_frequency)} neurons are explained by one of them to "
            f"at least {spectrum.EXPLAINED:.0%} each.",
            f"Loss on {self.n_test:,} test pairs: {_sure(self.edit('model'))} unchanged, "
            f"{_sure(keep)} with the keys' waves only{_against(keep)}, {_sure(remove)} without "
            f"them{_against(remove)}, {self.edit('formula').test_loss:.3g} by the formula alone; "
            f"guessing gives {np.log(self.task.p):.3g} ({self.confidence:.0%} intervals over "
            "pairs).",
            f"In the model, the neurons' part along the key directions of the map alone leaves "
            f"{inside.test_loss:.3g}{_against(inside)}, and everything but it "
            f"{outside.test_loss:.3g}{_against(outside)}; {self.residual_share:.1%} of the logits' "
            "power comes past the neurons.",
        ]
        own = [cluster for cluster in self.clusters if cluster.neurons]
        if own:
            lines.append(
                f"Holding one key's neurons at their mean removes {_range(c.removed for c in own)} "
                "of its own term in the logits and at most "
                f"{max(c.removed_elsewhere for c in own):.1%} of any other key's."
            )
        lines += [
            "Caveat: some frequencies have the largest share in any network, a random one too; "
            "these are a mechanism only as far as keeping them keeps the loss, removing them "
            "destroys it, and random frequencies do neither.",
            self.theory,
        ]
        return " ".join(lines)

    def script(self) -> str:
        """Python code that computes this result again."""
        made = self.provenance.parameters
        task = ", ".join(f"{name}={value!r}" for name, value in made["task"].items())
        names = ("keys", "n_random", "seed", "confidence")
        arguments = "".join(f"    {name}={made[name]!r},\n" for name in names)
        return (
            "from workbench import load_model\n"
            "from analyses import grokking\n\n"
            f"model = load_model({self.provenance.model!r})\n"
            f"task = grokking.Task({task})\n"
            f"result = grokking.fourier(\n    model,\n    task,\n{arguments})\n"
            "print(result.summary())\n"
        )


def fourier(
    model: TransformerBridge,
    task: Task | None = None,
    *,
    keys: Sequence[int] | None = None,
    n_random: int = 99,
    seed: int = 0,
    confidence: float = 0.95,
    progress: running.Progress | None = None,
) -> FourierCircuit:
    """Find the waves that a network computes with, and test that it needs them and nothing else.

    Args:
        model: A one-layer bridge that reads `a b =`, where `=` is token p.
        task: What it computes, and which pairs it was trained on; None for addition modulo its
            number of tokens less one, with the split of the default task.
        keys: Key frequencies; None for those with a large share of W_L's power.
        n_random: Random sets of other frequencies, and of neurons, to compare with.
        seed: Seed of these and of the bootstrap.
        confidence: Level of the intervals.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The circuit with its tests.

    Raises:
        ValueError: If the model is of another kind, the theory does not hold for the task, no
            frequency is key, or an argument is out of range.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    evidence.require_confidence(confidence)
    if n_random < 0:
        raise ValueError(f"n_random = {n_random}; expected 0 or more")
    taken = task or _implied_task(model)
    group = theory.cyclic(taken)
    if group is None:
        raise ValueError(theory.why_not(taken))
    _require_kind(model, taken)
    where = measuring.layout(taken)
    report(0.0, "running all pairs")
    snapshot = interventions.snapshot_of(model, taken)
    shares = measuring.shares_of_map(snapshot, where)
    chosen = tracking.require_keys(keys, group.n) if keys else spectrum.key_frequencies(shares)
    if not chosen:
        raise ValueError(
            f"no frequency holds {spectrum.KEY_SHARE:.0%} of the neuron-logit map's power; "
            "expected keys to be given"
        )
    measured = measuring.measure(snapshot, where, chosen)
    bench = interventions.bench_of(model, taken, where, snapshot, chosen)
    clusters = {key: _explained_by(measured, key) for key in chosen}
    trials = [
        *interventions.on_logits(bench),
        *interventions.in_model(bench, clusters, running.part(report, 0.1, 0.5)),
    ]
    null = interventions.null_of(bench, n_random, seed, running.part(report, 0.5, 0.9))
    report(0.9, "bootstrap intervals")
    level: dict[str, Any] = {"confidence": confidence, "n_resamples": _RESAMPLES, "seed": seed}
    edits = _judged(trials, bench.tested, null, level)
    report(1.0, "done")
    return FourierCircuit(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "task": dataclasses.asdict(taken),
                "keys": list(chosen) if keys else None,
                "key_rule": f"share of W_U W_out's power of at least {spectrum.KEY_SHARE}",
                "n_random": n_random,
                **level,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        task=taken,
        theory=tracking.describe(taken),
        keys=chosen,
        keys_by_embedding=measuring.keys_by_embedding(measured.embedding_shares),
        keys_by_neurons=measuring.keys_by_neurons(
            measured.neuron_frequency, measured.neuron_explained
        ),
        frequency_shares=shares,
        embedding_shares=measured.embedding_shares,
        term_sizes=spectrum.term_sizes(bench.found.own),
        logit_explained=measured.logit_explained,
        neuron_frequency=measured.neuron_frequency,
        neuron_explained=measured.neuron_explained,
        attention_frequency=measured.attention_frequency,
        attention_explained=measured.attention_explained,
        clusters=_clusters(bench, measured, trials, n_random, seed),
        directions=_directions(bench),
        edits=edits,
        residual_share=interventions.residual_share(bench),
        n_test=int(bench.tested.sum()),
        n_pairs=len(bench.logits),
        confidence=confidence,
    )


def _judged(
    trials: Sequence[interventions.Trial],
    tested: np.ndarray,
    null: interventions.Null,
    level: dict[str, Any],
) -> tuple[Edit, ...]:
    """Mean losses with their intervals, and what the random sets say of them."""
    columns = np.stack([trial.losses for trial in trials], axis=1)
    low, high = evidence.mean_interval(columns, **level)
    test_low, test_high = evidence.mean_interval(columns[tested], **level)
    edits: list[Edit] = []
    for i, trial in enumerate(trials):
        test_loss = float(trial.losses[tested].mean())
        random = null.of(trial.kind)
        edits.append(
            Edit(
                name=trial.name,
                kind=trial.kind,
                frequencies=trial.frequencies,
                through=trial.through,
                test_loss=test_loss,
                test_low=float(test_low[i]),
                test_high=float(test_high[i]),
                loss=float(trial.losses.mean()),
                low=float(low[i]),
                high=float(high[i]),
                random=tuple(random.tolist()),
                p_value=_p_value(test_loss, random, lower="keep" in trial.kind),
            )
        )
    return tuple(edits)


def _p_value(value: float, random: np.ndarray, *, lower: bool = False) -> float:
    if not len(random):
        return float("nan")
    extreme = random <= value if lower else random >= value
    return float((extreme.sum() + 1) / (len(random) + 1))


def _explained_by(measured: measuring.Measured, key: int) -> np.ndarray:
    """The neurons that one key's waves explain."""
    explained = measured.neuron_explained >= spectrum.EXPLAINED
    return np.flatnonzero(explained & (measured.neuron_frequency == key))


def _clusters(
    bench: interventions.Bench,
    measured: measuring.Measured,
    trials: Sequence[interventions.Trial],
    n_random: int,
    seed: int,
) -> tuple[Cluster, ...]:
    """What holding each key's neurons at their mean took away, beside random neurons."""
    before, at = spectrum.term_sizes(bench.found.own), np.array(bench.keys) - 1
    left = {
        t.frequencies[0]: t.sizes for t in trials if t.kind == "neurons" and t.sizes is not None
    }
    of_neuron = interventions.terms_of_neurons(bench)
    rng = np.random.default_rng(seed)
    clusters: list[Cluster] = []
    for i, key in enumerate(bench.keys):
        neurons = _explained_by(measured, key)
        if not len(neurons):
            clusters.append(Cluster(key, (), *[float("nan")] * 4))
            continue
        removed = 1 - left[key][at] / before[at]
        share = of_neuron[key - 1] / before[key - 1]
        random = np.array(
            [rng.choice(share, len(neurons), replace=False).sum() for _ in range(n_random)]
        )
        clusters.append(
            Cluster(
                frequency=key,
                neurons=tuple(int(neuron) for neuron in neurons),
                explained=float(measured.neuron_explained[neurons].mean()),
                removed=float(removed[i]),
                removed_elsewhere=float(np.abs(np.delete(removed, i)).max(initial=0.0)),
                p_value=_p_value(float(removed[i]), random),
            )
        )
    return tuple(clusters)


def _directions(bench: interventions.Bench) -> tuple[Direction, ...]:
    """How much of W_L lies along each key's waves, and what drives the neurons along them."""
    basis, n = bench.basis, bench.group.n
    moving = basis[1:] @ bench.to_logits[bench.group.answer]
    total = np.square(moving).sum()
    directions: list[Direction] = []
    for key in bench.keys:
        for row, wave in zip(bench.rows((key,)), ("cos", "sin"), strict=False):
            along = bench.written[:, bench.group.answer] @ basis[row]
            by_sum = np.bincount(bench.sums, weights=along, minlength=n)
            # The wave over all pairs has n times the squares that it has over the sums.
            power, variance = (by_sum @ basis[row]) ** 2 / n, np.square(along).sum()
            directions.append(
                Direction(
                    frequency=key,
                    wave=wave,
                    share=float(np.square(moving[row - 1]).sum() / total),
                    explained=float(power / variance) if variance > 0 else 0.0,
                )
            )
    return tuple(directions)


def _implied_task(model: TransformerBridge) -> Task:
    p = int(model.cfg.d_vocab) - 1
    try:
        return Task(p=p)
    except TaskError as error:
        raise ValueError(
            f"{model.cfg.model_name!r} has {p + 1} tokens, which is no prime and `=`: give the task"
        ) from error


def _require_kind(model: TransformerBridge, task: Task) -> None:
    cfg = model.cfg
    normalised = cfg.normalization_type is not None
    if cfg.n_layers != 1 or cfg.d_vocab <= task.p or cfg.n_ctx < _POSITIONS or normalised:
        norm = "with" if normalised else "without"
        raise ValueError(
            f"expected one layer without normalisation that reads `a b =` with at least "
            f"{task.p + 1} tokens, found {cfg.n_layers} layers {norm} normalisation, "
            f"{cfg.n_ctx} positions and {cfg.d_vocab} tokens"
        )
    running.require_hooks(model, (interventions.NEURONS, interventions.PATTERN))


def _sure(edit: Edit) -> str:
    return f"{edit.test_loss:.3g} [{edit.test_low:.3g}, {edit.test_high:.3g}]"


def _against(edit: Edit) -> str:
    if not edit.random:
        return ""
    return (
        f" (as many random {'directions' if 'map' in edit.kind else 'frequencies'} "
        f"{np.mean(edit.random):.3g}, p = {edit.p_value:.2g}, {len(edit.random)} sets)"
    )


def _range(shares: Iterable[float]) -> str:
    values = list(shares)
    return f"{min(values):.0%} to {max(values):.0%}"
