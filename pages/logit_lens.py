"""Logit lens: what would the model say if it stopped after each layer?

1. Pick a model, write a prompt, and choose tokens to follow.
2. See the top token after each layer at each position, or of what attention or MLPs add alone;
   a cell opens its top tokens and what becomes of the followed tokens over the layers.
3. Train a tuned lens on a corpus, see which of both lenses is nearer to the model's output on text
   that was held out, and read through it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from analyses import logit_lens
from analyses.logit_lens import comparison, reading_figures, tuned
from workbench.core import plots, results
from workbench.core.models import card
from workbench.ui import (
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

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.prompt import Prompt

SOURCES = {
    "stream": "resid",
    "attention alone": "attn_out",
    "MLP alone": "mlp_out",
}
COLOURS = {
    "probability of the top token": "probability",
    "entropy": "entropy",
    "KL to the final output": "kl",
    "rank of the answer": "rank",
}
LENSES = ("logit lens", "tuned lens")
VALUES = ("rank", "probability", "logit")
# Enough for intervals that are narrow, and some seconds for a small model.
COMPARED = 20_000
SEPARATOR = "|"


def followed(model: TransformerBridge, prompt: Prompt, position: int) -> list[int] | None:
    """Tokens whose rank and probability are followed: both answers, and more if there are any."""
    likely = prompts.likely(model, prompt, position)
    if likely is None:
        return None
    labels = ("Token to follow", "Another one")
    asked = prompts.answers(model, prompt, likely, labels=labels)
    if asked is None:
        return None
    more = st.text_input(
        f"More tokens to follow, with {SEPARATOR} between them",
        key="follow",
        bind="query-params",
        help="Both of the above are followed over the layers, and so are these.",
    )
    try:
        others = [prompt.answer(model, one) for one in more.split(SEPARATOR) if one]
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return None
    return list(dict.fromkeys([*(one for one in asked if one is not None), *others]))


def tuned_lens(model: TransformerBridge) -> tuple[logit_lens.TunedLens | None, list[str]]:
    """The tuned lens of a corpus, and the code that trains and tests it."""
    st.subheader("Which lens is to be believed?")
    st.caption(
        "A tuned lens first translates the stream, by one affine map a layer, into the basis that "
        "the unembedding reads. It is trained on part of the text; both lenses are then measured "
        "on the rest: the one whose KL divergence is lower is nearer to what the model says."
    )
    corpus = corpora.pick(model)
    if corpus is None:
        return None, []
    seen, held_out = corpus.seen, corpus.held_out
    lens = stored.offered(
        logit_lens.TunedLens,
        tuned.ANALYSIS,
        stored.title("tuned lens", model, seen),
        lambda report: logit_lens.train(model, seen, progress=report),
        button="Train a tuned lens",
        label="Training a tuned lens",
        seconds=logit_lens.training_seconds(model),
    )
    if lens is None:
        return None, []
    compared = stored.made(
        logit_lens.LensComparison,
        comparison.ANALYSIS,
        stored.title(f"lenses compared, {results.mark(lens.weights)}", model, held_out),
        lambda report: logit_lens.compare(model, held_out, lens, tokens=COMPARED, progress=report),
        label="Measuring both lenses on held-out text",
    )
    if compared is not None:
        st.markdown(escaping.markdown(compared.summary()))
        left, right = st.columns(2)
        with left:
            showing.figure(compared.figure(), key="compared-kl")
        with right:
            showing.figure(compared.figure(value="agreement"), key="compared-agreement")
        downloads.offer_stored(compared, "lenses-compared")

    def training() -> None:
        st.markdown(escaping.markdown(lens.summary()))
        showing.figure(lens.figure())
        downloads.offer_stored(lens, "tuned-lens")

    showing.fold("The training", training)
    return lens, [
        f"seen, held_out = {corpus.code}",
        "lens = logit_lens.train(model, seen)",
        "print(lens.summary())",
        f"print(logit_lens.compare(model, held_out, lens, tokens={COMPARED}).summary())",
    ]


def show_grid(reading: logit_lens.LensReading, colour: str, position: int) -> tuple[int, int]:
    """The heat map; gives the row and the position of the chosen cell."""
    wide, length = reading_figures.WINDOW, len(reading.prompt)
    start = 0
    if length > wide:
        mark = f"window:{hash((reading.prompt.ids, position))}"
        begin = min(max(0, position + 1 - wide), length - wide)
        start = st.slider("First position that is shown", 0, length - wide, begin, key=mark)
    window = (start, min(start + wide, length))
    cell = heatmap.clickable_figure(
        lambda chosen: reading.figure(colour=colour, positions=window, selected=chosen),
        (len(reading.rows), window[1] - window[0]),
        key=f"grid:{len(reading.rows)}:{start}",
        query="cell",
    )
    if cell is None:
        st.caption("Each cell holds the top token there. Click one for all that is known of it.")
        return len(reading.rows) - 1, position
    return cell[0], start + cell[1]


def show_cell(reading: logit_lens.LensReading, row: int, position: int) -> None:
    """Top tokens and followed tokens of a cell, and the followed tokens over the rows."""
    cell = reading.at(row, position)
    st.subheader(f"After {cell.row}, at position {position}")
    st.caption(
        escaping.markdown(
            f"Reading at {plots.visible(cell.token)}: entropy {cell.entropy:.2f} nats, KL of the "
            f"final output {cell.divergence:.2f} nats; the model's own top token is "
            f"{plots.visible(cell.final)}."
        )
    )
    left, right = st.columns([2, 3], gap="large")
    with left:
        named = {one.id: one for one in (*cell.top, *cell.asked)}
        st.markdown(
            tables.markdown(
                [
                    {
                        "token": plots.visible(one.text),
                        "probability": f"{one.probability:.3g}",
                        "rank": f"{one.rank:,}",
                        "logit": f"{one.logit:.2f}",
                    }
                    for one in named.values()
                ]
            )
        )
    with right:
        value = st.segmented_control(
            "Followed tokens by",
            VALUES,
            default=VALUES[0],
            key="value",
            required=True,
            bind="query-params",
        )
        if reading.asked:
            showing.figure(reading.curves(position, value=value or VALUES[0]), key="curves")


def look(name: str, model: TransformerBridge) -> None:
    """Everything below the model picker."""
    prompt = prompts.box(name, model)
    if prompt is None:
        return
    links.same_prompt(name, "logit_lens")
    position = prompts.position(prompt)
    tokens = followed(model, prompt, position)
    if tokens is None:
        return
    left, middle, right = st.columns(3)
    source = left.selectbox("Read", list(SOURCES), key="source", bind="query-params")
    colour = middle.selectbox("Colour", list(COLOURS), key="colour", bind="query-params")
    through = right.segmented_control(
        "Through the",
        LENSES,
        default=LENSES[0],
        key="lens-kind",
        required=True,
        bind="query-params",
    )
    picture = st.container()
    lens, training = tuned_lens(model) if through == LENSES[1] else (None, list[str]())
    with picture:
        if through == LENSES[1] and lens is None:
            st.info("This is the logit lens until a tuned one is trained, further down.")
        elif lens is not None and SOURCES[source] != "resid":
            st.info("A tuned lens reads the stream only; this is the logit lens.")
            lens = None
        reading = steps.step(
            jobs.job_key(
                "logit_lens",
                card.fingerprint(model),
                prompt.ids,
                source,
                tokens,
                "" if lens is None else results.mark(lens.weights),
            ),
            lambda report: logit_lens.read(
                model, prompt, source=SOURCES[source], lens=lens, tokens=tokens, progress=report
            ),
            label="Reading every layer",
        )
        if reading is not None:
            st.markdown(escaping.markdown(reading.summary()))
            show_cell(reading, *show_grid(reading, COLOURS[colour], position))
            downloads.offer_unstored(reading, "logit-lens")
    given = [
        repr(prompt.text or list(prompt.ids)),
        *([f"source={SOURCES[source]!r}"] if SOURCES[source] != "resid" else []),
        *(["lens=lens"] if lens is not None else []),
        f"tokens={tokens}",
    ]
    showing.code(
        [
            f"from workbench import {'Corpus, ' if training else ''}load_model",
            "from analyses import logit_lens",
            "",
            f"model = load_model({name!r})",
            *training,
            f"reading = logit_lens.read(model, {', '.join(given)})",
            "print(reading.summary())",
        ]
    )


st.caption(
    "The stream after each layer is read as the model reads it after the last one: through its own "
    "final norm and unembedding. How far that is to be believed is measured, too."
)
picked = subject.pick()
if picked is not None:
    loaded = subject.loaded(picked)
    if loaded is not None:
        look(picked, loaded)
