"""What the model says next before and after one patch."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from analyses.activation_patching import units
from analyses.activation_patching.result import PatchingResult
from workbench.core import plots, results
from workbench.core.engine import cells, interventions, metrics, plain, running

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclasses.dataclass(frozen=True)
class CellInspection(results.Result):
    """What the model says next before and after one patch, for one prompt.

    Attributes:
        label: The cell in the field's notation.
        prompt: The prompt that was run and patched.
        tokens: The tokens that are among the top ones before or after, most probable after first.
        before: Their probabilities in the unpatched run.
        after: Their probabilities in the patched run.
    """

    label: str
    prompt: str
    tokens: tuple[str, ...]
    before: Float[np.ndarray, " token"]
    after: Float[np.ndarray, " token"]

    COLUMNS: ClassVar[tuple[str, ...]] = ("before", "after", "change")

    def to_frame(self) -> pd.DataFrame:
        """One row a token: probability before, after, and the change."""
        return pd.DataFrame(
            {
                "token": self.tokens,
                "before": self.before,
                "after": self.after,
                "change": self.after - self.before,
            }
        )

    def figure(self) -> go.Figure:
        """Probabilities before and after as paired bars."""
        labels = plots.token_labels(self.tokens, numbered=False)
        # Two tokens may read the same, so bars stand at places that are labelled, not at labels.
        places = list(range(len(labels)))
        shown = (("before", self.before, "#9aa4b1"), ("after", self.after, plots.COLOURS[0]))
        bars = [
            go.Bar(name=name, y=places, x=values, orientation="h", marker={"color": colour})
            for name, values, colour in shown
        ]
        figure = go.Figure(bars).update_layout(template=plots.TEMPLATE, barmode="group")
        figure.update_yaxes(autorange="reversed", tickvals=places, ticktext=labels)
        return figure.update_xaxes(title="probability", range=[0, 1])

    def summary(self) -> str:
        """The top token before and after, with probabilities."""
        top, was = int(self.after.argmax()), int(self.before.argmax())
        return (
            f"Patching {self.label} in {self.prompt!r}: the top token was {self.tokens[was]!r} "
            f"({self.before[was]:.3f}) and is {self.tokens[top]!r} ({self.after[top]:.3f})."
        )


def inspect_cell(
    model: TransformerBridge,
    result: PatchingResult,
    cell: tuple[int, ...],
    *,
    prompt: int = 0,
    k: int = 10,
    dictionary: cells.Dictionary | None = None,
) -> CellInspection:
    """Top tokens before and after one patch of a result, for one of its prompts.

    Args:
        model: The bridge that the result is of.
        result: Says site, direction and pairs.
        cell: Indices of the result's axes.
        prompt: Which pair.
        k: How many top tokens of each run.
        dictionary: The one whose latents were patched, if they were.

    Returns:
        The tokens with their probabilities.

    Raises:
        ValueError: If the cell or the prompt is not in the result, or the dictionary is missing.
    """
    started = time.perf_counter()
    if len(cell) != len(result.axes) or any(
        not 0 <= i < size for i, size in zip(cell, result.effects.shape, strict=True)
    ):
        raise ValueError(f"cell {cell} is not in a grid of {result.effects.shape} {result.axes}")
    if not 0 <= prompt < len(result.pairs):
        raise ValueError(f"prompt {prompt} is not among the {len(result.pairs)} pairs")
    place = units.place_of(model, result, dictionary)
    (layer, part), column = result.slot(cell), result.columns_of()[result.column(cell)]
    runner = plain.Runner(model, result.pairs, place, [layer], metrics.find("probability"))
    source = interventions.Source(model, result.pairs, result.intervention, runner.read, 64)
    chosen = np.array([prompt])
    batch = runner.batch(chosen, source)
    where = cells.spots(column, chosen, source.ends)
    before, after = (
        logits[0].float().softmax(-1)
        for logits in (
            running.run(model, result.pairs.batch(chosen)[source.ends[0]])[:, -1],
            batch.logits(layer, part, where, column.key),
        )
    )
    top = set(before.topk(min(k, len(before))).indices.tolist())
    top |= set(after.topk(min(k, len(after))).indices.tolist())
    ids = sorted(top, key=lambda token: (-float(after[token]), token))
    texts = (result.pairs.clean, result.pairs.corrupted)[source.ends[0]]
    return CellInspection(
        provenance=results.provenance(
            model,
            analysis="activation_patching.inspect_cell",
            parameters={"cell": list(cell), "prompt": prompt, "k": k},
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        label=result.label(cell),
        prompt=texts[prompt],
        tokens=tuple(model.tokenizer.decode([token]) for token in ids),
        before=before[ids].cpu().numpy(),
        after=after[ids].cpu().numpy(),
    )
