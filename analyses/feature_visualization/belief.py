"""How far is a description of a unit to be believed?

A description is good as far as it predicts the unit where nobody looked when it was made.

1. The description says of each token of held-out text how strongly the unit will respond: a set of
   tokens (`TokenSet`), a pattern that text must match up to the token (`Pattern`), or the mean
   activation of each token, learned from other text (`TokenMeans`).
2. Over all held-out tokens: the correlation of prediction and activation, with a bootstrap interval
   over rows; precision and recall of "it fires", which is an activation above half of the largest
   that the scan has seen.
3. The control: the same description as a description of every other unit of the family. A
   description that fits them as well says nothing about this one.

Source: Bills et al. 2023, "Language models can explain neurons in language models" (scoring a
description by what it predicts); Huang et al. 2023, arXiv 2309.10312 (precision and recall of
descriptions).

Units: correlation from -1 to 1; precision and recall from 0 to 1, NaN where nothing is predicted
to fire, or nothing does.

Limits: a description of what the text before a token says, beyond a pattern, is not predicted from.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import scipy.stats
import torch
from jaxtyping import Float

from workbench.core import plots, results
from workbench.core.engine import running, scan
from workbench.core.engine import units as families
from workbench.core.prompts import tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Chunk, Corpus

ANALYSIS = "feature_visualization.believe"
_RESAMPLES = 999
# A set or a pattern predicts 1 or 0.
_FIRES = 0.5


@runtime_checkable
class Description(Protocol):
    """Something that predicts a unit."""

    @property
    def name(self) -> str:
        """As a reader writes it."""
        ...

    @property
    def threshold(self) -> float:
        """From which prediction on it says that the unit fires."""
        ...

    def predict(
        self, model: TransformerBridge, chunk: Chunk
    ) -> Float[torch.Tensor, "row position"]:
        """How strongly the unit will respond at each token."""
        ...


@dataclasses.dataclass(frozen=True)
class TokenSet:
    """The unit fires at these tokens, and only there.

    Attributes:
        tokens: Their ids.
        name: As a reader writes it.
        threshold: From which prediction on it says that the unit fires.
    """

    tokens: tuple[int, ...]
    name: str
    threshold: float = _FIRES

    @classmethod
    def of(cls, model: TransformerBridge, words: Sequence[str]) -> TokenSet:
        """From words that are one token each.

        Raises:
            ValueError: If there is none, or one is not a single known token.
        """
        if not words:
            raise ValueError("a set of tokens needs at least one")
        found: list[int] = []
        for word in words:
            tokenization.require_known(model, word)
            ids = tokenization.bare(model, word)
            if len(ids) != 1:
                pieces = ", ".join(map(repr, tokenization.strings(model, ids)))
                raise ValueError(f"{word!r} is {len(ids)} tokens ({pieces}): give single tokens")
            found.append(ids[0])
        return cls(tuple(found), f"tokens {', '.join(map(repr, words))}")

    def predict(
        self, model: TransformerBridge, chunk: Chunk
    ) -> Float[torch.Tensor, "row position"]:
        """1 at the tokens, 0 elsewhere."""
        del model
        return torch.isin(chunk.tokens, torch.tensor(self.tokens)).float()


@dataclasses.dataclass(frozen=True)
class Pattern:
    """The unit fires at the last token of each match of a regular expression.

    Attributes:
        pattern: The expression, over the text of a row as its tokens spell it one after another.
        threshold: From which prediction on it says that the unit fires.
    """

    pattern: str
    threshold: float = _FIRES

    def __post_init__(self) -> None:
        """Check that it is one.

        Raises:
            ValueError: If it is no regular expression.
        """
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"{self.pattern!r} is no regular expression: {error}") from error

    @property
    def name(self) -> str:
        """As a reader writes it."""
        return f"pattern {self.pattern}"

    def predict(
        self, model: TransformerBridge, chunk: Chunk
    ) -> Float[torch.Tensor, "row position"]:
        """1 where a match ends, 0 elsewhere."""
        out = torch.zeros(chunk.tokens.shape)
        expression = re.compile(self.pattern)
        for row, (tokens, length) in enumerate(zip(chunk.tokens, chunk.lengths, strict=True)):
            text, ends = _spelled(model, tokens[:length].tolist())
            for match in expression.finditer(text):
                if match.end() > match.start():
                    out[row, int(np.searchsorted(ends, match.end()))] = 1
        return out


@dataclasses.dataclass(frozen=True, eq=False)
class TokenMeans:
    """The unit responds to each token as it did on average elsewhere.

    Attributes:
        means: By token; the mean over all of them where a token was not seen.
        threshold: From which prediction on it says that the unit fires.
        name: As a reader writes it.
    """

    means: Float[torch.Tensor, " d_vocab"]
    threshold: float
    name: str = "mean activation of each token"

    def predict(
        self, model: TransformerBridge, chunk: Chunk
    ) -> Float[torch.Tensor, "row position"]:
        """The mean of each token."""
        del model
        return self.means[chunk.tokens]


def token_means(model: TransformerBridge, corpus: Corpus, unit: families.Unit | str) -> TokenMeans:
    """Learn the mean activation of each token.

    Args:
        model: The bridge.
        corpus: What to learn from; not what it is tested on.
        unit: Which unit.

    Returns:
        The description; it says "fires" above half of the largest mean.

    Raises:
        ValueError: If the unit does not exist.
    """
    family, index = families.family_of(model, unit)
    sums, counts = (torch.zeros(int(model.cfg.d_vocab), dtype=torch.float64) for _ in range(2))
    for chunk, table in scan.tables(model, corpus, family):
        tokens = chunk.tokens[chunk.counted]
        sums.index_add_(0, tokens, table[:, index].double())
        counts.index_add_(0, tokens, torch.ones(len(tokens), dtype=torch.float64))
    every = sums.sum() / counts.sum()
    means = torch.where(counts > 0, sums / counts.clamp(min=1), every).float()
    return TokenMeans(means, float(means.max()) / 2)


@dataclasses.dataclass(frozen=True)
class Belief(results.Result):
    """How well a description predicts a unit on text that it was not made from.

    Attributes:
        unit: Which unit.
        description: As a reader writes it.
        corpus: Name of the held-out corpus.
        n_tokens: Of it that count.
        n_rows: Rows of it.
        correlation: Of prediction and activation.
        interval: Of the correlation, over rows.
        confidence: Of the interval.
        fires_above: Which activation counts as firing.
        precision: Share of the tokens predicted to fire at which it does.
        recall: Share of the tokens at which it fires that were predicted.
        others: Correlation of the same description with every other unit of the family.
        p_value: Share of these that are as large, this unit counted in.
    """

    unit: str
    description: str
    corpus: str
    n_tokens: int
    n_rows: int
    correlation: float
    interval: tuple[float, float]
    confidence: float
    fires_above: float
    precision: float
    recall: float
    others: Float[np.ndarray, " other"]
    p_value: float

    def to_frame(self) -> pd.DataFrame:
        """One row: the description and its scores."""
        return pd.DataFrame(
            [
                {
                    "unit": self.unit,
                    "description": self.description,
                    "correlation": self.correlation,
                    "low": self.interval[0],
                    "high": self.interval[1],
                    "precision": self.precision,
                    "recall": self.recall,
                    "median of other units": float(np.median(self.others)),
                    "p": self.p_value,
                }
            ]
        )

    def figure(self) -> go.Figure:
        """The correlation against that of the same description with the other units."""
        figure = go.Figure()
        figure.add_histogram(
            x=self.others,
            nbinsx=50,
            name=f"{len(self.others)} other units",
            marker={"color": plots.COLOURS[0]},
        )
        figure.add_vline(x=self.correlation, line={"color": plots.COLOURS[1], "width": 2})
        figure.update_layout(template=plots.TEMPLATE, showlegend=False)
        figure.update_xaxes(title=f"correlation of {plots.escape(self.description)} with a unit")
        figure.update_yaxes(title="other units")
        return figure

    def summary(self) -> str:
        """The scores and the control in words."""
        low, high = self.interval
        return (
            f"{self.description} predicts {self.unit} of {self.provenance.model} on "
            f"{self.n_tokens:,} held-out tokens with a correlation of {self.correlation:.2f} "
            f"({self.confidence:.0%} interval {low:.2f} to {high:.2f}, over {self.n_rows:,} rows); "
            f"precision {_share(self.precision)} and recall {_share(self.recall)} of activations "
            f"above {self.fires_above:.3g}. With the {len(self.others)} other units of its layer "
            f"the median is {np.median(self.others):.2f} and the largest "
            f"{self.others.max(initial=-1):.2f} (p = {self.p_value:.2g})."
        )


def believe(
    model: TransformerBridge,
    corpus: Corpus,
    unit: families.Unit | str,
    description: Description,
    *,
    fires_above: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Belief:
    """Score a description of a unit on held-out text.

    Args:
        model: The bridge.
        corpus: Text that the description was not made from.
        unit: Which unit.
        description: What predicts it.
        fires_above: Which activation counts as firing; half of the largest one here if not given.
        confidence: Of the interval.
        seed: Of the bootstrap.
        progress: Told how far it is; may raise to stop.

    Returns:
        The scores and their control.

    Raises:
        ValueError: If the unit does not exist, is the only one of its family, or is constant here.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    family, index = families.family_of(model, unit)
    named = family.unit(index)
    predicted, values, rows = [], [], []
    # Sums of prediction, its square, each unit, its square, and the product.
    totals = np.zeros((3, family.size))
    own = np.zeros(2)
    for done, (chunk, table) in enumerate(scan.tables(model, corpus, family)):
        report(done / corpus.n_chunks, "reading held-out text")
        guess = description.predict(model, chunk)[chunk.counted].double().numpy()
        wide = table.double().cpu().numpy()
        totals += np.stack([wide.sum(0), np.square(wide).sum(0), guess @ wide])
        own += [guess.sum(), np.square(guess).sum()]
        predicted.append(guess)
        values.append(wide[:, index])
        rows.append(chunk.rows[np.nonzero(chunk.counted.numpy())[0]])
    guesses, seen, at = (np.concatenate(parts) for parts in (predicted, values, rows))
    every = _correlations(len(seen), own[0], own[1], *totals)
    if np.isnan(every[index]):
        what = "the description predicts the same everywhere" if guesses.std() == 0 else str(named)
        raise ValueError(f"{what} is constant on {corpus.name}: nothing can be predicted there")
    others = np.delete(every, index)
    others = others[~np.isnan(others)]
    least = float(seen.max()) / 2 if fires_above is None else fires_above
    fires, said = seen > least, guesses >= description.threshold
    hits = int((fires & said).sum())
    made = results.provenance(
        model,
        analysis=ANALYSIS,
        parameters={
            "unit": str(named),
            "description": description.name,
            "corpus": corpus.fingerprint,
            "fires_above": least,
            "confidence": confidence,
        },
        seed=seed,
        wall_time=time.perf_counter() - started,
    )
    return Belief(
        provenance=made,
        unit=str(named),
        description=description.name,
        corpus=corpus.name,
        n_tokens=len(seen),
        n_rows=len(np.unique(at)),
        correlation=float(every[index]),
        interval=_interval(guesses, seen, at, confidence, seed),
        confidence=confidence,
        fires_above=least,
        precision=hits / int(said.sum()) if said.any() else float("nan"),
        recall=hits / int(fires.sum()) if fires.any() else float("nan"),
        others=others,
        p_value=float((1 + (others >= every[index]).sum()) / (1 + len(others))),
    )


