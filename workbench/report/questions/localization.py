"""Is a behaviour carried by few components, or by all a little?

1. On one half of the pairs every head and MLP is scored: the estimated change of the metric when
   its output is corrupted, which is the sum of the attribution scores of all edges that leave it
   (EAP-IG). Components are put in the order of the absolute score.
2. On the other half the model is run with the first components as they are and all others
   corrupted, exactly, for each number of components: faithfulness is the share of the difference
   between clean and corrupted run that is left.
3. The least number that carries the share that is asked for has a bootstrap interval over prompts.
   The null: components in random order.

Source: Wang et al. 2022, arXiv 2211.00593 (faithfulness); Hanna et al. 2024, arXiv 2403.17806
(EAP-IG); Hase et al. 2023, arXiv 2301.04213 (localization against random places).

Units and sign: faithfulness as in `analyses.circuits`, 0 the corrupted and 1 the clean run; the
number of components as share of all heads and MLPs.

Limits: the order is an estimate, and another one may need fewer components. A component is taken
with all its positions. Faithfulness need not grow with every component; the first number that
reaches the share counts. In models of many components not every number is tried.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import scipy.stats
from jaxtyping import Bool, Float, Int

from analyses.circuits import discovery, measuring
from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.evidence import SURE
from workbench.core.prompts.pairs import ContrastPairs
from workbench.report import exhibits, spec
from workbench.report.document import Finding, Section
from workbench.report.examining import Answer, Examination, NotExamined, worst
from workbench.report.questions import behaviour as behaving
from workbench.report.questions import costs, sentences

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "report.localization"
_N_RANDOM = 20
_N_RESAMPLES = 2000
# Numbers of components that are tried in a model of more.
_MOST_POINTS = 40
_LEAST_PAIRS = 4
# Components that are named in a sentence.
_NAMED = 8
# Resamples × points × prompts that are held at once.
_VALUES_AT_ONCE = 4_000_000
_METHOD = (
    "Heads and MLPs are put in order by attribution (EAP-IG) on one half of the pairs; on the "
    "other half the model is run with the first of them as they are and all others corrupted, "
    "exactly, until the share of the behaviour that is asked for is left. The same is "
    "done with components in random order."
)
_PAPERS = (
    "Wang et al. 2022, arXiv 2211.00593",
    "Hanna et al. 2024, arXiv 2403.17806",
    "Hase et al. 2023, arXiv 2301.04213",
)


@dataclasses.dataclass(frozen=True)
class Localizing(results.Result):
    """How much of a behaviour the first components carry, beside components in random order.

    Attributes:
        components: Heads and MLPs, the largest absolute score first.
        scores: Estimated change of the metric when each is corrupted, in the metric's unit.
        sizes: Numbers of components that were tried, from none to all.
        faithfulness: Faithfulness of the first components, one a number.
        interval: Bootstrap intervals over prompts.
        per_prompt: Metric of each prompt with the first components.
        random: Faithfulness of components in random order.
        share: Faithfulness that was asked for.
        needed: Least number of components that reaches it.
        needed_interval: Bootstrap interval of that number over prompts.
        random_needed: The same of each random order.
        p_value: Share of orders, this one counted in, that need no more.
        metric: What was measured.
        confidence: Level of the intervals.
        pairs: All pairs.
        scored_indices: Which pairs the scores come from.
        measured_indices: Which pairs faithfulness was measured on.
    """

    components: tuple[str, ...]
    scores: Float[np.ndarray, " component"]
    sizes: Int[np.ndarray, " point"]
    faithfulness: Float[np.ndarray, " point"]
    interval: Float[np.ndarray, "bound point"]
    per_prompt: Float[np.ndarray, "point prompt"]
    random: Float[np.ndarray, "sample point"]
    share: float
    needed: int
    needed_interval: Float[np.ndarray, " bound"]
    random_needed: Int[np.ndarray, " sample"]
    p_value: float
    metric: str
    confidence: float
    pairs: ContrastPairs
    scored_indices: tuple[int, ...]
    measured_indices: tuple[int, ...]

    @property
    def carried(self) -> float:
        """Faithfulness of the components that are needed."""
        return float(self.faithfulness[self.sizes.tolist().index(self.needed)])

    @property
    def fraction(self) -> float:
        """Share of all components that is needed."""
        return self.needed / len(self.components)

    @property
    def fraction_interval(self) -> Float[np.ndarray, " bound"]:
        """Its bootstrap interval."""
        return self.needed_interval / len(self.components)

    def to_frame(self) -> pd.DataFrame:
        """One row a number of components: the one that came last, and what is carried."""
        last = ["none", *(self.components[size - 1] for size in self.sizes[1:])]
        scores = [float("nan"), *(self.scores[size - 1] for size in self.sizes[1:])]
        return pd.DataFrame(
            {
                "components": self.sizes,
                "last added": last,
                "its score": scores,
                "faithfulness": self.faithfulness,
                "low": self.interval[0],
                "high": self.interval[1],
                "random order": self.random.mean(0),
                "n": len(self.measured_indices),
            }
        )

    def figure(self) -> go.Figure:
        """Faithfulness over the number of components, beside random orders."""
        figure = plots.line(
            self.sizes,
            {"by score": self.faithfulness, "random order": self.random.mean(0)},
            x_title="heads and MLPs that are not corrupted",
            y_title="faithfulness (0 corrupted, 1 clean)",
            bands={
                "by score": self.interval,
                "random order": np.quantile(self.random, [0.025, 0.975], axis=0),
            },
        )
        return figure.add_hline(y=self.share, line={"dash": "dot", "color": plots.COLOURS[-1]})

    def summary(self) -> str:
        """How many components are needed, which, and how many random ones."""
        n = len(self.measured_indices)
        low, high = self.needed_interval
        first = ", ".join(self.components[: min(self.needed, _NAMED)])
        return (
            f"{self.needed} of {len(self.components)} heads and MLPs of {self.provenance.model} "
            f"({sentences.share(self.fraction)}) carry {sentences.share(self.share)} of the "
            f"{self.metric.replace('_', ' ')} on {self.pairs.name}, held out "
            f"({sentences.share(self.confidence)} interval {low:.0f} to {high:.0f}, n = {n}): "
            f"{first}"
            f"{', …' if self.needed > _NAMED else ''}. In random order "
            f"{self.random_needed.mean():.1f} are needed on average, {self.random_needed.min()} at "
            f"least ({len(self.random_needed)} orders, {sentences.chance(self.p_value)})."
        )


def examine(examination: Examination, behaviour: spec.Behaviour) -> Answer:
    """Answer the question for one behaviour.

    Args:
        examination: The model.
        behaviour: What is to be carried.

    Returns:
        The answer.

    Raises:
        NotExamined: If the model does not show the behaviour, or the limits do not allow it.
    """
    shown = behaving.require_shown(examination, behaviour)
    asked = examination.spec.questions.localization
    pairs = examination.pairs(behaviour)
    if len(pairs) < _LEAST_PAIRS:
        raise NotExamined(
            "components are put in order on one half of the pairs and measured on the other, "
            f"which needs {_LEAST_PAIRS} pairs; there are {len(pairs)}"
        )
    components = costs.components(examination.model)
    if math.comb(len(components), len(components) // 2) < 1 / SURE:
        raise NotExamined(
            f"the model has {len(components)} heads and MLPs, too few for any choice of them to be "
            f"rarer than {sentences.share(SURE)} by chance; how much each carries is in the circuit"
        )
    options: dict[str, Any] = {
        "share": asked.share,
        "metric": behaving.metric_of(pairs),
        "confidence": examination.spec.confidence,
        "seed": examination.spec.seed,
    }

    def make(progress: running.Progress) -> Localizing:
        points = min(len(components), _MOST_POINTS)
        costs.require_runs(examination, pairs, points * (_N_RANDOM + 1))
        return localize(examination.model, pairs, **options, progress=progress)

    found = examination.made(
        Localizing, f"localization: {pairs.name}", parameters(pairs, **options), make
    )
    return _answer(found, behaviour, asked.components, behaving.doubt(shown))


def _answer(
    found: Localizing,
    behaviour: spec.Behaviour,
    threshold: spec.Threshold,
    doubts: tuple[str, ...],
) -> Answer:
    low, high = map(float, found.fraction_interval)
    by_chance = found.p_value > SURE
    by_share = sentences.sure(found.fraction_interval, found.confidence)
    id_, about, total = f"localization/{behaviour.title}", behaviour.title, len(found.components)
    measured = (
        exhibits.measured(
            f"share of heads and MLPs that carries {sentences.share(found.share)} of the behaviour",
            found.fraction,
            interval=found.fraction_interval,
            threshold=threshold,
            n=len(found.measured_indices),
            p_value=found.p_value,
            null=f"components in random order, mean of {len(found.random_needed)}",
            null_value=float(found.random_needed.mean() / total),
        ),
    )
    caveats = (*_caveats(found), *doubts)
    return Answer(
        finding=Finding(
            id=id_,
            question="localization",
            about=about,
            verdict=worst(threshold.verdict(low, high), "warn" if by_chance else "pass"),
            statement=(
                f"{found.needed} of {total} heads and MLPs ({sentences.share(found.fraction)}; "
                f"{by_share}) are enough for {sentences.share(found.share)} of {about!r}."
            ),
            evidence=(
                f"With all others corrupted they keep "
                f"{sentences.share(found.carried)} on "
                f"{len(found.measured_indices)} pairs that had no part in their order; in random "
                f"order {found.random_needed.mean():.1f} would be needed "
                f"({sentences.chance(found.p_value)}, {len(found.random_needed)} orders)."
            ),
            caveat=caveats[0],
            measured=measured,
        ),
        section=Section(
            id=id_,
            question="localization",
            title=f"How localized: {about}",
            asked=f"Is {about!r} carried by few components, or by all a little?",
            summary=found.summary(),
            method=_METHOD,
            papers=_PAPERS,
            exhibits=(
                exhibits.figure(
                    found.figure(),
                    "Share of the behaviour that is left with the first components alone; the "
                    "dotted line is the share that is asked for.",
                ),
                exhibits.table(
                    found.to_frame(), "Components in order, and how much they carry together."
                ),
            ),
            measured=measured,
            caveats=caveats,
        ),
    )


def _caveats(found: Localizing) -> tuple[str, ...]:
    """What speaks against relying on it, the strongest first."""
    caveats: list[str] = []
    if found.p_value > SURE:
        caveats.append(
            f"Components in random order need hardly more ({sentences.chance(found.p_value)}), so "
            "the number says little about these ones."
        )
    beyond = found.faithfulness[found.sizes > found.needed]
    if beyond.size and beyond.min() < found.share:
        caveats.append(
            f"With further components the share falls again, to {sentences.share(beyond.min())} at "
            "the least: some of these work against the behaviour, and the number needs them away."
        )
    caveats.append(
        "The order is an estimate made with these prompts and this corruption; another set of "
        "components of this size may do as well."
    )
    return tuple(caveats)


def parameters(
    pairs: ContrastPairs, *, share: float, metric: str, confidence: float, seed: int
) -> dict[str, Any]:
    """Everything that determines a result apart from the model, to find a stored one by.

    Args:
        pairs: What is run.
        share: Faithfulness that is asked for.
        metric: What is measured.
        confidence: Level of the intervals.
        seed: Of everything random.

    Returns:
        JSON types only.
    """
    return {
        "share": share,
        "metric": metric,
        "n_random": _N_RANDOM,
        "n_resamples": _N_RESAMPLES,
        "confidence": confidence,
        "seed": seed,
        "pairs": pairs.digest(),
    }


def localize(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    share: float = 0.8,
    metric: str = "logit_difference",
    confidence: float = 0.95,
    seed: int = 0,
    progress: running.Progress = running.no_progress,
) -> Localizing:
    """Find how many components carry a share of a behaviour.

    Args:
        model: The bridge.
        pairs: Clean and corrupted prompts of equal length.
        share: Faithfulness that is asked for, between 0 and 1.
        metric: What is measured; one that has a gradient.
        confidence: Level of the intervals.
        seed: Of the split, the random orders and the bootstrap.
        progress: Called with the fraction done and a note; may raise to cancel.

    Returns:
        The number, with everything that it rests on.

    Raises:
        ValueError: If the model cannot be taken apart, or clean and corrupted metrics are too close
            to divide by.
    """
    started = time.perf_counter()
    chosen, kept = discovery.split(len(pairs), 0.5, seed)
    measured = measuring.Measured(model, pairs.subset(kept), metric=metric)
    edge_scores = discovery.scored(
        model,
        pairs.subset(chosen),
        metric=metric,
        method="eap_ig",
        steps=5,
        progress=running.part(progress, 0.0, 0.3),
    )
    whole = measured.graph
    names = [name for name in whole.senders if whole.kind_of(name) != "input"]
    scores = edge_scores[[whole.sender_index[name] for name in names]].sum(1)
    order = np.argsort(-np.abs(scores), kind="stable")
    sizes = _sizes(len(names))
    rng = np.random.default_rng(seed)
    orders = [order, *(rng.permutation(len(names)) for _ in range(_N_RANDOM))]
    masks = np.concatenate([_firsts(measured, names, one, sizes) for one in orders])
    step = measuring.part(progress, 0.3, 0.95, "running the first components of each order")
    found = measured.under(masks, step).reshape(len(orders), len(sizes), -1)
    curves = measured.as_fraction(found)
    progress(0.95, "bootstrap intervals")
    changes, unit = found[0] - measured.nothing, measured.full - measured.nothing
    level = evidence.Bootstrap(confidence=confidence, n_resamples=_N_RESAMPLES, seed=seed)
    needed = _needed(curves, sizes, share)
    return Localizing(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters=parameters(
                pairs, share=share, metric=metric, confidence=confidence, seed=seed
            ),
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        components=tuple(names[i] for i in order),
        scores=scores[order],
        sizes=sizes,
        faithfulness=curves[0],
        interval=evidence.ratio_interval(changes.T, unit, **level),
        per_prompt=found[0],
        random=curves[1:],
        share=share,
        needed=int(needed[0]),
        needed_interval=_needed_interval(changes, unit, sizes, share, level),
        random_needed=needed[1:],
        p_value=evidence.p_value(-float(needed[0]), -needed[1:].astype(np.float64)),
        metric=metric,
        confidence=confidence,
        pairs=pairs,
        scored_indices=chosen,
        measured_indices=kept,
    )


def _sizes(total: int) -> Int[np.ndarray, " point"]:
    """Every number of components, or in a large model some, closer together where they are few."""
    if total < _MOST_POINTS:
        return np.arange(total + 1)
    spread = np.unique(np.round(np.geomspace(1, total, _MOST_POINTS)).astype(np.int64))
    return np.concatenate([[0], spread])


def _firsts(
    measured: measuring.Measured,
    names: list[str],
    order: np.ndarray,
    sizes: Int[np.ndarray, " point"],
) -> Bool[np.ndarray, "point sender receiver"]:
    """All edges but those that leave a component beyond the first ones."""
    whole = measured.graph.allowed
    return np.stack([measured.without(whole, [names[i] for i in order[size:]]) for size in sizes])


def _needed(
    curves: Float[np.ndarray, "*curve point"], sizes: Int[np.ndarray, " point"], share: float
) -> Int[np.ndarray, "*curve"]:
    """Least number of components that reaches the share; all of them do, but for rounding."""
    reached = curves >= share - discovery.TOLERANCE
    reached[..., -1] = True
    return sizes[reached.argmax(-1)]


def _needed_interval(
    changes: Float[np.ndarray, "point prompt"],
    unit: Float[np.ndarray, " prompt"],
    sizes: Int[np.ndarray, " point"],
    share: float,
    level: evidence.Bootstrap,
) -> Float[np.ndarray, " bound"]:
    """Percentile bootstrap interval of the least number, prompts resampled as whole."""

    def statistic(*columns: np.ndarray, axis: int) -> np.ndarray:
        means = np.stack([column.mean(axis) for column in columns])
        curves = np.moveaxis(means[:-1] / means[-1], 0, -1)
        return _needed(curves, sizes, share).astype(np.float64)

    with np.errstate(divide="ignore", invalid="ignore"):
        result = scipy.stats.bootstrap(
            (*changes, unit),
            statistic,
            paired=True,
            axis=-1,
            vectorized=True,
            method="percentile",
            confidence_level=level["confidence"],
            n_resamples=level["n_resamples"],
            batch=max(1, _VALUES_AT_ONCE // changes.size),
            rng=np.random.default_rng(level["seed"]),
        )
    return np.array([result.confidence_interval.low, result.confidence_interval.high])
