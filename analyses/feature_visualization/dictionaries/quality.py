"""Quality: how much of a site, and of what the model makes of it, a dictionary keeps.

1. A first pass over the corpus takes the mean activation and the cross-entropy of the unchanged
   model. Special tokens (BOS) are predicted like others, but neither counted nor replaced.
2. A second pass takes, at each token, the dictionary's latents and reconstruction: variance
   explained about the mean, L0, and how often each latent is active (never: dead, often: dense).
3. In the same pass the model runs with the reconstruction in the activation's place, with the mean
   in its place (mean ablation), and with a control. Recovered = (mean − spliced) / (mean − clean).
4. Control: as many random unit directions as there are latents, with the second moments of the
   decoder's; at each token as many of them as the dictionary has active, those that the activation
   (less the mean) lies along most, by their projections, scaled by what fits best at that
   token. It has the dictionary's L0 at every token, and no training.

Source: Bricken et al. 2023, "Towards Monosemanticity" (loss recovered); Gao et al. 2024, arXiv
2406.04093; Karvonen et al. 2025, arXiv 2503.09532 (SAEBench).

Units and sign: cross-entropy in nats a predicted token; recovered and variance explained are 1 at
best, 0 for the mean, and below 0 for worse than the mean. Intervals are percentile bootstraps over
rows of the corpus.

Limits: recovered says little where ablating the site costs little: look at the cross-entropies. A
latent that is active at none of n tokens may be active at up to 3 / n of all (95 %).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.activation_patching import units
from analyses.feature_visualization.dictionaries import activations, stepping
from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.prompts import corpus as corpora

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "feature_visualization.dictionary_quality"
# Activations × latents that are held at once.
_AT_ONCE = 8_000_000
_RUNS = ("clean", "spliced", "mean", "control")
# Up to this many nats a token, ablating the site costs nothing that could be recovered.
_LEAST_COST = 1e-6
_BARS = 41


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number with its interval over rows.

    Attributes:
        value: Over all tokens.
        low: Lower end; NaN for a single row.
        high: Upper end; likewise.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As a reader sees it."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclasses.dataclass(frozen=True)
class DictionaryQuality(results.Result):
    """How well a dictionary stands for a site.

    Attributes:
        hook: Hook point.
        explained: Variance explained.
        l0: Active latents a token.
        recovered: Share of the cross-entropy that mean ablation costs which the reconstruction
            does not; NaN where the interval of that cost is not above 0.
        clean: Cross-entropy of the model, nats a token.
        spliced: With the reconstruction.
        mean_ablated: With the mean activation.
        control_spliced: With the random dictionary of the same L0.
        control_explained: Its variance explained.
        control_recovered: What it recovers.
        l0_counts: How many tokens have 0, 1, 2, … active latents.
        frequency: Share of tokens at which each latent is active.
        dead: Share of latents that are active at no token.
        dense: Share of latents that are active at more than `dense_above` of the tokens.
        dense_above: That bound.
        n_tokens: Tokens that were read.
        n_rows: Rows that they come from.
        confidence: Level of the intervals.
    """

    hook: str
    explained: Measure
    l0: Measure
    recovered: Measure
    clean: Measure
    spliced: Measure
    mean_ablated: Measure
    control_spliced: Measure
    control_explained: Measure
    control_recovered: Measure
    l0_counts: Int[np.ndarray, " count"]
    frequency: Float[np.ndarray, " latent"]
    dead: float
    dense: float
    dense_above: float
    n_tokens: int
    n_rows: int
    confidence: float

    def to_frame(self) -> pd.DataFrame:
        """One row a measure: value, interval, the control's, and n."""
        rows = [
            ("variance explained", self.explained, self.control_explained),
            ("L0", self.l0, self.l0),
            ("cross-entropy, unchanged", self.clean, None),
            ("cross-entropy, reconstruction", self.spliced, self.control_spliced),
            ("cross-entropy, mean", self.mean_ablated, None),
            ("cross-entropy recovered", self.recovered, self.control_recovered),
            ("dead latents", Measure(self.dead, np.nan, np.nan), None),
            ("dense latents", Measure(self.dense, np.nan, np.nan), None),
        ]
        return pd.DataFrame(
            {
                "measure": name,
                "value": own.value,
                "low": own.low,
                "high": own.high,
                "control": np.nan if control is None else control.value,
                "control_low": np.nan if control is None else control.low,
                "control_high": np.nan if control is None else control.high,
                "n_tokens": self.n_tokens,
                "n_rows": self.n_rows,
            }
            for name, own, control in rows
        )

    def figure(self) -> go.Figure:
        """How often latents are active, on a logarithmic axis."""
        active = self.frequency[self.frequency > 0]
        low = np.log10(active.min()) if len(active) else -1.0
        counts, edges = np.histogram(np.log10(active), bins=_BARS, range=(min(low, -0.1), 0.0))
        centres = 10 ** ((edges[1:] + edges[:-1]) / 2)
        bars = go.Bar(
            x=centres,
            y=counts,
            width=np.diff(10**edges),
            marker={"color": plots.COLOURS[0]},
            hovertemplate="%{x:.2g} of tokens: %{y} latents<extra></extra>",
        )
        figure = go.Figure(bars)
        figure.add_vline(self.dense_above, line={"color": plots.COLOURS[-1], "dash": "dash"})
        figure.update_layout(template=plots.TEMPLATE, showlegend=False, bargap=0)
        title = f"share of {self.n_tokens:,} tokens (dashed: dense above {self.dense_above:g})"
        figure.update_xaxes(title=title, type="log", **plots.POWERS_OF_TEN)
        return figure.update_yaxes(title="latents")

    def summary(self) -> str:
        """All measures in words, each beside its control."""
        latents = len(self.frequency)
        l0_spread = np.repeat(np.arange(len(self.l0_counts)), self.l0_counts)
        low, high = np.quantile(l0_spread, [0.05, 0.95])
        said = [
            f"The dictionary at {self.hook} explains {self.explained} of the variance (random "
            f"directions with the same L0: {self.control_explained}) with {self.l0} active latents "
            f"a token (5 % to 95 % of tokens: {low:.0f} to {high:.0f}).",
            f"Cross-entropy: {self.clean} unchanged, {self.spliced} with the reconstruction, "
            f"{self.mean_ablated} with the mean, {self.control_spliced} with random directions.",
        ]
        if np.isnan(self.recovered.value):
            said.append(
                "Mean ablation here costs no more than chance, so there is nothing to recover."
            )
        else:
            said.append(
                f"So it recovers {self.recovered} of what mean ablation costs (random directions: "
                f"{self.control_recovered})."
            )
        said.append(
            f"{self.dead:.1%} of {latents:,} latents are active at no token, {self.dense:.1%} at "
            f"more than {self.dense_above:.0%} of them (n = {self.n_tokens:,} tokens of "
            f"{self.n_rows:,} rows; {self.confidence:.0%} intervals over rows)."
        )
        return " ".join(said)


