"""Everything that a scan and the weights know of one unit.

1. Examples from the whole range, not its end alone: the largest, the smallest, and those at evenly
   spaced quantiles of the sample, each with the activation at every token around it. The model
   reads these rows again; what it shows must be what the scan kept.
2. Tokens and pairs of tokens at the largest activations against the corpus (`triggers`).
3. Tokens that the unit promotes and suppresses directly, against random vectors (`output_tokens`).
4. Units that respond at the same tokens, against shuffled tokens.

Units: activations as the model has them; logits up to the final norm's scale.
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

from analyses.feature_visualization import places
from analyses.feature_visualization.examples import TopExamples
from analyses.feature_visualization.output_tokens import OutputTokens, output_tokens
from analyses.feature_visualization.triggers import token_triggers
from workbench.core import plots, results
from workbench.core.engine import running, scan
from workbench.core.engine import units as families
from workbench.core.evidence import SURE

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus

ANALYSIS = "feature_visualization.view_unit"
QUANTILES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_ENDS = ("largest", "smallest")
# What is called more than chance, and how often a token must stand there to be worth a word.
_SEVERAL = 3
# Of an activation that is computed again in another batch, as a fraction of the unit's range.
_ROUNDING = 1e-4


@dataclasses.dataclass(frozen=True)
class Example:
    """A place in the corpus, with what is around it.

    Attributes:
        kind: "largest", "smallest" or "quantile".
        quantile: In the sample.
        activation: Of the unit at the place.
        row: Row of the corpus.
        position: Position in the row.
        first: Position of the first token that is shown.
        text: What is shown, as text.
        tokens: Its tokens, each as text.
        activations: Of the unit at each of them.
    """

    kind: str
    quantile: float
    activation: float
    row: int
    position: int
    first: int
    text: str
    tokens: tuple[str, ...]
    activations: tuple[float, ...]

    @property
    def spot(self) -> int:
        """Which of the tokens that are shown is the place itself."""
        return self.position - self.first

    @property
    def marked(self) -> str:
        """What is shown as text, with the token at the place in double brackets."""
        return places.marked(self.tokens, self.spot)


@dataclasses.dataclass(frozen=True)
class Trigger:
    """A token or pair of tokens that stands where the unit is largest.

    Attributes:
        text: As text, the tokens apart.
        count: At how many of the largest activations.
        places: How many these are.
        lift: How many times more often than in the corpus.
        p_value: Of at least as many by chance, adjusted.
    """

    text: tuple[str, ...]
    count: int
    places: int
    lift: float
    p_value: float


@dataclasses.dataclass(frozen=True)
class UnitView(results.Result):
    """One unit from all sides.

    Attributes:
        unit: Its name.
        corpus: Name of the corpus.
        n_tokens: How many tokens were scanned.
        density: Share of them at which the unit is above zero.
        mean: Mean activation.
        standard_deviation: Of the activation.
        sample: Activations at the sampled tokens, ascending.
        examples: From its whole range; the largest first.
        triggers: Tokens and pairs, the most surprising first.
        promoted: Tokens and logits; empty for a head.
        suppressed: Tokens and logits; empty for a head.
        output_p_value: Of the largest logit against random vectors; NaN for a head.
        together: Units that respond at the same tokens, with their correlation.
        together_by_chance: Largest absolute correlation once tokens are shuffled.
    """

    unit: str
    corpus: str
    n_tokens: int
    density: float
    mean: float
    standard_deviation: float
    sample: Float[np.ndarray, " sampled"]
    examples: tuple[Example, ...]
    triggers: tuple[Trigger, ...]
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    output_p_value: float
    together: tuple[tuple[str, float], ...]
    together_by_chance: float

    def to_frame(self) -> pd.DataFrame:
        """One row an example: kind, quantile, activation, where it stands, and the text there."""
        return pd.DataFrame(
            [
                {
                    "kind": one.kind,
                    "quantile": one.quantile,
                    "activation": one.activation,
                    "row": one.row,
                    "position": one.position,
                    "token": one.tokens[one.spot],
                    "text": one.text,
                }
                for one in self.examples
            ]
        )

    def figure(self) -> go.Figure:
        """The distribution of the activation, with the examples under it."""
        figure = go.Figure()
        figure.add_histogram(
            x=self.sample,
            nbinsx=60,
            name=f"{len(self.sample):,} random tokens",
            marker={"color": plots.COLOURS[0]},
            hovertemplate="%{x}<br>%{y} tokens<extra></extra>",
        )
        for place, kind in enumerate(("largest", "smallest", "quantile"), start=1):
            here = [one for one in self.examples if one.kind == kind]
            figure.add_scatter(
                x=[one.activation for one in here],
                y=[0.7] * len(here),
                mode="markers",
                name=f"examples: {kind}",
                marker={
                    "symbol": "line-ns-open",
                    "size": 12,
                    "color": plots.COLOURS[place % len(plots.COLOURS)],
                },
                customdata=[plots.escape(one.text) for one in here],
                hovertemplate="%{x:.3g}<br>%{customdata}<extra></extra>",
            )
        figure.update_layout(template=plots.TEMPLATE, bargap=0.02)
        figure.update_xaxes(title=f"activation of {self.unit}")
        # Rare large activations are what a unit is looked at for.
        figure.update_yaxes(title="tokens", type="log")
        return figure

    def summary(self) -> str:
        """What it does, with the numbers, and how much of its range the largest examples are."""
        largest = max(one.activation for one in self.examples)
        parts = [
            f"{self.unit} of {self.provenance.model}: above zero at {self.density:.1%} of "
            f"{self.n_tokens:,} tokens of {self.corpus}, mean {self.mean:.3g}, standard deviation "
            f"{self.standard_deviation:.3g}, largest {largest:.3g}."
        ]
        sure = [one for one in self.triggers if one.p_value < SURE and one.count >= _SEVERAL]
        if sure:
            best = ", ".join(
                f"{' then '.join(map(repr, one.text))} ({one.count} of {one.places}, "
                f"{one.lift:.3g} times as often as in the corpus)"
                for one in sorted(sure, key=lambda one: -one.count)[:3]
            )
            parts.append(f"At its largest activations: {best}.")
        else:
            parts.append(
                "No token stands at three or more of its largest activations beyond chance."
            )
        if self.promoted:
            sentence = f"It promotes {', '.join(repr(text) for text, _ in self.promoted[:3])}"
            beyond = "beyond" if self.output_p_value < SURE else "not beyond"
            parts.append(f"{sentence}, {beyond} random vectors (p = {self.output_p_value:.2g}).")
        parts.append(
            f"These are {sum(one.kind == 'largest' for one in self.examples)} of its largest "
            "activations; the other examples show the rest of its range."
        )
        return " ".join(parts)


def view_unit(
    model: TransformerBridge,
    corpus: Corpus,
    scanned: TopExamples,
    unit: families.Unit | str,
    *,
    around: int = 12,
    top: int = 10,
    directions: Float[torch.Tensor, "direction width"] | None = None,
    dictionary: Any = None,
    progress: running.Progress | None = None,
) -> UnitView:
    """Look at one unit of a scan.

    Args:
        model: The bridge that was scanned.
        corpus: What it read.
        scanned: The scan.
        unit: Which unit.
        around: How many tokens to show before and after each place.
        top: How many triggers, tokens and other units to list.
        directions: Those that were scanned, for a direction.
        dictionary: The one that was scanned, for a latent.
        progress: Told how far it is; may raise to stop.

    Returns:
        Everything that is known of it.

    Raises:
        ValueError: If the unit was not scanned, or model or corpus are others than those scanned.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    place = scanned.of(unit)
    named = families.Unit.parse(scanned.units[place])
    if corpus.fingerprint != scanned.corpus_fingerprint:
        raise ValueError(f"{corpus.name} is not the corpus that was scanned ({scanned.corpus})")
    made = results.provenance(
        model,
        analysis=ANALYSIS,
        parameters={**scanned.provenance.parameters, "unit": str(named), "around": around},
        seed=scanned.provenance.seed,
        wall_time=0.0,
    )
    if made.fingerprint != scanned.provenance.fingerprint:
        raise ValueError(f"{made.model} is not the model that was scanned")
    family, index = _family(model, scanned, named, directions, dictionary)
    report(0.1, "reading the examples again")
    asked = [one for kind in _ENDS for one in _kept_places(scanned, place, kind)]
    if len(scanned.sample_rows):
        asked += [("quantile", *one) for one in scanned.places_at(named, QUANTILES)]
    examples = _examples(model, corpus, scanned, (family, index), str(named), asked, around)
    report(0.6, "comparing with the corpus")
    found = [
        one
        for length in (1, 2)
        for one in token_triggers(
            corpus, scanned.top_rows[place], scanned.top_positions[place], length=length
        )[:top]
    ]
    outputs = _outputs(model, family, index, top)
    together = scanned.co_firing(named, top=top).to_dict("records")

    def text(token: int) -> str:
        return places.strings(model, [token])[0]

    return UnitView(
        provenance=dataclasses.replace(made, wall_time=time.perf_counter() - started),
        unit=str(named),
        corpus=corpus.name,
        n_tokens=scanned.n_tokens,
        density=float(scanned.density[place]),
        mean=float(scanned.mean[place]),
        standard_deviation=float(scanned.standard_deviation[place]),
        sample=np.sort(scanned.sample_values[:, place]),
        examples=examples,
        triggers=tuple(
            Trigger(tuple(map(text, one.tokens)), one.count, one.places, one.lift, one.p_value)
            for one in sorted(found, key=lambda one: one.p_value)
        ),
        promoted=tuple((text(token), logit) for token, logit in outputs.promoted),
        suppressed=tuple((text(token), logit) for token, logit in outputs.suppressed),
        output_p_value=outputs.p_value,
        together=tuple((str(one["unit"]), float(one["correlation"])) for one in together),
        together_by_chance=float(together[0]["chance"]) if together else float("nan"),
    )


