"""Runs of the rest of a model, with a part of its stream taken out or swapped.

A part is taken out of the state that it was written into; everything that runs later is computed
again, and nothing before it changes. Because what is left of a position and below a layer stays as
it is, many such runs go through the model together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from analyses.contributions import naming, parts
from workbench.core.engine import graph as graphs
from workbench.core.engine import recompute, running
from workbench.core.prompts import prompt as prompts
from workbench.core.prompts.prompt import Prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor


def counterpart(
    model: TransformerBridge, prompt: Prompt, corrupted: Prompt | str | Sequence[int]
) -> Prompt:
    """A prompt whose parts can be put in place of another's.

    Args:
        model: The bridge.
        prompt: The prompt whose parts they replace.
        corrupted: Text, token ids, or a prompt.

    Returns:
        The corrupted prompt.

    Raises:
        ValueError: If it is no prompt of this model, or has another length.
    """
    other = Prompt.of(model, corrupted)
    if len(other) != len(prompt):
        raise ValueError(
            f"the corrupted prompt has {len(other)} tokens; expected {len(prompt)}, as many as the "
            "prompt has, so that each part has a counterpart"
        )
    return other


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is measured on which prompt, checked.

    Attributes:
        prompt: The prompt.
        target: Position whose output is measured.
        answer: Token id.
        wrong: Token id of the one that it is compared with; empty for none.
        corrupted: Prompt whose parts are put in; empty for none.
    """

    prompt: Prompt
    target: int
    answer: int
    wrong: tuple[int, ...]
    corrupted: tuple[Prompt, ...]

    @classmethod
    def of(
        cls,
        model: TransformerBridge,
        prompt: Prompt | str | Sequence[int],
        answer: str | int,
        *,
        wrong: str | int | None,
        corrupted: Prompt | str | Sequence[int] | None,
        target: int,
    ) -> Asked:
        """Read what is asked.

        Args:
            model: The bridge.
            prompt: Text, ids, or a prompt.
            answer: Token whose logit is measured.
            wrong: Token whose logit is taken off it.
            corrupted: Prompt of the same length.
            target: Position.

        Returns:
            What is asked.

        Raises:
            ValueError: If an answer is no single token, or the prompts differ in length.
        """
        prompt = Prompt.of(model, prompt)
        target = prompt.position(target)
        tokens = [prompt.answer(model, one) for one in (answer, wrong) if one is not None]
        other = () if corrupted is None else (counterpart(model, prompt, corrupted),)
        return cls(prompt, target, tokens[0], tuple(tokens[1:]), other)

    def names(self, model: TransformerBridge) -> tuple[str, ...]:
        """The answer, and the one that it is compared with, as text."""
        return prompts.token_texts(model, (self.answer, *self.wrong))


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """Runs of the rest of a model, each with one part of the stream changed.

    Attributes:
        stream: The prompt's stream.
        others: The corrupted prompt's; empty for none.
        asked: What is measured.
        logits: Of the unchanged run.
    """

    stream: parts.Stream
    others: tuple[parts.Stream, ...]
    asked: Asked
    logits: Float[Tensor, " d_vocab"]

    @classmethod
    def of(cls, model: TransformerBridge, asked: Asked) -> Runs:
        """Run what is asked about, unchanged."""
        stream = parts.Stream.of(model, asked.prompt, asked.target)
        others = tuple(parts.Stream.of(model, one, asked.target) for one in asked.corrupted)
        logits = stream.sum.decoder.logits(stream.sum.kept.resid[-1][0, -1:])[0]
        return cls(stream, others, asked, logits)

    @property
    def before(self) -> float:
        """Logit (difference) of the unchanged run."""
        return float(self._metric(self.logits[None])[0])

    def taken(self, some: Sequence[naming.Edge | naming.Node]) -> Float[Tensor, "part d_model"]:
        """What each part has to lose: all of it, or what it has over the corrupted prompt's."""
        own = self.stream.part_vectors(some)
        return own - self.others[0].part_vectors(some) if self.others else own

    def changes(
        self,
        where: Sequence[naming.Edge | naming.Node],
        taken: Float[Tensor, "part d_model"],
        progress: running.Progress = running.no_progress,
    ) -> tuple[Float[np.ndarray, " part"], Float[np.ndarray, " part"]]:
        """Change of the logit (difference), and KL divergence, without each of some vectors.

        Args:
            where: The part in whose place each is taken out.
            taken: What is taken out of the stream there.
            progress: Told after each batch of runs.

        Returns:
            Both, one number a run.
        """
        at_once = self._at_once()
        changed, divergences = list[Tensor](), list[Tensor]()
        for begin in range(0, len(where), at_once):
            progress(begin / len(where), f"run {begin + 1} of {len(where)}")
            some = slice(begin, begin + at_once)
            entries = [
                self._entry(part, vector)
                for part, vector in zip(where[some], taken[some], strict=True)
            ]
            ends = recompute.ends(self.stream.sum.decoder, self.stream.sum.kept, entries)
            logits = self.stream.sum.decoder.logits(ends)
            changed.append(self._metric(logits) - self._metric(self.logits[None]))
            own = self.logits.log_softmax(-1)
            divergences.append((own.exp() * (own - logits.log_softmax(-1))).sum(-1))
        both = (torch.cat(changed), torch.cat(divergences).clamp(min=0))
        change, divergence = (values.cpu().numpy() for values in both)
        return change, divergence

    def _entry(self, part: naming.Edge | naming.Node, vector: Tensor) -> recompute.Entry:
        """Where a run with a vector taken out begins, and with which stream."""
        stream = self.stream
        state, position = stream.place(part)
        row = stream.state(state)[position] - vector
        layers, adds = stream.layout.layers, stream.layout.adds
        layer = 0 if state == 0 else layers[state - 1] + 1
        if 0 < state < len(stream.layout) and adds[state] == "mlp":
            # Between attention and the MLP of a layer: the MLP reads it, and adds to it.
            row = row + stream.sum.decoder.layers[layer - 1].mlp_out(row[None])[0]
        at = torch.tensor([position], device=row.device)
        return recompute.Entry(layer, at, torch.zeros_like(at), row[None, None])

    def _metric(self, logits: Float[Tensor, "part d_vocab"]) -> Float[Tensor, " part"]:
        value = logits[:, self.asked.answer]
        return value - logits[:, self.asked.wrong[0]] if self.asked.wrong else value

    def _at_once(self) -> int:
        """How many runs go through the model together, so that their activations fit."""
        kept, length = self.stream.sum.kept, self.stream.length
        heads, width = kept.z[0].shape[2:]
        inside = max((neurons.shape[-1] for neurons in kept.neuron), default=0)
        row = 4 * heads * width + 3 * kept.resid[0].shape[-1] + inside + heads * length
        return max(1, graphs.MAX_ELEMENTS // max(length * row, 4 * len(self.logits)))
