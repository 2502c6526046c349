"""Grokking: how does a network come to generalise?

1. Pick a run, or start one; it goes on in the background and is watched while it does.
2. See what every checkpoint measures, and the phases that this shows.
3. Move through the checkpoints, see each from inside, and open it on another page.
4. Test the explanation in waves; look for sudden drops, in any training curve; compare runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from analyses import grokking
from analyses.grokking import changes, circuit, curves, drops, pictures, tracking
from workbench.core import results, runs
from workbench.core.modular import network, theory
from workbench.ui import (
    addresses,
    buttons,
    downloads,
    escaping,
    jobs,
    showing,
    steps,
    stored,
    tables,
    trainings,
)

OTHER_PAGES = sorted(path for path in Path(__file__).parent.glob("*.py") if path.stem != "grokking")
# Seconds of the tests of the waves for a million numbers in the table of all logits.
FOURIER_SECONDS = 20.0
DROPS_SECONDS = 3.0
# Seconds between two looks for new checkpoints of a run that is being trained.
LOOK_AGAIN = 30.0
LOOK_INSIDE = "Look inside its checkpoints meanwhile (drawing them slows the training)"
# Share of the logits' variance from which on key frequencies are named while a network is trained.
CLEAR = 0.5
DROPS_CODE = (
    "made = run.curves.arrays()",
    "curve = grokking.Curve(",
    "    steps=made['test_steps'], values=made['test_loss'], name='test loss', source=run.name",
    ")",
    "print(grokking.detect_drops(curve).summary())",
)


def measure(run: grokking.TrainingRun, step: int) -> tracking.ProgressMeasures:
    """Measure one checkpoint, by its own key frequencies."""
    return grokking.track(dataclasses.replace(run, steps=(step,)))


def draw(figure: go.Figure, key: str | None = None) -> None:
    """Show a figure in the colours of the page."""
    showing.figure(figure, key=key)


def say(text: str) -> None:
    """Show plain text."""
    st.markdown(escaping.markdown(text))


def show_live(run: grokking.TrainingRun, measured: list[Any]) -> None:
    """The curves of a run as far as it is."""
    draw(pictures.progress(run.curves, measured), key="live")
    if measured:
        newest: tracking.ProgressMeasures = measured[-1]
        # Before there is a circuit, any frequency may stand out a little.
        clear = newest.logit_explained[-1] >= CLEAR
        unclear = "none that explains the logits yet" if newest.keys else "none"
        keys = ", ".join(map(str, newest.keys)) if clear else unclear
        st.caption(
            f"Measured last at step {newest.steps[-1]:,}, key frequencies there: {keys}. Each "
            "point goes by the key frequencies of its own checkpoint; once the run has ended, all "
            "go by those of the last one."
        )


def show(run: grokking.TrainingRun, name: str, places: Sequence[DeltaGenerator]) -> None:
    """Everything about a run that nobody trains; the first three sections at their places."""
    training, progress, inside = places
    with training:
        st.header("1. Training: when does it generalise?")
        say(run.summary())
        if run.step:
            draw(pictures.progress(run.curves))
        trainings.offer_more(run)
    if not run.steps:
        return
    with progress:
        st.header("2. Progress: what forms before it shows?")
        measures = measured_at_all(run)
        if measures is not None:
            show_measures(measures, name)
    with inside:
        show_checkpoints(run)
    lines = show_circuit(run, name) + show_drops(run, name)
    compare(run, name)
    st.subheader("The code that reproduces it")
    st.code(script(run, name, lines), language="python")
    if measures is not None:
        downloads.offer(measures, run=name, folder=run.folder, name="measures")


def measured_at_all(run: grokking.TrainingRun) -> tracking.ProgressMeasures | None:
    """The measures of all checkpoints: stored, or made in the background."""
    like = results.described(
        run.name, run.fingerprint, analysis=tracking.ANALYSIS, parameters={}, seed=0, wall_time=0.0
    )
    found = stored.alike(tracking.ProgressMeasures, tracking.ANALYSIS, like, keys=None)
    if found is not None:
        return found

    def work(report: jobs.Report) -> tracking.ProgressMeasures:
        made = grokking.track(run, progress=report)
        runs.RunStore().put(made, title=f"measures, {run.name}")
        return made

    key = jobs.job_key("track", run.fingerprint)
    return steps.step(key, work, label="Measuring every checkpoint")


def show_measures(measures: tracking.ProgressMeasures, name: str) -> None:
    """The measures over the phases, and the key frequencies."""

    def work(report: jobs.Report) -> Any:
        report(0.1, "reading the phases")
        try:
            return grokking.phases(measures)
        except ValueError as error:
            return str(error)

    if measures.applies:
        st.caption(
            "The restricted loss uses only the waves of the key frequencies, so it falls as soon "
            "as they do the work; the excluded loss uses everything but them, so it rises once "
            "the network no longer answers from memory. Where it groks, both move before the test "
            "loss does."
        )
    found = steps.step(
        jobs.job_key("phases", measures.provenance.fingerprint), work, label="Reading the phases"
    )
    seen = found if isinstance(found, grokking.Phases) else None
    if seen is not None:
        say(seen.summary())
    elif found is not None:
        st.info(escaping.markdown(f"Phases cannot be read off this run: {found}"))
    figure = measures_figure(measures.provenance.fingerprint, seen is not None, measures, seen)
    draw(figure, key="measures")
    drawn: Any = figure.layout
    if drawn.xaxis.range is not None:
        st.caption("Drawn up to soon after the last phase; a double click shows the whole run.")
    left, right = st.columns([6, 7], gap="medium")
    with left:
        if seen is not None:
            st.subheader("Phases")
            show_phases(seen)
    with right:
        if measures.keys:
            st.subheader("Key frequencies")
            show_keys(measures)

    def every_number() -> None:
        say(measures.summary())
        if measures.keys:
            draw(measures.frequencies_figure(), key=f"frequencies:{name}")
            draw(measures.keys_figure(), key=f"keys:{name}")

    showing.fold("Every number in words; every frequency over the steps", every_number)


@st.cache_resource(max_entries=8, show_spinner=False)
def measures_figure(
    mark: str, shaded: bool, _measures: tracking.ProgressMeasures, _found: grokking.Phases | None
) -> go.Figure:
    """The measures, over the phases where there are some; a mark is a run's fingerprint."""
    del mark, shaded  # what the cache goes by
    figure = _measures.figure()
    return figure if _found is None else _found.over(figure)


