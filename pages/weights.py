"""Weights: what do the weights do, before any text is read?

1. Every matrix beside a random one; every head's circuits from token to token, and whether it
   copies; which heads can read which; how tokens lie in the embedding; what a neuron reads and
   writes; waves over residues; and how far weights moved between two models.
2. A click on a head, or on a pair of heads, opens it. All of it stands in the address.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import streamlit as st

from analyses import weights
from analyses.weights import comparing, composing, geometry, heads, token_tables
from workbench.core import plots
from workbench.core.models import card
from workbench.core.modular import bundle
from workbench.ui import (
    addresses,
    downloads,
    escaping,
    heatmap,
    jobs,
    links,
    showing,
    steps,
    stored,
    subject,
    tables,
)

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.results import Result

Outcome = TypeVar("Outcome")
AnyResult = TypeVar("AnyResult", bound="Result")

CIRCUITS = {"ov": "OV: what it writes", "qk": "QK: what it looks at"}
SCORES = {"copying": "copying (OV)", "matching": "matching (QK)"}
# Work that takes longer is offered behind a button, and kept in the run store.
QUICK = 8.0
# Heads beyond which each gets fewer random turns: all of theirs are compared with together.
MANY_HEADS, FEW_TURNS = 200, 40
ROWS, TOP = 20, 10
OTHER = "another model"
BROUGHT = "other models opened by hand"


@dataclasses.dataclass(eq=False)
class Looked:
    """The model that is looked at, and the code of what is shown."""

    name: str
    model: TransformerBridge
    code: list[str] = dataclasses.field(default_factory=list)
    analyses: str = "weights"

    def done(
        self, label: str, work: Callable[[jobs.Report], Outcome], *parts: object
    ) -> Outcome | None:
        """Work that is remembered as long as the server runs."""
        key = jobs.job_key("weights", label, card.fingerprint(self.model), *parts)
        return steps.step(key, work, label=label)

    def kept(
        self,
        kind: type[AnyResult],
        analysis: str,
        what: str,
        work: Callable[[jobs.Report], AnyResult],
        *,
        seconds: float,
    ) -> AnyResult | None:
        """Work that goes into the run store; behind a button where it takes long."""
        title = stored.title(what, self.model)
        if seconds <= QUICK:
            return stored.made(kind, analysis, title, work, label=f"Computing {what}")
        return stored.offered(
            kind,
            analysis,
            title,
            work,
            button=f"Compute {what}",
            label=f"Computing {what}",
            seconds=seconds,
        )

    def say(self, result: Result, call: str) -> None:
        """What a result says, and the code of it."""
        st.markdown(escaping.markdown(result.summary()))
        self.code.append(f"print(weights.{call}.summary())")


def segments(label: str, options: dict[str, str] | tuple[str, ...], *, key: str) -> str:
    """A few alternatives beside each other, in the address by what they are called here."""
    names = list(options)
    shown = dict(options) if isinstance(options, dict) else {name: name for name in names}
    chosen = st.segmented_control(
        label,
        list(shown.values()),
        default=next(iter(shown.values())),
        key=key,
        required=True,
        bind="query-params",
        label_visibility="collapsed",
    )
    return next((name for name in names if shown[name] == chosen), names[0])


def numbers(frame: pd.DataFrame, digits: int = 4) -> None:
    """A table whose numbers are short."""
    columns = frame.select_dtypes("floating").columns
    shown = {name: st.column_config.NumberColumn(format=f"%.{digits}g") for name in columns}
    st.dataframe(frame, hide_index=True, column_config=shown)


def show_matrices(at: Looked) -> None:
    """Every matrix, and the spectrum of one."""
    found = at.done(
        "Measuring matrices", lambda report: weights.matrices(at.model, progress=report)
    )
    if found is None:
        return
    at.say(found, "matrices(model)")
    if found.known.any():
        showing.figure(found.figure())
    else:
        st.caption("This model is large: spectra are computed one by one, below.")
    showing.fold(f"All {len(found.names):,} matrices", lambda: numbers(found.to_frame()))
    st.subheader("One matrix")
    name = addresses.pick("Matrix", found.names, query="matrix", key=f"matrix:{at.name}")
    one = at.done(
        "Computing singular values", lambda report: weights.spectrum(at.model, name), name
    )
    if one is not None:
        at.say(one, f"spectrum(model, {name!r})")
        showing.figure(one.figure())


def show_heads(at: Looked) -> None:
    """Scores of all heads, and the circuits of one."""
    cfg = at.model.cfg
    turns = FEW_TURNS if int(cfg.n_layers) * int(cfg.n_heads) > MANY_HEADS else heads.RANDOM_TURNS
    seconds = heads.copying_seconds(at.model, turns)
    found = at.kept(
        weights.CopyingScores,
        heads.COPYING,
        f"scores of all heads ({turns} turns)",
        lambda report: weights.copying(at.model, n_random=turns, progress=report),
        seconds=seconds,
    )
    shape = (int(cfg.n_layers), int(cfg.n_heads))
    if found is None and seconds <= QUICK:
        return
    if found is None:
        st.caption("Any head can be looked at before that.")
        names = [f"{layer}.{head}" for layer, head in np.ndindex(*shape)]
        chosen = addresses.pick("Head", names, query="head", key=f"head:{at.name}")
        show_head(at, *(int(number) for number in chosen.split(".")))
        return
    at.say(found, f"copying(model, n_random={turns})")
    kind = segments("Score", SCORES, key="score")
    cell = heatmap.clickable_figure(
        lambda selected: found.figure(kind, selected),
        shape,
        key=f"heads:{at.name}:{kind}",
        query="head",
    )
    st.caption("Grey: not beyond random turns of the head. Click a head for its circuits.")
    first = found.to_frame().iloc[0]
    layer, head = cell or (int(first["layer"]), int(first["head"]))
    show_head(at, layer, head)
    downloads.offer_stored(found, "copying")


def show_head(at: Looked, layer: int, head: int) -> None:
    """One head's circuits, and a table of one of them."""
    st.subheader(f"Head {layer}.{head}")
    links.unit(at.name, f"head {layer}.{head}")
    one = at.done(
        "Taking the head apart", lambda report: weights.head(at.model, layer, head), layer, head
    )
    if one is None:
        return
    at.say(one, f"head(model, {layer}, {head})")
    left, right = st.columns(2)
    with left:
        showing.figure(one.figure())
    kind = segments("Circuit", CIRCUITS, key="circuit")
    with right:
        showing.figure(one.eigenvalues_figure(kind))
        st.caption(f"Eigenvalues of the {kind.upper()} circuit from token to token.")
    written = st.text_input(
        "Token",
        st.query_params.get("token", ""),
        key=f"token:{at.name}",
        placeholder="all of a small vocabulary, a sample of a large one",
        help="One token, with its leading space where it has one; its id as in 'id 17'.",
    )
    st.query_params["token"] = written
    rows = [token_of(written)] if written else None
    table = at.done(
        "Multiplying the circuit out",
        lambda report: weights.tokens(at.model, layer, head, kind=kind, rows=rows, k=TOP),
        *(layer, head, kind, rows),
    )
    if table is None:
        return
    given = f", rows={rows!r}" if rows else ""
    at.say(table, f"tokens(model, {layer}, {head}, kind={kind!r}{given})")
    if rows is None:
        showing.figure(table.figure())
        drawn = min(token_tables.DRAWN, len(table.ids))
        st.caption(f"The first {drawn} rows, with the columns that are largest in them.")
    show_rows(table)


