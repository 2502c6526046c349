"""How does the time until a network generalises depend on a setting?

1. Every setting (the values of one or two fields of the task or the recipe, in all combinations) is
   trained with the same seeds, side by side. Each training is a run among the stored ones: one that
   is there already is not trained again, and a sweep that was stopped goes on where it stood.
2. Read off each run: the first test with accuracy from .99 on and loss below .1 (it grokked), the
   first step with a training loss below .1 (it memorised), and the last test accuracy.
3. A run that did not grok within its steps is censored: all that is known is that it takes longer.
   It counts as later than every step. So the median over the seeds is "not by step N" where at
   least half of the seeds are censored, and so may be either end of its interval (percentile
   bootstrap over the seeds, without interpolation).
4. Does the time depend on the value? Numbers: Spearman's rank correlation; names: the statistic of
   Kruskal and Wallis; both with the p-value of a permutation test, censored runs tied at the last
   rank. Where two fields vary, times are ranked within each value of the other one, and the
   p-values are corrected for two tests.

Source: Power et al. 2022, arXiv 2201.02177 (fraction of data, weight decay); Liu et al. 2022, arXiv
2210.01117 (initial scale); Efron & Tibshirani 1993 (bootstrap); Fisher 1935 (permutation).

Units and sign: steps of the optimizer, tested every 50 steps, so that no time is known to less. A
positive correlation: larger values take longer.

Limits: few seeds give wide intervals, and the bootstrap of a median of four or five is coarse.
Where the number of steps itself differs between settings, censored runs are not comparable.
Ranks say that there is a dependence and in which direction, not of which form.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import threading
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import joblib
import joblib.parallel
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import scipy.stats
from jaxtyping import Float, Int

from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.evidence import SURE
from workbench.core.modular import run, training
from workbench.core.modular.recipe import Recipe
from workbench.core.modular.tasks import Task

ANALYSIS = "grokking.sweep"
Value = float | int | str | bool
# What a sweep sets itself, or what names a thing and does not change it.
_NOT_VARIED = ("seed", "name")
_MOST_FIELDS = 2
# Values that differ by at least this factor are drawn on a logarithmic axis.
_LOG_FACTOR = 10.0
# Where a censored run stands, in multiples of the most steps: its mean with any step is later than
# every step.
_LATER = 4.0


class SweepError(ValueError):
    """A sweep that cannot be made; the message says why."""


@dataclasses.dataclass(frozen=True)
class Dependence:
    """Whether the time until a network generalises depends on a field.

    Attributes:
        field: Its name.
        test: "Spearman" for numbers, "Kruskal-Wallis" for names.
        statistic: Rank correlation, or the H statistic.
        p_value: Of the permutation test, corrected for the number of fields; NaN where there is
            nothing to compare.
        n: Runs.
        n_censored: Of these, how many did not grok within their steps.
    """

    field: str
    test: str
    statistic: float
    p_value: float
    n: int
    n_censored: int


@dataclasses.dataclass(frozen=True)
class Sweep(results.Result):
    """Times until networks generalise, for several settings and seeds.

    Attributes:
        task: What is learned, apart from what is varied.
        recipe: How, apart from what is varied.
        fields: Names of the one or two varied fields.
        settings: Values of these fields, one tuple a setting.
        seeds: The seeds.
        grokked_at: Step at which each run grokked; NaN where it did not within its steps.
        memorised_at: First step with a training loss below .1; NaN where there was none.
        test_accuracy: At the end of each run.
        last_steps: Steps that the recipe allows in each setting.
        median: Of `grokked_at` over the seeds; infinity stands for "not within the steps".
        interval: Its bootstrap interval; NaN where there is one seed.
        dependences: One a field.
        folders: Name of each run's folder among the stored trainings.
        confidence: Level of the interval.
    """

    task: Task
    recipe: Recipe
    fields: tuple[str, ...]
    settings: tuple[tuple[Value, ...], ...]
    seeds: tuple[int, ...]
    grokked_at: Float[np.ndarray, "setting seed"]
    memorised_at: Float[np.ndarray, "setting seed"]
    test_accuracy: Float[np.ndarray, "setting seed"]
    last_steps: Int[np.ndarray, " setting"]
    median: Float[np.ndarray, " setting"]
    interval: Float[np.ndarray, "bound setting"]
    dependences: tuple[Dependence, ...]
    folders: tuple[tuple[str, ...], ...]
    confidence: float

    @property
    def censored(self) -> int:
        """How many runs did not grok within their steps."""
        return int(np.isnan(self.grokked_at).sum())

    def label(self, setting: int) -> str:
        """A setting in words, for example "fraction = 0.3, weight_decay = 1"."""
        pairs = zip(self.fields, self.settings[setting], strict=True)
        return ", ".join(f"{name} = {_shown(value)}" for name, value in pairs)

    def time_label(self, setting: int) -> str:
        """The median time of a setting with its interval, "not by step N" where it is censored."""
        last = int(self.last_steps[setting])
        text = _step(self.median[setting], last)
        low, high = self.interval[:, setting]
        if math.isnan(low):
            return text
        return f"{text} [{_step(low, last)}, {_step(high, last)}]"

    def to_frame(self) -> pd.DataFrame:
        """One row a run."""
        rows: list[dict[str, Any]] = []
        for i, j in np.ndindex(self.grokked_at.shape):
            rows.append(
                {
                    **dict(zip(self.fields, self.settings[i], strict=True)),
                    "seed": self.seeds[j],
                    "grokked_at": self.grokked_at[i, j],
                    "memorised_at": self.memorised_at[i, j],
                    "delay": self.grokked_at[i, j] - self.memorised_at[i, j],
                    "censored": bool(np.isnan(self.grokked_at[i, j])),
                    "last_step": int(self.last_steps[i]),
                    "test_accuracy": self.test_accuracy[i, j],
                    "median": self.median[i],
                    "low": self.interval[0, i],
                    "high": self.interval[1, i],
                    "folder": self.folders[i][j],
                }
            )
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Step of grokking against the value; a dot a run, open triangles for censored ones."""
        values = [setting[0] for setting in self.settings]
        numbers = _are_numbers(values)
        figure = go.Figure()
        others = list(dict.fromkeys(setting[1:] for setting in self.settings))
        for index, other in enumerate(others):
            rows = [i for i, setting in enumerate(self.settings) if setting[1:] == other]
            if numbers:
                rows.sort(key=lambda i: float(values[i]))
            colour = plots.COLOURS[index % len(plots.COLOURS)]
            name = f"{self.fields[1]} = {_shown(other[0])}" if other else "median"
            where = [values[i] if numbers else _shown(values[i]) for i in rows]
            figure.add_traces(self._traces(rows, where, plots.escape(name), colour))
        figure.update_layout(template=plots.TEMPLATE, showlegend=True)
        axis = "category" if not numbers else "log" if _spread(values) else "linear"
        figure.update_xaxes(title=plots.escape(self.fields[0]), type=axis)
        known = self.grokked_at[np.isfinite(self.grokked_at)]
        log = known.size > 0 and known.min() > 0
        return figure.update_yaxes(title="step of grokking", type="log" if log else "linear")

    def _traces(
        self, rows: list[int], where: list[Any], name: str, colour: str
    ) -> list[go.Scatter]:
        """Band, median, runs and censored runs of one curve."""
        top = float(self.last_steps.max())

        def at(values: np.ndarray) -> list[float | None]:
            """An end that is not within the steps is drawn at the top; what is unknown, not."""
            return [None if math.isnan(v) else min(v, top) for v in values[rows].tolist()]

        marker = {"color": colour, "size": 8}
        edge = {"width": 0}
        band: list[go.Scatter] = []
        if len(self.seeds) > 1:
            label = f"{name}, {self.confidence:.0%} interval"
            how: dict[str, Any] = {"x": where, "mode": "lines", "line": edge, "hoverinfo": "skip"}
            fill = {"fill": "tonexty", "fillcolor": _transparent(colour), "name": label}
            band = [
                go.Scatter(y=at(self.interval[0]), showlegend=False, **how),
                go.Scatter(y=at(self.interval[1]), **how, **fill),
            ]
        finite = np.where(np.isfinite(self.median), self.median, np.nan)
        line = go.Scatter(x=where, y=at(finite), name=name, mode="lines", line={"color": colour})
        points = [(x, i, j) for x, i in zip(where, rows, strict=True) for j in self._places()]
        seen = [(x, i, j) for x, i, j in points if np.isfinite(self.grokked_at[i, j])]
        late = [(x, i, j) for x, i, j in points if not np.isfinite(self.grokked_at[i, j])]
        dots = go.Scatter(
            x=[x for x, _, _ in seen],
            y=[self.grokked_at[i, j] for _, i, j in seen],
            text=[f"seed {self.seeds[j]}" for _, _, j in seen],
            mode="markers",
            marker=marker,
            name="a run",
            showlegend=False,
        )
        if not late:
            return [*band, line, dots]
        triangles = go.Scatter(
            x=[x for x, _, _ in late],
            y=[int(self.last_steps[i]) for _, i, _ in late],
            text=[f"seed {self.seeds[j]}: not within the steps" for _, _, j in late],
            mode="markers",
            marker={**marker, "symbol": "triangle-up-open", "size": 11},
            name="not within the steps",
        )
        return [*band, line, dots, triangles]

    def _places(self) -> range:
        return range(len(self.seeds))

    def summary(self) -> str:
        """The median of each setting, how many runs are censored, and whether it depends."""
        seeds = "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        each = "; ".join(
            f"{self.label(i)}: {self.time_label(i)}" for i in range(len(self.settings))
        )
        said = [
            f"{self.task.operation} mod {self.task.p} ({self.recipe.name}), {len(self.settings)} "
            f"settings of {seeds} each. Median step of grokking"
            f"{f' [{self.confidence:.0%} interval over seeds]' if len(self.seeds) > 1 else ''}: "
            f"{each}."
        ]
        if self.censored:
            said.append(
                f"{self.censored} of {self.grokked_at.size} runs did not grok within their steps; "
                "they count as later than every step, so a median is not known where they are half "
                "of the seeds or more."
            )
        said += [_said(found) for found in self.dependences]
        return " ".join(said)