def dictionary_quality(
    model: TransformerBridge,
    corpus: corpora.Corpus,
    dictionary: Any,
    *,
    at: str | None = None,
    dense: float = 0.1,
    seed: int = 0,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    progress: running.Progress | None = None,
) -> DictionaryQuality:
    """Measure a dictionary on a corpus, which should be none that it was trained on.

    Args:
        model: The bridge.
        corpus: Rows to measure on.
        dictionary: A sparse autoencoder with `encode`, `decode` and `W_dec`.
        at: Hook point, where the dictionary does not know it.
        dense: A latent that is active at more than this share of tokens counts as dense.
        seed: Of the random directions.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        progress: Told the fraction done; may raise to stop.

    Returns:
        All measures with their intervals and controls.

    Raises:
        ValueError: If nobody says where the dictionary reads, it reads vectors of another width
            than the site's, or an argument is out of its range.
    """
    started = time.perf_counter()
    evidence.require_confidence(confidence)
    if not 0 < dense < 1:
        raise stepping.DictionaryError(f"dense = {dense}: expected a share between 0 and 1")
    where = where_it_reads(model, corpus, dictionary, at)
    said = progress or running.no_progress
    tally = _Tally(model, corpus, dictionary, where, seed)
    tally.first_pass(running.part(said, 0.0, 0.25))
    tally.second_pass(running.part(said, 0.25, 1.0))
    bootstrap = evidence.Bootstrap(confidence=confidence, n_resamples=n_resamples, seed=0)
    provenance = results.provenance(
        model,
        analysis=ANALYSIS,
        parameters={
            "dictionary": units.mark_of(dictionary),
            "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
            "hook": where.hook,
            "dense": dense,
            "confidence": confidence,
            "n_resamples": n_resamples,
        },
        seed=seed,
        wall_time=time.perf_counter() - started,
    )
    frequency = tally.fired / tally.counts.sum()
    return DictionaryQuality(
        provenance=provenance,
        hook=where.hook,
        **tally.measures(bootstrap),
        l0_counts=tally.l0_counts,
        frequency=frequency,
        dead=float((frequency == 0).mean()),
        dense=float((frequency > dense).mean()),
        dense_above=dense,
        n_tokens=int(tally.counts.sum()),
        n_rows=int((tally.counts > 0).sum()),
        confidence=confidence,
    )


