"""Contributions: what is the answer made of, back to the tokens?

1. Write a prompt. The stream at the target position is taken apart into what every head moved, what
   every MLP wrote and what was carried over, and what these are made of in turn.
2. Slide the threshold: only edges with a larger share, and a way to the target, are drawn.
3. Click an edge: where its head looks, which tokens it writes for and against, and what the model
   does without it, exactly, beside other edges. Click a node: what it is made of and reads as.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from analyses import contributions
from workbench.core.models import card
from workbench.ui import (
    downloads,
    escaping,
    graphs,
    jobs,
    links,
    prompts,
    showing,
    steps,
    subject,
    tables,
)

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.prompt import Prompt

ATTENTION = Path(__file__).with_name("attention.py")
NEW = "new state"
MEASURES = {NEW: "proximity", "update": "update"}
SAYS = {
    "proximity": "By how much a part brings nothing closer to the new state, stream carried over "
    "included; the shares of a state add up to 1.",
    "update": "A part's projection on what its step added: with a sign, adding up to 1 over what "
    "was added. The stream itself is always followed.",
}
PART = "part"
SHOWN = 12
# Parameters times positions above which exact effects are not computed unasked.
LONG = 1e9

Part = contributions.Edge | contributions.Node
Answer = tuple[int, int | None]


class Looked:
    """The prompt that is looked at, with all that the sections need of it."""

    def __init__(self, name: str, model: TransformerBridge, prompt: Prompt, target: int) -> None:
        """Say which one.

        Args:
            name: Of the model.
            model: The bridge.
            prompt: The prompt.
            target: Position that the graph leads to.
        """
        self.name, self.model, self.prompt, self.target = name, model, prompt, target
        self.mark = card.fingerprint(model)
        self.corrupted: Prompt | None = None
        self.answer: Answer | None = None
        self.measure = contributions.MEASURES[0]
        written = prompt.text or list(prompt.ids)
        self.code = [
            "from workbench import load_model",
            "from analyses import contributions",
            "",
            f"model = load_model({name!r})",
            f"prompt = {written!r}",
            f"graph = contributions.trace(model, prompt, target={target})",
        ]

    def key(self, what: str, *more: Any) -> str:
        """What determines the outcome of a step."""
        return jobs.job_key(what, self.mark, list(self.prompt.ids), self.target, *more)

    @property
    def asked(self) -> dict[str, Any]:
        """What effects are measured with, besides the answer."""
        wrong = None if self.answer is None else self.answer[1]
        return {"wrong": wrong, "corrupted": self.corrupted}

    @property
    def asked_code(self) -> list[str]:
        """The same in the script: arguments of a call."""
        other = self.corrupted and (self.corrupted.text or list(self.corrupted.ids))
        given = {"wrong": self.asked["wrong"], "corrupted": other}
        return [f"    {name}={value!r}," for name, value in given.items() if value is not None]

    @property
    def asked_key(self) -> list[Any]:
        """The same in a key."""
        return [self.answer, list(self.corrupted.ids) if self.corrupted else None]


def traced(at: Looked) -> tuple[contributions.ContributionGraph, tuple[str, ...]] | None:
    """The graph, and what the model says next at its target."""

    def work(report: jobs.Report) -> tuple[contributions.ContributionGraph, tuple[str, ...]]:
        graph = contributions.trace(at.model, at.prompt, target=at.target, progress=report)
        last = graph.layout.node(len(graph.layout), graph.target)
        return graph, contributions.state_tokens(at.model, graph, last, top=2).tokens

    return steps.step(at.key("contributions"), work, label="Taking the stream apart")


def draw(at: Looked, graph: contributions.ContributionGraph) -> Part | None:
    """The threshold and the picture; returns what is chosen."""
    left, middle, right = st.columns([3, 4, 4])
    share = left.segmented_control(
        "Share of the", list(MEASURES), default=NEW, key="share", required=True, bind="query-params"
    )
    threshold = middle.slider(
        "Threshold", 0.01, 0.5, contributions.THRESHOLD, 0.01, key="threshold", bind="query-params"
    )
    written = right.text_input(
        "Edge or node",
        key=PART,
        bind="query-params",
        placeholder="click one, or write its name",
        help="As in 'head 1.3 from 4 to 7', 'mlp 1 at 7', 'past attn 1 at 7' or 'after mlp 1 at 7'",
    )
    measure = at.measure = MEASURES[share or NEW]
    routes = graph.routes(threshold, measure=measure)
    shown: list[Part] = [*(graph.edge(i) for i in routes), *graph.nodes(routes)]
    at.code.append(f"print(graph.summary({threshold}, measure={measure!r}))")
    st.markdown(escaping.markdown(graph.summary(threshold, measure=measure)))
    part = choice(graph, written)

    def choose(index: int) -> None:
        if index < len(shown):
            st.session_state[PART] = str(shown[index])

    graphs.clickable(
        graph.figure(threshold, measure=measure, selected=part),
        # Another picture has other markers: a click on the one before says nothing of this one.
        key=f"graph:{at.key('graph', threshold, measure)}",
        on_click=choose,
    )
    st.caption(SAYS[measure])
    return part


def choice(graph: contributions.ContributionGraph, written: str) -> Part | None:
    """What was clicked or written; to begin with a head's edge that most passes through."""
    if written:
        try:
            return graph.require(written)
        except ValueError as error:
            st.warning(escaping.markdown(str(error)))
    edges = [graph.edge(i) for i in (-graph.flows).argsort(kind="stable")]
    heads = [edge for edge in edges if edge.kind == "head" and edge.target == graph.target]
    return heads[0] if heads else None


