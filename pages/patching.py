"""Patching: which layer and position carry this behaviour?

1. Pick a model, pairs, and what to patch where; the preflight says whether the question makes
   sense, and shows how prompts of different length are aligned.
2. Run, or see the stored run at once; `?run=` in the address reopens it.
3. Click a cell to see what the model says before and after that patch.
4. Compare both directions and every ablation of the strongest cells.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import streamlit as st

from analyses import activation_patching
from workbench.core import runs
from workbench.core.engine import cells, metrics, sites
from workbench.core.engine import preflight as checking
from workbench.core.evidence import SURE
from workbench.core.models import card, dictionaries
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
)

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

NAMED = "named sets"
UNITS = ("neuron", "latent")
CHOICES = {
    "site": list(activation_patching.SITES),
    "direction": [
        *activation_patching.DIRECTIONS,
        *(f"{name} ablation" for name in activation_patching.ABLATIONS),
    ],
    "metric": list(metrics.METRICS),
    "positions": ["each", "all", NAMED],
}

MEANING = {
    "denoising": "put a clean activation into the corrupted run, and does it bring the answer back",
    "noising": "put a corrupted activation into the clean run, and does it take the answer away",
    "zero ablation": "put zeros into the clean run, and is the answer gone",
    "mean ablation": "put the mean over all prompts into the clean run, and is the answer gone",
    "resample ablation": "put another prompt's corrupted activation into the clean run, and is the "
    "answer gone",
}


@dataclasses.dataclass(frozen=True)
class Extras:
    """What only some sites and ablations ask for.

    Attributes:
        dictionary: Folder of a sparse autoencoder.
        along_answer: Patch only what lies along the answer direction.
        reference: Texts of a mean ablation.
    """

    dictionary: str = ""
    along_answer: bool = False
    reference: tuple[str, ...] = ()


def ask(model: str) -> tuple[pairs.Choice | None, activation_patching.Options, Extras]:
    """Draw the controls, and forget the run in the address when they change."""
    choice = pairs.choose(model)
    columns = dict(zip(CHOICES, st.columns(len(CHOICES)), strict=True))

    def pick(name: str, choices: list[str]) -> str:
        # The address holds what a selectbox shows, so these show the names that scripts use.
        return columns[name].selectbox(name.capitalize(), choices, key=name, bind="query-params")

    site, how = pick("site", CHOICES["site"]), pick("direction", CHOICES["direction"])
    ablated = how not in activation_patching.DIRECTIONS
    # One weight at a time, by query and key, is a question for attention only.
    weights = ["pairs"] if site == "pattern" else []
    options = activation_patching.Options(
        site=site,
        metric=pick("metric", CHOICES["metric"]),
        direction="noising" if ablated else how,
        positions=pick("positions", CHOICES["positions"] + weights),
        ablation=how.removesuffix(" ablation") if ablated else None,
    )
    title = sites.SITES[site].title if site in sites.SITES else "latents of a dictionary"
    said, further = st.columns([2, 1])
    said.caption(f"{title[0].upper()}{title[1:]}: {MEANING[how]}?")
    with further:
        extras = ask_extras(options)
    # A page's own classes are made anew each time it runs, so only their values can be compared.
    now = [model, choice.description if choice else None, options, dataclasses.astuple(extras)]
    if st.session_state.setdefault("asked", now) != now:
        st.session_state["asked"] = now
        forget_run()
    return choice, options, extras


def ask_extras(options: activation_patching.Options) -> Extras:
    """Draw what only some sites and ablations ask for."""
    site, extras = options["site"], Extras()
    if site in UNITS:
        options["top"] = st.number_input(
            f"{site.capitalize()}s of largest estimated effect",
            min_value=1,
            max_value=500,
            value=20,
            key="top",
            bind="query-params",
            help="So many are measured exactly: those that attribution patching ranks first.",
        )
    if site == "latent":
        # A folder is typed by the person at the keyboard, and never taken from the address.
        folder = st.text_input("Folder of a sparse autoencoder, as sae-lens writes it")
        extras = dataclasses.replace(extras, dictionary=folder.strip())
    if site in cells.VECTOR_SITES and site not in UNITS:
        along = st.toggle(
            "Only along the answer direction",
            key="along",
            bind="query-params",
            help="Write over what the activation has along (correct − wrong) of the unembedding, "
            "and leave the rest: how much of the effect is written for the answer directly?",
        )
        extras = dataclasses.replace(extras, along_answer=along)
    if options["ablation"] == "mean":
        texts = st.text_area(
            "Reference texts, one a line",
            height=80,
            help="The mean is over their tokens; without any, over the pairs.",
        )
        lines = tuple(line for line in texts.splitlines() if line.strip())
        extras = dataclasses.replace(extras, reference=lines)
    return extras


def forget_run() -> None:
    """Take the run out of the address, since it answers another question now."""
    for name in ("run", "cell"):
        st.query_params.pop(name, None)


def is_narrowed(options: activation_patching.Options) -> bool:
    """Whether there is more to choose once model and pairs are there."""
    return options["positions"] in (NAMED, "pairs") or options["site"] == "neuron"


def narrowed(
    model: TransformerBridge, chosen: ContrastPairs, options: activation_patching.Options
) -> activation_patching.Options:
    """Which named positions and which layers, once model and pairs are there."""
    asked = activation_patching.Options(**options)
    many = asked["positions"] in (NAMED, "pairs")
    where, which = st.columns(2) if many else (st.container(), st.container())
    if asked["positions"] == NAMED:
        shown = where.multiselect(
            "Positions, each set patched by itself (all, if none is chosen)",
            chosen.position_names(),
            key="sets",
            bind="query-params",
            on_change=forget_run,
            select_all=False,
        )
        asked["positions"] = tuple(shown) or chosen.position_names()
    if asked["positions"] == "pairs" or asked["site"] == "neuron":
        layers = range(int(model.cfg.n_layers))
        picked = which.multiselect(
            "Layers (all, if none is chosen)",
            [str(layer) for layer in layers],
            key="layers",
            bind="query-params",
            on_change=forget_run,
            select_all=False,
        )
        asked["layers"] = tuple(sorted(map(int, picked))) or None
    return asked


def with_extras(
    model: TransformerBridge,
    chosen: ContrastPairs,
    options: activation_patching.Options,
    extras: Extras,
) -> activation_patching.Options | None:
    """Options with what the extras name; None while it is missing, which the page then says."""
    asked = activation_patching.Options(**options)
    if extras.along_answer:
        try:
            asked["directions"] = activation_patching.answer_direction(model, chosen)
        except ValueError as error:
            st.error(escaping.markdown(str(error)))
            return None
    if asked["site"] == "latent":
        if not extras.dictionary:
            st.info("Name the folder of a sparse autoencoder to patch its latents.")
            return None
        dictionary = steps.step(
            jobs.job_key("dictionary", extras.dictionary),
            lambda _: dictionaries.load_dictionary(extras.dictionary),
            label="Reading the dictionary",
        )
        if dictionary is None:
            return None
        asked["dictionary"] = dictionary
    return asked


def find_or_run(
    name: str, choice: pairs.Choice, options: activation_patching.Options, extras: Extras
) -> None:
    """Preflight, then a button; ends with the run in the address, stored before or made now."""
    model = subject.loaded(name)
    if model is None:
        return
    mark = card.fingerprint(model)
    chosen = steps.step(
        jobs.job_key("pairs", mark, choice.description),
        lambda _: choice.make(model),
        label="Tokenizing",
    )
    if chosen is None:
        return
    asked = with_extras(model, chosen, narrowed(model, chosen, options), extras)
    if asked is None:
        return
    made_by = activation_patching.parameters(chosen, asked, reference=extras.reference)
    run = runs.run_id(activation_patching.ANALYSIS, mark, made_by)
    store = runs.RunStore()
    if store.find(activation_patching.PatchingResult, run) is not None:
        stored.reopen(run)

    def prepare(report: jobs.Report) -> checking.Preflight:
        return activation_patching.check(model, chosen, asked, progress=report)

    pairs.show_alignment(chosen)
    checks = steps.step(jobs.job_key("preflight", run), prepare, label="Preflight")
    if checks is None:
        return
    preflight.show(checks, chosen)
    key = jobs.job_key("patch", run)

    def work(report: jobs.Report) -> str:
        arguments: dict[str, Any] = dict(asked)
        result = activation_patching.patch(
            model,
            chosen,
            **arguments,
            reference=extras.reference,
            checks=checks,
            progress=report,
        )
        return store.put(result, title=f"{asked['site']}, {chosen.name}")

    cost = f"about {jobs.duration(checks.seconds)}, {checks.runs:,} patched runs"
    if steps.asked(key, work, button=f"Run ({cost})", label="Patching") is not None:
        stored.reopen(run)


def show(result: activation_patching.PatchingResult, run: str) -> None:
    """What was found, the clicked cell, the code, and how to take it along."""
    pairs.show_alignment(result.pairs)
    preflight.show(result.preflight, result.pairs)
    st.markdown(escaping.markdown(result.summary()))
    if len(result.axes) == 1:
        showing.figure(result.figure())
        names = [result.label((i,)) for i in range(len(result.effects))]
        what = "Layer" if result.axes == ("layer",) else result.axes[0].capitalize()
        row = st.selectbox(
            what,
            range(len(names)),
            index=None,
            format_func=lambda i: names[i],
            key=f"{result.axes[0]}:{run}",
        )
        cell = None if row is None else (row,)
    else:
        hide = st.toggle("Hide what is not more than chance", key="hide", bind="query-params")
        rate = SURE if hide else None
        spot = heatmap.clickable_figure(
            lambda at: result.figure(result.from_grid(*at) if at else None, discoveries=rate),
            result.grid().values.shape,
            key=f"cells:{run}",
            query="cell",
        )
        cell = None if spot is None else result.from_grid(*spot)
    if cell is None:
        how = f"Choose a {result.axes[0]}" if len(result.axes) == 1 else "Click a cell"
        st.caption(f"{how} to see what the model says before and after that patch.")
    else:
        show_cell(result, cell)
    if result.site not in UNITS and not len(result.directions):
        show_comparison(result)
    st.subheader("The code that reproduces it")
    st.code(result.script(), language="python")
    downloads.offer(result, run=run, folder=runs.RunStore().root / run, name="patching")


def the_model_of(result: activation_patching.PatchingResult) -> TransformerBridge | None:
    """The model that a result is of, if it is still the same."""
    model = subject.loaded(result.provenance.model)
    if model is not None and card.fingerprint(model) != result.provenance.fingerprint:
        st.warning("The model of this name has other weights now than when this run was made.")
        return None
    return model


def show_cell(result: activation_patching.PatchingResult, cell: tuple[int, ...]) -> None:
    """Top tokens before and after the patch at one cell, for one prompt."""
    st.subheader(escaping.markdown(result.label(cell)))
    model = the_model_of(result)
    if model is None:
        return
    links.units(result.provenance.model, [result.unit_at(cell)])
    texts = result.pairs.corrupted if result.direction == "denoising" else result.pairs.clean
    prompt = st.selectbox(
        "Prompt", range(len(texts)), format_func=lambda i: f"{i + 1}: {texts[i]}", key="prompt"
    )
    dictionary = the_dictionary_of(result)
    if result.site == "latent" and dictionary is None:
        st.caption("Name the folder of its dictionary above to see single runs.")
        return
    seen = activation_patching.inspect_cell(
        model, result, cell, prompt=prompt or 0, dictionary=dictionary
    )
    st.markdown(escaping.markdown(seen.summary()))
    picture, table = st.columns(2)
    with picture:
        showing.figure(seen.figure())
    digits = {name: st.column_config.NumberColumn(format="%.4f") for name in seen.COLUMNS}
    table.dataframe(seen.to_frame(), hide_index=True, column_config=digits)


def the_dictionary_of(result: activation_patching.PatchingResult) -> Any:
    """The dictionary whose latents a result is of, where its folder has been named."""
    job = jobs.manager().find(jobs.job_key("dictionary", extras.dictionary))
    found = job.result if job is not None and job.state == "finished" else None
    mark = result.provenance.parameters.get("dictionary")
    return found if found is not None and activation_patching.mark_of(found) == mark else None


def show_comparison(result: activation_patching.PatchingResult) -> None:
    """Both directions and every ablation of the strongest cells, stored or behind a button."""
    st.subheader("Do both directions and every ablation agree?")
    st.caption(
        "A cell that recovers the answer but does not destroy it is usually backed up elsewhere; "
        "one that a zero destroys and a mean does not may only have been surprised."
    )
    asked = activation_patching.comparison_parameters(result)
    found = stored.alike(
        activation_patching.Comparison,
        activation_patching.COMPARISON,
        result.provenance,
        **asked,
    )
    if found is not None:
        st.markdown(escaping.markdown(found.summary()))
        showing.figure(found.figure())
        frame = found.to_frame
        showing.fold("Table", lambda: st.dataframe(frame(), hide_index=True))
        return
    model = the_model_of(result)
    if model is None:
        return

    def work(report: jobs.Report) -> None:
        made = activation_patching.compare_like(model, result, progress=report)
        runs.RunStore().put(made, title=f"interventions compared, {result.pairs.name}")

    stored.offer(
        jobs.job_key("compare", result.provenance.fingerprint, asked),
        work,
        button="Compare them",
        label="Comparing interventions",
        seconds=len(activation_patching.INTERVENTIONS) * max(1.0, result.provenance.wall_time),
    )


shared = st.query_params.get("run", "")
picked = subject.pick()
if picked is not None or shared:
    choice, options, extras = ask(picked or "")
    shared = st.query_params.get("run", "")
    found = runs.RunStore().find(activation_patching.PatchingResult, shared)
    if found is not None:
        if picked is not None and is_narrowed(options):
            # Drawn here, too, so that other sets or layers can be asked for from a result.
            opened = subject.loaded(picked)
            if opened is not None:
                narrowed(opened, found.pairs, options)
        show(found, shared)
    else:
        if shared:
            st.info("This run is not stored on this machine; it can be made again from here.")
        if picked is not None and choice is not None:
            find_or_run(picked, choice, options, extras)
