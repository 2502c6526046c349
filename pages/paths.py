"""Paths: through which path does a component reach the answer?

1. Pick a model, pairs, where the paths end and what they may go through; the preflight says whether
   the question makes sense.
2. Run, or see the stored run at once; `?run=` in the address reopens it.
3. Click a sender to see its effect along these paths beside its direct and its whole effect.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from analyses import path_patching
from workbench.core import runs
from workbench.core.engine import graph as graphs
from workbench.core.engine import metrics
from workbench.core.engine import preflight as checking
from workbench.core.evidence import SURE
from workbench.core.models import card
from workbench.ui import (
    downloads,
    escaping,
    heatmap,
    jobs,
    links,
    pairs,
    preflight,
    showing,
    steps,
    stored,
    subject,
    tables,
)

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

ASKED = "asked of paths"
MEANING = {
    "noising": "In the clean run, only what a sender sends along these paths is corrupted: does "
    "that take the answer away?",
    "denoising": "In the corrupted run, only what a sender sends along these paths is clean: does "
    "that bring the answer back?",
}
WAYS = ("directly to the logits", "along the paths of this run", "by every path")
# Pairs and senders that are timed before a run.
TIMED_PAIRS = 16
TIMED_SENDERS = 4


def ask(model: str) -> tuple[pairs.Choice | None, dict[str, Any]]:
    """Draw the controls that need no model, and forget the run in the address when they change."""
    choice = pairs.choose(model)
    left, right = st.columns(2)
    direction = left.selectbox(
        "Direction", path_patching.DIRECTIONS, key="direction", bind="query-params"
    )
    metric = right.selectbox("Metric", list(metrics.METRICS), key="metric", bind="query-params")
    st.caption(MEANING[direction])
    options = {"direction": direction, "metric": metric}
    now = [model, choice.description if choice else None, options]
    if st.session_state.setdefault(ASKED, now) != now:
        st.session_state[ASKED] = now
        forget_run()
    return choice, options


def forget_run() -> None:
    """Take the run out of the address, since it answers another question now."""
    for name in ("run", "cell"):
        st.query_params.pop(name, None)


def ask_for_paths(
    model: TransformerBridge, choice: pairs.Choice
) -> tuple[ContrastPairs, dict[str, Any]] | None:
    """Draw the controls that need the model: where paths end, go through and begin."""

    def prepare(_: jobs.Report) -> tuple[graphs.Graph, ContrastPairs]:
        return graphs.Graph.of_model(model), choice.make(model)

    key = jobs.job_key("graph and pairs", card.fingerprint(model), choice.description)
    prepared = steps.step(key, prepare, label="Tokenizing")
    if prepared is None:
        return None
    graph, chosen = prepared
    places = position_choices(chosen)
    ends, middle, where = st.columns(3)
    to = pick_some(
        ends,
        "To",
        readers(graph),
        key="to",
        placeholder="the logits",
        help="Where the paths end. Type to search: `a3.h1` is a head's query, key and value "
        "together, `a3.h1<q>` its query alone, `m2` an MLP.",
    )
    through = pick_some(
        middle,
        "Through",
        readers(graph),
        key="through",
        placeholder="nothing else",
        help="Components that paths may go through on the way: these are computed again.",
    )
    at = pick_some(
        where,
        "From positions",
        list(places),
        key="at",
        placeholder="all",
        help="Where in the prompts a sender is patched, all of the chosen places at once.",
    )
    options = {
        "receivers": tuple(to) or ("logits",),
        "through": tuple(through),
        "positions": [places[label] for label in at] or None,
    }
    return chosen, options


def pick_some(place: DeltaGenerator, label: str, choices: list[str], **options: Any) -> list[str]:
    """A list to choose from that stands in the address; another choice is another run."""
    return place.multiselect(
        label,
        choices,
        bind="query-params",
        # Without the entry that selects all, Enter after a search takes the first match.
        select_all=False,
        on_change=forget_run,
        **options,
    )


def readers(graph: graphs.Graph) -> list[str]:
    """Every name of a receiver but the logits: a component, followed by what it reads with."""
    own: dict[str, list[str]] = {}
    for reader in graph.receivers[:-1]:
        own.setdefault(graphs.node_of(reader), []).append(reader)
    return [name for node, some in own.items() for name in dict.fromkeys((node, *some))]


def position_choices(chosen: ContrastPairs) -> dict[str, str | int]:
    """Position sets by what they are called here: named ones, then single positions."""
    shortest = min(map(len, chosen.clean_tokens))
    named: dict[str, str | int] = {name: name for name in chosen.position_names()}
    return named | {f"position {i}": i for i in range(shortest) if f"position {i}" not in named}


def find_or_run(model: TransformerBridge, chosen: ContrastPairs, options: dict[str, Any]) -> None:
    """Preflight, then a button; ends with the run in the address, stored before or made now."""
    made_by = path_patching.parameters(chosen, **options)
    run = runs.run_id(path_patching.ANALYSIS, card.fingerprint(model), made_by)
    store = runs.RunStore()
    if store.find(path_patching.PathPatchingResult, run) is not None:
        stored.reopen(run)

    def prepare(report: jobs.Report) -> tuple[checking.Preflight, float, int]:
        checks = path_patching.check(model, chosen, metric=options["metric"], progress=report)
        report(0.5, "timing a few senders")
        return checks, *cost(model, chosen, checks, options)

    pairs.show_alignment(chosen)
    prepared = steps.step(jobs.job_key("path preflight", run), prepare, label="Preflight")
    if prepared is None:
        return
    checks, seconds, n_senders = prepared
    preflight.show(checks, chosen)
    key = jobs.job_key("paths", run)

    def work(report: jobs.Report) -> str:
        result = path_patching.path_patch(model, chosen, **options, checks=checks, progress=report)
        return store.put(result, title=f"paths {result.path}, {chosen.name}")

    said = f"about {jobs.duration(seconds)}, {n_senders:,} senders"
    if steps.asked(key, work, button=f"Run ({said})", label="Patching paths") is not None:
        stored.reopen(run)


def cost(
    model: TransformerBridge,
    chosen: ContrastPairs,
    checks: checking.Preflight,
    options: dict[str, Any],
) -> tuple[float, int]:
    """Seconds of the run, from a few senders on a few pairs, and how many senders it has."""
    senders = graphs.Graph.of_model(model).senders[1:]
    few = chosen.subset(range(min(TIMED_PAIRS, len(chosen))))

    def seconds(count: int) -> float:
        some = senders[:: -(-len(senders) // count)]
        started = time.perf_counter()
        path_patching.path_patch(model, few, senders=some, checks=checks, **options)
        return time.perf_counter() - started

    # What every run needs once must not be counted for each of its senders.
    once = seconds(1)
    each = max(0.0, seconds(TIMED_SENDERS) - once) / (TIMED_SENDERS - 1)
    return (once + each * (len(senders) - 1)) * len(chosen) / len(few), len(senders)


def show(
    result: path_patching.PathPatchingResult, run: str, model: TransformerBridge | None
) -> None:
    """What was found, the clicked sender, the code, and how to take it along."""
    preflight.show(result.preflight, result.pairs)
    st.markdown(escaping.markdown(result.summary()))
    sender = pick_sender(result, run)
    code = result.script()
    if sender is None:
        st.caption(
            "Choose a sender to see it directly, along these paths, and by every path."
            if not result.cells
            else "Click a cell to see that sender directly, along these paths, and by every path."
        )
    else:
        show_sender(result, run, sender, model)
        code += ways_code(result, sender)

    def table() -> None:
        strongest = list(result.strongest(len(result.senders)))
        frame = result.to_frame().set_index("sender").loc[strongest]
        digits = {
            name: st.column_config.NumberColumn(format="%.4f") for name in frame.columns.drop("n")
        }
        st.dataframe(frame, column_config=digits)

    showing.fold("All senders, strongest first", table)
    st.subheader("The code that reproduces it")
    st.code(code, language="python")
    downloads.offer(result, run=run, folder=runs.RunStore().root / run, name="paths")


def pick_sender(result: path_patching.PathPatchingResult, run: str) -> str | None:
    """The heat map with the sender that was clicked, or bars with a list to choose from."""
    if not result.cells:
        showing.figure(result.figure())
        return st.selectbox("Sender", result.senders, index=None, key=f"sender:{run}")
    hide = st.toggle("Hide what is not more than chance", key="hide", bind="query-params")
    rate = SURE if hide else None
    names = {cell: name for name, cell in result.cells.items()}
    rows, columns = np.array(list(names)).max(axis=0) + 1
    cell = heatmap.clickable_figure(
        lambda at: result.figure(names.get(at) if at else None, discoveries=rate),
        (int(rows), int(columns)),
        key=f"senders:{run}",
        query="cell",
    )
    return None if cell is None else names.get(cell)


def show_sender(
    result: path_patching.PathPatchingResult,
    run: str,
    sender: str,
    model: TransformerBridge | None,
) -> None:
    """One sender: directly to the logits, along the run's paths, and by every path."""
    st.subheader(escaping.markdown(f"What reaches the answer from {sender}"))
    if model is None:
        st.caption("This is shown once the model is there.")
        return
    if card.fingerprint(model) != result.provenance.fingerprint:
        st.warning("The model of this name has other weights now than when this run was made.")
        return

    links.units(result.provenance.model, [graphs.unit_of(sender)])

    def work(report: jobs.Report) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        for i, (way, paths) in enumerate(ways(model, result).items()):
            report(i / len(WAYS), way)
            found = result
            if paths is not None:
                found = path_patching.path_patch(
                    model,
                    result.pairs,
                    senders=[sender],
                    **paths,
                    **same(result),
                    checks=result.preflight,
                )
            rows.append(row(way, found, sender))
        return rows

    rows = steps.step(jobs.job_key("sender", run, sender), work, label=f"Paths from {sender}")
    if rows is not None:
        st.markdown(tables.markdown(rows))
        st.caption(
            "Every path: all that runs later is computed again, so this is its whole effect. "
            "Effects of different paths add up only where the model is linear."
        )