def sweep(
    task: Task,
    recipe: Recipe | None = None,
    *,
    vary: Mapping[str, Sequence[Value]],
    seeds: Sequence[int] = (0, 1, 2, 3),
    stop: training.Stop = "grokked",
    n_jobs: int = 1,
    device: str = "auto",
    confidence: float = 0.95,
    n_resamples: int = 2000,
    progress: running.Progress | None = None,
) -> Sweep:
    """Train every setting with every seed, and ask whether the time to generalise depends on it.

    Args:
        task: What is learned; its seed is replaced.
        recipe: How; the published set-up of Nanda et al. if none is given.
        vary: One or two fields of the task or the recipe, each with its values.
        seeds: Seeds of the split, the initial weights and the label noise.
        stop: When each training ends; see `train`.
        n_jobs: Settings at a time, by joblib: threads, or whatever a surrounding
            `joblib.parallel_config` says.
        device: Where they are trained.
        confidence: Level of the interval of the median.
        n_resamples: Bootstrap resamples.
        progress: Called with the fraction done and a note; may raise to stop, after which the same
            call goes on from there.

    Returns:
        The times, their medians, and the test of dependence.

    Raises:
        ValueError: If a field or a value does not exist, or a training diverges; what was trained
            before stays.
    """
    started = time.perf_counter()
    evidence.require_confidence(confidence)
    recipe = recipe or Recipe()
    chosen = _require_seeds(seeds)
    fields, settings = _settings(vary)
    pieces = [
        _Piece(tuple(_tasks(task, setting, chosen)), _changed(recipe, setting), _words(setting))
        for setting in settings
    ]
    runs = _mapped(pieces, n_jobs, stop, device, progress or running.no_progress)
    found = _read_off(runs)
    last_steps = np.array([piece.recipe.steps for piece in pieces], dtype=np.int64)
    values = tuple(tuple(setting.values()) for setting in settings)
    bootstrap = evidence.Bootstrap(confidence=confidence, n_resamples=n_resamples, seed=0)
    median, interval = _medians(found["grokked_at"], last_steps, bootstrap)
    return Sweep(
        provenance=results.described(
            task.name,
            _fingerprint(runs),
            analysis=ANALYSIS,
            parameters={
                "task": dataclasses.asdict(task),
                "recipe": dataclasses.asdict(recipe),
                "vary": {name: list(vary[name]) for name in fields},
                "seeds": list(chosen),
                "stop": stop,
                "confidence": confidence,
                "n_resamples": n_resamples,
            },
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        task=task,
        recipe=recipe,
        fields=fields,
        settings=values,
        seeds=chosen,
        last_steps=last_steps,
        median=median,
        interval=interval,
        dependences=_dependences(fields, values, found["grokked_at"]),
        folders=tuple(tuple(one.folder.name for one in some) for some in runs),
        confidence=confidence,
        **found,
    )


def fields_of(kind: type[Task] | type[Recipe]) -> dict[str, type]:
    """Fields that a sweep can vary, with the type of their values.

    Args:
        kind: `Task` or `Recipe`.

    Returns:
        Type by name.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    # A choice between words is text.
    return {
        name: hints[name] if isinstance(hints[name], type) else str
        for name in names
        if name not in _NOT_VARIED
    }


class _Piece(NamedTuple):
    """One setting: its tasks, one a seed, and its recipe."""

    tasks: tuple[Task, ...]
    recipe: Recipe
    words: str


def _require_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise SweepError(f"seeds = {chosen}; expected one or more, each different")
    return chosen


def _settings(
    vary: Mapping[str, Sequence[Value]],
) -> tuple[tuple[str, ...], list[dict[str, Value]]]:
    """All combinations of the values, in their order."""
    if not 1 <= len(vary) <= _MOST_FIELDS:
        raise SweepError(f"{len(vary)} fields to vary; expected one or two")
    known = {**fields_of(Task), **fields_of(Recipe)}
    columns: list[list[Value]] = []
    for name, values in vary.items():
        if name not in known:
            raise SweepError(
                f"{name!r} cannot be varied: choose from {', '.join(fields_of(Task))} (of the "
                f"task), {', '.join(fields_of(Recipe))} (of the recipe)"
            )
        if isinstance(values, str) or not values:
            raise SweepError(f"values of {name}: expected a list of one value or more")
        column = [_of_type(name, value, known[name]) for value in values]
        if len(set(column)) < len(column):
            raise SweepError(f"values of {name}: {list(values)}; expected each only once")
        columns.append(column)
    combinations = itertools.product(*columns)
    return tuple(vary), [dict(zip(vary, values, strict=True)) for values in combinations]


def _of_type(name: str, value: Value, kind: type) -> Value:
    """A value as its field takes it: 1 becomes 1.0 where that is a fraction, 113.0 becomes 113."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and number:
        return float(value)
    if kind is int and number and float(value).is_integer():
        return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "a name"}
    raise SweepError(f"{name} = {value!r}; expected {words[kind]}")


