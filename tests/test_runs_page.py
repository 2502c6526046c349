"""The page of stored runs: found, shown again, compared, tagged, taken along and deleted."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import workbench
from analyses import activation_patching, direct_attribution, path_patching
from analyses.activation_patching import measuring
from analyses.circuits import discovery
from tests.core.test_results import altered, small
from tests.visiting import ROOT, button, printed, settled, texts, unfolded, visit
from workbench.core import runs


@pytest.fixture
def store() -> runs.RunStore:
    return runs.RunStore()


def kept(store: runs.RunStore, title: str, seed: int = 0, model: str = "m", **changed: Any) -> str:
    before = small()
    made = dataclasses.replace(before.provenance, seed=seed, model=model)
    result = dataclasses.replace(before, provenance=made, **changed)
    return store.put(result, title=title)


def listed(at: AppTest) -> list[str]:
    return list(at.dataframe[0].value["title"]) if at.dataframe else []


def test_an_empty_store_says_how_it_fills(store: runs.RunStore) -> None:
    at = visit("runs")
    assert "Nothing yet" in texts(at) and not at.dataframe
    assert not at.error
    assert not store.root.exists(), "looking writes nothing"
    at = visit("runs", run="0123456789abcdef")
    assert "not stored on this machine" in texts(at)


def test_runs_are_found_by_what_the_address_asks_for(store: runs.RunStore) -> None:
    kept(store, "of one", 1, "one")
    other = kept(store, "of <b>another</b>", 2, "another")
    store.tag(other, ["liked"])
    assert sorted(listed(visit("runs"))) == ["of <b>another</b>", "of one"]
    day = {"since": "2026-01-01", "until": "2026-01-01", "analysis": "tests.small"}
    for query in ({"model": "another"}, {"tag": "liked", "text": "ANOTHER b", **day}):
        assert listed(visit("runs", **query)) == ["of <b>another</b>"]
    for query in ({"model": "a third"}, {"since": "2026-01-02"}):
        at = visit("runs", **query)
        assert listed(at) == []
        assert "No run is like this" in texts(at)


def test_a_link_shows_a_run_again_and_the_code_says_the_same(store: runs.RunStore) -> None:
    run = kept(store, "a <img src=x> title", single=small().parts[0])
    at = visit("runs", run=run)
    assert at.header[0].value == r"a \<img src=x\> title"
    assert "x" in [element.value for element in at.markdown], "the summary"
    assert at.query_params["run"] in (run, [run])
    (frame,) = [one.value for one in unfolded(at).dataframe if "0" in map(str, one.value.columns)]
    assert np.array_equal(frame.to_numpy(), small().grid, equal_nan=True)
    said = printed(at.code[-1].value).splitlines()
    assert said[0].startswith(run) and said[1] == "x"


def test_a_run_of_an_unknown_class_is_listed_and_said_to_be_unknown(store: runs.RunStore) -> None:
    run = kept(store, "strange")
    path = store.root / run / "result.json"
    path.write_text(path.read_text().replace(".Small", ".Gone"))
    at = visit("runs", run=run)
    assert listed(at) == ["strange"]
    assert "does not know" in texts(at)


def test_a_damaged_run_is_said_to_be_so_in_a_sentence(store: runs.RunStore) -> None:
    model = workbench.load_model("modadd-113")
    run = store.put(direct_attribution.attribute(model, "5 + 92 =", "97"), title="taken apart")
    # Every part is right by itself, but there are more parts than names.
    altered(store.root / run, names=["embed"])
    at = visit("runs", run=run)
    assert len(at.error) == 1
    assert re.search(r"is damaged: its parts do not fit .* delete it, or run it again", texts(at))
    button(at, "Delete this run for good")
    # One that was patched is refused as it is read, and its page offers to run it again.
    pairs = workbench.ContrastPairs.from_task(model, "modular-addition", n=2)
    run = store.put(activation_patching.patch(model, pairs), title="patched")
    altered(store.root / run, columns=["5"])
    assert "whose folder is damaged" in texts(visit("runs", run=run))
    assert "not stored on this machine" in texts(visit("patching", model="modadd-113", run=run))


def test_two_runs_are_compared_largest_difference_first(store: runs.RunStore) -> None:
    first = kept(store, "first", 1)
    second = kept(store, "second", 2, grid=np.array([[1.5, np.nan, np.inf], [-3.0, 0.0, 1.0]]))
    at = visit("runs", run=f"{first},{second}")
    assert at.header[0].value == "What differs between these two?"
    frame = next(one.value for one in at.dataframe if "difference" in one.value)
    assert frame[["first", "second", "difference"]].iloc[1].tolist() == [-0.0, -3.0, -3.0]
    causes = next(one.value for one in at.dataframe if "what" in one.value)
    assert causes.to_numpy().tolist() == [["seed", "1", "2"]]
    assert "difference" in printed(at.code[-1].value)


def test_tags_are_given_and_taken_and_found_again(store: runs.RunStore) -> None:
    run = kept(store, "a")
    at = visit("runs", run=run)
    settled(at.multiselect[0].set_value(["liked", "for the talk"]).run())
    assert store.runs()[0].tags == ("liked", "for the talk")
    assert at.multiselect[0].value == ["liked", "for the talk"]
    settled(at.multiselect[0].set_value(["for the talk"]).run())
    assert [row.id for row in store.runs(tag="for the talk")] == [run]
    assert store.runs(tag="liked") == []
    at.multiselect[0].set_value(["two\nlines"]).run()
    assert "is no tag" in texts(at) and not at.exception
    assert store.runs()[0].tags == ("for the talk",)


def test_runs_are_deleted_only_once_that_is_confirmed(store: runs.RunStore) -> None:
    gone, stays = kept(store, "gone", 1), kept(store, "stays", 2)
    at = visit("runs", run=gone)
    assert store.run(gone) is not None
    settled(button(at, "Delete this run for good").click().run())
    assert listed(at) == ["stays"]
    assert [row.id for row in store.runs()] == [stays]
    assert "run" not in at.query_params


def test_chosen_runs_are_offered_as_one_archive(store: runs.RunStore) -> None:
    chosen = [kept(store, f"run {seed}", seed) for seed in range(3)]
    at = visit("runs", run=",".join(chosen))
    (offered,) = [one for one in at.get("download_button") if one.proto.label == "Export (ZIP)"]
    assert not offered.proto.disabled
    assert "Tags of these 3 runs" in [one.label for one in at.multiselect]


def test_pages_that_reopen_a_run_are_those_that_are_linked() -> None:
    model = workbench.load_model("modadd-113")
    pairs = workbench.ContrastPairs.from_task(model, "modular-addition", n=4)
    run = runs.RunStore().put(activation_patching.patch(model, pairs, site="z"), title="heads")
    at = visit("runs", run=run)
    (link,) = at.get("page_link")
    assert "Patching" in link.proto.label
    shown = visit("patching", model="modadd-113", run=run)
    result = runs.RunStore().open(run)
    assert result is not None and result.summary() in texts(shown) and result.summary() in texts(at)
    source = (ROOT / "pages" / "runs.py").read_text()
    for analysis, page in (
        (measuring.ANALYSIS, "patching"),
        (path_patching.ANALYSIS, "paths"),
        (discovery.ANALYSIS, "circuits"),
    ):
        assert f'"{analysis}": ("{page}"' in source
