"""What does a hook point show on one prompt?

1. The prompt is run up to the hook point, whatever it is (`layout`).
2. Of each position: norm, mean, share of exact zeros and of numbers above zero, and the coordinates
   of largest size. Numbers that only mask a softmax are left out, and are blank.
3. Where it is small (`KEPT` numbers), every number is kept; else only the largest of each position.

Units: activations as the model has them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.activations import layout as layouts
from analyses.activations.layout import Layout
from workbench.core import plots, results
from workbench.core.prompts.prompt import Prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "activations.values"
# So many numbers are kept whole (8 MB); numbers that are made float32 at a time.
KEPT, _AT_ONCE = 2_000_000, 4_000_000
# Coordinates and positions of a picture.
SHOWN, WINDOW = 40, 128
ORDERS = ("spread", "number")


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """Part of an activation, small enough to look at.

    Attributes:
        positions: Which ones.
        coordinates: Which ones, in the order in which they are drawn.
        values: Numbers; NaN where there is none or it was not kept.
        says: How it was chosen.
    """

    positions: Int[np.ndarray, " position"]
    coordinates: Int[np.ndarray, " shown"]
    values: Float[np.ndarray, "shown position"]
    says: str


@dataclasses.dataclass(frozen=True)
class ActivationValues(results.Result):
    """The activation of a hook point on a prompt.

    Attributes:
        layout: What its axes mean.
        ids: The prompt's token ids.
        tokens: Each of them as text.
        width: Coordinates of a position.
        keys: Keys of each query, of attention; else 1.
        norm: L2 norm of each position.
        mean: Over each position's coordinates.
        zeros: Share of these that are exactly zero.
        positive: Share of these above zero.
        masked: How many numbers mask a softmax; they count nowhere.
        top_coordinates: Coordinates of largest size of each position; -1 where there are fewer.
        top_values: What they are; NaN where there are fewer.
        spread: Standard deviation of each coordinate over the positions; NaN where it has none.
        kept: Every number, if there are few enough; NaN where it is masked.
    """

    layout: Layout
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    width: int
    keys: int
    norm: Float[np.ndarray, " position"]
    mean: Float[np.ndarray, " position"]
    zeros: Float[np.ndarray, " position"]
    positive: Float[np.ndarray, " position"]
    masked: int
    top_coordinates: Int[np.ndarray, "position k"]
    top_values: Float[np.ndarray, "position k"]
    spread: Float[np.ndarray, " width"]
    kept: tuple[Float[np.ndarray, "position width"], ...]

    def label(self, coordinate: int) -> str:
        """What a coordinate is, in words."""
        return self.layout.label(coordinate, self.keys)

    def unit(self, coordinate: int) -> str:
        """Name of the unit that a coordinate is or belongs to; empty if there is none."""
        return self.layout.unit(coordinate, self.keys)

    def along(self, coordinate: int) -> Float[np.ndarray, " position"]:
        """One coordinate at every position.

        Args:
            coordinate: Its number.

        Returns:
            Its values; NaN where they are masked.

        Raises:
            ValueError: If there is none of that number, or not all numbers were kept.
        """
        if not 0 <= coordinate < self.width:
            raise ValueError(f"there are coordinates 0 to {self.width - 1}, not {coordinate}")
        if not self.kept:
            raise ValueError(
                f"{self.width * len(self.ids):,} numbers are more than the {KEPT:,} that are kept: "
                "only the largest of each position are there"
            )
        return self.kept[0][:, coordinate]

    def window(self, start: int = 0, *, order: str = "spread") -> Window:
        """A part that is small enough to look at.

        Args:
            start: First position of it.
            order: Coordinates that vary most over the prompt ("spread"), or the first ones in their
                own order ("number").

        Returns:
            At most `WINDOW` positions of at most `SHOWN` coordinates.

        Raises:
            ValueError: If there is no such position or order.
        """
        if order not in ORDERS:
            raise ValueError(f"unknown order {order!r}; expected one of {', '.join(ORDERS)}")
        if not 0 <= start < len(self.ids):
            raise ValueError(f"the prompt has positions 0 to {len(self.ids) - 1}, not {start}")
        positions = np.arange(start, min(start + WINDOW, len(self.ids)))
        if not self.kept:
            return self._of_the_largest(positions)
        chosen = np.arange(self.width)
        says = f"all {self.width} coordinates"
        if self.width > SHOWN and order == "spread":
            chosen = np.argsort(-np.nan_to_num(self.spread, nan=-1.0), kind="stable")[:SHOWN]
            says = f"the {SHOWN} of {self.width:,} coordinates that vary most over the prompt"
        elif self.width > SHOWN:
            chosen = chosen[:SHOWN]
            says = f"the first {SHOWN} of {self.width:,} coordinates"
        elif order == "spread":
            chosen = np.argsort(-np.nan_to_num(self.spread, nan=-1.0), kind="stable")
        values = self.kept[0][positions][:, chosen].T
        return Window(positions, chosen, values, self._and_positions(says, positions))

    def _of_the_largest(self, positions: np.ndarray) -> Window:
        """Of an activation that was not kept: coordinates that are most often among the largest."""
        top = self.top_coordinates[positions]
        often, counts = np.unique(top[top >= 0], return_counts=True)
        chosen = often[np.argsort(-counts, kind="stable")][:SHOWN]
        values = np.full((len(chosen), len(positions)), np.nan, dtype=np.float32)
        for row, coordinate in enumerate(chosen):
            at, k = np.nonzero(top == coordinate)
            values[row, at] = self.top_values[positions][at, k]
        says = (
            f"the {len(chosen)} of {self.width:,} coordinates that are most often among the "
            f"{top.shape[1]} largest of a position, blank elsewhere: more was not kept"
        )
        return Window(positions, chosen, values, self._and_positions(says, positions))

    def _and_positions(self, says: str, positions: np.ndarray) -> str:
        if len(positions) == len(self.ids):
            return says
        return f"{says}; positions {positions[0]} to {positions[-1]} of {len(self.ids)}"

    def to_frame(self) -> pd.DataFrame:
        """One row a position, with its coordinate of largest size."""
        return pd.DataFrame(
            {
                "position": np.arange(len(self.ids)),
                "token": self.tokens,
                "norm": self.norm,
                "mean": self.mean,
                "zero": self.zeros,
                "above zero": self.positive,
                "largest at": [
                    self.label(int(one)) if one >= 0 else "" for one in self.top_coordinates[:, 0]
                ],
                "largest": self.top_values[:, 0],
            }
        )

    def figure(
        self, start: int = 0, *, order: str = "spread", selected: plots.Cell | None = None
    ) -> go.Figure:
        """Coordinates by positions as a heat map, a part of them where there are many.

        Args:
            start: First position.
            order: As for `window`.
            selected: Cell (row, column) to outline.

        Returns:
            The figure; its cells are those of `window`.
        """
        part = self.window(start, order=order)
        labels = plots.token_labels(self.tokens)
        return plots.heatmap(
            part.values,
            row_labels=[self.label(int(one)) for one in part.coordinates],
            column_labels=[labels[i] for i in part.positions],
            row_title="",
            column_title="token",
            colour_title="activation",
            selected=selected,
        )

    def summary(self) -> str:
        """What is there, how large, and at which position it is largest."""
        place = self.layout
        other = f", another name of {place.same_as}" if place.same_as else ""
        at = int(np.nanargmax(self.norm)) if np.isfinite(self.norm).any() else 0
        parts = [
            f"{place.hook} of {self.provenance.model}{other}: {place.shape}, on "
            f"{len(self.ids)} tokens.",
            f"Norms of the positions run from {np.nanmin(self.norm):.3g} to "
            f"{np.nanmax(self.norm):.3g}, the largest at position {at} "
            f"({self.tokens[at]!r}); {np.nanmean(self.zeros):.1%} of the numbers are exactly zero, "
            f"{np.nanmean(self.positive):.1%} are above zero.",
        ]
        if place.whole_numbers:
            parts.append("It holds whole numbers: ids, not activations.")
        if self.masked:
            parts.append(f"{self.masked:,} numbers only mask a softmax, and count nowhere.")
        if not self.kept:
            parts.append(f"Of each position the {self.top_values.shape[1]} largest are kept.")
        parts.append("One prompt says nothing about others: a corpus does.")
        return " ".join(parts)


def values(
    model: TransformerBridge,
    prompt: Prompt | str | Sequence[int],
    hook: str,
    *,
    top: int = 10,
) -> ActivationValues:
    """Read the activation of any hook point on a prompt.

    Args:
        model: The bridge.
        prompt: Text, token ids, or a prompt.
        hook: Any hook point of the model, by any of its names.
        top: How many coordinates of largest size are kept of each position.

    Returns:
        The activation.

    Raises:
        ValueError: If the prompt cannot be read, there is no such hook point, it does not fire, or
            top is below 1.
    """
    started = time.perf_counter()
    if top < 1:
        raise ValueError(f"top = {top}; expected at least 1")
    asked = Prompt.of(model, prompt)
    layout = layouts.Layout.of(model, hook)
    rows = layout.rows(layouts.read(model, asked.batch, hook))[0]
    if len(rows) == 1 and len(asked) > 1:
        rows = rows.expand(len(asked), -1)
    width = rows.shape[1]
    stats, tops, spread, masked = _measured(rows, top)
    kept = () if rows.numel() > KEPT else (_plain(rows),)
    return ActivationValues(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={"prompt": list(asked.ids), "hook": hook, "top": top},
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        layout=layout,
        ids=asked.ids,
        tokens=asked.tokens,
        width=width,
        keys=width // layout.width if layout.attends else 1,
        norm=stats[0],
        mean=stats[1],
        zeros=stats[2],
        positive=stats[3],
        masked=masked,
        top_coordinates=tops[0],
        top_values=tops[1],
        spread=spread,
        kept=kept,
    )


def _plain(rows: torch.Tensor) -> np.ndarray:
    """Numbers with NaN where they are masked."""
    return torch.where(layouts.unmasked(rows), rows, torch.nan).cpu().numpy().copy()


def _measured(
    rows: Float[torch.Tensor, "position width"], top: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray, int]:
    """Numbers of each position, its largest coordinates, and each coordinate's spread."""
    many = min(top, rows.shape[1])
    step = max(1, _AT_ONCE // rows.shape[1])
    stats: list[np.ndarray] = []
    places: list[np.ndarray] = []
    largest: list[np.ndarray] = []
    totals: Any = np.zeros((3, rows.shape[1]))
    masked = 0
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        own = layouts.unmasked(part)
        masked += int((~own).sum())
        clean = torch.where(own, part, 0.0)
        count = own.sum(1).clamp(min=1)
        stats.append(
            torch.stack(
                [
                    clean.norm(dim=1),
                    clean.sum(1) / count,
                    ((clean == 0) & own).sum(1) / count,
                    (clean > 0).sum(1) / count,
                ]
            )
            .cpu()
            .numpy()
        )
        # What is masked comes last whatever else there is.
        found = torch.where(own, clean.abs(), -1.0).topk(many, dim=1)
        valid = found.values >= 0
        places.append(torch.where(valid, found.indices, -1).cpu().numpy())
        largest.append(torch.where(valid, clean.gather(1, found.indices), torch.nan).cpu().numpy())
        wide = clean.double()
        totals += torch.stack([own.sum(0).double(), wide.sum(0), (wide**2).sum(0)]).cpu().numpy()
    count, sums, squares = totals
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(np.maximum(squares / count - (sums / count) ** 2, 0))
    return (
        np.concatenate(stats, axis=1),
        (np.concatenate(places), np.concatenate(largest)),
        spread,
        masked,
    )
