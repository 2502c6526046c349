"""How tokens lie in the embedding and the unembedding: axes, lengths, neighbours."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.weights import circuits, nulls, singular
from workbench.core import plots, results

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
EMBEDDING, NEIGHBOURS = "weights.embedding", "weights.neighbours"
WHICH = ("embedding", "unembedding")
# Tokens drawn at most.
DRAWN = 5000
# Axes that are kept.
_KEPT = 100
# The null of large vocabularies is made on so many rows, in proportion.
_NULL_WORK = 2e10
_NULLS = 5
_SPOKEN = 5
_ROWS = 8192


@dataclasses.dataclass(frozen=True)
class EmbeddingGeometry(results.Result):
    """Principal axes of the tokens' vectors, and where tokens lie along the first two.

    Attributes:
        which: "embedding" or "unembedding".
        explained: Share of the variance over tokens along each principal axis.
        random: Mean share with each coordinate's values shuffled over the tokens by itself.
        random_largest: Largest share of the first axis in the shuffles.
        effective_dimension: Exponential of the entropy of all axes' shares.
        random_dimension: The same of the shuffles.
        mean_share: Share of the mean vector in the mean square length.
        lengths: Length of each token's vector.
        ids: Tokens that are placed.
        tokens: The same as text.
        places: Their coordinates along the first two axes.
        n_random: Shuffles.
    """

    which: str
    explained: Float[np.ndarray, " axis"]
    random: Float[np.ndarray, " axis"]
    random_largest: float
    effective_dimension: float
    random_dimension: float
    mean_share: float
    lengths: Float[np.ndarray, " d_vocab"]
    ids: Int[np.ndarray, " token"]
    tokens: tuple[str, ...]
    places: Float[np.ndarray, "token 2"]
    n_random: int

    @property
    def beyond(self) -> int:
        """Leading axes with a larger share than the first of every shuffle."""
        return int((self.explained > self.random_largest).cumprod().sum())

    def to_frame(self) -> pd.DataFrame:
        """One row a placed token."""
        return pd.DataFrame(
            {
                "token": self.tokens,
                "token_id": self.ids,
                "length": self.lengths[self.ids],
                "first_axis": self.places[:, 0],
                "second_axis": self.places[:, 1],
            }
        )

    def figure(self) -> go.Figure:
        """Tokens along the first two axes."""
        labels = [plots.escape(plots.visible(token)) for token in self.tokens]
        figure = go.Figure(
            plots.scatter(len(labels))(
                x=self.places[:, 0],
                y=self.places[:, 1],
                mode="markers",
                marker={
                    "size": 5,
                    "color": self.lengths[self.ids],
                    "colorscale": "Viridis",
                    "colorbar": {"title": {"text": "length", "side": "right"}, "thickness": 12},
                },
                customdata=[f"{label} ({i})" for label, i in zip(labels, self.ids, strict=True)],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
        figure.update_layout(template=plots.TEMPLATE, height=560)
        shares = [f"axis {i + 1} ({self.explained[i]:.1%} of the variance)" for i in range(2)]
        figure.update_xaxes(title=shares[0])
        return figure.update_yaxes(title=shares[1], scaleanchor="x")

    def variance_figure(self) -> go.Figure:
        """Share of the variance along each axis, beside shuffled coordinates."""
        axes = np.arange(1, len(self.explained) + 1)
        series = {self.which: self.explained, "coordinates shuffled": self.random}
        return plots.line(axes, series, x_title="axis", y_title="share of the variance")

    def summary(self) -> str:
        """How many axes matter, and how alike the lengths are."""
        low, middle, high = np.quantile(self.lengths, [0.05, 0.5, 0.95])
        return (
            f"{self.which.capitalize()} of {self.provenance.model}: {len(self.lengths):,} tokens. "
            f"The first {min(_SPOKEN, len(self.explained))} axes hold "
            f"{self.explained[:_SPOKEN].sum():.1%} of the variance; {self.beyond} hold more than "
            f"the first axis of any of {self.n_random} shuffles of each coordinate over the tokens "
            f"({self.random_largest:.1%}). Effective dimension {self.effective_dimension:.1f} "
            f"(shuffled {self.random_dimension:.1f}). The mean vector holds {self.mean_share:.1%} "
            f"of the mean square length. Lengths: median {middle:.3g}, 90% of them between "
            f"{low:.3g} and {high:.3g}. Two axes show {self.explained[:2].sum():.1%} of the "
            "variance: tokens that lie together in the picture may be far apart."
        )


@dataclasses.dataclass(frozen=True)
class Neighbours(results.Result):
    """Tokens whose vectors point most nearly the same way.

    Attributes:
        which: "embedding" or "unembedding".
        token_id: The token asked about.
        token: The same as text.
        ids: Nearest first.
        tokens: The same as text.
        cosines: Of each with the token.
        p_value: Share of random directions whose largest cosine with any token is as large.
        random: Mean largest cosine of these.
        centred: Whether the mean vector over tokens was taken off first.
        n_random: Random directions.
    """

    which: str
    token_id: int
    token: str
    ids: Int[np.ndarray, " k"]
    tokens: tuple[str, ...]
    cosines: Float[np.ndarray, " k"]
    p_value: Float[np.ndarray, " k"]
    random: float
    centred: bool
    n_random: int

    def to_frame(self) -> pd.DataFrame:
        """One row a neighbour."""
        return pd.DataFrame(
            {
                "token": self.tokens,
                "token_id": self.ids,
                "cosine": self.cosines,
                "p": self.p_value,
            }
        )

    def figure(self) -> go.Figure:
        """Cosines of the neighbours, beside what a random direction's nearest token has."""
        labels = plots.token_labels(self.tokens, numbered=False)
        figure = plots.bars(self.cosines.astype(np.float64), labels=labels, value_title="cosine")
        figure.update_traces(name=f"nearest to {plots.escape(plots.visible(self.token))}")
        chance = go.Scatter(
            x=[-0.5, len(labels) - 0.5],
            y=[self.random] * 2,
            mode="lines",
            line={"dash": "dot", "color": plots.COLOURS[1]},
            name="nearest to a random direction, mean",
        )
        return figure.add_trace(chance).update_layout(showlegend=True)

    def summary(self) -> str:
        """The nearest tokens."""
        near = ", ".join(
            f"{plots.visible(token)} ({cosine:.2f})"
            for token, cosine in zip(self.tokens[:_SPOKEN], self.cosines, strict=False)
        )
        mean = "the mean vector taken off" if self.centred else "mean vector included"
        return (
            f"Nearest to {plots.visible(self.token)} in the {self.which} ({mean}): {near}. The "
            f"token nearest to a random direction has a cosine of {self.random:.2f} "
            f"({self.n_random} directions; p of the nearest here: {self.p_value[0]:.2g})."
        )


