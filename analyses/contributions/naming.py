"""What edges and nodes are called, and in which steps a model changes its stream."""

from __future__ import annotations

import dataclasses
import functools
import re

# What the stream was given in a step, and the old stream itself, carried past what the step adds.
KINDS = ("head", "mlp", "attn bias", "mlp bias", "past attn", "past mlp", "past layer")
HEAD, MLP, ATTN_BIAS, MLP_BIAS = KINDS[:4]
CARRIED = frozenset(KINDS[4:])
BIASES = frozenset((ATTN_BIAS, MLP_BIAS))
INPUT = "input"
ADDS = ("attn", "mlp", "layer")
_EDGE = re.compile(
    r"head (?P<head_layer>\d+)\.(?P<head>\d+) from (?P<source>\d+) to (?P<target>\d+)"
    rf"|(?P<kind>{'|'.join(KINDS[1:])}) (?P<layer>\d+) at (?P<position>\d+)"
)
_NODE = re.compile(
    rf"{INPUT} at (?P<input>\d+)|after (?P<adds>{'|'.join(ADDS)}) (?P<layer>\d+)"
    r" at (?P<position>\d+)"
)
_LONGEST = 80
# Steps that are named one by one where a layout is told.
_SPOKEN = 4


@dataclasses.dataclass(frozen=True)
class Edge:
    """One part of one state of the stream.

    Attributes:
        kind: One of `KINDS`.
        layer: Which wrote it, or past which it was carried.
        head: Of that layer; -1 where it is no head's.
        source: Position that it comes from.
        target: Position that it was written at.
    """

    kind: str
    layer: int
    head: int
    source: int
    target: int

    def __str__(self) -> str:
        """As `of` reads it: "head 1.3 from 4 to 7", "mlp 1 at 7", "past attn 1 at 7"."""
        if self.kind == HEAD:
            return f"head {self.layer}.{self.head} from {self.source} to {self.target}"
        return f"{self.kind} {self.layer} at {self.target}"

    @classmethod
    def of(cls, written: Edge | str) -> Edge:
        """Read an edge.

        Args:
            written: Its name, or an edge.

        Returns:
            The edge.

        Raises:
            ValueError: If it is no name of an edge.
        """
        if isinstance(written, Edge):
            return written
        expected = "'head 1.3 from 4 to 7', 'mlp 1 at 7' or 'past attn 1 at 7'"
        found = _matched(_EDGE, written, "edge", expected)
        if found["kind"] is None:
            numbers = (int(found[name]) for name in ("head_layer", "head", "source", "target"))
            return cls(HEAD, *numbers)
        position = int(found["position"])
        return cls(found["kind"], int(found["layer"]), -1, position, position)


@dataclasses.dataclass(frozen=True)
class Node:
    """The stream at one position, after one step.

    Attributes:
        adds: What was added last: "attn", "mlp", "layer" (both at once), or "input" for nothing.
        layer: Which layer added it; -1 for the input.
        position: Where in the prompt.
    """

    adds: str
    layer: int
    position: int

    def __str__(self) -> str:
        """As `of` reads it: "input at 4", "after attn 1 at 7"."""
        if self.adds == INPUT:
            return f"{INPUT} at {self.position}"
        return f"after {self.adds} {self.layer} at {self.position}"

    @classmethod
    def of(cls, written: Node | str) -> Node:
        """Read a node.

        Args:
            written: Its name, or a node.

        Returns:
            The node.

        Raises:
            ValueError: If it is no name of a node.
        """
        if isinstance(written, Node):
            return written
        found = _matched(_NODE, written, "node", "'input at 4' or 'after attn 1 at 7'")
        if found["input"] is not None:
            return cls(INPUT, -1, int(found["input"]))
        return cls(found["adds"], int(found["layer"]), int(found["position"]))


def _matched(pattern: re.Pattern[str], written: str, kind: str, expected: str) -> re.Match[str]:
    found = pattern.fullmatch(written) if len(written) <= _LONGEST else None
    if found is None:
        raise ValueError(f"{written[:_LONGEST]!r} is no {kind}; expected for example {expected}")
    return found


def edge_or_node(written: Edge | Node | str) -> Edge | Node:
    """Read an edge or a node.

    Args:
        written: Name of either, or itself.

    Returns:
        Whichever it is.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(written, str) and not _NODE.fullmatch(written[:_LONGEST]):
        return Edge.of(written)
    return written if isinstance(written, Edge | Node) else Node.of(written)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The steps in which a model changes its stream, first to last.

    Attributes:
        adds: What each adds: "attn", "mlp", or "layer" for both at once.
        layers: The layer of each.
    """

    adds: tuple[str, ...]
    layers: tuple[int, ...]

    def __len__(self) -> int:
        """How many steps there are; there is one state more."""
        return len(self.adds)

    @functools.cached_property
    def _steps(self) -> dict[tuple[str, int], int]:
        pairs = zip(self.adds, self.layers, strict=True)
        found = {pair: step for step, pair in enumerate(pairs)}
        for (adds, layer), step in list(found.items()):
            if adds == "layer":
                found["attn", layer] = found["mlp", layer] = step
        return found

    def step(self, edge: Edge) -> int:
        """In which step an edge is written; the state that it enters is the one after that.

        Raises:
            ValueError: If the model has no such step.
        """
        word = edge.kind.removeprefix("past ").removesuffix(" bias")
        step = self._steps.get(("attn" if edge.kind == HEAD else word, edge.layer))
        if step is None or (edge.kind in CARRIED and self.adds[step] != word):
            raise ValueError(f"the model has no edge '{edge}': its steps are {self._named()}")
        return step

    def state(self, node: Node) -> int:
        """Number of the state that a node is, 0 for the input.

        Raises:
            ValueError: If the model has no such state.
        """
        if node.adds == INPUT:
            return 0
        step = self._steps.get((node.adds, node.layer))
        if step is None or self.adds[step] != node.adds:
            raise ValueError(f"the model has no state '{node}': its steps are {self._named()}")
        return step + 1

    def node(self, state: int, position: int) -> Node:
        """The node of a state at a position."""
        if state == 0:
            return Node(INPUT, -1, position)
        return Node(self.adds[state - 1], self.layers[state - 1], position)

    def layers_with(self, kind: str) -> tuple[int, ...]:
        """Layers that have edges of a kind."""
        word = kind.removeprefix("past ").removesuffix(" bias")
        adds = {"attn" if kind == HEAD else word}
        if kind not in CARRIED:
            adds.add(ADDS[-1])
        pairs = zip(self.adds, self.layers, strict=True)
        return tuple(layer for add, layer in pairs if add in adds)

    def carried(self, step: int) -> str:
        """Kind of the edge that carries the stream past a step."""
        return f"past {self.adds[step]}"

    def _named(self) -> str:
        names = [f"{adds} {layer}" for adds, layer in zip(self.adds, self.layers, strict=True)]
        some = names if len(names) <= _SPOKEN else [*names[:2], "…", names[-1]]
        return ", ".join(some)


def require_forward(part: Edge | Node, ends: tuple[int, int], length: int) -> None:
    """Check that an edge or node is within a prompt, and no edge runs backward.

    Args:
        part: The edge or node.
        ends: Positions that it comes from and is at.
        length: Positions up to the target.

    Raises:
        ValueError: If it is not.
    """
    source, target = ends
    if target >= length:
        raise ValueError(f"'{part}' is outside of positions 0 to {length - 1}")
    if source > target:
        raise ValueError(f"'{part}' does not run forward: a position sees none after it")
