"""Buttons: a press is noted before the page is drawn and told once; there are no others."""

from __future__ import annotations

import ast
from pathlib import Path

from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[2]
BUTTONS = {"button", "form_submit_button"}


def page() -> None:
    """A page that a faster visitor interrupts, and another one in its place."""
    import streamlit as st

    from workbench.ui import buttons

    if st.session_state.pop("interrupted", False):
        st.stop()
    if st.session_state.pop("elsewhere", False):
        buttons.forget()
        st.stop()
    with st.form("form"):
        sent = buttons.pressed(st.form_submit_button, "Send")
    if buttons.pressed(st.button, "Save") or sent:
        st.session_state["done"] = st.session_state.get("done", 0) + 1
    buttons.forget()


def test_a_press_that_the_page_did_not_come_to_is_told_by_the_next_run() -> None:
    at = AppTest.from_function(page).run()
    for n, label in enumerate(("Save", "Send"), start=1):
        (found,) = (one for one in at.button if one.label == label)
        at.session_state["interrupted"] = True
        found.click().run()
        assert at.session_state["done"] == n - 1 if n > 1 else "done" not in at.session_state
        at.run()
        assert at.session_state["done"] == n
        at.run()
        assert at.session_state["done"] == n


def test_a_page_that_was_left_forgets_what_was_pressed() -> None:
    at = AppTest.from_function(page).run()
    at.session_state["interrupted"] = True
    at.button[1].click().run()
    at.session_state["elsewhere"] = True
    at.run()
    at.run()
    assert "done" not in at.session_state


def test_no_button_tells_its_click_to_one_run_alone() -> None:
    places = [*(ROOT / "pages").glob("*.py"), *(ROOT / "workbench" / "ui").glob("*.py")]
    drawn = 0
    for place in places:
        tree = ast.parse(place.read_text())
        # A statement of its own: nobody looks at what it returns.
        alone = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                if call.func.attr in BUTTONS:
                    drawn += 1
                    assert id(call) in alone, f"{place.name}:{call.lineno}"
    assert drawn
