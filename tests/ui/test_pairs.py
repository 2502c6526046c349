"""The chooser of pairs: what it asks for, and how an alignment is shown before a run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from workbench import ContrastPairs
from workbench.core.planted import unplanted
from workbench.ui import pairs

UNEQUAL = {"clean": "ape bee cat", "corrupted": "ape dog elk cat", "answer": "fox"}
TOGGLE = "Align prompts of different length"


def choosing() -> None:
    import streamlit as st

    from workbench.ui import pairs

    choice = pairs.choose("grammar-4l")
    st.json(choice.description if choice else {})


def description(at: AppTest) -> dict[str, Any]:
    assert not at.exception, at.exception[0].value
    return json.loads(at.json[0].value)


def open_chooser(source: str, **query: str) -> AppTest:
    at = AppTest.from_function(choosing, default_timeout=30.0)
    for name, value in {"pairs": source, **query}.items():
        at.query_params[name] = value
    return at.run()


def test_a_named_task_has_nothing_to_align() -> None:
    at = open_chooser("named task")
    assert len(at.toggle) == 0
    assert set(description(at)) == {"task", "n", "seed"}


def test_typed_pairs_are_aligned_only_where_it_is_asked_for() -> None:
    at = open_chooser("typed")
    (toggle,) = at.toggle
    assert toggle.label == TOGGLE
    assert set(description(at)) == {"rows"}
    toggle.set_value(True).run()
    assert description(at)["align"] is True


def test_a_link_may_ask_for_the_alignment() -> None:
    at = open_chooser("typed", align="true")
    assert at.toggle[0].value is True
    assert description(at)["align"] is True


def test_an_uploaded_file_is_aligned_only_where_it_is_asked_for() -> None:
    at = open_chooser("file")
    assert at.toggle[0].label == TOGGLE
    content = b"clean,corrupted,answer\nape,bee,cat\n"
    at.file_uploader[0].set_value(("own.csv", content, "text/csv")).run()
    assert set(description(at)) == {"file", "sha256"}
    at.toggle[0].set_value(True).run()
    assert set(description(at)) == {"file", "sha256", "align"}


@pytest.mark.parametrize("kind", ["rows", "file"])
def test_a_choice_is_made_as_it_was_asked_for(kind: str) -> None:
    model = unplanted.randomised()
    content = json.dumps(UNEQUAL).encode() if kind == "file" else b""
    asked: dict[str, Any] = {"rows": [UNEQUAL]} if kind == "rows" else {"file": "own.jsonl"}
    with pytest.raises(ValueError, match="needs equal lengths, or align=True"):
        pairs.Choice(asked, content).make(model)
    made = pairs.Choice({**asked, "align": True}, content).make(model)
    assert made.matched == (((0, 0), (1, 1), (2, 3), (3, 4)),)


def made(clean: list[str], corrupted: list[str]) -> ContrastPairs:
    answers = ["fox"] * len(clean)
    return ContrastPairs.from_text(unplanted.randomised(), clean, corrupted, answers, align=True)


def test_the_table_has_matched_tokens_above_each_other_and_both_their_positions() -> None:
    frame = pairs.alignment_frame(made(["ape bee cat"], ["ape dog elk cat"]), 0)
    assert list(frame.columns) == ["0", "1", "→2", "2→3", "3→4"]
    assert frame.to_numpy().tolist() == [
        ["<bos>", "ape", "", "bee", "cat"],
        ["<bos>", "ape", "dog", "elk", "cat"],
        ["", "", "corrupted only", "≠", ""],
    ]
    frame = pairs.alignment_frame(made(["ape bee cat"], ["ape cat"]), 0)
    assert list(frame.columns) == ["0", "1", "2→", "3→2"]
    assert frame.loc[""].tolist() == ["", "", "clean only", ""]


def test_pairs_of_equal_length_have_the_same_table_with_plain_positions() -> None:
    frame = pairs.alignment_frame(made(["ape bee"], ["ape dog"]), 0)
    assert list(frame.columns) == ["0", "1", "2"]
    assert frame.loc[""].tolist() == ["", "", "≠"]


def showing() -> None:
    import streamlit as st

    from workbench.ui import pairs

    pairs.show_alignment(st.session_state["shown"])


def drawn(shown: ContrastPairs) -> AppTest:
    at = AppTest.from_function(showing, default_timeout=30.0)
    at.session_state["shown"] = shown
    at.run()
    assert not at.exception, at.exception[0].value
    return at


def test_nothing_is_drawn_where_nothing_is_aligned() -> None:
    at = drawn(made(["ape bee"], ["ape dog"]))
    assert (len(at.number_input), len(at.dataframe), len(at.caption)) == (0, 0, 0)


def test_the_first_pair_of_different_lengths_is_shown_and_others_on_request() -> None:
    at = drawn(made(["ape bee", "ape bee cat"], ["ape dog", "ape dog elk cat"]))
    assert at.number_input[0].value == 2
    assert list(at.dataframe[0].value.columns) == ["0", "1", "→2", "2→3", "3→4"]
    words = at.caption[0].value.replace("\\", "")
    assert words == (
        "4 positions are matched, of 4 clean and 5 corrupted tokens; only matched positions are "
        "patched. 1 of 2 pairs have prompts of different length."
    )
    at.number_input[0].set_value(1).run()
    assert list(at.dataframe[0].value.columns) == ["0", "1", "2"]
    assert at.caption[0].value.startswith("3 positions are matched, of 3 clean and 3 corrupted")
