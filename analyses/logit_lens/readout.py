"""How a model turns the stream after its last layer into logits, for any other vector, too.

The final norm and the unembedding are the bridge's own modules, called by themselves. That they
(and the soft cap, where a model has one) are all that lies between the last layer and the output is
checked on every prompt: the stream after the last layer must give what the model gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int

from workbench.core.engine import decoder, frozen_norms, running

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
SOURCES = ("resid", "attn_out", "mlp_out")
_BEFORE, _AFTER = "blocks.0.hook_resid_pre", "blocks.{layer}.hook_resid_post"
# Numbers of one table of logits that is held at a time, several of which are: 64 MB each.
AT_ONCE = 16_000_000
# Largest difference of a logit, as a fraction of the largest, that rounding explains.
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4}
_COARSE = 2e-2


class Readout:
    """The model's final norm, unembedding and soft cap.

    Attributes:
        model: The bridge.
        width: Tokens that it gives logits for.
    """

    def __init__(self, model: TransformerBridge) -> None:
        """Find the parts.

        Args:
            model: The bridge.

        Raises:
            ValueError: If it has no unembedding to read with.
        """
        if getattr(model, "unembed", None) is None or getattr(model, "ln_final", None) is None:
            raise ValueError(
                f"{model.cfg.model_name!r} has no final norm and unembedding to read the stream "
                "with: a lens needs a language model"
            )
        self.model = model
        self._cap = decoder.final_softcap(model)
        self._dtype: torch.dtype = model.cfg.dtype

    def normed(self, rows: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Vectors as the unembedding reads the stream, each with a scale of its own."""
        # The modules carry hook points, on which another thread may have put something.
        with running.lock_of(self.model):
            return _by_row(self.model.ln_final, rows.to(self._dtype))

    def logits(
        self,
        rows: Float[Tensor, "*rows d_model"],
        norm: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "*rows d_vocab"]:
        """Logits of vectors in place of the stream after the last layer, in float32.

        Args:
            rows: The vectors.
            norm: In place of the final norm, if that is not to be applied as it is.

        Returns:
            One logit a token.
        """
        with running.lock_of(self.model):
            normed = self.normed(rows) if norm is None else norm(rows).to(self._dtype)
            out = _by_row(self.model.unembed, normed).float()
        return self._cap * torch.tanh(out / self._cap) if self._cap else out

    def frozen(
        self, final: Float[Tensor, "position d_model"]
    ) -> Callable[[slice], Callable[[Tensor], Tensor]]:
        """The norm with the scale that it has for a prompt's final stream.

        Args:
            final: Stream after the last layer.

        Returns:
            For some positions what norms a vector at each of them.

        Raises:
            NotTakenApart: If the norm is no division by one number a position.
        """
        whole = frozen_norms.FrozenNorm.at(self.normed, final)

        def at(positions: slice) -> Callable[[Tensor], Tensor]:
            here = frozen_norms.FrozenNorm(
                whole.gain, whole.bias, whole.scale[positions], whole.centred
            )
            return lambda rows: here.of(rows) + here.bias

        return at

    def require_output(
        self,
        final: Float[Tensor, "*rows d_model"],
        logits: Float[Tensor, "*rows d_vocab"],
    ) -> None:
        """Check that this is how the model itself makes its output.

        Args:
            final: Stream after the last layer.
            logits: What the model gave for it.

        Raises:
            ValueError: If it is not, or the output is not finite.
        """
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(
                f"the output of {self.model.cfg.model_name!r} is not finite: nothing can be read "
                "off it"
            )
        gap = float((self.logits(final) - logits).abs().max() / logits.abs().max().clamp(min=1))
        if gap > _TOLERANCES.get(self._dtype, _COARSE):
            raise ValueError(
                f"the output of {self.model.cfg.model_name!r} is not its final norm and "
                f"unembedding of the stream after the last layer (they differ by {gap:.1e} of the "
                "largest logit), so no earlier stream can be read as it reads that one"
            )


def row_names(model: TransformerBridge, source: str) -> tuple[str, ...]:
    """Names of the rows of a source, from the bottom up."""
    layers = tuple(f"layer {layer}" for layer in range(int(model.cfg.n_layers)))
    return ("embedding", *layers) if source == "resid" else layers


def run(
    model: TransformerBridge, tokens: Int[Tensor, "batch position"], source: str = "resid"
) -> tuple[
    Float[Tensor, "batch position d_vocab"],
    list[Float[Tensor, "batch position d_model"]],
    Float[Tensor, "batch position d_model"],
]:
    """One forward pass.

    Args:
        model: The bridge.
        tokens: Prompts of one length.
        source: One of `SOURCES`.

    Returns:
        The model's logits, one tensor a row of the source, and the stream after the last layer.

    Raises:
        ValueError: If the source is unknown, or the model lacks its hook points.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; expected one of {', '.join(SOURCES)}")
    layers = range(int(model.cfg.n_layers))
    last = _AFTER.format(layer=layers[-1])
    if source == "resid":
        names = [_BEFORE, *(_AFTER.format(layer=layer) for layer in layers)]
    else:
        names = [f"blocks.{layer}.hook_{source}" for layer in layers]
    logits, kept = running.run_and_keep(model, tokens, [*dict.fromkeys([*names, last])])
    return logits.float(), [kept[name] for name in names], kept[last]


def entropy(log_probabilities: Tensor) -> Tensor:
    """Entropy in nats, over the last axis."""
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def divergence(final: Tensor, said: Tensor) -> Tensor:
    """KL(final || said) in nats, over the last axis, of log-probabilities."""
    return (final.exp() * (final - said)).sum(-1).clamp(min=0)


def _by_row(module: Any, rows: Tensor) -> Tensor:
    """Apply a module to each row; some take a batch of sequences only."""
    out = module(rows.reshape(1, -1, rows.shape[-1]))
    return out.reshape(*rows.shape[:-1], -1)
