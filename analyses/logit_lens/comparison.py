"""Which lens to believe: both on text that the tuned one was not trained on, layer by layer."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float64, Int

from analyses.logit_lens import reading, reading_figures, readout, texts
from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.evidence import SURE

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from analyses.logit_lens.tuned import TunedLens
    from workbench.core.prompts.corpus import Corpus

ANALYSIS = "logit_lens.compare"
_TOKENS = 1024
# Flips of signs behind each p-value.
_FLIPS = 9999
Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class LensComparison(results.Result):
    """KL divergence and agreement of both lenses before each layer.

    Means are over tokens (special ones left out), intervals and tests over texts.

    Attributes:
        rows: After what is read: the embedding and every layer but the last.
        logit_divergence: Mean KL(final output || logit lens), in nats.
        tuned_divergence: Of the tuned lens.
        logit_interval: Bootstrap interval of the first.
        tuned_interval: Of the second.
        difference: Tuned less logit lens, in nats; below 0 where the tuned one is nearer.
        difference_interval: Of the paired difference.
        p_value: Of the paired difference, by sign flips of whole texts, two-sided.
        discovery_p: Adjusted for all rows (Benjamini-Hochberg).
        logit_agreement: Share of tokens at which the top token is the model's own.
        tuned_agreement: Of the tuned lens.
        logit_agreement_interval: Of the first.
        tuned_agreement_interval: Of the second.
        constant_divergence: KL of the best fixed distribution on this text, which knows nothing of
            the stream, in nats.
        logit_sums: KL summed over the tokens of each text.
        tuned_sums: Of the tuned lens.
        tokens_of_text: How many tokens of each text count.
        corpus: Name of the text.
        n_left_out: Texts that were left out because the lens was trained on them.
        is_held_out: Whether no text is one that the lens was trained on.
        confidence: Of the intervals.
    """

    rows: tuple[str, ...]
    logit_divergence: Float64[np.ndarray, " layer"]
    tuned_divergence: Float64[np.ndarray, " layer"]
    logit_interval: Float64[np.ndarray, "bound layer"]
    tuned_interval: Float64[np.ndarray, "bound layer"]
    difference: Float64[np.ndarray, " layer"]
    difference_interval: Float64[np.ndarray, "bound layer"]
    p_value: Float64[np.ndarray, " layer"]
    discovery_p: Float64[np.ndarray, " layer"]
    logit_agreement: Float64[np.ndarray, " layer"]
    tuned_agreement: Float64[np.ndarray, " layer"]
    logit_agreement_interval: Float64[np.ndarray, "bound layer"]
    tuned_agreement_interval: Float64[np.ndarray, "bound layer"]
    constant_divergence: float
    logit_sums: Float64[np.ndarray, "row layer"]
    tuned_sums: Float64[np.ndarray, "row layer"]
    tokens_of_text: Int[np.ndarray, " row"]
    corpus: str
    n_left_out: int
    is_held_out: bool
    confidence: float

    @property
    def believed(self) -> tuple[str, ...]:
        """For each row the lens to believe, or "neither" where they are not shown to differ."""
        sure = self.discovery_p <= SURE
        return tuple(
            "neither" if not known else reading.TUNED if gap < 0 else reading.LOGIT
            for known, gap in zip(sure, self.difference, strict=True)
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a row of the lens."""
        intervals = {
            f"{name} {end}": values[bound]
            for name, values in (
                ("logit kl", self.logit_interval),
                ("tuned kl", self.tuned_interval),
                ("difference", self.difference_interval),
            )
            for bound, end in enumerate(("low", "high"))
        }
        return pd.DataFrame(
            {
                "row": self.rows,
                "logit kl": self.logit_divergence,
                "tuned kl": self.tuned_divergence,
                "difference": self.difference,
                **intervals,
                "p": self.p_value,
                "adjusted p": self.discovery_p,
                "logit agreement": self.logit_agreement,
                "tuned agreement": self.tuned_agreement,
                "believe": self.believed,
            }
        )

    def figure(self, *, value: str = "kl") -> go.Figure:
        """Both lenses over the rows, with intervals.

        Args:
            value: "kl" for the mean KL divergence, "agreement" for the share of tokens with the
                model's own top token.

        Returns:
            Two curves; for the KL divergence also what knowing nothing of the stream gives.

        Raises:
            ValueError: If the value is neither.
        """
        if value == "kl":
            series = {"logit lens": self.logit_divergence, "tuned lens": self.tuned_divergence}
            bands = {"logit lens": self.logit_interval, "tuned lens": self.tuned_interval}
            title = "mean KL to the final output (nats)"
        elif value == "agreement":
            series = {"logit lens": self.logit_agreement, "tuned lens": self.tuned_agreement}
            bands = {
                "logit lens": self.logit_agreement_interval,
                "tuned lens": self.tuned_agreement_interval,
            }
            title = "share of tokens with the model's top token"
        else:
            raise ValueError(f"unknown value {value!r}; expected kl or agreement")
        x = np.arange(len(self.rows))
        figure = plots.line(x, series, x_title="read after", y_title=title, bands=bands)
        figure.update_traces(mode="lines+markers", selector={"showlegend": None})
        if value == "kl":
            figure.add_hline(
                y=self.constant_divergence,
                line={"dash": "dot", "color": plots.COLOURS[-1]},
                annotation={"text": "one guess for every token"},
                annotation_position="top right",
            )
        reading_figures.label_rows(figure, self.rows)
        return figure.update_yaxes(rangemode="tozero")

    def summary(self) -> str:
        """Which lens to believe and where, with the numbers and what they rest on."""
        believed = self.believed
        counts = {kind: believed.count(kind) for kind in (reading.TUNED, reading.LOGIT, "neither")}
        rows = "; ".join(
            f"{name} {logit:.2f} and {tuned:.2f}, difference {gap:+.2f} ({low:+.2f} to {high:+.2f},"
            f" adjusted p = {p:.2g})"
            for name, logit, tuned, gap, low, high, p in zip(
                self.rows,
                self.logit_divergence,
                self.tuned_divergence,
                self.difference,
                *self.difference_interval,
                self.discovery_p,
                strict=True,
            )
        )
        said = "".join(
            f" The {kind} says less of the output than that after {', '.join(worse)}."
            for kind, means in (
                (reading.LOGIT, self.logit_divergence),
                (reading.TUNED, self.tuned_divergence),
            )
            if (worse := self._no_better_than_a_guess(means))
        )
        return (
            f"{self._trained_on()} On {int(self.tokens_of_text.sum()):,} tokens of "
            f"{len(self.tokens_of_text):,} texts of {self.corpus} the tuned lens of "
            f"{self.provenance.model} is nearer to the final output than the logit lens in "
            f"{counts[reading.TUNED]} of {len(self.rows)} places (after the embedding and each "
            f"layer but the last), the logit lens in {counts[reading.LOGIT]}; in "
            f"{counts['neither']} they are not shown to differ (sign flips of texts, "
            f"Benjamini-Hochberg over places, at {SURE}). Believe the nearer one. Mean KL "
            f"divergence in nats, logit and tuned ({self.confidence:.0%} intervals over texts): "
            f"{rows}. One fixed guess for every token: {self.constant_divergence:.2f}.{said} "
            f"Over all places the top token is the model's own at "
            f"{self.logit_agreement.mean():.0%} (logit) and {self.tuned_agreement.mean():.0%} "
            "(tuned) of tokens."
        )

    def _no_better_than_a_guess(self, means: Float64[np.ndarray, " layer"]) -> list[str]:
        return [
            name
            for name, mean in zip(self.rows, means, strict=True)
            if mean >= self.constant_divergence
        ]

    def _trained_on(self) -> str:
        if not self.is_held_out:
            return (
                "NOT HELD OUT: the tuned lens was trained on every one of these texts, so its "
                "numbers say nothing of other text."
            )
        if self.n_left_out:
            return (
                f"{self.n_left_out:,} texts on which the tuned lens was trained were left out; the "
                "others are held out."
            )
        return "The tuned lens was trained on none of these texts."


