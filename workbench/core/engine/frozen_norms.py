"""A norm with its scale held fixed, so that what goes through it is a sum again.

LayerNorm and RMSNorm divide each position by one number and multiply each coordinate by a gain.
With that number held at what it is for the stream in front of us, the norm is linear, and what it
does to the whole stream is the sum of what it does to every part of it. Nothing is assumed of how a
model writes its norm: gain, bias and centring are read from what the norm does to a probe, and the
frozen norm must give what the norm gives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float

from workbench.core.engine import decoder as parts

Tensor = torch.Tensor
# How much a shift of all coordinates may change what a norm that takes the mean off gives.
_SHIFT, _SAME = 3.0, 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenNorm:
    """A norm as it acts on some rows, with the scale of each held fixed.

    Attributes:
        gain: Of each coordinate; 1 for a norm without one.
        bias: Added to every row at the end.
        scale: What each row is multiplied by.
        centred: Whether the mean over coordinates is taken off first.
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    scale: Float[Tensor, "*rows 1"]
    centred: bool

    @classmethod
    def at(
        cls,
        norm: Callable[[Tensor], Tensor],
        rows: Float[Tensor, "*rows d_model"],
    ) -> FrozenNorm:
        """Freeze a norm at the rows that it is given.

        Args:
            norm: Applies the norm to rows; what gives its input back counts as one, too.
            rows: What it is given.

        Returns:
            The frozen norm, which gives what the norm gives.

        Raises:
            NotTakenApart: If it is not a division by one number a row.
        """
        width = rows.shape[-1]
        half = torch.linspace(1, 2, width // 2, dtype=rows.dtype, device=rows.device)
        # No coordinate is small, so that every gain can be read off. Mean 0 and mean square 1 make
        # it the gain itself, and the scale one over the row's own root mean square.
        probe = _centred(
            torch.cat((half, -half, half.new_ones(width % 2)))[None], centred=width > 1
        )
        probe = probe / probe.square().mean().sqrt()
        bias = norm(torch.zeros_like(probe))[0]
        seen, shifted = norm(probe) - bias, norm(probe + _SHIFT) - bias
        centred = bool((seen - shifted).abs().max() <= _SAME * seen.abs().max())
        gain = (seen / _centred(probe, centred))[0]
        through, theirs = _centred(rows, centred) * gain, norm(rows) - bias
        size = (through * through).sum(-1, keepdim=True)
        scale = (through * theirs).sum(-1, keepdim=True) / size.clamp(min=1e-30)
        gap = (through * scale - theirs).abs().max() / theirs.abs().max().clamp(min=1)
        if not float(gap) <= parts.TOLERANCE:
            raise parts.NotTakenApart("one of its norms is no division by one number a position")
        return cls(gain, bias, scale, centred)

    def of(self, rows: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What the norm makes of a part of its rows, which leaves the bias out."""
        return _centred(rows, self.centred) * self.gain * self.scale

    def pulled(self, direction: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What reads a part before the norm as the direction reads it after the norm."""
        return _centred(direction * self.gain, self.centred) * self.scale


def _centred(rows: Tensor, centred: bool) -> Tensor:
    return rows - rows.mean(-1, keepdim=True) if centred else rows
