"""Does a unit fire for one thing, or for several: how many separated groups are its top examples?

1. The places of a corpus where the unit is largest: at most `k`, and of these only such as are
   above a share of the largest (half), so that what is noise for the unit is not put into groups.
2. Each place is the vector that the unit reads there. For a neuron that is the input of its MLP,
   after the norm, each number times the neuron's weight (of a gated MLP, times both of its
   weights): these parts add up to the pre-activation, so what it does not read makes no groups.
   For all other units it is the residual stream at the start of their layer. The mean over random
   places of the corpus is taken off.
3. `grouping` says of how many separated groups these vectors are, one included, against draws of
   one Gaussian and in subsamples; the interval is that of the numbers found in the subsamples. A
   unit that fires at one token reads it in several contexts, which share most of what sets them
   apart from the rest of the corpus and are no groups.
4. Each group is described by the tokens at its places and before them, against the other groups.

Source: Liu et al. 2008, "Statistical significance of clustering for high-dimension, low-sample size
data" (one Gaussian as the null); Elhage et al. 2022, "Toy models of superposition" (polysemantic
units).

Units: silhouette from -1 to 1; activations as the model has them.

Limits: those of `grouping`. A few texts that never vary may count as several groups. In late layers
a place holds much that the unit does not use. Weighting number by number depends on the coordinates
of the stream. The subsamples come from the same places: the interval says how stable the number is
there, not in other text. What the unit does below the share of its largest is not looked at.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.feature_visualization import grouping, places
from analyses.feature_visualization.grouping import Grouping
from workbench.core import evidence, plots, results
from workbench.core.engine import running, scan
from workbench.core.engine import units as families
from workbench.core.evidence import SURE

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus

ANALYSIS = "feature_visualization.separated_groups"
# Random places of the corpus that the mean is taken over.
_RANDOM = 1000
# Tokens shown before and after a place, and how many tokens and examples describe a group.
_BEFORE, _AFTER, _LISTED = 8, 3, 5


@dataclasses.dataclass(frozen=True)
class TypicalToken:
    """A token of a group.

    Attributes:
        text: As text.
        count: At how many of the group's places.
        share: Of the group's places.
        elsewhere: Share of the places of all other groups; NaN where there is no other group.
    """

    text: str
    count: int
    share: float
    elsewhere: float

    @property
    def lift(self) -> float:
        """How many times more often than in the other groups; infinite where it is in none."""
        return math.inf if self.elsewhere == 0 else self.share / self.elsewhere


@dataclasses.dataclass(frozen=True)
class Group:
    """Places that belong together.

    Attributes:
        size: How many places.
        mean_activation: Of the unit there.
        tokens: Tokens at the places, the most typical first.
        before: Tokens just before the places, the most typical first.
        examples: Text around the largest of them, the place in double brackets.
    """

    size: int
    mean_activation: float
    tokens: tuple[TypicalToken, ...]
    before: tuple[TypicalToken, ...]
    examples: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SeparatedGroups(results.Result):
    """In how many groups a unit's largest activations fall.

    Attributes:
        unit: Its name.
        corpus: Name of the corpus.
        n_tokens: Of it that count.
        reads: What each place is represented by.
        least_activation: Places are above this.
        number: How many groups.
        interval: Of the number, over subsamples.
        confidence: Of the interval.
        groups: What is in each, the largest first.
        activations: Of the unit at each place, largest first.
        rows: Rows of the corpus where the places are.
        positions: Positions in these rows.
        texts: Text around each place, which is in double brackets.
        grouping: The groups of the places, with null and subsamples.
    """

    unit: str
    corpus: str
    n_tokens: int
    reads: str
    least_activation: float
    number: int
    interval: tuple[int, int]
    confidence: float
    groups: tuple[Group, ...]
    activations: Float[np.ndarray, " place"]
    rows: Int[np.ndarray, " place"]
    positions: Int[np.ndarray, " place"]
    texts: tuple[str, ...]
    grouping: Grouping

    def to_frame(self) -> pd.DataFrame:
        """One row a place: group (from 1; 0 for none), activation, where it is, and its text."""
        return pd.DataFrame(
            {
                "group": self.grouping.labels + 1,
                "activation": self.activations,
                "row": self.rows,
                "position": self.positions,
                "text": self.texts,
            }
        )

    def figure(self) -> go.Figure:
        """The places on the two directions in which they differ most, coloured by group."""
        figure = go.Figure()
        labels = self.grouping.labels
        for label in [*range(self.number), *([-1] if (labels < 0).any() else [])]:
            here = np.flatnonzero(labels == label)
            name = f"group {label + 1}" if label >= 0 else "in no group"
            figure.add_scatter(
                x=self.grouping.projection[here, 0],
                y=self.grouping.projection[here, 1],
                mode="markers",
                name=f"{name} ({len(here)})",
                marker={"size": 7, "opacity": 0.75, "color": plots.COLOURS[label]},
                customdata=[
                    f"{plots.escape(self.texts[i])}<br>activation {self.activations[i]:.3g}"
                    for i in here
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        first, second = self.grouping.explained
        figure.update_layout(template=plots.TEMPLATE)
        figure.update_xaxes(title=f"first principal component ({first:.0%} of the variance)")
        figure.update_yaxes(title=f"second ({second:.0%})")
        return figure

    def summary(self) -> str:
        """The number of groups with interval and null, and what is in each."""
        found = self.grouping
        low, high = self.interval
        several = f"{self.number} separated groups" if self.number > 1 else "one group"
        parts = [
            f"{self.unit} of {self.provenance.model}: {several} among {len(self.activations)} "
            f"places of {self.corpus} ({self.n_tokens:,} tokens) with an activation above "
            f"{self.least_activation:.3g}, by {self.reads}. In {len(found.numbers)} subsamples of "
            f"{grouping.SUBSAMPLE:.0%} of the places there are {low} to {high} "
            f"({self.confidence:.0%} interval), and their groupings agree with this one with an "
            f"adjusted Rand index of {found.agreement.mean():.2f}."
        ]
        if np.isnan(found.null).all():
            parts.append("The unit reads the same at all of them.")
        elif math.isnan(found.silhouette):
            parts.append("No cut into several groups leaves these large enough to count.")
        else:
            level = float(np.quantile(found.null, 1 - SURE))
            chance = f"at most {level:.2f}" if level > -1 else "none"
            parts.append(
                f"The best cut into several has a mean silhouette of {found.silhouette:.2f}; "
                f"{1 - SURE:.0%} of the draws of one Gaussian group have {chance} (p = "
                f"{found.p_value:.2g})."
            )
        for place, one in enumerate(self.groups, start=1):
            tokens = ", ".join(_spoken(token) for token in one.tokens[:3])
            parts.append(
                f"Group {place}: {one.size} places, mean activation {one.mean_activation:.3g}, at "
                f"{tokens}."
            )
        return " ".join(parts)


def separated_groups(
    model: TransformerBridge,
    corpus: Corpus,
    unit: families.Unit | str,
    *,
    k: int = 200,
    least: float | int = 0.5,
    most: int = 6,
    smallest: float | int = 0.05,
    weighted: bool = True,
    draws: int = 199,
    resamples: int = 100,
    confidence: float | int = 0.95,
    directions: Float[torch.Tensor, "direction width"] | None = None,
    dictionary: Any = None,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> SeparatedGroups:
    """Count the separated groups among a unit's largest activations.

    Args:
        model: The bridge.
        corpus: Where to look for them.
        unit: Which unit; with directions or a dictionary its kind is the site that they read.
        k: How many places at the most.
        least: Share of the largest activation that a place needs.
        most: How many groups there may be.
        smallest: Share of the places that a group needs.
        weighted: Whether what a neuron reads is multiplied with its weights, number by number.
        draws: Of one Gaussian group, for the null.
        resamples: Subsamples, for the interval.
        confidence: Of the interval.
        directions: As for `units.family`.
        dictionary: As for `units.family`.
        seed: Of draws and subsamples.
        progress: Told how far it is; may raise to stop.

    Returns:
        The groups, with null, interval and agreement.

    Raises:
        ValueError: If the unit does not exist, is never above zero, or has too few places above the
            share; or if a limit makes no sense.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    grouping.require_limits(k, most, smallest, draws, resamples)
    evidence.require_confidence(confidence)
    if not 0 <= least < 1:
        raise ValueError(f"least = {least}; expected a share of the largest from 0 to below 1")
    family, index = families.family_of(model, unit, directions=directions, dictionary=dictionary)
    named = str(family.unit(index))
    found = _largest(model, corpus, family, index, k, running.part(report, 0.0, 0.5))
    values, rows, positions, n_tokens = found
    if not len(values) or values[0] <= 0:
        raise ValueError(f"{named} is never above zero on {corpus.name}: it has no top examples")
    above = values > least * values[0]
    if above.sum() < grouping.FEWEST:
        raise ValueError(
            f"{named} is above {least:.0%} of its largest activation ({values[0]:.3g}) at "
            f"{above.sum()} of {n_tokens:,} tokens: at least {grouping.FEWEST} such places are "
            "needed"
        )
    values, rows, positions = values[above], rows[above], positions[above]
    at = corpus.firsts[rows] + positions
    reads, vectors = _read(model, corpus, family, index, at, weighted)
    elsewhere = places.drawn(
        corpus,
        _RANDOM,
        np.random.default_rng(seed),
        lambda numbers: places.counted(corpus, numbers),
        tries=2,
    )
    vectors = vectors - _read(model, corpus, family, index, elsewhere, weighted)[1].mean(0)
    grouped = grouping.group(
        vectors,
        most=most,
        smallest=smallest,
        draws=draws,
        resamples=resamples,
        seed=seed,
        progress=running.part(report, 0.55, 1.0),
    )
    tail = (1 - confidence) / 2
    # One of the numbers found: half a group is none.
    low, high = np.quantile(grouped.numbers, [tail, 1 - tail], method="inverted_cdf")
    made = results.provenance(
        model,
        analysis=ANALYSIS,
        parameters={
            "unit": named,
            "site": family.site,
            "corpus": corpus.fingerprint,
            "k": k,
            "least": least,
            "most": most,
            "smallest": smallest,
            "weighted": weighted,
            "draws": draws,
            "resamples": resamples,
            "confidence": confidence,
        }
        | families.marks(directions, dictionary),
        seed=seed,
        wall_time=time.perf_counter() - started,
    )
    texts = tuple(
        _around(model, corpus, *place)
        for place in zip(rows.tolist(), positions.tolist(), strict=True)
    )
    return SeparatedGroups(
        provenance=made,
        unit=named,
        corpus=corpus.name,
        n_tokens=n_tokens,
        reads=reads,
        least_activation=float(least * found[0][0]),
        number=grouped.number,
        interval=(int(low), int(high)),
        confidence=float(confidence),
        groups=_described(model, corpus, grouped.labels, (values, rows, positions), texts),
        activations=values,
        rows=rows,
        positions=positions,
        texts=texts,
        grouping=grouped,
    )