def show_phases(found: grokking.Phases) -> None:
    """When each phase ends."""
    ends = zip(found.names, found.boundaries, found.intervals, strict=True)
    rows = [
        {
            "phase": phase,
            "ends at step": count(end),
            f"{found.confidence:.0%} interval": (
                f"{count(low)} to {count(high)}" if np.isfinite(low) else "–"
            ),
        }
        for phase, end, (low, high) in ends
    ]
    st.markdown(tables.markdown(rows))
    st.caption(
        "First the pairs are learned by heart, then the waves form beside that, then what was "
        "learned by heart is given up."
    )


def show_keys(measures: tracking.ProgressMeasures) -> None:
    """How much each key frequency carries, and since when."""
    last = measures.frequency_shares[-1]
    rows = [
        {
            "frequency": key,
            "share": f"{last[key - 1]:.1%}",
            "clear since step": count(at if at >= 0 else np.nan),
            "loss without it": f"{loss:.2g}",
        }
        for key, at, loss in zip(
            measures.keys, measures.appeared, measures.excluded_by_key[-1], strict=True
        )
    ]
    st.markdown(tables.markdown(rows))
    st.caption(
        "Those with a large share of the power of the map from the neurons to the logits, at the "
        f"end of the training; losses are of the training pairs, {measures.train_loss[-1]:.2g} "
        "with all of it."
    )


def count(value: float) -> str:
    """A number of steps; a dash where it was not seen."""
    return f"{value:,.0f}" if np.isfinite(value) else "–"


@st.cache_resource(max_entries=3, show_spinner=False)
def snapshot_of(mark: str, step: int, _run: grokking.TrainingRun) -> network.Snapshot:
    """All that the pictures of a checkpoint are made from; a mark is a run's fingerprint."""
    return _run.snapshot(step)


@st.cache_resource(max_entries=100, show_spinner=False)
def picture(
    mark: str, step: int, kind: str, choice: int | None, _run: grokking.TrainingRun
) -> go.Figure:
    """One picture of a checkpoint."""
    seen, ordered = snapshot_of(mark, step, _run), pictures.order(_run.task)
    make: Callable[..., go.Figure] = getattr(pictures, kind)
    return make(seen, ordered) if choice is None else make(seen, ordered, choice)


@st.cache_resource(max_entries=3, show_spinner=False)
def sorted_neurons(mark: str, step: int, _run: grokking.TrainingRun) -> list[int]:
    """Neurons, those that one frequency explains best first."""
    seen, ordered = snapshot_of(mark, step, _run), pictures.order(_run.task)
    explained = pictures.neuron_shares(seen, ordered).max(0)
    return np.argsort(-explained, kind="stable").tolist()


