"""A training on disk: what was asked for, where it stands, its curves, and its checkpoints.

A run is a folder:

- `run.json`: task and recipe; written first, never changed
- `state.safetensors`: everything that going on depends on, replaced as a whole
- `live.safetensors`: the curves so far, for whoever looks on meanwhile
- `checkpoints/<step>.safetensors`: weights under the native bridge's names

A bundled model brings its trajectory along in one packed file (`bundle`); it is read the same way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from jaxtyping import Float

from workbench.core import files, reading, runs
from workbench.core.modular import bundle, network, tasks
from workbench.core.modular import recipe as recipes
from workbench.core.modular.curves import Curves

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge

_KINDS = ("weights", "first_moments", "second_moments", "slow_gradients")
# Of what is said of a damaged run.
_LONGEST = 400
_CHECKPOINT = re.compile(r"(\d+)\.safetensors")


class RunError(ValueError):
    """A run could not be opened or written; the message says why."""


@dataclasses.dataclass
class State:
    """Everything that the rest of a training depends on.

    Attributes:
        step: Steps taken.
        weights: The network.
        first_moments: AdamW's mean gradients.
        second_moments: AdamW's mean squared gradients.
        slow_gradients: Grokfast's slow gradients.
        curves: So far.
        initial_squared_weights: Sum of squares before the first step.
        checkpoint_step: Step of the last checkpoint; -1 before the first.
        checkpoint_point: Where the training stood then (`Curves.last`).
    """

    step: int
    weights: network.Weights
    first_moments: network.Weights
    second_moments: network.Weights
    slow_gradients: network.Weights
    curves: Curves
    initial_squared_weights: float
    checkpoint_step: int = -1
    checkpoint_point: Float[np.ndarray, " 4"] = dataclasses.field(
        default_factory=lambda: np.zeros(4)
    )

    @classmethod
    def start(cls, task: tasks.Task, recipe: recipes.Recipe) -> State:
        """Before the first step."""
        weights = network.initial_weights(recipe, task.p, task.seed)
        trained = [name for name in weights if name not in network.FROZEN]

        def nothing() -> network.Weights:
            return {name: torch.zeros_like(weights[name]) for name in trained}

        return cls(
            step=0,
            weights=weights,
            first_moments=nothing(),
            second_moments=nothing(),
            slow_gradients=nothing(),
            curves=Curves(),
            initial_squared_weights=network.squared_weights(weights),
        )

    @property
    def grokked_at(self) -> float:
        """Step of the first test that it passed; NaN before."""
        return grokked_at(self.curves)

    def checkpoint_due(self, moves: Float[np.ndarray, " 4"], longest_gap: int) -> bool:
        """Whether the training has moved since its last checkpoint.

        Args:
            moves: By how much each quantity of `Curves.last` has to.
            longest_gap: Or so many steps have to be taken.

        Returns:
            True at the first test, too.
        """
        if self.checkpoint_step < 0 or self.step - self.checkpoint_step >= longest_gap:
            return True
        return bool((np.abs(self.curves.last() - self.checkpoint_point) >= moves).any())

    def remember_checkpoint(self) -> None:
        """Note that a checkpoint was kept here."""
        self.checkpoint_step, self.checkpoint_point = self.step, self.curves.last()


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A training, running or ended, and its checkpoints.

    Attributes:
        name: What a reader calls it.
        task: What is learned.
        recipe: How.
        curves: So far.
        steps: Of its checkpoints, ascending.
        grokked_at: Step of the first test with accuracy from .99 on and loss below .1; NaN if none.
        folder: Where it is kept.
        read: Gives the weights of a checkpoint.
    """

    name: str
    task: tasks.Task
    recipe: recipes.Recipe
    curves: Curves = dataclasses.field(repr=False)
    steps: tuple[int, ...]
    grokked_at: float
    folder: Path
    read: Callable[[int], network.Weights] = dataclasses.field(repr=False, compare=False)

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return len(self.curves.train_loss)

    @property
    def fingerprint(self) -> str:
        """Sha256 over task, recipe, curves and the steps of its checkpoints."""
        made = self.curves.arrays()
        digest = hashlib.sha256(json.dumps(_asked(self.task, self.recipe), sort_keys=True).encode())
        for name in sorted(made):
            digest.update(np.ascontiguousarray(made[name]).tobytes())
        digest.update(str(self.steps).encode())
        return digest.hexdigest()

    def weights(self, step: int) -> network.Weights:
        """Weights of a checkpoint, under the native bridge's names.

        Args:
            step: One of `steps`.

        Returns:
            Float32 tensors on the CPU.

        Raises:
            RunError: If there is no checkpoint of that step, or it cannot be read.
        """
        if step not in self.steps:
            near = min(self.steps, key=lambda at: abs(at - step), default=None)
            raise RunError(f"there is no checkpoint at step {step}; the nearest is at {near}")
        return self.read(step)

    def snapshot(self, step: int) -> network.Snapshot:
        """What a checkpoint's measures are made from; see `network.snapshot`."""
        try:
            return network.snapshot(self.weights(step), self.task, self.recipe.n_heads)
        except (LookupError, TypeError, RuntimeError) as error:
            raise RunError(
                f"the checkpoint of step {step} in {self.folder} is no network of the task and "
                f"recipe in its run.json: {reading.plain(str(error), _LONGEST)}"
            ) from error

    def model(self, step: int | None = None) -> TransformerBridge:
        """A checkpoint as a model for every analysis.

        Args:
            step: One of `steps`; the last one if none is given.

        Returns:
            A bridge, opened from a model folder within the run's own.
        """
        from workbench.core.models import sources

        return sources.load_model(self.save_model(step))

    def save_model(
        self, step: int | None = None, folder: str | os.PathLike[str] | None = None
    ) -> Path:
        """Write a checkpoint as a model folder that `load_model` opens.

        Args:
            step: One of `steps`; the last one if none is given.
            folder: Where to; by default among the stored runs.

        Returns:
            The folder.
        """
        at = self.steps[-1] if step is None else step
        weights = self.weights(at)
        place = Path(folder) if folder is not None else _models_of(self) / f"step-{at}"
        bundle.write_model(place, weights, self.recipe, self.task.p)
        return place

    def to_frame(self) -> pd.DataFrame:
        """The curves as a tidy table: step, measure, value."""
        import pandas as pd

        made = self.curves.arrays()
        train = pd.DataFrame(
            {"step": np.arange(self.step), "measure": "train loss", "value": made["train_loss"]}
        )
        tested = [
            pd.DataFrame({"step": made["test_steps"], "measure": label, "value": made[name]})
            for name, label in (
                ("test_loss", "test loss"),
                ("test_accuracy", "test accuracy"),
                ("squared_weights", "squared weights"),
            )
        ]
        return pd.concat([train, *tested], ignore_index=True)

    def figure(self) -> go.Figure:
        """Train and test loss over the steps."""
        from workbench.core import plots

        made = self.curves.arrays()
        tested = made["test_steps"]
        # A test after the last step so far: the loss of that step is not known yet.
        train = np.append(made["train_loss"], np.nan)[tested]
        series = {"train loss": train, "test loss": made["test_loss"]}
        return plots.line(tested, series, x_title="step", y_title="loss, nats a pair", log_y=True)

    def summary(self) -> str:
        """Where it stands, in a sentence or two."""
        if not self.step:
            return f"{self.name}: not begun."
        made = self.curves
        grokked = (
            f"It grokked at step {self.grokked_at:,.0f}."
            if math.isfinite(self.grokked_at)
            else "It has not generalised: no test had an accuracy of .99 and a loss below .1."
        )
        return (
            f"{self.name} ({self.recipe.name}), {self.step:,} steps: train loss "
            f"{made.train_loss[-1]:.2g}, test loss {made.test_loss[-1]:.2g} nats a pair, "
            f"test accuracy {made.test_accuracy[-1]:.1%}. {grokked} {len(self.steps)} checkpoints."
        )


