"""One prompt: written once, kept in the address, and taken along to every page that looks at one.

The prompt, the position and the answers stand in the address as `?prompt=`, `?position=`,
`?answer=` and `?wrong=`. A prompt that came with a link is shown even where the model cannot read
it; one that was written for another model gives way to what is usual for the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from workbench.core import plots
from workbench.core.models import card
from workbench.ui import addresses, escaping, jobs, steps

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.prompt import Prompt

QUERY, POSITION, ANSWER, WRONG = "prompt", "position", "answer", "wrong"
# What an address says about a prompt; a link to another page about the same prompt takes it along.
ASKED = (QUERY, POSITION, ANSWER, WRONG)
_WRITTEN_FOR = "the model that the prompt was written for"


def usual(name: str, model: TransformerBridge) -> str:
    """A prompt that a model can read, to begin with.

    Args:
        name: Of the model.
        model: The bridge.

    Returns:
        Its card's prompt, or the beginning of a story; its first tokens where it has no words.
    """
    if name in card.list_models():
        return card.model_card(name).default_prompt
    if model.tokenizer is None:
        return "0 1 2"
    story = "Once upon a"
    first = model.tokenizer.decode(list(range(min(3, int(model.cfg.n_ctx)))))
    return story if _readable(model, story) else first


def box(name: str, model: TransformerBridge) -> Prompt | None:
    """Draw the box that the prompt is written in.

    Args:
        name: Of the model.
        model: The bridge.

    Returns:
        The prompt, or None where the model cannot read what was written; the page says why.
    """
    from workbench.core.prompts.prompt import Prompt

    linked = st.query_params.get(QUERY, "")
    other = st.session_state.get(_WRITTEN_FOR, name) != name
    begin = linked if linked and not (other and not _readable(model, linked)) else ""
    if linked and not begin:
        # What was asked about it goes with it.
        for query in (POSITION, ANSWER, WRONG):
            st.query_params.pop(query, None)
    st.session_state[_WRITTEN_FOR] = name
    written = st.text_area(
        "Prompt",
        begin or usual(name, model),
        key=f"prompt:{name}",
        height=80,
        help=None if model.tokenizer else "This model has no tokenizer: token ids, with spaces.",
    )
    st.query_params[QUERY] = written
    try:
        return Prompt.of(model, written if model.tokenizer else _ids(written))
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return None


def position(prompt: Prompt, *, label: str = "Position") -> int:
    """Draw the choice of a position of a prompt; the last one to begin with.

    Args:
        prompt: The prompt.
        label: What the position is for.

    Returns:
        The position, counted from the front.
    """
    last = len(prompt) - 1
    labels = [f"{i} {plots.visible(token)}" for i, token in enumerate(prompt.tokens)]
    return addresses.pick(
        label,
        range(len(prompt)),
        query=POSITION,
        key=f"position:{hash(prompt.ids)}",
        begin=last,
        format_func=lambda i: labels[i],
    )


def likely(model: TransformerBridge, prompt: Prompt, position: int) -> tuple[str, ...] | None:
    """What the model says after a position, the most probable first; None while it is asked.

    Args:
        model: The bridge.
        prompt: The prompt.
        position: After which position.

    Returns:
        Two tokens that can be written as answers; fewer, where few can.
    """
    from workbench.core.engine import continuation

    # What a step gives is never None, and may be empty.
    found = steps.step(
        jobs.job_key("likely answers", card.fingerprint(model), prompt.ids, position),
        lambda report: (continuation.likely_answers(model, prompt, position=position),),
        label="Asking the model what comes next",
    )
    return None if found is None else found[0]


def answers(
    model: TransformerBridge,
    prompt: Prompt,
    likely: tuple[str, ...],
    *,
    labels: tuple[str, str] = ("Answer", "Less the logit of"),
) -> tuple[int, int | None] | None:
    """Draw the fields of an answer and of another one that it is compared with.

    Args:
        model: The bridge.
        prompt: What they follow.
        likely: What the model says next, the most probable first; both fields begin with these.
        labels: Of the two fields.

    Returns:
        Token ids of the answer and of the other one, which is None where the field is empty; None
        where one is no single token, and the page says which.
    """
    left, right = st.columns(2)
    mark = hash((prompt.ids, likely))
    # What few tokens can be written as an answer leaves fields empty.
    first, second = (*likely, "", "")[:2]
    fields = (
        (left, ANSWER, labels[0], first, "A single token, with its leading space if any."),
        (right, WRONG, labels[1], second, "Empty: the first one alone."),
    )
    found: list[int | None] = []
    for place, query, label, begin, says in fields:
        linked = st.query_params.get(query)
        written = place.text_input(
            label, begin if linked is None else linked, key=f"{query}:{mark}", help=says
        )
        st.query_params[query] = written
        try:
            empty = query == WRONG and not written
            found.append(None if empty else _answer(model, prompt, written))
        except ValueError as error:
            place.error(escaping.markdown(str(error)))
            return None
    answer, wrong = found
    return None if answer is None else (answer, wrong)


def _answer(model: TransformerBridge, prompt: Prompt, written: str) -> int:
    if model.tokenizer is None:
        return prompt.answer(model, *_ids(written)[:1])
    return prompt.answer(model, written)


def _ids(written: str) -> list[int]:
    words = written.split()
    if not words or not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError("the model has no tokenizer: write token ids, with spaces between them")
    return [int(word) for word in words]


def _readable(model: TransformerBridge, text: str) -> bool:
    from workbench.core.prompts.prompt import Prompt

    try:
        Prompt.of(model, text if model.tokenizer else _ids(text))
    except ValueError:
        return False
    return True