def _tasks(task: Task, setting: Mapping[str, Value], seeds: Sequence[int]) -> list[Task]:
    own = {name: value for name, value in setting.items() if name in fields_of(Task)}
    return [dataclasses.replace(task, **{**own, "seed": seed}) for seed in seeds]  # pyright: ignore[reportArgumentType]


def _changed(recipe: Recipe, setting: Mapping[str, Value]) -> Recipe:
    own = {name: value for name, value in setting.items() if name in fields_of(Recipe)}
    return dataclasses.replace(recipe, **own)  # pyright: ignore[reportArgumentType]


def _words(setting: Mapping[str, Value]) -> str:
    return ", ".join(f"{name} = {_shown(value)}" for name, value in setting.items())


def _train(
    piece: _Piece, stop: training.Stop, device: str, report: running.Progress | None
) -> tuple[run.TrainingRun, ...]:
    """All seeds of one setting, side by side."""
    try:
        return training.train_seeds(
            piece.tasks, piece.recipe, stop=stop, device=device, progress=report
        )
    except ValueError as error:
        raise SweepError(f"at {piece.words}: {error}") from error


def _read(piece: _Piece, stop: training.Stop, device: str, report: Any) -> list[str]:
    """Train one setting; what comes back is where its runs lie, which any process can send."""
    return [str(made.folder) for made in _train(piece, stop, device, report)]


