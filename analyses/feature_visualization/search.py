"""Which units does a description fit: units that fire at a token, in a pattern, for a concept?

1. The description says of each token of a corpus how strongly a unit of it would respond
   (`descriptions`: a set of tokens, a pattern, or anything that predicts).
2. One pass over the corpus gives for every unit of the chosen kinds the Pearson correlation of
   prediction and activation, and the mean activation where the description fires minus that
   elsewhere.
3. The null: in each of many rounds every row of the corpus gets the predictions of another row, the
   same for all units. Rows change places among those of the same length; where fewer than 32 rows
   have the same one, among rows of the next lengths, too, cut or repeated to fit. So predictions
   keep how they follow one another and where in a row they stand, and have only lost the text.
4. The p-value of a unit: the share of rounds in which the largest absolute correlation of any unit
   is as large, the true round counted in. It is corrected for all units that were looked at
   (family-wise, whatever they share).
5. For the best few: a bootstrap interval of the correlation over rows, from a second pass over
   their layers.

Source: Bills et al. 2023, "Language models can explain neurons in language models" (scoring by
correlation); Westfall & Young 1993, "Resampling-Based Multiple Testing" (the largest statistic
over all tests as the null).

Units: correlation from -1 to 1, differences in units of the activation; correlation and p-value are
NaN for a unit that is constant on the corpus.

Limits: the null holds if rows are exchangeable: rows that were cut from one document are not quite.
What a unit and a description share by the position in the row alone is part of the null, and not
called found. Intervals of the best few are of units that were chosen for being large: score them
anew on other text (`believe`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.feature_visualization import correlation
from workbench.core import evidence, plots, results
from workbench.core.engine import running, scan
from workbench.core.engine import units as families
from workbench.core.evidence import SURE

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from analyses.feature_visualization.descriptions import Description
    from workbench.core.prompts.corpus import Chunk, Corpus

ANALYSIS = "feature_visualization.find_units"
# Rows that change places among themselves; of a corpus with fewer there is no null.
_BLOCK = 32
# A unit is called found below this p-value.
# Correlations of the null are from float32 products.
_ROUNDING = 1e-4
# Of the table in words, and of the figure.
_SPOKEN, _DRAWN = 3, 30


@dataclasses.dataclass(frozen=True)
class FoundUnits(results.Result):
    """Units in the order in which a description fits them.

    Attributes:
        description: As a reader writes it.
        corpus: Name of the corpus.
        n_tokens: Of it that count.
        n_rows: Rows of it.
        n_fires: Tokens at which the description says that a unit fires.
        units: Every unit by name, the largest absolute correlation first; constant ones last.
        correlation: Of prediction and activation.
        difference: Mean activation where the description fires minus that elsewhere.
        p_value: Of the correlation, corrected for all units.
        interval: Of the correlation, over rows; NaN but for the best few.
        confidence: Of the intervals.
        null: Largest absolute correlation of any unit in each round of the null.
    """

    description: str
    corpus: str
    n_tokens: int
    n_rows: int
    n_fires: int
    units: tuple[str, ...]
    correlation: Float[np.ndarray, " unit"]
    difference: Float[np.ndarray, " unit"]
    p_value: Float[np.ndarray, " unit"]
    interval: Float[np.ndarray, "bound unit"]
    confidence: float
    null: Float[np.ndarray, " sample"]

    def to_frame(self) -> pd.DataFrame:
        """One row a unit, the best first: correlation, interval, difference, p-value."""
        return pd.DataFrame(
            {
                "unit": self.units,
                "correlation": self.correlation,
                "low": self.interval[0],
                "high": self.interval[1],
                "difference": self.difference,
                "p": self.p_value,
            }
        )

    def figure(self) -> go.Figure:
        """Correlations of the best units, against the largest that chance gives any unit."""
        figure = go.Figure()
        best = slice(0, min(_DRAWN, len(self.units)))
        values, (low, high) = self.correlation[best], self.interval[:, best]
        figure.add_bar(
            x=list(self.units[best]),
            y=values,
            # A bar without an interval has an error of zero, which is not drawn.
            error_y={
                "type": "data",
                "symmetric": False,
                "array": np.nan_to_num(high - values),
                "arrayminus": np.nan_to_num(values - low),
            },
            marker={
                "color": [
                    plots.COLOURS[0] if p <= SURE else plots.COLOURS[6] for p in self.p_value[best]
                ]
            },
            customdata=np.stack([self.difference[best], self.p_value[best]], 1),
            hovertemplate="%{x}<br>correlation %{y:.3f}<br>mean where it fires minus elsewhere "
            "%{customdata[0]:.3g}<br>p = %{customdata[1]:.2g}<extra></extra>",
        )
        for sign in (1, -1):
            figure.add_hline(
                y=sign * float(np.quantile(self.null, 1 - SURE)),
                line={"color": plots.COLOURS[1], "dash": "dot"},
            )
        figure.update_layout(template=plots.TEMPLATE, showlegend=False)
        figure.update_xaxes(title=f"units that fit {plots.escape(self.description)} best")
        figure.update_yaxes(title="correlation<br>(dotted: the largest by<br>chance, 95 %)")
        return figure

    def summary(self) -> str:
        """The best units with intervals and the null."""
        constant = int(np.isnan(self.correlation).sum())
        found = int((self.p_value <= SURE).sum())
        best = ", ".join(
            f"{self.units[i]} ({self.correlation[i]:.2f}, {self.confidence:.0%} interval "
            f"{self.interval[0, i]:.2f} to {self.interval[1, i]:.2f}, p = {self.p_value[i]:.2g})"
            for i in range(min(_SPOKEN, len(self.units)))
            if not np.isnan(self.interval[0, i])
        )
        return (
            f"{self.description} fires at {self.n_fires:,} of {self.n_tokens:,} tokens of "
            f"{self.corpus} ({self.n_rows:,} rows). Of {len(self.units):,} units of "
            f"{self.provenance.model}, {constant:,} of them constant here, {found:,} "
            f"{'correlates' if found == 1 else 'correlate'} with it beyond chance (p at most "
            f"{SURE}, corrected for all units). With the predictions of other rows the largest "
            f"absolute correlation of any unit is {np.quantile(self.null, 1 - SURE):.2f} at the "
            f"{1 - SURE:.0%} quantile of {len(self.null)} rounds."
            + (f" Best: {best}." if best else "")
        )


def find_units(
    model: TransformerBridge,
    corpus: Corpus,
    description: Description,
    units: str | Sequence[str] = "neuron",
    *,
    layers: Sequence[int] | None = None,
    directions: Float[torch.Tensor, "direction width"] | None = None,
    dictionary: Any = None,
    best: int = 10,
    resamples: int = 199,
    confidence: float | int = 0.95,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> FoundUnits:
    """Find the units that a description fits.

    Args:
        model: The bridge.
        corpus: Where both are compared.
        description: What predicts the units that are looked for.
        units: Kinds, of which all units are scored ("neuron", "head", "resid_post", …).
        layers: Which layers of the kinds; all if not given.
        directions: Instead of the coordinates of one kind: projections on these.
        dictionary: Instead of them: latents of a sparse autoencoder that reads there.
        best: How many get an interval.
        resamples: Rounds of the null.
        confidence: Of the intervals.
        seed: Of null and intervals.
        progress: Told how far it is; may raise to stop.

    Returns:
        All units, the best first.

    Raises:
        ValueError: If a kind or layer does not exist, the corpus has too few rows, or the
            description predicts the same everywhere.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    read = _families(model, units, layers, directions, dictionary)
    evidence.require_confidence(confidence)
    fewest = round(1 / SURE) - 1
    if resamples < fewest or best < 0:
        raise ValueError(
            f"{resamples} resamples and intervals for {best} units; expected at least {fewest} "
            f"resamples, or no p-value is as small as {SURE}, and 0 or more units"
        )
    if len(corpus) < _BLOCK:
        raise ValueError(
            f"{corpus.name} has {len(corpus)} rows; at least {_BLOCK} are needed for a null of "
            "other rows' predictions"
        )
    said = _Predictions(model, corpus, description, running.part(report, 0.0, 0.1))
    donors = _donors(corpus.lengths, resamples, seed)
    sums = _Sums([family.size for family in read], resamples, str(model.cfg.device))
    _scan(
        model,
        corpus,
        read,
        lambda chunk: sums.begin(*said.of(chunk, donors)),
        sums.take,
        running.part(report, 0.1, 0.8),
    )
    every = sums.correlations()
    null = np.nan_to_num(np.abs(every[1:])).max(1)
    own = every[0]
    size = np.nan_to_num(np.abs(own), nan=-1)
    order = np.argsort(-size, kind="stable")
    beaten = (null[:, None] >= size[order] - _ROUNDING).sum(0)
    p_values = np.where(size[order] < 0, np.nan, (1 + beaten) / (1 + resamples))
    first = order[:best][size[order[:best]] >= 0]
    interval = np.full((2, len(order)), np.nan)
    interval[:, : len(first)] = _intervals(
        model,
        corpus,
        read,
        said,
        first,
        (float(confidence), seed),
        running.part(report, 0.8, 1.0),
    )
    names = [str(family.unit(i)) for family in read for i in range(family.size)]
    made = results.provenance(
        model,
        analysis=ANALYSIS,
        parameters={
            "corpus": corpus.fingerprint,
            "description": description.name,
            "predictions": results.mark(said.values),
            "units": [f"{family.site} {family.layer}" for family in read],
            "best": best,
            "resamples": resamples,
            "confidence": confidence,
        }
        | families.marks(directions, dictionary),
        seed=seed,
        wall_time=time.perf_counter() - started,
    )
    return FoundUnits(
        provenance=made,
        description=description.name,
        corpus=corpus.name,
        n_tokens=sums.tokens,
        n_rows=len(corpus),
        n_fires=sums.fires,
        units=tuple(names[i] for i in order),
        correlation=own[order],
        difference=sums.differences()[order],
        p_value=p_values,
        interval=interval,
        confidence=float(confidence),
        null=null,
    )


