"""How the activation of a hook point is laid out: which axes are positions, and what is left.

1. The model runs two small prompts of different number and length, up to the hook point only. An
   axis whose size follows the number of prompts is the batch, one that follows their length is
   positions (two such axes are queries and keys), all others are coordinates.
2. `Layout.rows` brings any activation into one form, [batch, position, coordinate]: the position is
   the query's where there are queries and keys, and heads and widths are flattened together.
3. A coordinate has a label, and the name of a unit where it is one: of a hook point that is a site
   by any of its names, and of a head's number wherever there is one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float

from workbench.core.engine import running, sites, units

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
# A mask in front of a softmax is written as a number as low as this, or as minus infinity.
MASKED = -1e30
# Prompts and tokens of two runs; no two of the four sizes change alike, in a short context neither.
_PROBES = ((3, 2), (7, 5))
_HEADS_AND_WIDTH = 2
# What readers call some axes.
_SPOKEN = {"d_model": "coordinate", "width": "coordinate", "d_vocab": "token id"}
# What must be switched on before a hook point fires, by how its name ends.
_SWITCHES = {
    "hook_result": "set_use_attn_result",
    "hook_attn_in": "set_use_attn_in",
    "hook_q_input": "set_use_split_qkv_input",
    "hook_k_input": "set_use_split_qkv_input",
    "hook_v_input": "set_use_split_qkv_input",
    "hook_mlp_in": "set_use_hook_mlp_in",
}


class Reached(Exception):
    """The hook point has fired; nothing after it is asked for."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the axes of a hook point mean.

    Attributes:
        hook: The hook point, by the name that was asked for.
        same_as: The first name of the same hook point; empty if that is the name asked for.
        axes: Names of the activation's axes in order, as in the glossary; "one" for an axis of a
            single number.
        sizes: Their sizes; 0 for those that differ from prompt to prompt.
        whole_numbers: Whether it holds whole numbers (token ids, positions).
        site: Kind of the site that it is, by any of its names; empty if it is none.
        layer: Which block it is in; -1 if in none.
    """

    hook: str
    same_as: str
    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    whole_numbers: bool
    site: str
    layer: int

    @classmethod
    def of(cls, model: TransformerBridge, hook: str) -> Layout:
        """Look at a hook point.

        Args:
            model: The bridge.
            hook: Any of its hook points.

        Returns:
            Its layout.

        Raises:
            ValueError: If there is no such hook point, it does not fire, or its axes cannot be told
                apart.
        """
        points = running.require_hooks(model, [hook])
        known = model.hook_dict
        names = [name for name, point in known.items() if point is points[hook]]
        n_ctx = int(model.cfg.n_ctx)
        probes = [(batch, min(length, n_ctx)) for batch, length in _PROBES]
        seen = [read(model, torch.zeros(size, dtype=torch.long), hook) for size in probes]
        axes, sizes = _named(model, hook, [tuple(one.shape) for one in seen], probes)
        site, layer = _site(names, hook)
        return cls(
            hook=hook,
            same_as="" if names[0] == hook else names[0],
            axes=axes,
            sizes=sizes,
            whole_numbers=not seen[0].is_floating_point(),
            site=site,
            layer=layer,
        )

    @property
    def attends(self) -> bool:
        """Whether it holds a number for each query and key."""
        return "query" in self.axes

    @property
    def shape(self) -> str:
        """Its axes in words, with the sizes that do not change."""
        pairs = zip(self.axes, self.sizes, strict=True)
        said = [f"{name} {size}" if size > 1 else name for name, size in pairs if name != "one"]
        return " × ".join([*said, *(["1"] if "one" in self.axes else [])])

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Axes that are coordinates, with their sizes, outermost first."""
        pairs = zip(self.axes, self.sizes, strict=True)
        return tuple(
            (name, size)
            for name, size in pairs
            if name not in {"batch", "position", "query", "key", "one"}
        )

    @property
    def width(self) -> int:
        """How many coordinates a position has; of attention, how many heads a query has."""
        width = 1
        for _, size in self.parts:
            width *= size
        return width

    def rows(self, activation: Tensor) -> Float[Tensor, "batch position width"]:
        """An activation with its coordinates flattened; keys count as coordinates of a head."""
        at = self.axes.index("query" if self.attends else "position")
        value = activation.movedim(at, 1) if at > 0 else activation[None]
        return value.reshape(*value.shape[:2], -1).float()

    def by_head(self, activation: Tensor) -> Float[Tensor, "batch query key head"]:
        """Attention with heads last."""
        return activation.movedim(self.axes.index("head"), -1).float()

    def label(self, coordinate: int, keys: int = 1) -> str:
        """What a coordinate is, in words.

        Args:
            coordinate: Its number as `rows` counts.
            keys: How many keys there are, of attention.

        Returns:
            Such as "coordinate 5", "neuron 5", or "head 1 · d_head 3".
        """
        parts = [*self.parts, *([("key", keys)] if self.attends else [])]
        said: list[str] = []
        for name, size in reversed(parts):
            coordinate, at = divmod(coordinate, size)
            said.append(f"{_SPOKEN.get(name, name)} {at}")
        return " · ".join(reversed(said)) or "its one number"

    def unit(self, coordinate: int, keys: int = 1) -> str:
        """Name of the unit that a coordinate is, or belongs to; empty if there is none.

        Args:
            coordinate: Its number as `rows` counts.
            keys: How many keys there are, of attention.

        Returns:
            Such as "neuron 2.13" or "head 1.3".
        """
        names = [name for name, _ in self.parts]
        if self.layer >= 0 and "head" in names:
            inner = keys if self.attends else 1
            for _, size in self.parts[names.index("head") + 1 :]:
                inner *= size
            return f"head {self.layer}.{coordinate // inner}"
        if self.site in units.KINDS:
            return f"{self.site} {self.layer}.{coordinate}"
        return ""