def _models_of(run: TrainingRun) -> Path:
    if (run.folder / "run.json").is_file():
        return run.folder / "models"
    return runs.default_root() / "trainings" / run.folder.name / "models"


def _asked(task: tasks.Task, recipe: recipes.Recipe) -> dict[str, Any]:
    return {"task": dataclasses.asdict(task), "recipe": dataclasses.asdict(recipe)}


def trainings_root() -> Path:
    """Where runs are kept that are given no folder."""
    return runs.default_root() / "trainings"


def folder_of(task: tasks.Task, recipe: recipes.Recipe) -> Path:
    """The folder of its own that a task and recipe have among the stored runs."""
    content = json.dumps(_asked(task, recipe), sort_keys=True)
    return trainings_root() / hashlib.sha256(content.encode()).hexdigest()[:16]


def stored_runs() -> list[TrainingRun]:
    """Every run among the stored ones, the one that changed last first."""
    files = trainings_root().glob("*/run.json")
    newest = sorted(files, key=lambda file: -_changed(file.parent))
    found: list[TrainingRun] = []
    for file in newest:
        with contextlib.suppress(RunError):
            found.append(open_run(file.parent))
    return found


def _changed(folder: Path) -> float:
    # Names with a dot in front are files that are being written; they may be gone in a moment.
    return max((file.stat().st_mtime for file in folder.glob("[!.]*")), default=0.0)


