"""The page of path patching: its numbers are the library's, its links and its code work."""

from __future__ import annotations

import contextlib
import io
import threading
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import workbench
from analyses import path_patching
from tests.visiting import PATIENCE, ROOT, button, run_in, settled, texts, unfolded, visit
from workbench import ContrastPairs
from workbench.core import runs

ASKED = {"model": "grammar-4l", "task": "agreement", "n": "6"}


def run_paths(**query: str) -> AppTest:
    at = visit("paths", **ASKED, **query)
    return settled(button(at, "Run (").click().run())


def stored(at: AppTest) -> path_patching.PathPatchingResult:
    found = runs.RunStore().find(path_patching.PathPatchingResult, run_in(at))
    assert found is not None
    return found


def subject() -> tuple[Any, ContrastPairs]:
    model = workbench.load_model("grammar-4l")
    return model, ContrastPairs.from_task(model, "agreement", n=6)


def executed(at: AppTest) -> tuple[dict[str, Any], str]:
    """What the code that the page shows defines and prints."""
    scope: dict[str, Any] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(at.code[0].value, scope)
    return scope, said.getvalue()


def test_the_main_journey_gives_the_numbers_of_the_library_and_its_code_runs() -> None:
    at = run_paths()
    expected = path_patching.path_patch(*subject())
    assert expected.summary() in texts(at)
    np.testing.assert_array_equal(stored(at).per_prompt, expected.per_prompt)
    frame = next(item.value for item in unfolded(at).dataframe if "adjusted_p" in item.value)
    assert tuple(frame.index[:3]) == expected.strongest(3)
    scope, _ = executed(at)
    np.testing.assert_array_equal(scope["result"].per_prompt, expected.per_prompt)


def test_receivers_components_on_the_way_and_positions_come_from_the_address() -> None:
    at = run_paths(to="a3.h1<q>", through="m1", at="the subject", direction="denoising")
    expected = path_patching.path_patch(
        *subject(),
        receivers=["a3.h1<q>"],
        through=["m1"],
        positions=["the subject"],
        direction="denoising",
    )
    assert "directly or through m1 to a3.h1<q>, patched at the subject only" in texts(at)
    np.testing.assert_array_equal(stored(at).per_prompt, expected.per_prompt)
    assert at.multiselect(key="to").value == ["a3.h1<q>"]


def test_a_stored_run_is_shown_at_once() -> None:
    run = run_in(run_paths())
    at = AppTest.from_file(str(ROOT / "workbench" / "app.py"), default_timeout=PATIENCE)
    at.query_params["run"] = run
    at.switch_page("../pages/paths.py")
    at.run()
    assert "Noising each of 20 components of grammar-4l on agreement" in texts(at)
    assert not any(item.label.startswith("Run (") for item in at.button)


def test_a_sender_in_the_address_is_shown_directly_along_the_run_and_by_every_path() -> None:
    at = run_paths(to="a3.h0")
    run = run_in(at)
    # Layer 2, and the column after the four heads.
    at = visit("paths", **ASKED, to="a3.h0", run=run, cell="2.4")
    assert "What reaches the answer from m2" in texts(at)
    model, pairs = subject()
    every = stored(at).senders
    ways: list[dict[str, Any]] = [{}, {"receivers": ["a3.h0"]}, {"through": every}]
    found = [path_patching.path_patch(model, pairs, senders=["m2"], **way) for way in ways]
    table = next(item.value for item in at.markdown if "by every path" in item.value)
    for way in found:
        assert f"{way.effects[0]:.4f}".replace("-", "\\-").replace(".", "\\.") in table
    _, said = executed(at)
    assert str(found[0].to_frame()) in said
    assert str(found[2].to_frame()) in said


def test_every_path_is_the_whole_effect_of_a_sender() -> None:
    """As ordinary patching of its output gives it."""
    from analyses import activation_patching

    model, pairs = subject()
    every = [f"a{layer}.h{head}" for layer in range(4) for head in range(4)]
    every += [f"m{layer}" for layer in range(4)]
    whole = path_patching.path_patch(model, pairs, senders=["m2"], through=every)
    plain = activation_patching.patch(
        model, pairs, site="mlp_out", direction="noising", positions="all"
    )
    np.testing.assert_allclose(whole.per_prompt[:, 0], plain.per_prompt[:, 2], atol=1e-4)


def test_changing_where_paths_end_forgets_the_run() -> None:
    at = run_paths()
    settled(at.multiselect(key="to").set_value(["a3.h1"]).run())
    assert "run" not in at.query_params
    assert button(at, "Run (")
    settled(button(at, "Run (").click().run())
    assert "directly to a3.h1:" in texts(at)


def test_cancelling_leaves_nothing_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def slow(*_: Any, progress: Any, **__: Any) -> None:
        progress(0.5, "half way")
        reached.set()
        go_on.wait(PATIENCE)
        progress(0.6, "further")

    at = visit("paths", **(ASKED | {"n": "5"}))
    monkeypatch.setattr(path_patching, "path_patch", slow)
    button(at, "Run (").click().run()
    assert reached.wait(PATIENCE)
    button(at.run(), "Cancel").click().run()
    go_on.set()
    settled(at)
    assert "cancelled" in texts(at)
    assert runs.RunStore().runs() == []


def test_the_input_as_sender_is_a_bar_to_choose_from_a_list() -> None:
    result = path_patching.path_patch(*subject(), senders=["input", "m3"], receivers=["m0"])
    run = runs.RunStore().put(result, title="input")
    at = visit("paths", **ASKED, run=run)
    settled(at.selectbox(key=f"sender:{run}").set_value("input").run())
    assert "What reaches the answer from input" in texts(at)


@pytest.mark.parametrize(
    "query",
    [
        {"run": "../../etc/passwd", "cell": "99.99"},
        {"run": "0" * 16, "to": "a9.h9<z>", "through": "<b>", "at": "nowhere"},
        {"direction": "up", "metric": "<b>", "to": "logits", "at": "position 99"},
    ],
)
def test_a_broken_link_falls_back(query: dict[str, str]) -> None:
    at = visit("paths", **ASKED, **query)
    assert at.selectbox(key="direction").value == "noising"
    assert at.multiselect(key="to").value == []
    assert at.multiselect(key="at").value == []
    assert button(at, "Run (")
    assert not at.error


def test_pairs_of_different_length_get_one_sentence() -> None:
    at = visit("paths", model="grammar-4l", pairs="file", align="true")
    content = (
        b"clean,corrupted,answer,wrong_answer\n"
        b"The box behind the house,The old boxes behind the house, is, are\n"
    )
    settled(at.file_uploader[0].set_value(("pairs.csv", content, "text/csv")).run())
    assert "same number of tokens" in texts(at)
    assert len(at.error) == 1
    assert not any(item.label.startswith("Run (") for item in at.button)
