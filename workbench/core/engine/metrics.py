"""Scalars of the logits at the answer position, one per prompt.

- logit_difference: mean logit of the correct answers minus mean logit of the wrong ones, in logits
- probability: total probability of the correct answers, 0 to 1
- kl_divergence: KL(clean run ‖ this run) over the vocabulary, in nats; 0 is the clean run itself
- cross_entropy: −log of the correct answers' total probability, in nats
- rank: place of the best correct answer among all tokens; 0 is the top

Every one is larger-is-better or smaller-is-better by its own nature; normalised effects do not
depend on that, since numerator and denominator share the sign.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

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


METRICS: dict[str, Callable[[Logits, Targets], PerPrompt]] = {
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
