"""PatchingResult: the effect of every patched cell, with its table, heat map and sentences."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from workbench.core import plots, results
from workbench.core.engine import cells, interventions, metrics, preflight, sites
from workbench.core.evidence import SURE
from workbench.core.prompts.pairs import ContrastPairs


@dataclasses.dataclass(frozen=True)
class PatchingResult(results.Result):
    """Effect of patching each cell of a site, with per-prompt values and intervals.

    Attributes:
        site: Component kind.
        axes: What the cells are indexed by, in order, out of layer, position (with patterns query
            and key), and head, group, neuron, direction or latent. Neurons and latents are
            chosen over layers, so they come without a layer axis.
        metric: Scalar that was measured.
        direction: "denoising" or "noising".
        ablation: "zero", "mean", "resample", or None.
        normalised: Whether the baselines were far enough apart to divide by.
        effects: Ratio of means, a fraction; NaN throughout where `normalised` is False.
        interval: Bootstrap interval of the effects over prompts; NaN with a single prompt.
        changes: Mean numerator, in the metric's unit.
        change_interval: Bootstrap interval of the changes.
        adjusted_p: Sign-flip p-value of each cell's change, Benjamini-Hochberg adjusted over all
            cells; 1 with a single prompt.
        per_prompt: Metric of each prompt in each patched run, in the metric's unit.
        clean: Metric of each clean prompt.
        corrupted: Metric of each corrupted prompt.
        confidence: Level of the intervals.
        layers: Which layer each index of the layer axis is.
        columns: What each position (or query, or set of positions) is called.
        units: Layer and index of each neuron or latent; empty with other sites.
        directions: The directions that were patched; of no rows with other sites.
        pairs: What was run.
        preflight: What was checked before the run.
    """

    site: str
    axes: tuple[str, ...]
    metric: str
    direction: str
    ablation: str | None
    normalised: bool
    effects: Float[np.ndarray, "*cell"]
    interval: Float[np.ndarray, "bound *cell"]
    changes: Float[np.ndarray, "*cell"]
    change_interval: Float[np.ndarray, "bound *cell"]
    adjusted_p: Float[np.ndarray, "*cell"]
    per_prompt: Float[np.ndarray, "prompt *cell"]
    clean: Float[np.ndarray, " prompt"]
    corrupted: Float[np.ndarray, " prompt"]
    confidence: float
    layers: tuple[int, ...]
    columns: tuple[str, ...]
    units: tuple[tuple[int, int], ...]
    directions: Float[np.ndarray, "direction width"]
    pairs: ContrastPairs
    preflight: preflight.Preflight

    def __post_init__(self) -> None:
        """Check that there are as many names as numbers; one from a folder may be damaged.

        Raises:
            ValueError: If there are not.
        """
        super().__post_init__()
        named = {"layer": len(self.layers)}
        named |= dict.fromkeys(("position", "query", "key"), len(self.columns))
        if self.units and self.part is not None:
            named[self.part] = len(self.units)
        for axis, n in zip(self.axes, self.effects.shape, strict=True):
            if named.get(axis, n) != n:
                raise ValueError(f"{named[axis]} names for {n} indices of the axis {axis}")

    @property
    def shown(self) -> Float[np.ndarray, "*cell"]:
        """What figure, table and summary rank by: effects, or changes where not normalised."""
        return self.effects if self.normalised else self.changes

    @property
    def part(self) -> str | None:
        """What of a position is patched by itself: "head", "group", …, or nothing."""
        return next((axis for axis in _PARTS if axis in self.axes), None)

    @property
    def intervention(self) -> interventions.Intervention:
        """What was put where."""
        made = self.provenance.parameters
        return interventions.Intervention(
            self.direction == "denoising", self.ablation, tuple(made["reference"]), made["seed"]
        )

    def slot(self, cell: tuple[int, ...]) -> cells.Slot:
        """Layer and part of a cell; a latent or a direction is counted among those patched."""
        index = dict(zip(self.axes, cell, strict=True))
        part = index.get(self.part or "")
        if not self.units:
            return self.layers[index["layer"]], part
        assert part is not None
        layer, unit = self.units[part]
        return layer, unit if self.part == "neuron" else part

    def column(self, cell: tuple[int, ...]) -> int:
        """Which column of `columns_of` a cell belongs to."""
        index = dict(zip(self.axes, cell, strict=True))
        if "key" in index:
            return index["query"] * len(self.columns) + index["key"]
        return index.get("position", index.get("query", 0))

    def columns_of(self) -> tuple[cells.Column, ...]:
        """Where each cell's column is written, in every prompt."""
        return cells.columns(self.pairs, read_positions(self.provenance.parameters["positions"]))

    @property
    def unit(self) -> str:
        """Unit of `shown`, for axis titles."""
        unit = metrics.unit(self.metric)
        if not self.normalised:
            return f"change of the {self.metric.replace('_', ' ')} ({unit}), not normalised"
        return "fraction recovered" if self.direction == "denoising" else "fraction destroyed"

    def label(self, cell: tuple[int, ...]) -> str:
        """A cell in the field's notation, for example `L2H5 at position 9 ("to")`."""
        index = dict(zip(self.axes, cell, strict=True))
        name = self._component(index)
        if "query" in index:
            name += f" from {self._place(index['query'])}"
            return name + (f" to {self._place(index['key'])}" if "key" in index else "")
        return f"{name} at {self._place(index['position'])}" if "position" in index else name

    def unit_at(self, cell: tuple[int, ...]) -> str | None:
        """The head or neuron that a cell is of, as in "head 2.5"; None for anything else."""
        index = dict(zip(self.axes, cell, strict=True))
        if self.part == "neuron" and self.units:
            layer, unit = self.units[index["neuron"]]
            return f"neuron {layer}.{unit}"
        if self.part != "head" or "layer" not in index:
            return None
        return f"head {self.layers[index['layer']]}.{index['head']}"

    def _component(self, index: dict[str, int]) -> str:
        part = self.part
        if part is not None and self.units:
            layer, unit = self.units[index[part]]
            return f"L{layer}{'N' if part == 'neuron' else 'F'}{unit}"
        name = f"L{self.layers[index['layer']]}" if "layer" in index else ""
        return name + (f"{part[0].upper()}{index[part]}" if part and part in index else "")

    def _place(self, column: int) -> str:
        label = self.columns[column]
        return f'position {column} ("{label.strip()}")' if self._by_token else label

    @property
    def _by_token(self) -> bool:
        """Whether columns are single positions, labelled by their tokens."""
        return self.provenance.parameters["positions"] in ("each", "pairs")

    def strongest(self, n: int = 5) -> list[tuple[int, ...]]:
        """The n cells of largest absolute effect, strongest first."""
        order = np.argsort(-np.abs(self.shown), axis=None, kind="stable")[:n]
        return [tuple(int(i) for i in np.unravel_index(flat, self.shown.shape)) for flat in order]

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: its axes, token, effect and change with intervals, and n."""
        cells = list(np.ndindex(self.effects.shape))
        frame = pd.DataFrame(cells, columns=list(self.axes))
        for axis in ("position", "query", "key"):
            if axis in self.axes:
                name = "token" if axis == "position" else f"{axis}_token"
                frame[name] = [self.columns[p] for p in frame[axis]]
        if "layer" in self.axes:
            frame["layer"] = [self.layers[i] for i in frame["layer"]]
        if self.units:
            frame["layer"], frame[self.part] = zip(
                *(self.units[i] for i in frame[self.part]), strict=True
            )
        columns = {
            "effect": self.effects,
            "effect_low": self.interval[0],
            "effect_high": self.interval[1],
            "change": self.changes,
            "change_low": self.change_interval[0],
            "change_high": self.change_interval[1],
        }
        for name, values in columns.items():
            frame[name] = values.ravel()
        frame["adjusted_p"] = self.adjusted_p.ravel()
        frame["n"] = len(self.pairs)
        return frame

    def figure(
        self, selected: tuple[int, ...] | None = None, *, discoveries: float | None = None
    ) -> go.Figure:
        """Heat map (or bars, where only the layer is left), zero-centred.

        Args:
            selected: Cell to mark, as indices of the axes.
            discoveries: False-discovery rate at which a cell counts as more than chance; cells
                that do not are greyed out. None shows all of them.

        Returns:
            The figure; each cell's hover text carries its interval.
        """
        grid = self.grid()
        if grid.column_title is None:
            bounds = self.interval if self.normalised else self.change_interval
            return plots.bars(
                self.shown, bounds[0], bounds[1], labels=list(grid.rows), value_title=self.unit
            )
        return plots.heatmap(
            grid.values,
            row_labels=list(grid.rows),
            column_labels=list(grid.columns),
            row_title=grid.row_title,
            column_title=grid.column_title,
            colour_title=self.unit,
            hover=grid.hover,
            mask=None if discoveries is None else grid.adjusted_p > discoveries,
            selected=self.to_grid(selected) if selected is not None else None,
        )

    def grid(self) -> Grid:
        """The cells laid out in two dimensions: layers (or layer and head) upward."""
        across = self._across
        columns: tuple[str, ...] = ()
        if across in ("position", "query", "key"):
            labels = self.columns
            columns = tuple(plots.token_labels(labels)) if self._by_token else labels
        elif across is not None:
            columns = tuple(f"{across[0].upper()}{i}" for i in range(self._size(across)))
        upward = self._upward
        indices = np.ndindex(*(self._size(axis) for axis in upward))
        rows = tuple(self._row(dict(zip(upward, index, strict=True))) for index in indices)
        title = self.part if self.part in upward else "layer"
        values, hover, p = map(self._flat, (self.shown, self._hover(), self.adjusted_p))
        return Grid(values, rows, columns, title or "layer", across, hover, p)

    @property
    def _across(self) -> str | None:
        """The axis that runs to the right, if there is more than one axis."""
        for axis in ("key", "position", "query"):
            if axis in self.axes:
                return axis
        return self.part if len(self.axes) > 1 else None

    @property
    def _upward(self) -> tuple[str, ...]:
        """The axes that are folded into rows, slowest first."""
        order = ("layer", self.part, "query")
        return tuple(a for a in order if a is not None and a in self.axes and a != self._across)

    def _size(self, axis: str) -> int:
        return int(self.shown.shape[self.axes.index(axis)])

    def _row(self, index: dict[str, int]) -> str:
        query = index.pop("query", None)
        name = self._component(index)
        return name if query is None else f"{name} from {query}"

    def _flat(self, values: np.ndarray) -> np.ndarray:
        """Cells in two dimensions, rows and columns as in `grid`."""
        across = [] if self._across is None else [self._across]
        order = [self.axes.index(axis) for axis in (*self._upward, *across)]
        folded = values.transpose(order)
        return folded.reshape(-1, folded.shape[-1]) if across else folded.reshape(-1, 1)

    def to_grid(self, cell: tuple[int, ...]) -> tuple[int, int]:
        """Row and column at which `grid` shows a cell."""
        index = dict(zip(self.axes, cell, strict=True))
        upward = self._upward
        place = np.ravel_multi_index(
            [index[axis] for axis in upward], [self._size(axis) for axis in upward]
        )
        return int(place), index.get(self._across or "", 0)

    def from_grid(self, row: int, column: int) -> tuple[int, ...]:
        """The cell that `grid` shows at a row and column."""
        upward = self._upward
        found = np.unravel_index(row, [self._size(axis) for axis in upward])
        index = dict(zip(upward, map(int, found), strict=True))
        if self._across is not None:
            index[self._across] = column
        return tuple(index[axis] for axis in self.axes)

    def summary(self) -> str:
        """What was patched, the baselines, and the strongest cells with their intervals."""
        n = len(self.pairs)
        metric, unit = self.metric.replace("_", " "), metrics.unit(self.metric)
        lines = [
            f"{self._doing()} {self._title()} of "
            f"{self.provenance.model} on {self.pairs.name}: mean {metric} {self.clean.mean():.3f} "
            f"clean and {self.corrupted.mean():.3f} corrupted ({unit}, n = {n})."
        ]
        if not self.normalised:
            lines.append("The baselines are too close to divide by, so raw changes are shown.")
        bounds = self.interval if self.normalised else self.change_interval
        best = [
            f"{self.label(cell)} {self.shown[cell]:.3f}"
            + (f" [{bounds[0][cell]:.3f}, {bounds[1][cell]:.3f}]" if n > 1 else "")
            for cell in self.strongest(3)
            if self.shown[cell] != 0
        ]
        how_sure = f"{self.confidence:.0%} bootstrap intervals over prompts"
        if n == 1:
            how_sure = "no interval: one prompt says nothing about the spread over prompts"
        if not best:
            return " ".join([*lines, "Patching changes nothing anywhere, to the bit."])
        lines.append(f"Strongest ({self.unit}): {'; '.join(best)}. {how_sure.capitalize()}.")
        if n > 1:
            found = int((self.adjusted_p <= SURE).sum())
            lines.append(
                f"{found} of {self.adjusted_p.size} cells change more than chance (sign flips over "
                f"prompts, false-discovery rate {SURE:.0%})."
            )
        return " ".join(lines)

    def _title(self) -> str:
        if self.site == "latent":
            return "latents of a dictionary"
        title, count = sites.SITES[self.site].title, len(self.directions)
        along = "one direction of the " if count == 1 else f"{count} directions of the "
        return along + title if count else title

    def _doing(self) -> str:
        return f"{self.ablation}-ablating".capitalize() if self.ablation else self.direction.title()

    def script(self) -> str:
        """Python code that computes this result again.

        What cannot be written down, as a function of one's own or a dictionary, is named.
        """
        made = dict(self.provenance.parameters)
        shown = {name: repr(made[name]) for name in _SCRIPT_ARGUMENTS if name in made}
        shown["positions"] = repr(read_positions(made["positions"]))
        optional = {
            "layers": repr(tuple(made.get("layers") or ())),
            "units": repr(self.units if self.part == "neuron" else tuple(u for _, u in self.units)),
            "directions": "directions",
            "dictionary": "dictionary",
        }
        present = {
            "layers": bool(made.get("layers")),
            "units": bool(self.units),
            "directions": bool(len(self.directions)),
            "dictionary": self.site == "latent",
        }
        shown |= {name: text for name, text in optional.items() if present[name]}
        if self.metric not in metrics.METRICS:
            shown["metric"] = "metric"
        arguments = "".join(f"    {name}={text},\n" for name, text in shown.items())
        return (
            "from workbench import ContrastPairs, load_model\n"
            "from analyses import activation_patching\n\n"
            f"{self._needed()}"
            f"model = load_model({self.provenance.model!r})\n"
            f"pairs = {self.pairs.code}\n"
            f"result = activation_patching.patch(\n    model,\n    pairs,\n{arguments})\n"
            "print(result.summary())\n"
        )

    def _needed(self) -> str:
        """What the script takes from its reader."""
        needed = ""
        if self.metric not in metrics.METRICS:
            needed += f"# metric: your function {self.metric}\n"
        if len(self.directions):
            needed += f"import torch\n\ndirections = torch.tensor({self.directions.tolist()!r})\n"
        if self.site == "latent":
            needed += f"# dictionary: {self.provenance.parameters['dictionary']}\n"
        return needed

    def _hover(self) -> np.ndarray:
        text = np.empty(self.shown.shape, dtype=object)
        bounds = self.interval if self.normalised else self.change_interval
        for cell in np.ndindex(self.shown.shape):
            low, high = bounds[0][cell], bounds[1][cell]
            known = np.isfinite(low) and np.isfinite(high)
            sure = f"{self.confidence:.0%} [{low:.3f}, {high:.3f}], " if known else ""
            text[cell] = f"{sure}n = {len(self.pairs)}, adjusted p = {self.adjusted_p[cell]:.2g}"
        return text


# What of a position can be patched by itself.
_PARTS = ("head", "group", "neuron", "direction", "latent")
_SCRIPT_ARGUMENTS = (
    "site",
    "metric",
    "direction",
    "ablation",
    "reference",
    "positions",
    "confidence",
    "n_resamples",
    "seed",
)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A result laid out in two dimensions, ready to be drawn.

    Attributes:
        values: What is shown.
        rows: Label of each row, lowest first.
        columns: Label of each column, left first; empty where there is one unnamed column.
        row_title: What the rows are.
        column_title: What the columns are, None where there is one unnamed column.
        hover: Further text of each cell.
        adjusted_p: P-value of each cell, adjusted over all cells.
    """

    values: Float[np.ndarray, "row column"]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_title: str
    column_title: str | None
    hover: np.ndarray
    adjusted_p: Float[np.ndarray, "row column"]


def write_positions(positions: cells.Positions) -> Any:
    """Positions as JSON types, for provenance."""
    if isinstance(positions, str):
        return positions
    return [list(p) if isinstance(p, tuple) else p for p in positions]


def read_positions(written: Any) -> cells.Positions:
    """Positions as `write_positions` wrote them."""
    if isinstance(written, str):
        return written
    return [tuple(p) if isinstance(p, list) else p for p in written]