def _mapped(
    pieces: Sequence[_Piece],
    n_jobs: int,
    stop: training.Stop,
    device: str,
    report: running.Progress,
) -> list[tuple[run.TrainingRun, ...]]:
    """Train every setting, several at a time if asked for."""
    together = _Together(report, len(pieces))
    # Other processes cannot call back; they are counted when they are done.
    backend, _ = joblib.parallel.get_active_backend(prefer="threads")
    near = bool(getattr(backend, "supports_sharedmem", False))
    pool = joblib.Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")
    folders: list[list[str]] = []
    outcomes: Any = pool(
        joblib.delayed(_read)(piece, stop, device, together.of(i, piece.words) if near else None)
        for i, piece in enumerate(pieces)
    )
    try:
        for i, outcome in enumerate(outcomes):
            folders.append(outcome)
            together.tell(i, 1.0, f"{pieces[i].words}: done")
    except _Stopped:
        assert together.reason is not None
        raise together.reason from None
    finally:
        # Whatever ends the sweep ends the settings that are still at work, each at its next report.
        together.stopped = True
        outcomes.close()
    return [tuple(run.open_run(folder) for folder in some) for some in folders]


class _Stopped(Exception):
    """Ends a setting that is at work when the sweep is stopped; it is no error."""


class _Together:
    """The progress of settings that are trained at the same time."""

    def __init__(self, report: running.Progress, count: int) -> None:
        self._report, self._done, self._lock = report, [0.0] * count, threading.Lock()
        self.stopped = False
        self.reason: BaseException | None = None

    def of(self, i: int, words: str) -> Callable[[float, str], None]:
        """Progress of one setting."""
        return lambda fraction, note: self.tell(i, fraction, f"{words}: {note}")

    def tell(self, i: int, fraction: float, note: str) -> None:
        """Note how far one setting is, and report how far all of them are."""
        with self._lock:
            if self.stopped:
                raise _Stopped
            self._done[i] = max(self._done[i], fraction)
            try:
                self._report(sum(self._done) / len(self._done), note)
            except BaseException as reason:
                # A thread that works for joblib survives an Exception only; an interrupt would
                # leave joblib waiting for it.
                self.stopped, self.reason = True, reason
                raise _Stopped from reason


