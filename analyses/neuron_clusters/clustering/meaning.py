"""What does a cluster of units respond to, and what does it write?

1. The cluster's activation at an example: the mean of its units' standardised values, those that
   are opposed to most of the others turned around.
2. It responds to: tokens (`feature_visualization.token_triggers`) or classes that stand among its
   largest examples (a tenth of them, 10 to 100) more often than elsewhere: hypergeometric p-values,
   Benjamini-Hochberg adjusted over all tokens, or over all clusters and classes.
3. It writes, in a language model: the tokens that the sum of its units' output weights moves, by
   the direct path, against random vectors (`feature_visualization.output_tokens`). In a network:
   by how much each class score changes at its largest examples when its units are held at their
   mean; what is written is the difference that holding them makes. In a network of modular
   arithmetic: the frequency with most of the power of its part of the neuron-logit map.

Units and sign: shares are fractions; logits of a unit vector up to one common factor; class scores
as the network gives them, positive where the cluster raises a score.

Limits: the direct path only; heads write no single vector, so nothing is said of what they write.
Places that share a text are not independent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats
import torch
from jaxtyping import Float, Int

from analyses import feature_visualization
from analyses.feature_visualization import places
from analyses.feature_visualization.output_tokens import output_tokens, written
from analyses.neuron_clusters.clustering import reading, similarity
from workbench.core import evidence
from workbench.core.engine import populations
from workbench.core.engine import units as families
from workbench.core.evidence import SURE
from workbench.core.modular import fourier
from workbench.core.networks import sources

if TYPE_CHECKING:
    from analyses.neuron_clusters.clustering.reading import Readings
    from workbench.core.engine.populations import Population

_SHARE, _FEWEST, _MOST = 10, 10, 100
_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Association:
    """Something that stands among a cluster's largest examples more often than elsewhere.

    Attributes:
        what: A token or a class, as a reader sees it.
        count: Of the largest examples.
        examples: How many of these there are.
        share: Of all examples (of a token: of all tokens).
        p_value: Adjusted.
    """

    what: str
    count: int
    examples: int
    share: float
    p_value: float


@dataclasses.dataclass(frozen=True)
class Written:
    """Something that a cluster writes.

    Attributes:
        what: A token, or a class score.
        size: By how much it is raised, negative where lowered.
    """

    what: str
    size: float


@dataclasses.dataclass(frozen=True)
class Wave:
    """The frequency of a cluster in a network of modular arithmetic.

    Attributes:
        frequency: That explains most of its units.
        explained: Mean share of their variance that it explains.
        written: Frequency with most of the power of what it writes to the logits.
        written_share: Share of that power.
    """

    frequency: int
    explained: float
    written: int
    written_share: float


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a cluster responds to and writes.

    Attributes:
        opposed: Units that are turned around.
        responds: Tokens or classes, the surest first; only those with p at most .05.
        examples: Its largest examples in a few words.
        writes: Tokens or class scores, the most raised first.
        writes_p: Of the tokens against random vectors.
        wave: In a network of modular arithmetic.
    """

    opposed: int = 0
    responds: tuple[Association, ...] = ()
    examples: tuple[str, ...] = ()
    writes: tuple[Written, ...] = ()
    writes_p: tuple[float, ...] = ()
    wave: tuple[Wave, ...] = ()


def of_clusters(
    population: Population,
    readings: Readings | None,
    clusters: Sequence[np.ndarray],
    seed: int,
) -> tuple[Meaning, ...]:
    """What each of some clusters responds to and writes.

    Args:
        population: The units.
        readings: What they do; None where nothing was read.
        clusters: Units of each.
        seed: Of random vectors.

    Returns:
        One a cluster.
    """
    model: Any = getattr(population, "model", None)
    waves = _waves(model, readings, clusters)
    made: list[Meaning] = []
    tops: list[np.ndarray] = []
    for number, units in enumerate(clusters):
        signs, top = np.ones(len(units), dtype=np.int64), np.zeros(0, dtype=np.int64)
        if readings is not None:
            signs, activation = joint(readings.values[:, units])
            top = largest(activation)
        elif model is not None and (rows := _output_rows(population, model, units)) is not None:
            signs = similarity.opposed(rows)
        tops.append(top)
        writes, p_value = _writes(population, model, readings, (units, signs, top), seed)
        made.append(
            Meaning(
                opposed=int((signs < 0).sum()),
                responds=_tokens(model, readings, top),
                examples=tuple(
                    dict.fromkeys(reading.spoken(model, readings, int(i)) for i in top[:_LISTED])
                )
                if readings is not None
                else (),
                writes=writes,
                writes_p=p_value,
                wave=waves[number],
            )
        )
    if readings is not None and readings.classes:
        for number, found in enumerate(_classes(readings.classes, tops)):
            made[number] = dataclasses.replace(made[number], responds=found)
    return tuple(made)


def joint(
    values: Float[np.ndarray, "example unit"],
) -> tuple[Int[np.ndarray, " unit"], Float[np.ndarray, " example"]]:
    """Which units of a cluster are opposed to the others, and the cluster's activation."""
    near = values - values.mean(0)
    spread = near.std(0)
    near = near / np.where(spread > 0, spread, 1.0)
    signs = similarity.opposed(near.T)
    return signs, (near * signs).mean(1)


