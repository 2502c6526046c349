"""Recompute only what an intervention changes: the exact fast way of running many patches.

A patch at layer l and position p of a causal decoder changes nothing before l, nothing left of p,
and nothing that another patch changes. So, given the parts of a model (`decoder`) and the
activations of the unpatched run:

1. An `Entry` says before which layer and from which position on the residual stream of a run
   differs, and how.
2. From there on only rows (one position of one run) at or right of the patch are computed, against
   the cached keys and values of the unpatched run to their left. The runs of many patches go
   through the layers together, packed row by row, each joining at its own layer.
3. At the last layer only the last position is asked.

The results are those of whole forward passes up to the rounding of sums in another order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int

from workbench.core.engine import decoder as parts

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class Entry:
    """Runs whose residual stream first differs from the unpatched one before the same layer.

    Attributes:
        layer: That layer; the number of layers means after the last.
        starts: First position of each run that differs.
        prompts: Which unpatched prompt each run is a patch of.
        rows: The new stream: at that position only (one row), or there and everywhere to its right
            (all runs then start at the same position).
    """

    layer: int
    starts: Int[Tensor, " run"]
    prompts: Int[Tensor, " run"]
    rows: Float[Tensor, "run row d_model"]


def ends(
    model: parts.Decoder, base: parts.Activations, entries: Sequence[Entry]
) -> Float[Tensor, "run d_model"]:
    """The stream after the last layer, at the last position, of every run.

    Args:
        model: The model in parts.
        base: The unpatched run.
        entries: Where the stream differs; all go through the layers together.

    Returns:
        One row a run, in the order of the entries.
    """
    depth = len(model.layers)
    order = sorted(range(len(entries)), key=lambda i: entries[i].layer)
    chosen = [entries[i] for i in order]
    packed = _Packed(chosen, base.resid[0].shape[1])
    joining: list[list[Entry]] = [[] for _ in range(depth + 1)]
    for entry in chosen:
        joining[entry.layer].append(entry)
    stream = base.resid[0].new_empty(0, base.resid[0].shape[-1])
    runs = 0
    for layer in range(depth):
        runs += sum(len(entry.prompts) for entry in joining[layer])
        if runs:
            stream = _layer(model, base, layer, packed, runs, stream, joining[layer])
    late = [_at_end(base, entry) for entry in joining[depth]]
    out = torch.cat([stream, *late])
    # Back into the order in which the entries came.
    sizes = [len(entry.prompts) for entry in chosen]
    pieces = dict(zip(order, out.split(sizes), strict=True))
    return torch.cat([pieces[i] for i in range(len(entries))])


class _Packed:
    """Rows of many runs, sorted by the layer at which their run begins, and where they belong."""

    def __init__(self, entries: list[Entry], length: int) -> None:
        self.prompts = torch.cat([entry.prompts for entry in entries])
        starts = torch.cat([entry.starts for entry in entries])
        lengths = length - starts
        self.row_ends = torch.cumsum(lengths, 0)
        self.first, self.last = self.row_ends - lengths, self.row_ends - 1
        run = torch.arange(len(starts), device=starts.device).repeat_interleave(lengths)
        rows = torch.arange(len(run), device=starts.device)
        self.position = rows - self.first[run] + starts[run]
        # Where each row stands among [run, position], and among the unpatched [prompt, position].
        self.flat = run * length + self.position
        self.unpatched = self.prompts[run] * length + self.position


def _at_end(base: parts.Activations, entry: Entry) -> Float[Tensor, "run d_model"]:
    reaches = entry.starts + entry.rows.shape[1] == base.resid[-1].shape[1]
    return torch.where(reaches[:, None], entry.rows[:, -1], base.resid[-1][entry.prompts, -1])


def _layer(  # noqa: PLR0913, PLR0917 -- one step of `ends`
    model: parts.Decoder,
    base: parts.Activations,
    layer: int,
    packed: _Packed,
    runs: int,
    stream: Float[Tensor, "row d_model"],
    joining: list[Entry],
) -> Float[Tensor, "new_row d_model"]:
    """One layer for all runs that have begun; `stream` holds the rows of those begun before."""
    block, at_last = model.layers[layer], layer == len(model.layers) - 1
    old_rows, rows = len(stream), int(packed.row_ends[runs - 1])
    prompts = packed.prompts[:runs]
    length = base.resid[0].shape[1]
    # At the last layer only the last position is asked for, so only its queries are needed.
    kept = (base.rotated_k, base.v) if at_last else (base.rotated_k, base.v, base.rotated_q)
    runs_own = [tensor[layer].index_select(0, prompts) for tensor in kept]
    flat = [x.view(runs * length, *x.shape[2:]) for x in runs_own]
    if old_rows:
        _write(block, stream, packed.flat[:old_rows], packed.position[:old_rows], flat)
    new_rows = base.resid[layer].flatten(0, 1).index_select(0, packed.unpatched[old_rows:rows])
    if joining:
        where, new = _changed(packed, runs, joining)
        _write(block, new, packed.flat[where], packed.position[where], flat)
        new_rows[where - old_rows] = new
    stream = torch.cat((stream, new_rows)) if old_rows else new_rows
    k, v = runs_own[:2]
    if at_last:
        stream = stream.index_select(0, packed.last[:runs])
        position = torch.full((runs,), length - 1, device=stream.device)
        q = block.rotate_queries(block.queries(stream), position)[:, None]
        z = block.attend(q, k, v)[:, 0]
    else:
        z = block.attend(runs_own[2], k, v).reshape(runs * length, *flat[2].shape[1:])
        z = z.index_select(0, packed.flat[:rows])
    return block.after(stream, block.attn_out(z))


def _changed(
    packed: _Packed, runs: int, joining: list[Entry]
) -> tuple[Int[Tensor, " row"], Float[Tensor, "row d_model"]]:
    """Which rows the last of the runs change where they join, and their new stream."""
    offset = runs - sum(len(entry.prompts) for entry in joining)
    where: list[Tensor] = []
    for entry in joining:
        begin = packed.first[offset : offset + len(entry.prompts), None]
        where.append((begin + torch.arange(entry.rows.shape[1], device=begin.device)).flatten())
        offset += len(entry.prompts)
    return torch.cat(where), torch.cat([entry.rows.flatten(0, 1) for entry in joining])


def _write(
    block: parts.Layer,
    stream: Float[Tensor, "row d_model"],
    flat: Int[Tensor, " row"],
    positions: Int[Tensor, " row"],
    into: Sequence[Tensor],
) -> None:
    """Put the keys, values and, if there is room, queries of rows of the stream into place."""
    normed = block.normed(stream)
    into[0][flat] = block.rotate_keys(block.project("k", normed), positions)
    into[1][flat] = block.project("v", normed)
    if len(into) > len(("keys", "values")):
        into[2][flat] = block.rotate_queries(block.project("q", normed), positions)
