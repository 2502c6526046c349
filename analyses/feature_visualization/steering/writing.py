"""What does a model write while a unit is added?

1. The unit's vector times a strength is added at its site, at every position as it is written.
2. Each next token is the most probable one.

Source: Turner et al. 2023, arXiv 2308.10248 (adding a vector to the stream).

Units: strengths in units of the activation that is added.

Limits: one text is an example and no measurement: `steer` measures.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float

from analyses.feature_visualization.steering import adding
from workbench.core.engine import continuation, running
from workbench.core.engine import units as families
from workbench.core.prompts import tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def steered_text(
    model: TransformerBridge,
    prompt: str,
    unit: families.Unit | str,
    strength: float | int,
    *,
    n_tokens: int = 20,
    directions: Float[torch.Tensor, "direction width"] | None = None,
    dictionary: Any = None,
    positions: str = "all",
) -> str:
    """What the model writes after a prompt while a unit is added, always the most probable token.

    Args:
        model: The bridge.
        prompt: Text.
        unit: What is added, as for `steer`.
        strength: How much.
        n_tokens: At most so many tokens.
        directions: As for `steer`.
        dictionary: As for `steer`.
        positions: As for `steer`.

    Returns:
        The prompt with its continuation.

    Raises:
        ValueError: If the prompt cannot be read, or as for `steer`.
    """
    adding.require_positions(positions)
    if not math.isfinite(strength):
        raise ValueError(f"strength = {strength}; expected a finite number")
    if n_tokens < 1:
        raise ValueError(f"n_tokens = {n_tokens}; expected at least 1")
    family, index = families.family_of(model, unit, directions=directions, dictionary=dictionary)
    added = float(strength) * adding.vectors_of(model, family, index, 0, 0)
    ids = torch.tensor(tokenization.encode(model, prompt))
    special = torch.isin(ids, torch.tensor(model.tokenizer.all_special_ids))
    alone = special.nonzero()[:, 0] if positions == "ordinary" else special.nonzero()[:0, 0]

    def push(activation: torch.Tensor) -> torch.Tensor:
        steered = activation + added[0].to(activation)
        # What follows the prompt is no special token: one of these would end the text.
        steered[:, alone] = activation[:, alone]
        return steered

    with running.hooked(model, {family.hook: push}):
        return continuation.continue_text(model, prompt, n_tokens=n_tokens)
