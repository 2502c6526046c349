"""What the model says next: a table of next tokens, and a greedy or sampled continuation.

Tokens are chosen one at a time from whole forward passes under the model's lock, so a continuation
can be cancelled, shares the model with other runs, and is the same on every call with equal seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch

from workbench.core.engine import running
from workbench.core.prompts import tokenization
from workbench.core.prompts.prompt import Prompt, token_texts

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# Tokens that are tried for one that can be written as an answer.
_TRIED = 20


def next_tokens(model: TransformerBridge, prompt: str, *, k: int = 10) -> pd.DataFrame:
    """The most probable next tokens after a prompt.

    Args:
        model: The bridge.
        prompt: Text.
        k: How many.

    Returns:
        Columns `token`, `probability`, `logit` and `id`, most probable first.

    Raises:
        ValueError: As for `tokenization.encode`.
    """
    logits = running.run(model, torch.tensor([tokenization.encode(model, prompt)]))[0, -1].float()
    top = logits.topk(min(k, len(logits)))
    probability = logits.softmax(-1)[top.indices]
    return pd.DataFrame(
        {
            "token": [model.tokenizer.decode([token]) for token in top.indices.tolist()],
            "probability": probability.cpu().numpy(),
            "logit": top.values.cpu().numpy(),
            "id": top.indices.cpu().numpy(),
        }
    )


def likely_answers(
    model: TransformerBridge,
    prompt: Prompt | str | Sequence[int],
    *,
    position: int = -1,
    k: int = 2,
) -> tuple[str, ...]:
    """The most probable next tokens that can be written as an answer.

    Args:
        model: The bridge.
        prompt: Text, token ids or a prompt.
        position: After which position.
        k: How many.

    Returns:
        As `Prompt.answer` reads them, the most probable first; fewer, where few can be written.

    Raises:
        ValueError: If the prompt cannot be read or has no such position.
    """
    read = Prompt.of(model, prompt)
    at = read.position(position)
    logits = running.run(model, read.batch[:, : at + 1])[0, -1]
    found: list[str] = []
    for token in logits.topk(min(_TRIED, len(logits))).indices.tolist():
        (text,) = token_texts(model, [token])
        # Some tokenizers leave out the space that a word begins with.
        fitting = [one for one in (text, f" {text}") if _reads_as(model, read, one) == token]
        found += fitting[:1]
        if len(found) == k:
            break
    return tuple(found)


def _reads_as(model: TransformerBridge, prompt: Prompt, text: str) -> int | None:
    if model.tokenizer is None:
        return int(text) if text.isdigit() else None
    try:
        return prompt.answer(model, text)
    except ValueError:
        return None


def continue_text(
    model: TransformerBridge,
    prompt: str,
    *,
    n_tokens: int = 30,
    temperature: float = 0.0,
    seed: int = 0,
    progress: running.Progress = running.no_progress,
) -> str:
    """Text that the model writes after a prompt.

    Args:
        model: The bridge.
        prompt: Text.
        n_tokens: At most so many tokens; fewer where the context ends or the model says it is done.
        temperature: 0 takes the most probable token each time; 1 samples from the model.
        seed: Seed of the sampling.
        progress: Called after each token; may raise to cancel.

    Returns:
        The prompt with its continuation, decoded together, special tokens left out.

    Raises:
        ValueError: As for `tokenization.encode`, or if the temperature is negative.
    """
    if temperature < 0:
        raise ValueError(f"temperature = {temperature}; expected 0 (greedy) or more")
    ids = list(tokenization.encode(model, prompt))
    generator = torch.Generator().manual_seed(seed)
    # The last token may stand just past the context: nothing is run on it.
    for step in range(min(n_tokens, int(model.cfg.n_ctx) - len(ids) + 1)):
        logits = running.run(model, torch.tensor([ids]))[0, -1].float().cpu()
        chosen = _choose(logits, temperature, generator)
        if chosen == model.tokenizer.eos_token_id:
            break
        ids.append(chosen)
        progress((step + 1) / n_tokens, f"{step + 1} tokens")
    return model.tokenizer.decode(ids, skip_special_tokens=True)


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