def is_training(folder: str | os.PathLike[str]) -> bool:
    """Whether some process is training in a folder now."""
    lock = filelock.FileLock(Path(folder) / ".lock")
    try:
        with lock.acquire(blocking=False):
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def claimed(
    folders: Sequence[Path], every: Sequence[tasks.Task], recipe: recipes.Recipe
) -> Generator[None]:
    """Hold folders for one training each, so that no other process trains in them.

    Args:
        folders: One a task; made if they are missing.
        every: The tasks.
        recipe: The recipe.

    Raises:
        RunError: If a folder is another run's, is being trained in, or cannot be written.
    """
    with contextlib.ExitStack() as held:
        for folder, task in zip(folders, every, strict=True):
            _prepare(folder, task, recipe)
            try:
                held.enter_context(filelock.FileLock(folder / ".lock").acquire(blocking=False))
            except filelock.Timeout as error:
                raise RunError(
                    f"another process trains in {folder}: wait for it or stop it"
                ) from error
            except OSError as error:
                raise RunError(f"cannot write to {folder}: {files.reason(error)}") from error
        yield


def _prepare(folder: Path, task: tasks.Task, recipe: recipes.Recipe) -> None:
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        asked = _asked(task, recipe)
        if not (folder / "run.json").is_file():
            files.write_whole(
                folder / "run.json", json.dumps({"format": 1, **asked}, indent=1).encode()
            )
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {files.reason(error)}") from error
    if _read_asked(folder) != (task, recipe):
        raise RunError(
            f"{folder} holds another run: choose another folder, or its own task and recipe"
        )


def _read_asked(folder: Path) -> tuple[tasks.Task, recipes.Recipe]:
    try:
        document = reading.json_of((folder / "run.json").read_bytes())
        return tasks.Task(**document["task"]), recipes.Recipe(**document["recipe"])
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        why = reading.plain(str(error), _LONGEST)
        raise RunError(f"{folder} is not a training run or is damaged: {why}") from error


def write_checkpoint(folder: Path, step: int, weights: network.Weights) -> None:
    """Keep the weights of a step.

    Raises:
        RunError: If they cannot be written; what was kept before stays as it is.
    """
    _write(folder / "checkpoints" / f"{step}.safetensors", safetensors.torch.save(weights))


def write_live(folder: Path, curves: Curves) -> None:
    """Show the curves so far to whoever looks on.

    Raises:
        RunError: If they cannot be written.
    """
    _write(folder / "live.safetensors", safetensors.numpy.save(curves.arrays()))


def _write(path: Path, content: bytes) -> None:
    try:
        files.write_whole(path, content)
    except OSError as error:
        raise RunError(
            f"the training could not be kept as {path}: {files.reason(error)}; what was kept "
            "before is whole, and the same training goes on from there"
        ) from error


