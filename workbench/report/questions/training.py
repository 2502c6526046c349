"""The training story: when did the loss drop suddenly, and what changed in the circuit then?

1. The training is the one that the model brings along, or a folder of the spec; its last checkpoint
   must be the audited model, by fingerprint.
2. Every checkpoint is measured (`grokking.track`), and memorisation, circuit formation and cleanup
   are read off the curves (`grokking.phases`).
3. Sudden drops of the test loss, against smooth curves with its noise (`grokking.detect_drops`).
4. Between the checkpoints around the largest drop each component is swapped: whose change makes
   the change of the loss (`grokking.what_changed_at`)?
5. Where the task has waves, the circuit of the end: its frequencies kept and removed, against
   random ones (`grokking.fourier`).

Verdict: the loss at the end on pairs that were not trained on, by the spec's threshold.

Limits: trainings of networks over pairs of residues alone. Which frequencies are key is known at
the end only, so their history is told in hindsight.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pandas as pd

from analyses import grokking
from analyses.grokking import curves, swapping
from analyses.grokking.phases import LEARNED
from workbench.core.engine import running
from workbench.core.models import card, sources
from workbench.core.modular import theory
from workbench.report import exhibits
from workbench.report.document import Exhibit, Finding, Measured, Section
from workbench.report.examining import Answer, Examination, NotExamined, named_file

_ID = "training"
_COMPONENT = re.compile(r"[am](?P<layer>\d+)(?:\.h(?P<head>\d+))?")
# Random sets of frequencies, pairs that are run, and shuffles of each component's change.
RANDOM, PAIRS, SHUFFLES = 99, 512, 20
# Components that are named in a sentence, and that have numbers of their own.
_NAMED = 3
_METHOD = (
    "Every checkpoint was measured, phases were read off the losses by declared rules with "
    "bootstrap intervals, and sudden drops of the test loss were tested against smooth curves with "
    "its noise. Around the largest drop each component of the one checkpoint was put into the "
    "other, and the frequencies of the final circuit were kept alone and removed, against random "
    "frequencies."
)
_PAPERS = (
    "Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability, arXiv "
    "2301.05217",
    "Power et al. 2022, arXiv 2201.02177 (grokking)",
    "Prakash et al. 2024, arXiv 2402.14811 (patching between checkpoints)",
    "Caballero et al. 2022, arXiv 2210.14891 (broken power laws)",
)


@dataclasses.dataclass(frozen=True)
class _Story:
    """What a training shows.

    Attributes:
        run: The training.
        measures: Of every checkpoint.
        phases: Of the training.
        drops: Sudden ones of the test loss; none where there are too few points.
        changes: What changed around the largest drop; none where there is none.
        circuit: Of the last checkpoint; none where the task has no waves.
        notes: What could not be told, and why.
    """

    run: grokking.TrainingRun
    measures: grokking.ProgressMeasures
    phases: grokking.Phases
    drops: grokking.Drops | None
    changes: grokking.Changes | None
    circuit: grokking.FourierCircuit | None
    notes: tuple[str, ...]

    @property
    def loss(self) -> tuple[float, float, float]:
        """Test loss at the end with its interval; the value itself where there is none."""
        if self.circuit is None:
            value = float(self.measures.test_loss[-1])
            return value, value, value
        whole = self.circuit.edit("model")
        return whole.test_loss, whole.test_low, whole.test_high

    @property
    def largest(self) -> int:
        """Which drop is the largest."""
        return -1 if self.drops is None else int(np.argmax(self.drops.sizes))


def examine(examination: Examination) -> Answer:
    """Tell the training story of the model.

    Args:
        examination: The model on the table.

    Returns:
        The story, and whether it ended well.

    Raises:
        NotExamined: If the model has no checkpoints, they are of another model, or a measure does
            not apply to them.
    """
    run = _run(examination)
    try:
        told = _story(examination, run)
    except NotExamined:
        raise
    except ValueError as error:
        raise NotExamined(str(error)) from error
    threshold = examination.spec.questions.training.test_loss
    numbers = _numbers(examination, told)
    return Answer(
        Finding(
            id=_ID,
            question="training",
            about=run.task.name,
            verdict=threshold.verdict(*told.loss[1:]),
            statement=_statement(told),
            evidence=_evidence(told),
            caveat=_caveat(told),
            measured=numbers,
        ),
        Section(
            id=_ID,
            question="training",
            title="The training story",
            asked="When did the loss drop suddenly, and what changed in the circuit at that step?",
            summary=_summary(told),
            method=_METHOD,
            papers=_PAPERS,
            exhibits=_exhibits(told),
            measured=numbers,
            caveats=(
                "Key frequencies are known at the end only: what is said of earlier checkpoints is "
                "hindsight.",
                "A drop says that the loss moved; that a component's change makes it is said by "
                "swapping alone, in mixtures of two checkpoints that no training passed through.",
                "One training with one seed: another would have other frequencies.",
                *told.notes,
            ),
        ),
    )


def _run(examination: Examination) -> grokking.TrainingRun:
    """The training, which ends in the audited model."""
    asked = examination.spec.questions.training.run
    name = sources.source_of(examination.model).name
    if asked is None:
        try:
            run = grokking.bundled_run(name)
        except grokking.RunError as error:
            raise NotExamined(
                f"{name} has no checkpoints: name the folder of its training in the spec"
            ) from error
    else:
        try:
            run = grokking.open_run(named_file(examination.folder, asked))
        except grokking.RunError as error:
            raise NotExamined(str(error)) from error
    if not run.steps:
        raise NotExamined(f"{run.name} has no checkpoint yet: train it for at least one step")
    last = card.fingerprint(run.model())
    if last != examination.fingerprint:
        raise NotExamined(
            f"the last checkpoint of {run.name} (step {run.steps[-1]:,}) has the fingerprint "
            f"{last[:16]}… and the audited model {examination.fingerprint[:16]}…: name the "
            "training that made it"
        )
    return run


def _story(examination: Examination, run: grokking.TrainingRun) -> _Story:
    seed, confidence = examination.spec.seed, examination.spec.confidence
    about = {"run": run.fingerprint}
    measures = examination.made(
        grokking.ProgressMeasures,
        f"measures of {run.name}",
        about,
        lambda report: grokking.track(run, progress=report),
    )

    def phases(report: running.Progress) -> grokking.Phases:
        report(0.0, "reading the phases off the curves")
        return grokking.phases(measures, confidence=confidence, seed=seed)

    notes: list[str] = []
    return _Story(
        run=run,
        measures=measures,
        phases=examination.made(
            grokking.Phases, f"phases of {run.name}", {**about, **_level(examination)}, phases
        ),
        drops=(found := _drops(examination, run, notes)),
        changes=_changes(examination, run, found, notes),
        circuit=_circuit(examination, run, measures, notes),
        notes=tuple(notes),
    )


def _level(examination: Examination) -> dict[str, Any]:
    return {"seed": examination.spec.seed, "confidence": examination.spec.confidence}


def _drops(
    examination: Examination, run: grokking.TrainingRun, notes: list[str]
) -> grokking.Drops | None:
    seed, tested = examination.spec.seed, run.curves.arrays()
    if len(tested["test_steps"]) < curves.LEAST_POINTS:
        notes.append(
            f"The test loss was measured {len(tested['test_steps'])} times, and "
            f"{curves.LEAST_POINTS} are needed to tell a sudden drop from noise."
        )
        return None
    curve = grokking.Curve(
        steps=tested["test_steps"],
        values=tested["test_loss"],
        name="test loss",
        source=run.name,
    )
    return examination.made(
        grokking.Drops,
        f"drops of {run.name}",
        {"run": run.fingerprint, "seed": seed},
        lambda report: grokking.detect_drops(curve, seed=seed, progress=report),
    )


def _changes(
    examination: Examination,
    run: grokking.TrainingRun,
    drops: grokking.Drops | None,
    notes: list[str],
) -> grokking.Changes | None:
    if drops is None or not drops.steps:
        return None
    asked: dict[str, Any] = {"n": PAIRS, "n_random": SHUFFLES, **_level(examination)}
    deepest = int(np.argmax(drops.sizes))
    around = drops.starts[deepest], drops.ends[deepest]
    try:
        return examination.made(
            grokking.Changes,
            f"changes of {run.name} between steps {around[0]} and {around[1]}",
            {"run": run.fingerprint, "at": list(around), **asked},
            lambda report: grokking.what_changed_at(run, around, progress=report, **asked),
        )
    except grokking.ChangesError as error:
        notes.append(f"What changed around the drop cannot be told: {error}.")
        return None


def _circuit(
    examination: Examination,
    run: grokking.TrainingRun,
    measures: grokking.ProgressMeasures,
    notes: list[str],
) -> grokking.FourierCircuit | None:
    if not measures.applies or not measures.keys:
        notes.append(
            "No frequency is key at the end, so no circuit of waves was tested."
            if measures.applies
            else f"No circuit of waves was tested: {theory.why_not(run.task)}"
        )
        return None
    asked: dict[str, Any] = {"n_random": RANDOM, **_level(examination)}
    return examination.made(
        grokking.FourierCircuit,
        f"waves of {run.name}",
        {"run": run.fingerprint, "step": run.steps[-1], **asked},
        lambda report: grokking.fourier(examination.model, run.task, progress=report, **asked),
    )


def _statement(told: _Story) -> str:
    found = told.phases
    value = told.loss[0]
    if found.verdict == "grokked":
        said = (
            f"It learned its training pairs by heart by step {found.memorised_at:,.0f} and the "
            f"others only by step {found.grokked_at:,.0f}"
        )
    else:
        said = {
            "generalised without delay": "It learned its training pairs and the others together",
            "memorised only": "It learned its training pairs by heart, and never the others",
            "not memorised": "It never learned its training pairs",
        }[found.verdict]
    said += f"; loss on pairs that it never saw is {value:.2g} nats at the end."
    drops = told.drops
    if drops is not None and drops.steps:
        where = drops.starts[told.largest], drops.ends[told.largest]
        said += (
            f" {'One sudden drop' if len(drops.steps) == 1 else 'The largest sudden drop'} of that "
            f"loss lies between steps {where[0]:,} and {where[1]:,}{_changed(told)}."
        )
    if told.circuit is not None:
        said += f" It computes with waves of the frequencies {_listed(told.circuit.keys)}."
    return said


def _changed(told: _Story) -> str:
    """What changed in the circuit at the drop, in a few words; empty where it is not known."""
    changes = told.changes
    if changes is None or changes.unchanged:
        return ""
    best = changes.strongest(1)[0]
    value, _, _ = _effect(changes, best)
    share = f"{100 * value:.0f} % of the fall" if changes.normalised[0] else f"{value:.2g} nats"
    return f", where the change of {_called(best)} alone brings {share}"


def _called(component: str) -> str:
    """A component in words: m0 is an MLP, a0.h1 a head."""
    found = _COMPONENT.fullmatch(component)
    if found is None:
        return f"the {component}"
    layer, head = found["layer"], found["head"]
    return f"the MLP of layer {layer}" if head is None else f"head {layer}.{head}"


def _listed(keys: tuple[int, ...]) -> str:
    *first, last = map(str, keys)
    return f"{', '.join(first)} and {last}" if first else last


def _evidence(told: _Story) -> str:
    said: list[str] = []
    drops, changes, circuit = told.drops, told.changes, told.circuit
    if drops is not None and drops.steps:
        at = told.largest
        said.append(
            f"The drop is {drops.sizes[at]:.2g} decades deep (p = {drops.p_values[at]:.2g} "
            "against smooth curves)."
        )
    if changes is not None and not changes.unchanged:
        best = changes.strongest(1)[0]
        value, (low, high), _ = _effect(changes, best)
        unit = "of it" if changes.normalised[0] else "nats"
        said.append(
            f"The change of {_called(best)} alone, put into the checkpoint before, makes "
            f"{value:.2f} {unit} ({low:.2f} to {high:.2f}, {changes.n} pairs)."
        )
    if circuit is not None:
        keep, remove = circuit.edit("keep"), circuit.edit("remove")
        said.append(
            f"With these frequencies alone the loss is {keep.test_loss:.2g}, without them "
            f"{remove.test_loss:.2g} nats (p = {keep.p_value:.2g} and {remove.p_value:.2g} against "
            "random frequencies)."
        )
    if not said:
        said.append(f"{len(told.measures.steps)} checkpoints were measured.")
    return " ".join(said)


def _caveat(told: _Story) -> str:
    changes = told.changes
    if changes is not None and changes.flagged:
        return (
            "Components work through one another, and what each brings need not sum to 1: for "
            f"{len(changes.flagged)} of {len(changes.components)}, what comes when they are put in "
            "is not what goes when they are taken out."
        )
    if told.drops is None or not told.drops.steps:
        return "No sudden drop was found, so no step is singled out."
    return "A drop of the loss is worth a look, not yet a cause."


def _summary(told: _Story) -> str:
    parts = (told.phases, told.drops, told.changes, told.circuit)
    return " ".join(one.summary() for one in parts if one is not None)


def _effect(changes: grokking.Changes, name: str) -> tuple[float, tuple[float, float], float]:
    """Effect of a component, put into the earlier checkpoint: value, interval, adjusted p."""
    at = (*swapping.DENOISING, changes.components.index(name))
    values, bounds = changes.shown()
    low, high = bounds[:, *at]
    return float(values[at]), (float(low), float(high)), float(changes.adjusted_p[0][at])


def _numbers(examination: Examination, told: _Story) -> tuple[Measured, ...]:
    asked = examination.spec.questions.training.test_loss
    value, *interval = told.loss
    # Two bounds that are the value itself are no interval.
    exact = told.circuit is None
    made = [
        exhibits.measured(
            "test loss at the end",
            value,
            interval=None if exact else interval,
            unit="nats a pair",
            n=len(told.run.task.split()[1]),
            null="guessing",
            null_value=math.log(told.run.task.p),
            threshold=asked,
        )
    ]
    phases = told.phases
    for name, end, bounds in zip(phases.names, phases.boundaries, phases.intervals, strict=True):
        if np.isfinite(end):
            made.append(
                exhibits.measured(
                    f"end of {name}",
                    float(end),
                    interval=bounds,
                    unit="step",
                    n=len(told.measures.steps),
                )
            )
    for name, step in (("training", phases.memorised_at), ("test", phases.grokked_at)):
        if np.isfinite(step):
            made.append(
                exhibits.measured(
                    f"{name} loss below {LEARNED:g} from",
                    step,
                    unit="step",
                    n=len(phases.curves.test.steps),
                )
            )
    return (*made, *_of_drops(told), *_of_changes(told), *_of_circuit(told))


def _of_drops(told: _Story) -> list[Measured]:
    if told.drops is None:
        return []
    found = told.drops
    rows = zip(found.steps, found.sizes, found.p_values, strict=True)
    return [
        exhibits.measured("sudden drops of the test loss", len(found.steps), n=found.n_points)
    ] + [
        exhibits.measured(
            f"depth of the drop at step {step:,}",
            size,
            unit="decades",
            n=found.n_points,
            p_value=p,
            null="smooth curves with its noise",
            null_value=0.0,
        )
        for step, size, p in rows
    ]


def _of_changes(told: _Story) -> list[Measured]:
    found = told.changes
    if found is None or found.unchanged:
        return []
    made: list[Measured] = []
    for name in found.strongest(_NAMED):
        value, interval, p = _effect(found, name)
        made.append(
            exhibits.measured(
                f"share of the fall that comes with {_called(name)}"
                if found.normalised[0]
                else f"change of the loss that comes with {_called(name)}",
                value,
                interval=interval,
                unit="" if found.normalised[0] else "nats",
                n=found.n,
                p_value=p,
                null="no change (signs flipped)",
                null_value=0.0,
            )
        )
    return made


def _of_circuit(told: _Story) -> list[Measured]:
    found = told.circuit
    if found is None:
        return []
    made = [
        exhibits.measured(
            f"share of the neuron-logit map at frequencies {_listed(found.keys)}",
            found.key_share,
            n=len(found.frequency_shares),
            null="an even spread",
            null_value=len(found.keys) / len(found.frequency_shares),
        )
    ]
    for kind, said in (("keep", "with these frequencies alone"), ("remove", "without them")):
        edit = found.edit(kind)
        made.append(
            exhibits.measured(
                f"test loss {said}",
                edit.test_loss,
                interval=(edit.test_low, edit.test_high),
                unit="nats a pair",
                n=found.n_test,
                p_value=edit.p_value,
                null=f"mean of {len(edit.random)} random sets of as many frequencies",
                null_value=float(np.mean(edit.random)) if edit.random else None,
            )
        )
    return made


def _exhibits(told: _Story) -> tuple[Exhibit, ...]:
    made = [
        exhibits.figure(
            told.phases.figure(),
            "Losses over the training on a logarithmic axis, the phases shaded, their ends with "
            "intervals.",
        ),
        exhibits.table(told.phases.to_frame(), "The phases, and every measure at their ends."),
    ]
    if told.drops is not None:
        made.append(
            exhibits.figure(
                told.drops.figure(),
                "The test loss beside the smooth curve that fits it; sudden drops are marked.",
            )
        )
    if told.changes is not None:
        frame = told.changes.to_frame()
        put_in = pd.DataFrame(
            frame[(frame["metric"] == "loss") & (frame["direction"] == "denoising")],
            columns=["component", "mode", "effect", "low", "high", "adjusted_p", "weight_change"],
        )
        made += [
            exhibits.figure(
                told.changes.figure(),
                f"How much of the change between {' and '.join(told.changes.names)} each "
                "component's change makes.",
            ),
            exhibits.table(
                put_in.sort_values("effect", key=np.abs, ascending=False),
                "Each component put into the earlier checkpoint.",
            ),
        ]
    if told.circuit is not None:
        made.append(
            exhibits.figure(
                told.circuit.figure(),
                "Share of each frequency in the neuron-logit map; below it the test loss with "
                "frequencies kept, removed and replaced by their formula, beside random ones.",
            )
        )
    return tuple(made)