def largest_examples(  # noqa: PLR0913 -- one call a gallery; all but four have defaults
    model: TransformerBridge,
    corpus: Corpus,
    scanned: TopExamples,
    unit: families.Unit | str,
    *,
    top: int = 3,
    around: int = 8,
    directions: Float[torch.Tensor, "direction width"] | None = None,
    dictionary: Any = None,
) -> tuple[Example, ...]:
    """A few of a unit's largest activations, for a gallery of many units.

    Args:
        model: The bridge that was scanned.
        corpus: What it read.
        scanned: The scan.
        unit: Which unit.
        top: How many.
        around: How many tokens to show before and after each place.
        directions: Those that were scanned, for a direction.
        dictionary: The one that was scanned, for a latent.

    Returns:
        The examples, the largest first.

    Raises:
        ValueError: If the unit was not scanned, or the model is another one than that scanned.
    """
    place = scanned.of(unit)
    named = families.Unit.parse(scanned.units[place])
    read = _family(model, scanned, named, directions, dictionary)
    asked = _kept_places(scanned, place, "largest")[:top]
    return _examples(model, corpus, scanned, read, str(named), asked, around)


def _family(
    model: TransformerBridge,
    scanned: TopExamples,
    unit: families.Unit,
    directions: Any,
    dictionary: Any,
) -> tuple[families.Family, int]:
    if unit.kind not in ("direction", "latent"):
        return families.family_of(model, unit)
    given = {"direction": directions, "latent": dictionary}[unit.kind]
    if given is None:
        raise ValueError(
            f"{unit} was scanned with directions or a dictionary: give these here, too"
        )
    read_from = dataclasses.replace(unit, kind=scanned.provenance.parameters["site"])
    return families.family_of(model, read_from, directions=directions, dictionary=dictionary)