def ask_for_effects(at: Looked, likely: tuple[str, ...]) -> bool:
    """The answer, the corrupted prompt, and whether exact effects are wanted; what is bad is said.

    A large model with a long prompt takes a while for them, so there they wait to be asked for.
    """
    before = at.prompt.up_to(at.model, at.target)
    at.answer = prompts.answers(at.model, before, likely)
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    written = left.text_input(
        "Corrupted prompt",
        key="corrupted",
        bind="query-params",
        placeholder="empty: parts are taken out",
        help="Of as many tokens: parts are swapped for what this prompt has in their place.",
    )
    size = sum(parameter.numel() for parameter in at.model.parameters()) * len(at.prompt)
    wanted = right.toggle(
        "Exact effects", value=size < LONG, key=f"exact:{at.name}", help="Runs the model anew."
    )
    if written:
        ids: Any = written if at.model.tokenizer else written.split()
        try:
            at.corrupted = contributions.counterpart(at.model, at.prompt, ids)
        except ValueError as error:
            st.error(escaping.markdown(str(error)))
            return False
    return wanted and at.answer is not None


def show_effect(at: Looked, graph: contributions.ContributionGraph, part: Part) -> None:
    """What the model does without it, beside other parts and random vectors."""
    # Not of the slider's threshold: sliding would draw other parts to compare with each time.
    route = [graph.edge(i) for i in graph.routes()]
    answer = at.answer
    if answer is None:
        return

    def work(report: jobs.Report) -> contributions.EdgeEffect:
        return contributions.edge_effect(
            at.model,
            at.prompt,
            part,
            answer[0],
            **at.asked,
            target=at.target,
            route=route,
            progress=report,
        )

    key = at.key("exact effect", str(part), at.asked_key)
    effect = steps.step(key, work, label=f"Running the model without {part}")
    if effect is None:
        return
    at.code += [
        "route = [graph.edge(i) for i in graph.routes()]",
        "effect = contributions.edge_effect(",
        f"    model, prompt, {str(part)!r}, {answer[0]}, target={at.target}, route=route,",
        *at.asked_code,
        ")",
        "print(effect.summary())",
    ]
    st.markdown(escaping.markdown(effect.summary()))
    showing.figure(effect.figure(), key="effect")


