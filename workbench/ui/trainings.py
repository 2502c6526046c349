"""Trainings on a page: choosing one, starting and resuming it, and watching it while it goes on.

1. The choice stands in the address as `?run=`: the bundled run, a stored one by its folder's name,
   or "new".
2. A training runs as a job (`jobs`) in a process of its own (`training_process`): it goes on when
   the page is left, and drawing does not slow it. What is watched is what lies in its folder,
   whoever trains in it.
3. While it goes on, its losses are said twice a second, and its curves drawn every four seconds: a
   browser on the same machine takes three times as long to draw as to say. Its newest checkpoint is
   measured in a thread, at most every ten seconds, and so seldom that measuring takes a small share
   of the time.

Limits: a training saves and ends with the server that runs it; it can be resumed from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from workbench.core.modular import recipe as recipes
from workbench.core.modular import run, tasks, training
from workbench.ui import buttons, escaping, jobs, training_process

NEW, BUNDLED = "new", "modadd-113"
STOPS: dict[training.Stop, str] = {
    "grokked": "it has generalised",
    "settled": "its weights have settled as well",
    "never": "the last step",
}
# Quick, and shows everything.
_SUGGESTED = tasks.Task(p=59, fraction=0.5)
# Seconds between two times that a training's losses are said, and that its curves are drawn.
_SAID, _DRAWN = 0.5, 4.0
# Widgets of the page whose values belong to one run.
_OF_A_RUN = ("neuron", "answer")
# Measuring takes at most one second in so many (of its own thread; others help it for as long
# again), and starts at most every so many seconds.
_SHARE, _LEAST_PAUSE = 50, 10.0

Measure = Callable[[run.TrainingRun, int], Any]


def pick() -> str:
    """Draw the choice of a run.

    Returns:
        `NEW`, `BUNDLED`, or the name of a stored run's folder.
    """
    stored = {found.folder.name: found for found in run.stored_runs()}
    asked = st.query_params.get("run", BUNDLED)
    options = [BUNDLED, *stored, NEW]
    if asked not in options and jobs.manager().find(_key(asked)) is not None:
        # Started a moment ago: its folder is being made.
        options.insert(1, asked)
    if asked not in options:
        st.info("This run is not stored on this machine.")
        asked = BUNDLED
    # The address is what counts; the widget follows it, also when the page itself changes it.
    st.session_state["chosen run"] = asked

    def label(name: str) -> str:
        if name in stored:
            return f"{stored[name].name}, {stored[name].recipe.name} ({name})"
        begun = jobs.manager().find(_key(name))
        plain = {BUNDLED: f"{BUNDLED}, bundled", NEW: "New training"}
        return plain.get(name, name if begun is None else f"{begun.label} ({name})")

    def follow() -> None:
        # What these say is about the run before.
        for widget in _OF_A_RUN:
            st.session_state.pop(widget, None)
        st.query_params.pop("compare", None)
        st.query_params["run"] = st.session_state["chosen run"]

    return st.selectbox("Run", options, format_func=label, key="chosen run", on_change=follow)


def pick_others(name: str) -> dict[str, run.TrainingRun]:
    """Draw the choice of runs to compare with.

    Args:
        name: The run that is compared, which is not offered.

    Returns:
        The chosen runs by their folders' names, in the order in which they were chosen.
    """
    offered = {found.folder.name: found for found in run.stored_runs() if found.step}
    with contextlib.suppress(run.RunError):
        offered[BUNDLED] = run.bundled_run()
    offered.pop(name, None)
    if not offered:
        st.caption("There is no other run on this machine yet; train one: New training, above.")
        return {}
    asked = st.query_params.get_all("compare")
    # As in `pick`, the address is what counts.
    st.session_state["compared"] = [other for other in asked if other in offered]

    def follow() -> None:
        st.query_params["compare"] = st.session_state["compared"]

    chosen = st.multiselect(
        "Compare with",
        list(offered),
        format_func=lambda other: f"{offered[other].name} ({other})",
        key="compared",
        on_change=follow,
        placeholder="Further runs, to see their test losses beside this one's",
    )
    return {other: offered[other] for other in chosen}


def opened(name: str) -> run.TrainingRun | None:
    """Open what was picked.

    Args:
        name: What `pick` returned.

    Returns:
        The run, or None where it has not begun or cannot be opened, which is said.
    """
    try:
        return run.bundled_run() if name == BUNDLED else run.open_run(_folder(name))
    except run.RunError as error:
        job = jobs.manager().find(_key(name))
        if job is None or job.done:
            st.info(escaping.markdown(str(error)))
        return None


def start() -> None:
    """Draw the form of a new training; ends with the page drawn anew once it is started."""
    preset = st.selectbox(
        "Recipe",
        list(recipes.RECIPES),
        help="A published set-up; what differs from it is set below.",
    )
    st.caption(
        f"A quick one that shows everything: p = {_SUGGESTED.p} with {_SUGGESTED.fraction:.0%} of "
        "the pairs and the recipe nanda-2023 takes about a minute on two processor cores. "
        f"p = {tasks.Task().p} with {tasks.Task().fraction:.0%}, as in the paper, takes much "
        "longer without a GPU."
    )
    with st.form("new training"):
        task = _ask_task()
        with st.expander("Everything else that the recipe says"):
            changes = _ask_recipe(recipes.RECIPES[preset])
        stop = _ask_stop(tuple(STOPS), key="stop of a new training")
        if not buttons.pressed(st.form_submit_button, "Start"):
            return
    try:
        begin(
            tasks.Task(**task), dataclasses.replace(recipes.RECIPES[preset], **changes), stop=stop
        )
    except (tasks.TaskError, recipes.RecipeError) as error:
        st.error(escaping.markdown(str(error)))


def begin(task: tasks.Task, recipe: recipes.Recipe, *, stop: training.Stop) -> None:
    """Train in the background, or go on with it, and draw the page anew with this run.

    Args:
        task: What is learned.
        recipe: How.
        stop: When it ends.
    """
    folder = run.folder_of(task, recipe)
    key = _key(folder.name)
    ended = jobs.manager().find(key)
    if ended is not None and ended.done:
        jobs.manager().forget(key)

    def work(report: jobs.Report) -> str:
        training_process.train(task, recipe, folder=folder, stop=stop, report=report)
        return folder.name

    jobs.manager().submit(key, work, label=f"Training {task.name}")
    st.query_params["run"] = folder.name
    st.rerun()


def is_running(name: str) -> bool:
    """Whether a run is being trained, by this server or by another process.

    Args:
        name: What `pick` returned.

    Returns:
        False for the bundled run.
    """
    job = jobs.manager().find(_key(name))
    if job is not None and not job.done:
        return True
    return name != BUNDLED and _folder(name).is_dir() and run.is_training(_folder(name))


def offer_more(found: run.TrainingRun) -> None:
    """Say how the last training here ended, and offer to go on where there is more to train.

    Args:
        found: A run that nobody trains.
    """
    job = jobs.manager().find(_key(found.folder.name))
    if job is not None:
        jobs.job_panel(job)
    if found.folder.parent != run.trainings_root() or found.step >= found.recipe.steps:
        return
    grokked = math.isfinite(found.grokked_at)
    stops: tuple[training.Stop, ...] = tuple(
        name for name in STOPS if name != "grokked" or not grokked
    )
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    with left:
        stop = _ask_stop(stops, key="stop of this training")
    if buttons.pressed(right.button, "Resume", width="stretch"):
        begin(found.task, found.recipe, stop=stop)


def watch(
    name: str,
    measure: Measure,
    draw: Callable[[run.TrainingRun, list[Any]], None],
    *,
    began: bool,
) -> None:
    """Show a run that is being trained as it goes on.

    The page is drawn anew when the training ends, and when it has its first checkpoint.

    Args:
        name: What `pick` returned.
        measure: Measures one checkpoint; runs in a thread, never calls Streamlit.
        draw: Draws the run with what was measured of its checkpoints, by step.
        began: Whether the page knows of a checkpoint.
    """
    job = jobs.manager().find(_key(name))
    if job is not None:
        jobs.job_panel(job)
    else:
        _follow_other(_folder(name))

    @st.fragment(run_every=_DRAWN)
    def panel() -> None:
        if not is_running(name):
            st.rerun()
        if not (_folder(name) / "run.json").is_file():
            return
        found = run.open_run(_folder(name))
        if found.steps and not began:
            st.rerun()
        seen = _measured(str(found.folder))
        seen.look(found, measure)
        if found.step:
            draw(found, seen.rows())

    panel()


@st.fragment(run_every=_SAID)
def _follow_other(folder: Path) -> None:
    """Say how far a run is that another process trains."""
    so_far = f": {run.open_run(folder).curves.note()}" if (folder / "run.json").is_file() else ""
    st.caption(f"Another process trains this run{so_far}")


class Measured:
    """What was measured of the checkpoints of one run while it is trained."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._rows: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._busy = False
        self._next = 0.0

    def rows(self) -> list[Any]:
        """What was measured, by step."""
        with self._lock:
            return [self._rows[step] for step in sorted(self._rows)]

    def look(self, found: run.TrainingRun, measure: Measure) -> None:
        """Begin to measure the newest checkpoint, if it is new and it is time.

        Args:
            found: The run.
            measure: Measures one checkpoint.
        """
        with self._lock:
            due = not self._busy and time.monotonic() >= self._next
            if not due or not found.steps or found.steps[-1] in self._rows:
                return
            self._busy = True
        arguments = (found, found.steps[-1], measure)
        threading.Thread(target=self._measure, args=arguments, daemon=True).start()

    def _measure(self, found: run.TrainingRun, step: int, measure: Measure) -> None:
        # Time of this thread's own: on a busy machine the clock runs on while it waits.
        started = time.thread_time()
        try:
            row = measure(found, step)
            with self._lock:
                self._rows[step] = row
        finally:
            taken = time.thread_time() - started
            with self._lock:
                self._next = time.monotonic() + max(_LEAST_PAUSE, _SHARE * taken)
                self._busy = False