def ways(
    model: TransformerBridge, result: path_patching.PathPatchingResult
) -> dict[str, dict[str, Any] | None]:
    """What is asked along each way; None for what the run has measured."""
    every = graphs.Graph.of_model(model).senders[1:]
    found: dict[str, dict[str, Any] | None] = {
        WAYS[0]: {"receivers": ["logits"]},
        WAYS[1]: None,
        WAYS[2]: {"receivers": ["logits"], "through": every},
    }
    if result.receivers == ("logits",) and not result.through:
        found[WAYS[0]] = found.pop(WAYS[1])
    return found


def same(result: path_patching.PathPatchingResult) -> dict[str, Any]:
    """The arguments that all ways from a sender share with the run."""
    made = result.provenance.parameters
    names = ("metric", "direction", "confidence", "n_resamples", "seed")
    return {name: made[name] for name in names} | {"positions": result.position_sets()}


def row(way: str, found: path_patching.PathPatchingResult, sender: str) -> dict[str, object]:
    """A row of the table of ways."""
    i = found.senders.index(sender)
    low, high = found.bounds[:, i]
    known = bool(np.isfinite(low) and np.isfinite(high))
    return {
        "path": way,
        found.unit: f"{found.shown[i]:.4f}",
        f"{found.confidence:.0%} interval": f"{low:.4f} to {high:.4f}" if known else "none",
        "n": len(found.pairs),
    }