def show_rows(table: weights.TokenTable) -> None:
    """Largest and smallest entries of each row, in words."""
    few = 4 if len(table.ids) > 1 else TOP

    def listed(texts: tuple[str, ...], values: np.ndarray) -> str:
        pairs = zip(texts[:few], values, strict=False)
        return "  ".join(f"{plots.visible(text)} {value:+.2f}" for text, value in pairs)

    rows = [
        {
            "token": plots.visible(token),
            "most": listed(table.top_tokens[i], table.top_values[i]),
            "least": listed(table.low_tokens[i], table.low_values[i]),
            "p": float(table.p_value[i]),
        }
        for i, token in enumerate(table.tokens)
    ]
    st.dataframe(
        rows, hide_index=True, column_config={"p": st.column_config.NumberColumn(format="%.2g")}
    )


def token_of(written: str) -> str | int:
    """A token as text, or its id."""
    word, _, number = written.partition(" ")
    return int(number) if word == "id" and number.isascii() and number.isdigit() else written


def show_composition(at: Looked) -> None:
    """Which head can read which."""
    if int(at.model.cfg.n_layers) == 1:
        st.info("This model has one layer: no head reads what another wrote.")
        return
    found = at.kept(
        weights.Composition,
        composing.ANALYSIS,
        "composition of heads",
        lambda report: weights.composition(at.model, progress=report),
        seconds=composing.composition_seconds(at.model),
    )
    if found is None:
        return
    at.say(found, "composition(model)")
    kind = segments("Reads with", {"K": "keys", "Q": "queries", "V": "values"}, key="reads")
    key = f"composition:{at.name}:{kind}"
    cell, layers = pick_pair(found, kind, key, "pair", None), None
    if found.by_layer and cell is not None:
        _, rows, columns = found.grid(kind)
        layers = (int(columns[cell[1]][1:]), int(rows[cell[0]][1:]))
        cell = (
            pick_pair(found, kind, f"{key}:{layers}", "heads", layers)
            if layers[0] < layers[1]
            else None
        )
    if cell is not None and not (found.by_layer and layers is None):
        _, rows, columns = found.grid(kind, layers)
        show_pair(at, found, columns[cell[1]], rows[cell[0]])
    st.subheader("Furthest beyond chance")
    numbers(found.strongest(kind, ROWS))
    downloads.offer_stored(found, "composition")