@st.cache_resource(show_spinner=False, max_entries=8)
def _measured(folder: str) -> Measured:
    del folder  # what the cache goes by
    return Measured()


def _key(name: str) -> str:
    return jobs.job_key("training", str(run.trainings_root()), name)


def _folder(name: str) -> Path:
    # A name from a link is one of the stored runs' or of a job; see `pick`.
    return run.trainings_root() / name


def _ask_task() -> dict[str, Any]:
    one, two, three, four, five = st.columns(5)
    return {
        "p": int(one.number_input("p, a prime", value=_SUGGESTED.p, step=1)),
        "operation": two.selectbox("Operation", tasks.OPERATIONS),
        "fraction": three.number_input("Share trained on", value=_SUGGESTED.fraction),
        "seed": int(four.number_input("Seed", value=_SUGGESTED.seed, step=1)),
        "noise": five.number_input(
            "Label noise",
            value=_SUGGESTED.noise,
            help="Share of the training labels drawn anew at random; 1 is random labels.",
        ),
    }


_COUNTS = {
    "steps": "Steps at the most",
    "d_model": "Width (d_model)",
    "n_heads": "Heads",
    "d_head": "Width of a head",
    "d_mlp": "Neurons",
    "warm_up": "Warm-up steps",
}
_NUMBERS = {
    "learning_rate": "Learning rate",
    "weight_decay": "Weight decay",
    "initial_scale": "Initial scale",
    "grokfast_lambda": "Grokfast λ",
    "grokfast_alpha": "Grokfast α",
}


def _ask_recipe(preset: recipes.Recipe) -> dict[str, Any]:
    """Fields of the recipe; a preset's own widgets begin with its values."""
    columns = st.columns(4)
    asked: dict[str, Any] = {}
    every = [*_COUNTS.items(), *_NUMBERS.items()]
    for place, (field, label) in enumerate(every):
        value = getattr(preset, field)
        key = f"{field} of {preset.name}"
        step = 1 if field in _COUNTS else None
        shape = None if field in _COUNTS else "%.6g"
        asked[field] = columns[place % 4].number_input(
            label, value=value, step=step, format=shape, key=key
        )
    asked["precision"] = columns[3].selectbox("Precision", recipes.PRECISIONS)
    asked["constrain_norm"] = st.checkbox(
        "Constrained norm: weights are brought back to their initial norm after each step",
        preset.constrain_norm,
        key=f"constrain_norm of {preset.name}",
    )
    return asked


def _ask_stop(stops: tuple[training.Stop, ...], *, key: str) -> training.Stop:
    return st.selectbox("Train until", stops, format_func=lambda stop: STOPS[stop], key=key)
