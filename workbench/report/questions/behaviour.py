"""Does the model do what it is meant to do, and by more than chance?

1. Each clean prompt is run. It is answered right where its answer is the most probable token of all
   ("top token"), or (tasks of which several answers are right, and files of pairs that name wrong
   answers) where its answer is more probable than its wrong answer ("beats wrong answer").
2. The share of right answers has an exact binomial interval, the logit difference a bootstrap
   interval over prompts.
3. The null: the same prompts with the answers of other pairs, in random order.

Source: Clopper & Pearson 1934, "The use of confidence or fiducial limits" (interval); Wang et al.
2022, arXiv 2211.00593 (logit difference); Ojala & Garriga 2010, "Permutation tests for studying
classifier performance" (null).

Units and sign: accuracy is a share. The logit difference is in logits, positive where the right
answer is preferred.

Limits: an accuracy is about prompts like these. Where answers of other pairs are often the same, as
with few possible answers, the null is high by construction.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import scipy.stats
from jaxtyping import Bool, Float, Int

from workbench.core import evidence, plots, results
from workbench.core.engine import budget, metrics, preflight, running
from workbench.core.prompts import prompt, tasks
from workbench.core.prompts.pairs import ContrastPairs
from workbench.report import exhibits, spec, wording
from workbench.report.document import Finding, Section
from workbench.report.examining import Answer, Examination, NotExamined, worst
from workbench.report.questions import sentences

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "report.behaviour"
# What the two numbers with a threshold are called.
ACCURACY = "accuracy"
LOGIT_DIFFERENCE = "mean logit difference of right and wrong answer"
CRITERIA: tuple[tasks.Criterion, ...] = ("top token", "beats wrong answer")
# Random orders of the answers.
_N_RANDOM = 199
_METHOD = (
    "Each clean prompt is run and counts as right where {criterion}; the accuracy has an exact "
    "binomial interval, the logit difference a bootstrap interval over prompts. As null the same "
    "prompts are judged by the answers of other pairs, in {n} random orders."
)
_CRITERION = {
    "top token": "its answer is the most probable token of all",
    "beats wrong answer": "its answer is more probable than its wrong answer",
}
_PAPERS = (
    "Clopper & Pearson 1934",
    "Wang et al. 2022, arXiv 2211.00593",
    "Ojala & Garriga 2010",
)


@dataclasses.dataclass(frozen=True)
class Behaving(results.Result):
    """Which prompts a model answers right, beside the answers of other pairs.

    Attributes:
        criterion: "top token" or "beats wrong answer".
        right: Whether each prompt is answered right.
        top: Whether the answer is the most probable token of all.
        probabilities: Total probability of each prompt's answers.
        differences: Logit difference of each prompt; NaN where there are no wrong answers.
        said: The most probable token of each prompt, as text.
        interval: Exact binomial interval of the accuracy.
        difference_interval: Bootstrap interval of the mean logit difference.
        others: Accuracy with the answers of other pairs, one a random order.
        p_value: Share of these, the true one counted in, that are as large.
        chance: Accuracy of a guess among the words that fit; NaN where it is not known.
        confidence: Level of the intervals.
        pairs: What was run.
    """

    criterion: str
    right: Bool[np.ndarray, " prompt"]
    top: Bool[np.ndarray, " prompt"]
    probabilities: Float[np.ndarray, " prompt"]
    differences: Float[np.ndarray, " prompt"]
    said: tuple[str, ...]
    interval: Float[np.ndarray, " bound"]
    difference_interval: Float[np.ndarray, " bound"]
    others: Float[np.ndarray, " sample"]
    p_value: float
    chance: float
    confidence: float
    pairs: ContrastPairs

    @property
    def accuracy(self) -> float:
        """Share of prompts that are answered right."""
        return float(self.right.mean())

    @property
    def shown(self) -> bool:
        """Whether right answers are preferred by more than chance, so that there is a behaviour."""
        if np.isfinite(self.difference_interval).all():
            return bool(self.difference_interval[0] > 0)
        return self.p_value <= evidence.SURE

    def to_frame(self) -> pd.DataFrame:
        """One row a prompt, the worst first: its answer, what the model said, and how sure."""
        frame = pd.DataFrame(
            {
                "prompt": self.pairs.clean,
                "answer": [" | ".join(texts) for texts in self.pairs.answer_strings],
                "model says": self.said,
                "right": self.right,
                "probability": self.probabilities,
                "logit difference": self.differences,
            }
        )
        return frame.sort_values(["right", "probability"], kind="stable", ignore_index=True)

    def figure(self) -> go.Figure:
        """How sure the model is over the prompts, as a histogram."""
        known = bool(np.isfinite(self.differences).all())
        figure = go.Figure(
            go.Histogram(
                x=self.differences if known else self.probabilities,
                marker={"color": plots.COLOURS[0]},
            )
        )
        if known:
            figure.add_vline(x=0, line={"dash": "dot", "color": plots.COLOURS[-1]})
        figure.update_layout(template=plots.TEMPLATE, showlegend=False)
        figure.update_xaxes(
            title="logit difference of right and wrong answer (logits)"
            if known
            else "probability of the answer"
        )
        return figure.update_yaxes(title="prompts")

    def summary(self) -> str:
        """Accuracy and logit difference with their intervals, and the null."""
        n = len(self.pairs)
        lines = [
            f"{self.provenance.model} answers {int(self.right.sum())} of {n} prompts of "
            f"{self.pairs.name} right ({sentences.share(self.accuracy)}, "
            f"{sentences.sure(self.interval, self.confidence)}; right means: {self.criterion})."
        ]
        if np.isfinite(self.differences).all():
            sure = sentences.sure(self.difference_interval, self.confidence, shares=False)
            lines.append(
                f"The mean logit difference is {wording.number(self.differences.mean())} logits "
                f"({sure})."
            )
        if np.isfinite(self.chance):
            lines.append(f"A guess among the words that fit: {sentences.share(self.chance)}.")
        lines.append(
            f"With the answers of other pairs it would be {sentences.share(self.others.mean())} "
            f"right ({len(self.others)} random orders, at most "
            f"{sentences.share(self.others.max())}, {sentences.chance(self.p_value)})."
        )
        return " ".join(lines)


def examine(examination: Examination, behaviour: spec.Behaviour) -> Answer:
    """Answer the question for one behaviour.

    Args:
        examination: The model.
        behaviour: Whose pairs are run, and how well the model must do.

    Returns:
        The answer.
    """
    found = behaving(examination, behaviour)
    n, about = len(found.pairs), behaviour.title
    low, high = map(float, found.interval)
    verdicts: list[spec.Verdict] = [behaviour.accuracy.verdict(low, high)]
    measured = [
        exhibits.measured(
            ACCURACY,
            found.accuracy,
            interval=found.interval,
            threshold=behaviour.accuracy,
            n=n,
            p_value=found.p_value,
            null=f"answers of other pairs, mean of {len(found.others)} random orders",
            null_value=float(found.others.mean()),
        )
    ]
    if np.isfinite(found.differences).all():
        low, high = map(float, found.difference_interval)
        verdicts.append(behaviour.logit_difference.verdict(low, high))
        measured.append(
            exhibits.measured(
                LOGIT_DIFFERENCE,
                float(found.differences.mean()),
                interval=found.difference_interval,
                threshold=behaviour.logit_difference,
                unit="logits",
                n=n,
                null="no preference",
                null_value=0.0,
            )
        )
    decisive = tuple(measured)
    measured += [
        exhibits.measured("answer is the most probable token", float(found.top.mean()), n=n),
        exhibits.measured("probability of the answer", float(found.probabilities.mean()), n=n),
        exhibits.measured("accuracy of a guess among the words that fit", found.chance),
    ]
    caveats = _caveats(found)
    id_ = f"behaviour/{about}"
    sentence = (
        f"The model answers {about!r} right in {sentences.share(found.accuracy)} of {n} prompts "
        f"({sentences.sure(found.interval, found.confidence)})."
    )
    return Answer(
        finding=Finding(
            id=id_,
            question="behaviour",
            about=about,
            verdict=worst(*verdicts),
            statement=sentence,
            evidence=_evidence(found),
            caveat=caveats[0],
            measured=decisive,
        ),
        section=Section(
            id=id_,
            question="behaviour",
            title=f"Behaviour: {about}",
            asked=_asked(behaviour),
            summary=found.summary(),
            method=_METHOD.format(criterion=_CRITERION[found.criterion], n=len(found.others)),
            papers=_PAPERS,
            exhibits=(
                exhibits.figure(
                    found.figure(), "How clearly each prompt is answered: prompts by their margin."
                ),
                exhibits.table(
                    found.to_frame(), "Prompts and what the model says, the worst ones first."
                ),
            ),
            measured=tuple(measured),
            caveats=caveats,
        ),
    )


def behaving(examination: Examination, behaviour: spec.Behaviour) -> Behaving:
    """Which prompts of a behaviour the model answers right; stored, and found again.

    Args:
        examination: The model.
        behaviour: Whose pairs are run.

    Returns:
        The result.
    """
    pairs = examination.pairs(behaviour)
    known = None if behaviour.task is None else tasks.get_task(behaviour.task)
    wrong = all(pairs.wrong_answers)
    criterion = CRITERIA[wrong] if known is None else known.criterion
    request = parameters(
        pairs, criterion, confidence=examination.spec.confidence, seed=examination.spec.seed
    )

    def make(progress: running.Progress) -> Behaving:
        return run(
            examination.model,
            pairs,
            criterion=criterion,
            chance=float("nan") if known is None else known.chance,
            confidence=examination.spec.confidence,
            seed=examination.spec.seed,
            megabytes=examination.megabytes,
            progress=progress,
        )

    return examination.made(Behaving, f"behaviour: {pairs.name}", request, make)


def require_shown(examination: Examination, behaviour: spec.Behaviour) -> Behaving:
    """Check that there is a behaviour whose mechanism can be asked for.

    Args:
        examination: The model.
        behaviour: The behaviour.

    Returns:
        Which prompts the model answers right.

    Raises:
        NotExamined: If the model does not prefer the right answers by more than chance.
    """
    found = behaving(examination, behaviour)
    if not found.shown:
        raise NotExamined(
            f"the model does not show this behaviour ({sentences.share(found.accuracy)} of "
            f"{len(found.pairs)} prompts right, no preference for the right answers by more than "
            "chance), so there is nothing that could carry it"
        )
    return found


def doubt(found: Behaving) -> tuple[str, ...]:
    """What a reader of a mechanism must know of a behaviour that is often wrong.

    Args:
        found: Which prompts are answered right.

    Returns:
        No sentence or one.
    """
    if found.right.all():
        return ()
    return (
        f"The model answers {sentences.share(found.accuracy)} of these prompts right; what is "
        "measured here is a mean over right and wrong answers alike.",
    )


def metric_of(pairs: ContrastPairs) -> str:
    """The metric in which a mechanism is measured on these pairs.

    Args:
        pairs: The pairs.

    Returns:
        The logit difference, or the probability where wrong answers are missing.
    """
    return "logit_difference" if all(pairs.wrong_answers) else "probability"


def parameters(
    pairs: ContrastPairs, criterion: str, *, confidence: float, seed: int
) -> dict[str, Any]:
    """Everything that determines a result apart from the model, to find a stored one by.

    Args:
        pairs: What is run.
        criterion: One of `CRITERIA`.
        confidence: Level of the intervals.
        seed: Of the random orders and the bootstrap.

    Returns:
        JSON types only.
    """
    return {
        "pairs": pairs.digest(),
        "criterion": criterion,
        "n_random": _N_RANDOM,
        "confidence": confidence,
        "seed": seed,
    }


def run(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    criterion: str = "top token",
    chance: float = float("nan"),
    confidence: float = 0.95,
    seed: int = 0,
    megabytes: float = budget.DEFAULT_MEGABYTES,
    progress: running.Progress = running.no_progress,
) -> Behaving:
    """Run the clean prompts and judge what the model says.

    Args:
        model: The bridge.
        pairs: Prompts with their answers.
        criterion: One of `CRITERIA`.
        chance: Accuracy of a guess, where it is known.
        confidence: Level of the intervals.
        seed: Of the random orders and the bootstrap.
        megabytes: Most memory beside the model.
        progress: Told before each batch; may raise to cancel.

    Returns:
        Which prompts are answered right.

    Raises:
        ValueError: If the criterion is unknown or needs wrong answers that some pairs lack, or the
            model's logits are not finite.
    """
    started = time.perf_counter()
    compared = all(pairs.wrong_answers)
    if criterion not in CRITERIA:
        raise ValueError(f"criterion = {criterion!r}; expected one of {', '.join(CRITERIA)}")
    if criterion != "top token" and not compared:
        raise ValueError(f"{criterion!r} needs wrong answers, and some of the pairs have none")
    judge = _judge(model, pairs, criterion, megabytes, progress)
    own = np.arange(len(pairs))
    rng = np.random.default_rng(seed)
    right = judge.right(own)
    others = np.array([judge.right(rng.permutation(own)).mean() for _ in range(_N_RANDOM)])
    exact = scipy.stats.binomtest(int(right.sum()), len(pairs)).proportion_ci(confidence)
    level = evidence.Bootstrap(confidence=confidence, n_resamples=2000, seed=seed)
    sure = np.full(2, np.nan)
    if compared:
        sure = evidence.mean_interval(judge.differences[:, None], **level)[:, 0]
    return Behaving(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters=parameters(pairs, criterion, confidence=confidence, seed=seed),
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        criterion=criterion,
        right=right,
        top=judge.said_right(own),
        probabilities=judge.probabilities,
        differences=judge.differences,
        said=prompt.token_texts(model, judge.top.tolist()),
        interval=np.array([exact.low, exact.high]),
        difference_interval=sure,
        others=others,
        p_value=evidence.p_value(float(right.mean()), others),
        chance=chance,
        confidence=confidence,
        pairs=pairs,
    )


@dataclasses.dataclass(frozen=True)
class _Judge:
    """What the model said: which prompts are right, by their own answers or by other pairs'."""

    pairs: ContrastPairs
    criterion: str
    top: Int[np.ndarray, " prompt"]
    probabilities: Float[np.ndarray, " prompt"]
    differences: Float[np.ndarray, " prompt"]
    # Only of the tokens that are somebody's answer.
    logits: Float[np.ndarray, "prompt token"]
    column: dict[int, int]

    def right(self, whose: np.ndarray) -> Bool[np.ndarray, " prompt"]:
        """Whether each prompt is right by the answers of the pair that is named for it."""
        if self.criterion == "top token":
            return self.said_right(whose)
        best = [
            self._best(i, self.pairs.answers[j]) > self._best(i, self.pairs.wrong_answers[j])
            for i, j in enumerate(whose)
        ]
        return np.array(best)

    def said_right(self, whose: np.ndarray) -> Bool[np.ndarray, " prompt"]:
        """Whether the most probable token of each prompt is among the answers of that pair."""
        answers = self.pairs.answers
        return np.array([said in answers[j] for said, j in zip(self.top, whose, strict=True)])

    def _best(self, i: int, tokens: tuple[int, ...]) -> float:
        return float(self.logits[i, [self.column[token] for token in tokens]].max())


