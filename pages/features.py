"""Features: what makes it fire?

1. Pick a model and a corpus, which is read once for all units of a kind.
2. Pick a unit, by number or by a token that it is largest at, and see its whole range.
3. Describe it, and see how well that predicts it on text that was held out.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from analyses import feature_visualization as features
from analyses.feature_visualization import examples
from workbench.core import files, plots, runs
from workbench.core.models import card
from workbench.ui import downloads, escaping, jobs, steps, subject, tables

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus

KINDS = ("neuron", "head")
# Share of the corpus that is scanned; descriptions are tested on the rest.
SEEN = 0.7
ORDERS = {
    "largest activation": lambda scan: -scan.top_values[:, 0],
    "least often above zero": lambda scan: scan.density,
    "number": lambda scan: np.arange(len(scan.units)),
}
TITLE = "scan of every {kind}, model {model}, corpus {corpus}"
FEW = 10


@st.cache_resource(max_entries=8, show_spinner=False)
def opened_corpus(mark: str, path: str | None, _model: TransformerBridge) -> Corpus:
    """A corpus, made once and not at every click; a mark is the model's fingerprint."""
    del mark  # what the cache goes by
    from workbench.core.prompts.corpus import Corpus

    return Corpus.bundled(_model) if path is None else Corpus.open(_model, path)


@st.cache_resource(max_entries=8, show_spinner=False)
def parted(_corpus: Corpus, mark: str) -> tuple[Corpus, Corpus]:
    """What is scanned and what is held out, made once; a mark is the corpus's fingerprint."""
    del mark  # what the cache goes by
    return _corpus.split(SEEN)


def read_corpus(model: TransformerBridge) -> tuple[Corpus, str] | None:
    """The text to read, and the code that opens it."""
    # Brings torch, which a page that opens a model has by now.
    from workbench.core.prompts.corpus import CorpusError

    file = st.file_uploader(
        "Text of your own: .txt (documents between empty lines) or .jsonl (column text)",
        type=["txt", "jsonl"],
        help="It stays on this machine. Bundled models bring a corpus along.",
    )
    mark = card.fingerprint(model)
    try:
        if file is None:
            return opened_corpus(mark, None, model), "Corpus.bundled(model)"
        content = file.getvalue()
        name = hashlib.sha256(content).hexdigest()[:16] + Path(file.name).suffix
        place = runs.default_root() / "corpora" / name
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            files.write_whole(place, content)
        return opened_corpus(mark, str(place), model), f"Corpus.open(model, {str(place)!r})"
    except CorpusError as error:
        show = st.info if file is None else st.error
        show(escaping.markdown(str(error)))
        return None


@st.cache_resource(max_entries=8, show_spinner=False)
def opened_scan(root: str, run: str) -> features.TopExamples | None:
    """A stored scan, read once and not at every click."""
    return runs.RunStore(root).find(features.TopExamples, run)


def scanned(model: TransformerBridge, corpus: Corpus, kind: str) -> features.TopExamples | None:
    """The scan of a kind: stored, or made in the background."""
    mark = card.fingerprint(model)
    title = TITLE.format(kind=kind, corpus=corpus.fingerprint[:16], model=mark[:16])
    for row in runs.RunStore().runs(examples.ANALYSIS):
        found = opened_scan(str(runs.default_root()), row.id) if row.title == title else None
        if found is not None:
            return found

    def work(report: jobs.Report) -> features.TopExamples:
        made = features.top_examples(model, corpus, kind, progress=report)
        runs.RunStore().put(made, title=title)
        return made

    key = jobs.job_key("scan", mark, corpus.fingerprint, kind)
    return steps.step(key, work, label=f"Reading {corpus.n_tokens:,} tokens for every {kind}")


def pick_unit(model: TransformerBridge, corpus: Corpus, scan: features.TopExamples) -> str | None:
    """Choose one of the units, all of them or those that are largest at a token."""
    left, middle, right = st.columns(3)
    word = left.text_input("Largest at the token", help="Empty for all units.").strip()
    order = ORDERS[middle.selectbox("Order by", list(ORDERS))](scan)
    names = [scan.units[i] for i in np.argsort(order, kind="stable")]
    if word:
        try:
            (token,) = features.TokenSet.of(model, [word]).tokens
        except ValueError as error:
            st.error(escaping.markdown(str(error)))
            return None
        share = (scan.tokens_at_top(corpus) == token).mean(1)
        order = np.argsort(-share, kind="stable")
        names = [scan.units[i] for i in order if share[i] > 0]
        if not names:
            st.info(f"No unit has {escaping.markdown(repr(word))} among its largest activations.")
            return None
    asked = st.query_params.get("unit", "")
    # A link may name a unit of another kind.
    start = names.index(asked) if asked in names else 0
    chosen = right.selectbox(f"Unit ({len(names)})", names, start, required=True)
    if chosen is not None:
        st.query_params["unit"] = chosen
    return chosen


