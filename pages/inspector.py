"""Inspector: what happens in this model on this prompt?

1. Pick a model, write a prompt, and choose a position and an answer.
2. See what each layer would already say there, which parts write the answer and from where, and
   what reaches the position: each from its own page, which has all of it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from analyses import contributions, direct_attribution, logit_lens
from workbench.core import plots
from workbench.core.models import card
from workbench.ui import escaping, jobs, links, prompts, showing, steps, subject, tables
from workbench.ui import token_strips as strips

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.prompt import Prompt

FEW = 8


@dataclasses.dataclass(frozen=True)
class Seen:
    """The views of one position of a prompt.

    Attributes:
        lens: What each layer would say.
        parts: What writes the answer.
        graph: What reaches the position.
    """

    lens: logit_lens.LensReading
    parts: direct_attribution.DirectAttribution
    graph: contributions.ContributionGraph


def seen(
    model: TransformerBridge, prompt: Prompt, position: int, asked: tuple[int, int | None]
) -> Seen | None:
    """All views at once; what was looked at before is there at once."""
    answer, wrong = asked

    def work(report: jobs.Report) -> Seen:
        tokens = [one for one in asked if one is not None]
        report(0.1, "reading every layer")
        lens = logit_lens.read(model, prompt, tokens=tokens)
        report(0.4, "taking the logit apart")
        parts = direct_attribution.attribute(model, prompt, answer, wrong=wrong, position=position)
        report(0.7, "following what reaches the position")
        return Seen(lens, parts, contributions.trace(model, prompt, target=position))

    key = jobs.job_key("inspector", card.fingerprint(model), prompt.ids, position, asked)
    return steps.step(key, work, label="Looking at the prompt")


def show_doubt(prompt: Prompt, lens: logit_lens.LensReading) -> None:
    """The prompt, each token as dark as the model is unsure what comes after it."""
    st.subheader("Where is it unsure?")
    st.caption("Entropy of what it expects after each token, in nats: dark where it is unsure.")
    unsure = [float(value) for value in lens.entropy[-1]]
    strips.show([strips.Strip("", prompt.tokens, unsure)], key="strip")


def show_lens(lens: logit_lens.LensReading, position: int) -> None:
    """What each layer would say at the position."""
    st.subheader("What would each layer already say?")
    cells = [lens.at(row, position) for row in range(len(lens.rows))]
    tables_of = [
        {
            "after": cell.row,
            "it would say": ", ".join(
                f"{plots.visible(one.text)} {one.probability:.0%}" for one in cell.top[:3]
            ),
            **{f"rank of {plots.visible(one.text)}": f"{one.rank:,}" for one in cell.asked},
            "KL to the end": f"{cell.divergence:.2f}",
        }
        for cell in cells
    ]
    st.markdown(tables.markdown(tables_of[::-1]))


def show_parts(name: str, parts: direct_attribution.DirectAttribution) -> None:
    """Which parts write the answer, and where heads bring it from."""
    st.subheader("Which parts write it?")
    best = parts.largest[:FEW]
    shares = np.array([parts.share(one) for one in best])
    showing.figure(
        plots.bars(shares, labels=[plots.escape(one) for one in best], value_title="share (logits)")
    )
    units = [direct_attribution.unit_of(one) for one in best]
    links.units(name, [*units, *list(parts.neurons())[:3]])


def show_sources(prompt: Prompt, parts: direct_attribution.DirectAttribution) -> None:
    """From where the heads bring the answer to the position."""
    st.subheader("From where do heads bring it?")
    flat = parts.by_source.reshape(-1, parts.by_source.shape[-1])
    heads = parts.by_source.shape[1]
    rows: list[dict[str, str]] = []
    for place in np.argsort(-np.abs(flat).ravel(), kind="stable")[:FEW]:
        one, key = divmod(int(place), flat.shape[1])
        rows.append(
            {
                "head": f"{one // heads}.{one % heads}",
                "from": f"{key} {plots.visible(prompt.tokens[key])}",
                "share (logits)": f"{flat[one, key]:+.2f}",
            }
        )
    st.markdown(tables.markdown(rows))


def show_graph(graph: contributions.ContributionGraph) -> None:
    """What reaches the position, as routes."""
    st.subheader("What reaches this position?")
    showing.figure(graph.figure())
    st.caption("Edges with a share of at least 4% of the state that they enter.")


def look(name: str, model: TransformerBridge) -> None:
    """Everything below the model."""
    prompt = prompts.box(name, model)
    if prompt is None:
        return
    left, right = st.columns([1, 2])
    with left:
        position = prompts.position(prompt)
    with right:
        likely = prompts.likely(model, prompt, position)
        asked = None if likely is None else prompts.answers(model, prompt, likely)
    links.same_prompt(name, "inspector")
    if asked is None:
        return
    try:
        found = seen(model, prompt, position, asked)
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return
    if found is None:
        return
    show_doubt(prompt, found.lens)
    st.markdown(escaping.markdown(found.parts.summary()))
    one, other = st.columns([3, 2], gap="large")
    with one:
        show_parts(name, found.parts)
    with other:
        show_sources(prompt, found.parts)
    show_lens(found.lens, position)
    show_graph(found.graph)
    answer, wrong = asked
    text = repr(prompt.text or list(prompt.ids))
    tokens = [one for one in asked if one is not None]
    showing.code(
        [
            "from analyses import contributions, direct_attribution, logit_lens",
            "from workbench import load_model",
            "",
            f"model = load_model({name!r})",
            f"prompt = {text}",
            f"lens = logit_lens.read(model, prompt, tokens={tokens})",
            "print(lens.summary())",
            "parts = direct_attribution.attribute(",
            f"    model, prompt, {answer}, wrong={wrong}, position={position}",
            ")",
            "print(parts.summary())",
            f"print(contributions.trace(model, prompt, target={position}).summary())",
        ]
    )


picked = subject.pick()
if picked is not None:
    loaded = subject.loaded(picked)
    if loaded is not None:
        look(picked, loaded)
