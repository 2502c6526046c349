"""How far is a description of a unit to be believed?

A description is good as far as it predicts the unit where nobody looked when it was made.

1. The description says of each token of held-out text how strongly the unit will respond
   (`descriptions`: a set of tokens, a pattern, or means that were learned from other text; a
   written `hypothesis`; an optimum's `neighbourhood`).
2. Over all held-out tokens: the correlation of prediction and activation, with a bootstrap interval
   over rows; precision and recall of "it fires", which is an activation above half of the largest
   that was seen there.
3. Two controls. The unit with its activations shuffled over the tokens: correlation, precision and
   recall by chance. And the same description as a description of every other unit of the family:
   one that fits them as well says nothing about this unit.

Source: Bills et al. 2023, "Language models can explain neurons in language models" (scoring a
description by what it predicts); Huang et al. 2023, arXiv 2309.10312 (precision and recall of
descriptions).

Units: correlation from -1 to 1; precision and recall from 0 to 1, NaN where nothing is predicted
to fire, or nothing does.

Limits: the tokens of a row are not independent; the interval knows that, the shuffling does not, so
it shows where zero is and is no test. Precision and recall depend on where firing begins.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from analyses.feature_visualization.correlation import from_sums, row_interval
from analyses.feature_visualization.descriptions import Description
from workbench.core import evidence, plots, results
from workbench.core.engine import running, scan
from workbench.core.engine import units as families

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus

ANALYSIS = "feature_visualization.believe"
_RESAMPLES = 999
_SHUFFLES = 99
# Of a description that fits below a figure.
_LONGEST = 60


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
        fires: Share of all tokens at which it fires: the precision of shuffled activations.
        predicted: Share of all tokens that are predicted to fire: the recall of shuffled ones.
        shuffled: Correlation of the prediction with the unit's activations once these are shuffled
            over the tokens, several times.
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
    fires: float
    predicted: float
    shuffled: Float[np.ndarray, " sample"]
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
                    "precision by chance": self.fires,
                    "recall by chance": self.predicted,
                    "largest shuffled": float(self.shuffled.max()),
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
        said = self.description if len(self.description) <= _LONGEST else "the description"
        figure.update_xaxes(title=f"correlation of {plots.escape(said)} with a unit")
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
            f"above {self.fires_above:.3g} (by chance {self.fires:.1%} and {self.predicted:.1%}). "
            f"With its activations shuffled the correlation is {self.shuffled.max():.2f} at most, "
            f"{len(self.shuffled)} times. With the {len(self.others)} other units of its layer "
            f"the median is {np.median(self.others):.2f} and the largest "
            f"{self.others.max(initial=-1):.2f} (p = {self.p_value:.2g})."
        )


def believe(
    model: TransformerBridge,
    corpus: Corpus,
    unit: families.Unit | str,
    description: Description,
    *,
    fires_above: float | int | None = None,
    confidence: float = 0.95,
    directions: Float[torch.Tensor, "direction width"] | None = None,
    dictionary: Any = None,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Belief:
    """Score a description of a unit on held-out text.

    Args:
        model: The bridge.
        corpus: Text that the description was not made from.
        unit: Which unit; with directions or a dictionary its kind is the site that they read, as in
            "resid_post 2.13".
        description: What predicts it.
        fires_above: Which activation counts as firing; half of the largest one here if not given.
        confidence: Of the interval.
        directions: One vector a unit, instead of the coordinates; the others are the control.
        dictionary: A sparse autoencoder whose latents are the units.
        seed: Of the bootstrap and the shuffling.
        progress: Told how far it is; may raise to stop.

    Returns:
        The scores and their control.

    Raises:
        ValueError: If the unit does not exist, or nothing can be compared: it, its description, or
            every other unit of the family is constant here.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    evidence.require_confidence(confidence)
    family, index = families.family_of(model, unit, directions=directions, dictionary=dictionary)
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
    sides = (np.full(family.size, value) for value in (len(seen), *own))
    every = from_sums(np.stack([*sides, *totals]))
    if np.isnan(every[index]):
        what = "the description predicts the same everywhere" if guesses.std() == 0 else str(named)
        raise ValueError(f"{what} is constant on {corpus.name}: nothing can be predicted there")
    others = np.delete(every, index)
    others = others[~np.isnan(others)]
    if not len(others):
        raise ValueError(
            f"{named} has no other unit beside it that varies on {corpus.name}, and belief is "
            "measured against these: give several directions, or a layer with several units"
        )
    least = float(seen.max()) / 2 if fires_above is None else float(fires_above)
    fires, said = seen > least, guesses >= description.threshold
    hits = int((fires & said).sum())
    parameters: dict[str, Any] = {
        "unit": str(named),
        "description": description.name,
        "corpus": corpus.fingerprint,
        "fires_above": least,
        "confidence": confidence,
    }
    if given := families.marks(directions, dictionary):
        parameters |= given | {"site": family.site}
    made = results.provenance(
        model,
        analysis=ANALYSIS,
        parameters=parameters,
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
        interval=row_interval(
            guesses, seen, at, confidence=confidence, n_resamples=_RESAMPLES, seed=seed
        ),
        confidence=confidence,
        fires_above=least,
        precision=hits / int(said.sum()) if said.any() else float("nan"),
        recall=hits / int(fires.sum()) if fires.any() else float("nan"),
        fires=float(fires.mean()),
        predicted=float(said.mean()),
        shuffled=_shuffled(guesses, seen, seed),
        others=others,
        p_value=evidence.p_value(float(every[index]), others),
    )


def _shuffled(guesses: np.ndarray, seen: np.ndarray, seed: int) -> np.ndarray:
    """Correlations with activations that are shuffled over the tokens."""
    # A stream of its own: the bootstrap's draws stay what they are.
    rng = np.random.default_rng([seed, 1])
    centred = guesses - guesses.mean()
    scale = len(seen) * guesses.std() * seen.std()
    return np.array([centred @ rng.permutation(seen) for _ in range(_SHUFFLES)]) / scale


def _share(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.0%}"