def show_unit(view: features.UnitView) -> None:
    """A unit from all sides."""
    st.markdown(escaping.markdown(view.summary()))
    st.plotly_chart(plots.on_page(view.figure(), st.context.theme.type), theme=None)
    st.subheader("Examples from its whole range")
    ranges = {"largest": "Largest", "quantile": "Evenly over the range", "smallest": "Smallest"}
    for (kind, _), tab in zip(ranges.items(), st.tabs(list(ranges.values())), strict=True):
        rows = [
            {
                "activation": one.activation,
                "quantile": one.quantile,
                "text around the ⟦token⟧": one.marked,
            }
            for one in view.examples
            if one.kind == kind
        ]
        tab.dataframe(pd.DataFrame(rows), hide_index=True)
    left, middle, right = st.columns([7, 7, 6], gap="medium")
    with left:
        st.subheader("Triggers")
        found = [one for one in view.triggers if one.p_value < 1][:FEW]
        rows = [
            {
                "tokens": " then ".join(one.text),
                "largest": f"{one.count} of {one.places}",
                "lift": f"{one.lift:.3g}",
                "p": f"{one.p_value:.2g}",
            }
            for one in found
        ]
        show_rows(rows, "No token stands there more often than chance gives.")
        if rows:
            st.caption("Lift: how many times more often than in the whole corpus.")
    with middle:
        st.subheader("Writes for")
        rows = [
            {"promoted": f"{high} {up:+.2f}", "suppressed": f"{low} {down:+.2f}"}
            for (high, up), (low, down) in zip(view.promoted, view.suppressed, strict=True)
        ]
        show_rows(rows, "A head writes something else for each token that it attends to.")
        if rows:
            st.caption(
                "Logits by the direct path, up to the final norm's scale; as large in random "
                f"vectors: p = {view.output_p_value:.2g}."
            )
    with right:
        st.subheader("Responds with")
        rows = [{"unit": name, "correlation": f"{value:.2f}"} for name, value in view.together]
        show_rows(rows, "No other unit varies here.")
        st.caption(f"With shuffled tokens the largest is {view.together_by_chance:.2f}.")


def show_rows(rows: list[dict[str, str]], otherwise: str) -> None:
    """A table, or what it means that it is empty."""
    if rows:
        st.markdown(tables.markdown(rows))
    else:
        st.caption(otherwise)


def ask_description(model: TransformerBridge) -> tuple[features.Description, str] | None:
    """A description of the unit, and the code that makes it."""
    left, right = st.columns([1, 3])
    kind = left.selectbox("It fires at", ["these tokens", "matches of a pattern"])
    text = right.text_input("Tokens with spaces between, or a regular expression").strip()
    if not text:
        return None
    try:
        if kind == "these tokens":
            words = text.split()
            return features.TokenSet.of(model, words), f"TokenSet.of(model, {words!r})"
        return features.Pattern(text), f"Pattern({text!r})"
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return None


def show_belief(model: TransformerBridge, held_out: Corpus, unit: str) -> list[str]:
    """How well a description predicts the unit; the code that says so."""
    st.header("Describe it: does that predict it elsewhere?")
    st.caption(
        f"Tested on {len(held_out):,} texts that were not scanned, and on every other unit of the "
        "layer: a description that fits these as well says nothing about this one."
    )
    asked = ask_description(model)
    if asked is None:
        return []
    description, code = asked

    def work(report: jobs.Report) -> features.Belief | str:
        try:
            return features.believe(model, held_out, unit, description, progress=report)
        except ValueError as error:
            return str(error)

    key = jobs.job_key(
        "belief", card.fingerprint(model), held_out.fingerprint, unit, description.name
    )
    found = steps.step(key, work, label="Testing the description")
    if isinstance(found, str):
        st.error(escaping.markdown(found))
    elif found is not None:
        st.markdown(escaping.markdown(found.summary()))
        st.plotly_chart(plots.on_page(found.figure(), st.context.theme.type), theme=None)
        return [
            f"description = features.{code}",
            f"print(features.believe(model, held_out, {unit!r}, description).summary())",
        ]
    return []


def look(name: str, model: TransformerBridge) -> None:
    """Everything below the pickers."""
    kind = st.selectbox("Units", KINDS, key="kind", bind="query-params")
    opened = read_corpus(model)
    if opened is None:
        return
    corpus, code = opened
    try:
        seen, held_out = parted(corpus, corpus.fingerprint)
    except ValueError as error:
        st.error(escaping.markdown(f"{error}: give at least two documents."))
        return
    scan = scanned(model, seen, kind)
    if scan is None:
        return
    st.caption(escaping.markdown(scan.summary()))
    unit = pick_unit(model, seen, scan)
    if unit is None:
        return
    key = jobs.job_key("unit", card.fingerprint(model), seen.fingerprint, unit)
    view = steps.step(
        key,
        lambda report: features.view_unit(model, seen, scan, unit, progress=report),
        label=f"Looking at {unit}",
    )
    if view is None:
        return
    show_unit(view)
    lines = show_belief(model, held_out, unit)
    st.subheader("The code that reproduces it")
    script = [
        "from workbench import Corpus, load_model",
        "from analyses import feature_visualization as features",
        "",
        f"model = load_model({name!r})",
        f"seen, held_out = {code}.split({SEEN})",
        f"scan = features.top_examples(model, seen, {kind!r})",
        f"print(features.view_unit(model, seen, scan, {unit!r}).summary())",
        *lines,
    ]
    st.code("\n".join(script) + "\n", language="python")
    made, store = view.provenance, runs.RunStore()
    run = runs.run_id(made.analysis, made.fingerprint, made.parameters)
    if store.find(features.UnitView, run) is None:
        store.put(view, title=f"{unit} of {name}")
    downloads.offer(view, run=run, folder=store.root / run, name="unit")


st.title("What makes it fire?")
st.caption(
    "A unit is read over a whole corpus: where it is largest, but also where it is small or "
    "negative, since its largest examples alone mislead."
)
picked = subject.pick()
if picked is not None:
    loaded = subject.loaded(picked)
    if loaded is not None:
        look(picked, loaded)