def _read_off(runs: Sequence[Sequence[run.TrainingRun]]) -> dict[str, Any]:
    def each(read: Callable[[run.TrainingRun], float]) -> Float[np.ndarray, "setting seed"]:
        return np.array([[float(read(one)) for one in some] for some in runs])

    return {
        "grokked_at": each(lambda one: one.grokked_at),
        "memorised_at": each(_memorised_at),
        "test_accuracy": each(lambda one: one.curves.test_accuracy[-1]),
    }


def _memorised_at(one: run.TrainingRun) -> float:
    below = np.flatnonzero(np.array(one.curves.train_loss) < run.GROKKED_LOSS)
    return float(below[0]) if below.size else math.nan


def _fingerprint(runs: Sequence[Sequence[run.TrainingRun]]) -> str:
    digest = hashlib.sha256()
    for one in itertools.chain.from_iterable(runs):
        digest.update(one.fingerprint.encode())
    return digest.hexdigest()


def _medians(
    grokked_at: Float[np.ndarray, "setting seed"],
    last_steps: Int[np.ndarray, " setting"],
    bootstrap: evidence.Bootstrap,
) -> tuple[Float[np.ndarray, " setting"], Float[np.ndarray, "bound setting"]]:
    """Median of each setting with its interval; infinity where it is later than the last step."""
    later = _LATER * float(last_steps.max())
    times = np.where(np.isnan(grokked_at), later, grokked_at)
    median = np.median(times, axis=1)
    interval = np.full((2, len(times)), np.nan)
    if times.shape[1] > 1:
        for i, row in enumerate(times):
            interval[:, i] = _median_interval(row, bootstrap)
    limits = last_steps.astype(np.float64)
    return (
        np.where(median > limits, np.inf, median),
        np.where(interval > limits, np.inf, interval),
    )


def _median_interval(
    times: Float[np.ndarray, " seed"], bootstrap: evidence.Bootstrap
) -> Float[np.ndarray, " bound"]:
    """Percentiles of resampled medians; no mean of a step and of "later" is ever taken."""
    found = scipy.stats.bootstrap(
        (times,),
        np.median,
        vectorized=True,
        method="percentile",
        n_resamples=bootstrap["n_resamples"],
        rng=np.random.default_rng(bootstrap["seed"]),
    )
    tail = (1 - bootstrap["confidence"]) / 2
    low = np.quantile(found.bootstrap_distribution, tail, method="lower")
    high = np.quantile(found.bootstrap_distribution, 1 - tail, method="higher")
    return np.array([low, high])


