"""Which places are units compared between, declared before anything is looked at?

1. "place": what lies at one hook point (a layer's neurons, its heads, a branch). "layer": what has
   one depth. "kind": what is of one kind (neurons against heads).
2. Or names of units by name of place, or clusters that were fitted from weights alone.
3. Units that no place holds count among all units, and are in no place.

Source: Hod et al. 2021, arXiv 2110.08058 (partitions come first, their test afterwards).

Units: a place is a set of units; its size counts them.

Limits: a mapping is taken at its word. It must not be made by looking at what fires for the
concept, nor from the index of a neuron, which means nothing in a trained layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

if TYPE_CHECKING:
    from workbench.core.engine.populations import Population

RULES = ("place", "layer", "kind")
_FEWEST = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Partition:
    """Units by place.

    Attributes:
        rule: How it was made: one of `RULES`, "given", or "clusters".
        names: Of the places.
        number: Place of each unit of the population; -1 for a unit that no place holds.
        layer: Depth of each unit.
    """

    rule: str
    names: tuple[str, ...]
    number: Int[np.ndarray, " unit"]
    layer: Int[np.ndarray, " unit"]

    @property
    def sizes(self) -> Int[np.ndarray, " place"]:
        """How many units each place holds."""
        return self.counts(np.arange(len(self.number)))

    def counts(self, units: Int[np.ndarray, " unit"]) -> Int[np.ndarray, " place"]:
        """How many of some units each place holds.

        Args:
            units: Numbers of units.

        Returns:
            One count a place.
        """
        held = self.number[units]
        return np.bincount(held[held >= 0], minlength=len(self.names)).astype(np.int64)

    def within_layers(self) -> np.ndarray:
        """Whether each place is at most half of the layers that it lies in.

        Such a place is compared with the rest of its layers, a larger one with other layers.

        Returns:
            One truth value a place.
        """
        found: list[bool] = []
        for place in range(len(self.names)):
            mine = self.number == place
            beside = np.isin(self.layer, self.layer[mine])
            found.append(bool(2 * mine.sum() <= beside.sum()))
        return np.array(found)


def declared(population: Population, places: Any) -> Partition:
    """Places of a population.

    Args:
        population: Whose units.
        places: One of `RULES`; names of units by name of place; or clusters with `names` and
            `labels` (-1 where a unit is in none) that say `from_weights`.

    Returns:
        The partition.

    Raises:
        ValueError: If there is no such rule, there are fewer than two places, a place is empty, a
            unit is in two of them or unknown, or the clusters were fitted from activations.
    """
    if isinstance(places, str):
        made = _by_rule(population, places)
    elif isinstance(places, Mapping):
        made = _given(population, places)
    elif hasattr(places, "names") and hasattr(places, "labels"):
        made = _clusters(population, places)
    else:
        raise ValueError(
            f"places is a {type(places).__name__}; expected one of {', '.join(RULES)}, names of "
            "units by name of place, or clusters"
        )
    if len(made.names) < _FEWEST:
        raise ValueError(
            f"there is one place only ({made.names[0]}, {len(population):,} units), so nothing can "
            "be more in it than elsewhere: give more layers or kinds, or places of your own"
            if made.names
            else "there are no places: give at least two"
        )
    return made


def described(places: Any, partition: Partition) -> dict[str, Any]:
    """A partition for the parameters of a provenance.

    Args:
        places: As it was asked for.
        partition: What came of it.

    Returns:
        JSON types only.
    """
    if isinstance(places, str):
        return {"rule": partition.rule}
    from workbench.core import results

    return {
        "rule": partition.rule,
        "names": list(partition.names),
        "mark": results.mark(partition.number.astype(np.int64)),
    }


def _by_rule(population: Population, rule: str) -> Partition:
    if rule not in RULES:
        raise ValueError(f"places = {rule!r}; expected one of {', '.join(RULES)}")
    label = {"place": _own, "layer": _depth(population), "kind": _kind}[rule]
    labels = [label(place) for place in population.places]
    names = tuple(dict.fromkeys(labels))
    number = np.array([names.index(each) for each in labels], dtype=np.int64)
    return Partition(rule, names, number[population.place], population.layer.astype(np.int64))


def _own(place: Any) -> str:
    return place.name


def _kind(place: Any) -> str:
    return place.kind


def _depth(population: Population) -> Any:
    """Names of depths: a network's own name of the stage, else "layer 2"."""
    stages: dict[int, set[str]] = {}
    for place in population.places:
        stage = place.name.split(".")[0] if place.kind == "channel" else f"layer {place.layer}"
        stages.setdefault(place.layer, set()).add(stage)

    def name(place: Any) -> str:
        own = stages[place.layer]
        return next(iter(own)) if len(own) == 1 else f"layer {place.layer}"

    return name


def _given(population: Population, places: Mapping[str, Any]) -> Partition:
    number = np.full(len(population), -1, dtype=np.int64)
    for i, (name, units) in enumerate(places.items()):
        mine = population.numbers(list(units))
        taken = number[mine] >= 0
        if not len(mine) or taken.any() or len(set(mine.tolist())) < len(mine):
            raise ValueError(
                f"place {name!r} holds no unit"
                if not len(mine)
                else f"place {name!r} holds a unit twice, or one that another place holds: each "
                "unit is in one place at most"
            )
        number[mine] = i
    return Partition("given", tuple(places), number, population.layer.astype(np.int64))


def _clusters(population: Population, clusters: Any) -> Partition:
    if not getattr(clusters, "from_weights", False):
        raise ValueError(
            "these clusters were fitted from activations, so their units fire together by "
            "construction and a concept would be found in one of them by that alone: give clusters "
            "that were fitted from weights (by='weights' or by='graph')"
        )
    labels = np.asarray(clusters.labels)
    own = population.numbers(list(clusters.names))
    kept = sorted({int(label) for label in labels if label >= 0})
    number = np.full(len(population), -1, dtype=np.int64)
    for i, label in enumerate(kept):
        number[own[labels == label]] = i
    names = tuple(f"cluster {label}" for label in kept)
    return Partition("clusters", names, number, population.layer.astype(np.int64))
