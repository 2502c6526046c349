"""Does a dictionary have a latent for each variable that is known to be in the text?

1. Documents are drawn into two halves. On the first, every latent is tried as a detector of every
   value of every variable (against its other values): the one with the highest AUC is chosen, and
   the threshold at which it has the best F1.
2. On the second half, which had no part in that, the chosen latent's AUC and F1 are measured.
3. Controls go through the same search and are measured on the same half: as many random directions,
   with the second moments of the decoder's and as many of them active at each token as the
   dictionary has (those that the activation, less its mean, lies along most); the coordinates of
   the site; the neurons of its layer. Coordinates and neurons may detect by being small, too.
4. Chance: on the second half the variable's values are shuffled between its draws (`labels`), so
   that tokens which share one draw stay together. The p-value is the share of shuffles in which the
   chosen latent does as well, corrected over all values.

Source: Gurnee et al. 2023, arXiv 2305.01610 (features by known properties of the text); Karvonen et
al. 2024, arXiv 2408.00113 (dictionaries against ground truth); Mann & Whitney 1947 (AUC).

Units and sign: AUC is the share of pairs of tokens, one with the value and one with another value,
that the detector has in the right order, ties counted as half: 1 at best, 0.5 for chance. Intervals
are percentile bootstraps over rows of the second half, for the latent that was chosen.

Limits: AUC only asks for the right order, which favours detectors that are never silent; F1 asks
for one threshold. A latent that detects a value need not be used for it by the model: that is for
interventions to show. All activations are held in memory at once. A value of few draws has a wide
interval; values of less than `least` rows in either half are left out.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import scipy.sparse
import scipy.stats
import torch
from jaxtyping import Bool, Float, Int

from analyses.activation_patching import units
from analyses.feature_visualization.dictionaries import activations, quality, stepping
from analyses.feature_visualization.dictionaries.labels import LabelledTokens, Variable
from workbench.core import evidence, plots, results
from workbench.core.engine import running, scan
from workbench.core.engine import units as families
from workbench.core.evidence import SURE

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "feature_visualization.match_variables"
# Level at which a detector is more than chance.
# AUC of a detector that knows nothing.
_CHANCE = 0.5
# Activations that are held at once, of all candidates together.
_MOST = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class Detectors:
    """The best of some candidates for each value.

    Attributes:
        name: What the candidates are.
        size: How many there are.
        chosen: Which one, by its AUC on the first half.
        sign: 1 where it is large at the value, -1 where it is small there.
        auc: On the second half.
        f1: On the second half, above the threshold of the first.
    """

    name: str
    size: int
    chosen: Int[np.ndarray, " cell"]
    sign: Int[np.ndarray, " cell"]
    auc: Float[np.ndarray, " cell"]
    f1: Float[np.ndarray, " cell"]

    def __post_init__(self) -> None:
        """Make the arrays read-only, as those of a result are."""
        for values in (self.chosen, self.sign, self.auc, self.f1):
            values.setflags(write=False)


@dataclasses.dataclass(frozen=True)
class VariableMatches(results.Result):
    """Every value of every variable with its best latent and the best controls.

    Attributes:
        variable: Variable of each value.
        value: The values.
        latents: The best latents.
        controls: The best of each kind of control; random directions first.
        interval: Of the latents' AUC.
        p_value: Of the latents' AUC against shuffled values, corrected.
        by_chance: AUC that 95 % of the shuffles stay below.
        n_tokens: Tokens of the second half at which the variable is defined.
        n_positive: Of these, tokens with the value.
        n_runs: Draws of the variable there.
        n_rows: Rows of the second half.
        bar: AUC from which on a value counts as recovered.
        confidence: Level of the intervals.
    """

    variable: tuple[str, ...]
    value: tuple[str, ...]
    latents: Detectors
    controls: tuple[Detectors, ...]
    interval: Float[np.ndarray, "bound cell"]
    p_value: Float[np.ndarray, " cell"]
    by_chance: Float[np.ndarray, " cell"]
    n_tokens: Int[np.ndarray, " cell"]
    n_positive: Int[np.ndarray, " cell"]
    n_runs: Int[np.ndarray, " cell"]
    n_rows: int
    bar: float
    confidence: float

    @property
    def recovered(self) -> Bool[np.ndarray, " cell"]:
        """Values that a latent detects: AUC at the bar or above, and more than chance."""
        return (self.latents.auc >= self.bar) & (self.p_value <= SURE)

    @property
    def best_control(self) -> Float[np.ndarray, " cell"]:
        """The highest AUC of any control."""
        return np.max([control.auc for control in self.controls], axis=0)

    def share_at_bar(self) -> dict[str, float]:
        """Of latents and of each control, the share of values with an AUC at the bar or above."""
        every = (self.latents, *self.controls)
        return {one.name: float((one.auc >= self.bar).mean()) for one in every}

    def to_frame(self) -> pd.DataFrame:
        """One row a value: its latent with interval, chance and p-value, and every control."""
        frame = pd.DataFrame(
            {
                "variable": self.variable,
                "value": self.value,
                "latent": self.latents.chosen,
                "auc": self.latents.auc,
                "low": self.interval[0],
                "high": self.interval[1],
                "f1": self.latents.f1,
                "by_chance": self.by_chance,
                "p_value": self.p_value,
                "recovered": self.recovered,
                "best_control": self.best_control,
            }
        )
        for control in self.controls:
            frame[f"auc of {control.name}"] = control.auc
            frame[f"f1 of {control.name}"] = control.f1
        for name in ("n_tokens", "n_positive", "n_runs"):
            frame[name] = getattr(self, name)
        return frame

    def figure(self) -> go.Figure:
        """Each value: AUC of its latent with the interval, against the best of each control."""
        auc = self.latents.auc
        order = sorted(range(len(auc)), key=lambda i: (self.variable[i], -auc[i]))
        labels = [plots.escape(f"{self.variable[i]}: {self.value[i]}") for i in order]
        latent = auc[order]
        figure = go.Figure()
        for place, control in enumerate(self.controls, start=1):
            figure.add_scatter(
                x=control.auc[order],
                y=labels,
                mode="markers",
                name=control.name,
                marker={"symbol": "line-ns-open", "size": 9, "color": plots.COLOURS[place]},
                hovertemplate="%{y}<br>AUC %{x:.3f}<extra>%{fullData.name}</extra>",
            )
        figure.add_scatter(
            x=latent,
            y=labels,
            mode="markers",
            name="latents",
            marker={"size": 7, "color": plots.COLOURS[0]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": np.maximum(self.interval[1][order] - latent, 0),
                "arrayminus": np.maximum(latent - self.interval[0][order], 0),
                "thickness": 1,
            },
            customdata=self.latents.chosen[order],
            hovertemplate="%{y}<br>latent %{customdata}, AUC %{x:.3f}<extra></extra>",
        )
        figure.add_vline(self.bar, line={"color": plots.COLOURS[-1], "dash": "dash"})
        figure.update_layout(template=plots.TEMPLATE, height=160 + 15 * len(labels))
        figure.update_xaxes(title="AUC on held-out documents (dashed: recovered)")
        return figure.update_yaxes(autorange="reversed", dtick=1)

    def summary(self) -> str:
        """How many values have a latent, against every control."""
        n, found = len(self.value), int(self.recovered.sum())
        different = len(np.unique(self.latents.chosen[self.recovered]))
        shares = self.share_at_bar()
        controls = ", ".join(f"{one.name} {shares[one.name]:.0%}" for one in self.controls)
        beyond = int((self.interval[0] > self.best_control).sum())
        f1 = ", ".join(f"{one.name} {np.median(one.f1):.2f}" for one in self.controls)
        return (
            f"{found} of {n} values of {len(set(self.variable))} variables have a latent that "
            f"detects them on held-out documents with an AUC of {self.bar:g} or more, beyond "
            f"shuffled values (corrected p ≤ {SURE}); these are {different} different latents "
            f"of {self.latents.size:,}. At the same bar: {controls}. Median AUC "
            f"{np.median(self.latents.auc):.3f}; the best control's is "
            f"{np.median(self.best_control):.3f} (random directions: "
            f"{np.median(self.controls[0].auc):.3f}). Median F1 {np.median(self.latents.f1):.2f} "
            f"({f1}). For {beyond} values the whole "
            f"{self.confidence:.0%} interval lies above every control (n = {self.n_rows:,} rows)."
        )


def match_variables(
    model: TransformerBridge,
    labelled: LabelledTokens,
    dictionary: Any,
    *,
    at: str | None = None,
    bar: float = 0.9,
    least: int = 5,
    confidence: float = 0.95,
    n_resamples: int = 500,
    n_shuffles: int = 199,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> VariableMatches:
    """Look for a latent for each value of each variable, and check it on other documents.

    Args:
        model: The bridge.
        labelled: Documents with their variables; none that the dictionary was trained on.
        dictionary: A sparse autoencoder with `encode` and `W_dec`.
        at: Hook point, where the dictionary does not know it.
        bar: AUC from which on a value counts as recovered.
        least: Rows with the value, and rows with another one, that each half must have.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        n_shuffles: Of the values; the smallest p-value before correction is 1 in one more.
        seed: Of the halves, the random directions, the shuffles and the resamples.
        progress: Told the fraction done; may raise to stop.

    Returns:
        The latents, against all controls.

    Raises:
        ValueError: If nobody says where the dictionary reads, an argument is out of its range, no
            value stands in enough rows, or there are too many activations to hold.
    """
    started = time.perf_counter()
    evidence.require_confidence(confidence)
    if not _CHANCE < bar <= 1 or least < 1 or n_shuffles < 1:
        raise stepping.DictionaryError(
            f"bar = {bar}, least = {least}, n_shuffles = {n_shuffles}: expected a bar above "
            f"{_CHANCE} and up to 1, at least 1 row and 1 shuffle"
        )
    report = progress or running.no_progress
    corpus = labelled.corpus
    where = quality.where_it_reads(model, corpus, dictionary, at)
    rows, halves = _halves(labelled, seed)
    candidates = _candidates(model, labelled, dictionary, where, _fitted(labelled, halves[0]), seed)
    asked = [
        (variable, index)
        for variable in labelled.variables
        for index in range(len(variable.values))
        if all(_rows_with(variable, index, rows, half) >= least for half in halves)
    ]
    if not asked:
        raise stepping.DictionaryError(
            f"no value stands in {least} rows of each half of {corpus.name}: give more documents"
        )
    found: list[Detectors] = []
    for number, one in enumerate(candidates):
        report(0.1 + 0.2 * number, f"search among {one.name}")
        found.append(_detectors(one, asked, halves))
    report(0.9, "intervals and shuffles")
    values = candidates[0].table[:, found[0].chosen]
    tests = _tests(asked, values, halves[1], (n_shuffles, seed))
    bounds = [
        _interval(variable, index, (values[:, i], rows), halves[1], (confidence, n_resamples, seed))
        for i, (variable, index) in enumerate(asked)
    ]
    defined = [halves[1] & (variable.at >= 0) for variable, _ in asked]
    runs = [np.unique(v.run[here]) for (v, _), here in zip(asked, defined, strict=True)]
    provenance = results.provenance(
        model,
        analysis=ANALYSIS,
        parameters={
            "dictionary": units.mark_of(dictionary),
            "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
            "variables": [variable.name for variable in labelled.variables],
            "labels": results.mark(np.stack([v.at for v in labelled.variables])),
            "hook": where.hook,
            "bar": bar,
            "least": least,
            "confidence": confidence,
            "n_resamples": n_resamples,
            "n_shuffles": n_shuffles,
        },
        seed=seed,
        wall_time=time.perf_counter() - started,
    )
    return VariableMatches(
        provenance=provenance,
        variable=tuple(variable.name for variable, _ in asked),
        value=tuple(variable.values[index] for variable, index in asked),
        latents=found[0],
        controls=tuple(found[1:]),
        interval=np.array(bounds).T,
        p_value=evidence.adjusted_for_discoveries(np.array([p for p, _ in tests])),
        by_chance=np.array([chance for _, chance in tests]),
        n_tokens=np.array([int(here.sum()) for here in defined]),
        n_positive=np.array(
            [int((here & (v.at == i)).sum()) for (v, i), here in zip(asked, defined, strict=True)]
        ),
        n_runs=np.array([len(several) for several in runs]),
        n_rows=len(np.unique(rows[halves[1]])),
        bar=float(bar),
        confidence=confidence,
    )


@dataclasses.dataclass(frozen=True)
class _Candidates:
    """Detectors to choose from.

    Attributes:
        name: What they are.
        both: Whether one may detect by being small.
        table: Their values at all tokens; zero at special ones.
    """

    name: str
    both: bool
    table: Float[np.ndarray, "token part"]


def _halves(
    labelled: LabelledTokens, seed: int
) -> tuple[Int[np.ndarray, " token"], list[Bool[np.ndarray, " token"]]]:
    """Row of each token, and where the tokens of either half are."""
    corpus = labelled.corpus
    rows = np.repeat(np.arange(len(corpus)), corpus.lengths)
    first = np.zeros(len(corpus), dtype=bool)
    first[np.random.default_rng(seed).permutation(len(corpus))[: len(corpus) // 2]] = True
    return rows, [first[rows], ~first[rows]]


def _fitted(
    labelled: LabelledTokens, half: Bool[np.ndarray, " token"]
) -> Bool[np.ndarray, " token"]:
    """Tokens of a half at which any variable is defined."""
    return half & np.any([variable.at >= 0 for variable in labelled.variables], axis=0)


def _rows_with(
    variable: Variable,
    index: int,
    rows: Int[np.ndarray, " token"],
    half: Bool[np.ndarray, " token"],
) -> int:
    """Rows of a half with a value, or with another one, whichever are fewer."""
    with_it = half & (variable.at == index)
    others = half & (variable.at >= 0) & (variable.at != index)
    return min(len(np.unique(rows[with_it])), len(np.unique(rows[others])))


def _candidates(  # noqa: PLR0913, PLR0917 -- one step of `match_variables`
    model: TransformerBridge,
    labelled: LabelledTokens,
    dictionary: Any,
    where: activations.Place,
    fitted: Bool[np.ndarray, " token"],
    seed: int,
) -> list[_Candidates]:
    """Latents, random directions of the same L0, coordinates, and neurons of the layer."""
    corpus = labelled.corpus
    read = [
        families.family(model, where.site, where.layer, dictionary=dictionary),
        families.family(model, where.site, where.layer),
    ]
    # The coordinates of a layer's neurons are these.
    if where.site != "neuron" and model.cfg.d_mlp:
        read.append(families.family(model, "neuron", where.layer))
    needed = corpus.n_tokens * (read[0].size + sum(family.size for family in read))
    if needed > _MOST:
        raise stepping.DictionaryError(
            f"{corpus.n_tokens:,} tokens of {needed // corpus.n_tokens:,} candidates are more than "
            "fits into memory: give fewer documents"
        )
    tables = [np.zeros((corpus.n_tokens, family.size), dtype=np.float32) for family in read]
    reader = scan.Reader(model, corpus, read)
    for chunk in corpus.chunks():
        numbers = corpus.numbers(chunk)

        def keep(family: int, table: torch.Tensor, numbers: np.ndarray = numbers) -> None:
            tables[family][numbers] = table.float().cpu().numpy()

        reader.read(chunk, keep)
    table, coordinates, *more = tables
    centred = coordinates - coordinates[fitted].mean(0)
    random = _along_random(
        centred, np.count_nonzero(table, axis=1), dictionary.W_dec.detach().cpu(), seed
    )
    return [
        _Candidates("latents", False, table),
        _Candidates("random directions", False, random),
        _Candidates("coordinates", True, coordinates),
        *(_Candidates("neurons", True, neurons) for neurons in more),
    ]


def _along_random(
    centred: Float[np.ndarray, "token width"],
    active: Int[np.ndarray, " token"],
    decoder: Float[torch.Tensor, "latent width"],
    seed: int,
) -> Float[np.ndarray, "token latent"]:
    """Projections on random directions, of which as many are kept at a token as are active."""
    rows = torch.nn.functional.normalize(decoder.double(), dim=1).numpy()
    directions = np.random.default_rng(seed).multivariate_normal(
        np.zeros(rows.shape[1]), rows.T @ rows, size=len(rows), method="eigh"
    )
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-30)
    projected = (torch.from_numpy(centred) @ torch.from_numpy(directions.T).float()).relu()
    values, index = projected.topk(max(1, int(active.max(initial=0))), dim=1)
    values *= torch.arange(values.shape[1]) < torch.from_numpy(active)[:, None]
    return torch.zeros_like(projected).scatter_(1, index, values).numpy()


def _detectors(
    candidates: _Candidates,
    asked: list[tuple[Variable, int]],
    halves: list[Bool[np.ndarray, " token"]],
) -> Detectors:
    """Choose on the first half, measure on the second."""
    chosen: list[int] = []
    signs: list[int] = []
    scores: list[tuple[float, float]] = []
    aucs: dict[str, np.ndarray] = {}
    for variable, index in asked:
        if variable.name not in aucs:
            aucs[variable.name] = _aucs(variable, candidates.table, halves[0])
        auc = aucs[variable.name][index]
        best = int(np.argmax(np.maximum(auc, 1 - auc) if candidates.both else auc))
        sign = 1 if auc[best] >= _CHANCE or not candidates.both else -1
        chosen.append(best)
        signs.append(sign)
        first, second = (_split(variable, index, candidates.table[:, best], h) for h in halves)
        threshold = _threshold(sign * first[0], first[1])
        scores.append((_auc(sign * second[0], second[1]), _f1(sign * second[0], threshold, second)))
    auc, f1 = np.array(scores).T
    return Detectors(
        candidates.name,
        candidates.table.shape[1],
        np.array(chosen),
        np.array(signs),
        auc,
        f1,
    )


def _split(
    variable: Variable,
    index: int,
    values: Float[np.ndarray, " token"],
    half: Bool[np.ndarray, " token"],
) -> tuple[Float[np.ndarray, " sampled"], Bool[np.ndarray, " sampled"]]:
    """Values of a detector where a variable is defined, and whether it has the value there."""
    here = half & (variable.at >= 0)
    return values[here].astype(np.float64), variable.at[here] == index


def _aucs(
    variable: Variable,
    table: Float[np.ndarray, "token part"],
    half: Bool[np.ndarray, " token"],
) -> Float[np.ndarray, "different part"]:
    """AUC of every candidate for every value; one half for a value that no token has."""
    here = half & (variable.at >= 0)
    # Each candidate's values lie side by side, which is what sorting reads.
    ranks = scipy.stats.rankdata(np.ascontiguousarray(table[here].T), axis=1)
    has = variable.at[here] == np.arange(len(variable.values))[:, None]
    return _from_ranks(has.astype(np.float64) @ ranks.T, has.sum(1)[:, None], int(here.sum()))


def _from_ranks(sums: Any, positive: Any, n: int) -> Any:
    """AUC from sums of ranks, by Mann and Whitney."""
    pairs = positive * (n - positive)
    wins = sums - positive * (positive + 1) / 2
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), _CHANCE)


def _auc(values: Float[np.ndarray, " sampled"], has: Bool[np.ndarray, " sampled"]) -> float:
    sums = scipy.stats.rankdata(values)[has].sum()
    return float(_from_ranks(sums, int(has.sum()), len(has)))


def _threshold(values: Float[np.ndarray, " sampled"], has: Bool[np.ndarray, " sampled"]) -> float:
    """From which value on to say "it has it", so that F1 is highest."""
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    hits = np.cumsum(has[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    # Equal values are said together.
    f1[:-1][ordered[:-1] == ordered[1:]] = -1
    return float(ordered[np.argmax(f1)])


def _f1(
    values: Float[np.ndarray, " sampled"],
    threshold: float,
    measured: tuple[Float[np.ndarray, " sampled"], Bool[np.ndarray, " sampled"]],
) -> float:
    has, said = measured[1], values >= threshold
    return float(2 * (has & said).sum() / (has.sum() + said.sum()))


def _tests(
    asked: list[tuple[Variable, int]],
    values: Float[np.ndarray, "token cell"],
    half: Bool[np.ndarray, " token"],
    drawn: tuple[int, int],
) -> list[tuple[float, float]]:
    """P-value of each detector against shuffles, and the AUC that 95 % of these stay below."""
    count, seed = drawn
    found: list[tuple[float, float]] = []
    before, shuffled, run, sizes = "", np.zeros(0), np.zeros(0), np.zeros(0)
    for i, (variable, index) in enumerate(asked):
        # All values of a variable are shuffled together.
        if variable.name != before:
            here, before = half & (variable.at >= 0), variable.name
            _, first, run = np.unique(variable.run[here], return_index=True, return_inverse=True)
            sizes = np.bincount(run).astype(np.float64)
            drawn_values = np.tile(variable.at[here][first], (count, 1))
            shuffled = np.random.default_rng(seed).permuted(drawn_values, axis=1)
        seen, has = _split(variable, index, values[:, i], half)
        sums = np.bincount(run, scipy.stats.rankdata(seen))
        having = (shuffled == index).astype(np.float64)
        chance = _from_ranks(having @ sums, having @ sizes, len(seen))
        p_value = (1 + (chance >= _auc(seen, has)).sum()) / (1 + count)
        found.append((float(p_value), float(np.quantile(chance, 0.95))))
    return found


def _interval(
    variable: Variable,
    index: int,
    seen: tuple[Float[np.ndarray, " token"], Int[np.ndarray, " token"]],
    half: Bool[np.ndarray, " token"],
    drawn: tuple[float, int, int],
) -> tuple[float, float]:
    """Percentile bootstrap of an AUC: whole rows are drawn, as their tokens belong together."""
    confidence, count, seed = drawn
    values, has = _split(variable, index, seen[0], half)
    _, row = np.unique(seen[1][half & (variable.at >= 0)], return_inverse=True)
    levels, level = np.unique(values, return_inverse=True)
    shape = (int(row.max()) + 1, len(levels))

    def by_level(which: np.ndarray) -> Any:
        ones = np.ones(int(which.sum()))
        return scipy.sparse.csr_array((ones, (row[which], level[which])), shape=shape)

    with_it, without = by_level(has), by_level(~has)

    def statistic(rows: np.ndarray, axis: int) -> np.ndarray:
        several = np.moveaxis(rows, axis, -1).astype(np.int64).reshape(-1, shape[0])
        times = np.stack([np.bincount(one, minlength=shape[0]) for one in several])
        above, below = times @ with_it, times @ without
        pairs = above.sum(1) * below.sum(1)
        wins = (above * (np.cumsum(below, 1) - below / 2)).sum(1)
        # Rows that lack one of the two say nothing.
        found = np.where(pairs > 0, wins / np.maximum(pairs, 1), _CHANCE)
        return found.reshape(np.moveaxis(rows, axis, -1).shape[:-1])

    found = scipy.stats.bootstrap(
        (np.arange(shape[0]),),
        statistic,
        n_resamples=count,
        batch=max(1, int(4e6 // (shape[0] + shape[1]))),
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