def where_it_reads(
    model: TransformerBridge, corpus: corpora.Corpus, dictionary: Any, at: str | None
) -> activations.Place:
    """The place that a dictionary reads, which fits its width.

    Args:
        model: The bridge.
        corpus: Whose tokens it will read.
        dictionary: The sparse autoencoder.
        at: Its hook point, where it does not know it.

    Returns:
        The place.

    Raises:
        ValueError: If nobody says where, no site is there, or the width is another one.
    """
    where = activations.place(model, corpus, *units.site_of(dictionary, at))
    reads = int(dictionary.W_dec.shape[1])
    if reads != where.width:
        raise stepping.DictionaryError(
            f"the dictionary reads vectors of {reads} numbers, {where.hook} has {where.width}"
        )
    return where


@torch.no_grad()
def encoded(
    model: TransformerBridge, hook: str, chunk: corpora.Chunk, dictionary: Any
) -> Iterator[Float[torch.Tensor, "token latent"]]:
    """Latents at the tokens of a chunk that count.

    Args:
        model: The bridge.
        hook: Hook point.
        chunk: Rows of a corpus.
        dictionary: The sparse autoencoder.

    Yields:
        Pieces, in the order of the tokens.
    """
    given = activations.read(model, hook, chunk)
    for piece in _pieces(given, dictionary):
        yield dictionary.encode(_shaped(piece, dictionary, model))


