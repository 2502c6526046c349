"""Two-layer models without norms whose circuit is known edge by edge.

Both have two heads a layer, MLPs that add nothing, and heads that do something nobody reads, so
that an activation which differs is not enough to be in the circuit. Every other edge has an effect
of exactly zero with the prompts given here: its sender writes nothing that its receiver reads, or
the same in the clean and the corrupted prompt (the places of the tokens).

Induction, "A B … A" to "B":

- a0.h0 writes the previous token into subspace `first`;
- a1.h0 looks for the last token in `first` (K-composition), and copies the token that it finds
  there to subspace `second`, which the logits read.

Name mover, "A met B A gave" to "B":

- a0.h0 writes the token before the last one, the subject, into subspace `first`;
- a1.h1 at the last position attends to every name but the one in `first` (Q-composition), and
  copies it to subspace `second`, which the logits read.

The scores of the second head are moderate: a softmax that is certain has no gradient, and
attribution by gradients would see nothing of queries and keys.

Limits: circuits of five edges, and every prompt of a case has the same length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from workbench.core.planted import word_level
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

N_CTX = 8
D_HEAD = 8
# Score of a match in the second head, and what a copied token adds to its logit.
MATCH, GAIN = 4.0, 3.0
# So large a score that softmax gives exactly one.
CERTAIN = 1e4
NAMES = ("Ann", "Bob", "Cleo", "Dan")


class Case(NamedTuple):
    """A model, pairs of prompts on which its circuit works, and the circuit.

    Attributes:
        model: The hand-wired model.
        clean: Clean prompts.
        corrupted: Corrupted prompts, every one of another answer.
        answers: Answers of the clean prompts.
        wrong: Answers of the corrupted prompts.
        edges: Names of all edges whose effect is not zero, in the order of a graph.
    """

    model: TransformerBridge
    clean: list[str]
    corrupted: list[str]
    answers: list[str]
    wrong: list[str]
    edges: tuple[str, ...]

    @property
    def pairs(self) -> ContrastPairs:
        """The prompts as contrast pairs."""
        return ContrastPairs.from_text(
            self.model, self.clean, self.corrupted, self.answers, self.wrong
        )


class _Spaces:
    """Where in the residual stream what is written."""

    def __init__(self, words: int) -> None:
        self.token, self.first, self.second, self.unread = (
            slice(i * words, (i + 1) * words) for i in range(4)
        )
        self.place = slice(4 * words, 4 * words + N_CTX)


def induction() -> Case:
    """The induction pair of the module docstring."""
    words = len(word_level.WORDS)
    model, plain, spaces = _blank(word_level.WORDS)
    with torch.no_grad():
        _previous_token(plain, spaces, layer=0, head=0, writes=spaces.first)
        _copies(plain, spaces, layer=1, head=0, writes=spaces.second)
        eye = torch.eye(words)
        plain["layers.1.attn.q.weight"][:words, spaces.token] = MATCH * D_HEAD**0.5 * eye
        plain["layers.1.attn.k.weight"][:words, spaces.first] = eye
        _unread(plain, spaces, layer=0, head=1)
        _unread(plain, spaces, layer=1, head=1)
    clean = [
        "ape bee cat dog ape",
        "cat ape bee dog ape",
        "elk fox ape bee elk",
        "dog elk cat fox elk",
        "fox dog bee cat fox",
        "bee cat elk fox cat",
    ]
    corrupted = [
        "elk fox cat dog elk",
        "cat elk fox dog elk",
        "cat dog ape bee cat",
        "dog ape bee fox ape",
        "ape elk bee cat ape",
        "bee dog ape fox dog",
    ]
    answers = [" bee", " bee", " fox", " cat", " dog", " elk"]
    wrong = [" fox", " fox", " dog", " bee", " elk", " ape"]
    edges = (
        "input->a0.h0<v>",
        "input->a1.h0<q>",
        "input->a1.h0<v>",
        "a0.h0->a1.h0<k>",
        "a1.h0->logits",
    )
    return Case(model, clean, corrupted, answers, wrong, edges)


def name_mover() -> Case:
    """The name mover of the module docstring."""
    words = (*NAMES, "met", "gave")
    names = len(NAMES)
    model, plain, spaces = _blank(words)
    with torch.no_grad():
        _previous_token(plain, spaces, layer=0, head=0, writes=spaces.first)
        _copies(plain, spaces, layer=1, head=1, writes=spaces.second)
        eye = torch.eye(names, len(words))
        strength = MATCH * D_HEAD**0.5
        query = plain["layers.1.attn.q.weight"][D_HEAD : D_HEAD + names]
        # Every place asks for all names, less the one that the first head brought.
        query[:, spaces.place] = strength
        query[:, spaces.first] = -strength * eye
        plain["layers.1.attn.k.weight"][D_HEAD : D_HEAD + names, spaces.token] = eye
        _unread(plain, spaces, layer=0, head=1)
        _unread(plain, spaces, layer=1, head=0)
    clean = [
        "Ann met Bob Ann gave",
        "Bob met Ann Ann gave",
        "Cleo met Ann Cleo gave",
        "Dan met Bob Bob gave",
    ]
    corrupted = [
        "Cleo met Dan Cleo gave",
        "Dan met Cleo Cleo gave",
        "Bob met Dan Bob gave",
        "Ann met Cleo Cleo gave",
    ]
    answers = [" Bob", " Bob", " Ann", " Dan"]
    wrong = [" Dan", " Dan", " Dan", " Ann"]
    edges = (
        "input->a0.h0<v>",
        "input->a1.h1<k>",
        "input->a1.h1<v>",
        "a0.h0->a1.h1<q>",
        "a1.h1->logits",
    )
    return Case(model, clean, corrupted, answers, wrong, edges)


def _blank(words: tuple[str, ...]) -> tuple[TransformerBridge, word_level.Plain, _Spaces]:
    """A model that embeds tokens and places, reads `second` out, and does nothing else."""
    spaces = _Spaces(len(words))
    model, plain = word_level.blank(
        words,
        bos=True,
        d_model=spaces.place.stop,
        d_head=D_HEAD,
        n_heads=2,
        n_layers=2,
        n_ctx=N_CTX,
        d_mlp=4,
    )
    with torch.no_grad():
        eye = torch.eye(len(words))
        plain["tok_embed.weight"][: len(words), spaces.token] = eye
        plain["pos.weight"][:, spaces.place] = torch.eye(N_CTX)
        plain["head.weight"][: len(words), spaces.second] = GAIN * eye
    return model, plain, spaces


def _copies(
    plain: word_level.Plain, spaces: _Spaces, *, layer: int, head: int, writes: slice
) -> None:
    """Let a head copy the tokens that it attends to."""
    width = writes.stop - writes.start
    rows = slice(head * D_HEAD, head * D_HEAD + width)
    plain[f"layers.{layer}.attn.v.weight"][rows, spaces.token] = torch.eye(width)
    plain[f"layers.{layer}.attn.o.weight"][writes, rows] = torch.eye(width)


def _previous_token(
    plain: word_level.Plain, spaces: _Spaces, *, layer: int, head: int, writes: slice
) -> None:
    """Let a head copy the token before; the first position, which is BOS, copies nothing."""
    _copies(plain, spaces, layer=layer, head=head, writes=writes)
    rows = slice(head * D_HEAD, head * D_HEAD + N_CTX)
    before = torch.eye(N_CTX).roll(-1, 0)
    plain[f"layers.{layer}.attn.q.weight"][rows, spaces.place] = CERTAIN * before
    plain[f"layers.{layer}.attn.k.weight"][rows, spaces.place] = torch.eye(N_CTX)


def _unread(plain: word_level.Plain, spaces: _Spaces, *, layer: int, head: int) -> None:
    """Let a head write the mean of all tokens to where nobody reads."""
    _copies(plain, spaces, layer=layer, head=head, writes=spaces.unread)