def _families(
    model: TransformerBridge,
    units: str | Sequence[str],
    layers: Sequence[int] | None,
    directions: Any,
    dictionary: Any,
) -> list[families.Family]:
    kinds = list(dict.fromkeys([units] if isinstance(units, str) else units))
    every = list(dict.fromkeys(range(model.cfg.n_layers) if layers is None else layers))
    if not kinds or not every:
        raise ValueError(
            f"no units: name kinds ({', '.join(families.KINDS)}) and at least one layer"
        )
    extra = {"directions": directions, "dictionary": dictionary}
    if len(kinds) > 1 and any(one is not None for one in extra.values()):
        raise ValueError("directions or a dictionary read one kind of site: name one kind")
    return [families.family(model, kind, layer, **extra) for kind in kinds for layer in every]


class _Predictions:
    """What a description says of every token of a corpus.

    Attributes:
        values: Predictions, row after row, less their mean; of special tokens, too.
    """

    def __init__(
        self,
        model: TransformerBridge,
        corpus: Corpus,
        description: Description,
        report: running.Progress,
    ) -> None:
        self._firsts, self._lengths = corpus.firsts, np.asarray(corpus.lengths)
        self.values = np.zeros(corpus.n_tokens, dtype=np.float32)
        self._fires = np.zeros(corpus.n_tokens, dtype=bool)
        low, high, total, count = np.inf, -np.inf, 0.0, 0
        for done, chunk in enumerate(corpus.chunks()):
            report(done / corpus.n_chunks, "predicting")
            told = description.predict(model, chunk).float().cpu().numpy()
            for row, values, length in zip(chunk.rows, told, chunk.lengths, strict=True):
                start = corpus.firsts[row]
                self.values[start : start + length] = values[:length]
                self._fires[start : start + length] = values[:length] >= description.threshold
            counted = told[chunk.counted.numpy()]
            if len(counted):
                low, high = min(low, counted.min()), max(high, counted.max())
                total, count = total + float(counted.sum(dtype=np.float64)), count + len(counted)
        if not count:
            raise ValueError(f"{corpus.name} holds special tokens only: nothing counts")
        if not np.isfinite([low, high]).all():
            raise ValueError(f"{description.name} predicts a number that is not finite")
        if low == high:
            raise ValueError(
                f"{description.name} predicts the same everywhere on {corpus.name}: no unit can be "
                "found by it there"
            )
        # A correlation does not change, and sums near zero lose no digits.
        self.values -= np.float32(total / count)

    def of(
        self, chunk: Chunk, donors: Int[np.ndarray, "sample row"]
    ) -> tuple[Float[np.ndarray, "own_and_sample token"], Float[np.ndarray, " token"]]:
        """Predictions of a chunk's counted tokens, own ones and of each round; where it fires."""
        at, position = np.nonzero(chunk.counted.numpy())
        rows = chunk.rows[at]
        given = np.concatenate([chunk.rows[None], donors[:, chunk.rows]])[:, at]
        # A shorter row begins anew where it ends.
        places = self._firsts[given] + position % self._lengths[given]
        return self.values[places], self._fires[self._firsts[rows] + position].astype(np.float32)

    def own(self, chunk: Chunk) -> Float[np.ndarray, " token"]:
        """Predictions of a chunk's counted tokens."""
        at, position = np.nonzero(chunk.counted.numpy())
        return self.values[self._firsts[chunk.rows[at]] + position]


