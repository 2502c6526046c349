"""Are planted clusters found where they are, and none where there is none?

Limits: neurons that share one concept and are noise besides.
"""

from __future__ import annotations

from typing import Any

import sklearn.metrics

from analyses import neuron_clusters as clusters
from analyses.neuron_clusters import behaviours
from workbench.core.networks.training.fitting import Split
from workbench.core.planted import known_bottleneck, known_clusters, known_groups
from workbench.report.selftest.checking import (
    Check,
    Models,
    Outcome,
    at_least,
    at_most,
    both,
    same,
    within,
)

_HOME, _OTHER = "layer1.branch2", "layer2.branch0"
_PLANTED = 12
# Examples, rounds of a null, and random sets of neurons.
_EXAMPLES, _ROUNDS, _SETS = 300, 1000, 24
# Class scores that say whether the concept is there, and whether the other property is.
_MARGINS = behaviours.Outputs((1, 0), ((3, 2),))
_QUICK: dict[str, Any] = {"counts": range(2, 7), "resamples": 6, "shuffles": 19}
# Agreement of found and planted groups (adjusted Rand index); 0 is chance.
_AGREE = 0.95
# Of a share that is one but for noise.
_ROUGHLY = 0.1


def _network(planted: dict[str, int], models: Models) -> Any:
    return known_clusters.planted(planted, seed=models.seed, device=models.device)


def _localized(planted: dict[str, int], models: Models, **options: Any) -> clusters.Localization:
    given: dict[str, Any] = {"verify": False, "controls": False, **options}
    return clusters.localize(
        _network(planted, models),
        known_clusters.concept(_EXAMPLES, models.seed),
        permutations=_ROUNDS,
        n_random=_SETS,
        seed=models.seed,
        **given,
    )


def _one_place(models: Models) -> Outcome:
    found = _localized({_HOME: _PLANTED}, models, verify=True, controls=True)
    return same([f"{found.verdict} in {found.place}"], [f"localized in {_HOME}"])


def _two_places(models: Models) -> Outcome:
    return same([_localized({_HOME: 8, _OTHER: 8}, models).verdict], ["spread"])


def _nowhere(models: Models) -> Outcome:
    return same([_localized({}, models).verdict], ["not represented"])


def _controls(models: Models) -> Outcome:
    found = _localized({_HOME: _PLANTED}, models, controls=True)
    return same(
        [f"{one.name}: {one.verdict}" for one in found.controls],
        [
            f"{name}: not represented"
            for name in ("untrained network", "shuffled weights", "fake concept")
        ],
    )


def _selective(models: Models) -> Outcome:
    network = _network({_HOME: _PLANTED}, models)
    found = clusters.selectivity(
        network,
        known_clusters.concept(_EXAMPLES, models.seed),
        probes=(),
        permutations=_ROUNDS,
        best=0,
        seed=models.seed,
    )
    return same(found.best(_PLANTED), network.planted)


def _verified(models: Models) -> Outcome:
    network = _network({_HOME: _PLANTED}, models)
    found = clusters.verify(
        network,
        known_clusters.concept(_EXAMPLES, models.seed),
        network.planted,
        behaviour=_MARGINS,
        n_random=_SETS,
        seed=models.seed,
    )
    each = found.ablations[0]
    return within(
        [each.necessity.value, each.unrelated.value, each.specificity.value],
        [1, 0, 1],
        bound=_ROUGHLY,
    )


def _unneeded(models: Models) -> Outcome:
    network = _network({_HOME: _PLANTED}, models)
    free = [name for name in _names(_OTHER) if name not in network.others]
    found = clusters.verify(
        network,
        known_clusters.concept(_EXAMPLES, models.seed),
        free[:_PLANTED],
        behaviour=_MARGINS,
        n_random=_SETS,
        seed=models.seed,
    )
    return within(found.ablations[0].necessity.value, 0)


def _names(place: str) -> list[str]:
    return [f"{place}.{i}" for i in range(known_clusters.WIDTH)]


def _families(models: Models) -> Outcome:
    network = _network({_HOME: _PLANTED}, models)
    planted = known_clusters.concept(_EXAMPLES, models.seed)
    other = planted.replaced(
        labels=(planted.inputs[:, known_clusters.OTHER] > 0).astype(int), name="other property"
    )
    found = clusters.families(network, [planted, other], seed=models.seed)
    at = found.places.index(_HOME)
    inside = int(found.counts[0, at])
    return at_least(inside, _PLANTED, f"{inside} of {int(found.counts[0].sum())} are there")


