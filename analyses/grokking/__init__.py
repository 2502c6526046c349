"""How does a circuit form while a network learns arithmetic, and when does it take over?

1. `train` (`workbench.core.modular`) trains a one-layer transformer on an operation modulo a prime,
   with checkpoints where something moves; `sweep` asks how the time to generalise depends on a
   setting.
2. `track` measures every checkpoint: losses with and without the circuit's waves, how much of the
   logits, the neurons and the attention is waves, which frequencies are key, and since when.
3. `phases` reads memorisation, circuit formation and cleanup off the measures, with intervals, or
   says that a run never generalises.
4. `fourier` takes a model apart into its waves and tests that explanation: each frequency ablated,
   only the key ones kept, the logits replaced by the formula, against random frequencies.
5. `detect_drops` finds sudden drops in any training curve, against smooth curves with the same
   noise; `what_changed` says which components moved between the checkpoints around one.

Source: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability", arXiv
2301.05217; Power et al. 2022, arXiv 2201.02177; Liu et al. 2022, arXiv 2210.01117 (Omnigrok).

Units and sign: losses in nats a pair; accuracies, shares and explained variances from 0 to 1; drops
in dex (decades of the loss), positive downward; steps are optimizer steps.

Limits: one-layer networks over pairs of residues; waves explain addition, subtraction,
multiplication and division only, and which frequencies are key depends on the seed.
"""

from __future__ import annotations

from analyses.grokking.changes import Changes, what_changed, what_changed_at
from analyses.grokking.circuit import FourierCircuit, fourier
from analyses.grokking.curves import Curve, CurveError, columns_of, read_curve
from analyses.grokking.drops import Drops, detect_drops
from analyses.grokking.phases import Curves, Phases, phases
from analyses.grokking.swapping import ChangesError
from analyses.grokking.sweep import Sweep, sweep
from analyses.grokking.tracking import ProgressMeasures, track
from workbench.core.modular.recipe import RECIPES, Recipe, recipe
from workbench.core.modular.run import RunError, TrainingRun, bundled_run, open_run, stored_runs
from workbench.core.modular.tasks import OPERATIONS, Task, TaskError
from workbench.core.modular.training import TrainingError, train, train_seeds

__all__ = [
    "OPERATIONS",
    "RECIPES",
    "Changes",
    "ChangesError",
    "Curve",
    "CurveError",
    "Curves",
    "Drops",
    "FourierCircuit",
    "Phases",
    "ProgressMeasures",
    "Recipe",
    "RunError",
    "Sweep",
    "Task",
    "TaskError",
    "TrainingError",
    "TrainingRun",
    "bundled_run",
    "columns_of",
    "detect_drops",
    "fourier",
    "open_run",
    "phases",
    "read_curve",
    "recipe",
    "stored_runs",
    "sweep",
    "track",
    "train",
    "train_seeds",
    "what_changed",
    "what_changed_at",
]