def _donors(
    lengths: Int[np.ndarray, " row"], resamples: int, seed: int
) -> Int[np.ndarray, "sample row"]:
    """Of each round, the row whose predictions each row gets."""
    order = np.argsort(lengths, kind="stable")
    ends = np.flatnonzero(np.diff(lengths[order])) + 1
    blocks: list[np.ndarray] = []
    start = 0
    for end in [*ends.tolist(), len(order)]:
        if end - start >= _BLOCK:
            blocks.append(order[start:end])
            start = end
    if start < len(order):
        # The longest rows are too few for a block of their own.
        rest = order[start:]
        blocks = [*blocks[:-1], np.concatenate([*blocks[-1:], rest])]
    rng = np.random.default_rng(seed)
    donors = np.zeros((resamples, len(lengths)), dtype=np.int32)
    for round_ in donors:
        for block in blocks:
            round_[block] = rng.permutation(block)
    return donors


class _Sums:
    """Running sums of predictions and activations.

    Attributes:
        tokens: How many were taken in.
        fires: At how many of them the description fires.
    """

    def __init__(self, sizes: Sequence[int], resamples: int, device: str) -> None:
        self._first = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        every, self._device = self._first[-1], device
        self.tokens = self.fires = 0
        self._said = np.zeros((2, 1 + resamples))
        self._sums, self._squares = (
            torch.zeros(every, dtype=torch.float64, device=device) for _ in range(2)
        )
        # Of the description's own predictions and of where it fires; then of the null's.
        self._own, self._null = (
            torch.zeros(count, every, dtype=torch.float64, device=device)
            for count in (2, resamples)
        )
        self._shift = torch.full((every,), torch.nan, device=device)
        self._now: tuple[torch.Tensor, torch.Tensor] = (self._shift, self._shift)

    def begin(
        self, said: Float[np.ndarray, "own_and_sample token"], fires: Float[np.ndarray, " token"]
    ) -> None:
        """Take the predictions of the next tables."""
        self.tokens += len(fires)
        self.fires += int(fires.sum())
        wide = said.astype(np.float64)
        self._said += np.stack([wide.sum(1), np.square(wide).sum(1)])
        own = np.stack([wide[0], fires.astype(np.float64)])
        self._now = (
            torch.as_tensor(own, device=self._device),
            torch.as_tensor(said[1:], device=self._device),
        )

    def take(self, family: int, table: Float[torch.Tensor, "token unit"]) -> None:
        """Take in one family's table."""
        if not len(table):
            return
        here = slice(self._first[family], self._first[family + 1])
        table = table.float()
        if not bool(torch.isfinite(table).all()):
            raise scan.ScanError("an activation is not finite: nothing can be compared with it")
        # Off a value near their mean, sums of squares lose no digits.
        if bool(torch.isnan(self._shift[here]).any()):
            self._shift[here] = table.mean(0)
        near = table - self._shift[here]
        # What is reported is worth exact sums; hundreds of rounds are faster in float32.
        exact = near.double()
        self._sums[here] += exact.sum(0)
        self._squares[here] += exact.square().sum(0)
        self._own[:, here] += self._now[0] @ exact
        self._null[:, here] += (self._now[1] @ near).double()

    def correlations(self) -> Float[np.ndarray, "own_and_sample unit"]:
        """With the description's own predictions first, then in each round."""
        y, yy = self._sums.cpu().numpy(), self._squares.cpu().numpy()
        products = torch.cat([self._own[:1], self._null]).cpu().numpy()
        # A unit whose spread is rounding of its size is constant.
        size = np.abs(self._shift.cpu().numpy().astype(np.float64))
        yy = np.where(yy > self.tokens * (1e-6 * size) ** 2, yy, y**2 / self.tokens)
        shape = products.shape
        x, xx = (np.broadcast_to(one[:, None], shape) for one in self._said)
        n = np.full(shape, float(self.tokens))
        return correlation.from_sums(
            np.stack([n, x, xx, np.broadcast_to(y, shape), np.broadcast_to(yy, shape), products])
        )

    def differences(self) -> Float[np.ndarray, " unit"]:
        """Mean activation where the description fires minus that elsewhere."""
        inside = self._own[1].cpu().numpy()
        every = self._sums.cpu().numpy()
        if not 0 < self.fires < self.tokens:
            return np.full(len(every), np.nan)
        return inside / self.fires - (every - inside) / (self.tokens - self.fires)


