"""DirectAttribution: every part's share of one logit, with its table, sentences and pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int

from analyses.direct_attribution import figures
from analyses.direct_attribution import parts as naming
from workbench.core import plots, results

_NAMED = 3
# What a part's share is named after where parts are shown as wholes.
REST = "all others"


@dataclasses.dataclass(frozen=True)
class Grid:
    """Parts over positions, ready to be drawn.

    Attributes:
        values: Shares, in logits.
        rows: What each row is: a part, a group of parts, a source's head, or `REST`.
        columns: Position of each column.
    """

    values: Float[np.ndarray, "row column"]
    rows: tuple[str, ...]
    columns: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class DirectAttribution(results.Result):
    """Shares of a logit, or of a difference of two, at every position of a prompt.

    Attributes:
        ids: Token ids of the prompt.
        tokens: Each of them as text.
        answer_ids: Token id of the answer and, of a difference, of the one that is taken off.
        answers: The same as text.
        position: Which position was asked about.
        names: What each part is called; see `parts`.
        parts: Share of each part at each position, in logits.
        logit: What the model itself gives at each position.
        before_cap: The same before a soft cap, where the model has one: what the parts sum to.
        cap: The size beyond which the model bends logits back; 0 where it does not.
        error: Largest gap between the parts' sum and `before_cap`.
        neuron_layers: Layer of the neurons with the largest shares at each position.
        neuron_indices: Which neurons of their layers these are.
        neuron_shares: Their shares, the largest by size first.
        by_source: Share of each head at the position that was asked about, by the position that
            the head brings it from; these sum to the head's share.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    answer_ids: tuple[int, ...]
    answers: tuple[str, ...]
    position: int
    names: tuple[str, ...]
    parts: Float[np.ndarray, "part position"]
    logit: Float[np.ndarray, " position"]
    before_cap: Float[np.ndarray, " position"]
    cap: float
    error: float
    neuron_layers: Int[np.ndarray, "position k"]
    neuron_indices: Int[np.ndarray, "position k"]
    neuron_shares: Float[np.ndarray, "position k"]
    by_source: Float[np.ndarray, "layer head key"]

    @property
    def asked(self) -> str:
        """The logit, or the difference, in words."""
        return "the logit of " + " less that of ".join(map(repr, self.answers))

    @property
    def here(self) -> Float[np.ndarray, " part"]:
        """Share of each part at the position that was asked about."""
        return self.parts[:, self.position]

    @property
    def largest(self) -> tuple[str, ...]:
        """Every part, the one with the largest share at that position (by size) first."""
        return tuple(self.names[i] for i in np.argsort(-np.abs(self.here), kind="stable"))

    def share(self, part: str, position: int | None = None) -> float:
        """Share of a part, at the position that was asked about or at another one.

        Raises:
            ValueError: If the model has no such part.
        """
        if part not in self.names:
            raise ValueError(f"there is no part {part!r}; expected one of {self.names[:4]}, …")
        return float(self.parts[self.names.index(part), self._position(position)])

    def neurons(self, position: int | None = None) -> dict[str, float]:
        """Shares of the neurons that were kept at a position, the largest first."""
        at = self._position(position)
        columns = (self.neuron_layers, self.neuron_indices, self.neuron_shares)
        return {
            f"neuron {layer}.{index}": float(share)
            for layer, index, share in zip(*(column[at] for column in columns), strict=True)
        }

    def other_neurons(self, layer: int, position: int | None = None) -> float:
        """Share of all neurons of a layer that were not kept at a position, taken together."""
        at = self._position(position)
        kept = self.neuron_shares[at][self.neuron_layers[at] == layer].sum(dtype=np.float64)
        return self.share(f"m{layer}", at) - float(kept)

    def inside(self, row: str, position: int | None = None) -> dict[str, float]:
        """What a row of a grid consists of at a position.

        Args:
            row: A part, or what a grid of layers has as a row.
            position: None for the position that was asked about.

        Returns:
            Shares of the parts and, of an MLP, of its neurons that were kept there, the largest
            first; they sum to the row with what else an MLP has. Nothing for `REST`.
        """
        at = self._position(position)
        found: dict[str, float] = {}
        for name, share in zip(self.names, self.parts[:, at], strict=True):
            if row not in (name, naming.group_of(name)):
                continue
            if not naming.is_mlp(name):
                found[name] = float(share)
                continue
            layer = naming.layer_of(name)
            own = {k: v for k, v in self.neurons(at).items() if naming.layer_of(k) == layer}
            found |= own | {f"other neurons of {name}": float(share) - sum(own.values())}
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))

    def grid(
        self, rows: str = "layers", *, start: int = 0, stop: int | None = None, most: int = 40
    ) -> Grid:
        """Parts over positions, reduced to what can be looked at.

        Args:
            rows: "layers" for a layer's attention and MLP as wholes, "heads" for every head that is
                among the largest anywhere, or "parts" for whatever is among the largest.
            start: First position.
            stop: Position to stop before; None for the last one.
            most: How many heads or parts are rows of their own; the rest is one more row.

        Returns:
            The grid, the part that comes first in the model as its lowest row.

        Raises:
            ValueError: If the rows are unknown or there is no position.
        """
        columns = tuple(range(len(self.tokens)))[start:stop]
        if not columns:
            raise ValueError(f"there are no positions from {start} to {stop}")
        if rows not in ("layers", "heads", "parts"):
            raise ValueError(f"rows = {rows!r}; expected 'layers', 'heads' or 'parts'")
        values = self.parts[:, list(columns)]
        if rows == "layers":
            labels = [naming.group_of(name) for name in self.names]
            own = tuple(dict.fromkeys(labels))
            member = np.array([[label == one for label in labels] for one in own], dtype=float)
            return Grid((member @ values).astype(np.float32), own, columns)
        heads = np.array([naming.head_of(name) is not None for name in self.names])
        size = np.abs(values).max(1) * (heads if rows == "heads" else 1)
        count = min(most, int(heads.sum()) if rows == "heads" else len(size))
        chosen = np.sort(np.argsort(-size, kind="stable")[:count])
        rest = np.setdiff1d(np.arange(len(size)), chosen)
        labels = [self.names[i] for i in chosen] + ([REST] if rest.size else [])
        left = values[rest].sum(0, keepdims=True) if rest.size else values[:0]
        return Grid(np.concatenate([values[chosen], left]), tuple(labels), columns)

    def sources(self, *, most: int = 30, start: int = 0, stop: int | None = None) -> Grid:
        """Heads over the positions that they bring their share from.

        Args:
            most: How many heads, those with the largest share from any one position.
            start: First source.
            stop: Source to stop before; None for the position that was asked about.

        Returns:
            The grid, in the order of the layers.
        """
        columns = tuple(range(self.by_source.shape[2]))[start:stop]
        values = self.by_source[:, :, list(columns)]
        flat = values.reshape(-1, len(columns))
        chosen = np.sort(np.argsort(-np.abs(flat).max(1), kind="stable")[:most])
        heads = values.shape[1]
        labels = tuple(f"a{i // heads}.h{i % heads}" for i in chosen)
        return Grid(flat[chosen], labels, columns)

    def to_frame(self) -> pd.DataFrame:
        """One row a part and position."""
        n_parts, length = self.parts.shape
        return pd.DataFrame(
            {
                "part": np.repeat(np.array(self.names, dtype=object), length),
                "layer": pd.array(
                    [naming.layer_of(name) for name in self.names for _ in range(length)],
                    dtype="Int64",
                ),
                "position": np.tile(np.arange(length), n_parts),
                "token": np.tile(np.array(self.tokens, dtype=object), n_parts),
                "share": self.parts.ravel(),
            }
        )

    def figure(self) -> go.Figure:
        """A waterfall: how the parts sum to the logit at the position that was asked about."""
        return figures.waterfall(self)

    def summary(self) -> str:
        """What was taken apart, which parts are largest, and what that does not say."""
        at = self.position
        largest = ", ".join(f"{name} {self.share(name):+.3g}" for name in self.largest[:_NAMED])
        capped = (
            f" The model bends logits back beyond {self.cap:g}, so that it gives "
            f"{self.logit[at]:.4g}; the parts sum to what it has before that."
            if self.cap
            else ""
        )
        return (
            f"At position {at} ({plots.visible(self.tokens[at])}) of a prompt of "
            f"{len(self.tokens)} tokens, {self.provenance.model} gives "
            f"{self.before_cap[at]:.4g} for {self.asked}. {len(self.names)} parts sum to that, at "
            f"every position within {self.error:.1g}.{capped} The largest: {largest}. A share is "
            "what a part writes for the logit by itself, with the final norm's scale held fixed; "
            "what happens when the part is removed is another number."
        )

    def _position(self, position: int | None) -> int:
        if position is None:
            return self.position
        if not -len(self.tokens) <= position < len(self.tokens):
            raise ValueError(
                f"the prompt has positions 0 to {len(self.tokens) - 1}, not {position}"
            )
        return position % len(self.tokens)
