"""Model: what is this model, and what does it say next?"""

from __future__ import annotations

import streamlit as st

from workbench.core.models import card
from workbench.ui import escaping, jobs, prompts, steps, subject, tables


def show_card(name: str) -> None:
    """What is known of a bundled model, from its card alone: nothing has to be loaded for it."""
    known = card.model_card(name)
    st.subheader(known.title)
    st.write(known.summary)
    left, right = st.columns(2, gap="large")
    behaviours = [
        {
            "task": row.task,
            "accuracy": f"{row.accuracy:.1%}",
            "chance": f"{row.chance:.1%}",
            "n": f"{row.n:,}",
        }
        for row in known.behaviours
    ]
    measures = [
        {"measure": row.name, "value": f"{quantity(row.value)} {row.unit}", "n": f"{row.n:,}"}
        for row in known.measures
    ]
    with left:
        st.caption("What it does, on combinations not in its training")
        st.markdown(tables.markdown(behaviours))
    with right:
        st.caption("Measured")
        st.markdown(tables.markdown(measures))
    with st.expander("How it was trained, and what to keep in mind"):
        facts = known.training.model_dump()
        st.markdown(tables.markdown([{"training": key, "": facts[key]} for key in facts]))
        notes = [f"{row.name}: {row.note}" for row in known.measures if row.note]
        lines = (*known.caveats, *notes, *known.references)
        st.markdown("\n".join(f"- {escaping.markdown(line)}" for line in lines))


def show_anatomy(name: str) -> None:
    """Architecture, parameters and hook points of the loaded model."""
    model = subject.loaded(name)
    if model is None:
        return
    # Imports torch, which the first page does not wait for.
    from workbench.core.models import anatomy

    facts, parameters, hooks = st.tabs(
        ["Architecture", "Parameters", "Hook points"], key="anatomy", on_change="rerun"
    )
    if facts.open:
        facts.dataframe(anatomy.architecture(model), hide_index=True)
        facts.caption(
            f"fingerprint (sha256 over configuration and weights): {card.fingerprint(model)}"
        )
    if parameters.open:
        parameters.dataframe(anatomy.parameters(model), hide_index=True)
    if hooks.open:
        hooks.dataframe(anatomy.hook_points(model), hide_index=True)


def show_prompt(name: str) -> None:
    """A prompt box with the next-token table and a continuation."""
    model = subject.shelf().find(name)
    if model is None:
        return
    from workbench.core.engine import continuation

    st.subheader("What does it say next?")
    default = prompts.usual(name, model)
    box, how = st.columns([3, 2])
    prompt = box.text_area("Prompt", default, key=f"prompt:{name}", height=100)
    with how:
        mode = st.segmented_control(
            "Continue", ["greedy", "sampled"], default="greedy", required=True
        )
        sampled = mode == "sampled"
        tokens = st.number_input("Tokens", 1, 500, 30)
        warmth = st.slider("Temperature", 0.1, 2.0, 1.0, 0.1, disabled=not sampled)
        seed = st.number_input("Seed", 0, 2**31 - 1, 0, disabled=not sampled)
    try:
        table = continuation.next_tokens(model, prompt)
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return
    percent = st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)
    box.dataframe(table, hide_index=True, column_config={"probability": percent})
    temperature = float(warmth) if sampled else 0.0
    text = steps.step(
        jobs.job_key("continue", card.fingerprint(model), prompt, tokens, temperature, seed),
        lambda report: continuation.continue_text(
            model, prompt, n_tokens=tokens, temperature=temperature, seed=seed, progress=report
        ),
        label="Continuing the prompt",
    )
    if text is not None:
        st.code(text, language=None, wrap_lines=True)


def quantity(value: float) -> str:
    """Four significant digits, and whole numbers in full."""
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"


picked = subject.pick()
if picked is not None:
    if picked in card.list_models():
        show_card(picked)
    show_anatomy(picked)
    show_prompt(picked)
