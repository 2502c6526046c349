"""The search: texts that mutate one token at a time, and prices of fluency that pick among them.

1. For each price x there is one kept text, at first the best of as many random ones as an iteration
   draws, since a single one may lie where the unit is flat. Its gradient lists, for each position,
   the tokens that promise most; each child differs from its parent in one position, drawn alike,
   and takes a token drawn alike from the list there.
2. All children are measured together. Each price picks the text of lowest −f + x · CE + cost among
   all children and all kept texts, so no price ever gets worse. Of equals it picks a child: where a
   unit is silent the texts drift instead of standing still. (For a neuron, f goes on below zero as
   `candidates` says.)
3. Every so many iterations all prices start again from the text of one of them, drawn at random.

Evolutionary prompt optimization and greedy coordinate gradient are two settings of this loop: many
prices, or the single price 0. At price 0 the cross-entropy is no part of the search, so it is
computed only for the texts that were picked, at the end.

Source: Thompson et al. 2024, arXiv 2402.01702; Zou et al. 2023, arXiv 2307.15043.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int

from analyses.feature_visualization.text import candidates, pareto, token_gradients, vocabulary
from workbench.core.engine import running

# Largest share of the allowed tokens that a list may hold: with more of them the gradient would
# have no say where the vocabulary is small.
_SHARE_OF_TOKENS = 0.25


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the search goes.

    Attributes:
        penalties: Prices, what a nat of cross-entropy costs, in activation; lowest first.
        children: New texts of each kept text in an iteration.
        top_tokens: Tokens in the list of each position, at most.
        iterations: How many there are.
        restart_every: Iterations until all prices start again from one text.
    """

    penalties: Float[np.ndarray, " member"]
    children: int
    top_tokens: int
    iterations: int
    restart_every: int

    @property
    def fluency(self) -> bool:
        """Whether the cross-entropy has a part in the search."""
        return bool(self.penalties.any())


@dataclasses.dataclass(frozen=True)
class Evolved:
    """What one restart gave.

    Attributes:
        best: Text of lowest objective at the lowest price that was kept at any time.
        best_measured: What it gives.
        trace: What the text of each price gave after each iteration, iterations first.
        front: The Pareto front of everything that was measured, of earlier restarts too.
    """

    best: Int[np.ndarray, " position"]
    best_measured: candidates.Measured
    trace: candidates.Measured
    front: pareto.Front


@dataclasses.dataclass(frozen=True)
class _Kept:
    """The text of each price."""

    texts: Int[np.ndarray, "member position"]
    measured: candidates.Measured

    def take(self, chosen: Int[np.ndarray, " member"]) -> _Kept:
        return _Kept(self.texts[chosen], self.measured.take(chosen))

    def followed_by(self, other: _Kept) -> _Kept:
        return _Kept(
            np.concatenate([self.texts, other.texts]),
            candidates.Measured.joined([self.measured, other.measured]),
        )


