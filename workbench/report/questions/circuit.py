"""How large is the circuit of a behaviour, and how faithful on pairs that it has not seen?

1. On one half of the pairs a smallest set of edges is found that carries the behaviour by itself
   (`circuits.discover`).
2. On the other half its faithfulness is measured, beside random connected circuits of its size.
3. Nodes are removed from circuit and model alike (`circuits.completeness`): where they then differ,
   the circuit lacks something. That, or what is worse, is the caveat.

Source: Wang et al. 2022, arXiv 2211.00593; Conmy et al. 2023, arXiv 2304.14997; Hanna et al. 2024,
arXiv 2403.17806; Shi et al. 2024, arXiv 2410.13032 (random circuits).

Units and sign: faithfulness is a share of the difference between clean and corrupted run, 0 the
corrupted and 1 the clean run; the size is the share of all edges that are in the circuit.

Limits: as of `analyses.circuits`; another circuit of this size may be as faithful.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from analyses import circuits
from workbench.core.engine import graph, running
from workbench.core.evidence import SURE
from workbench.report import exhibits, spec
from workbench.report.document import Exhibit, Finding, Measured, Section
from workbench.report.examining import Answer, Examination, NotExamined, worst
from workbench.report.questions import behaviour as behaving
from workbench.report.questions import costs, sentences

# Faithfulness that the circuit must reach on the pairs that choose it.
_TARGET = 0.9
# Sets of nodes that are removed, and the largest circuit of which this is cheap.
_N_SETS, _MOST_NODES = 10, 64
# Share of the behaviour by which circuit and model may differ without being told first.
_COMPLETE = 0.1
_LEAST_PAIRS = 4
# One round of pruning leaves out as many pieces by themselves.
_ROUND = 256
_METHOD = (
    "On one half of the pairs connections are scored by attribution (EAP-IG) and leave in exact "
    "runs as long as the rest, with every other connection corrupted, keeps nine tenths of the "
    "behaviour. On the other half the faithfulness of what is left is measured, beside {n} random "
    "connected circuits of the same size, and nodes are removed from circuit and model alike."
)
_PAPERS = (
    "Wang et al. 2022, arXiv 2211.00593",
    "Conmy et al. 2023, arXiv 2304.14997",
    "Hanna et al. 2024, arXiv 2403.17806",
    "Shi et al. 2024, arXiv 2410.13032",
)


def examine(examination: Examination, behaviour: spec.Behaviour) -> Answer:
    """Answer the question for one behaviour.

    Args:
        examination: The model.
        behaviour: What is to be carried.

    Returns:
        The answer.

    Raises:
        NotExamined: If the model does not show the behaviour, there are too few pairs, or the
            limits do not allow it.
    """
    shown = behaving.require_shown(examination, behaviour)
    asked = examination.spec.questions.circuit
    found = _discovered(examination, behaviour)
    judged = found.faithfulness
    if judged is None:
        raise NotExamined("no pairs were kept apart, so its faithfulness is not known")
    complete = _complete(examination, found)
    low, high = map(float, judged.interval)
    by_chance = judged.p_value > SURE
    verdict = worst(
        asked.faithfulness.verdict(low, high),
        asked.size.verdict(found.share, found.share),
        "warn" if by_chance else "pass",
    )
    caveats = (*_caveats(found, judged, complete), *behaving.doubt(shown))
    id_, about = f"circuit/{behaviour.title}", behaviour.title
    decisive = _decisive(found, judged, asked)
    return Answer(
        finding=Finding(
            id=id_,
            question="circuit",
            about=about,
            verdict=verdict,
            statement=_statement(found, judged, about),
            evidence=_evidence(judged),
            caveat=caveats[0],
            measured=decisive,
        ),
        section=Section(
            id=id_,
            question="circuit",
            title=f"Circuit: {about}",
            asked=f"How large is the circuit of {about!r}, and how faithful on pairs that it has "
            "not seen?",
            summary=" ".join(
                [found.summary(), *([] if complete is None else [complete.summary()])]
            ),
            method=_METHOD.format(n=judged.random.size),
            papers=_PAPERS,
            exhibits=_exhibits(found, judged, complete),
            measured=(*decisive, *_further(found, complete)),
            caveats=caveats,
        ),
    )


def _discovered(examination: Examination, behaviour: spec.Behaviour) -> circuits.Circuit:
    pairs = examination.pairs(behaviour)
    if len(pairs) < _LEAST_PAIRS:
        raise NotExamined(
            "a circuit is chosen on one half of the pairs and judged on the other, which needs "
            f"{_LEAST_PAIRS} pairs; there are {len(pairs)}"
        )
    options: dict[str, Any] = {
        "target": _TARGET,
        "metric": behaving.metric_of(pairs),
        "n_random": examination.spec.questions.circuit.random,
        "confidence": examination.spec.confidence,
        "seed": examination.spec.seed,
    }

    def make(progress: running.Progress) -> circuits.Circuit:
        model = examination.model
        least = min(graph.Graph.of_model(model).n_edges, _ROUND) + int(options["n_random"])
        costs.require_runs(examination, pairs, least)
        return circuits.discover(model, pairs, **options, progress=progress)

    return examination.made(
        circuits.Circuit, f"circuit: {pairs.name}", circuits.parameters(pairs, **options), make
    )


def _complete(examination: Examination, found: circuits.Circuit) -> circuits.Completeness | None:
    """The circuit against the model with nodes removed from both; None where that takes long."""
    apart = found.held_out
    if apart is None or not 0 < len(found.edges) or len(found.nodes) > _MOST_NODES:
        return None
    level: dict[str, Any] = {"confidence": found.confidence, "seed": examination.spec.seed}
    request = {
        "edges": list(found.edges),
        "metric": found.metric,
        "n_sets": _N_SETS,
        "pairs": apart.digest(),
        **level,
    }

    def make(progress: running.Progress) -> circuits.Completeness:
        return circuits.completeness(
            examination.model, apart, found, n_sets=_N_SETS, **level, progress=progress
        )

    return examination.made(
        circuits.Completeness, f"completeness: {found.pairs.name}", request, make
    )


def _statement(found: circuits.Circuit, judged: circuits.Faithfulness, about: str) -> str:
    return (
        f"{len(found.edges)} of {found.counts.n_edges} connections "
        f"({sentences.share(found.share)}) carry {sentences.share(judged.value)} of {about!r} by "
        f"themselves, on {len(judged.pairs)} pairs that had no part in choosing them "
        f"({sentences.sure(judged.interval, judged.confidence)})."
    )


def _evidence(judged: circuits.Faithfulness) -> str:
    return (
        f"Every other connection carried the corrupted prompt. {judged.random.size} random "
        f"connected circuits of this size carry {sentences.share(judged.random.mean())} on average "
        f"and {sentences.share(judged.random.max())} at most ({sentences.chance(judged.p_value)})."
    )


def _decisive(
    found: circuits.Circuit, judged: circuits.Faithfulness, asked: spec.Circuit
) -> tuple[Measured, ...]:
    faithful = exhibits.measured(
        "faithfulness on pairs that were kept apart",
        judged.value,
        interval=judged.interval,
        threshold=asked.faithfulness,
        n=len(judged.pairs),
        p_value=judged.p_value,
        null=f"random connected circuits of the same size, mean of {judged.random.size}",
        null_value=float(judged.random.mean()),
    )
    size = exhibits.measured(
        "connections in the circuit, as share of all", found.share, threshold=asked.size
    )
    return (faithful, size)


def _further(
    found: circuits.Circuit, complete: circuits.Completeness | None
) -> tuple[Measured, ...]:
    chosen_on = len(found.discovery_indices)
    numbers = [
        exhibits.measured("connections in the circuit", len(found.edges)),
        exhibits.measured("connections in the model", found.counts.n_edges),
        exhibits.measured("components in the circuit", len(found.nodes) - 2),
        exhibits.measured("faithfulness on the pairs that chose it", found.reached, n=chosen_on),
    ]
    if complete is not None:
        worst_set = int(complete.gaps.argmax())
        numbers.append(
            exhibits.measured(
                "largest gap between circuit and model with the same nodes removed",
                complete.largest,
                n=len(complete.pairs),
                null=f"mean gap of {_N_SETS} random sets of nodes",
                null_value=complete.mean,
            )
        )
        numbers.append(
            exhibits.measured(
                "circuit less model at that set",
                float((complete.circuit - complete.model)[worst_set].mean())
                / float((complete.full - complete.nothing).mean()),
                interval=complete.interval[:, worst_set],
                n=len(complete.pairs),
            )
        )
    return tuple(numbers)


def _caveats(
    found: circuits.Circuit,
    judged: circuits.Faithfulness,
    complete: circuits.Completeness | None,
) -> tuple[str, ...]:
    """What speaks against relying on it, the strongest first."""
    caveats: list[str] = []
    if judged.p_value > SURE:
        caveats.append(
            "Random circuits of this size come as close to the whole model "
            f"({sentences.chance(judged.p_value)})."
        )
    if not found.minimal:
        caveats.append("The search ended before no connection could go: some may be spare.")
    if complete is None:
        caveats.append("Whether the circuit lacks something was not measured: it is too large.")
    elif complete.largest > _COMPLETE:
        removed = " and ".join(complete.removed[int(complete.gaps.argmax())]) or "nothing"
        caveats.append(
            f"It is not complete: with {removed} removed from both, circuit and model differ by "
            f"{sentences.share(complete.largest)} of the behaviour."
        )
    unlike = _unlike(judged)
    if unlike:
        caveats.append(unlike)
    caveats.append(
        "It is the circuit of these prompts and this corruption: what clean and corrupted prompts "
        "share cannot be in it, and another circuit of this size may be as faithful."
    )
    return tuple(caveats)


def _unlike(judged: circuits.Faithfulness) -> str:
    """How far single prompts are from the mean, where some of them err by half or more."""
    each = (judged.circuit - judged.nothing) / (judged.full - judged.nothing).mean()
    whole = (judged.full - judged.nothing) / (judged.full - judged.nothing).mean()
    apart = np.abs(each - whole)
    count = int((apart >= 0.5).sum())  # noqa: PLR2004 - half of the behaviour
    if not count:
        return ""
    return (
        f"The mean hides single prompts: on {count} of {len(apart)} circuit and model differ by "
        "half of the behaviour or more."
    )


def _exhibits(
    found: circuits.Circuit,
    judged: circuits.Faithfulness,
    complete: circuits.Completeness | None,
) -> tuple[Exhibit, ...]:
    shown = [
        exhibits.figure(
            found.figure(),
            "The circuit, input at the bottom and logits on top; thick lines carry most, blue ones "
            "help and red ones hinder.",
        ),
        exhibits.figure(
            judged.figure(),
            "Faithfulness of the circuit (line, with its interval) beside random circuits of its "
            "size.",
        ),
        exhibits.table(
            found.to_frame(),
            "Connections of the circuit, the strongest first.",
            columns={
                "edge": "connection",
                "effect": "effect",
                "effect_low": "low",
                "effect_high": "high",
                "exact_change": "change (logits)",
                "exact_low": "its low",
                "exact_high": "its high",
                "n": "n",
            },
        ),
    ]
    if complete is not None:
        shown.append(
            exhibits.figure(
                complete.figure(),
                "Circuit against model with the same nodes removed: a complete circuit lies on "
                "the diagonal.",
            )
        )
    return tuple(shown)
