"""What each head moves from token to token, by its weights: OV and QK circuits and their scores."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from analyses.weights import circuits, eigenvalues, singular
from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.evidence import SURE

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

HEAD, COPYING = "weights.head", "weights.copying"
# False-discovery rate at which a score counts as more than chance.
RANDOM_TURNS = 100
_SPOKEN = 5
# Multiplications for the eigenvalues of a matrix, over its width cubed, and how many a second a
# core does of these and of those of a product.
_EIGENVALUES, _SLOW, _FAST = 25, 1.5e9, 3e10
_NEGLIGIBLE = 1e-6


@dataclasses.dataclass(frozen=True)
class CopyingScores(results.Result):
    """Eigenvalue scores of every head, against randomly turned heads.

    Attributes:
        copying: Σ λ / Σ |λ| over the eigenvalues of embedding · W_V · W_O · unembedding: 1 where
            attending to a token raises that token's logit, -1 where it lowers it.
        matching: The same of embedding · W_Q · W_Kᵀ · embeddingᵀ: 1 where a token looks for itself.
        copying_spread: Standard deviation of the copying score of the head randomly turned.
        matching_spread: The same of the matching score.
        copying_p: Adjusted p-value of the copying score, over all heads.
        matching_p: The same of the matching score.
        n_random: Random turns of each head.
        scale: Of the norms on embeddings, "own" or "one".
    """

    copying: Float[np.ndarray, "layer head"]
    matching: Float[np.ndarray, "layer head"]
    copying_spread: Float[np.ndarray, "layer head"]
    matching_spread: Float[np.ndarray, "layer head"]
    copying_p: Float[np.ndarray, "layer head"]
    matching_p: Float[np.ndarray, "layer head"]
    n_random: int
    scale: str

    def to_frame(self) -> pd.DataFrame:
        """One row a head, the most copying first."""
        layers, heads = np.indices(self.copying.shape)
        frame = pd.DataFrame(
            {
                "layer": layers.ravel(),
                "head": heads.ravel(),
                "copying": self.copying.ravel(),
                "copying_spread_by_chance": self.copying_spread.ravel(),
                "copying_adjusted_p": self.copying_p.ravel(),
                "matching": self.matching.ravel(),
                "matching_spread_by_chance": self.matching_spread.ravel(),
                "matching_adjusted_p": self.matching_p.ravel(),
            }
        )
        return frame.sort_values("copying", ascending=False, kind="stable", ignore_index=True)

    def figure(self, kind: str = "copying", selected: plots.Cell | None = None) -> go.Figure:
        """Heat map of layers and heads; heads within chance are greyed out.

        Args:
            kind: "copying" or "matching".
            selected: Head (layer, head) to outline.

        Returns:
            The map.

        Raises:
            ValueError: If the kind is not known.
        """
        if kind not in ("copying", "matching"):
            raise ValueError(f"kind {kind!r} is not known: use 'copying' or 'matching'")
        own = kind == "copying"
        values, p_values = (
            (self.copying, self.copying_p) if own else (self.matching, self.matching_p)
        )
        hover = np.array([[f"adjusted p = {p:.2g}" for p in row] for row in p_values], dtype=object)
        return plots.heatmap(
            values,
            row_labels=[f"L{layer}" for layer in range(values.shape[0])],
            column_labels=[f"H{head}" for head in range(values.shape[1])],
            row_title="layer",
            column_title="head",
            colour_title=f"{kind} score",
            hover=hover,
            mask=p_values > SURE,
            selected=selected,
        )

    def summary(self) -> str:
        """Which heads copy, or match, beyond chance."""
        copies = _beyond("copy", "do the opposite", self.copying, self.copying_p)
        matches = _beyond("look for their own token", "avoid it", self.matching, self.matching_p)
        return (
            f"{self.provenance.model}: of {self.copying.size} heads {copies} by their weights; "
            f"{matches} (adjusted p at most {SURE}, against {self.n_random} random turns of "
            "the stream between what each head reads and writes). A score says what the head would "
            "do with bare embeddings; what it does with a stream in which other parts have written "
            "is for a run to show."
        )


@dataclasses.dataclass(frozen=True)
class HeadCircuits(results.Result):
    """One head's OV and QK circuits.

    Attributes:
        layer: Of the head.
        head: Its index.
        ov_spectrum: Singular values of W_V W_O, norms folded in.
        qk_spectrum: Singular values of W_Q W_Kᵀ.
        ov_random: Mean singular values of a product of Gaussian matrices of these shapes and sizes.
        qk_random: The same for W_Q W_Kᵀ.
        ov_eigenvalues: Real and imaginary parts of the eigenvalues of the token-to-token circuit,
            largest first; all others are zero.
        qk_eigenvalues: The same of the QK circuit.
        copying: Σ λ / Σ |λ| of the first.
        matching: The same of the second.
        copying_p: Share of random turns of the head with a copying score as far from zero.
        matching_p: The same of the matching score.
        n_random: Random turns.
        scale: Of the norms on embeddings, "own" or "one".
    """

    layer: int
    head: int
    ov_spectrum: Float[np.ndarray, " singular"]
    qk_spectrum: Float[np.ndarray, " singular"]
    ov_random: Float[np.ndarray, " singular"]
    qk_random: Float[np.ndarray, " singular"]
    ov_eigenvalues: Float[np.ndarray, "2 singular"]
    qk_eigenvalues: Float[np.ndarray, "2 singular"]
    copying: float
    matching: float
    copying_p: float
    matching_p: float
    n_random: int
    scale: str

    def to_frame(self) -> pd.DataFrame:
        """One row a dimension of the head."""
        return pd.DataFrame(
            {
                "rank": np.arange(1, len(self.ov_spectrum) + 1),
                "ov_singular_value": self.ov_spectrum,
                "ov_random": self.ov_random,
                "ov_eigenvalue": self.ov_eigenvalues[0],
                "ov_eigenvalue_imaginary": self.ov_eigenvalues[1],
                "qk_singular_value": self.qk_spectrum,
                "qk_random": self.qk_random,
                "qk_eigenvalue": self.qk_eigenvalues[0],
                "qk_eigenvalue_imaginary": self.qk_eigenvalues[1],
            }
        )

    def figure(self) -> go.Figure:
        """Singular values of both circuits beside those of random matrices."""
        series = {
            "OV": self.ov_spectrum,
            "OV, random": self.ov_random,
            "QK": self.qk_spectrum,
            "QK, random": self.qk_random,
        }
        ranks = np.arange(1, len(self.ov_spectrum) + 1)
        figure = plots.line(ranks, series, x_title="rank", y_title="singular value")
        for i, name in enumerate(series):
            line = {"color": plots.COLOURS[i // 2], "dash": "dot" if i % 2 else "solid"}
            figure.update_traces(line=line, selector={"name": name})
        return figure

    def eigenvalues_figure(self, kind: str = "ov") -> go.Figure:
        """Eigenvalues of the token-to-token circuit in the complex plane.

        Args:
            kind: "ov" or "qk".

        Returns:
            One point an eigenvalue.
        """
        real, imaginary = self.ov_eigenvalues if kind == "ov" else self.qk_eigenvalues
        reach = 1.1 * float(np.abs([real, imaginary]).max(initial=1e-9))
        figure = go.Figure(
            go.Scatter(
                x=real,
                y=imaginary,
                mode="markers",
                marker={"size": 7, "color": plots.COLOURS[0], "opacity": 0.7},
                hovertemplate="%{x:.3g} + %{y:.3g} i<extra></extra>",
            )
        )
        figure.update_layout(template=plots.TEMPLATE)
        figure.update_xaxes(title="real part", range=[-reach, reach])
        return figure.update_yaxes(title="imaginary part", range=[-reach, reach])

    def summary(self) -> str:
        """Ranks and scores of the head."""
        ranks = [singular.effective_rank(values) for values in (self.ov_spectrum, self.qk_spectrum)]
        random = [singular.effective_rank(values) for values in (self.ov_random, self.qk_random)]
        return (
            f"Head {self.layer}.{self.head}: OV circuit of effective rank {ranks[0]:.1f} (random "
            f"matrices {random[0]:.1f}), copying score {self.copying:+.3f} (p = "
            f"{self.copying_p:.2g}); QK circuit of effective rank {ranks[1]:.1f} (random "
            f"{random[1]:.1f}), matching score {self.matching:+.3f} (p = {self.matching_p:.2g}). "
            f"p: against {self.n_random} random turns of the stream within the head, two-sided, "
            "for this head alone."
        )


def copying_seconds(model: TransformerBridge, n_random: int = RANDOM_TURNS) -> float:
    """About how long `copying` takes on one core."""
    width, d_head = int(model.cfg.d_model), int(model.cfg.d_head)
    once = _EIGENVALUES * d_head**3 / _SLOW + 2 * d_head**2 * width / _FAST
    heads = int(model.cfg.n_layers) * int(model.cfg.n_heads)
    grams = len("through alike".split()) * 2 * float(model.cfg.d_vocab) * width**2 / _FAST
    return grams + heads * len("ov qk".split()) * n_random * once


def copying(
    model: TransformerBridge,
    *,
    scale: str = "own",
    n_random: int = RANDOM_TURNS,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> CopyingScores:
    """Score how far every head copies, and looks for, the token itself.

    The p-value's null turns the stream at random between what a head reads and what it writes (for
    the matching score: between what its queries and its keys read), which keeps its spectrum. Each
    head's own random scores give their spread; scores in units of it are compared with those of all
    heads' random ones together, so that few turns are enough for many heads.

    Args:
        model: The bridge.
        scale: Of the norms on embeddings: "own", each token's by itself, or "one".
        n_random: Random turns of each head.
        seed: Of these.
        progress: Told how far it is; may raise to stop.

    Returns:
        Scores with their spread by chance and adjusted p-values.

    Raises:
        ValueError: If the scale is not known, there are fewer than 19 turns, or a layer has no
            heads.
    """
    started, report = time.perf_counter(), progress or running.no_progress
    _require_random(n_random)
    of, bench = circuits.Circuits(model), eigenvalues.Bench(model, scale)
    shape = (of.n_layers, of.n_heads)
    frames = eigenvalues.random_frames(n_random, of.heads(0).value[0], seed)
    scores, random = np.zeros((2, *shape)), np.zeros((2, n_random, *shape))
    for layer in range(of.n_layers):
        report(layer / of.n_layers, f"layer {layer}")
        for head, pairs in enumerate(bench.of_layer(layer)):
            for which, pair in enumerate(pairs):
                scores[which, layer, head] = eigenvalues.score(pair.eigenvalues())
                random[which, :, layer, head] = eigenvalues.score(pair.turned(frames))
    # A turn and its opposite are as likely: the scores by chance are symmetric around zero.
    spread = np.sqrt(np.square(random).mean(1))
    p_values = [_pooled(scores[i], random[i], spread[i]) for i in range(2)]
    return CopyingScores(
        provenance=results.provenance(
            model,
            analysis=COPYING,
            parameters={"scale": scale, "n_random": n_random},
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        copying=scores[0].copy(),
        matching=scores[1].copy(),
        copying_spread=spread[0].copy(),
        matching_spread=spread[1].copy(),
        copying_p=evidence.adjusted_for_discoveries(p_values[0]),
        matching_p=evidence.adjusted_for_discoveries(p_values[1]),
        n_random=n_random,
        scale=scale,
    )


def head(
    model: TransformerBridge,
    layer: int,
    head: int,
    *,
    scale: str = "own",
    n_random: int = 199,
    seed: int = 0,
) -> HeadCircuits:
    """Take one head's OV and QK circuits apart.

    Args:
        model: The bridge.
        layer: Of the head.
        head: Its index.
        scale: Of the norms on embeddings: "own", each token's by itself, or "one".
        n_random: Random turns for the p-values, at least 19.
        seed: Of everything random.

    Returns:
        Spectra, eigenvalues and scores.

    Raises:
        ValueError: If there is no such head, the scale is not known, or there are too few turns.
    """
    started = time.perf_counter()
    _require_random(n_random)
    of = circuits.Circuits(model)
    of.head(layer, head)
    heads = of.heads(layer)
    query, key, value, output = (
        each[head] for each in (heads.query, heads.key, heads.value, heads.output)
    )
    pairs = eigenvalues.Bench(model, scale).of(layer, head)
    found = [pair.eigenvalues() for pair in pairs]
    scores = [float(eigenvalues.score(values)) for values in found]
    frames = eigenvalues.random_frames(n_random, value, seed)
    random = [np.abs(eigenvalues.score(pair.turned(frames))) for pair in pairs]
    p_values = [
        evidence.p_value(abs(score), null) for score, null in zip(scores, random, strict=True)
    ]
    return HeadCircuits(
        provenance=results.provenance(
            model,
            analysis=HEAD,
            parameters={"layer": layer, "head": head, "scale": scale, "n_random": n_random},
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        layer=layer,
        head=head,
        ov_spectrum=eigenvalues.product_spectrum(value, output),
        qk_spectrum=eigenvalues.product_spectrum(query, key.T),
        ov_random=eigenvalues.random_product(value, output, seed),
        qk_random=eigenvalues.random_product(query, key.T, seed),
        ov_eigenvalues=_sorted(found[0]),
        qk_eigenvalues=_sorted(found[1]),
        copying=scores[0],
        matching=scores[1],
        copying_p=p_values[0],
        matching_p=p_values[1],
        n_random=n_random,
        scale=scale,
    )


def _sorted(values: np.ndarray) -> np.ndarray:
    order = np.argsort(-np.abs(values), kind="stable")
    return np.stack([np.real(values)[order], np.imag(values)[order]])


def _pooled(scores: np.ndarray, random: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Share of all heads' random scores that are as far from zero, in units of their spread."""
    safe = np.where(spread > _NEGLIGIBLE, spread, np.inf)
    null = np.sort(np.abs(random / safe), axis=None)
    far = np.abs(scores / safe)
    return (1 + len(null) - np.searchsorted(null, far, side="left")) / (1 + len(null))


def _beyond(does: str, opposite: str, scores: np.ndarray, p_values: np.ndarray) -> str:
    found = p_values <= SURE
    for_it = [tuple(cell) for cell in np.argwhere(found & (scores > 0))]
    best = sorted(for_it, key=lambda cell: -scores[cell])[:_SPOKEN]
    named = ", ".join(f"{layer}.{head} ({scores[layer, head]:+.2f})" for layer, head in best)
    against = int((found & (scores < 0)).sum())
    return f"{len(for_it)} {does}{f' ({named})' if named else ''} and {against} {opposite}"


def _require_random(n_random: int) -> None:
    fewest = round(1 / SURE) - 1
    if n_random < fewest:
        raise ValueError(f"n_random = {n_random}; expected at least {fewest} random turns")
