"""How the objective changes, to first order, if one token of a text becomes another one.

1. A text is seen as rows of one-hot vectors, times the embedding table. One forward and one
   backward pass give the gradient of each text's −f + x · CE with respect to its embedded tokens;
   times the table that is the gradient with respect to the one-hot vectors.
2. A token is also what the model was to predict there, so the cross-entropy depends on the one-hot
   vector a second time, linearly: minus the log-probability of each token, over their number.
3. The cost of tokens that earlier restarts found is linear in the one-hot vectors, too.

The parameters get no gradient: only the embedded tokens are asked for.

Source: Ebrahimi et al. 2018, arXiv 1712.06751 (HotFlip); Thompson et al. 2024, arXiv 2402.01702.
Units and sign: objective for a whole token; negative promises a lower objective.
Limits: first order, and a token is a large step: this orders tokens, it does not measure them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from analyses.attribution import gradients
from analyses.feature_visualization.text import candidates
from workbench.core.engine import running

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
EMBEDDED = "embed.hook_out"


class TokenGradients:
    """Gradients of texts with respect to their one-hot tokens."""

    def __init__(self, model: TransformerBridge, target: candidates.Target) -> None:
        """Read the embedding table as the model applies it, scaling included.

        Args:
            model: The bridge.
            target: What is optimized.

        Raises:
            ValueError: If the model has no embedding to hook.
        """
        self._model, self._target = model, target
        running.require_hooks(model, [EMBEDDED, *target.hooks])
        ids = torch.arange(int(model.cfg.d_vocab), device=model.cfg.device)
        with gradients.differentiable(model), torch.no_grad():
            self._table = model.embed(ids[None])[0].detach()

    def of(
        self,
        texts: Int[np.ndarray, "member position"],
        penalties: Float[np.ndarray, " member"],
        costs: Float[np.ndarray, " d_vocab"] | None = None,
    ) -> Float[Tensor, "member position d_vocab"]:
        """Gradient of each text's objective.

        Args:
            texts: Token ids without what stands in front of them.
            penalties: What a nat of cross-entropy costs each of them.
            costs: What each token costs a text that consists of nothing else.

        Returns:
            One number for each token that could stand at each position.
        """
        ids = candidates.with_prefix(self._model, texts, self._target.prefix)
        embedded, said = self._backward(ids, penalties)
        found = embedded[:, len(self._target.prefix) :] @ self._table.T
        if said is not None:
            prices = torch.as_tensor(penalties, dtype=said.dtype, device=said.device)
            share = prices[:, None, None] / said.shape[1]
            found[:, self._target.unpredicted :] -= (share * said).to(found.dtype)
        if costs is not None:
            found += torch.as_tensor(costs, dtype=found.dtype, device=found.device) / len(texts[0])
        return found

    def _backward(
        self, ids: Int[Tensor, "batch token"], penalties: Float[np.ndarray, " batch"]
    ) -> tuple[Float[Tensor, "batch token d_model"], Tensor | None]:
        """Gradient with respect to the embedded tokens, and log-probabilities if they count."""
        kept: dict[str, Tensor] = {}

        def embed(activation: Tensor, hook: object = None) -> Tensor:
            kept[EMBEDDED] = activation.detach().clone().requires_grad_()
            return kept[EMBEDDED]

        def keep_as(name: str) -> Callable[..., Tensor]:
            def keep(activation: Tensor, hook: object = None) -> Tensor:
                kept[name] = activation
                return activation

            return keep

        hooks = [(EMBEDDED, embed), *((name, keep_as(name)) for name in self._target.hooks)]
        with gradients.differentiable(self._model):
            with self._model.hooks(fwd_hooks=hooks):
                logits = self._model(ids, return_type="logits")
            loss = -self._target.height(kept).sum()
            said = None
            if penalties.any():
                said = self._target.log_probabilities(logits)
                written = ids[:, ids.shape[1] - said.shape[1] :, None]
                fluency = -said.gather(-1, written)[..., 0].mean(1)
                prices = torch.as_tensor(penalties, dtype=said.dtype, device=said.device)
                loss = loss + (prices * fluency).sum()
            found = torch.autograd.grad(loss, kept[EMBEDDED])[0]
        return found, None if said is None else said.detach()
