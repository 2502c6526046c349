"""Candidate texts are measured many at a time: the unit at the last token, and their fluency.

1. Candidates of one length go through the model together, as many at once as the memory budget
   allows; BOS stands in front of each.
2. A hook reads the unit at the last position. The logits of the same pass give the mean
   cross-entropy of the text's own tokens.
3. A neuron behind a nonlinearity is silent almost everywhere, and a search finds no way from there.
   So the search climbs the activation plus the negative part of what goes into the nonlinearity:
   where the neuron fires that is its activation. All numbers that are told are activations.
4. Where fluency is not asked for, the pass ends with the unit's layer.

Units: activation in the unit's own scale, cross-entropy in nats a token.
Limits: all candidates have one length, so nothing is padded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn import functional

from workbench.core.engine import budget, running, units

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """What is optimized.

    Attributes:
        family: Family of the unit.
        index: Which unit of it.
        sign: 1 to maximise its activation, -1 to minimise it.
        prefix: Tokens in front of every text that are never changed.
        before: Hook point of what goes into the unit's nonlinearity, where that is a guide.
    """

    family: units.Family
    index: int
    sign: int
    prefix: tuple[int, ...]
    before: str | None = None

    @property
    def name(self) -> str:
        """The unit as it is written in calls."""
        return str(self.family.unit(self.index))

    @property
    def unpredicted(self) -> int:
        """How many tokens of a text nothing predicts: its first, where nothing stands in front."""
        return 0 if self.prefix else 1

    @property
    def hooks(self) -> tuple[str, ...]:
        """Hook points that are read, in the order in which they fire."""
        return (self.family.hook,) if self.before is None else (self.before, self.family.hook)

    def read(self, activation: Float[Tensor, "batch position *part"]) -> Float[Tensor, " batch"]:
        """The unit at the last position, differentiably."""
        return self.family.read(activation[:, -1:])[:, 0, self.index]

    def height(self, kept: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
        """What the search climbs, differentiably.

        Args:
            kept: Activations at the hook points that are read.

        Returns:
            The activation, negative where it is to be small, and less where the unit is silent.
        """
        read = self.sign * self.read(kept[self.family.hook])
        if self.before is None:
            return read
        return read + kept[self.before][:, -1, self.index].clamp(max=0)

    def log_probabilities(
        self, logits: Float[Tensor, "batch position d_vocab"]
    ) -> Float[Tensor, "batch predicted d_vocab"]:
        """What the model says before each token of the text that has something before it."""
        first = len(self.prefix) + self.unpredicted - 1
        # Half precision would lose the small probabilities that cross-entropy is about.
        precise = torch.promote_types(logits.dtype, torch.float32)
        return logits[:, first:-1].to(precise).log_softmax(-1)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What candidates give.

    Attributes:
        activation: Of the unit at the last token.
        height: What the search climbs instead; see the module.
        cross_entropy: Of the text, nats a token; NaN where it was not asked for.
    """

    activation: Float[np.ndarray, " candidate"]
    height: Float[np.ndarray, " candidate"]
    cross_entropy: Float[np.ndarray, " candidate"]

    @classmethod
    def joined(cls, parts: Sequence[Measured]) -> Measured:
        """Several, one after the other."""
        return cls(
            np.concatenate([part.activation for part in parts]),
            np.concatenate([part.height for part in parts]),
            np.concatenate([part.cross_entropy for part in parts]),
        )

    def take(self, chosen: Int[np.ndarray, " member"]) -> Measured:
        """Some of them."""
        return Measured(self.activation[chosen], self.height[chosen], self.cross_entropy[chosen])


class Reader:
    """Measures candidates, and counts how many it has measured."""

    def __init__(
        self,
        model: TransformerBridge,
        target: Target,
        *,
        megabytes: float = budget.DEFAULT_MEGABYTES,
    ) -> None:
        """Prepare; nothing is run yet.

        Args:
            model: The bridge.
            target: What is read.
            megabytes: Memory that a batch may take.
        """
        self._model, self._target, self._megabytes = model, target, megabytes
        self.evaluations = 0

    def measure(
        self, texts: Int[np.ndarray, "candidate position"], *, fluency: bool = True
    ) -> Measured:
        """Activation and fluency of each text.

        Args:
            texts: Token ids without what stands in front of them.
            fluency: Whether the cross-entropy is needed; without it less of the model is run.

        Returns:
            One number of each a text.

        Raises:
            ValueError: If an activation or a cross-entropy is not finite.
        """
        ids = with_prefix(self._model, texts, self._target.prefix)
        rows = budget.prompts(self._model.cfg, ids.shape[1], self._megabytes, kept_logits=fluency)
        parts = [self._run(some, fluency) for some in ids.split(rows)]
        self.evaluations += len(texts)
        measured = Measured.joined(parts)
        self._require_finite(measured.height, "activation")
        if fluency:
            self._require_finite(measured.cross_entropy, "cross-entropy")
        return measured

    def _run(self, ids: Int[Tensor, "batch position"], fluency: bool) -> Measured:
        target = self._target
        kept: dict[str, Tensor] = {}

        def keep_as(name: str) -> running.HookFunction:
            def keep(activation: Tensor) -> Tensor:
                # The last position only, and a copy: the rest may be freed or written over.
                kept[name] = activation[:, -1:].clone()
                return activation

            return keep

        needed: dict[str, Any] = {} if fluency else {"stop_at_layer": target.family.layer + 1}
        with running.hooked(self._model, {name: keep_as(name) for name in target.hooks}):
            logits = self._model(ids, return_type="logits", **needed)
            losses = torch.full((len(ids), 1), float("nan"))
            if fluency:
                said = target.log_probabilities(logits)
                written = ids[:, ids.shape[1] - said.shape[1] :]
                flat = functional.nll_loss(said.flatten(0, 1), written.flatten(), reduction="none")
                losses = flat.view(written.shape)
            read = target.read(kept[target.family.hook])
            found = (read, target.height(kept), losses.mean(1))
            return Measured(*(value.double().cpu().numpy() for value in found))

    def _require_finite(self, values: np.ndarray, what: str) -> None:
        if not np.isfinite(values).all():
            raise ValueError(
                f"the {what} of {self._target.name} is not finite for "
                f"{int((~np.isfinite(values)).sum())} of {len(values)} texts: the weights or the "
                "number format overflow"
            )


def with_prefix(
    model: TransformerBridge,
    texts: Int[np.ndarray, "candidate position"],
    prefix: tuple[int, ...],
) -> Int[Tensor, "batch token"]:
    """Token ids on the model's device, with what stands in front of every text."""
    front = np.tile(np.array(prefix, dtype=np.int64), (len(texts), 1))
    return torch.from_numpy(np.concatenate([front, texts], axis=1)).to(model.cfg.device)