def _pieces(given: torch.Tensor, dictionary: Any) -> tuple[torch.Tensor, ...]:
    return given.split(max(1, _AT_ONCE // len(dictionary.W_dec)))


def _shaped(piece: torch.Tensor, dictionary: Any, model: TransformerBridge) -> torch.Tensor:
    """Vectors as the dictionary wants them: released ones of head outputs take heads apart."""
    config = getattr(dictionary, "cfg", None)
    if getattr(config, "reshape_activations", "none") != "hook_z":
        return piece
    return piece.unflatten(1, (int(model.cfg.n_heads), -1))


class _Tally:
    """Sums of each row of a corpus, gathered chunk by chunk."""

    def __init__(  # noqa: PLR0913, PLR0917 -- what `dictionary_quality` was given
        self,
        model: TransformerBridge,
        corpus: corpora.Corpus,
        dictionary: Any,
        where: activations.Place,
        seed: int,
    ) -> None:
        self._model, self._corpus, self._dictionary = model, corpus, dictionary
        self._where = where
        rows, latents = len(corpus), len(dictionary.W_dec)
        self.nats = {name: np.zeros(rows) for name in _RUNS}
        self.predicted = np.zeros(rows)
        self.counts = np.zeros(rows, dtype=np.int64)
        self.active = np.zeros(rows)
        self.spread, self.error, self.control_error = np.zeros(rows), np.zeros(rows), np.zeros(rows)
        self.fired = np.zeros(latents)
        self.l0_counts = np.zeros(1, dtype=np.int64)
        self._mean = torch.zeros(where.width, dtype=torch.float64)
        self._random = _random_directions(dictionary.W_dec.detach(), seed)

    def first_pass(self, progress: running.Progress) -> None:
        """Mean activation and unchanged cross-entropy."""
        for number, chunk in enumerate(self._corpus.chunks()):
            held: list[torch.Tensor] = []
            keep = chunk.counted

            def look(
                activation: torch.Tensor,
                held: list[torch.Tensor] = held,
                keep: torch.Tensor = keep,
            ) -> torch.Tensor:
                held.append(activation.flatten(2)[keep.to(activation.device)].cpu().double().sum(0))
                return activation

            self._run("clean", chunk, look)
            self._mean += held[0]
            self.counts[chunk.rows] += keep.sum(1).numpy()
            # The first token of a row is not predicted.
            self.predicted[chunk.rows] += chunk.lengths - 1
            progress((number + 1) / self._corpus.n_chunks, "unchanged model and mean")
        self._mean /= int(self.counts.sum())

    def second_pass(self, progress: running.Progress) -> None:
        """Latents, reconstructions and what the model makes of them."""
        for number, chunk in enumerate(self._corpus.chunks()):
            given = activations.read(self._model, self._where.hook, chunk)
            made, control = self._reconstructed(chunk, given)
            replaced = {
                "spliced": made,
                "mean": self._mean.to(given).expand_as(given),
                "control": control,
            }
            for name, values in replaced.items():
                self._run(name, chunk, _splice(chunk.counted, values))
            progress((number + 1) / self._corpus.n_chunks, "reconstructions in the model")

    @torch.no_grad()
    def _reconstructed(
        self, chunk: corpora.Chunk, given: Float[torch.Tensor, "token width"]
    ) -> tuple[Float[torch.Tensor, "token width"], Float[torch.Tensor, "token width"]]:
        """What the dictionary and its control make of a chunk; both are counted."""
        made: list[torch.Tensor] = []
        controls: list[torch.Tensor] = []
        l0: list[torch.Tensor] = []
        for piece in _pieces(given, self._dictionary):
            shaped = _shaped(piece, self._dictionary, self._model)
            latents = self._dictionary.encode(shaped)
            made.append(self._dictionary.decode(latents).reshape(piece.shape).to(piece))
            on = latents != 0
            l0.append(on.sum(1))
            self.fired += on.sum(0).cpu().numpy()
            mean = self._mean.to(piece)
            controls.append(_along_random(piece - mean, self._random.to(piece), l0[-1]) + mean)
        whole, control, number = torch.cat(made), torch.cat(controls), torch.cat(l0).cpu()
        rows = np.repeat(chunk.rows, chunk.counted.sum(1).numpy())

        def add(to: np.ndarray, values: torch.Tensor) -> None:
            np.add.at(to, rows, values.cpu().numpy())

        add(self.active, number.double())
        add(self.spread, (given.double() - self._mean.to(given.device)).square().sum(1))
        add(self.error, (given.double() - whole.double()).square().sum(1))
        add(self.control_error, (given.double() - control.double()).square().sum(1))
        counted = np.bincount(number.numpy(), minlength=len(self.l0_counts))
        counted[: len(self.l0_counts)] += self.l0_counts
        self.l0_counts = counted
        return whole, control

    def _run(self, name: str, chunk: corpora.Chunk, function: running.HookFunction) -> None:
        """Cross-entropy of every row, with one function at the hook point."""
        logits = running.run(self._model, chunk.tokens, {self._where.hook: function})
        real = torch.arange(1, chunk.tokens.shape[1]) < torch.as_tensor(chunk.lengths)[:, None]
        following = chunk.tokens[:, 1:]
        # Some rows at a time: with a large vocabulary, logits are what takes the memory.
        several = max(1, _AT_ONCE // logits[0].numel())
        for start in range(0, len(logits), several):
            part = slice(start, start + several)
            with torch.inference_mode():
                said = logits[part, :-1].float().log_softmax(-1)
                nats = -said.gather(2, following[part, :, None].to(said.device))[..., 0]
            # Summed on the CPU: not every accelerator has double precision.
            summed = (nats.cpu().double() * real[part]).sum(1)
            self.nats[name][chunk.rows[part]] += summed.numpy()

    def measures(self, bootstrap: evidence.Bootstrap) -> dict[str, Measure]:
        """All that has an interval."""
        nats, cost = self.nats, self.nats["mean"] - self.nats["clean"]
        read, predicted = self.counts > 0, self.predicted > 0
        if not predicted.any():
            raise stepping.DictionaryError(
                f"no row of {self._corpus.name} has two tokens, so nothing is predicted"
            )

        def over(top: np.ndarray, bottom: np.ndarray, rows: np.ndarray) -> Measure:
            low, high = evidence.ratio_interval(top[rows, None], bottom[rows], **bootstrap)[:, 0]
            return Measure(float(top.sum() / bottom.sum()), float(low), float(high))

        def unexplained(error: np.ndarray) -> Measure:
            if not self.spread.sum():
                return Measure(np.nan, np.nan, np.nan)
            share = over(error, self.spread, read)
            return Measure(1 - share.value, 1 - share.high, 1 - share.low)

        total = over(cost, self.predicted, predicted)
        # With a single row there is no interval.
        costs = (total.value if np.isnan(total.low) else total.low) > _LEAST_COST

        def recovered(name: str) -> Measure:
            if not costs:
                return Measure(np.nan, np.nan, np.nan)
            return over(nats["mean"] - nats[name], cost, predicted)

        entropies = {name: over(nats[name], self.predicted, predicted) for name in _RUNS}
        return {
            "explained": unexplained(self.error),
            "control_explained": unexplained(self.control_error),
            "l0": over(self.active, self.counts.astype(np.float64), read),
            "clean": entropies["clean"],
            "spliced": entropies["spliced"],
            "mean_ablated": entropies["mean"],
            "control_spliced": entropies["control"],
            "recovered": recovered("spliced"),
            "control_recovered": recovered("control"),
        }


def _splice(keep: torch.Tensor, values: torch.Tensor) -> running.HookFunction:
    """Put values where tokens count, in the order of these tokens."""

    def replace(activation: torch.Tensor) -> torch.Tensor:
        flat = activation.flatten(2).clone()
        flat[keep.to(flat.device)] = values.to(flat)
        return flat.view(activation.shape)

    return replace


def _random_directions(
    decoder: Float[torch.Tensor, "latent width"], seed: int
) -> Float[torch.Tensor, "latent width"]:
    """As many random unit vectors as the decoder has rows, with the second moments of these."""
    rows = torch.nn.functional.normalize(decoder.cpu().double(), dim=1)
    generator = torch.Generator().manual_seed(seed)
    # A root of the second moments, which stays small where the dictionary is large.
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    root = values.clamp(min=0).sqrt()[:, None] * vectors.T
    drawn = torch.randn(rows.shape, generator=generator, dtype=torch.float64) @ root
    return torch.nn.functional.normalize(drawn, dim=1)


def _along_random(
    given: Float[torch.Tensor, "token width"],
    directions: Float[torch.Tensor, "latent width"],
    counts: Int[torch.Tensor, " token"],
) -> Float[torch.Tensor, "token width"]:
    """The best that the first projections on random directions make of each vector.

    Args:
        given: Vectors, less their mean.
        directions: Unit vectors.
        counts: How many of them each vector may use.

    Returns:
        Each vector's reconstruction, scaled to fit it best.
    """
    most = int(counts.max()) if len(counts) else 0
    if not most:
        return torch.zeros_like(given)
    projected = (given @ directions.T).relu()
    values, index = projected.topk(most, dim=1)
    values = values * (torch.arange(most, device=values.device) < counts[:, None])
    sparse = torch.zeros_like(projected).scatter_(1, index, values)
    made = sparse @ directions
    scale = (made * given).sum(1) / made.square().sum(1).clamp(min=1e-30)
    return made * scale[:, None]