def ways_code(result: path_patching.PathPatchingResult, sender: str) -> str:
    """Python code of the table of ways, after the code of the run."""
    arguments = "".join(f"        {name}={value!r},\n" for name, value in same(result).items())
    return (
        f"\n# From {sender} directly to the logits, and by every path.\n"
        "from workbench.core.engine import graph\n\n"
        "for through in ((), graph.Graph.of_model(model).senders[1:]):\n"
        "    way = path_patching.path_patch(\n        model,\n        pairs,\n"
        f"        senders=[{sender!r}],\n        through=through,\n{arguments}    )\n"
        "    print(way.to_frame())\n"
    )


shared = st.query_params.get("run", "")
picked = subject.pick()
if picked is not None or shared:
    choice, options = ask(picked or "")
    model = None if picked is None else subject.loaded(picked)
    question = None if model is None or choice is None else ask_for_paths(model, choice)
    shared = st.query_params.get("run", "")
    found = runs.RunStore().find(path_patching.PathPatchingResult, shared)
    if found is not None:
        made_of = found.provenance.model
        show(found, shared, model if made_of == picked else subject.loaded(made_of))
    else:
        if shared:
            st.info("This run is not stored on this machine; it can be made again from here.")
        if model is not None and question is not None:
            chosen, paths = question
            find_or_run(model, chosen, {**options, **paths})