def _swept(models: Models) -> Outcome:
    planted = known_clusters.concept(_EXAMPLES, models.seed)
    found = clusters.concept_sweep(
        _network({_HOME: _PLANTED}, models),
        [planted, planted.fake(models.seed + 1)],
        permutations=_ROUNDS,
        verify=False,
        controls=False,
        seed=models.seed,
    )
    return same(
        [f"concept: {found.verdicts[0]}", f"coin: {found.verdicts[1]}"],
        ["concept: localized", "coin: not represented"],
    )


def _grown(
    network: Any,
    place: str,
    examples: tuple[known_bottleneck.Examples, known_bottleneck.Examples],
    **options: Any,
) -> clusters.Growth:
    train, test = examples
    return clusters.grow(
        network,
        test.concept,
        place,
        data=Split(*train),
        classes=test.labels,
        batch=32,
        decay=0,
        seeds=range(6),
        **options,
    )


def _narrow(place: str, models: Models, **options: Any) -> clusters.Growth:
    """Neurons that are added to a bottleneck, or behind it."""
    network = known_bottleneck.narrow(models.seed, models.device)
    examples = (
        known_bottleneck.drawn(1_000, 2 * models.seed),
        known_bottleneck.drawn(_EXAMPLES, 2 * models.seed + 1),
    )
    return _grown(network, place, examples, steps=40, rate=0.03, **options)


def _where_it_is_narrow(models: Models) -> Outcome:
    return same([_narrow("layer0", models).verdict], ["add here"])


def _behind(models: Models) -> Outcome:
    found = _narrow("layer1", models, n=26, elsewhere=["layer0"])
    return same([found.verdict], ["elsewhere is better"])


def _enough(models: Models) -> Outcome:
    examples = (
        known_bottleneck.far_apart(200, 2 * models.seed),
        known_bottleneck.far_apart(_EXAMPLES, 2 * models.seed + 1),
    )
    network = known_bottleneck.sufficient(models.device)
    found = _grown(network, "layer0", examples, metric="error", steps=3, rate=1e-3)
    return both(
        same([found.verdict], ["it makes no difference"]),
        within(found.primary.differences, [0] * 6),
    )


def _groups(models: Models) -> Outcome:
    found = clusters.find_clusters(
        known_groups.driven(0.6, device=models.device),
        known_groups.noise(models.seed),
        seed=models.seed,
        **_QUICK,
    )
    score = float(sklearn.metrics.adjusted_rand_score(known_groups.TRUTH, found.labels))
    return both(
        within(found.k, known_groups.GROUPS, said=f"{found.k} groups"),
        at_least(score, _AGREE, f"agreement {score:.2f}"),
    )


def _no_groups(models: Models) -> Outcome:
    found = clusters.find_clusters(
        known_groups.driven(0.0, device=models.device),
        known_groups.noise(models.seed),
        seed=models.seed,
        **_QUICK,
    )
    return at_most(len(found.clusters), 0, f"{len(found.clusters)} groups")


CHECKS = (
    Check("neuron_clusters.localize", "12 of 20 neurons of one place hold a concept", _one_place),
    Check("neuron_clusters.localize", "8 neurons of each of two places hold it", _two_places),
    Check("neuron_clusters.localize", "nothing: no neuron holds it", _nowhere),
    Check(
        "neuron_clusters.localize",
        "nothing: not in an untrained or shuffled network, nor of a coin",
        _controls,
    ),
    Check("neuron_clusters.selectivity", "12 neurons of 180 tell the concept best", _selective),
    Check(
        "neuron_clusters.verify",
        "these 12 are needed for the concept, and for nothing else",
        _verified,
    ),
    Check("neuron_clusters.verify", "nothing: 12 others are not needed", _unneeded),
    Check("neuron_clusters.families", "12 neurons of the concept's family in one place", _families),
    Check(
        "neuron_clusters.concept_sweep", "one of two concepts is there, the other is a coin", _swept
    ),
    Check("neuron_clusters.find_clusters", "four groups of ten neurons", _groups),
    Check("neuron_clusters.find_clusters", "nothing: neurons with nothing in common", _no_groups),
    Check(
        "neuron_clusters.grow",
        "two neurons that six classes have to go through are where to add more",
        _where_it_is_narrow,
    ),
    Check("neuron_clusters.grow", "behind these two it is better to add elsewhere", _behind),
    Check("neuron_clusters.grow", "nothing: a network that makes no error gains none", _enough),
)
