"""The Start page: its examples find what is known, and their pages have it without computing."""

from __future__ import annotations

from typing import Any, NoReturn
from urllib.parse import parse_qsl

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from analyses import activation_patching, grokking
from analyses import feature_visualization as features
from analyses import neuron_clusters as clusters
from tests.visiting import ROOT, button, settled, texts, unfolded, visit
from workbench.core import runs
from workbench.ui import contents

PAGES = ROOT / "pages"
# Of each example: its button, its page, what the answer says, what computes it, and its result.
EXAMPLES: dict[str, tuple[str, str, str, Any, tuple[str, ...], tuple[str, type[Any]]]] = {
    "Find the head": (
        "patching",
        "Patching",
        'L1H2 at position 13 ("to") brings back 36% of the right answer',
        activation_patching,
        ("patch", "check"),
        ("activation_patching.patch", activation_patching.PatchingResult),
    ),
    "Read the neuron": (
        "unit",
        "Unit",
        "It fires at '.': 20 of its 20 largest activations stand there",
        features,
        ("top_examples", "view_unit", "token_means", "believe"),
        ("feature_visualization.view_unit", features.UnitView),
    ),
    "Watch it grok": (
        "grokking",
        "Grokking",
        "by step 150 and answers all others only from step 5,408 on",
        grokking,
        ("track", "phases"),
        ("grokking.track", grokking.ProgressMeasures),
    ),
    "Find the neurons": (
        "clusters",
        "Clusters",
        "84 of the 512 neurons, all in layer 0, follow frequency 14",
        clusters,
        ("selectivity",),
        ("neuron_clusters.selectivity", clusters.Selectivity),
    ),
}


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("computed again")


def link(at: AppTest, label: str) -> dict[str, str]:
    """What the page behind a link is opened with."""
    (found,) = (one for one in at.get("page_link") if one.proto.label == label)
    return dict(parse_qsl(found.proto.query_string))


@pytest.mark.parametrize("label", EXAMPLES)
def test_an_example_answers_and_its_page_has_the_result_at_once(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stem, title, said, module, functions, (analysis, kind) = EXAMPLES[label]
    at = visit("start")
    opens = f"Open it on the page {title}"
    assert opens not in [one.proto.label for one in at.get("page_link")]
    at = settled(button(at, label).click().run())
    assert not at.error
    (answer,) = at.success
    assert said in answer.value.replace("\\", "")
    (figure,) = at.get("plotly_chart")
    assert "data" in figure.proto.spec

    for function in functions:
        monkeypatch.setattr(module, function, refuse)
    made = {run.id for run in runs.RunStore().runs()}
    page = visit(stem, **link(at, opens))
    assert not page.error
    (run,) = runs.RunStore().runs(analysis)
    found = runs.RunStore().find(kind, run.id)
    assert found is not None
    assert found.summary() in texts(unfolded(page))
    assert {run.id for run in runs.RunStore().runs()} == made


def test_an_example_in_the_store_is_shown_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    settled(button(visit("start"), "Find the head").click().run())
    # As after a new start of the server.
    st.cache_resource.clear()
    monkeypatch.setattr(activation_patching, "patch", refuse)
    at = visit("start")
    assert "brings back" in at.success[0].value
    assert "Find the head" not in [one.label for one in at.button]


def test_every_question_is_a_link_to_its_page() -> None:
    at = visit("start")
    said = [one.proto.label.replace("\\", "") for one in at.get("page_link")]
    asked = [page.question for pages in contents.grouped(PAGES).values() for page in pages]
    assert sorted(said) == sorted(one[0].upper() + one[1:] for one in asked)


def test_every_page_asks_a_question_which_the_app_heads_it_with() -> None:
    for path in sorted(PAGES.glob("*.py")):
        assert contents.read(path).question, path.stem
        assert "st.title(" not in path.read_text(encoding="utf-8"), path.stem
    assert [one.value for one in visit("start").title] == ["What do you want to know?"]
