"""Latents: which of them point the same way, fire together, or are one in a smaller dictionary.

1. `neighbours`: the cosine of a latent's decoder direction with every other one; over a corpus also
   the correlation of their activations over tokens, each the latent's value at the token.
2. `splitting`: for each latent of a small dictionary, the latents of a large one whose decoder
   directions are nearest, and the share of its squared length that lies in the span of these.
3. Chance: random directions with the second moments of the decoder's own (so a space that is used
   in few directions is no evidence) look for their nearest latents in the same way. A p-value is
   the share of them that come as near, or have as much explained; corrected over all that was
   looked at.

Source: Bricken et al. 2023, "Towards Monosemanticity" (splitting); Benjamini & Hochberg 1995.

Units and sign: cosines and correlations from -1 to 1, shares from 0 to 1; NaN is the correlation of
a latent that is the same at every token.

Limits: a decoder direction says what a latent writes, not when it fires. Correlations come with the
number of tokens and no interval. With r random directions, a latent of n can be told from chance
at level .05 only where some 20 n / r of them are: for `splitting` that is a hundredth of the small
dictionary at its 2,000.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int

from analyses.activation_patching import units
from analyses.feature_visualization.dictionaries import quality, stepping
from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.evidence import SURE
from workbench.core.models import sources
from workbench.core.prompts import corpus as corpora

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# Random directions for each latent of which one asks whether it is a neighbour, and at a time.
_RANDOM_A_LATENT, _PART = 40, 10_000
# Level at which a latent counts as more than chance.


@dataclasses.dataclass(frozen=True)
class Neighbours(results.Result):
    """A latent against all others of its dictionary.

    Attributes:
        latent: Which one.
        cosine: Of decoder directions; 1 for itself.
        p_value: Of each cosine against random directions, corrected; NaN for itself.
        correlation: Of activations over tokens; NaN throughout without a corpus.
        together: Share of the latent's tokens at which each other one is active, too; likewise.
        n_tokens: How many tokens of a corpus; 0 without one.
        count: How many of the nearest a reader is shown.
    """

    latent: int
    cosine: Float[np.ndarray, " latent"]
    p_value: Float[np.ndarray, " latent"]
    correlation: Float[np.ndarray, " latent"]
    together: Float[np.ndarray, " latent"]
    n_tokens: int
    count: int

    def nearest(self, by: str = "cosine") -> Int[np.ndarray, " neighbour"]:
        """Latents of the highest values, itself left out.

        Args:
            by: "cosine" or "correlation".

        Returns:
            Their indices, highest first; those without a value are left out.

        Raises:
            ValueError: If it is something else, or correlations were not measured.
        """
        if by not in ("cosine", "correlation"):
            raise ValueError(f"unknown order {by!r}; expected cosine or correlation")
        if by == "correlation" and not self.n_tokens:
            raise ValueError("correlations need a corpus: give model= and corpus= to neighbours")
        values = np.where(np.isnan(getattr(self, by)), -np.inf, getattr(self, by))
        values[self.latent] = -np.inf
        order = np.argsort(-values, kind="stable")
        return order[np.isfinite(values[order])][: self.count]

    def to_frame(self) -> pd.DataFrame:
        """One row a latent other than this one, nearest direction first."""
        every = np.argsort(-self.cosine, kind="stable")
        others = every[every != self.latent]
        return pd.DataFrame(
            {
                "latent": others,
                "cosine": self.cosine[others],
                "p_value": self.p_value[others],
                "correlation": self.correlation[others],
                "together": self.together[others],
            }
        )

    def figure(self) -> go.Figure:
        """Cosines of the nearest directions as bars."""
        near = self.nearest()
        labels = [f"latent {index}" for index in near]
        return plots.bars(self.cosine[near], labels=labels, value_title="cosine of decoders")

    def summary(self) -> str:
        """The nearest by both, and how many directions are nearer than chance."""
        near = ", ".join(f"{i} ({self.cosine[i]:.2f})" for i in self.nearest()[:3])
        beyond = int((self.p_value <= SURE).sum())
        said = (
            f"Latent {self.latent}: nearest decoder directions {near}; {beyond} of "
            f"{len(self.cosine) - 1:,} are nearer than random directions (corrected p ≤ {SURE})."
        )
        if not self.n_tokens:
            return said
        fellow = self.nearest("correlation")[:3]
        together = ", ".join(f"{i} ({self.correlation[i]:.2f})" for i in fellow) or "none"
        return f"{said} Most correlated over {self.n_tokens:,} tokens: {together}."


@dataclasses.dataclass(frozen=True)
class Splitting(results.Result):
    """Latents of a small dictionary against those of a large one.

    Attributes:
        nearest: For each small latent, its nearest large latents, nearest first.
        cosine: Of each of these.
        explained: Share of a small direction's squared length in the span of its nearest.
        children: How many large latents are nearer than 95 % of random directions come to their
            nearest one.
        chance_cosine: 95 % quantile, over random directions, of the cosine with the nearest.
        chance_explained: Mean, over random directions, of the explained share.
        p_value: Of the nearest cosine, corrected over the small latents.
        p_value_explained: Of the explained share, likewise.
        n_random: Random directions.
    """

    nearest: Int[np.ndarray, "latent neighbour"]
    cosine: Float[np.ndarray, "latent neighbour"]
    explained: Float[np.ndarray, " latent"]
    children: Int[np.ndarray, " latent"]
    chance_cosine: float
    chance_explained: float
    p_value: Float[np.ndarray, " latent"]
    p_value_explained: Float[np.ndarray, " latent"]
    n_random: int

    @property
    def split(self) -> Bool[np.ndarray, " latent"]:
        """Small latents that several large ones stand for."""
        return (self.children > 1) & (self.p_value <= SURE)

    def to_frame(self) -> pd.DataFrame:
        """One row a small latent and one of its nearest."""
        count, near = self.nearest.shape
        return pd.DataFrame(
            {
                "latent": np.repeat(np.arange(count), near),
                "rank": np.tile(np.arange(near), count),
                "large_latent": self.nearest.ravel(),
                "cosine": self.cosine.ravel(),
                "explained": np.repeat(self.explained, near),
                "children": np.repeat(self.children, near),
                "p_value": np.repeat(self.p_value, near),
            }
        )

    def figure(self) -> go.Figure:
        """How near the nearest large latent is, and how many there are."""
        figure = go.Figure(
            go.Scatter(
                x=self.cosine[:, 0],
                y=self.children,
                mode="markers",
                marker={"color": plots.COLOURS[0], "size": 6, "opacity": 0.6},
                text=[f"latent {index}" for index in range(len(self.cosine))],
                hovertemplate="%{text}<br>cosine %{x:.3f}, %{y} latents<extra></extra>",
            )
        )
        figure.add_vline(self.chance_cosine, line={"color": plots.COLOURS[-1], "dash": "dash"})
        figure.update_layout(template=plots.TEMPLATE, showlegend=False)
        figure.update_xaxes(title="cosine with the nearest large latent (dashed: chance)")
        return figure.update_yaxes(title="large latents nearer than chance")

    def summary(self) -> str:
        """How many are found again, how many are split, against chance."""
        n = len(self.explained)
        found = int((self.p_value <= SURE).sum())
        return (
            f"Of {n:,} latents of the small dictionary, {found:,} have a nearer direction in the "
            f"large one than random directions have (corrected p ≤ {SURE}), and "
            f"{int(self.split.sum()):,} have several (split). Median cosine with the nearest "
            f"{np.median(self.cosine[:, 0]):.3f} (95 % of {self.n_random:,} random directions "
            f"stay below {self.chance_cosine:.3f}); the {self.nearest.shape[1]} nearest explain "
            f"{self.explained.mean():.1%} of a direction, against {self.chance_explained:.1%}."
        )


def neighbours(
    dictionary: Any,
    latent: int,
    *,
    model: TransformerBridge | None = None,
    corpus: corpora.Corpus | None = None,
    at: str | None = None,
    count: int = 10,
    n_random: int | None = None,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Neighbours:
    """Find the latents that point the same way and, over a corpus, those that fire together.

    Args:
        dictionary: A sparse autoencoder with `encode`, `decode` and `W_dec`.
        latent: Which latent.
        model: The bridge that it reads; needed with a corpus.
        corpus: What to correlate activations over.
        at: Hook point, where the dictionary does not know it.
        count: How many of the nearest a reader is shown.
        n_random: Random directions; 40 a latent if not given, so that a single neighbour can be
            more than chance after correction.
        seed: Of these.
        progress: Told the fraction done; may raise to stop.

    Returns:
        The latent against all others.

    Raises:
        ValueError: If there is no such latent, or a corpus comes without its model.
    """
    started = time.perf_counter()
    decoder = _directions(dictionary)
    n = len(decoder)
    if not 0 <= latent < n:
        raise stepping.DictionaryError(f"the dictionary has latents 0 to {n - 1}, not {latent}")
    if (model is None) != (corpus is None):
        raise stepping.DictionaryError("co-activation needs both: give model= and corpus=")
    cosine = decoder @ decoder[latent]
    n_random = n_random or _RANDOM_A_LATENT * n
    chance = np.concatenate(
        [
            _random(decoder, min(_PART, n_random - start), [seed, start]) @ decoder[latent]
            for start in range(0, n_random, _PART)
        ]
    )
    p_value = np.full(n, np.nan)
    others = np.arange(n) != latent
    p_value[others] = evidence.adjusted_for_discoveries(_p_values(cosine[others], chance))
    correlation, together, n_tokens = np.full(n, np.nan), np.full(n, np.nan), 0
    if model is not None and corpus is not None:
        where = quality.where_it_reads(model, corpus, dictionary, at)
        correlation, together, n_tokens = _together(
            model, corpus, dictionary, latent, where.hook, progress or running.no_progress
        )
    parameters = {
        "dictionary": units.mark_of(dictionary),
        "latent": latent,
        "corpus": None if corpus is None else corpus.fingerprint,
        "model": None if model is None else sources.source_of(model).name,
        "n_random": n_random,
    }
    return Neighbours(
        provenance=_described("neighbours", parameters, seed, started),
        latent=latent,
        cosine=cosine,
        p_value=p_value,
        correlation=correlation,
        together=together,
        n_tokens=n_tokens,
        count=count,
    )


def splitting(
    small: Any, large: Any, *, count: int = 5, n_random: int = 2_000, seed: int = 0
) -> Splitting:
    """Find each latent of a small dictionary among those of a large one.

    Args:
        small: A sparse autoencoder.
        large: One that reads the same site, usually with more latents.
        count: How many of the nearest to keep.
        n_random: Random directions.
        seed: Of these.

    Returns:
        The nearest latents, what they explain, and chance.

    Raises:
        ValueError: If the dictionaries read vectors of different widths, or there are fewer than
            `count` latents in the large one.
    """
    started = time.perf_counter()
    ours, theirs = _directions(small), _directions(large)
    if ours.shape[1] != theirs.shape[1]:
        raise stepping.DictionaryError(
            f"the dictionaries read vectors of {ours.shape[1]} and of {theirs.shape[1]} numbers: "
            "only two of one site can be compared"
        )
    if not 1 <= count <= len(theirs):
        raise stepping.DictionaryError(
            f"count = {count}: expected 1 to {len(theirs)}, the latents of the large dictionary"
        )
    nearest, cosine, explained = _nearest(ours, theirs, count)
    _, chance, chance_explained = _nearest(_random(ours, n_random, [seed]), theirs, count)
    bar = float(np.quantile(chance[:, 0], 0.95))
    parameters = {
        "small": units.mark_of(small),
        "large": units.mark_of(large),
        "count": count,
        "n_random": n_random,
    }
    return Splitting(
        provenance=_described("splitting", parameters, seed, started),
        nearest=nearest,
        cosine=cosine,
        explained=explained,
        children=np.concatenate([(part @ theirs.T > bar).sum(1) for part in _parts(ours, theirs)]),
        chance_cosine=bar,
        chance_explained=float(chance_explained.mean()),
        p_value=evidence.adjusted_for_discoveries(_p_values(cosine[:, 0], chance[:, 0])),
        p_value_explained=evidence.adjusted_for_discoveries(_p_values(explained, chance_explained)),
        n_random=n_random,
    )


def _described(
    function: str, parameters: dict[str, Any], seed: int, started: float
) -> results.Provenance:
    name = str(parameters.get("model") or parameters.get("dictionary") or parameters["large"])
    return results.described(
        name,
        str(parameters.get("dictionary", parameters.get("large"))),
        analysis=f"feature_visualization.{function}",
        parameters=parameters,
        seed=seed,
        wall_time=time.perf_counter() - started,
    )


def _directions(dictionary: Any) -> Float[np.ndarray, "latent width"]:
    """Decoder directions as unit vectors; one without a length stays zero."""
    rows = dictionary.W_dec.detach().cpu().double().numpy()
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def _random(
    like: Float[np.ndarray, "latent width"], count: int, seed: list[int]
) -> Float[np.ndarray, "direction width"]:
    """Random unit vectors with the second moments of given ones."""
    # A root of the second moments, which stays small where the dictionary is large.
    values, vectors = np.linalg.eigh(like.T @ like)
    root = np.sqrt(values.clip(min=0))[:, None] * vectors.T
    drawn = np.random.default_rng(seed).standard_normal((count, len(root))) @ root
    return drawn / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-30)


def _p_values(
    values: Float[np.ndarray, " point"], chance: Float[np.ndarray, " direction"]
) -> Float[np.ndarray, " point"]:
    """Share of random directions that come as high; never zero."""
    reached = len(chance) - np.searchsorted(np.sort(chance), values, side="left")
    return (reached + 1) / (len(chance) + 1)


def _parts(
    rows: Float[np.ndarray, "row width"], others: Float[np.ndarray, "latent width"]
) -> list[Float[np.ndarray, "row width"]]:
    """Rows in pieces whose products with the others fit into some tens of megabytes."""
    size = max(1, 4_000_000 // len(others))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _nearest(
    rows: Float[np.ndarray, "row width"], others: Float[np.ndarray, "latent width"], count: int
) -> tuple[
    Int[np.ndarray, "row neighbour"],
    Float[np.ndarray, "row neighbour"],
    Float[np.ndarray, " row"],
]:
    """The nearest of the others, their cosines, and the share of a row in their span."""
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for part in _parts(rows, others):
        cosine = part @ others.T
        near = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
        taken = np.take_along_axis(cosine, near, axis=1)
        span = others[near]
        # Directions of one dictionary may be the same: a pseudo-inverse takes them once.
        inverse = np.linalg.pinv(span @ span.transpose(0, 2, 1), rcond=1e-10, hermitian=True)
        share = np.einsum("ri,rij,rj->r", taken, inverse, taken)
        found.append((near, taken, share.clip(0, 1)))
    near, taken, share = (np.concatenate(each) for each in zip(*found, strict=True))
    return near, taken, share


@torch.no_grad()
def _together(  # noqa: PLR0913, PLR0917 -- one step of `neighbours`
    model: TransformerBridge,
    corpus: corpora.Corpus,
    dictionary: Any,
    latent: int,
    hook: str,
    progress: running.Progress,
) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"], int]:
    """Correlation with every latent, share of tokens in common, and the number of tokens.

    Values are taken relative to those at the first token: sums of squares of values far from zero
    would lose what correlation is about.
    """
    n = 0
    zero = torch.zeros(len(dictionary.W_dec), dtype=torch.float64)
    total, squares, products, joint = zero, zero.clone(), zero.clone(), zero.clone()
    first: torch.Tensor | None = None
    for number, chunk in enumerate(corpus.chunks()):
        for values in quality.encoded(model, hook, chunk, dictionary):
            found = values.double().cpu()
            joint += (found[found[:, latent] > 0] > 0).double().sum(0)
            if first is None:
                first = found[0].clone()
            found -= first
            n += len(found)
            total += found.sum(0)
            squares += found.square().sum(0)
            products += found[:, latent] @ found
        progress((number + 1) / corpus.n_chunks, f"{n:,} tokens")
    spread = (squares - total.square() / n).clamp(min=0)
    both = products - total * total[latent] / n
    # What is left of a constant latent by rounding is no spread.
    moves = spread > 1e-12 * squares.clamp(min=1e-300)
    scale = (spread * spread[latent]).sqrt()
    known = moves & moves[latent]
    correlation = torch.where(known, both / scale.clamp(min=1e-300), torch.nan)
    share = joint / joint[latent] if joint[latent] else torch.full_like(joint, torch.nan)
    return correlation.numpy(), share.numpy(), n
