"""How far later heads read what earlier heads write: Q-, K- and V-composition by weights."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.weights import circuits, nulls
from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.evidence import SURE

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
ANALYSIS = "weights.composition"
KINDS = ("Q", "K", "V")
# Heads beyond which a figure shows the largest of each pair of layers.
DRAWN = 64
_SPOKEN = 3
# A second, of one core.
_MULTIPLICATIONS = 3e10


@dataclasses.dataclass(frozen=True)
class Composition(results.Result):
    """Composition scores of every head with every head of a later layer.

    Attributes:
        senders: Layer and head of each sender.
        receivers: Layer and head of each receiver.
        scores: |W_A W_B| / (|W_A| |W_B|) for Q, K and V; NaN where the receiver is not later.
        expected: Mean of the score with the stream randomly turned between the two heads.
        z: The score less that mean, in standard deviations of the turned scores.
        p_value: Share of turns with a score as large, adjusted over all pairs and kinds.
        folded: Whether norms are folded in.
    """

    senders: Int[np.ndarray, "sender 2"]
    receivers: Int[np.ndarray, "receiver 2"]
    scores: Float[np.ndarray, "3 sender receiver"]
    expected: Float[np.ndarray, "3 sender receiver"]
    z: Float[np.ndarray, "3 sender receiver"]
    p_value: Float[np.ndarray, "3 sender receiver"]
    folded: bool

    @property
    def excess(self) -> Float[np.ndarray, "3 sender receiver"]:
        """Scores less what random turns give."""
        return self.scores - self.expected

    def strongest(self, kind: str | None = None, n: int = 10) -> pd.DataFrame:
        """The pairs furthest above random turns.

        Args:
            kind: "Q", "K" or "V"; all three if not given.
            n: How many.

        Returns:
            One row a pair, the largest excess first.
        """
        chosen = [KINDS.index(_known(kind))] if kind else list(range(len(KINDS)))
        values = np.nan_to_num(self.excess[chosen], nan=-np.inf).ravel()
        count = min(n, int(np.isfinite(values).sum()))
        best = np.argpartition(-values, count - 1)[:count] if count else np.array([], dtype=int)
        best = best[np.argsort(-values[best], kind="stable")]
        which, sender, receiver = np.unravel_index(best, self.excess[chosen].shape)
        return self._frame(np.array(chosen)[which], sender, receiver)

    def to_frame(self) -> pd.DataFrame:
        """One row a pair and kind."""
        return self._frame(*np.nonzero(np.isfinite(self.scores)))

    def _frame(self, which: np.ndarray, sender: np.ndarray, receiver: np.ndarray) -> pd.DataFrame:
        at = (which, sender, receiver)
        return pd.DataFrame(
            {
                "kind": np.array(KINDS)[which],
                "sender_layer": self.senders[sender, 0],
                "sender_head": self.senders[sender, 1],
                "receiver_layer": self.receivers[receiver, 0],
                "receiver_head": self.receivers[receiver, 1],
                "score": self.scores[at],
                "expected": self.expected[at],
                "z": self.z[at],
                "adjusted_p": self.p_value[at],
            }
        )

    def grid(
        self, kind: str, layers: tuple[int, int] | None = None
    ) -> tuple[Float[np.ndarray, "row column"], list[str], list[str]]:
        """What a figure shows.

        Args:
            kind: "Q", "K" or "V".
            layers: Layer of the senders and of the receivers; all if not given.

        Returns:
            Scores less the expected ones, receivers by senders, with their names; where there are
            too many heads, the largest of each pair of layers.

        Raises:
            ValueError: If there are no such pairs.
        """
        excess = self.excess[KINDS.index(_known(kind))]
        if layers is not None:
            rows, columns = (
                np.flatnonzero(which[:, 0] == layer)
                for which, layer in ((self.receivers, layers[1]), (self.senders, layers[0]))
            )
            if not rows.size or not columns.size:
                raise ValueError(f"no scores from layer {layers[0]} to layer {layers[1]}")
            names = _names(self.receivers[rows]), _names(self.senders[columns])
            return excess[np.ix_(columns, rows)].T, *names
        if not self.by_layer:
            return excess.T, _names(self.receivers), _names(self.senders)
        later, earlier = np.unique(self.receivers[:, 0]), np.unique(self.senders[:, 0])
        values = np.full((len(later), len(earlier)), np.nan)
        for (i, row), (j, column) in itertools.product(enumerate(later), enumerate(earlier)):
            if row > column:
                block = excess[np.ix_(self.senders[:, 0] == column, self.receivers[:, 0] == row)]
                values[i, j] = block.max()
        return values, [f"L{layer}" for layer in later], [f"L{layer}" for layer in earlier]

    @property
    def by_layer(self) -> bool:
        """Whether the figure of all heads shows pairs of layers instead."""
        return max(len(self.senders), len(self.receivers)) > DRAWN

    def figure(
        self,
        kind: str = "K",
        selected: plots.Cell | None = None,
        *,
        layers: tuple[int, int] | None = None,
    ) -> go.Figure:
        """Heat map of the scores less those of random turns.

        Args:
            kind: "Q", "K" or "V".
            selected: Cell of `grid` to outline.
            layers: Layer of the senders and of the receivers; all if not given.

        Returns:
            The map, receivers upward, senders to the right.
        """
        values, rows, columns = self.grid(kind, layers)
        largest = ", largest of the layers" if layers is None and self.by_layer else ""
        return plots.heatmap(
            values,
            row_labels=rows,
            column_labels=columns,
            row_title="receiver",
            column_title="sender",
            colour_title=f"{kind}-composition beyond chance{largest}",
            selected=selected,
        )

    def summary(self) -> str:
        """How many pairs compose beyond chance, and which most."""
        lines = [f"{self.provenance.model}, composition of heads by their weights."]
        for i, kind in enumerate(KINDS):
            pairs = int(np.isfinite(self.scores[i]).sum())
            found = int((self.p_value[i] <= SURE).sum())
            best = ", ".join(
                f"{row['sender_layer']}.{row['sender_head']} → "
                f"{row['receiver_layer']}.{row['receiver_head']} ({row['score']:.3f} where chance "
                f"gives {row['expected']:.3f}, z = {row['z']:.1f})"
                for row in self.strongest(kind, _SPOKEN).to_dict("records")
            )
            lines.append(
                f"{kind}: {found:,} of {pairs:,} pairs beyond random turns of the stream between "
                f"them (adjusted p at most {SURE}); largest: {best}."
            )
        lines.append(
            "All trained heads prefer some directions of the stream, so that many pairs are beyond "
            "random turns: their order says more than that. A score shows that a head can read "
            "another, not that it does on a prompt."
        )
        return " ".join(lines)


def composition_seconds(model: TransformerBridge, n_layers: int | None = None) -> float:
    """About how long `composition` takes on one core, for that many layers."""
    layers = int(model.cfg.n_layers) if n_layers is None else n_layers
    across = float(model.cfg.n_heads) * float(model.cfg.d_head)
    once = 2 * across**2 * float(model.cfg.d_model) / _MULTIPLICATIONS
    return len(KINDS) * once * layers * (layers - 1) / 2


def composition(
    model: TransformerBridge,
    *,
    layers: Sequence[int] | None = None,
    folded: bool = True,
    progress: running.Progress | None = None,
) -> Composition:
    """Score how far each head can read what each earlier head writes.

    With OV = W_V W_O of the sender: Q is OV · W_Q W_Kᵀ of the receiver, K is OV · W_K W_Qᵀ, V is
    OV · OV. The null turns the stream at random between the two, which keeps the spectra of both;
    its mean and variance are exact, and p-values come from the gamma variable that has them.

    Args:
        model: The bridge.
        layers: Layers to look at, senders and receivers; all if not given.
        folded: Whether norms are folded into what reads the stream, and the mean over coordinates,
            which nothing reads, is taken off; without it weights are as they are stored.
        progress: Told how far it is; may raise to stop.

    Returns:
        The scores.

    Raises:
        ValueError: If fewer than two layers with heads are looked at.
    """
    started, report = time.perf_counter(), progress or running.no_progress
    of = circuits.Circuits(model, folded=folded)
    chosen = sorted(
        {of.layer(layer) for layer in (range(of.n_layers) if layers is None else layers)}
    )
    if len(chosen) < len("sender receiver".split()):
        raise ValueError(
            f"composition needs a head in an earlier and one in a later layer; there is "
            f"{'one layer' if chosen else 'no layer'} to look at"
        )
    width = of.d_model - int(of.centred)
    written: list[_Side] = []
    shape = (len(KINDS), len(chosen), of.n_heads, len(chosen), of.n_heads)
    scores = np.full(shape, np.nan, dtype=np.float32)
    variance = np.full(shape, np.nan)
    for place, layer in enumerate(chosen):
        report(place**2 / len(chosen) ** 2, f"layer {layer}")
        heads = of.heads(layer)
        reading = _readings(heads)
        for earlier, sender in enumerate(written):
            for kind, receiver in enumerate(reading):
                at = (kind, earlier, slice(None), place)
                scores[at] = _overlaps(sender.small, receiver.small)
                _, variance[at] = nulls.overlap_moments(
                    sender.evenness[:, None], receiver.evenness[None], width
                )
        written.append(_sent(heads))
    pairs = [(layer, head) for layer in chosen for head in range(of.n_heads)]
    flat = (len(KINDS), len(pairs), len(pairs))
    scores = scores.reshape(flat)
    known = np.isfinite(scores)
    expected, z, p_value = (np.full(flat, np.nan, dtype=np.float32) for _ in range(3))
    expected[known], z[known], raw = nulls.overlap_against_chance(
        np.square(scores[known], dtype=np.float64), variance.reshape(flat)[known], width
    )
    p_value[known] = evidence.adjusted_for_discoveries(raw)
    first, last = of.n_heads, len(pairs) - of.n_heads
    return Composition(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={"layers": chosen, "folded": folded},
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        senders=np.array(pairs[:last]),
        receivers=np.array(pairs[first:]),
        scores=scores[:, :last, first:].copy(),
        expected=expected[:, :last, first:].copy(),
        z=z[:, :last, first:].copy(),
        p_value=p_value[:, :last, first:].copy(),
        folded=folded,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Side:
    """One side of all pairs of a layer, of Frobenius norm 1, through the head's small width.

    Attributes:
        small: As rows of the stream.
        evenness: Σ s⁴ of its singular values, of which Σ s² is 1.
    """

    small: Float[Tensor, "head d_head d_model"]
    evenness: Float[np.ndarray, " head"]


def _sent(heads: circuits.Heads) -> _Side:
    """What each head writes, in the units of what it reads."""
    return _side(torch.linalg.qr(heads.value).R @ heads.output)


def _readings(heads: circuits.Heads) -> tuple[_Side, _Side, _Side]:
    """What each head reads with its queries, its keys and its values."""
    query, key, value = heads.query, heads.key, heads.value
    pairs = ((query, key), (key, query), (value, heads.output.transpose(1, 2)))
    return tuple(
        _side((read @ torch.linalg.qr(other).R.transpose(1, 2)).transpose(1, 2))
        for read, other in pairs
    )  # pyright: ignore[reportReturnType]


def _side(small: Tensor) -> _Side:
    norm = small.norm(dim=(1, 2), keepdim=True)
    # A head that writes or reads nothing overlaps with nothing.
    unit = small / torch.where(norm > 0, norm, 1)
    gram = unit @ unit.transpose(1, 2)
    evenness = torch.where(norm[:, 0, 0] > 0, gram.square().sum((1, 2)), 1)
    return _Side(unit, evenness.cpu().numpy().astype(np.float64))


def _overlaps(
    left: Float[Tensor, "sender d_head d_model"], right: Float[Tensor, "receiver d_head d_model"]
) -> np.ndarray:
    """Frobenius norm of the product of each sender with each receiver."""
    product = left.flatten(0, 1) @ right.flatten(0, 1).T
    senders, receivers, width = len(left), len(right), left.shape[1]
    cells = product.reshape(senders, width, receivers, width)
    return cells.square().sum((1, 3)).sqrt().cpu().numpy()


def _names(which: np.ndarray) -> list[str]:
    return [f"{layer}.{head}" for layer, head in which]


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not known: use 'Q', 'K' or 'V'")
    return kind