def _judge(
    model: TransformerBridge,
    pairs: ContrastPairs,
    criterion: str,
    megabytes: float,
    progress: running.Progress,
) -> _Judge:
    n = len(pairs)
    answers = itertools.chain(*pairs.answers, *pairs.wrong_answers)
    column = {token: i for i, token in enumerate(sorted(set(answers)))}
    judge = _Judge(
        pairs,
        criterion,
        top=np.zeros(n, dtype=np.int64),
        probabilities=np.zeros(n),
        differences=np.full(n, np.nan),
        logits=np.zeros((n, len(column))),
        column=column,
    )
    longest = max(pairs.lengths(i)[0] for i in range(n))
    for batch in pairs.batches(budget.prompts(model.cfg, longest, megabytes, kept_logits=True)):
        progress(float(batch[0]) / n, f"running {n} prompts")
        logits = running.run(model, pairs.batch(batch)[0])[:, -1].float()
        preflight.require_finite(model, logits)
        goal = metrics.targets(pairs, batch, logits)
        judge.top[batch] = logits.argmax(-1).cpu().numpy()
        judge.logits[batch] = logits[:, list(column)].cpu().double().numpy()
        judge.probabilities[batch] = metrics.values(metrics.find("probability"), logits, goal)
        if all(pairs.wrong_answers):
            difference = metrics.values(metrics.find("logit_difference"), logits, goal)
            judge.differences[batch] = difference
    return judge


