"""Training, seeds side by side, and tracking, against the plain ways: ratios of medians.

Training is compared with the loop of TransformerLens' grokking demo: train and test pairs through
`model(tokens)` at each step, float64 loss, AdamW. Both sides start from the same weights and go on
in turns, a block of steps each, in one process with two threads.

    python -m tests.benchmarks.grokking [steps | behaviour | seeds | track ...]
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge

from analyses import grokking
from tests.benchmarks import numbers
from workbench.core.engine import running
from workbench.core.models import sources
from workbench.core.modular import bundle, network, recipe, run, tasks, training

THREADS = 2
BLOCK = 50
LOSSES_EQUAL = 0.05
ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Plain:
    """The demo's loop."""

    task: tasks.Task
    made: recipe.Recipe

    def __post_init__(self) -> None:
        weights = network.initial_weights(self.made, self.task.p, self.task.seed)
        with tempfile.TemporaryDirectory() as folder:
            bundle.write_model(Path(folder) / "model", weights, self.made, self.task.p)
            self.model: TransformerBridge = sources.load_model(Path(folder) / "model", device="cpu")
        trained = []
        for name, value in self.model.original_model.named_parameters():
            frozen = name.replace("._original_component", "") in network.FROZEN
            value.requires_grad_(not frozen)
            trained += [] if frozen else [value]
        self.optimizer = torch.optim.AdamW(
            trained,
            lr=self.made.learning_rate,
            weight_decay=self.made.weight_decay,
            betas=(self.made.beta1, self.made.beta2),
        )
        pairs, answers = self.task.pairs(), self.task.answers()
        tokens = torch.cat([pairs, torch.full((len(pairs), 1), self.task.p)], 1)
        self.sides = [(tokens[part], answers[part]) for part in self.task.split()]
        self.step = 0
        self.losses: list[tuple[float, float]] = []

    def _loss(self, side: int) -> torch.Tensor:
        tokens, answers = self.sides[side]
        return functional.cross_entropy(self.model(tokens)[:, -1].double(), answers)

    def take(self, steps: int) -> None:
        for _ in range(steps):
            rate = self.made.learning_rate * min(1.0, self.step / self.made.warm_up)
            self.optimizer.param_groups[0]["lr"] = rate
            train = self._loss(0)
            train.backward()
            with torch.no_grad():
                test = self._loss(1)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.losses.append((train.item(), test.item()))
            self.step += 1

    def grokked(self) -> bool:
        return self.losses[-1][1] < run.GROKKED_LOSS