def largest(activation: Float[np.ndarray, " example"]) -> Int[np.ndarray, " place"]:
    """The examples at which a cluster is largest, the largest first."""
    count = min(max(_FEWEST, len(activation) // _SHARE), _MOST, len(activation) // 2)
    return np.argsort(-activation, kind="stable")[:count]


def _tokens(
    model: Any, readings: Readings | None, top: Int[np.ndarray, " place"]
) -> tuple[Association, ...]:
    """Tokens that stand where a cluster is largest."""
    if readings is None or readings.corpus is None:
        return ()
    assert readings.rows is not None and readings.positions is not None, "of a corpus"
    found = feature_visualization.token_triggers(
        readings.corpus, readings.rows[top], readings.positions[top]
    )
    return tuple(
        Association(
            places.strings(model, list(one.tokens))[0],
            one.count,
            one.places,
            one.share,
            one.p_value,
        )
        for one in found[:_LISTED]
        if one.p_value <= SURE and one.lift > 1
    )


def _classes(classes: Sequence[str], tops: Sequence[np.ndarray]) -> list[tuple[Association, ...]]:
    """Classes that stand where each cluster is largest."""
    known = np.array(classes)
    names, counts = np.unique(known, return_counts=True)
    found = np.array([[int((known[top] == name).sum()) for name in names] for top in tops])
    drawn = np.array([len(top) for top in tops])[:, None]
    chance = scipy.stats.hypergeom.sf(found - 1, len(known), counts, drawn)
    adjusted = evidence.adjusted_for_discoveries(chance)
    return [
        tuple(
            Association(
                str(names[i]),
                int(found[row, i]),
                int(drawn[row, 0]),
                float(counts[i] / len(known)),
                float(adjusted[row, i]),
            )
            for i in np.argsort(adjusted[row], kind="stable")[:_LISTED]
            if adjusted[row, i] <= SURE
        )
        for row in range(len(tops))
    ]


def _writes(
    population: Population,
    model: Any,
    readings: Readings | None,
    cluster: tuple[np.ndarray, np.ndarray, np.ndarray],
    seed: int,
) -> tuple[tuple[Written, ...], tuple[float, ...]]:
    """What a cluster (its units, their signs, its largest examples) writes."""
    units, signs, top = cluster
    if model is not None:
        rows = _output_rows(population, model, units)
        # Sums of waves over all phases cancel: a modular network writes a frequency.
        modular = readings is not None and readings.group is not None
        if rows is None or modular or not np.abs(total := (rows * signs[:, None]).sum(0)).any():
            return (), ()
        return _promoted(model, total, seed)
    if readings is None or readings.bench is None or readings.chosen is None:
        return (), ()
    return _scores(population, readings, units, readings.chosen[top]), ()


def _output_rows(population: Population, model: Any, units: np.ndarray) -> np.ndarray | None:
    """What each unit adds to the stream; None where that is no single vector."""
    known: tuple[families.Family, ...] = getattr(population, "families", ())
    rows: list[torch.Tensor] = []
    for unit in units:
        family = known[int(population.place[unit])]
        if family.kind == "head" or (family.site == "neuron" and family.kind != "neuron"):
            return None
        rows.append(written(family, model, int(population.index[unit])))
    return torch.stack(rows).detach().float().cpu().numpy()


def _promoted(
    model: Any, total: np.ndarray, seed: int
) -> tuple[tuple[Written, ...], tuple[float, ...]]:
    last = int(model.cfg.n_layers) - 1
    vector = torch.from_numpy(total.astype(np.float32))[None]
    family = families.family(model, "resid_post", last, directions=vector)
    moved = output_tokens(model, family, 0, top=_LISTED, seed=seed)
    pairs = [*moved.promoted, *moved.suppressed[::-1]]
    names = places.strings(model, [token for token, _ in pairs])
    changes = [Written(name, size) for name, (_, size) in zip(names, pairs, strict=True)]
    return tuple(changes), (moved.p_value,)


def _scores(
    population: Population, readings: Readings, units: np.ndarray, examples: np.ndarray
) -> tuple[Written, ...]:
    """Change of each class score at some examples by a cluster, against its mean."""
    bench = readings.bench
    assert bench is not None, "units of a network are read over a bench"

    def as_they_are(logits: torch.Tensor, _: object) -> torch.Tensor:
        return logits

    held = bench.scores(as_they_are, populations.Edit(units.astype(np.int64)))
    change = (bench.scores(as_they_are) - held)[examples].mean(0)
    network: Any = getattr(population, "network", None)
    name = sources.network_name(network)
    known = name in sources.list_networks()
    names: tuple[str, ...] = sources.network_card(name).classes if known else ()
    if len(names) != len(change):
        names = tuple(f"class {i}" for i in range(len(change)))
    changes = [Written(name, float(size)) for name, size in zip(names, change, strict=True)]
    return tuple(sorted(changes, key=lambda one: -one.size))


def _waves(
    model: Any, readings: Readings | None, clusters: Sequence[np.ndarray]
) -> list[tuple[Wave, ...]]:
    if readings is None or readings.group is None:
        return [() for _ in clusters]
    group = readings.group
    explained = reading.shares(readings)
    out = model.blocks[0].mlp.W_out.detach().double() @ model.W_U.detach().double()
    to_logits = out.cpu().numpy()[:, group.answer].T
    made: list[tuple[Wave, ...]] = []
    for units in clusters:
        own = explained[:, units].mean(1)
        # A unit's place in the population is its index: all neurons of the one layer.
        shares = fourier.frequency_shares(to_logits[:, units])
        best, sent = int(own.argmax()), int(shares.argmax())
        made.append((Wave(best + 1, float(own[best]), sent + 1, float(shares[sent])),))
    return made
