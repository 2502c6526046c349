"""Does the workbench find, on this machine, what was planted in models for it to find?

1. Models whose answer is known by construction (`workbench.core.planted`) are put on the device
   that is asked for: circuits, neurons, clusters, waves; and models in which nothing was planted.
2. Each goes through every public analysis as a user's model would; one module here for each
   capability. What opens files, draws or estimates a time is no analysis, and has no row.
3. What was planted and what was found stand side by side, a row each, with the number that decides
   and its bound. An analysis that fails is a row that is not right.

Limits: it shows that the analyses compute what they say, here and now; not that what they say is
what one wants to know of a larger model.
"""

from __future__ import annotations

import time

from workbench.core.engine import running
from workbench.core.models import sources
from workbench.report.document import SelfTest
from workbench.report.selftest import (
    checking,
    circuits,
    clusters,
    dictionaries,
    features,
    grokking,
    heads,
    inspecting,
    optimizing,
    patching,
    training,
    weights,
)

CHECKS: tuple[checking.Check, ...] = (
    *patching.CHECKS,
    *circuits.CHECKS,
    *inspecting.CHECKS,
    *heads.CHECKS,
    *weights.CHECKS,
    *features.CHECKS,
    *optimizing.CHECKS,
    *dictionaries.CHECKS,
    *clusters.CHECKS,
    *grokking.CHECKS,
    *training.CHECKS,
)


def selftest(
    *, device: str = "auto", seed: int = 0, progress: running.Progress | None = None
) -> SelfTest:
    """Put planted models through every analysis.

    Args:
        device: As for `workbench.load_model`: "auto" takes a GPU where there is one.
        seed: Of everything random.
        progress: Told a fraction and what is going on; may raise to cancel.

    Returns:
        What was recovered, a row a planted truth.

    Raises:
        ModelSourceError: If there is no such device here.
    """
    return run(CHECKS, device=device, seed=seed, progress=progress)


def run(
    checks: tuple[checking.Check, ...],
    *,
    device: str = "auto",
    seed: int = 0,
    progress: running.Progress | None = None,
) -> SelfTest:
    """Run some of the checks.

    Args:
        checks: Which.
        device: As for `selftest`.
        seed: Of everything random.
        progress: Told a fraction and what is going on; may raise to cancel.

    Returns:
        What was recovered, a row each.

    Raises:
        ModelSourceError: If there is no such device here.
    """
    report = progress or running.no_progress
    start = time.perf_counter()
    models = checking.Models(sources.torch_device(device), seed)
    rows = []
    for number, check in enumerate(checks):
        report(number / len(checks), check.analysis)
        rows.append(checking.row(check, models))
    report(1.0, "done")
    return SelfTest(rows=tuple(rows), seconds=time.perf_counter() - start)