def pick_pair(
    found: weights.Composition, kind: str, key: str, query: str, layers: tuple[int, int] | None
) -> plots.Cell | None:
    """The map of pairs, of all heads or of two layers."""
    values, _, _ = found.grid(kind, layers)
    rows, columns = values.shape
    return heatmap.clickable_figure(
        lambda selected: found.figure(kind, selected, layers=layers),
        (rows, columns),
        key=key,
        query=query,
    )


def show_pair(at: Looked, found: weights.Composition, sender: str, receiver: str) -> None:
    """All three scores of one pair."""
    frame = found.to_frame()
    ends = [tuple(int(number) for number in name.split(".")) for name in (sender, receiver)]
    names = ("sender_layer", "sender_head", "receiver_layer", "receiver_head")
    here = (frame[list(names)] == [*ends[0], *ends[1]]).all(axis=1)
    chosen = frame.loc[here].drop(columns=list(names))
    if chosen.empty:
        st.caption(f"Head {receiver} is not later than head {sender}: it reads nothing of it.")
        return
    st.subheader(f"From head {sender} to head {receiver}")
    numbers(chosen)
    left, right = st.columns(2)
    with left:
        links.unit(at.name, f"head {sender}")
    with right:
        links.unit(at.name, f"head {receiver}")


def show_embedding(at: Looked) -> None:
    """Axes of the embedding or the unembedding, and neighbours of a token."""
    which = segments("Of", geometry.WHICH, key="which")
    found = at.done("Finding the axes", lambda report: weights.embedding(at.model, which), which)
    if found is None:
        return
    at.say(found, f"embedding(model, {which!r})")
    left, right = st.columns([3, 2])
    with left:
        showing.figure(found.figure())
    with right:
        showing.figure(found.variance_figure())
    st.subheader("Neighbours of a token")
    usual = found.tokens[len(found.tokens) // 2]
    written = st.text_input(
        "Token",
        st.query_params.get("near", "") or usual,
        key=f"neighbour:{at.name}",
        help="One token, with its leading space where it has one; its id as in 'id 17'.",
    )
    st.query_params["near"] = written
    token = token_of(written)
    near = at.done(
        "Looking for neighbours",
        lambda report: weights.neighbours(at.model, token, which=which),
        *(which, token),
    )
    if near is not None:
        at.say(near, f"neighbours(model, {token!r}, which={which!r})")
        showing.figure(near.figure())


def show_neurons(at: Looked) -> None:
    """One neuron in tokens."""
    left, right = st.columns(2)
    layers = range(int(at.model.cfg.n_layers))
    last = int(at.model.cfg.d_mlp or 1) - 1
    with left:
        layer = addresses.pick("Layer", layers, query="layer", key=f"layer:{at.name}")
    with right:
        neuron = addresses.number("Neuron", last, query="neuron", key=f"neuron:{at.name}")
    found = at.done(
        "Projecting on the tokens",
        lambda report: weights.neuron(at.model, layer, neuron),
        *(layer, neuron),
    )
    if found is None:
        return
    at.say(found, f"neuron(model, {layer}, {neuron})")
    links.unit(at.name, f"neuron {layer}.{neuron}")
    for place, ends in zip(st.columns(len(found.ends)), found.ends, strict=True):
        with place:
            st.subheader(f"{ends.name.capitalize()}")
            rows = [
                {
                    "most": f"{plots.visible(high)} {up:+.2f}",
                    "least": f"{plots.visible(low)} {down:+.2f}",
                }
                for high, up, low, down in zip(
                    ends.most, ends.most_values, ends.least, ends.least_values, strict=True
                )
            ]
            st.markdown(tables.markdown(rows))
            st.caption(f"As large in random vectors: p = {ends.p_value:.2g}.")


def show_fourier(at: Looked) -> None:
    """Waves over residues."""

    def work(_: jobs.Report) -> weights.FourierWeights | str:
        try:
            return weights.fourier(at.model)
        except ValueError as error:
            # Most models are of something else, which is no failure.
            return str(error)

    found = at.done("Looking for waves", work)
    if found is None:
        return
    if isinstance(found, str):
        st.info(escaping.markdown(found))
        return
    at.say(found, "fourier(model)")
    showing.figure(found.figure())
    st.caption(
        "Dotted: what the largest share of any frequency exceeds in one of twenty random matrices "
        "with the same singular values."
    )
    frame = found.to_frame
    showing.fold("All frequencies", lambda: numbers(frame()))


def show_compare(at: Looked) -> None:
    """How far the weights are from those of another model."""
    run, given = None, [OTHER]
    if bundle.trajectory_folder(at.name) is not None:
        from analyses import grokking

        run = grokking.bundled_run(at.name)
        given = [f"step {step:,} of its training" for step in run.steps[:-1]] + given
    begin = given[max(0, len(given) // 2 - 1)]
    chosen = addresses.pick("Compare with", given, query="with", key=f"with:{at.name}", begin=begin)
    if run is not None and chosen != OTHER:
        step = run.steps[given.index(chosen)]
        at.analyses = "grokking, weights"
        at.code.append(f"other = grokking.bundled_run({at.name!r}).model({step})")
        show_comparison(at, lambda report: run.model(step), f"step {step}", earlier=True)
        return
    name = other_name(at)
    if name:
        at.code.append(f"other = load_model({name!r})")
        show_comparison(at, lambda report: subject.shelf().open(name, report), name)


def other_name(at: Looked) -> str:
    """Name or folder of the other model, opened by hand where it did not come along."""
    linked = st.query_params.get("other", "")
    bundled = [name for name in card.list_models() if name != at.name]
    name = st.text_input(
        "Other model",
        linked,
        key=f"other:{at.name}",
        placeholder="a bundled name, a folder, or a hub name",
        on_change=lambda: allow(st.session_state[f"other:{at.name}"]),
    ).strip()
    st.query_params["other"] = name
    if not name:
        st.caption("Two checkpoints of one architecture: every matrix is compared with its like.")
        return ""
    allowed = name in bundled or name == at.name or subject.is_own(name)
    if allowed or name in st.session_state.get(BROUGHT, ()):
        return name
    st.warning(
        f"This link asks for {escaping.markdown(name)}, which did not come with the workbench. "
        "Opening it reads that folder of this machine, or downloads it from the hub."
    )
    st.button("Open it", on_click=allow, args=(name,))
    return ""


def allow(name: str) -> None:
    """Remember that a reader opened a model by hand."""
    st.session_state[BROUGHT] = {*st.session_state.get(BROUGHT, ()), name.strip()}


def show_comparison(
    at: Looked,
    opened: Callable[[jobs.Report], TransformerBridge],
    name: str,
    *,
    earlier: bool = False,
) -> None:
    """Every matrix beside its like; what is earlier is what the change is counted from."""

    def work(report: jobs.Report) -> weights.WeightComparison:
        other = opened(report)
        pair = (other, at.model) if earlier else (at.model, other)
        return weights.compare(*pair, progress=report)

    found = at.done("Comparing matrices", work, name, comparing.ANALYSIS)
    if found is None:
        return
    at.say(found, "compare(other, model)" if earlier else "compare(model, other)")
    showing.figure(found.figure())
    numbers(found.to_frame())


SECTIONS: dict[str, Callable[[Looked], None]] = {
    "Matrices": show_matrices,
    "Heads": show_heads,
    "Composition": show_composition,
    "Embedding": show_embedding,
    "Neurons": show_neurons,
    "Fourier": show_fourier,
    "Compare": show_compare,
}


def look(at: Looked) -> None:
    """Everything below the picker."""
    section = showing.section(tuple(SECTIONS))
    SECTIONS[section](at)
    if at.code:
        imports = ["from workbench import load_model", f"from analyses import {at.analyses}"]
        showing.code([*imports, "", f"model = load_model({at.name!r})", *at.code])


picked = subject.pick()
if picked is not None:
    loaded = subject.loaded(picked)
    if loaded is not None:
        look(Looked(picked, loaded))