def choose_step(label: str, run: grokking.TrainingRun, key: str) -> int:
    """A slider over the checkpoints that stands at the newest one until it is moved.

    With other checkpoints it is another slider, which begins where the one before stood: a value
    that is set from here can get lost on its way to the browser, a default cannot.
    """
    newest, chosen = run.steps[-1], f"chosen {key}"
    asked = st.query_params.get(key, "")
    there = asked in map(str, run.steps)
    link = (run.folder, int(asked) if there else None)
    folder, start = st.session_state.get(chosen, link)
    if folder != run.folder or start not in run.steps:
        start = newest
    now = f"{key} of {run.folder.name} up to {newest}"
    step = st.select_slider(label, run.steps, start, key=now, disabled=len(run.steps) == 1)
    st.session_state[chosen] = (run.folder, None if step == newest else step)
    addresses.tell(key, asked, str(step), known=there, why="which is no checkpoint of this run")
    # Not bound to the address by Streamlit, which loses it when the steps to choose from change.
    if step == newest:
        st.query_params.pop(key, None)
    elif st.query_params.get(key) != str(step):
        st.query_params[key] = str(step)
    return step


def show_checkpoints(known: grokking.TrainingRun, *, live: bool = False) -> None:
    """The slider and what follows it; only this part of the page is drawn anew when it moves.

    Args:
        known: A run.
        live: Whether it is being trained, so that there are more checkpoints now and then.
    """
    st.header("3. Inside a checkpoint: which waves does it compute with?")
    if theory.cyclic(known.task) is None:
        st.info(
            escaping.markdown(
                f"{theory.why_not(known.task)} The pictures are in the order of the residues, and "
                "of their waves: a network that does not use waves shows none."
            )
        )

    @st.fragment(run_every=LOOK_AGAIN if live else None)
    def panel() -> None:
        run = grokking.open_run(known.folder) if live else known
        mark = run.fingerprint
        step = choose_step("Checkpoint (step)", run, "step")

        def show_picture(kind: str, choice: int | None = None) -> None:
            draw(picture(mark, step, kind, choice, run), key=f"picture:{kind}")

        left, right = st.columns(2, gap="medium")
        with left:
            st.subheader("Embedding")
            st.caption("How strongly residues are embedded as a wave of each frequency.")
            show_picture("embedding")
        with right:
            st.subheader("Neurons")
            st.caption("How much of each neuron's activation one frequency explains.")
            show_picture("neurons")
        st.subheader("Attention")
        st.caption(
            "From = to the first number, for every pair; above each head the frequency that "
            "explains most of it."
        )
        show_picture("attention")
        index, answer = choose_neuron_and_answer(run, step)
        show_picture("neuron", index)
        show_picture("logits", answer)
        open_elsewhere(run, step)

    panel()


def choose_neuron_and_answer(run: grokking.TrainingRun, step: int) -> tuple[int, int]:
    """Which neuron and which answer are drawn."""
    st.subheader("One neuron, and the logit of one answer")
    st.caption(
        "Each over all pairs, and how its variance is spread over the frequencies of a and of b: "
        "circled is what holds 5% or more. On the diagonal both move in the same frequency, as in "
        "cos(w(a + b)); on an axis, one of them alone moves it."
    )
    left, right, _ = st.columns([1, 1, 1])
    index = addresses.pick(
        "Neuron, the clearest first",
        sorted_neurons(run.fingerprint, step, run),
        query="neuron",
        place=left,
    )
    most = run.task.p - 1
    answer = right.number_input(
        "Answer c", 0, most, 1, key="answer", bind=addresses.whole_number("answer")
    )
    return index, int(answer)


def open_elsewhere(run: grokking.TrainingRun, step: int) -> None:
    """A button that writes the checkpoint as a model, and then links to the other pages."""
    where = f"model of step {step}"
    if buttons.pressed(st.button, f"Open the checkpoint of step {step:,} on another page"):
        st.session_state["opened elsewhere"] = (where, str(run.save_model(step)))
    written, folder = st.session_state.get("opened elsewhere", ("", ""))
    if written != where:
        return
    for place, path in zip(st.columns(len(OTHER_PAGES)), OTHER_PAGES, strict=True):
        place.page_link(path, label=path.stem.capitalize(), query_params={"model": folder})
    st.caption(escaping.markdown(f"It is the model folder {folder}, which load_model opens too."))


