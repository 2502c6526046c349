"""Patching: which layer and position carry this behaviour?

1. Pick a model, pairs, and what to patch; the preflight says whether the question makes sense.
2. Run, or see the stored run at once; `?run=` in the address reopens it.
3. Click a cell to see what the model says before and after that patch.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from analyses import activation_patching
from workbench.core import plots, runs
from workbench.core.engine import metrics, sites
from workbench.core.engine import preflight as checking
from workbench.core.models import card
from workbench.ui import downloads, escaping, heatmap, jobs, pairs, preflight, steps, subject

CHOICES = {
    "site": list(sites.SITES),
    "direction": [
        *activation_patching.DIRECTIONS,
        *(f"{name} ablation" for name in activation_patching.ABLATIONS),
    ],
    "metric": list(metrics.METRICS),
    "positions": list(activation_patching.POSITIONS),
}

MEANING = {
    "denoising": "put a clean activation into the corrupted run, and does it bring the answer back",
    "noising": "put a corrupted activation into the clean run, and does it take the answer away",
    "zero ablation": "put zeros into the clean run, and is the answer gone",
    "mean ablation": "put the mean over all prompts into the clean run, and is the answer gone",
    "resample ablation": "put another prompt's corrupted activation into the clean run, and is the "
    "answer gone",
}


def ask(model: str) -> tuple[pairs.Choice | None, activation_patching.Options]:
    """Draw the controls, and forget the run in the address when they change."""
    choice = pairs.choose(model)
    columns = dict(zip(CHOICES, st.columns(len(CHOICES)), strict=True))

    def pick(name: str) -> str:
        # The address holds what a selectbox shows, so these show the names that scripts use.
        return columns[name].selectbox(
            name.capitalize(), CHOICES[name], key=name, bind="query-params"
        )

    site, how = pick("site"), pick("direction")
    ablated = how not in activation_patching.DIRECTIONS
    options = activation_patching.Options(
        site=site,
        metric=pick("metric"),
        direction="noising" if ablated else how,
        positions=pick("positions"),
        ablation=how.removesuffix(" ablation") if ablated else None,
    )
    st.caption(f"{sites.SITES[site].title.capitalize()}: {MEANING[how]}?")
    now = [model, choice.description if choice else None, options]
    if st.session_state.setdefault("asked", now) != now:
        st.session_state["asked"] = now
        for name in ("run", "cell"):
            st.query_params.pop(name, None)
    return choice, options


def find_or_run(name: str, choice: pairs.Choice, options: activation_patching.Options) -> None:
    """Preflight, then a button; ends with the run in the address, stored before or made now."""
    model = subject.loaded(name)
    if model is None:
        return

    def prepare(report: jobs.Report) -> tuple[Any, checking.Preflight]:
        chosen = choice.make(model)
        return chosen, checking.check(
            model,
            chosen,
            site=options["site"],
            metric=options["metric"],
            positions=options["positions"],
            ablation=options["ablation"],
            progress=report,
        )

    mark = card.fingerprint(model)
    prepared = steps.step(
        jobs.job_key("preflight", mark, choice.description, options), prepare, label="Preflight"
    )
    if prepared is None:
        return
    chosen, checks = prepared
    made_by = activation_patching.parameters(chosen, options)
    run = runs.run_id(activation_patching.ANALYSIS, mark, made_by)
    store = runs.RunStore()
    if store.find(activation_patching.PatchingResult, run) is not None:
        reopen(run)
    preflight.show(checks, chosen)
    key = jobs.job_key("patch", run)

    def work(report: jobs.Report) -> str:
        result = activation_patching.patch(model, chosen, **options, checks=checks, progress=report)
        return store.put(result, title=f"{options['site']}, {chosen.name}")

    if jobs.manager().find(key) is None:
        estimate = f"about {jobs.duration(checks.seconds)}"
        if st.button(f"Run ({estimate}, {checks.forward_passes:,} forward passes)", type="primary"):
            jobs.manager().submit(key, work, label="Patching")
            # Draws the page anew, without the button.
            st.rerun()
        return
    if steps.step(key, work, label="Patching") is not None:
        # From here on the store has the result; a run that was deleted there can be made again.
        jobs.manager().forget(key)
        reopen(run)


def reopen(run: str) -> None:
    """Put a run into the address and start the page anew with it."""
    st.query_params["run"] = run
    st.rerun()


def show(result: activation_patching.PatchingResult, run: str) -> None:
    """What was found, the clicked cell, the code, and how to take it along."""
    preflight.show(result.preflight, result.pairs)
    st.markdown(escaping.markdown(result.summary()))
    if len(result.axes) == 1:
        st.plotly_chart(plots.on_page(result.figure(), st.context.theme.type), theme=None)
        layer = st.selectbox("Layer", range(len(result.effects)), index=None, key=f"layer:{run}")
        cell = None if layer is None else (layer,)
    else:
        hide = st.toggle("Hide what is not more than chance", key="hide", bind="query-params")
        rate = activation_patching.DISCOVERIES if hide else None
        spot = heatmap.clickable_figure(
            lambda at: result.figure(result.from_grid(*at) if at else None, discoveries=rate),
            result.grid().values.shape,
            key=f"cells:{run}",
            query="cell",
        )
        cell = None if spot is None else result.from_grid(*spot)
    if cell is None:
        how = "Choose a layer" if len(result.axes) == 1 else "Click a cell"
        st.caption(f"{how} to see what the model says before and after that patch.")
    else:
        show_cell(result, cell)
    st.subheader("The code that reproduces it")
    st.code(result.script(), language="python")
    downloads.offer(result, run=run, folder=runs.RunStore().root / run, name="patching")


def show_cell(result: activation_patching.PatchingResult, cell: tuple[int, ...]) -> None:
    """Top tokens before and after the patch at one cell, for one prompt."""
    st.subheader(escaping.markdown(result.label(cell)))
    model = subject.loaded(result.provenance.model)
    if model is None:
        return
    if card.fingerprint(model) != result.provenance.fingerprint:
        st.warning("The model of this name has other weights now than when this run was made.")
        return
    texts = result.pairs.corrupted if result.direction == "denoising" else result.pairs.clean
    prompt = st.selectbox(
        "Prompt", range(len(texts)), format_func=lambda i: f"{i + 1}: {texts[i]}", key="prompt"
    )
    seen = activation_patching.inspect_cell(model, result, cell, prompt=prompt or 0)
    st.markdown(escaping.markdown(seen.summary()))
    picture, table = st.columns(2)
    with picture:
        st.plotly_chart(plots.on_page(seen.figure(), st.context.theme.type), theme=None)
    digits = {name: st.column_config.NumberColumn(format="%.4f") for name in seen.COLUMNS}
    table.dataframe(seen.to_frame(), hide_index=True, column_config=digits)


st.title("Which layer and position carry this behaviour?")
shared = st.query_params.get("run", "")
picked = subject.pick()
if picked is not None or shared:
    choice, options = ask(picked or "")
    shared = st.query_params.get("run", "")
    stored = runs.RunStore().find(activation_patching.PatchingResult, shared)
    if stored is not None:
        show(stored, shared)
    else:
        if shared:
            st.info("This run is not stored on this machine; it can be made again from here.")
        if picked is not None and choice is not None:
            find_or_run(picked, choice, options)