def read(model: TransformerBridge, tokens: Tensor, hook: str) -> Tensor:
    """The activation at a hook point, of a run that ends there.

    Args:
        model: The bridge.
        tokens: Prompts of one length.
        hook: One of its hook points.

    Returns:
        The activation as it is.

    Raises:
        ValueError: If the hook point does not exist, does not fire, or shows no array.
    """
    seen: list[Any] = []

    def keep(activation: Tensor) -> Tensor:
        found: Any = activation
        seen.append(found.clone() if isinstance(found, Tensor) else found)
        raise Reached

    with contextlib.suppress(Reached), running.observing(model, {hook: keep}):
        model(tokens.to(model.cfg.device), return_type="logits")
    if not seen:
        switch = _SWITCHES.get(hook.rpartition(".")[2])
        how = f": call model.{switch}(True) first" if switch and hasattr(model, switch) else ""
        raise ValueError(
            f"{hook!r} exists but does not fire in a plain forward pass of this model{how}"
        )
    if not isinstance(seen[0], Tensor):
        raise ValueError(f"{hook!r} shows a {type(seen[0]).__name__}, not an array of numbers")
    return seen[0]


def unmasked(values: Tensor) -> Bool[Tensor, "..."]:
    """Where a number is an activation, and not a mask in front of a softmax."""
    return torch.isfinite(values) & (values > MASKED)


def _named(
    model: TransformerBridge,
    hook: str,
    shapes: list[tuple[int, ...]],
    probes: list[tuple[int, int]],
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and sizes of the axes; 0 for the size of one that differs from prompt to prompt."""
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(f"{hook!r} has another number of axes for other prompts: {shapes}")
    pairs = list(zip(*shapes, strict=True))
    batches, lengths = zip(*probes, strict=True)
    roles = ["batch" if pair == batches else "along" for pair in pairs]
    moving = [i for i, pair in enumerate(pairs) if roles[i] == "along" and pair == lengths]
    changing = [i for i, pair in enumerate(pairs) if len(set(pair)) > 1 and roles[i] != "batch"]
    if not 1 <= len(moving) <= _HEADS_AND_WIDTH or any(i not in moving for i in changing):
        raise ValueError(
            f"{hook!r} has the shape {shapes[0]} for {probes[0][0]} prompts of {probes[0][1]} "
            "tokens: expected an axis of positions, or of queries and keys"
        )
    names: list[str] = []
    for i, pair in enumerate(pairs):
        if roles[i] == "batch":
            names.append("batch")
        elif i in moving:
            names.append(("query", "key")[moving.index(i)] if len(moving) > 1 else "position")
        elif pair[0] == 1 and i in {0, len(pairs) - 1}:
            # One number a position, or an axis in front of what is the same for every prompt.
            names.append("one")
        else:
            names.append(_coordinate(model, hook, pair[0], last=i == len(pairs) - 1, of=pairs))
    return tuple(names), tuple(
        0 if name in {"batch", "position", "query", "key"} else pair[0]
        for name, pair in zip(names, pairs, strict=True)
    )


def _coordinate(
    model: TransformerBridge, hook: str, size: int, *, last: bool, of: list[tuple[int, ...]]
) -> str:
    """Name of an axis that neither prompts nor positions change."""
    cfg = model.cfg
    by_head = len(of) > len(("batch", "position", "width"))
    if by_head and not last:
        return "head" if size == int(cfg.n_heads) else "group"
    if by_head:
        return "d_head"
    known = (
        ("d_vocab", int(cfg.d_vocab), hook.startswith("unembed")),
        ("d_model", int(cfg.d_model), True),
        ("neuron", int(cfg.d_mlp or 0), ".mlp." in hook),
    )
    return next((name for name, full, fits in known if size == full and fits), "width")


def _site(names: list[str], hook: str) -> tuple[str, int]:
    """Kind and layer of the site that a hook point is by any of its names."""
    for name in names:
        try:
            return sites.of_hook(name)
        except ValueError:
            continue
    parts = hook.split(".")
    in_block = parts[0] == "blocks" and len(parts) > 1 and parts[1].isdigit()
    return "", int(parts[1]) if in_block else -1