def show_circuit(run: grokking.TrainingRun, name: str) -> list[str]:
    """Tests of the waves in one checkpoint, behind a button; the code shown."""
    st.header("4. Is that what it computes with?")
    if theory.cyclic(run.task) is None:
        st.info(escaping.markdown(theory.why_not(run.task)))
        return []
    step = choose_step("Checkpoint to test (step)", run, "tested")
    title = f"waves of {name}, step {step}"
    found = stored.titled(circuit.FourierCircuit, circuit.ANALYSIS, title)
    if found is not None:
        say(tested(found))
        draw(found.figure())
        st.caption(
            "Grey dots are the same tests with frequencies drawn at random, the dotted line is "
            "guessing. W_L is the map from the neurons to the logits."
        )
        made = found

        def every_test() -> None:
            say(made.summary())
            st.dataframe(made.to_frame(), hide_index=True)

        showing.fold("Every test, in words and numbers", every_test)
        return [f"print(grokking.fourier(run.model({step}), run.task).summary())"]
    st.caption(
        "Pictures suggest; tests decide. The waves of the key frequencies are taken away, then all "
        "else is, then the logits are replaced by the formula Σ α cos(w(a + b - c)); each test is "
        "also made with frequencies drawn at random, which must not do the same."
    )

    def work(report: jobs.Report) -> None:
        report(0.0, "opening the checkpoint as a model")
        runs.RunStore().put(
            grokking.fourier(run.model(step), run.task, progress=report), title=title
        )

    key = jobs.job_key("waves", run.fingerprint, step)
    seconds = FOURIER_SECONDS * run.task.p**3 / 1e6
    stored.offer(key, work, button="Test it", label="Testing the waves", seconds=seconds)
    return []


def tested(found: circuit.FourierCircuit) -> str:
    """What the tests say, in a sentence or two."""
    loss = {
        name: f"{found.edit(name).test_loss:.2g}" for name in ("model", "keep", "remove", "formula")
    }
    keys = ", ".join(map(str, found.keys)) or "none"
    return (
        f"Key frequencies: {keys}. Test loss: {loss['model']} unchanged, {loss['keep']} with their "
        f"waves only, {loss['remove']} without them, {loss['formula']} by the formula alone; "
        f"guessing gives {np.log(found.task.p):.2g}."
    )


def show_drops(run: grokking.TrainingRun, name: str) -> list[str]:
    """Sudden drops of this run's test loss, or of a curve of one's own; the code shown."""
    st.header("5. Was the fall sudden?")
    lines: list[str] = []
    title = f"drops of {name}, step {run.step}"
    found = stored.titled(drops.Drops, drops.ANALYSIS, title)
    tests = len(run.curves.test_steps)
    if found is not None:
        say(found.summary())
        draw(found.figure())
        lines = [*DROPS_CODE]
        for start, end in zip(found.starts, found.ends, strict=True):
            lines += show_changes(run, start, end)
    elif tests < curves.LEAST_POINTS:
        st.info(
            f"The test loss was measured {tests} times; at least {curves.LEAST_POINTS} are needed "
            "to tell a sudden drop from noise."
        )
    else:
        offer_drops(run, title)
    with st.expander("Look for drops in a training curve of your own"):
        show_upload()
    return lines


def offer_drops(run: grokking.TrainingRun, title: str) -> None:
    """The button that looks for drops of the run's test loss."""
    st.caption(
        "A drop counts as sudden where smooth curves with the same noise hardly ever fall as fast."
    )
    made = run.curves.arrays()
    curve = curves.Curve(
        steps=made["test_steps"], values=made["test_loss"], name="test loss", source=run.name
    )

    def work(report: jobs.Report) -> None:
        runs.RunStore().put(grokking.detect_drops(curve, progress=report), title=title)

    key = jobs.job_key("drops", run.fingerprint)
    stored.offer(
        key, work, button="Look for drops", label="Looking for drops", seconds=DROPS_SECONDS
    )


def show_changes(run: grokking.TrainingRun, start: int, end: int) -> list[str]:
    """What changed inside between the checkpoints around a drop, behind a button; its code."""
    try:
        before, after = changes.checkpoints_around(run, (start, end))
    except ValueError as error:
        st.caption(escaping.markdown(f"What changed inside cannot be told: {error}"))
        return []
    st.subheader(f"What changed inside between steps {before:,} and {after:,}?")
    key = jobs.job_key("changes", run.fingerprint, before, after)

    def work(report: jobs.Report) -> grokking.Changes:
        report(0.0, "opening both checkpoints")
        return grokking.what_changed_at(run, (start, end), progress=report)

    label = "Comparing the checkpoints"
    if jobs.manager().find(key) is None:
        asked = "Swap each component between the two checkpoints"
        steps.offer(key, work, button=asked, label=label)
        return []
    found = steps.step(key, work, label=label)
    if found is None:
        return []
    say(found.summary())
    draw(found.figure())
    return [f"print(grokking.what_changed_at(run, ({start}, {end})).summary())"]


