"""What does a hook point show over a whole corpus?

1. First pass: powers, extremes, zeros and sizes of each coordinate (`moments`), norms of tokens.
2. Second pass: histograms in cells of equal width, of all numbers and, up to `COORDINATES`, of
   each coordinate about its own mean; tokens whose norm is out of scale.
3. Coordinates that stand out, against random directions (`outliers`); how sparse a token is,
   against Gaussian numbers.

Nothing grows with the corpus: a chunk's activations are forgotten before the next one. Tokens are
all that are not special, but norms are of special tokens, too: what is out of scale is often the
first token.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Int

from analyses.activations import layout as layouts
from analyses.activations import outliers, pictures
from analyses.activations.layout import Layout
from analyses.activations.moments import HALVES, Batched, LogHistogram, Moments
from analyses.activations.outliers import Outliers
from workbench.core import evidence, results
from workbench.core.engine import running, scan, units
from workbench.core.prompts import prompt as prompts

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Chunk, Corpus

ANALYSIS = "activations.distribution"
# Coordinates that get a histogram of their own; its cells, and its reach in standard deviations.
COORDINATES, CELLS, REACH = 8192, 40, 5.0
# A histogram of all numbers goes so many standard deviations; the rest is counted at its ends.
_WHOLE_REACH = 8.0
# Tokens whose norm is more than so many medians are out of scale (Sun et al.); so many are listed.
MASSIVE, _LISTED = 50.0, 20
# Tokens that the null is drawn from; numbers of a forward pass that are held at once.
_SAMPLED, _AT_ONCE = 1024, 40_000_000
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Massive:
    """A token whose norm is out of scale.

    Attributes:
        row: Of the corpus.
        position: In it.
        token: As text.
        norm: L2 norm there.
        ratio: To the median norm.
        coordinate: The one of largest size there.
        value: What it is.
    """

    row: int
    position: int
    token: str
    norm: float
    ratio: float
    coordinate: int
    value: float


@dataclasses.dataclass(frozen=True)
class ActivationDistribution(results.Result):
    """The activation of a hook point over a corpus.

    Attributes:
        layout: What its axes mean.
        corpus: Name of what was read.
        n_tokens: Tokens that count; of attention, pairs of a query and a key up to it.
        n_rows: Rows of the corpus.
        edges: Of the cells of the histogram of all numbers.
        counts: Numbers in each cell.
        below: Numbers below the first edge.
        above: Numbers above the last edge.
        own_counts: Numbers of each coordinate in the cells of its own histogram, the first and the
            last of which hold what is further out; if there are few enough coordinates.
        mean: Of each coordinate.
        standard_deviation: Of each coordinate.
        skewness: Of each coordinate; NaN where it is constant.
        kurtosis: In excess of a normal distribution's; NaN where it is constant.
        least: Smallest number of each coordinate.
        most: Largest one.
        zeros: Share of each coordinate's numbers that are exactly zero.
        positive: Share of them above zero.
        outliers: Coordinates that stand out.
        hoyer: Sparsity of a token, from 0 (all coordinates alike) to 1 (one coordinate only), mean.
        hoyer_interval: Of that, over groups of rows.
        hoyer_gaussian: The same of as many Gaussian numbers.
        confidence: Of the interval.
        median_norm: Of all tokens, special ones too, to 1.1 %.
        massive: The tokens of largest norm among those that are out of scale.
        n_massive: How many are out of scale.
        n_normed: How many tokens have a norm, special ones too.
    """

    layout: Layout
    corpus: str
    n_tokens: int
    n_rows: int
    edges: Float[np.ndarray, " end"]
    counts: Int[np.ndarray, " cell"]
    below: int
    above: int
    own_counts: tuple[Int[np.ndarray, "width point"], ...]
    mean: Float[np.ndarray, " width"]
    standard_deviation: Float[np.ndarray, " width"]
    skewness: Float[np.ndarray, " width"]
    kurtosis: Float[np.ndarray, " width"]
    least: Float[np.ndarray, " width"]
    most: Float[np.ndarray, " width"]
    zeros: Float[np.ndarray, " width"]
    positive: Float[np.ndarray, " width"]
    outliers: Outliers
    hoyer: float
    hoyer_interval: tuple[float, float]
    hoyer_gaussian: float
    confidence: float
    median_norm: float
    massive: tuple[Massive, ...]
    n_massive: int
    n_normed: int

    def own_histogram(
        self, coordinate: int
    ) -> tuple[Float[np.ndarray, " end"], Int[np.ndarray, " cell"]]:
        """Histogram of one coordinate.

        Args:
            coordinate: Its number.

        Returns:
            Edges, and numbers between them; what lies further out counts in the first and the last.

        Raises:
            ValueError: If there is no such coordinate, or there are too many for histograms.
        """
        if not 0 <= coordinate < len(self.mean):
            raise ValueError(f"there are coordinates 0 to {len(self.mean) - 1}, not {coordinate}")
        if not self.own_counts:
            raise ValueError(
                f"{len(self.mean):,} coordinates are more than the {COORDINATES:,} that get a "
                "histogram each"
            )
        spread = self.standard_deviation[coordinate] or 1.0
        edges = self.mean[coordinate] + spread * np.linspace(-REACH, REACH, CELLS + 1)
        return edges, self.own_counts[0][coordinate]

    def to_frame(self) -> pd.DataFrame:
        """One row a coordinate, the one that stands out most first."""
        found = self.outliers
        order = np.argsort(-np.nan_to_num(found.distance, nan=-np.inf), kind="stable")
        columns = {
            "mean": self.mean,
            "standard deviation": self.standard_deviation,
            "skewness": self.skewness,
            "excess kurtosis": self.kurtosis,
            "least": self.least,
            "most": self.most,
            "zero": self.zeros,
            "above zero": self.positive,
            "rms": found.rms,
            "robust deviations": found.distance,
            f"size above {outliers.SIZE:g}": found.beyond,
        }
        return pd.DataFrame(
            {
                "coordinate": order,
                "unit": [self.layout.unit(int(one)) for one in order],
                **{name: values[order] for name, values in columns.items()},
            }
        )

    def figure(self) -> go.Figure:
        """Histogram of all numbers, on a logarithmic scale."""
        return pictures.histogram(
            self.edges, self.counts, title=f"activation at {self.layout.hook}"
        )

    def own_figure(self, coordinate: int) -> go.Figure:
        """Histogram of one coordinate.

        Args:
            coordinate: Its number.

        Returns:
            The figure.

        Raises:
            ValueError: If it has none.
        """
        edges, counts = self.own_histogram(coordinate)
        return pictures.histogram(edges, counts, title=self.layout.label(coordinate))

    def outlier_figure(self) -> go.Figure:
        """Root mean square of each coordinate, with what random directions reach."""
        return pictures.sizes(self)

    def summary(self) -> str:
        """Spread, sparsity, outlying coordinates and tokens, each with its control."""
        return " ".join([*self._numbers_in_words(), *self._outliers_in_words()])

    def _numbers_in_words(self) -> list[str]:
        total = int(self.counts.sum()) + self.below + self.above
        what = "pairs of query and key" if self.layout.attends else "tokens"
        low, high = self.hoyer_interval
        parts = [
            f"{self.layout.hook} of {self.provenance.model}: {total:,} numbers at "
            f"{self.n_tokens:,} {what} in {self.n_rows:,} rows of {self.corpus}; means of the "
            f"coordinates from {np.nanmin(self.mean):.3g} to {np.nanmax(self.mean):.3g}, "
            f"{np.nanmean(self.zeros):.1%} exactly zero, {np.nanmean(self.positive):.1%} above "
            "zero.",
        ]
        if np.isfinite(self.kurtosis).any():
            parts.append(
                f"Median excess kurtosis {np.nanmedian(self.kurtosis):.3g} (0 for a normal "
                "distribution)."
            )
        if np.isfinite(self.hoyer):
            known = np.isfinite(low)
            said = f" ({self.confidence:.0%} interval {low:.3f} to {high:.3f})" if known else ""
            parts.append(
                f"Sparsity of a token (Hoyer) {self.hoyer:.3f}{said}; as many Gaussian numbers "
                f"have {self.hoyer_gaussian:.3f}."
            )
        return parts

    def _outliers_in_words(self) -> list[str]:
        out = self.outliers
        found = [self.layout.label(int(one)) for one in out.found]
        if len(self.mean) < outliers.FEW:
            return [f"{len(self.mean)} coordinates a token: too few to say which stand out."]
        one, many = ("coordinate stands", "coordinates stand")
        parts = [
            f"{len(found)} {one if len(found) == 1 else many} out in size by more than "
            f"{outliers.BEYOND:g} robust standard deviations in both halves of the rows"
            + (f" ({outliers.listed(found)})" if found else "")
            + f"; of as many random directions at most {int(out.null_count.max(initial=0))} do in "
            f"{len(out.null)} rounds, the furthest {out.null.max(initial=0.0):.2f} (p = "
            f"{out.p_value:.2g}).",
            f"Size above {outliers.SIZE:g} at {outliers.TOKENS:.0%} of the tokens (the rule of "
            f"LLM.int8() for one layer): {len(out.by_size)} coordinates.",
        ]
        if self.n_normed:
            first = f", the first {self.massive[0].token!r}" if self.massive else ""
            parts.append(
                f"{self.n_massive} of {self.n_normed:,} tokens, special ones too, have a norm of "
                f"more than {MASSIVE:g} medians{first}."
            )
        return parts


def distribution(
    model: TransformerBridge,
    corpus: Corpus,
    hook: str,
    *,
    cells: int = 100,
    confidence: float | int = 0.95,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> ActivationDistribution:
    """Measure the activation of a hook point over a corpus.

    Args:
        model: The bridge.
        corpus: What it reads, twice.
        hook: Any hook point that holds activations, by any of its names.
        cells: Of the histogram of all numbers.
        confidence: Of the interval.
        seed: Of the sample of tokens and the random directions.
        progress: Told how far it is; may raise to stop.

    Returns:
        The distribution.

    Raises:
        ValueError: If there is no such hook point, it holds whole numbers, or nothing counts.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    evidence.require_confidence(confidence)
    if cells < 1:
        raise ValueError(f"cells = {cells}; expected at least 1")
    layout = layouts.Layout.of(model, hook)
    if layout.whole_numbers:
        raise ValueError(
            f"{hook!r} holds whole numbers (ids), not activations: a distribution of them says "
            "nothing"
        )
    reader = _Reader(model, corpus, layout)
    first = _First(layout, corpus, seed)
    for number, chunk in enumerate(corpus.chunks()):
        report(0.5 * number / corpus.n_chunks, "reading for means and sizes")
        for table in reader.tables(chunk):
            first.take(table)
    sums = first.moments
    if not sums.counts.any():
        raise ValueError(f"{corpus.name} holds special tokens only: nothing counts")
    shape = sums.shape()
    median = first.norms.quantile(0.5)
    second = _Second(layout, shape, sums, cells, median)
    for number, chunk in enumerate(corpus.chunks()):
        report(0.5 + 0.5 * number / corpus.n_chunks, "reading for histograms")
        for table in reader.tables(chunk):
            second.take(table)
    parts = first.hoyer.parts()
    none = np.zeros((0, layout.width), dtype=np.float32)
    sample = np.concatenate([none, *first.sample])
    return ActivationDistribution(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "corpus": corpus.fingerprint,
                "hook": hook,
                "cells": cells,
                "confidence": confidence,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        layout=layout,
        corpus=corpus.name,
        n_tokens=first.tokens,
        n_rows=len(corpus),
        edges=second.edges,
        counts=second.counts,
        below=second.below,
        above=second.above,
        own_counts=() if second.own is None else (second.own,),
        mean=shape[0],
        standard_deviation=shape[1],
        skewness=shape[2],
        kurtosis=shape[3],
        least=sums.least,
        most=sums.most,
        zeros=_share(sums.zeros, sums.counts),
        positive=_share(sums.positive, sums.counts),
        outliers=outliers.of_sums(sums, sample, seed=seed),
        hoyer=float(parts[0].sum() / parts[1].sum()) if len(parts[1]) else float("nan"),
        hoyer_interval=_interval(parts, float(confidence), seed),
        hoyer_gaussian=_gaussian_hoyer(layout.width, seed),
        confidence=float(confidence),
        median_norm=median,
        massive=tuple(_massive(model, corpus, one, median) for one in second.largest),
        n_massive=second.n_massive,
        n_normed=first.normed,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Table:
    """Some tokens of a chunk.

    Attributes:
        values: Numbers, those of masks and of padding too.
        own: Which of them count.
        row: Of each token.
        position: Of each token.
        real: Which tokens are their row's own, special ones too.
    """

    values: Float[torch.Tensor, "token width"]
    own: Bool[torch.Tensor, "token width"]
    row: Int[np.ndarray, " token"]
    position: Int[np.ndarray, " token"]
    real: Bool[np.ndarray, " token"]


class _Reader:
    """Reads chunks at a hook point, in parts that fit into memory."""

    def __init__(self, model: TransformerBridge, corpus: Corpus, layout: Layout) -> None:
        self._model, self._layout = model, layout
        self._scan: scan.Reader | None = None
        if layout.site in units.KINDS:
            # In parts, which is some times faster than under hooks.
            family = units.family(model, layout.site, layout.layer)
            self._scan = scan.Reader(model, corpus, [family])

    def tables(self, chunk: Chunk) -> Iterator[_Table]:
        """All tokens of a chunk, those that are special too."""
        length = chunk.tokens.shape[1]
        real = torch.arange(length) < torch.from_numpy(chunk.lengths)[:, None]
        if self._scan is not None:
            yield self._scanned(self._scan, chunk, real)
            return
        # Attention is a number for each pair, and logits are one for each token of the vocabulary.
        per_row = length * self._layout.width * (length if self._layout.attends else 1)
        step = max(1, _AT_ONCE // max(per_row, 1))
        for start in range(0, len(chunk.rows), step):
            part = slice(start, start + step)
            seen = layouts.read(self._model, chunk.tokens[part], self._layout.hook)
            make = self._pairs if self._layout.attends else self._positions
            yield make(seen, chunk.rows[part], real[part], chunk.counted[part])

    def _scanned(self, reader: scan.Reader, chunk: Chunk, real: torch.Tensor) -> _Table:
        kept: list[torch.Tensor] = []
        every = dataclasses.replace(chunk, counted=real)
        reader.read(every, lambda _, table: kept.append(table.float().clone()))
        return _table(kept[0], chunk.rows, real, chunk.counted)

    def _positions(
        self, seen: torch.Tensor, rows: np.ndarray, real: torch.Tensor, counted: torch.Tensor
    ) -> _Table:
        values = self._layout.rows(seen)
        values = values.expand(len(rows), *values.shape[1:])
        return _table(values[real.to(values.device)], rows, real, counted)

    def _pairs(
        self, seen: torch.Tensor, rows: np.ndarray, real: torch.Tensor, counted: torch.Tensor
    ) -> _Table:
        """Heads of each pair of a query that counts and a key up to it, special keys too."""
        values = self._layout.by_head(seen)
        values = values.expand(len(rows), *values.shape[1:])
        length = values.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        chosen = counted[:, :, None] & real[:, None, :] & causal
        table = values[chosen.to(values.device)]
        at, query, _ = (one.numpy() for one in chosen.nonzero(as_tuple=True))
        own = layouts.unmasked(table)
        return _Table(table, own, rows[at], query, np.zeros(len(table), dtype=bool))


def _table(
    values: torch.Tensor, rows: np.ndarray, real: torch.Tensor, counted: torch.Tensor
) -> _Table:
    at, position = (one.numpy() for one in real.nonzero(as_tuple=True))
    counts = counted[real].to(values.device)
    own = layouts.unmasked(values) & counts[:, None]
    return _Table(values, own, rows[at], position, np.ones(len(values), dtype=bool))


class _First:
    """What the first pass gathers."""

    def __init__(self, layout: Layout, corpus: Corpus, seed: int) -> None:
        self.moments = Moments(layout.width, outliers.SIZE)
        self.norms, self.hoyer = LogHistogram(), Batched()
        self.tokens = self.normed = 0
        rng = np.random.default_rng(seed)
        many = min(_SAMPLED, corpus.n_tokens)
        drawn = rng.choice(corpus.n_tokens, many, replace=False)
        self._drawn, self._firsts = np.sort(drawn), corpus.firsts
        self._attends = layout.attends
        self.sample: list[np.ndarray] = []

    def take(self, table: _Table) -> None:
        self.moments.take(table.values, table.own, table.row % HALVES)
        counts = table.own.any(1)
        self.tokens += int(counts.sum())
        clean = torch.where(table.own, table.values, 0.0)
        numbers = self._firsts[table.row] + table.position
        chosen = counts.cpu().numpy() & np.isin(numbers, self._drawn)
        if self._attends and chosen.any():
            # Of a token there are many pairs: its first one stands for it.
            chosen &= np.concatenate([[True], numbers[1:] != numbers[:-1]])
        if chosen.any():
            self.sample.append(clean[torch.from_numpy(chosen).to(clean.device)].cpu().numpy())
        if table.real.any():
            sizes = _norms(table.values)
            self.norms.take(sizes)
            self.normed += len(sizes)
        known = counts.cpu().numpy()
        sparse = _hoyer(clean).cpu().numpy()
        known &= np.isfinite(sparse)
        self.hoyer.take(sparse[known].astype(np.float64), table.row[known])


class _Second:
    """What the second pass gathers."""

    def __init__(
        self, layout: Layout, shape: np.ndarray, sums: Moments, cells: int, median: float
    ) -> None:
        count = sums.counts.astype(np.float64)
        share = count / count.sum()
        mean = float(np.nansum(share * shape[0]))
        square = np.nansum(share * (shape[1] ** 2 + (shape[0] - mean) ** 2))
        reach = _WHOLE_REACH * float(np.sqrt(square))
        low = max(float(sums.least.min()), mean - reach)
        high = min(float(sums.most.max()), mean + reach)
        self.edges = np.linspace(low, high if high > low else low + 1.0, cells + 1)
        self.counts = np.zeros(cells, dtype=np.int64)
        self.below = self.above = self.n_massive = 0
        few = layout.width <= COORDINATES
        self.own = np.zeros((layout.width, CELLS), dtype=np.int64) if few else None
        spread = np.where(np.nan_to_num(shape[1]) > 0, shape[1], 1.0)
        self._mean, self._spread = np.nan_to_num(shape[0]), spread
        self._limit = MASSIVE * median
        self.largest: list[tuple[float, int, int, int, float]] = []

    def take(self, table: _Table) -> None:
        wide = table.values.double()
        flat = wide[table.own].cpu().numpy()
        self.counts += np.histogram(flat, self.edges)[0]
        self.below += int((flat < self.edges[0]).sum())
        self.above += int((flat > self.edges[-1]).sum())
        if self.own is not None:
            self._take_own(self.own, wide, table.own)
        if table.real.any():
            self._take_massive(table)

    def _take_own(self, counts: np.ndarray, wide: torch.Tensor, own: torch.Tensor) -> None:
        mean, spread = (torch.from_numpy(one).to(wide) for one in (self._mean, self._spread))
        cell = ((wide - mean) / spread + REACH) * (CELLS / (2 * REACH))
        cell = torch.nan_to_num(cell).floor().clamp(0, CELLS - 1).long()
        cell = cell + CELLS * torch.arange(wide.shape[1], device=wide.device)
        found = torch.bincount(cell[own], minlength=counts.size)
        counts += found.view(counts.shape).cpu().numpy()

    def _take_massive(self, table: _Table) -> None:
        sizes = _norms(table.values)
        beyond = np.flatnonzero(sizes > self._limit) if self._limit > 0 else np.zeros(0, int)
        self.n_massive += len(beyond)
        for at in beyond[np.argsort(-sizes[beyond], kind="stable")][:_LISTED]:
            values = table.values[int(at)]
            coordinate = int(values.abs().argmax())
            place = (int(table.row[at]), int(table.position[at]))
            self.largest.append((float(sizes[at]), *place, coordinate, float(values[coordinate])))
        self.largest = sorted(self.largest, key=lambda one: (-one[0], one[1:]))[:_LISTED]


def _norms(values: torch.Tensor) -> np.ndarray:
    return torch.where(layouts.unmasked(values), values, 0.0).norm(dim=1).cpu().numpy()


def _hoyer(values: Float[torch.Tensor, "token width"]) -> Float[torch.Tensor, " token"]:
    """Sparsity of each token; NaN where all is zero, or there is one coordinate only."""
    root = values.shape[1] ** 0.5
    ratio = values.abs().sum(1) / values.norm(dim=1)
    return (root - ratio) / (root - 1 if root > 1 else torch.nan)


def _gaussian_hoyer(width: int, seed: int) -> float:
    """Sparsity that Gaussian numbers have, which lean to no coordinate."""
    drawn = torch.randn(64, width, generator=torch.Generator().manual_seed(seed))
    return float(_hoyer(drawn).mean())


def _share(some: np.ndarray, of: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return some / of


def _interval(
    parts: tuple[np.ndarray, np.ndarray], confidence: float, seed: int
) -> tuple[float, float]:
    sums, counts = parts
    if len(counts) <= 1:
        return float("nan"), float("nan")
    found = evidence.ratio_interval(
        sums[:, None], counts, confidence=confidence, n_resamples=_RESAMPLES, seed=seed
    )
    return float(found[0, 0]), float(found[1, 0])


def _massive(
    model: TransformerBridge,
    corpus: Corpus,
    found: tuple[float, int, int, int, float],
    median: float,
) -> Massive:
    norm, row, position, coordinate, value = found
    (token,) = prompts.token_texts(model, [int(corpus.row(row)[position])])
    return Massive(row, position, token, norm, norm / median, coordinate, value)