def compare(
    model: TransformerBridge,
    corpus: Corpus,
    lens: TunedLens,
    *,
    tokens: int | None = None,
    confidence: float | int = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> LensComparison:
    """Measure the logit lens and a tuned lens on the same text.

    Args:
        model: The bridge.
        corpus: Text that the lens was not trained on. Rows that it was trained on are left out; if
            all of them are such rows, all are used, and the result says so.
        lens: A tuned lens of this model.
        tokens: Rows are read from the front until there are so many tokens; all if not given.
        confidence: Of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Of resamples and sign flips.
        progress: Told how far it is; may raise to stop.

    Returns:
        Both lenses' divergences and agreements, with intervals and the test of the difference.

    Raises:
        ValueError: If the lens is another model's, no token counts, or a number is out of range.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    evidence.require_confidence(float(confidence))
    if n_resamples < 1 or (tokens is not None and tokens < 1):
        raise ValueError(
            f"n_resamples = {n_resamples}, tokens = {tokens}; expected at least 1 of each"
        )
    lens.require(model)
    kept, n_left_out, is_held_out = _held_out(corpus, lens, tokens)
    measured = _measured(model, kept, lens, running.part(report, 0.0, 0.9))
    report(0.9, "intervals and tests")
    drawn = evidence.Bootstrap(confidence=float(confidence), n_resamples=n_resamples, seed=seed)
    counts = measured.tokens.astype(np.float64)

    def mean(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sums.sum(0) / counts.sum(), evidence.ratio_interval(sums, counts, **drawn)

    logit, tuned = measured.divergence
    difference = tuned - logit
    p_value = evidence.sign_flip_p_values(difference, n_resamples=_FLIPS, seed=seed)
    (logit_mean, logit_interval), (tuned_mean, tuned_interval) = mean(logit), mean(tuned)
    gap, gap_interval = mean(difference)
    agreements = [mean(sums) for sums in measured.agreement]
    return LensComparison(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "corpus": corpus.fingerprint,
                "lens": results.mark(lens.weights),
                "tokens": tokens,
                "confidence": float(confidence),
                "n_resamples": n_resamples,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        rows=lens.rows,
        logit_divergence=logit_mean,
        tuned_divergence=tuned_mean,
        logit_interval=logit_interval,
        tuned_interval=tuned_interval,
        difference=gap,
        difference_interval=gap_interval,
        p_value=p_value,
        discovery_p=evidence.adjusted_for_discoveries(p_value),
        logit_agreement=agreements[0][0],
        tuned_agreement=agreements[1][0],
        logit_agreement_interval=agreements[0][1],
        tuned_agreement_interval=agreements[1][1],
        constant_divergence=measured.constant,
        logit_sums=logit,
        tuned_sums=tuned,
        tokens_of_text=measured.tokens,
        corpus=corpus.name,
        n_left_out=n_left_out,
        is_held_out=is_held_out,
        confidence=float(confidence),
    )


def _held_out(corpus: Corpus, lens: TunedLens, tokens: int | None) -> tuple[Corpus, int, bool]:
    """The rows that the lens was not trained on; all, and False, where there is none."""
    rows = len(corpus)
    if tokens is not None:
        rows = min(rows, int(np.searchsorted(corpus.firsts[1:], tokens)) + 1)
    seen = np.isin(texts.marks(corpus, range(rows)), lens.trained_rows)
    if seen.all():
        return corpus.take(range(rows)), 0, False
    return corpus.take(np.flatnonzero(~seen)), int(seen.sum()), True


@dataclasses.dataclass(frozen=True)
class _Measured:
    """Sums over the tokens of each text, of the logit lens and of the tuned one."""

    divergence: tuple[np.ndarray, np.ndarray]
    agreement: tuple[np.ndarray, np.ndarray]
    tokens: np.ndarray
    constant: float


def _measured(
    model: TransformerBridge, corpus: Corpus, lens: TunedLens, report: running.Progress
) -> _Measured:
    through = readout.Readout(model)
    shape = (len(corpus), len(lens.weights))
    divergence, agreement = (tuple(np.zeros(shape) for _ in range(2)) for _ in range(2))
    counts = np.zeros(len(corpus), dtype=np.int64)
    total = torch.zeros((), dtype=torch.float64)
    mean, done = None, 0
    for batch in texts.in_order(corpus, _TOKENS):
        report(done / len(corpus), f"text {done} of {len(corpus)}")
        done += len(batch.rows)
        with torch.inference_mode():
            logits, rows, final = readout.run(model, batch.tokens)
            through.require_output(final[:1], logits[:1])
            at, position = np.nonzero(batch.counted.numpy())
            text = batch.rows[at]
            np.add.at(counts, text, 1)
            at_once = max(1, readout.AT_ONCE // logits.shape[-1])
            for start in range(0, len(at), at_once):
                here = slice(start, start + at_once)
                said = logits[at[here], position[here]].log_softmax(-1)
                mean = said.exp().double().sum(0) + (0 if mean is None else mean)
                total = total + readout.entropy(said).double().sum().cpu()
                for row, stream in enumerate(rows[:-1]):
                    plain = stream[at[here], position[here]]
                    for which, vectors in enumerate((plain, lens.translated(row, plain))):
                        kl, same = _against(through.logits(vectors), said)
                        np.add.at(divergence[which][:, row], text[here], kl)
                        np.add.at(agreement[which][:, row], text[here], same)
    some = counts > 0
    if mean is None or not some.any():
        raise ValueError(
            f"{corpus.name} has special tokens only: give text to compare the lenses on"
        )
    # The best fixed guess is the mean output; what it misses is how far outputs are from that.
    mean = mean / mean.sum()
    constant = float(torch.special.entr(mean).sum().cpu() - total / counts.sum())
    return _Measured(
        divergence=(divergence[0][some], divergence[1][some]),
        agreement=(agreement[0][some], agreement[1][some]),
        tokens=counts[some],
        constant=max(0.0, constant),
    )


def _against(logits: Tensor, final: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """KL to the final output, and whether the top token is the same, token by token."""
    kl = readout.divergence(final, logits.log_softmax(-1))
    same = logits.argmax(-1) == final.argmax(-1)
    return kl.double().cpu().numpy(), same.double().cpu().numpy()
