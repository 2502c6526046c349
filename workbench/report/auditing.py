"""What does an audit of a model find?

1. The model is opened, and must be the one that the spec names by its fingerprint.
2. `choosing` makes every choice that the spec leaves open, so that the manifest says exactly what
   was asked.
3. The questions are put in order: of each behaviour whether the model shows it, which site carries
   it, how localized it is, and its circuit; then each unit, each concept, and the training story.
4. What is switched off, cannot be asked of this model, or would cost more than the limits allow is
   a finding "not examined" with its reason. The time that is left is shared equally among the
   questions that are left, so that one long question does not take it from the others.
5. Findings, sections, limits and manifest make up the report.

Limits: p-values are corrected within a question, not over the questions of a report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.core import results, runs
from workbench.core.engine import running
from workbench.core.models import card, sources
from workbench.report import choosing, examining, exhibits
from workbench.report.document import Finding, Manifest, Report, Section, SelfTest
from workbench.report.examining import Answer, Examination, NotExamined
from workbench.report.headlines import headlines
from workbench.report.spec import QUESTIONS, AuditSpec, Behaviour, Question, Subject

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

NOT_ASKED = "not asked for"
_MINUTE = 60
# Of progress: before the questions, and after them where the self-test is run.
_OPENING, _SELFTEST = 0.03, 0.1
_ABOUT_BEHAVIOURS: tuple[Question, ...] = ("behaviour", "sites", "localization", "circuit")
_TITLES: dict[Question, str] = {
    "behaviour": "what the model does",
    "sites": "which site carries a behaviour",
    "localization": "how localized a behaviour is",
    "circuit": "the circuit of a behaviour",
    "units": "what makes a unit fire",
    "concepts": "where a concept is held",
    "training": "the training story",
}


class WrongModelError(ValueError):
    """The model is not the one that the spec is about; the message has both fingerprints."""


@dataclasses.dataclass(frozen=True)
class _Asked:
    """One question about one thing.

    Attributes:
        question: Which question.
        about: The behaviour, unit or concept; empty where it is about the model.
        answer: Answers it; none where it is not examined.
        reason: Why it is not examined, if that is known before.
    """

    question: Question
    about: str
    answer: Callable[[Examination], Answer] | None
    reason: str = ""

    @property
    def id(self) -> str:
        """What its finding is called."""
        return f"{self.question}/{self.about}" if self.about else self.question


def audit(
    model: TransformerBridge | str,
    spec: AuditSpec | None = None,
    *,
    store: runs.RunStore | None = None,
    folder: Path = Path(),
    selftest: bool = False,
    progress: running.Progress | None = None,
) -> Report:
    """Put a model through the questions of a spec.

    Args:
        model: A bridge, or a name or folder that `load_model` takes.
        spec: What is asked; the default audit of that model if none is given.
        store: Where results are kept, and found again by an equal audit; none to compute
            everything here and now.
        folder: What paths of the spec are relative to.
        selftest: Whether the workbench is tested on models whose answer is known, too.
        progress: Called with the fraction done and a note; may raise to cancel.

    Returns:
        The report.

    Raises:
        WrongModelError: If the spec names another fingerprint than the model's.
        ValueError: If the model cannot be opened.
    """
    report = progress or running.no_progress
    report(0.0, "opening the model")
    bridge = sources.load_model(model) if isinstance(model, str) else model
    fingerprint = card.fingerprint(bridge)
    asked = spec or AuditSpec(model=Subject(name=sources.source_of(bridge).name))
    _require_model(asked, fingerprint)
    deadline = time.monotonic() + asked.limits.minutes * _MINUTE
    report(_OPENING / 2, "choosing what is asked")
    choice = choosing.chosen(bridge, asked, folder)
    examination = Examination(bridge, fingerprint, choice.spec, folder, store)
    end = 1 - _SELFTEST if selftest else 1.0
    answers = _examined(
        examination,
        list(_questions(choice)),
        deadline,
        running.part(report, _OPENING, end),
    )
    tested = _tested(running.part(report, end, 1.0)) if selftest else None
    findings = _unlike([one for one, _ in answers])
    sections = tuple(
        section.model_copy(update={"id": finding.id})
        for finding, (_, section) in zip(findings, answers, strict=True)
        if section is not None
    )
    report(1.0, "done")
    return Report(
        title=choice.spec.title,
        examined=_facts(bridge, fingerprint),
        findings=findings,
        headlines=headlines(findings),
        sections=sections,
        limits=_limits(choice.spec, findings),
        manifest=_manifest(examination, sections),
        selftest=tested,
    )


def _require_model(spec: AuditSpec, fingerprint: str) -> None:
    if spec.model.fingerprint not in (None, fingerprint):
        raise WrongModelError(
            f"the spec is about a model with the fingerprint {spec.model.fingerprint}, and this "
            f"model has {fingerprint}: open the model that the spec is about, or take the "
            "fingerprint out of the spec"
        )


def _questions(choice: choosing.Choice) -> Iterator[_Asked]:
    """Every question, in the order of the report, whether it can be answered or not."""
    spec = choice.spec
    for question in QUESTIONS:
        if question not in choice.missing:
            continue
        yield _Asked(question, "", None, choice.missing[question])
    if not spec.behaviours:
        yield from (
            _Asked(question, "", None, "there is no behaviour that it could be asked of")
            for question in _ABOUT_BEHAVIOURS[1:]
            if _is_asked(spec, question)
        )
    for question in QUESTIONS:
        if not _is_asked(spec, question):
            yield _Asked(question, "", None, NOT_ASKED)
    for behaviour in spec.behaviours:
        for question in _ABOUT_BEHAVIOURS:
            if _is_asked(spec, question):
                yield _Asked(question, behaviour.title, _of_behaviour(question, behaviour))
    yield from _others(choice)


def _is_asked(spec: AuditSpec, question: Question) -> bool:
    return question == "behaviour" or bool(getattr(spec.questions, question).ask)


def _of_behaviour(question: Question, behaviour: Behaviour) -> Callable[[Examination], Answer]:
    def answer(examination: Examination) -> Answer:
        from workbench.report.questions import behaviour as shown
        from workbench.report.questions import circuit, localization, sites

        modules: dict[str, Any] = {
            "behaviour": shown,
            "sites": sites,
            "localization": localization,
            "circuit": circuit,
        }
        return modules[question].examine(examination, behaviour)

    return answer


def _others(choice: choosing.Choice) -> Iterator[_Asked]:
    """Questions about units, concepts and training."""
    from workbench.report.questions import concepts, training, units

    asked = choice.spec.questions
    if asked.units.ask and "units" not in choice.missing:
        for unit in asked.units.units:
            yield _Asked("units", unit, lambda one, unit=unit: units.examine(one, unit))
        if not asked.units.units:
            yield _Asked("units", "", None, "no unit was named, and none was chosen")
    if asked.concepts.ask and "concepts" not in choice.missing:
        for concept in asked.concepts.concepts:
            yield _Asked(
                "concepts", concept, lambda one, concept=concept: concepts.examine(one, concept)
            )
        if not asked.concepts.concepts:
            yield _Asked("concepts", "", None, "no concept was named, and none was chosen")
    if asked.training.ask:
        yield _Asked("training", "", training.examine)


def _examined(
    examination: Examination,
    asked: list[_Asked],
    deadline: float,
    report: running.Progress,
) -> list[tuple[Finding, Section | None]]:
    """Answer every question, in the order of the report."""
    # A question that is not asked stands where its answers would.
    asked.sort(key=_place(asked))
    open_ones = sum(one.answer is not None for one in asked)
    found: list[tuple[Finding, Section | None]] = []
    done = 0
    for one in asked:
        if one.answer is None:
            found.append((_not_examined(one, one.reason), None))
            continue
        left = deadline - time.monotonic()
        examination.deadline = time.monotonic() + left / (open_ones - done)
        part = running.part(report, done / open_ones, (done + 1) / open_ones)
        examination.report = _told(examination, part, one)
        found.append(_answered(examination, one))
        done += 1
    return found


def _place(asked: list[_Asked]) -> Callable[[_Asked], tuple[int, int, int]]:
    """Order of the report: behaviour by behaviour, then units, concepts and training."""
    first: dict[str, int] = {}
    for one in asked:
        if one.question in _ABOUT_BEHAVIOURS:
            first.setdefault(one.about, len(first))

    def place(one: _Asked) -> tuple[int, int, int]:
        question = QUESTIONS.index(one.question)
        if one.question in _ABOUT_BEHAVIOURS:
            return (0, first[one.about] if one.about else len(first), question)
        return (1, question, 0)

    return place


def _told(examination: Examination, report: running.Progress, one: _Asked) -> running.Progress:
    """Progress of one question, which also ends it when its time is over.

    A question is made of several runs, each of which begins at 0: what is told never goes back.
    """
    furthest = 0.0

    def tell(fraction: float | int, note: str) -> None:
        nonlocal furthest
        furthest = max(furthest, float(fraction))
        report(furthest, f"{one.id}: {note}")
        examination.check_time()

    return tell


def _answered(examination: Examination, one: _Asked) -> tuple[Finding, Section | None]:
    assert one.answer is not None
    started = time.perf_counter()
    examination.run_ids.clear()
    try:
        examination.report(0.0, "beginning")
        answer = one.answer(examination)
    except (ValueError, MemoryError, torch.OutOfMemoryError) as error:
        return _not_examined(one, _reason(error)), None
    more = {
        "run_ids": tuple(dict.fromkeys(examination.run_ids)),
        "seconds": time.perf_counter() - started,
    }
    return answer.finding, answer.section.model_copy(update=more)


def _reason(error: Exception) -> str:
    """Why a question was not answered, in a sentence."""
    if isinstance(error, ValueError):
        return " ".join(str(error).split()) or type(error).__name__
    return "there is not enough memory for it on this machine"


def _not_examined(one: _Asked, reason: str) -> Finding:
    what = _TITLES[one.question]
    return Finding(
        id=one.id,
        question=one.question,
        about=one.about or "the model",
        verdict="not examined",
        statement=f"Not examined: {what}" + (f" ({one.about})." if one.about else "."),
        reason=reason,
    )


def _unlike(findings: list[Finding]) -> tuple[Finding, ...]:
    """The findings under ids that differ: a task may be asked about twice."""
    seen: dict[str, int] = {}
    made: list[Finding] = []
    for one in findings:
        count = seen[one.id] = seen.get(one.id, 0) + 1
        made.append(one if count == 1 else one.model_copy(update={"id": f"{one.id} ({count})"}))
    return tuple(made)


def _tested(report: running.Progress) -> SelfTest:
    from workbench.report.selftest import selftest

    return selftest(progress=report)


def _facts(model: TransformerBridge, fingerprint: str) -> tuple[tuple[str, str], ...]:
    """What a reader must know of the model."""
    source, cfg = sources.source_of(model), model.cfg
    described: list[tuple[str, str]] = [("model", source.name)]
    if source.kind == "bundled":
        known = card.model_card(source.name)
        described += [("what it is", known.title), ("what it was trained on", known.training.data)]
    parameters = sum(one.numel() for one in model.original_model.parameters())
    sizes = {
        "layers": cfg.n_layers,
        "heads of a layer": cfg.n_heads,
        "width of the residual stream": cfg.d_model,
        "neurons of a layer": cfg.d_mlp,
        "tokens it knows": cfg.d_vocab,
        "longest prompt in tokens": cfg.n_ctx,
        "parameters": parameters,
    }
    described += [(name, f"{int(size):,}") for name, size in sizes.items() if size]
    return (
        *described,
        ("where it comes from", _SOURCES[source.kind]),
        ("number format", str(cfg.dtype).removeprefix("torch.")),
        ("weight processing", source.processing),
        ("fingerprint", fingerprint),
    )


_SOURCES = {
    "bundled": "bundled with the workbench",
    "folder": "a folder",
    "hub": "a hub",
    "object": "a model that was given as an object",
}


def _limits(spec: AuditSpec, findings: Iterable[Finding]) -> tuple[str, ...]:
    """What this audit cannot tell."""
    told: list[str] = []
    missing = [one for one in findings if one.verdict == "not examined"]
    off = [_TITLES[one.question] for one in missing if one.reason == NOT_ASKED]
    if off:
        told.append(f"It was not asked for: {', '.join(off)}.")
    if len(missing) > len(off):
        names = ", ".join(one.id for one in missing if one.reason != NOT_ASKED)
        told.append(
            f"Asked for and not examined, each with its reason: {names}. Nothing follows from that "
            "about the model."
        )
    names = ", ".join(dict.fromkeys(one.title for one in spec.behaviours)) or "none"
    told += [
        f"The behaviours that were looked at are: {names}. Others were not looked for, and a model "
        "that passes may do what nobody asked about.",
        "Prompts are drawn from these tasks and files only; other wordings, languages and lengths "
        "may give other answers.",
        "Effects are relative to the corrupted prompts: what clean and corrupted prompts have in "
        "common cannot show up as a site, a component or a connection.",
        "A patched or ablated run puts the model into states that its training never did; what it "
        "does there need not be what it does otherwise.",
        "That no site, circuit or cluster was found does not mean that the model lacks an ability.",
        "A circuit or an order of components is one that suffices; others may do as well.",
        "Pass, warn and fail are what the thresholds of the spec make of the numbers; they are not "
        "a judgement on whether the model is fit for a use.",
        f"p-values are corrected within a question, not over the questions of this report; "
        f"intervals are at {100 * spec.confidence:g} % each.",
    ]
    return tuple(told)


def _manifest(examination: Examination, sections: tuple[Section, ...]) -> Manifest:
    spec = examination.spec
    return Manifest(
        model=spec.model.name,
        fingerprint=examination.fingerprint,
        spec=spec,
        inputs=_inputs(examination),
        seed=spec.seed,
        versions=results.versions() | exhibits.drawn_with(),
        hardware=_hardware(examination.model),
        run_ids={one.id: one.run_ids for one in sections},
        seconds={one.id: one.seconds for one in sections},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _inputs(examination: Examination) -> dict[str, str]:
    """Digests of the files that the spec names and that are there."""
    spec, found = examination.spec, dict[str, str]()
    asked = spec.questions
    names = [
        *(one.pairs for one in spec.behaviours),
        asked.units.corpus,
        *asked.concepts.concepts,
        asked.training.run,
    ]
    for name in names:
        # A concept may be a name or a file; what is not there is said where it is asked about.
        with contextlib.suppress(NotExamined, OSError):
            if name is not None:
                found[name] = examining.digest(examining.named_file(examination.folder, name))
    return found


def _hardware(model: TransformerBridge) -> dict[str, str]:
    device = str(model.cfg.device)
    described = {
        "processor": _processor(),
        "cores": str(os.cpu_count() or "not known"),
        "memory": _memory(),
        "device": device,
        "number format": str(model.cfg.dtype).removeprefix("torch."),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    if device.startswith("cuda"):
        described["accelerator"] = torch.cuda.get_device_name(device)
    return described


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, said = line.partition(":")
            if name.strip() == "model name":
                return said.strip()
    return platform.processor() or platform.machine() or "not known"


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        # Not every system says so in this way.
        return "not known"
    return f"{size / 1e9:.1f} GB"