def _correlations(  # noqa: PLR0913, PLR0917 -- the five sums that a correlation is made of
    n: Any, x: Any, xx: Any, y: Any, yy: Any, xy: Any
) -> Any:
    """Pearson correlation from sums; NaN where one side is constant but for rounding."""
    with np.errstate(divide="ignore", invalid="ignore"):
        across = xy - x * y / n
        spread = (xx - x**2 / n) * (yy - y**2 / n)
        return np.where(spread > 1e-18 * xx * yy, across / np.sqrt(spread), np.nan)


def _interval(
    guesses: np.ndarray, seen: np.ndarray, rows: np.ndarray, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap of the correlation: whole rows are drawn, as their tokens belong."""
    _, row = np.unique(rows, return_inverse=True)
    one = np.ones(len(seen))
    parts = (one, guesses, guesses**2, seen, seen**2, guesses * seen)
    sums = np.stack([np.bincount(row, part) for part in parts], 1)
    # One row cannot vary.
    if len(sums) == 1:
        return float("nan"), float("nan")

    def statistic(drawn: np.ndarray, axis: int) -> np.ndarray:
        several = sums[np.moveaxis(drawn, axis, -1).astype(np.int64)].sum(-2)
        return _correlations(*np.moveaxis(several, -1, 0))

    found = scipy.stats.bootstrap(
        (np.arange(len(sums)),),
        statistic,
        n_resamples=_RESAMPLES,
        batch=max(1, int(2e6 // len(sums))),
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _spelled(model: TransformerBridge, ids: list[int]) -> tuple[str, np.ndarray]:
    """The text of a row, and where each of its tokens ends in it."""
    if model.tokenizer is None:
        raise ValueError(f"{model.cfg.model_name!r} has no tokenizer: a pattern needs text")
    text, ends = "", []
    for end in range(1, len(ids) + 1):
        # Token by token, as a tokenizer puts spaces between words that no token holds.
        text = model.tokenizer.decode(ids[:end])
        ends.append(len(text))
    return text, np.array(ends)


def _share(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.0%}"
