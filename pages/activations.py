"""Activations: what does this place in the model show?

1. Write a prompt and pick any hook point of the model: its values, position by position.
2. Over a corpus: histograms, sparsity, and the coordinates and tokens that are out of scale,
   against random directions.
3. The residual stream: how it grows, turns and leans from layer to layer, against random updates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from analyses import activations
from analyses.activations import geometry, layers, over_corpus
from analyses.activations.on_prompt import WINDOW
from workbench.core.models import anatomy, card
from workbench.ui import (
    addresses,
    corpora,
    downloads,
    escaping,
    heatmap,
    jobs,
    links,
    prompts,
    showing,
    steps,
    stored,
    subject,
    tables,
)
from workbench.ui import token_strips as strips

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus
    from workbench.core.prompts.prompt import Prompt

SECTIONS = ("On the prompt", "Over a corpus", "The stream")
ORDERS = {"that vary most": "spread", "by number": "number"}
ON = ("the prompt", "a corpus")
ROWS = ("500 rows", "2000 rows", "all rows")
HOOK, COORDINATE = "hook", "coordinate"
LINKED, LISTED = 5, 10


class Looked:
    """What is looked at, with all that the sections need."""

    def __init__(self, name: str, model: TransformerBridge, prompt: Prompt, hook: str) -> None:
        """Say which.

        Args:
            name: Of the model.
            model: The bridge.
            prompt: What is read.
            hook: The hook point.
        """
        self.name, self.model, self.prompt, self.hook = name, model, prompt, hook
        self.mark = card.fingerprint(model)

    @property
    def written(self) -> str:
        """The prompt as code."""
        return repr(self.prompt.text or list(self.prompt.ids))


def pick_hook(model: TransformerBridge) -> str | None:
    """Choose one of the hook points that fire; one that the address names may be refused."""
    table = steps.step(
        jobs.job_key("hook points", card.fingerprint(model)),
        lambda report: anatomy.hook_points(model),
        label="Looking for hook points",
    )
    if table is None:
        return None
    shapes = dict(zip(table["hook point"], table["shape"], strict=True))
    names = [name for name, fires in zip(shapes, table["fires"], strict=True) if fires]
    usual = f"blocks.{int(model.cfg.n_layers) - 1}.hook_resid_post"

    def why(asked: str) -> str:
        try:
            activations.Layout.of(model, asked)
        except ValueError as error:
            return f"but {error}"
        return "which does not fire"

    return addresses.pick(
        "Hook point",
        names,
        query=HOOK,
        key=f"hook:{card.fingerprint(model)}",
        begin=usual if usual in names else names[0],
        why=why,
        format_func=lambda hook: f"{hook} ({shapes[hook]})",
        help="Type to search. Hook points that need a setting of the model first are left out.",
    )


def pick_coordinate(at: Looked, found: activations.ActivationValues | None, width: int) -> int:
    """Choose a coordinate: by a click on the heat map, or by its number."""
    key = f"coordinate:{at.mark}:{at.hook}"
    if found is not None:
        clicked = show_map(at, found)
        if clicked is not None:
            st.session_state[key] = clicked
    label = f"Coordinate (0 to {width - 1:,})"
    return addresses.number(label, width - 1, query=COORDINATE, key=key)


def show_map(at: Looked, found: activations.ActivationValues) -> int | None:
    """The heat map; the coordinate of a cell that was clicked just now."""
    left, right = st.columns(2)
    order = left.selectbox("Coordinates", list(ORDERS), key="order", bind="query-params")
    by = ORDERS[order or "that vary most"]
    last = len(at.prompt) - 1
    start = 0
    if last >= WINDOW:
        start = int(right.number_input("From position", 0, last, 0, key=f"start:{last}"))
    part = found.window(start, order=by)
    key = f"map:{at.mark}:{at.hook}:{hash(at.prompt.ids)}:{by}:{start}"
    cell = heatmap.clickable_figure(
        lambda chosen: found.figure(start, order=by, selected=chosen),
        (len(part.coordinates), len(part.positions)),
        key=key,
    )
    st.caption(escaping.markdown(f"Drawn: {part.says}. Click on a cell for its coordinate."))
    if cell is None or st.session_state.get(f"{key}:seen") == cell:
        return None
    st.session_state[f"{key}:seen"] = cell
    return int(part.coordinates[cell[0]])


def show_values(at: Looked) -> list[str]:
    """The hook point on the prompt, and one of its coordinates."""
    found = steps.step(
        jobs.job_key("activations", at.mark, at.prompt.ids, at.hook),
        lambda report: activations.values(at.model, at.prompt, at.hook),
        label=f"Reading {at.hook}",
    )
    if found is None:
        return []
    st.markdown(escaping.markdown(found.summary()))
    chosen = pick_coordinate(at, found, found.width)
    st.subheader(found.label(chosen))
    try:
        along = found.along(chosen)
    except ValueError as error:
        st.caption(escaping.markdown(str(error)))
    else:
        values = np.nan_to_num(along).tolist()
        tokens = found.tokens
        strips.show([strips.Strip(f"{max(values, key=abs):.3g}", tokens, values)], key="strip")
        st.caption("The number in front is the largest of them by size. Hover for each value.")
    if unit := found.unit(chosen):
        links.unit(at.name, unit)
    st.dataframe(found.to_frame(), hide_index=True)
    return [f"print(activations.values(model, {at.written}, {at.hook!r}).summary())"]


def pick_corpus(at: Looked) -> tuple[Corpus, list[str]] | None:
    """Choose the corpus and how much of it; with the code that opens it."""
    parted = corpora.pick(at.model)
    if parted is None:
        return None
    asked = st.segmented_control(
        "Read", ROWS, default=ROWS[0], key="rows", required=True, bind="query-params"
    )
    many = (asked or ROWS[0]).partition(" ")[0]
    code = [f"corpus, _ = {parted.code}"]
    if many == "all" or int(many) >= len(parted.seen):
        return parted.seen, code
    return parted.seen.take(range(int(many))), [*code, f"corpus = corpus.take(range({many}))"]


def show_distribution(at: Looked) -> list[str]:
    """The hook point over a corpus."""
    picked_corpus = pick_corpus(at)
    if picked_corpus is None:
        return []
    corpus, code = picked_corpus
    try:
        layout = activations.Layout.of(at.model, at.hook)
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return []
    if layout.whole_numbers:
        st.info("Here the model has token ids, not activations: pick another hook point.")
        return []
    found = stored.made(
        activations.ActivationDistribution,
        over_corpus.ANALYSIS,
        stored.title(f"distribution at {at.hook}", at.model, corpus),
        lambda report: activations.distribution(at.model, corpus, at.hook, progress=report),
        label=f"Reading {corpus.n_tokens:,} tokens at {at.hook}",
    )
    if found is None:
        return []
    st.markdown(escaping.markdown(found.summary()))
    left, right = st.columns(2)
    with left:
        st.subheader("All numbers")
        showing.figure(found.figure())
    with right:
        st.subheader("One coordinate")
        chosen = pick_coordinate(at, None, len(found.mean))
        if found.own_counts:
            showing.figure(found.own_figure(chosen))
        if unit := layout.unit(chosen):
            links.unit(at.name, unit)
    st.subheader("Which coordinates are out of scale?")
    showing.figure(found.outlier_figure())
    frame = found.to_frame()
    st.dataframe(frame.head(LISTED), hide_index=True)
    link_units(at, [unit for unit in frame["unit"].head(LINKED) if unit])
    if found.massive:
        st.subheader("Which tokens are out of scale?")
        rows = [
            {
                "token": one.token,
                "place": f"row {one.row}, position {one.position}",
                "norm": f"{one.norm:.3g} ({one.ratio:.3g} medians)",
                "largest": f"{layout.label(one.coordinate)}: {one.value:.3g}",
            }
            for one in found.massive
        ]
        st.markdown(tables.markdown(rows))
    downloads.offer_stored(found, "distribution")
    call = f"activations.distribution(model, corpus, {at.hook!r})"
    return [*code, f"print({call}.summary())"]


def link_units(at: Looked, units: list[str]) -> None:
    """Links to the pages of some units, none twice."""
    if units:
        st.caption("Those that stand out most")
        links.units(at.name, units)


def show_stream(at: Looked) -> list[str]:
    """The residual stream by depth, of the prompt or of a corpus."""
    on = st.segmented_control("Of", ON, default=ON[0], key="of", required=True, bind="query-params")
    code: list[str] = []
    if on == ON[1]:
        picked_corpus = pick_corpus(at)
        if picked_corpus is None:
            return []
        corpus, code = picked_corpus
        found = stored.made(
            activations.StreamGeometry,
            geometry.ANALYSIS,
            stored.title("geometry of the stream", at.model, corpus),
            lambda report: activations.stream(at.model, corpus, progress=report),
            label="Measuring the stream",
        )
        outlying = stored.made(
            activations.OutlierDimensions,
            layers.ANALYSIS,
            stored.title("outlier dimensions of the stream", at.model, corpus),
            lambda report: activations.outlier_dimensions(at.model, corpus, progress=report),
            label="Looking for outlier dimensions",
        )
        code.append("print(activations.stream(model, corpus).summary())")
        code.append("print(activations.outlier_dimensions(model, corpus).summary())")
    else:
        if len(at.prompt) == 1:
            st.info("The first position is left out: write a prompt of at least two tokens.")
            return []
        found, outlying = (
            steps.step(
                jobs.job_key("stream", at.mark, at.prompt.ids),
                lambda report: activations.stream(at.model, at.prompt, progress=report),
                label="Measuring the stream",
            ),
            None,
        )
        code.append(f"print(activations.stream(model, {at.written}).summary())")
    if found is None:
        return []
    draw_stream(at, found)
    if outlying is not None:
        st.subheader("Which coordinates are out of scale in many layers?")
        st.markdown(escaping.markdown(outlying.summary()))
        showing.figure(outlying.figure())
        frame = outlying.to_frame()
        st.dataframe(frame.head(LISTED), hide_index=True)
        pairs = zip(frame["most in layer"], frame["coordinate"], strict=True)
        link_units(at, [outlying.unit(*pair) for pair in list(pairs)[:LINKED]])
    return code


def draw_stream(at: Looked, found: activations.StreamGeometry) -> None:
    """Growth, updates, and angles between depths; each depth leads to its hook point."""
    st.markdown(escaping.markdown(found.summary()))
    left, right = st.columns(2)
    with left:
        st.subheader("How it grows")
        showing.figure(found.figure())
    with right:
        st.subheader("What is added to it")
        showing.figure(found.updates_figure())
    st.subheader("How it turns")
    depths = len(found.norm)
    cell = heatmap.clickable_figure(
        lambda chosen: found.cosine_figure(selected=chosen),
        (depths, depths),
        key=f"cosine:{at.mark}",
        query="depths",
    )
    if cell is not None:
        row, column = cell
        st.caption(
            f"Cosine of {found.depths[row]} with {found.depths[column]}: "
            f"{found.cosine[cell]:.3f}; random updates would leave {found.cosine_null[cell]:.3f}."
        )
        with st.container(horizontal=True):
            for depth in sorted({row, column}):
                hook = f"blocks.{depth - 1}.hook_resid_post" if depth else "blocks.0.hook_resid_pre"
                asked = {
                    one: st.query_params[one] for one in prompts.ASKED if one in st.query_params
                }
                st.page_link(
                    "../pages/activations.py",
                    label=f"The stream {found.depths[depth]}",
                    query_params={"model": at.name, **asked, HOOK: hook},
                )
    st.dataframe(found.to_frame(), hide_index=True)


DRAW: dict[str, Any] = dict(
    zip(SECTIONS, (show_values, show_distribution, show_stream), strict=True)
)


def look(name: str, model: TransformerBridge) -> None:
    """Everything below the model."""
    prompt = prompts.box(name, model)
    if prompt is None:
        return
    links.same_prompt(name, "activations")
    section = showing.section(SECTIONS)
    # The stream is all hook points of it together.
    hook = "" if section == SECTIONS[2] else pick_hook(model)
    if hook is None:
        return
    code = DRAW[section](Looked(name, model, prompt, hook))
    if code:
        opens = "Corpus, load_model" if any("Corpus" in line for line in code) else "load_model"
        start = [f"from workbench import {opens}", "from analyses import activations", ""]
        showing.code([*start, f"model = load_model({name!r})", *code])


picked = subject.pick()
if picked is not None:
    loaded = subject.loaded(picked)
    if loaded is not None:
        look(picked, loaded)
