"""Rows of tokens, run with vectors added at a site.

1. Where the model can be taken apart (`decoder`), what comes before the site is run once, and only
   what follows it for each vector; else each is a forward pass under hooks.
2. Prompts give their metric at the last position; rows of text their mean cross-entropy and the KL
   divergence from what the model says with nothing added.

Source: Turner et al. 2023, arXiv 2308.10248 (adding a vector to the stream).

Units: the metric in its own unit; cross-entropy and divergence in nats a predicted token.

Limits: what is run at once is bounded by memory, not by time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from workbench.core.engine import budget, decoder, metrics, preflight, running
from workbench.core.engine import units as families
from workbench.core.prompts import corpus as corpora

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

Tensor = torch.Tensor
# Vectors that rows of text are run with at once, at least where memory allows.
_STACKED = 16


class Runner:
    """Runs rows of tokens with vectors added at a family's site, as many at once as memory allows.

    Attributes:
        how: In which way, for the provenance.
    """

    def __init__(
        self,
        model: TransformerBridge,
        family: families.Family,
        pairs: ContrastPairs,
        text: corpora.Corpus,
        positions: str,
    ) -> None:
        """Take the model apart, if that can be done.

        Args:
            model: The bridge.
            family: Whose site it is.
            pairs: Prompts that will be run.
            text: Rows that will be run.
            positions: One of `POSITIONS`.
        """
        self._model, self._family = model, family
        self._special = torch.tensor(text.special, dtype=torch.long)
        self._everywhere = positions == "all"
        rows = [np.asarray(row) for row in pairs.clean_tokens]
        rows.append(text.row(int(np.argmax(text.lengths))))
        longest = torch.as_tensor(max(rows, key=len).astype(np.int64))[None]
        self._parts: decoder.Decoder | None = None
        self.how = "what comes before the site was run once"
        try:
            self._parts = decoder.taken_apart(model, longest)
        except decoder.NotTakenApart as error:
            self.how = f"under hooks: {error.reason}"

    def metric(
        self,
        pairs: ContrastPairs,
        measure: metrics.Measure,
        added: Float[Tensor, "run width"],
        progress: running.Progress,
    ) -> Float[np.ndarray, "prompt run+1"]:
        """Metric of each clean prompt, first with nothing added, then with each vector.

        Args:
            pairs: The prompts.
            measure: The metric.
            added: The vectors.
            progress: Told how far it is.

        Returns:
            One a prompt and run.
        """
        out = np.zeros((len(pairs), 1 + len(added)))
        longest = max(map(len, pairs.clean_tokens))
        batches = pairs.batches(max(1, self._room(all_logits=False) // longest))
        for number, indices in enumerate(batches):
            tokens, _ = pairs.batch(indices)
            begun = self._begin(tokens)
            none = begun.logits(torch.zeros_like(added[:1]), last=True)[0, :, 0]
            preflight.require_finite(self._model, none)
            targets = metrics.targets(pairs, indices, none)
            out[indices, 0] = metrics.values(measure, none, targets)
            start = 1
            for several in added.split(self._at_once(tokens, all_logits=False)):
                share = (number + start / len(added)) / len(batches)
                progress(min(1.0, share), "steering the prompts")
                logits = _finite(begun.logits(several, last=True)[:, :, 0])
                at = torch.arange(len(indices), device=logits.device).repeat(len(several))
                found = metrics.values(measure, logits.flatten(0, 1), targets.rows(at))
                end = start + len(several)
                out[indices, start:end] = found.reshape(len(several), -1).T
                start = end
        return out

    def text(
        self,
        text: corpora.Corpus,
        added: Float[Tensor, "run width"],
        progress: running.Progress,
    ) -> tuple[
        Float[np.ndarray, "row run+1"],
        Float[np.ndarray, "row run+1"],
    ]:
        """Loss and KL divergence of each row, first with nothing added, then with each vector.

        Args:
            text: The rows.
            added: The vectors.
            progress: Told how far it is.

        Returns:
            Both, one a row and run.
        """
        out = np.zeros((2, len(text), 1 + len(added)))
        done = 0
        for chunk in text.chunks():
            wide = chunk.tokens.shape[1]
            # Few rows, of like length, with many vectors: so less of what is run is padding.
            several = max(1, self._room(all_logits=True) // (_STACKED * wide))
            for begin in range(0, len(chunk.rows), several):
                piece = slice(begin, begin + several)
                rows, lengths = chunk.rows[piece], chunk.lengths[piece]
                scores = self._scores(
                    chunk.tokens[piece, : lengths.max()],
                    lengths,
                    added,
                    running.part(progress, done / len(text), (done + len(rows)) / len(text)),
                )
                out[:, rows] = scores
                done += len(rows)
        return out[0], out[1]

    def _scores(
        self,
        tokens: Int[Tensor, "row position"],
        lengths: Int[np.ndarray, " row"],
        added: Float[Tensor, "run width"],
        progress: running.Progress,
    ) -> Float[np.ndarray, "2 row run+1"]:
        """Mean loss and divergence of some rows."""
        begun = self._begin(tokens)
        device = self._model.cfg.device
        following = tokens[:, 1:].to(device)
        real = torch.arange(1, tokens.shape[1]) < torch.as_tensor(lengths)[:, None]
        counts = torch.as_tensor(lengths - 1, dtype=torch.float64)

        def mean(values: Float[Tensor, "run row position"]) -> Float[np.ndarray, "row run"]:
            # On the CPU: not every accelerator has double precision.
            return ((values.cpu().double() * real).sum(2) / counts).T.numpy()

        def nats(said: Tensor) -> Tensor:
            index = following[None, :, :, None].expand(len(said), -1, -1, -1)
            return -said.gather(3, index)[..., 0]

        out = np.zeros((2, len(tokens), 1 + len(added)))
        with torch.inference_mode():
            logits = begun.logits(torch.zeros_like(added[:1]))
            preflight.require_finite(self._model, logits)
            before = logits.float().log_softmax(-1)
            probability = before.exp()
            out[0, :, :1] = mean(nats(before))
            start = 1
            for several in added.split(self._at_once(tokens, all_logits=True)):
                progress((start - 1) / len(added), "steering unrelated text")
                said = _finite(begun.logits(several)).float().log_softmax(-1)
                end = start + len(several)
                out[0, :, start:end] = mean(nats(said))
                out[1, :, start:end] = mean((probability * (before - said)).sum(-1))
                start = end
        return out

    def _begin(self, tokens: Int[Tensor, "row position"]) -> _Begun:
        where = ~torch.isin(tokens, self._special)
        if self._everywhere:
            where = torch.ones_like(where)
        return _Begun(self._model, self._family, self._parts, tokens, where)

    def _room(self, *, all_logits: bool) -> int:
        """Positions of all runs together that go through the model at once."""
        cfg: Any = self._model.cfg
        most = budget.rows(cfg, budget.DEFAULT_MEGABYTES)
        if all_logits or self._parts is None:
            vocabulary = int(cfg.d_vocab)
            most = min(most, budget.logit_rows(cfg, vocabulary, budget.DEFAULT_MEGABYTES))
        return most

    def _at_once(self, tokens: Int[Tensor, "row position"], *, all_logits: bool) -> int:
        return max(1, self._room(all_logits=all_logits) // tokens.numel())


class _Begun:
    """Rows that were run up to a site; from there on they go with a vector added."""

    def __init__(  # noqa: PLR0913, PLR0917 -- made by its runner only
        self,
        model: TransformerBridge,
        family: families.Family,
        parts: decoder.Decoder | None,
        tokens: Int[Tensor, "row position"],
        where: Bool[Tensor, "row position"],
    ) -> None:
        """Run the rows up to the site.

        Args:
            model: The bridge.
            family: Whose site it is.
            parts: The model in parts, if it can be taken apart.
            tokens: The rows.
            where: At which positions vectors are added.
        """
        self._model, self._family, self._tokens = model, family, tokens
        self._where = where.to(model.cfg.device)
        self._parts = None
        self._kept: dict[str, Tensor] = {}
        with running.lock_of(model), torch.inference_mode():
            if parts is not None and parts.still_holds():
                self._parts = parts
                self._kept = self._before(parts)

    def logits(
        self, added: Float[Tensor, "run width"], *, last: bool = False
    ) -> Float[Tensor, "run row _position d_vocab"]:
        """Logits with each of some vectors added.

        Args:
            added: The vectors.
            last: At the last position only; else at all but the last, whose next token is not
                there.

        Returns:
            The logits.
        """
        here = slice(-1, None) if last else slice(0, -1)
        with running.lock_of(self._model), torch.inference_mode():
            if self._parts is not None and self._parts.still_holds():
                resid = self._after(self._parts, added)
                out = self._parts.logits(resid[:, here])
            else:
                tokens = self._tokens.repeat(len(added), 1)
                hooks = {self._family.hook: lambda value: self._plus(value, added)}
                out = running.run(self._model, tokens, hooks)[:, here]
            return out.unflatten(0, (len(added), len(self._tokens)))

    def _plus(
        self, activation: Float[Tensor, "batch position width"], added: Tensor
    ) -> Float[Tensor, "batch position width"]:
        """An activation of all runs with their vectors added."""
        push = added.to(activation)[:, None, None] * self._where[..., None]
        return activation + push.flatten(0, 1)

    def _before(self, parts: decoder.Decoder) -> dict[str, Tensor]:
        """What the layer of the site needs, of rows without anything added."""
        site = self._family.site
        resid = parts.embed(self._tokens)
        for layer in parts.layers[: self._family.layer]:
            resid = layer.after(resid, _attended(layer, resid))
        if site == "resid_pre":
            return {"resid_pre": resid}
        layer = parts.layers[self._family.layer]
        attn_out = _attended(layer, resid)
        if site == "attn_out":
            return {"resid_pre": resid, "attn_out": attn_out}
        if site == "neuron":
            neurons = layer.neurons(layer.mlp_reads(resid, attn_out))
            return {"resid_mid": resid + attn_out, "neuron": neurons}
        return {"resid_post": layer.after(resid, attn_out)}

    def _after(
        self, parts: decoder.Decoder, added: Float[Tensor, "run width"]
    ) -> Float[Tensor, "batch position d_model"]:
        """The stream after the last layer, with the vectors added at the site."""
        site, layer = self._family.site, parts.layers[self._family.layer]
        kept = {
            name: value.repeat(len(added), *[1] * (value.ndim - 1))
            for name, value in self._kept.items()
        }
        if site == "resid_pre":
            resid = self._plus(kept["resid_pre"], added)
            resid = layer.after(resid, _attended(layer, resid))
        elif site == "attn_out":
            resid = layer.after(kept["resid_pre"], self._plus(kept["attn_out"], added))
        elif site == "neuron":
            neurons = self._plus(kept["neuron"], added)
            resid = kept["resid_mid"] + layer.neurons_out(neurons)
        else:
            # What the MLP adds goes into the stream as it is, so both sites are one.
            resid = self._plus(kept["resid_post"], added)
        for later in parts.layers[self._family.layer + 1 :]:
            resid = later.after(resid, _attended(later, resid))
        return resid


def _attended(
    layer: decoder.Layer, resid: Float[Tensor, "row position d_model"]
) -> Float[Tensor, "row position d_model"]:
    """What attention adds to the stream."""
    positions = torch.arange(resid.shape[1], device=resid.device)
    normed = layer.normed(resid)
    q, k, v = (layer.project(name, normed) for name in ("q", "k", "v"))
    z = layer.attend(layer.rotate_queries(q, positions), layer.rotate_keys(k, positions), v)
    return layer.attn_out(z)


def _finite(logits: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    if not bool(logits.isfinite().all()):
        raise ValueError(
            "a strength makes logits that are NaN or infinite: choose smaller strengths"
        )
    return logits