def _dependences(
    fields: Sequence[str],
    settings: Sequence[tuple[Value, ...]],
    grokked_at: Float[np.ndarray, "setting seed"],
) -> tuple[Dependence, ...]:
    times = np.where(np.isnan(grokked_at), np.inf, grokked_at)
    found: list[Dependence] = []
    for i, field in enumerate(fields):
        values = [setting[i] for setting in settings]
        others = [setting[:i] + setting[i + 1 :] for setting in settings]
        ranks = np.empty_like(times)
        for other in set(others):
            rows = [j for j, own in enumerate(others) if own == other]
            ranks[rows] = scipy.stats.rankdata(times[rows]).reshape(len(rows), -1)
        name, statistic, p_value = _tested(values, ranks)
        count = int(np.isnan(grokked_at).sum())
        found.append(Dependence(field, name, statistic, p_value, grokked_at.size, count))
    p_values = np.array([one.p_value for one in found])
    if np.isfinite(p_values).all():
        p_values = evidence.adjusted_for_discoveries(p_values)
    return tuple(
        dataclasses.replace(one, p_value=float(p)) for one, p in zip(found, p_values, strict=True)
    )


def _tested(
    values: Sequence[Value], ranks: Float[np.ndarray, "setting seed"]
) -> tuple[str, float, float]:
    """Name, statistic and p-value of the test that suits the values."""
    numbers = _are_numbers(values)
    name = "Spearman" if numbers else "Kruskal-Wallis"
    if len(set(values)) == 1:
        return name, math.nan, math.nan
    if (ranks == ranks.flat[0]).all():
        # All runs took equally long, or none grokked: nothing depends on anything.
        return name, 0.0, 1.0
    if numbers:
        return name, *_spearman(
            np.repeat(np.array(values, dtype=np.float64), ranks.shape[1]), ranks
        )
    groups = [
        ranks[[i for i, value in enumerate(values) if value == one]].ravel()
        for one in dict.fromkeys(values)
    ]
    return name, *_kruskal(groups)


def _spearman(
    values: Float[np.ndarray, " run"], ranks: Float[np.ndarray, "setting seed"]
) -> tuple[float, float]:
    x = scipy.stats.rankdata(values)
    x, y = x - x.mean(), ranks.ravel() - ranks.mean()
    scale = math.sqrt((x**2).sum() * (y**2).sum())
    found: Any = scipy.stats.permutation_test(
        (x,),
        lambda sample, axis: (sample * y).sum(axis) / scale,
        permutation_type="pairings",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(found.statistic), float(found.pvalue)


def _kruskal(groups: Sequence[Float[np.ndarray, " run"]]) -> tuple[float, float]:
    sizes = [len(group) for group in groups]

    def between(*samples: np.ndarray, axis: int) -> Any:
        # All that the permutations change of H.
        weighed = [
            size * sample.mean(axis) ** 2 for size, sample in zip(sizes, samples, strict=True)
        ]
        return np.sum(weighed, axis=0)

    found: Any = scipy.stats.permutation_test(
        tuple(groups),
        between,
        permutation_type="independent",
        alternative="greater",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(scipy.stats.kruskal(*groups).statistic), float(found.pvalue)


def _are_numbers(values: Sequence[Value]) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _spread(values: Sequence[Value]) -> bool:
    """Whether numbers are best seen on a logarithmic axis."""
    numbers = np.array(values, dtype=np.float64)
    return bool(numbers.min() > 0 and numbers.max() >= _LOG_FACTOR * numbers.min())


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _step(value: float, last: int) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else f"not by step {last:,}"


def _transparent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.15)"


def _said(found: Dependence) -> str:
    if math.isnan(found.p_value):
        return f"One value of {found.field} says nothing about its influence."
    what = "ρ" if found.test == "Spearman" else "H"
    numbers = f"{found.test} {what} = {found.statistic:.2f}, permutation p = {found.p_value:.2g}"
    if found.p_value > SURE:
        verdict = f"That grokking time depends on {found.field} is not more than chance"
    elif found.test != "Spearman":
        verdict = f"Grokking time depends on {found.field}"
    else:
        way = "longer" if found.statistic > 0 else "less"
        verdict = f"Grokking takes {way} the larger {found.field} is"
    return f"{verdict} ({numbers}, n = {found.n} runs, {found.n_censored} censored)."
