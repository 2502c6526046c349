"""Circuits: which connections carry this behaviour?

1. Pick a model, pairs and how faithful the circuit must be; the preflight says whether the question
   makes sense.
2. Run, or see the stored run at once: screen all edges by attribution, verify the largest exactly,
   and explain the behaviour by a circuit with its held-out faithfulness.
3. Click an edge to see its exact effect and the attention of its head.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import streamlit as st

from analyses import attribution, circuits
from analyses.attribution import edges as screening
from analyses.attribution import estimates
from analyses.circuits import curve, discovery, measuring, random_circuits
from workbench.core import runs
from workbench.core.engine import decoder, graph, metrics, running
from workbench.core.engine import preflight as checking
from workbench.core.models import card
from workbench.ui import (
    addresses,
    agreement,
    downloads,
    escaping,
    graphs,
    jobs,
    links,
    pairs,
    preflight,
    showing,
    steps,
    stored,
    subject,
)

METRICS = [name for name in metrics.METRICS if name != "rank"]
SEARCHES = ("automatic", *discovery.SEARCHES)
VERIFIED = 30
# Sets of edges that are timed before a run.
TIMED = 16
NAMED = 3
ASKED = "asked of circuits"


def ask(model: str) -> tuple[pairs.Choice | None, dict[str, Any]]:
    """Draw the controls, and forget the run in the address when they change."""
    choice = pairs.choose(model)
    left, middle, right = st.columns(3)
    options: dict[str, Any] = {
        "metric": left.selectbox("Metric", METRICS, key="metric", bind="query-params"),
        "method": middle.selectbox(
            "Score edges by",
            ("eap_ig", "eap"),
            key="method",
            bind="query-params",
            help="Edge attribution patching: one gradient at the clean run (eap), or averaged on "
            "the way from the corrupted to the clean prompt (eap_ig).",
        ),
        "target": right.number_input(
            "Target faithfulness",
            0.05,
            1.0,
            0.9,
            0.05,
            key="target",
            bind="query-params",
            help="What the circuit alone must reach on the pairs that choose it: 0 is the "
            "corrupted run, 1 the clean one.",
        ),
    }
    with st.expander("How it searches and is judged"):
        one, two, three = st.columns(3)
        search = one.selectbox(
            "Search",
            SEARCHES,
            key="search",
            bind="query-params",
            help="Prune begins with all edges, grow with the least number of top edges that meets "
            "the target; automatic prunes graphs of up to 5,000 edges.",
        )
        options["search"] = None if search == SEARCHES[0] else search
        options["held_out"] = two.number_input(
            "Held-out share of the pairs", 0.0, 0.9, 0.5, 0.1, key="held_out", bind="query-params"
        )
        options["n_random"] = three.number_input(
            "Random circuits beside it",
            0,
            1000,
            100,
            key="n_random",
            bind=addresses.whole_number("n_random"),
        )
    now = [model, choice.description if choice else None, options]
    if st.session_state.setdefault(ASKED, now) != now:
        st.session_state[ASKED] = now
        st.query_params.pop("run", None)
        # Its widget keeps the address, and must be told instead.
        st.session_state["edge"] = None
    return choice, options


def find_or_run(name: str, choice: pairs.Choice, options: dict[str, Any]) -> None:
    """Preflight, then a button; ends with the run in the address, stored before or made now."""
    model = subject.loaded(name)
    if model is None:
        return
    kept = {key: options[key] for key in ("metric", "method", "held_out")}

    def prepare(report: jobs.Report) -> tuple[Any, checking.Preflight, int, float]:
        chosen = choice.make(model)
        return chosen, *check(model, chosen, **kept, report=report)

    mark = card.fingerprint(model)
    prepared = steps.step(
        jobs.job_key("circuit preflight", mark, choice.description, kept),
        prepare,
        label="Preflight",
    )
    if prepared is None:
        return
    chosen, checks, n_edges, seconds = prepared
    run = runs.run_id(discovery.ANALYSIS, mark, circuits.parameters(chosen, **options))
    if runs.RunStore().find(circuits.Circuit, run) is not None:
        stored.reopen(run)
    preflight.show(checks, chosen)
    key = jobs.job_key("circuit", run)

    def work(report: jobs.Report) -> str:
        apart, _ = discovery.split(len(chosen), options["held_out"], 0)
        how = {"method": options["method"], "metric": options["metric"]}
        screen = screened(model, chosen.subset(apart), report, **how)
        circuit = circuits.discover(
            model,
            chosen,
            **options,
            scores=screen,
            progress=running.part(report, 0.1, 1.0),
        )
        # Both are stored at the end, so that a cancelled run leaves neither.
        runs.RunStore().put(screen, title=f"edges, {chosen.name}")
        return runs.RunStore().put(circuit, title=f"circuit, {chosen.name}")

    # A round of pruning tries each edge once, and later rounds have few left.
    count = min(n_edges, 5000) + options["n_random"] + VERIFIED
    cost = f"about {jobs.duration(seconds * count)}, {n_edges:,} edges"
    if steps.asked(key, work, button=f"Run ({cost})", label="Finding the circuit") is not None:
        stored.reopen(run)


def check(
    model: Any, chosen: Any, *, metric: str, method: str, held_out: float, report: jobs.Report
) -> tuple[checking.Preflight, int, float]:
    """Everything that would stop the run, the graph's size, and the time of one set of edges."""
    measuring.require_pairs(chosen, metric)
    estimates.require_gradient(chosen, metric, at_clean=method == "eap")
    apart, _ = discovery.split(len(chosen), held_out, 0)
    try:
        measured = measuring.Measured(model, chosen.subset(apart), metric=metric)
    except decoder.NotTakenApart as error:
        raise ValueError(
            "circuits need a model that can be taken apart into heads and MLPs that add up, and "
            f"{model.cfg.model_name!r} cannot: {error.reason}"
        ) from error
    n_edges = measured.graph.n_edges
    masks = random_circuits.sample(measured.graph, n_edges // 2, TIMED)
    started = time.perf_counter()
    measured.under(masks)
    seconds = (time.perf_counter() - started) / TIMED
    checks = checking.check(
        model, chosen, site="resid_post", metric=metric, positions="all", progress=report
    )
    # Its estimate is that of patching, which this run is not.
    others = tuple(item for item in checks.checks if item.name != "time and memory")
    return dataclasses.replace(checks, checks=others), n_edges, seconds


def screened(
    model: Any, chosen: Any, report: jobs.Report, **how: Any
) -> attribution.EdgeAttribution:
    """Score all edges on the pairs that choose the circuit, and measure the largest exactly."""
    return attribution.attribute_edges(
        model,
        chosen,
        **how,
        verify_top=VERIFIED,
        progress=lambda fraction, note: report(0.1 * fraction, f"screening, {note}"),
    )


def show(circuit: circuits.Circuit, run: str) -> None:
    """The path in three steps, the code, and how to take it along."""
    made = {name: circuit.provenance.parameters[name] for name in ("method", "steps", "metric")}
    screen = stored.alike(
        attribution.EdgeAttribution,
        screening.ANALYSIS,
        circuit.provenance,
        **made,
        direction="noising",
        pairs=circuit.discovered_on.digest(),
    )
    if screen is None or screen.verified is None:
        st.header("1. Screen and 2. Verify")
        screen_again(circuit, made)
    else:
        show_screen(screen)
        st.header("2. Verify: are the estimates right?")
        st.markdown(escaping.markdown(screen.verified.summary()))
        agreement.show(screen.verified, metrics.unit(screen.metric))
    st.header("3. Explain: which connections are enough?")
    show_circuit(circuit, run)
    lines = show_studies(circuit, run)
    st.subheader("The code that reproduces it")
    st.code(script(circuit, screen, lines), language="python")
    downloads.offer(circuit, run=run, folder=runs.RunStore().root / run, name="circuit")


def screen_again(circuit: circuits.Circuit, made: dict[str, Any]) -> None:
    """Offer the screening of a circuit that was stored without it."""
    st.markdown("The scores of all edges are not stored on this machine with this circuit.")
    model = same_model(circuit)
    if model is None:
        return

    def work(report: jobs.Report) -> None:
        runs.RunStore().put(
            screened(model, circuit.discovered_on, report, **made),
            title=f"edges, {circuit.pairs.name}",
        )

    key = jobs.job_key("screen", card.fingerprint(model), made, circuit.discovered_on.digest())
    cost = seconds_per_run(circuit) * 2 * VERIFIED
    stored.offer(key, work, button="Screen and verify", label="Screening", seconds=cost)


def show_screen(screen: attribution.EdgeAttribution) -> None:
    """All edges by estimate, as a picture and as a table."""
    st.header("1. Screen: which edges look important?")
    best = "; ".join(f"{edge} {screen.score(edge):.3f}" for edge in screen.strongest(NAMED))
    n_edges = int(screen.allowed.sum())
    st.markdown(
        escaping.markdown(
            f"The largest of {n_edges:,} edges by {screen.unit} when the edge is corrupted "
            f"({screen.method}, n = {len(screen.pairs)}): {best}."
        )
    )
    showing.figure(screen.figure())

    def table() -> None:
        digits = {
            name: st.column_config.NumberColumn(format="%.4f") for name in ("score", "low", "high")
        }
        st.dataframe(screen.ranking(), hide_index=True, column_config=digits)

    showing.fold(f"All {n_edges:,} edges, largest estimate first", table)


def show_circuit(circuit: circuits.Circuit, run: str) -> None:
    """Size and faithfulness, the graph with the clicked edge, and the table of edges."""
    size, held_out, null = st.columns(3)
    size.metric("Edges", f"{len(circuit.edges)} of {circuit.counts.n_edges:,}")
    size.caption(f"{circuit.share:.1%} of the graph, {len(circuit.nodes) - 2} components")
    judged = circuit.faithfulness
    if judged is not None:
        low, high = judged.interval
        held_out.metric("Held-out faithfulness", f"{judged.value:.3f}")
        sure = f"{judged.confidence:.0%} interval {low:.3f} to {high:.3f}, "
        held_out.caption(f"{sure if np.isfinite(low) else ''}n = {len(judged.pairs)}")
        if judged.random.size:
            null.metric("Random circuits of this size", f"{judged.random.mean():.3f}")
            null.caption(f"mean of {judged.random.size}, p = {judged.p_value:.3g}")
    st.markdown(escaping.markdown(circuit.summary()))

    def chosen(edge: int) -> None:
        st.session_state["edge"] = circuit.edges[edge]

    spot = st.empty()
    order = [circuit.edges[i] for i in circuit.strongest(len(circuit.edges))]
    edge = st.selectbox(
        "Edge: click its dot in the graph, or choose it here, strongest first",
        order,
        index=None,
        key="edge",
        bind="query-params",
    )
    selected = circuit.edges.index(edge) if edge in circuit.edges else None
    with spot:
        graphs.clickable(circuit.figure(selected), key=f"graph:{run}", on_click=chosen)
    if selected is not None:
        show_edge(circuit, run, circuit.edges[selected])

    def table() -> None:
        frame = circuit.to_frame()
        digits = {
            name: st.column_config.NumberColumn(format="%.4f")
            for name in frame.columns
            if name not in {"edge", "sender", "receiver", "n"}
        }
        st.dataframe(frame, hide_index=True, column_config=digits)

    showing.fold(f"All {len(circuit.edges)} edges of the circuit, strongest first", table)


def show_edge(circuit: circuits.Circuit, run: str, edge: str) -> None:
    """The exact effect of one edge, and where the head at its end attends."""
    st.subheader(escaping.markdown(edge))
    model = same_model(circuit)
    if model is None:
        return
    texts = circuit.discovered_on.clean
    prompt = (
        st.selectbox(
            "Prompt", range(len(texts)), format_func=lambda i: f"{i + 1}: {texts[i]}", key="prompt"
        )
        or 0
    )

    def work(report: jobs.Report) -> circuits.EdgeInspection:
        report(0.1, "measuring the edge")
        return circuits.inspect_edge(model, circuit, edge, prompt=prompt)

    seen = steps.step(jobs.job_key("edge", run, edge, prompt), work, label="Looking at the edge")
    links.units(circuit.provenance.model, map(graph.unit_of, edge.split("->")))
    if seen is not None:
        st.markdown(escaping.markdown(seen.summary()))
        showing.figure(seen.figure())


def show_studies(circuit: circuits.Circuit, run: str) -> list[str]:
    """What else is asked of the circuit, each behind a button; the code of those that are there."""
    lines: list[str] = []
    made = circuit.provenance.parameters
    names = ("method", "steps", "metric", "held_out", "seed")
    asked = {name: made[name] for name in names}
    one_run = seconds_per_run(circuit)
    st.subheader("How faithful is it at every size?")
    found = stored.alike(
        circuits.FaithfulnessCurve,
        curve.ANALYSIS,
        circuit.provenance,
        **asked,
        ablation="corrupted",
        pairs=circuit.pairs.digest(),
    )
    if found is not None:
        show_result(found)
        arguments = ", ".join(f"{name}={value!r}" for name, value in asked.items())
        lines.append(f"print(circuits.faithfulness_curve(model, pairs, {arguments}).summary())")
    else:
        st.caption("Edges by score, a few at first and then more, beside edges in random order.")
        # Large circuits run longer than those of a search, and there are scores and intervals.
        offer_curve(circuit, run, asked, 320 * one_run)
    st.subheader("Is it complete, and is each part needed?")
    apart = circuit.held_out or circuit.discovered_on
    shown = {"edges": list(circuit.edges), "metric": circuit.metric, "ablation": "corrupted"}
    both = [
        stored.alike(kind, f"circuits.{name}", circuit.provenance, **shown, pairs=apart.digest())
        for name, kind in (
            ("completeness", circuits.Completeness),
            ("minimality", circuits.Minimality),
        )
    ]
    if all(both):
        for name, result in zip(("completeness", "minimality"), both, strict=True):
            show_result(result)
            lines.append(f"print(circuits.{name}(model, apart, circuit).summary())")
        lines.insert(-2, "apart = circuit.held_out or circuit.discovered_on")
    else:
        st.caption(
            "Complete: circuit and model behave alike when the same components are removed from "
            "both. Minimal: each component matters more than a random one put into the circuit."
        )
        nodes = len(circuit.nodes)
        offer_removal(circuit, run, apart, (22 * (nodes + 50) + 10 * nodes + 60) * one_run)
    return lines


def offer_curve(circuit: circuits.Circuit, run: str, asked: dict[str, Any], seconds: float) -> None:
    """The button of the curve."""
    model = same_model(circuit)

    def work(report: jobs.Report) -> None:
        made = circuits.faithfulness_curve(model, circuit.pairs, **asked, progress=report)
        runs.RunStore().put(made, title=f"faithfulness by size, {circuit.pairs.name}")

    if model is not None:
        stored.offer(
            jobs.job_key("curve", run),
            work,
            button="Measure every size",
            label="Faithfulness by size",
            seconds=seconds,
        )


def offer_removal(circuit: circuits.Circuit, run: str, apart: Any, seconds: float) -> None:
    """The button of completeness and minimality."""
    model = same_model(circuit)

    def work(report: jobs.Report) -> None:
        complete = circuits.completeness(
            model, apart, circuit, progress=running.part(report, 0.0, 0.2)
        )
        minimal = circuits.minimality(
            model,
            apart,
            circuit,
            progress=running.part(report, 0.2, 1.0),
        )
        for name, made in (("completeness", complete), ("minimality", minimal)):
            runs.RunStore().put(made, title=f"{name}, {circuit.pairs.name}")

    if model is not None:
        stored.offer(
            jobs.job_key("removal", run),
            work,
            button="Test completeness and minimality",
            label="Completeness and minimality",
            seconds=seconds,
        )


def show_result(result: Any) -> None:
    """A further result: what it says, and its figure."""
    st.markdown(escaping.markdown(result.summary()))
    showing.figure(result.figure())


def same_model(circuit: circuits.Circuit) -> Any:
    """The model that the circuit is of, if it is loaded and its weights are the same."""
    model = subject.loaded(circuit.provenance.model)
    if model is not None and card.fingerprint(model) != circuit.provenance.fingerprint:
        st.warning("The model of this name has other weights now than when this run was made.")
        return None
    return model


def seconds_per_run(circuit: circuits.Circuit) -> float:
    """How long one set of edges took when the circuit was found."""
    count = circuit.runs + len(circuit.edges)
    if circuit.faithfulness is not None:
        count += len(circuit.faithfulness.random)
    return circuit.provenance.wall_time / count


def script(
    circuit: circuits.Circuit, screen: attribution.EdgeAttribution | None, lines: list[str]
) -> str:
    """Python code that computes what the page shows again."""
    code = circuit.script()
    if screen is not None:
        code = code.replace(
            "from analyses import circuits", "from analyses import attribution, circuits"
        )
        names = ("method", "steps", "metric", "verify_top")
        made = screen.provenance.parameters
        arguments = "".join(f"    {name}={made[name]!r},\n" for name in names)
        code += (
            f"screen = attribution.attribute_edges(\n    model,\n    circuit.discovered_on,\n"
            f"{arguments})\nprint(screen.summary())\n"
        )
    return code + "".join(f"{line}\n" for line in lines)


shared = st.query_params.get("run", "")
picked = subject.pick()
if picked is not None or shared:
    choice, options = ask(picked or "")
    shared = st.query_params.get("run", "")
    found = runs.RunStore().find(circuits.Circuit, shared)
    if found is not None:
        show(found, shared)
    else:
        if shared:
            st.info("This run is not stored on this machine; it can be made again from here.")
        if picked is not None and choice is not None:
            find_or_run(picked, choice, options)