def _kept_places(scanned: TopExamples, place: int, kind: str) -> list[tuple[str, int, int, float]]:
    """Kind, row, position and activation of what a scan kept at one end of a unit's range."""
    rows, positions, values = (
        (scanned.top_rows, scanned.top_positions, scanned.top_values)
        if kind == "largest"
        else (scanned.bottom_rows, scanned.bottom_positions, scanned.bottom_values)
    )
    here = zip(rows[place], positions[place], values[place], strict=True)
    return [(kind, int(r), int(p), float(v)) for r, p, v in here if r >= 0]


def _examples(  # noqa: PLR0917 -- one step of `view_unit`
    model: TransformerBridge,
    corpus: Corpus,
    scanned: TopExamples,
    read: tuple[families.Family, int],
    unit: str,
    asked: list[tuple[str, int, int, float]],
    around: int,
) -> tuple[Example, ...]:
    rows = sorted({row for _, row, _, _ in asked})
    activations = _activations(model, corpus, rows, *read)
    size = max(float(np.abs(list(values)).max()) for values in activations.values())
    made: list[Example] = []
    for kind, row, position, value in asked:
        seen = activations[row]
        if abs(float(seen[position]) - value) > _ROUNDING * size:
            raise ValueError(
                f"{unit} is {float(seen[position]):.4g} at a place where the scan has {value:.4g}: "
                "the model is not the one that was scanned"
            )
        first = max(0, position - around)
        shown = slice(first, position + around + 1)
        made.append(
            Example(
                kind,
                scanned.quantile(unit, value) if len(scanned.sample_rows) else float("nan"),
                value,
                row,
                position,
                first,
                places.text(model, corpus.row(row)[shown].tolist()),
                places.strings(model, corpus.row(row)[shown].tolist()),
                tuple(map(float, seen[shown])),
            )
        )
    return tuple(made)


def _activations(
    model: TransformerBridge,
    corpus: Corpus,
    rows: list[int],
    family: families.Family,
    index: int,
) -> dict[int, Float[np.ndarray, " position"]]:
    """The unit at every token of some rows, special ones included."""
    few = dataclasses.replace(corpus.take(rows), special=())
    found: dict[int, np.ndarray] = {}
    for chunk, table in scan.tables(model, few, family):
        values = np.split(table[:, index].cpu().numpy(), np.cumsum(chunk.lengths)[:-1])
        found |= {rows[i]: one for i, one in zip(chunk.rows.tolist(), values, strict=True)}
    return found


def _outputs(
    model: TransformerBridge, family: families.Family, index: int, top: int
) -> OutputTokens:
    if family.kind == "head":
        return OutputTokens((), (), float("nan"))
    return output_tokens(model, family, index, top=top)
