"""Scalars of the logits at the answer position, one per prompt.

- logit_difference: mean logit of the correct answers minus mean logit of the wrong ones, in logits
- probability: total probability of the correct answers, 0 to 1
- kl_divergence: KL(clean run ‖ this run) over the vocabulary, in nats; 0 is the clean run itself
- cross_entropy: −log of the correct answers' total probability, in nats
- rank: place of the best correct answer among all tokens; 0 is the top

A user's own function of the same arguments works everywhere in place of a name.

Every one is larger-is-better or smaller-is-better by its own nature; normalised effects do not
depend on that, since numerator and denominator share the sign.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
    from workbench.core.prompts.pairs import ContrastPairs


@dataclasses.dataclass(frozen=True)
class Targets:
    """What the logits of a batch are measured against.

    Attributes:
        answers: Token ids of the correct answers; where a prompt has fewer than others, `has`
            is False.
        has_answer: Which entries of `answers` count.
        wrong: Token ids of the wrong answers.
        has_wrong: Which entries of `wrong` count.
        clean_log_probs: Log-probabilities of the clean run, for the KL divergence.
    """

    answers: Int[torch.Tensor, "batch answer"]
    has_answer: Bool[torch.Tensor, "batch answer"]
    wrong: Int[torch.Tensor, "batch wrong_answer"]
    has_wrong: Bool[torch.Tensor, "batch wrong_answer"]
    clean_log_probs: Float[torch.Tensor, "batch d_vocab"]

    def rows(self, prompts: Int[torch.Tensor, " run"]) -> Targets:
        """What runs of some of the prompts are measured against."""
        fields = dataclasses.fields(self)
        return Targets(*(getattr(self, field.name).index_select(0, prompts) for field in fields))

    def among_answers(self) -> tuple[Int[torch.Tensor, " token"], Targets]:
        """The tokens that are anybody's answer, and the same targets with these as vocabulary."""
        tokens = torch.cat([self.answers.flatten(), self.wrong.flatten()]).unique()
        answers, wrong = (torch.searchsorted(tokens, ids) for ids in (self.answers, self.wrong))
        none = self.clean_log_probs[:, :0]
        return tokens, Targets(answers, self.has_answer, wrong, self.has_wrong, none)


def targets(
    pairs: ContrastPairs,
    indices: Int[np.ndarray, " batch"],
    clean_logits: Float[torch.Tensor, "batch d_vocab"],
) -> Targets:
    """What the logits of some pairs are measured against, on the logits' device.

    Args:
        pairs: Where the answers stand.
        indices: Which pairs the batch holds.
        clean_logits: Their logits in the clean run, at the last position.

    Returns:
        The targets; prompts with fewer answers than others are filled up and masked.
    """
    device = clean_logits.device

    def padded(rows: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(1, *map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
        has = torch.tensor([[i < len(row) for i in range(width)] for row in rows], device=device)
        return ids, has

    answers, has_answer = padded([pairs.answers[i] for i in indices])
    wrong, has_wrong = padded([pairs.wrong_answers[i] for i in indices])
    log_probs = clean_logits.float().log_softmax(-1)
    return Targets(answers, has_answer, wrong, has_wrong, log_probs)


Logits = Float[torch.Tensor, "batch d_vocab"]
PerPrompt = Float[torch.Tensor, " batch"]


def _mean_logit(
    logits: Logits,
    tokens: Int[torch.Tensor, "batch choice"],
    has: Bool[torch.Tensor, "batch choice"],
) -> PerPrompt:
    return (logits.gather(1, tokens) * has).sum(1) / has.sum(1)


def logit_difference(logits: Logits, targets: Targets) -> PerPrompt:
    """Mean logit of the correct answers minus mean logit of the wrong ones."""
    correct = _mean_logit(logits, targets.answers, targets.has_answer)
    return correct - _mean_logit(logits, targets.wrong, targets.has_wrong)


def _log_probability(logits: Logits, targets: Targets) -> PerPrompt:
    chosen = logits.log_softmax(-1).gather(1, targets.answers)
    return chosen.masked_fill(~targets.has_answer, -torch.inf).logsumexp(1)


def probability(logits: Logits, targets: Targets) -> PerPrompt:
    """Total probability of the correct answers."""
    return _log_probability(logits, targets).exp()


def cross_entropy(logits: Logits, targets: Targets) -> PerPrompt:
    """Negative log of the correct answers' total probability, in nats."""
    return -_log_probability(logits, targets)


def kl_divergence(logits: Logits, targets: Targets) -> PerPrompt:
    """KL divergence from the clean run's distribution to this run's, in nats."""
    clean = targets.clean_log_probs
    return (clean.exp() * (clean - logits.log_softmax(-1))).sum(-1)


def rank(logits: Logits, targets: Targets) -> PerPrompt:
    """Number of tokens with a larger logit than the best correct answer."""
    chosen = logits.gather(1, targets.answers).masked_fill(~targets.has_answer, -torch.inf)
    return (logits > chosen.max(1, keepdim=True).values).sum(1).to(logits.dtype)


Function = Callable[[Logits, Targets], PerPrompt]


@dataclasses.dataclass(frozen=True)
class Measure:
    """A metric as it is computed.

    Attributes:
        name: What to call it; with a user's function also which version of it.
        function: The scalar of each prompt, of logits at the answer position.
        unit: Its unit.
        answers_only: Whether the answers' logits determine it. Everything else needs the logits of
            the whole vocabulary, which takes longer than a layer of a small model.
    """

    name: str
    function: Function
    unit: str
    answers_only: bool


def find(metric: str | Function) -> Measure:
    """A metric by name, or a user's own.

    Args:
        metric: One of `METRICS`, or a function of (logits [batch, d_vocab] at the last position,
            targets) that gives one number a prompt.

    Returns:
        The metric.

    Raises:
        ValueError: If the name is unknown.
    """
    if callable(metric):
        return Measure(_signed(metric), metric, "own unit", answers_only=False)
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; expected one of {', '.join(METRICS)}")
    return Measure(metric, METRICS[metric], UNITS[metric], metric in NEEDS_WRONG_ANSWERS)


def _signed(function: Function) -> str:
    """Name of a function with a mark of its code, so that two versions are told apart."""
    code = getattr(function, "__code__", None)
    content = repr(function) if code is None else f"{code.co_code!r}{code.co_consts!r}"
    mark = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{getattr(function, '__name__', 'own metric')} ({mark})"


def values(measure: Measure, logits: Logits, targets: Targets) -> Float[np.ndarray, " batch"]:
    """A metric of some logits, on the host.

    Raises:
        ValueError: If a user's function does not give one number a prompt.
    """
    found: Any = measure.function(logits.float(), targets)
    if not isinstance(found, torch.Tensor) or found.shape != logits.shape[:1]:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ValueError(
            f"the metric {measure.name} gave {shape} for {len(logits)} prompts; expected one "
            "number a prompt"
        )
    # Some accelerators have no float64.
    return found.detach().cpu().double().numpy()


def unit(name: str) -> str:
    """Unit of a metric by the name that a result keeps."""
    return UNITS.get(name, "own unit")


METRICS: dict[str, Function] = {
    "logit_difference": logit_difference,
    "probability": probability,
    "kl_divergence": kl_divergence,
    "cross_entropy": cross_entropy,
    "rank": rank,
}

UNITS: dict[str, str] = {
    "logit_difference": "logits",
    "probability": "probability",
    "kl_divergence": "nats",
    "cross_entropy": "nats",
    "rank": "places",
}

NEEDS_WRONG_ANSWERS = frozenset({"logit_difference"})