class Search:
    """One unit of one model, searched with one setting, from as many starts as are asked for."""

    def __init__(
        self,
        reader: candidates.Reader,
        gradients: token_gradients.TokenGradients,
        words: vocabulary.Vocabulary,
        settings: Settings,
        *,
        sign: int,
        read: Callable[[Int[np.ndarray, " position"]], str],
    ) -> None:
        """Put the parts together.

        Args:
            reader: Measures texts.
            gradients: Lists promising tokens.
            words: What texts are made of.
            settings: How the search goes.
            sign: 1 to maximise the activation, -1 to minimise it.
            read: Writes a text's tokens out.
        """
        self._read = read
        self._reader, self._gradients, self._words = reader, gradients, words
        self._settings, self._sign = settings, sign

    def run(
        self,
        starts: Int[np.ndarray, "candidate position"],
        front: pareto.Front,
        *,
        costs: Float[np.ndarray, " d_vocab"],
        rng: np.random.Generator,
        restart: int,
        report: running.Progress,
    ) -> Evolved:
        """Search from the best of some texts.

        Args:
            starts: Texts of which each price picks one to begin with.
            front: What earlier restarts found.
            costs: What each token costs a text that consists of nothing else, in activation.
            rng: Where chance comes from.
            restart: Number of this restart.
            report: Called with the share done and a note; may raise to cancel.

        Returns:
            The texts that were found.
        """
        settings = self._settings
        pool = self._measured(starts)
        front = self._joined(front, pool, restart)
        kept = self._chosen(pool, costs)
        history: list[_Kept] = []
        for iteration in range(settings.iterations):
            best = int((self._sign * kept.measured.activation).argmax())
            report(
                iteration / settings.iterations,
                f"restart {restart + 1}, iteration {iteration + 1} of {settings.iterations}: "
                f"activation {kept.measured.activation[best]:.4g} at "
                f"{self._read(kept.texts[best])!r}",
            )
            if iteration and not iteration % settings.restart_every:
                one = int(rng.integers(len(settings.penalties)))
                kept = kept.take(np.full(len(settings.penalties), one))
            children = self._measured(self._children(kept.texts, costs, rng))
            front = self._joined(front, children, restart)
            pool = children.followed_by(kept)
            kept = self._chosen(pool, costs)
            history.append(kept)
        return self._told(history, front, costs, restart)

    def _chosen(self, pool: _Kept, costs: Float[np.ndarray, " d_vocab"]) -> _Kept:
        """The text that each price picks."""
        return pool.take(self._objective(pool, costs).argmin(axis=1))

    def _measured(self, texts: Int[np.ndarray, "candidate position"]) -> _Kept:
        return _Kept(texts, self._reader.measure(texts, fluency=self._settings.fluency))

    def _joined(self, front: pareto.Front, texts: _Kept, restart: int) -> pareto.Front:
        """The front with more texts; without their fluency they wait until the end."""
        if not self._settings.fluency:
            return front
        return front.joined(texts.texts, texts.measured, sign=self._sign, restart=restart)

    def _children(
        self,
        parents: Int[np.ndarray, "member position"],
        costs: Float[np.ndarray, " d_vocab"],
        rng: np.random.Generator,
    ) -> Int[np.ndarray, "candidate position"]:
        """Texts that differ from a parent in one token, parent after parent."""
        lists = self._lists(parents, costs, rng)
        members, length, listed = lists.shape
        size = (members, self._settings.children)
        member = np.arange(members)[:, None]
        place, rank = rng.integers(length, size=size), rng.integers(listed, size=size)
        children = np.repeat(parents[:, None], self._settings.children, axis=1)
        children[member, np.arange(size[1]), place] = lists[member, place, rank]
        return children.reshape(-1, length)

    def _lists(
        self,
        parents: Int[np.ndarray, "member position"],
        costs: Float[np.ndarray, " d_vocab"],
        rng: np.random.Generator,
    ) -> Int[np.ndarray, "member position listed"]:
        """The tokens that promise most at each position, the one that stands there left out."""
        allowed = self._words.allowed
        # In random order, so that chance decides between tokens that promise the same: a unit that
        # is silent has no gradient at all.
        order = rng.permutation(allowed)
        promise = self._gradients.of(parents, self._settings.penalties, costs)
        promise = promise[..., torch.from_numpy(order).to(promise.device)]
        here = torch.from_numpy(parents[..., None] == order).to(promise.device)
        promise = promise.masked_fill(here, float("inf"))
        most = min(self._settings.top_tokens, int(np.ceil(_SHARE_OF_TOKENS * len(allowed))))
        return order[promise.topk(most, largest=False).indices.cpu().numpy()]

    def _objective(
        self, texts: _Kept, costs: Float[np.ndarray, " d_vocab"]
    ) -> Float[np.ndarray, "member candidate"]:
        """What each price is to make small."""
        value = costs[texts.texts].mean(axis=1) - texts.measured.height
        penalties = self._settings.penalties[:, None]
        if not self._settings.fluency:
            return np.broadcast_to(value, (len(penalties), len(value)))
        return value + penalties * texts.measured.cross_entropy

    def _told(
        self,
        history: list[_Kept],
        front: pareto.Front,
        costs: Float[np.ndarray, " d_vocab"],
        restart: int,
    ) -> Evolved:
        """The best of what was kept, and the trace; here the fluency of GCG's texts is measured."""
        texts = np.stack([kept.texts for kept in history])
        flat = texts.reshape(-1, texts.shape[-1])
        measured = candidates.Measured.joined([kept.measured for kept in history])
        if not self._settings.fluency:
            different, which = np.unique(flat, axis=0, return_inverse=True)
            known = self._reader.measure(different)
            front = front.joined(different, known, sign=self._sign, restart=restart)
            measured = known.take(which.reshape(-1))
        lowest = np.arange(len(history)) * texts.shape[1]
        at_lowest = _Kept(flat[lowest], measured.take(lowest))
        best = int(self._objective(at_lowest, costs)[0].argmin())
        return Evolved(
            best=at_lowest.texts[best],
            best_measured=at_lowest.measured.take(np.array([best])),
            trace=measured,
            front=front,
        )