def show_edge(at: Looked, graph: contributions.ContributionGraph, edge: contributions.Edge) -> None:
    """Where its head looks, and which tokens it writes for and against."""
    found = steps.step(
        at.key("promoted", str(edge)),
        lambda report: contributions.promoted(at.model, graph, edge),
        label=f"Reading {edge}",
    )
    if found is None:
        return
    at.code.append(f"print(contributions.promoted(model, graph, {str(edge)!r}).summary())")
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure(), key="promoted")
    looks = found.pattern_figure()
    if looks is not None:
        st.caption(f"Where head {edge.layer}.{edge.head} looks from position {edge.target}")
        showing.figure(looks, key="pattern")
        with st.container(horizontal=True):
            links.unit(at.name, f"head {edge.layer}.{edge.head}")
            asked = {name: st.query_params[name] for name in prompts.ASKED}
            address = {"model": at.name, **asked, "position": str(edge.target)}
            address["head"] = f"{edge.layer}.{edge.head}"
            st.page_link(ATTENTION, label="Its attention", query_params=address)


def show_node(at: Looked, graph: contributions.ContributionGraph, node: contributions.Node) -> None:
    """What it is made of, and which tokens it would predict."""
    found = steps.step(
        at.key("state", str(node)),
        lambda report: contributions.state_tokens(at.model, graph, node),
        label=f"Reading the stream {node}",
    )
    if found is None:
        return
    at.code.append(f"print(contributions.state_tokens(model, graph, {str(node)!r}).summary())")
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure(), key="state")
    entering = graph.entering(node)
    rows = [
        {"made of": graph.told(graph.edge(i)), "share": f"{graph.shares[i]:.3f}"}
        for i in entering[:SHOWN]
    ]
    if rows:
        st.markdown(tables.markdown(rows))
        st.caption(
            f"The {len(rows)} largest of {len(entering)} parts with a share of at least "
            f"{graph.floor:g} by either measure, which together are "
            f"{graph.shares[entering].sum():.0%} of it."
        )
    else:
        st.caption("Nothing before it was taken apart: it is the input, or leads nowhere.")


def show_agreement(at: Looked, graph: contributions.ContributionGraph) -> None:
    """Whether shares tell which edges matter on this prompt."""
    st.subheader("Do the shares tell which edges matter here?")
    answer = at.answer
    if answer is None:
        return

    def work(report: jobs.Report) -> contributions.ShareAgreement:
        return contributions.agreement(
            at.model, graph, answer[0], measure=at.measure, **at.asked, progress=report
        )

    found = steps.step(
        at.key("agreement", at.asked_key, at.measure),
        work,
        label="Running the model without many edges",
    )
    if found is not None:
        at.code += [
            "agreed = contributions.agreement(",
            f"    model, graph, {answer[0]}, measure={at.measure!r},",
            *at.asked_code,
            ")",
            "print(agreed.summary())",
        ]
        st.markdown(escaping.markdown(found.summary()))
        showing.figure(found.figure(), key="agreement")


def look(at: Looked) -> None:
    """Everything below the prompt."""
    made = traced(at)
    if made is None:
        return
    graph, likely = made
    part = draw(at, graph)
    wanted = ask_for_effects(at, likely)
    if part is not None:
        told = f"The stream {part}" if isinstance(part, contributions.Node) else graph.told(part)
        st.subheader(escaping.markdown(told))
        left, right = st.columns(2, gap="medium")
        with left:
            if isinstance(part, contributions.Node):
                st.caption("What is there")
                show_node(at, graph, part)
            else:
                st.caption("What it says about tokens, directly")
                show_edge(at, graph, part)
        with right:
            st.caption("What the model does without it, exactly")
            if wanted:
                show_effect(at, graph, part)
    if wanted:
        show_agreement(at, graph)
    showing.code(at.code)
    downloads.offer_unstored(graph, f"contributions-{at.target}")


st.caption(
    "The stream at the target is a sum; each part of it came from a state that is a sum, too. An "
    "edge says what was moved or written, its exact effect whether that is used."
)
picked = subject.pick()
if picked is not None:
    loaded = subject.loaded(picked)
    if loaded is not None:
        written = prompts.box(picked, loaded)
        links.same_prompt(picked, "contributions")
        if written is not None:
            look(Looked(picked, loaded, written, prompts.position(written, label="Target")))