def _largest(  # noqa: PLR0917 -- one step of `separated_groups`
    model: TransformerBridge,
    corpus: Corpus,
    family: families.Family,
    index: int,
    k: int,
    report: running.Progress,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """A unit's largest activations, their rows and positions, and how many tokens were read."""
    best = scan.Extremes.none(1, k, str(model.cfg.device))
    n_tokens = 0
    for done, (chunk, table) in enumerate(scan.tables(model, corpus, family)):
        report(done / corpus.n_chunks, "looking for the largest activations")
        own = table[:, [index]].float()
        if not bool(torch.isfinite(own).all()):
            raise scan.ScanError("an activation is not finite: nothing can be ranked by it")
        numbers = torch.as_tensor(corpus.numbers(chunk), device=own.device)
        n_tokens += len(numbers)
        best.meet(own, numbers)
    places = best.places[0].cpu().numpy()
    rows, positions = corpus.locate(places[places >= 0])
    return best.values[0].cpu().numpy()[places >= 0], rows, positions, n_tokens


def _read(  # noqa: PLR0917 -- one step of `separated_groups`
    model: TransformerBridge,
    corpus: Corpus,
    family: families.Family,
    index: int,
    numbers: Int[np.ndarray, " place"],
    weighted: bool,
) -> tuple[str, Float[np.ndarray, "place width"]]:
    """What stands for each place, in words and as vectors."""
    layer = family.layer
    if family.kind != "neuron":
        said = f"the residual stream at the start of layer {layer}"
        return said, places.read(model, corpus, f"blocks.{layer}.hook_resid_pre", layer, numbers)
    inputs = places.read(model, corpus, f"blocks.{layer}.mlp.hook_in", layer, numbers)
    if not weighted:
        return f"the input of the MLP of layer {layer}", inputs
    mlp = model.blocks[layer].mlp
    # Of a gated MLP the one opens what the other one says.
    both = [weights for name in ("W_gate", "W_in") if (weights := _weights(mlp, name)) is not None]
    if not both:
        raise ValueError(
            f"the MLP of layer {layer} shows no weights of single neurons: give weighted=False"
        )
    parts = [inputs * weights[:, index].detach().float().cpu().numpy() for weights in both]
    return f"the input of the MLP of layer {layer} times its weights", np.concatenate(parts, 1)


def _weights(mlp: Any, name: str) -> torch.Tensor | None:
    found = getattr(mlp, name, None)
    return found if isinstance(found, torch.Tensor) else None


def _described(
    model: TransformerBridge,
    corpus: Corpus,
    labels: Int[np.ndarray, " place"],
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    texts: Sequence[str],
) -> tuple[Group, ...]:
    """What is in each group; places come largest first."""
    values, rows, positions = found
    at = corpus.at(rows, positions)
    # The first token of a row has none before it.
    before = np.where(positions > 0, corpus.at(rows, np.maximum(positions - 1, 0)), -1)
    made: list[Group] = []
    for label in range(int(labels.max()) + 1):
        here, others = labels == label, (labels >= 0) & (labels != label)
        made.append(
            Group(
                int(here.sum()),
                float(values[here].mean()),
                _typical(model, at[here], at[others]),
                _typical(model, before[here], before[others]),
                tuple(texts[int(i)] for i in np.flatnonzero(here)[:_LISTED]),
            )
        )
    return tuple(made)


def _typical(
    model: TransformerBridge, here: Int[np.ndarray, " place"], others: Int[np.ndarray, " other"]
) -> tuple[TypicalToken, ...]:
    """Tokens whose share is most above that in the other groups."""
    own, rest = Counter(here[here >= 0].tolist()), Counter(others[others >= 0].tolist())
    made = [
        TypicalToken(
            places.strings(model, [token])[0],
            count,
            count / len(here),
            rest[token] / len(others) if len(others) else math.nan,
        )
        for token, count in own.most_common()
    ]
    made.sort(key=lambda one: (one.elsewhere if len(others) else 0) - one.share)
    return tuple(made[:_LISTED])


def _spoken(token: TypicalToken) -> str:
    if math.isnan(token.elsewhere):
        return f"{token.text!r} ({token.share:.0%})"
    return f"{token.text!r} ({token.share:.0%}, elsewhere {token.elsewhere:.0%})"


def _around(model: TransformerBridge, corpus: Corpus, row: int, position: int) -> str:
    """Text around a place, the token there in double brackets."""
    first = max(0, position - _BEFORE)
    ids = corpus.row(row)[first : position + _AFTER + 1].tolist()
    return places.marked(places.strings(model, ids), position - first)