def _scan(  # noqa: PLR0917 -- one step of `find_units`
    model: TransformerBridge,
    corpus: Corpus,
    read: Sequence[families.Family],
    begin: Callable[[Chunk], None],
    take: Callable[[int, torch.Tensor], None],
    report: running.Progress,
) -> None:
    """Read a corpus: `begin` is told of each chunk before `take` gets its tables."""
    reader = scan.Reader(model, corpus, read)
    for done, chunk in enumerate(corpus.chunks()):
        report(done / corpus.n_chunks, "reading the corpus")
        begin(chunk)
        reader.read(chunk, take)


def _intervals(  # noqa: PLR0917 -- one step of `find_units`
    model: TransformerBridge,
    corpus: Corpus,
    read: Sequence[families.Family],
    said: _Predictions,
    chosen: Int[np.ndarray, " best"],
    drawn: tuple[float, int],
    report: running.Progress,
) -> Float[np.ndarray, "bound best"]:
    """Bootstrap intervals of some units, which are read again."""
    if not len(chosen):
        return np.zeros((2, 0))
    firsts = np.concatenate([[0], np.cumsum([family.size for family in read])])
    of = np.searchsorted(firsts, chosen, side="right") - 1
    needed = sorted(set(of.tolist()))
    columns = [np.flatnonzero(of == one) for one in needed]
    guesses, rows = list[np.ndarray](), list[np.ndarray]()
    values: list[list[np.ndarray]] = [[] for _ in chosen]

    def begin(chunk: Chunk) -> None:
        guesses.append(said.own(chunk))
        rows.append(chunk.rows[np.nonzero(chunk.counted.numpy())[0]])

    def take(number: int, table: torch.Tensor) -> None:
        for place in columns[number]:
            values[place].append(table[:, chosen[place] - firsts[needed[number]]].cpu().numpy())

    _scan(model, corpus, [read[one] for one in needed], begin, take, report)
    x, at = np.concatenate(guesses), np.concatenate(rows)
    confidence, seed = drawn
    found = [
        correlation.row_interval(x, np.concatenate(one), at, confidence=confidence, seed=seed)
        for one in values
    ]
    return np.array(found).T
