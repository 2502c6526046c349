"""At which tokens of a corpus does each unit respond most, least, and in between?

1. One pass over the corpus (`workbench.core.engine.scan`), for all units of the chosen kinds at
   once, in memory that does not grow with the corpus.
2. Of each unit: the k largest and the k smallest activations and where they stand; mean, standard
   deviation, and density, the share of tokens at which it is above zero.
3. The activations of all units at one random sample of tokens, the same for all: each unit's
   distribution, examples from its whole range (`places_at`), and which units respond together
   (`co_firing`).

Source: Bills et al. 2023, "Language models can explain neurons in language models" (top and random
examples); Bolukbasi et al. 2021, arXiv 2104.07143 (why the largest examples alone mislead).

Units and sign: activations as the model has them, negative ones included; for heads the L2 norm of
what they add to the stream; quantiles from 0 (smallest) to 1.

Limits: what the sample shows of rare activations is as coarse as the sample; special tokens are
read but do not count.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int

from analyses.feature_visualization import places
from workbench.core import plots, results
from workbench.core.engine import running, scan
from workbench.core.engine import units as families
from workbench.core.engine.units import Unit

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus

ANALYSIS = "feature_visualization.top_examples"
# Seconds between two times that an index is written.
_SAVED = 30.0


@dataclasses.dataclass(frozen=True)
class TopExamples(results.Result):
    """What a corpus showed of many units.

    Attributes:
        corpus: Name of the corpus.
        corpus_fingerprint: Sha256 over its tokens.
        n_tokens: How many of its tokens counted.
        units: Every unit, by name.
        top_values: Largest activations, largest first; NaN where there are less than k tokens.
        top_rows: Rows of the corpus where they stand; -1 where there is none.
        top_positions: Positions in these rows.
        bottom_values: Smallest activations, smallest first.
        bottom_rows: Where they stand.
        bottom_positions: Positions in these rows.
        mean: Mean activation.
        standard_deviation: Of the activation, over all tokens.
        density: Share of the tokens at which the activation is above zero.
        sample_rows: Rows of the sampled tokens.
        sample_positions: Positions in these rows.
        sample_values: Activation of every unit at the sampled tokens.
    """

    corpus: str
    corpus_fingerprint: str
    n_tokens: int
    units: tuple[str, ...]
    top_values: Float[np.ndarray, "unit k"]
    top_rows: Int[np.ndarray, "unit k"]
    top_positions: Int[np.ndarray, "unit k"]
    bottom_values: Float[np.ndarray, "unit k"]
    bottom_rows: Int[np.ndarray, "unit k"]
    bottom_positions: Int[np.ndarray, "unit k"]
    mean: Float[np.ndarray, " unit"]
    standard_deviation: Float[np.ndarray, " unit"]
    density: Float[np.ndarray, " unit"]
    sample_rows: Int[np.ndarray, " sampled"]
    sample_positions: Int[np.ndarray, " sampled"]
    sample_values: Float[np.ndarray, "sampled unit"]

    def of(self, unit: Unit | str) -> int:
        """Place of a unit in the arrays.

        Raises:
            ValueError: If it was not scanned.
        """
        name = str(Unit.parse(unit) if isinstance(unit, str) else unit)
        try:
            return self.units.index(name)
        except ValueError:
            raise ValueError(
                f"{name} was not scanned: this holds {len(self.units)} units from {self.units[0]} "
                f"to {self.units[-1]}"
            ) from None

    def quantile(self, unit: Unit | str, activation: float) -> float:
        """Share of the sampled tokens at which a unit is no larger than an activation."""
        return float((self.sample_values[:, self.of(unit)] <= activation).mean())

    def tokens_at_top(self, corpus: Corpus) -> Int[np.ndarray, "unit k"]:
        """Tokens of the corpus at the largest activations; -1 where there is none."""
        return corpus.at(self.top_rows, self.top_positions)

    def places_at(
        self, unit: Unit | str, quantiles: Sequence[float]
    ) -> list[tuple[int, int, float]]:
        """Examples from the whole range of a unit.

        Args:
            unit: Which unit.
            quantiles: From 0 to 1.

        Returns:
            Of each quantile the sampled token whose activation is there: row, position, activation.

        Raises:
            ValueError: If a quantile is none, or nothing was sampled.
        """
        values = self.sample_values[:, self.of(unit)]
        if not len(values) or not all(0 <= q <= 1 for q in quantiles):
            raise ValueError("quantiles go from 0 to 1, and need a scan with a sample")
        order = np.argsort(values, kind="stable")
        chosen = order[[round(q * (len(order) - 1)) for q in quantiles]]
        return [
            (int(self.sample_rows[i]), int(self.sample_positions[i]), float(values[i]))
            for i in chosen
        ]

    def co_firing(self, unit: Unit | str, *, top: int = 10) -> pd.DataFrame:
        """Units that respond at the same tokens.

        Args:
            unit: Which unit.
            top: How many.

        Returns:
            Columns `unit` and `correlation` (Pearson, over the sampled tokens; units that are
            constant there are left out) and `chance`: the largest absolute correlation that any
            unit has with this one once its tokens are shuffled. Strongest first.
        """
        place = self.of(unit)
        values = self.sample_values.astype(np.float64)
        centred = values - values.mean(0)
        size = np.linalg.norm(centred, axis=0)
        # Below rounding of the values, nothing is left but rounding.
        varies = size > 1e-6 * np.maximum(np.abs(values).max(0, initial=0), 1e-30)
        centred = np.where(varies, centred / np.where(varies, size, 1), 0)
        mine = centred[:, place]
        others = mine @ centred
        shuffled = np.random.default_rng(self.provenance.seed).permutation(mine)
        chance = np.abs(np.delete(shuffled @ centred, place)).max(initial=0)
        order = [i for i in np.argsort(-np.abs(others), kind="stable") if i != place and varies[i]]
        rows = [
            {"unit": self.units[i], "correlation": float(others[i]), "chance": float(chance)}
            for i in order[:top]
        ]
        return pd.DataFrame(rows, columns=["unit", "correlation", "chance"])

    def to_frame(self) -> pd.DataFrame:
        """One row a unit: its name, mean, spread, density, and the ends of its range."""
        return pd.DataFrame(
            {
                "unit": self.units,
                "mean": self.mean,
                "standard deviation": self.standard_deviation,
                "density": self.density,
                "largest": self.top_values[:, 0],
                "smallest": self.bottom_values[:, 0],
            }
        )

    def figure(self) -> go.Figure:
        """Every unit: how often it is above zero against its largest activation."""
        figure = go.Figure()
        kinds = np.array([name.split(".")[0] for name in self.units])
        for place, kind in enumerate(dict.fromkeys(kinds.tolist())):
            here = np.flatnonzero(kinds == kind)
            figure.add_trace(
                plots.scatter(len(self.units))(
                    x=self.density[here],
                    y=self.top_values[here, 0],
                    mode="markers",
                    name=kind.replace(" ", ", layer "),
                    marker={"size": 5, "color": plots.COLOURS[place % len(plots.COLOURS)]},
                    customdata=[self.units[i] for i in here],
                    hovertemplate="%{customdata}<br>above zero at %{x:.2%} of tokens"
                    "<br>largest %{y:.3g}<extra></extra>",
                )
            )
        figure.update_layout(template=plots.TEMPLATE)
        figure.update_xaxes(title="share of tokens above zero", tickformat=".0%")
        figure.update_yaxes(title="largest activation")
        return figure

    def summary(self) -> str:
        """How much was read, how many units are silent, and how sparse the others are."""
        silent = int((self.density == 0).sum())
        quiet = "none is" if not silent else f"{silent} {'is' if silent == 1 else 'are'}"
        low, middle, high = np.quantile(self.density, [0.05, 0.5, 0.95])
        return (
            f"{len(self.units):,} units of {self.provenance.model} over {self.n_tokens:,} tokens "
            f"of {self.corpus}: the {self.top_values.shape[1]} largest and smallest activations "
            f"of each, and all at {len(self.sample_rows):,} random tokens. A unit is above zero at "
            f"{middle:.1%} of the tokens in the median (from {low:.1%} to {high:.1%} for 9 of 10 "
            f"units); {quiet} never above zero here."
        )


def top_examples(
    model: TransformerBridge,
    corpus: Corpus,
    units: str | Unit | Sequence[str | Unit] = "neuron",
    *,
    layers: Sequence[int] | None = None,
    k: int = 20,
    sample: int = 1024,
    directions: Float[torch.Tensor, "direction width"] | None = None,
    dictionary: Any = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    progress: running.Progress | None = None,
) -> TopExamples:
    """Scan a corpus for the examples of many units at once.

    Args:
        model: The bridge.
        corpus: What it reads.
        units: Kinds, of which all units are scanned ("neuron", "head", "resid_post", …), or single
            units ("neuron 2.13"); with directions or a dictionary the site that these read, or
            single ones of them there ("resid_post 2.13").
        layers: Which layers of the kinds; all if not given.
        k: How many examples are kept at either end.
        sample: At how many random tokens all activations are kept.
        directions: Instead of the coordinates of one kind: projections on these.
        dictionary: Instead of them: latents of a sparse autoencoder that reads there.
        seed: Of the sample.
        folder: Where an unfinished scan is kept: the same call goes on from there and ends in the
            same bits.
        progress: Told the fraction of the corpus that is read; may raise to stop.

    Returns:
        The examples and the distributions.

    Raises:
        ValueError: If a unit does not exist, directions or a dictionary are to be read at several
            kinds of site, k or the sample is too small, or an activation is not finite.
    """
    started = time.perf_counter()
    if k < 1 or sample < 0:
        raise ValueError(f"expected k of at least 1 and a sample of at least 0, got {k}, {sample}")
    report = progress or running.no_progress
    read, columns, names = _chosen(model, units, layers, directions, dictionary)
    parameters: dict[str, Any] = {
        "corpus": corpus.fingerprint,
        "units": hashlib.sha256("\n".join(names).encode()).hexdigest()[:16],
        "k": k,
        "sample": sample,
    }
    if given := families.marks(directions, dictionary):
        parameters |= given | {"site": read[0].site}
    drawn = places.sample(corpus, sample, np.random.default_rng(seed))
    sizes = [
        family.size if at is None else len(at) for family, at in zip(read, columns, strict=True)
    ]
    found = scan.Reduction(sizes, k, drawn, str(model.cfg.device))
    made = results.provenance(
        model, analysis=ANALYSIS, parameters=parameters, seed=seed, wall_time=0.0
    )
    key = {"fingerprint": made.fingerprint, "seed": seed, **parameters}
    place = None if folder is None else Path(folder)
    if place is not None:
        found.load(place, key)
    reader = scan.Reader(model, corpus, read)

    def take(family: int, table: torch.Tensor) -> None:
        at = columns[family]
        found.take(family, table if at is None else table[:, at])

    saved = time.monotonic()
    try:
        for chunk in corpus.chunks(found.chunks):
            report(found.chunks / corpus.n_chunks, f"{found.tokens:,} tokens read")
            found.begin(corpus.numbers(chunk))
            reader.read(chunk, take)
            found.end()
            if place is not None and time.monotonic() - saved > _SAVED:
                found.save(place, key)
                saved = time.monotonic()
    except BaseException:
        # Between two chunks everything that is kept is of whole chunks.
        if place is not None and found.is_whole:
            found.save(place, key)
        raise
    if place is not None:
        found.save(place, key)
    if not found.tokens:
        raise ValueError(f"{corpus.name} holds special tokens only: nothing counts")
    return _result(
        dataclasses.replace(made, wall_time=time.perf_counter() - started), corpus, names, found
    )


def _chosen(
    model: TransformerBridge,
    units: str | Unit | Sequence[str | Unit],
    layers: Sequence[int] | None,
    directions: Any,
    dictionary: Any,
) -> tuple[list[families.Family], list[list[int] | None], tuple[str, ...]]:
    """Families to read, which of their units (None for all), and the names of all."""
    asked = [units] if isinstance(units, (str, Unit)) else list(units)
    if not asked:
        raise ValueError(f"no units: name kinds ({', '.join(families.KINDS)}) or 'neuron 2.13'")
    every = range(model.cfg.n_layers) if layers is None else layers
    read: list[families.Family] = []
    columns: list[list[int] | None] = []
    single: dict[tuple[str, int], int] = {}
    extra = {"directions": directions, "dictionary": dictionary}
    for one in asked:
        if isinstance(one, str) and one in families.KINDS:
            for layer in every:
                read.append(families.family(model, one, layer, **extra))
                columns.append(None)
            continue
        named = Unit.parse(one) if isinstance(one, str) else one
        family, index = families.family_of(model, named, **extra)
        at = single.setdefault((named.kind, named.layer), len(read))
        if at == len(read):
            read.append(family)
            columns.append([])
        chosen = columns[at]
        if chosen is not None and index not in chosen:
            chosen.append(index)
    if len({family.site for family in read}) > 1 and any(one is not None for one in extra.values()):
        raise ValueError("directions or a dictionary read one kind of site: name one kind")
    names = tuple(
        str(family.unit(i))
        for family, at in zip(read, columns, strict=True)
        for i in (range(family.size) if at is None else at)
    )
    if len(set(names)) != len(names):
        raise ValueError("a unit is named twice: once in a kind and once by itself")
    return read, columns, names


def _result(
    made: results.Provenance, corpus: Corpus, names: tuple[str, ...], found: scan.Reduction
) -> TopExamples:
    ends: list[np.ndarray] = []
    for extremes, sign in ((found.top, 1), (found.bottom, -1)):
        values = sign * extremes.values.cpu().numpy()
        rows, positions = corpus.locate(extremes.places.cpu().numpy())
        ends += [np.where(rows < 0, np.nan, values).astype(np.float32), rows, positions]
    mean = (found.sums / found.tokens).cpu().numpy()
    # Rounding may leave a variance below zero where a unit is constant.
    variance = (found.squares / found.tokens).cpu().numpy() - mean**2
    sampled = found.sampled.cpu().numpy()
    counted = ~np.isnan(sampled).all(1) if sampled.shape[1] else np.zeros(len(sampled), bool)
    rows, positions = corpus.locate(found.sample[counted])
    return TopExamples(
        provenance=made,
        corpus=corpus.name,
        corpus_fingerprint=corpus.fingerprint,
        n_tokens=found.tokens,
        units=names,
        top_values=ends[0],
        top_rows=ends[1],
        top_positions=ends[2],
        bottom_values=ends[3],
        bottom_rows=ends[4],
        bottom_positions=ends[5],
        mean=mean,
        standard_deviation=np.sqrt(variance.clip(min=0)),
        density=found.positive.cpu().numpy() / found.tokens,
        sample_rows=rows,
        sample_positions=positions,
        sample_values=sampled[counted],
    )