def write_state(folder: Path, state: State) -> None:
    """Keep what going on depends on, and the curves with it.

    Raises:
        RunError: If it cannot be written; what was kept before stays as it is.
    """
    tensors = {
        f"{kind}/{name}": value for kind in _KINDS for name, value in getattr(state, kind).items()
    }
    for name, values in state.curves.arrays().items():
        tensors[f"curves/{name}"] = torch.from_numpy(values)
    numbers = [
        state.step,
        state.initial_squared_weights,
        state.checkpoint_step,
        *state.checkpoint_point,
    ]
    tensors["numbers"] = torch.tensor(numbers, dtype=torch.float64)
    _write(folder / "state.safetensors", safetensors.torch.save(tensors))
    write_live(folder, state.curves)


def read_state(folder: Path) -> State | None:
    """What `write_state` kept, None where a run has not got so far.

    Raises:
        RunError: If it is damaged.
    """
    path = folder / "state.safetensors"
    if not path.is_file():
        return None
    try:
        tensors = safetensors.torch.load_file(path)
        kinds = {
            kind: {
                name.removeprefix(f"{kind}/"): value
                for name, value in tensors.items()
                if name.startswith(f"{kind}/")
            }
            for kind in _KINDS
        }
        curves = {
            name.removeprefix("curves/"): value.numpy()
            for name, value in tensors.items()
            if name.startswith("curves/")
        }
        step, squared, checkpoint_step, *point = tensors["numbers"].tolist()
        return State(
            step=int(step),
            **kinds,
            curves=Curves.of(curves),
            initial_squared_weights=squared,
            checkpoint_step=int(checkpoint_step),
            checkpoint_point=np.array(point),
        )
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def open_run(folder: str | os.PathLike[str]) -> TrainingRun:
    """Open a run, ended or not.

    Args:
        folder: Where it is kept.

    Returns:
        What there is so far; open it again to see more.

    Raises:
        RunError: If there is no run, or it is damaged.
    """
    place = Path(folder)
    task, recipe = _read_asked(place)
    curves = _read_curves(place)
    checkpoints = place / "checkpoints"
    steps = sorted(
        int(found[1])
        for file in checkpoints.glob("*.safetensors")
        if (found := _CHECKPOINT.fullmatch(file.name))
    )

    def read(step: int) -> network.Weights:
        try:
            return safetensors.torch.load_file(checkpoints / f"{step}.safetensors")
        except (OSError, safetensors.SafetensorError) as error:
            raise RunError(
                f"the checkpoint of step {step} in {place} is damaged: {error}"
            ) from error

    return TrainingRun(
        name=task.name,
        task=task,
        recipe=recipe,
        curves=curves,
        steps=tuple(step for step in steps if step <= len(curves.train_loss)),
        grokked_at=grokked_at(curves),
        folder=place,
        read=read,
    )


def _read_curves(folder: Path) -> Curves:
    path = folder / "live.safetensors"
    if not path.is_file():
        return Curves()
    try:
        return Curves.of(safetensors.numpy.load_file(path))
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


# Grokked: from this test accuracy on, with a test loss below this, in nats.
GROKKED_ACCURACY, GROKKED_LOSS = 0.99, 0.1


def grokked_at(curves: Curves) -> float:
    """Step of the first test with accuracy from .99 on and loss below .1; NaN if there is none."""
    rows = zip(curves.test_steps, curves.test_accuracy, curves.test_loss, strict=True)
    passed = (s for s, a, loss in rows if a >= GROKKED_ACCURACY and loss < GROKKED_LOSS)
    return float(next(passed, math.nan))


def bundled_run(name: str = "modadd-113") -> TrainingRun:
    """The trajectory that a bundled model brings along.

    Args:
        name: Of the model.

    Returns:
        Its run. The last checkpoint is the model itself; the others are rounded to 12 bits a
        weight, relative to the largest of its row.

    Raises:
        RunError: If that model brings none.
    """
    folder = bundle.trajectory_folder(name)
    if folder is None:
        raise RunError(f"{name!r} brings no trajectory along: choose 'modadd-113'")
    packed = bundle.Trajectory.open(folder)
    curves = Curves.of(packed.curves)
    return TrainingRun(
        name=name,
        task=tasks.Task(**packed.task),
        recipe=recipes.Recipe(**packed.recipe),
        curves=curves,
        steps=packed.steps,
        grokked_at=grokked_at(curves),
        folder=folder,
        read=packed.weights,
    )
