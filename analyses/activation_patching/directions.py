"""Directions that a question comes with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from workbench.core.engine import preflight

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs


def answer_direction(
    model: TransformerBridge, pairs: ContrastPairs
) -> Float[torch.Tensor, "direction d_model"]:
    """The direction of the stream that the logit difference reads, averaged over the pairs.

    Patching along it asks how much of a cell's effect is what it writes for the answer directly;
    the rest goes through later components.

    Args:
        model: The bridge.
        pairs: Their correct and wrong answers.

    Returns:
        One direction: the mean of the answers' columns of the unembedding minus the wrong ones',
        before the final norm.

    Raises:
        ValueError: If the pairs have no wrong answers.
    """
    preflight.require_metric(pairs, "logit_difference")
    columns = model.W_U.detach().T
    gaps = [
        columns[list(right)].mean(0) - columns[list(wrong)].mean(0)
        for right, wrong in zip(pairs.answers, pairs.wrong_answers, strict=True)
    ]
    return torch.stack(gaps).mean(0, keepdim=True)
