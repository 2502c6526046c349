"""How often is the verdict of `localize` right, where the truth was planted?

1. A network of 9 places with 20 neurons each (`workbench.core.planted.known_clusters`), 600
   examples, and so many neurons with the concept as each case says. An effect is the difference
   that the concept makes to a planted neuron's input, in standard deviations of its noise.
2. Planted: 12 in one place, 8 in each of two (of other layers, or of one), 2 in each of nine, none.
3. Nothing to find: no concept at all, or 12 neurons drawn from all places alike; with one place
   whose neurons share nine tenths of their variance, one of ten times the size, or one that is five
   of the nine together; and with 80 examples.
4. Bulk: parts 1 to 3 of the definition with 1,000 permutations. With all five parts (ablation and
   negative controls, 10,000 permutations) fewer networks, as each takes seconds.

Intervals of the shares are Wilson's, 95 %.

    python -m tests.benchmarks.localization [networks a case] [networks with all parts] [processes]
"""

from __future__ import annotations

import collections
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import joblib
import numpy as np
import scipy.stats
import torch

from analyses.neuron_clusters import localization
from tests.benchmarks import numbers
from workbench.core.planted import known_clusters as wired

PLACES = tuple(f"layer{i}.branch{j}" for i in range(wired.LAYERS) for j in range(wired.BRANCHES))
HOME, ODD = "layer1.branch2", "layer2.branch0"
EFFECTS = (2.0, 1.5, 3.0, 1.0)
Nasty = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """Networks of one kind.

    Attributes:
        name: What is planted.
        planted: Neurons with the concept by place; None for 12 drawn from all places alike.
        right: The verdict that is right; empty where all but "localized" is.
        odd: What is odd about one place: "", "correlated", "loud" or "large".
        n: Examples.
    """

    name: str
    planted: Mapping[str, int] | None
    right: str
    odd: str = ""
    n: int = 600


PLANTED = (
    Case("one place", {HOME: 12}, "localized"),
    Case("two places", {HOME: 8, ODD: 8}, "spread"),
    Case("two places of one layer", {HOME: 8, "layer1.branch0": 8}, "spread"),
    Case("spread", dict.fromkeys(PLACES, 2), "spread"),
)
ABSENT = Case("absent", {}, "not represented")
NOTHING = tuple(
    Case(f"{name}, {odd or 'plain'}" + (f", n = {n}" if n < 600 else ""), planted, "", odd, n)
    for name, planted in (("no concept", {}), ("drawn from all", None))
    for odd in ("", "correlated", "loud", "large")
    for n in (600, 80)
)


def subject(case: Case, effect: float, seed: int) -> tuple[Any, Any]:
    """A network of a case, and the places that are declared for it."""
    random = np.random.default_rng(seed)
    planted = case.planted
    if planted is None:
        drawn = random.choice(wired.N_UNITS, 12, replace=False) // wired.WIDTH
        planted = dict(collections.Counter(PLACES[int(i)] for i in drawn))
    network = wired.planted(planted, effect, seed)
    linear = network.get_submodule(ODD).linear
    with torch.no_grad():
        if case.odd == "correlated":
            noise = linear.weight[:, 2:]
            shared = torch.randn(noise.shape[1], generator=torch.Generator().manual_seed(seed))
            noise.mul_(0.1**0.5).add_(0.9**0.5 * shared / shared.norm())
        elif case.odd == "loud":
            linear.weight.mul_(10)
            linear.bias.mul_(10)
    if case.odd != "large":
        return network, "place"
    names = {place: [f"{place}.{i}" for i in range(wired.WIDTH)] for place in PLACES}
    large = {"large": [name for place in PLACES[4:] for name in names[place]]}
    return network, large | {place: names[place] for place in PLACES[:4]}


def verdict(case: Case, effect: float, seed: int, *, whole: bool = False) -> tuple[str, str]:
    """Verdict and place for one network; with all five parts if `whole`."""
    torch.set_num_threads(1)
    network, places = subject(case, effect, seed)
    found = localization.localize(
        network,
        wired.concept(case.n, seed + 1),
        places=places,
        permutations=10_000 if whole else 1000,
        verify=whole,
        controls=whole,
        seed=seed,
    )
    return found.verdict, found.place


def is_right(case: Case, said: str, place: str) -> bool:
    """Whether that is the truth."""
    if not case.right:
        return said != "localized"
    return said == case.right and (said != "localized" or place == HOME)


def simulate(
    case: Case, effect: float, networks: int, *, whole: bool = False, processes: int = 1
) -> float:
    """Share of the networks with the right verdict; prints what the verdicts were."""
    began = time.perf_counter()
    found: Any = joblib.Parallel(n_jobs=processes)(
        joblib.delayed(verdict)(case, effect, seed, whole=whole) for seed in range(networks)
    )
    right = sum(is_right(case, *each) for each in found)
    interval = scipy.stats.binomtest(right, networks).proportion_ci(method="wilson")
    counts = collections.Counter(said for said, _ in found)
    told = ", ".join(f"{said} {count}" for said, count in counts.most_common())
    numbers.say(
        "localization",
        f"planted: {case.name}, effect {effect:.1f}" + (", all five parts" if whole else ""),
        right / networks,
        f"of {networks} verdicts right",
        checked=f"95 % interval {interval.low:.1%} to {interval.high:.1%}; {told}",
        seconds=f"{time.perf_counter() - began:.0f} s",
    )
    return right / networks


def main(networks: int = 200, whole: int = 10, processes: int = 1) -> None:
    """Every case."""
    for case in (*PLANTED, ABSENT, *NOTHING):
        simulate(case, EFFECTS[0], networks, processes=processes)
    for effect in EFFECTS[1:]:
        for case in PLANTED:
            simulate(case, effect, networks, processes=processes)
    if not whole:
        return
    for case in (*PLANTED, ABSENT):
        simulate(case, 2.0, whole, whole=True, processes=processes)


if __name__ == "__main__":
    main(*(int(each) for each in sys.argv[1:]))