def embedding(
    model: TransformerBridge, which: str = "embedding", *, drawn: int = DRAWN, seed: int = 0
) -> EmbeddingGeometry:
    """Find the principal axes of the tokens' vectors.

    Args:
        model: The bridge.
        which: "embedding" (W_E) or "unembedding" (W_U, final norm folded in).
        drawn: How many tokens to place at most: all if there are no more, else a random sample.
        seed: Of the sample and the shuffles.

    Returns:
        The axes' shares beside those of shuffled coordinates, and the tokens' places.

    Raises:
        ValueError: If the name is not known, or fewer than two tokens are to be drawn.
    """
    started = time.perf_counter()
    if drawn < len("first second".split()):
        raise ValueError(f"drawn = {drawn}; expected at least 2 tokens")
    rows = vectors(model, which)
    mean = rows.mean(0)
    values, axes = torch.linalg.eigh(_covariance(rows, mean))
    variances = values.flip(0).clamp(min=0).cpu().numpy().astype(np.float64)
    rng = np.random.default_rng(seed)
    n_random = _NULLS if float(rows.shape[0]) * rows.shape[1] ** 2 <= _NULL_WORK else 1
    random = np.stack([_shuffled(rows, rng) for _ in range(n_random)])
    chosen = torch.from_numpy(np.sort(rng.permutation(len(rows))[:drawn]))
    places = (rows[chosen.to(rows.device)] - mean) @ axes.flip(1)[:, :2]
    shares = [_shares(each) for each in (variances, *random)]
    lengths = rows.norm(dim=1)
    return EmbeddingGeometry(
        provenance=results.provenance(
            model,
            analysis=EMBEDDING,
            parameters={"which": which, "drawn": drawn},
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        which=which,
        explained=shares[0][:_KEPT].copy(),
        random=np.mean(shares[1:], axis=0)[:_KEPT],
        random_largest=float(max(share[0] for share in shares[1:])),
        effective_dimension=singular.effective_rank(shares[0]),
        random_dimension=float(np.mean([singular.effective_rank(each) for each in shares[1:]])),
        mean_share=float(mean.square().sum() / lengths.square().mean().clamp(min=1e-30)),
        lengths=lengths.cpu().numpy(),
        ids=chosen.numpy(),
        tokens=circuits.names(model, chosen.tolist()),
        places=places.cpu().numpy(),
        n_random=n_random,
    )


def neighbours(
    model: TransformerBridge,
    token: str | int,
    *,
    which: str = "embedding",
    k: int = 10,
    centred: bool = True,
    seed: int = 0,
) -> Neighbours:
    """Find the tokens whose vectors point most nearly the same way.

    Args:
        model: The bridge.
        token: A single token as text, with its leading space where it has one, or its id.
        which: "embedding" or "unembedding".
        k: How many.
        centred: Whether to take the mean vector over tokens off first.
        seed: Of the random directions.

    Returns:
        The neighbours with their cosines.

    Raises:
        ValueError: If the token or the name is not known, or k is below 1.
    """
    started = time.perf_counter()
    if k < 1:
        raise ValueError(f"k = {k}; expected at least 1 neighbour")
    (found,) = circuits.token_ids(model, [token])
    rows = vectors(model, which)
    if found >= len(rows):
        raise ValueError(f"token id {found} has no {which} (ids 0 to {len(rows) - 1} have one)")
    rows = rows - rows.mean(0) if centred else rows
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    cosines = unit @ unit[found]
    cosines[found] = -torch.inf
    best = cosines.topk(min(k, len(rows) - 1))
    random = nulls.directions(nulls.RANDOM_DIRECTIONS, rows.shape[1], seed, rows.device)
    null = torch.stack([(some @ random.T).amax(0) for some in unit.split(_ROWS)]).amax(0)
    largest = null.cpu().numpy().astype(np.float64)
    values = best.values.cpu().numpy().astype(np.float64)
    ids = best.indices.cpu().numpy()
    return Neighbours(
        provenance=results.provenance(
            model,
            analysis=NEIGHBOURS,
            parameters={"token": found, "which": which, "k": k, "centred": centred},
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        which=which,
        token_id=found,
        token=circuits.names(model, [found])[0],
        ids=ids,
        tokens=circuits.names(model, ids.tolist()),
        cosines=values,
        p_value=nulls.p_values(values, largest),
        random=float(largest.mean()),
        centred=centred,
        n_random=len(largest),
    )


def vectors(model: TransformerBridge, which: str) -> Float[Tensor, "d_vocab d_model"]:
    """Tokens' vectors.

    Raises:
        ValueError: If the name is not known.
    """
    if which not in WHICH:
        raise ValueError(f"{which!r} is not known: use 'embedding' or 'unembedding'")
    of = circuits.Circuits(model)
    return of.embedding() if which == "embedding" else of.unembedding()


def _covariance(rows: Tensor, mean: Tensor) -> Tensor:
    total = torch.zeros(rows.shape[1], rows.shape[1], device=rows.device, dtype=torch.float64)
    for some in rows.split(_ROWS):
        centred = some - mean
        total += (centred.T @ centred).double()
    return (total / len(rows)).float()


def _shuffled(rows: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Variances along the principal axes when no two coordinates have to do with each other."""
    mixed = torch.empty_like(rows)
    for column in range(rows.shape[1]):
        order = torch.from_numpy(rng.permutation(len(rows))).to(rows.device)
        mixed[:, column] = rows[order, column]
    values = torch.linalg.eigvalsh(_covariance(mixed, mixed.mean(0)))
    return values.flip(0).clamp(min=0).cpu().numpy().astype(np.float64)


def _shares(variances: np.ndarray) -> np.ndarray:
    total = variances.sum()
    return variances / total if total > 0 else variances