class Ours:
    """This project's loop, a block at a time; nothing is written to disk."""

    def __init__(self, every: list[tasks.Task], made: recipe.Recipe, folder: Path) -> None:
        self._every, self._made, self._folder = every, made, folder
        for i in range(len(every)):
            (folder / str(i) / "checkpoints").mkdir(parents=True)
        chosen = [(task, folder / str(i), None) for i, task in enumerate(every)]
        self.loop = training.Training(chosen, made, "never", torch.device("cpu"))

    def take(self, steps: int) -> None:
        target = self.loop.step + steps
        with training._workers(len(self._every)) as work:
            while self.loop.step < target:
                self.loop.advance(work)

    @property
    def curves(self) -> run.Curves:
        return self.loop.seeds[0].state.curves


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def steps(total: int = 500) -> tuple[float, float]:
    """Ratio to the demo's loop at p = 113, and the largest relative difference of the losses."""
    task, exact = tasks.Task(), recipe.recipe()
    with tempfile.TemporaryDirectory() as folder:
        plain = Plain(task, exact)
        ours = Ours([task], exact, Path(folder) / "exact")
        half = Ours([task], dataclasses.replace(exact, precision="bfloat16"), Path(folder) / "half")
        times: dict[str, list[float]] = {"plain": [], "ours": [], "half": []}
        for _ in range(total // BLOCK):
            times["plain"].append(_timed(lambda: plain.take(BLOCK)))
            times["ours"].append(_timed(lambda: ours.take(BLOCK)))
            times["half"].append(_timed(lambda: half.take(BLOCK)))
        gap = max(_gaps(plain, ours.curves))
        of_half = max(_gaps(plain, half.curves))
    median = {name: statistics.median(values) / BLOCK for name, values in times.items()}
    ratio, faster = median["plain"] / median["ours"], median["plain"] / median["half"]
    for how, name, by, apart in (
        ("", "ours", ratio, gap),
        (", bfloat16 products", "half", faster, of_half),
    ):
        numbers.say(
            "grokking",
            f"training steps, p = 113{how}",
            by,
            "times as fast as the demo's loop",
            checked=f"losses differ by at most {apart:.2%} over {total} steps",
            seconds=f"{median[name] * 1e3:.1f} ms, demo {median['plain'] * 1e3:.0f}",
        )
    return ratio, gap


def _gaps(plain: Plain, curves: run.Curves) -> Iterator[float]:
    expected = np.array(plain.losses)
    yield float(np.abs(np.array(curves.train_loss) / expected[:, 0] - 1).max())
    tested = np.array(curves.test_steps)
    known = tested[tested < len(expected)]
    found = np.array(curves.test_loss)[: len(known)]
    # The demo's test of a step sees the weights before it, as ours does.
    yield float(np.abs(found / expected[known, 1] - 1).max())


def behaviour(most: int = 4_000) -> tuple[int, int]:
    """Steps until the test loss falls below .1, p = 59 with half of the pairs, both ways."""
    task, made = tasks.Task(p=59, fraction=0.5), recipe.recipe()
    with tempfile.TemporaryDirectory() as folder:
        plain, ours = Plain(task, made), Ours([task], made, Path(folder))
        while not plain.losses or not (plain.grokked() or plain.step >= most):
            plain.take(BLOCK)
        while ours.curves.test_loss[-1] >= run.GROKKED_LOSS and ours.loop.step < most:
            ours.take(BLOCK)
    numbers.say(
        "grokking",
        f"steps until the test loss falls below {run.GROKKED_LOSS}, p = 59",
        ours.loop.step / plain.step,
        "times those of the demo's loop",
        seconds=f"{ours.loop.step} against {plain.step} steps",
    )
    return plain.step, ours.loop.step


_ALONE = """
import sys, time, tempfile, torch
from pathlib import Path
threads, p, fraction, seed, count, gate = sys.argv[1:]
torch.set_num_threads(int(threads))
from tests.benchmarks.grokking import Ours
from workbench.core.modular import recipe, tasks
with tempfile.TemporaryDirectory() as folder:
    task = tasks.Task(p=int(p), fraction=float(fraction), seed=int(seed))
    ours = Ours([task], recipe.recipe(), Path(folder))
    ours.take(3)
    Path(gate, seed).touch()
    while not Path(gate, "go").exists():
        time.sleep(0.001)
    ours.take(int(count))
print(time.time())
"""


def seeds(p: int, fraction: float, count: int, trials: int = 3) -> tuple[float, float, float]:
    """Four seeds together against one after the other, and against four processes at once.

    Returns:
        Ratio to one after the other; to processes that have started; and with their start.
    """
    every = [tasks.Task(p=p, fraction=fraction, seed=seed) for seed in range(4)]
    made = recipe.recipe()
    together, alone, processes, whole = [], [], [], []
    for _ in range(trials):
        with tempfile.TemporaryDirectory() as folder:
            batch = Ours(every, made, Path(folder) / "together")
            singles = [Ours([task], made, Path(folder) / f"a{task.seed}") for task in every]
            for either in (batch, *singles):
                either.take(3)
            together.append(_timed(functools.partial(batch.take, count)))
            alone.append(sum(_timed(functools.partial(single.take, count)) for single in singles))
        of_threads = [_processes(p, fraction, count, threads) for threads in (1, THREADS)]
        best = min(of_threads)
        processes.append(best[0])
        whole.append(best[1])
    middle = [statistics.median(times) for times in (together, alone, processes, whole)]
    for i, baseline in enumerate(
        ("one after the other", "four processes once started", "four processes with their start"), 1
    ):
        numbers.say(
            "grokking",
            f"four seeds together, p = {p}, against {baseline}",
            middle[i] / middle[0],
            "times as fast",
            seconds=f"{count} steps, {middle[0]:.1f} s against {middle[i]:.1f}",
        )
    return middle[1] / middle[0], middle[2] / middle[0], middle[3] / middle[0]


def _processes(p: int, fraction: float, count: int, threads: int) -> tuple[float, float]:
    """Seconds of four processes: from when all are ready, and from when they are started."""
    with tempfile.TemporaryDirectory() as gate:
        started = time.time()
        processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _ALONE,
                    *map(str, (threads, p, fraction, seed, count, gate)),
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for seed in range(4)
        ]
        while len(list(Path(gate).iterdir())) < len(processes):
            time.sleep(0.001)
        ready = time.time()
        (Path(gate) / "go").touch()
        ends = [float(process.communicate()[0]) for process in processes]
    return max(ends) - ready, max(ends) - started


def track() -> float:
    """Seconds to track the bundled trajectory."""
    found = grokking.bundled_run()
    times = [_timed(lambda: grokking.track(found)) for _ in range(3)]
    seconds = statistics.median(times)
    model = found.model()
    a, b = found.task.pairs().T
    tokens = torch.stack([a, b, torch.full_like(a, found.task.p)], dim=1)
    plain = statistics.median(_timed(lambda: running.run(model, tokens)) for _ in range(3))
    numbers.say(
        "grokking",
        f"tracking a checkpoint, p = {found.task.p}",
        seconds / len(found.steps) / plain,
        "forward passes of the bridge over all pairs",
        seconds=f"{len(found.steps)} checkpoints in {seconds:.1f} s, a pass {plain * 1e3:.0f} ms",
    )
    return seconds


ROWS: dict[str, Callable[[], object]] = {
    "steps": steps,
    "behaviour": behaviour,
    "seeds": lambda: (seeds(113, 0.3, 50), seeds(59, 0.5, 200)),
    "track": track,
}


def main() -> None:
    """Print the rows whose names were given, or all."""
    torch.set_num_threads(THREADS)
    for name in sys.argv[1:] or ROWS:
        ROWS[name]()


if __name__ == "__main__":
    main()