def _asked(behaviour: spec.Behaviour) -> str:
    if behaviour.task is None:
        return f"Does the model give the right answers to the prompts of {behaviour.title!r}?"
    return tasks.get_task(behaviour.task).question


def _evidence(found: Behaving) -> str:
    told = (
        f"With the answers of other pairs {sentences.share(found.others.mean())} would be right "
        f"({sentences.chance(found.p_value)}, {len(found.others)} random orders)"
    )
    if not np.isfinite(found.differences).all():
        return f"{told}."
    sure = sentences.sure(found.difference_interval, found.confidence, shares=False)
    return (
        f"The right answer leads the wrong one by {wording.number(found.differences.mean())} "
        f"logits on average ({sure}). {told}."
    )


def _caveats(found: Behaving) -> tuple[str, ...]:
    """What speaks against relying on it, the strongest first."""
    caveats: list[str] = []
    if found.p_value > evidence.SURE:
        caveats.append("This is no more than the answers of other pairs would get.")
    worst_one = found.to_frame().iloc[0]
    if not found.right.all():
        wrong = int((~found.right).sum())
        caveats.append(
            f"{wrong} of {len(found.pairs)} prompts are answered wrong, such as "
            f"{worst_one['prompt']!r} with {worst_one['model says']!r}."
        )
    if found.criterion != "top token" and not found.top.all():
        caveats.append(
            f"The answer is the most probable token of all in {sentences.share(found.top.mean())} "
            "of the prompts only."
        )
    caveats.append(
        f"The prompts are {len(found.pairs)} of one kind ({found.pairs.name}); other wordings were "
        "not tried."
    )
    return tuple(caveats)