def show_upload() -> None:
    """Drops of a curve out of a file."""
    file = st.file_uploader(
        "CSV, JSON lines, TensorBoard events or a Hugging Face trainer_state.json"
    )
    if file is None:
        return
    content = file.getvalue()

    def read(column: str | None) -> Any:
        # Their names say which format it is; the folder is gone again afterwards.
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch) / Path(file.name).name
            place.write_bytes(content)
            if column is None:
                return curves.columns_of(place)
            curve = curves.read_curve(place, column=column)
            return dataclasses.replace(curve, source=place.name)

    try:
        column = st.selectbox("Column", read(None))
        curve: curves.Curve = read(column)
    except curves.CurveError as error:
        st.error(escaping.markdown(str(error)))
        return
    key = jobs.job_key("drops of a file", hashlib.sha256(content).hexdigest(), column)

    def work(report: jobs.Report) -> drops.Drops:
        return grokking.detect_drops(curve, progress=report)

    found = steps.step(key, work, label="Looking for drops")
    if found is not None:
        say(found.summary())
        draw(found.figure())


def compare(run: grokking.TrainingRun, name: str) -> None:
    """Test losses of this run and others."""
    st.header("6. How does it compare with other runs?")
    others = trainings.pick_others(name)
    if not others:
        return
    shown = {f"{one.name} ({key})": one for key, one in {name: run, **others}.items()}
    draw(pictures.comparison({label: one.curves for label, one in shown.items()}))
    rows = [
        {
            "run": label,
            "recipe": one.recipe.name,
            "steps": count(one.step),
            "generalised at step": count(one.grokked_at),
            "train loss": f"{one.curves.train_loss[-1]:.2g}",
            "test loss": f"{one.curves.test_loss[-1]:.2g}",
            "test accuracy": f"{one.curves.test_accuracy[-1]:.1%}",
        }
        for label, one in shown.items()
        if one.step
    ]
    st.markdown(tables.markdown(rows))


def script(run: grokking.TrainingRun, name: str, more: list[str]) -> str:
    """Python code that computes what the page shows again."""
    opened = f"grokking.open_run({str(run.folder)!r})"
    if name == trainings.BUNDLED:
        opened = f"grokking.bundled_run({name!r})"
    task = ", ".join(f"{key}={value!r}" for key, value in dataclasses.asdict(run.task).items())
    given = dataclasses.asdict(run.recipe)
    changed = {
        key: value
        for key, value in given.items()
        if value != getattr(grokking.recipe(run.recipe.name), key)
    }
    recipe = "".join(f", {key}={value!r}" for key, value in changed.items())
    lines = [
        "from analyses import grokking",
        "",
        "# It was made by, and without its folder is made again by:",
        f"# task = grokking.Task({task})",
        f"# run = grokking.train(task, grokking.recipe({run.recipe.name!r}{recipe}))",
        f"run = {opened}",
        "print(run.summary())",
        "measures = grokking.track(run)",
        "print(measures.summary())",
        "print(grokking.phases(measures).summary())",
        *more,
    ]
    return "\n".join(lines) + "\n"


st.caption(
    "A small network learns an operation such as a + b modulo a prime from some of the pairs. It "
    "first learns these by heart; much later it answers the others too: it groks. See when that "
    "happens, what forms inside long before, and what the network computes with in the end."
)
picked = trainings.pick()
if picked == trainings.NEW:
    trainings.start()
else:
    opened = trainings.opened(picked)
    # Always there, so that what is inside stays in its place while the page around it changes: a
    # fragment in another place is another one, and loses what its slider has just been moved to.
    sections = training, progress, inside = [st.container() for _ in range(3)]
    if trainings.is_running(picked):
        began = opened is not None and bool(opened.steps)
        with training:
            trainings.watch(picked, measure, show_live, began=began)
        # Not drawn unasked: it costs the browser as much as the curves, where the training may be.
        if opened is not None and began and progress.toggle(LOOK_INSIDE, key="look inside"):
            with inside:
                show_checkpoints(opened, live=True)
    elif opened is not None:
        show(opened, picked, sections)
