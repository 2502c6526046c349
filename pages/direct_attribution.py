"""Direct attribution: which parts write this logit?

1. Pick a model, write a prompt, choose a position and an answer, or two that are compared.
2. See the logit as a sum: the largest parts one after another; then all of them at every position,
   or heads by where they look, or neurons. Each leads on to its own page.
3. See what really happens without a part, and whether its share is more than that of one prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st

from analyses import direct_attribution
from workbench.core import plots
from workbench.core.models import card
from workbench.ui import (
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
from workbench.ui import pairs as choosing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.prompt import Prompt

ROWS = ("layers", "heads", "parts")
SECTIONS = ("Positions", "Heads", "Neurons")
# Columns that fit beside each other, and links below a picture.
WINDOW, LINKS = 100, 6
QUICK = 2.0


def attributed(
    model: TransformerBridge, prompt: Prompt
) -> direct_attribution.DirectAttribution | None:
    """The shares for the position and answers that are asked for."""
    mark, position = card.fingerprint(model), prompts.position(prompt)
    likely = prompts.likely(model, prompt, position)
    asked = None if likely is None else prompts.answers(model, prompt, likely)
    if asked is None:
        return None
    answer, wrong = asked
    return steps.step(
        jobs.job_key("direct_attribution", mark, prompt.ids, position, answer, wrong),
        lambda report: direct_attribution.attribute(
            model, prompt, answer, wrong=wrong, position=position
        ),
        label="Taking the logit apart",
    )


def show_links(name: str, shares: Mapping[str, float]) -> None:
    """Links to the units among some parts."""
    units = [(direct_attribution.unit_of(part), share) for part, share in shares.items()]
    found = [(unit, share) for unit, share in units if unit is not None][:LINKS]
    if found:
        with st.container(horizontal=True):
            for unit, share in found:
                links.unit(name, unit, label=f"{unit} ({share:+.3g})")


def show_sum(name: str, found: direct_attribution.DirectAttribution) -> None:
    """How the parts sum to the logit."""
    order = st.segmented_control(
        "Order",
        direct_attribution.ORDERS,
        default=direct_attribution.ORDERS[0],
        key="order",
        required=True,
        bind="query-params",
    )
    showing.figure(direct_attribution.waterfall(found, order=order or direct_attribution.ORDERS[0]))
    show_links(name, {part: found.share(part) for part in found.largest})


def show_positions(name: str, found: direct_attribution.DirectAttribution) -> None:
    """Parts over positions; a chosen cell says what it consists of."""
    st.subheader("Which parts, at which positions?")
    left, right = st.columns([3, 1])
    rows = left.segmented_control(
        "Rows", ROWS, default=ROWS[0], key="rows", required=True, bind="query-params"
    )
    last = len(found.tokens) - WINDOW
    start = 0
    if last > 0:
        begin = min(max(0, found.position + 1 - WINDOW), last)
        mark = hash((found.ids, found.position))
        start = right.number_input("From position", 0, last, begin, key=f"from:{mark}")
    grid = found.grid(rows or ROWS[0], start=start, stop=start + WINDOW)
    cell = heatmap.clickable_figure(
        lambda cell: direct_attribution.positions(found, grid, selected=cell),
        grid.values.shape,
        key=f"positions:{rows}",
        query="cell",
    )
    if cell is None:
        st.caption("Each column sums to the logit there. Click a cell to see what is in it.")
        return
    row, position = grid.rows[cell[0]], grid.columns[cell[1]]
    token = plots.visible(found.tokens[position])
    st.markdown(
        escaping.markdown(
            f"{row} at position {position} ({token}): {grid.values[cell]:+.4g} of "
            f"{found.before_cap[position]:.4g}"
        )
    )
    inside = found.inside(row, position)
    if len(inside) > 1:
        few = list(inside.items())[:LINKS]
        st.markdown(tables.markdown([{"part": part, "share": share} for part, share in few]))
    show_links(name, inside)


def show_neurons(name: str, found: direct_attribution.DirectAttribution) -> None:
    """The neurons with the largest shares."""
    st.subheader("Which neurons?")
    neurons = found.neurons()
    if neurons:
        showing.figure(direct_attribution.neuron_bars(found))
        show_links(name, neurons)
    else:
        st.caption("The model has no MLPs.")


def show_heads(name: str, found: direct_attribution.DirectAttribution) -> None:
    """Stacked heads, and where they bring their shares from."""
    st.subheader("Which heads of each layer?")
    showing.figure(direct_attribution.head_bars(found))
    st.caption("Stacked up where they raise it, down where they lower it; a diamond is the sum.")
    st.subheader("Where do heads bring it from?")
    grid = found.sources(start=max(0, found.position + 1 - WINDOW))
    cell = heatmap.clickable_figure(
        lambda cell: direct_attribution.sources(found, grid, selected=cell),
        grid.values.shape,
        key="sources",
        query="source",
    )
    if cell is None:
        st.caption(
            "What each head writes, by the position that it attends to. Click a cell for its head."
        )
    else:
        show_links(name, {grid.rows[cell[0]]: float(grid.values[cell])})


def show_check(
    name: str, model: TransformerBridge, found: direct_attribution.DirectAttribution
) -> str | None:
    """What really happens without a part, and the code for it."""
    st.subheader("What happens without a part?")
    left, right = st.columns(2)
    ablation = left.segmented_control(
        "In its place",
        direct_attribution.ABLATIONS,
        default=direct_attribution.ABLATIONS[0],
        key="ablation",
        required=True,
        bind="query-params",
        help="Nothing, or its mean over the prompt up to the position.",
    )
    everywhere = right.toggle(
        "At all positions up to this one", key="everywhere", bind="query-params"
    )
    ablation = ablation or direct_attribution.ABLATIONS[0]
    key = jobs.job_key("check", found.provenance.fingerprint, found.provenance.parameters)
    check = steps.step(
        jobs.job_key(key, ablation, everywhere),
        lambda report: direct_attribution.check(
            model, found, ablation=ablation, everywhere=everywhere, progress=report
        ),
        label="Running the model without each part",
    )
    if check is None:
        return None
    st.markdown(escaping.markdown(check.summary()))
    showing.figure(check.figure())
    st.caption("On the dotted line, removing a part takes away what it wrote and nothing else.")
    effects = dict(zip(check.names, check.total, strict=True))
    show_links(name, {part: float(effects[part]) for part in check.opposed})
    return f"direct_attribution.check(model, found, {ablation=}, {everywhere=})"


def show_pairs(name: str, model: TransformerBridge, seconds: float) -> list[str]:
    """The same over many prompts, and the code for it."""
    st.subheader("Over many prompts")
    st.caption(
        "One prompt says nothing of others: here shares have intervals, and those of the corrupted "
        "prompts beside them."
    )
    choice = choosing.choose(name)
    if choice is None:
        return []
    asked = ", ".join(f"{key} {value}" for key, value in choice.description.items())
    found = stored.offered(
        direct_attribution.DirectAttributionOverPairs,
        direct_attribution.OVER_PAIRS,
        stored.title(f"direct attribution over {asked}", model),
        lambda report: direct_attribution.attribute_pairs(
            model, choice.make(model), progress=report
        ),
        button="Attribute all of them",
        label="Taking the logit difference of every prompt apart",
        seconds=QUICK + seconds * choice.description.get("n", 1),
    )
    if found is None:
        return []
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    means = dict(zip(found.names, found.mean, strict=True))
    show_links(name, {part: float(means[part]) for part in found.largest})
    downloads.offer_stored(found, "direct-attribution-over-pairs")
    return [
        f"pairs = {found.pairs.code}",
        "print(direct_attribution.attribute_pairs(model, pairs).summary())",
    ]


DRAW: dict[str, Callable[[str, direct_attribution.DirectAttribution], None]] = dict(
    zip(SECTIONS, (show_positions, show_heads, show_neurons), strict=True)
)


def look(name: str, model: TransformerBridge) -> None:
    """Everything below the model picker."""
    prompt = prompts.box(name, model)
    if prompt is None:
        return
    links.same_prompt(name, "direct_attribution")
    found = attributed(model, prompt)
    if found is None:
        return
    st.markdown(escaping.markdown(found.summary()))
    show_sum(name, found)
    section = showing.section(SECTIONS)
    DRAW[section](name, found)
    downloads.offer_unstored(found, "direct-attribution")
    checking = show_check(name, model, found)
    over_pairs = show_pairs(name, model, found.provenance.wall_time)
    answer, *wrong = found.answer_ids
    given = [
        f"model, {prompt.text or list(prompt.ids)!r}, {answer}",
        *(f"wrong={one}" for one in wrong),
        f"position={found.position}",
    ]
    showing.code(
        [
            f"from workbench import {'ContrastPairs, ' if over_pairs else ''}load_model",
            "from analyses import direct_attribution",
            "",
            f"model = load_model({name!r})",
            f"found = direct_attribution.attribute({', '.join(given)})",
            "print(found.summary())",
            *([f"print({checking}.summary())"] if checking else []),
            *over_pairs,
        ]
    )


st.caption(
    "A logit is a sum of what the embedding, every head, every neuron and the biases write for it, "
    "once the final norm's scale is held fixed."
)
picked = subject.pick()
if picked is not None:
    loaded = subject.loaded(picked)
    if loaded is not None:
        look(picked, loaded)
