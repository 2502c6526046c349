"""Every page under Streamlit's test driver: it opens, works, and says what is wrong in words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sae_lens
from sae_lens.saes.sae import SAEMetadata
from streamlit.testing.v1 import AppTest

import workbench
from analyses import activation_patching
from tests.visiting import PATIENCE, ROOT, button, run_in, settled, texts, visit
from workbench import ContrastPairs
from workbench.core import runs

PAGES = sorted((ROOT / "pages").glob("*.py"))


def run_patching(**query: str) -> AppTest:
    at = visit("patching", **query)
    return settled(button(at, "Run (").click().run())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
# With the first model a browser opens each of them (tests/e2e/test_every_page.py).
@pytest.mark.parametrize("model", workbench.list_models()[1:])
def test_every_page_opens_with_a_question_on_every_other_bundled_model(
    path: Path, model: str
) -> None:
    at = visit(path.stem, model=model)
    assert at.title[0].value.endswith("?")
    assert not at.error


class TestModel:
    def test_card_anatomy_and_next_tokens(self) -> None:
        at = visit("model", model="modadd-113")
        card = workbench.model_card("modadd-113")
        assert card.summary in [element.value for element in at.markdown]
        frames = [frame.value for frame in at.dataframe]
        facts = next(frame for frame in frames if "fact" in frame)
        assert facts.set_index("fact").loc["d_model", "value"] == "128"
        tokens = next(frame for frame in frames if "probability" in frame)
        assert tokens.iloc[0]["token"].strip() == "69"
        assert at.code[0].value.split() == ["12", "57", "=", "69"]
        assert workbench.fingerprint(workbench.load_model("modadd-113")) in texts(at)
        at.session_state["anatomy"] = "Hook points"
        hooks = next(one.value for one in at.run().dataframe if "hook point" in one.value)
        shapes = hooks.set_index("hook point")["shape"]
        assert shapes["blocks.0.hook_resid_pre"] == "batch × position × 128"

    def test_another_prompt_gives_another_answer(self) -> None:
        at = visit("model", model="modadd-113")
        settled(at.text_area[0].set_value("100 + 20 =").run())
        tokens = next(frame.value for frame in at.dataframe if "probability" in frame.value)
        assert tokens.iloc[0]["token"].strip() == "7"

    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            ("12 + apple =", "outside the vocabulary"),
            ("1 2 3 4 5 6 =", "the prompt has 7 tokens"),
            ("", "the prompt is empty"),
        ],
    )
    def test_a_prompt_that_cannot_be_run(self, prompt: str, message: str) -> None:
        at = visit("model", model="modadd-113")
        settled(at.text_area[0].set_value(prompt).run())
        assert message in texts(at)

    def test_a_model_that_is_not_there_is_one_sentence_and_can_be_tried_again(self) -> None:
        at = visit("model", model="grammer-4l")
        assert "did not come with the workbench" in texts(at)
        settled(button(at, "Open it").click().run())
        assert len(at.error) == 1
        assert "the hub cannot be asked" in texts(at)
        assert button(at, "Try again")

    @pytest.mark.real_model
    def test_a_folder_from_a_link_is_opened_after_a_click_only(self, stories: Path) -> None:
        at = visit("model", model=str(stories))
        assert not at.dataframe
        settled(button(at, "Open it").click().run())
        facts = next(frame.value for frame in at.dataframe if "fact" in frame.value)
        assert facts.set_index("fact").loc["key/value heads", "value"] == "4"


class TestPatching:
    def test_the_main_journey(self) -> None:
        at = run_patching(model="modadd-113", n="8", site="z")
        model = workbench.load_model("modadd-113")
        pairs = ContrastPairs.from_task(model, "modular-addition", n=8)
        expected = activation_patching.patch(model, pairs, site="z")
        assert expected.summary() in texts(at)
        assert run_in(at) == runs.RunStore().runs()[0].id
        stored = runs.RunStore().find(
            activation_patching.PatchingResult, runs.RunStore().runs()[0].id
        )
        assert stored is not None
        assert np.array_equal(stored.per_prompt, expected.per_prompt)
        assert stored.script().strip() in [code.value.strip() for code in at.code]

    def test_the_preflight_is_one_line_of_ticks_that_opens(self) -> None:
        at = visit("patching", model="modadd-113", n="8")
        assert "✓ alignment" in re.sub(r"\\", "", at.expander[0].label)
        said = texts(at)
        assert "logit difference: clean" in said
        assert "is the real model: log-probabilities differ" in said
        assert "hooks fired: at all 1 layers" in said

    def test_a_stored_run_is_shown_at_once(self) -> None:
        run = run_in(run_patching(model="modadd-113", n="8"))
        at = AppTest.from_file(str(ROOT / "workbench" / "app.py"), default_timeout=PATIENCE)
        at.query_params["run"] = run
        at.switch_page("../pages/patching.py")
        at.run()
        assert "Denoising residual stream before each layer of modadd-113" in texts(at)
        assert not any(item.label.startswith("Run (") for item in at.button)

    def test_a_cell_in_the_address_shows_the_tokens_before_and_after(self) -> None:
        run = run_in(run_patching(model="modadd-113", n="8"))
        at = visit("patching", model="modadd-113", n="8", run=run, cell="0.1")
        model = workbench.load_model("modadd-113")
        pairs = ContrastPairs.from_task(model, "modular-addition", n=8)
        result = activation_patching.patch(model, pairs)
        seen = activation_patching.inspect_cell(model, result, (0, 1))
        assert seen.summary() in texts(at)
        table = next(frame.value for frame in at.dataframe if "before" in frame.value)
        np.testing.assert_allclose(table["after"], seen.after, atol=1e-6)

    def test_a_cell_of_a_head_leads_to_all_that_is_known_of_it(self) -> None:
        asked = {"model": "modadd-113", "n": "8", "site": "z"}
        at = visit("patching", **asked, run=run_in(run_patching(**asked)), cell="2.1")
        (link,) = at.get("page_link")
        heads = [f"head 0.{head}" for head in range(4)]
        assert link.proto.label.replace("\\", "") in heads

    def test_changing_a_control_forgets_the_run(self) -> None:
        at = run_patching(model="modadd-113", n="8")
        settled(at.selectbox(key="direction").set_value("noising").run())
        assert "run" not in at.query_params
        assert button(at, "Run (")

    def test_cancelling_leaves_nothing_stored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reached, go_on = threading.Event(), threading.Event()

        def slow(*_: Any, progress: Any, **__: Any) -> None:
            progress(0.5, "half way")
            reached.set()
            go_on.wait(PATIENCE)
            progress(0.6, "further")

        at = visit("patching", model="modadd-113", n="9")
        monkeypatch.setattr(activation_patching, "patch", slow)
        button(at, "Run (").click().run()
        assert reached.wait(PATIENCE)
        button(at.run(), "Cancel").click().run()
        go_on.set()
        settled(at)
        assert "cancelled" in texts(at)
        assert runs.RunStore().runs() == []

    def test_an_ablation_is_one_more_direction(self) -> None:
        at = run_patching(model="modadd-113", n="8", direction="mean ablation")
        assert "Mean-ablating residual stream" in texts(at)
        assert any("ablation='mean'" in code.value for code in at.code)

    def test_layers_only_as_bars(self) -> None:
        at = run_patching(model="modadd-113", n="8", site="attn_out", positions="all")
        settled(at.selectbox(key=f"layer:{run_in(at)}").set_value(0).run())
        assert "Patching L0 in" in texts(at)


class TestEveryKindOnThePage:
    def test_named_position_sets(self) -> None:
        at = run_patching(model="grammar-4l", task="agreement", n="8", positions="named sets")
        model = workbench.load_model("grammar-4l")
        pairs = ContrastPairs.from_task(model, "agreement", n=8)
        names = pairs.position_names()
        expected = activation_patching.patch(model, pairs, positions=names)
        assert expected.summary() in texts(at)
        assert "the subject" in names
        (run,) = runs.RunStore().runs()
        stored = runs.RunStore().find(activation_patching.PatchingResult, run.id)
        assert stored is not None and stored.columns == names

    def test_the_chosen_sets_and_layers_stand_in_the_address(self) -> None:
        at = run_patching(
            model="grammar-4l", task="agreement", n="8", positions="named sets", sets="the subject"
        )
        assert any("positions=['the subject']" in code.value for code in at.code)
        # From the result on, other sets are another run.
        settled(at.multiselect(key="sets").set_value(["nearer noun"]).run())
        settled(button(at, "Run (").click().run())
        assert any("positions=['nearer noun']" in code.value for code in at.code)
        at = run_patching(model="modadd-113", n="4", site="neuron", layers="0", positions="all")
        assert any("layers=(0,)" in code.value for code in at.code)
        at = visit("patching", model="modadd-113", n="4", positions="named sets", sets="the verb")
        assert at.multiselect(key="sets").value == []

    def test_neurons_are_chosen_by_their_estimated_effect(self) -> None:
        at = run_patching(model="modadd-113", n="8", site="neuron", top="5", positions="all")
        model = workbench.load_model("modadd-113")
        pairs = ContrastPairs.from_task(model, "modular-addition", n=8)
        expected = activation_patching.patch(model, pairs, site="neuron", top=5, positions="all")
        assert expected.summary() in texts(at)
        box = at.selectbox(key=f"neuron:{run_in(at)}")
        assert box.options[0] == f"L0N{expected.units[0][1]}"
        settled(box.set_value(0).run())
        assert f"Patching L0N{expected.units[0][1]} in" in texts(at)

    def test_one_attention_weight_at_a_time(self) -> None:
        at = run_patching(model="modadd-113", n="4", site="pattern", positions="pairs")
        assert "Denoising attention of each head of modadd-113" in texts(at)
        assert any("positions='pairs'" in code.value for code in at.code)

    def test_only_along_the_answer_direction(self) -> None:
        at = run_patching(model="modadd-113", n="8", site="mlp_out", along="true")
        model = workbench.load_model("modadd-113")
        pairs = ContrastPairs.from_task(model, "modular-addition", n=8)
        directions = activation_patching.answer_direction(model, pairs)
        expected = activation_patching.patch(model, pairs, site="mlp_out", directions=directions)
        assert "one direction of the output of each MLP" in expected.summary()
        assert expected.summary() in texts(at)

    def test_a_mean_over_reference_texts(self) -> None:
        at = visit("patching", model="modadd-113", n="8", direction="mean ablation")
        settled(at.text_area[0].set_value("1 + 2 =\n3 + 4 =\n").run())
        settled(button(at, "Run (").click().run())
        assert any("reference=['1 + 2 =', '3 + 4 =']" in code.value for code in at.code)

    def test_latents_of_a_dictionary_in_a_folder(self, tmp_path: Path) -> None:
        config = sae_lens.StandardSAEConfig(
            d_in=128, d_sae=32, metadata=SAEMetadata(hook_name="blocks.0.hook_resid_post")
        )
        sae_lens.StandardSAE(config).save_model(tmp_path / "sae")
        at = visit("patching", model="modadd-113", n="4", site="latent", positions="all")
        assert "Name the folder of a sparse autoencoder" in texts(at)
        settled(at.text_input[0].set_value(str(tmp_path / "no")).run())
        assert "is no folder of a sparse autoencoder" in texts(at)
        settled(at.text_input[0].set_value(str(tmp_path / "sae")).run())
        settled(button(at, "Run (").click().run())
        assert "Denoising latents of a dictionary of modadd-113" in texts(at)
        settled(at.selectbox(key=f"latent:{run_in(at)}").set_value(0).run())
        assert "Patching L0F" in texts(at)

    def test_both_directions_and_every_ablation(self) -> None:
        at = run_patching(model="modadd-113", n="8", site="z", positions="all")
        settled(button(at, "Compare them").click().run())
        model = workbench.load_model("modadd-113")
        pairs = ContrastPairs.from_task(model, "modular-addition", n=8)
        expected = activation_patching.compare(model, pairs, site="z", positions="all")
        assert expected.summary() in texts(at)
        assert not any(item.label.startswith("Compare") for item in at.button)

    def test_pairs_of_different_length_show_their_alignment_before_the_run(self) -> None:
        at = visit("patching", model="grammar-4l", pairs="file", positions="all")
        content = (
            b"clean,corrupted,answer,wrong_answer\n"
            b"The boxes near the chair,The box near the old chair, are, is\n"
        )
        settled(at.file_uploader[0].set_value(("pairs.csv", content, "text/csv")).run())
        assert "align=True" in texts(at) and len(at.error) == 1
        settled(at.toggle(key="align").set_value(True).run())
        assert "positions are matched, of 6 clean and 7 corrupted tokens" in texts(at)
        settled(button(at, "Run (").click().run())
        assert "on pairs.csv" in texts(at)


class TestPairsOnThePage:
    def test_typed_pairs_start_from_an_example_that_runs(self) -> None:
        at = run_patching(model="modadd-113", pairs="typed")
        assert "on typed pairs: mean logit difference" in texts(at)
        assert "no interval: one prompt" in texts(at).lower()
        assert "ContrastPairs.from_text(model, [" in at.code[0].value

    def test_a_file_of_pairs(self) -> None:
        at = visit("patching", model="modadd-113", pairs="file")
        content = (
            b"clean,corrupted,answer,wrong_answer\n1 + 2 =,1 + 5 =,3,6\n4 + 4 =,4 + 9 =,8,13\n"
        )
        settled(at.file_uploader[0].set_value(("pairs.csv", content, "text/csv")).run())
        settled(button(at, "Run (").click().run())
        assert "on pairs.csv" in texts(at)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"clean,corrupted,answer,wrong_answer\n1 + 2 =,1 =,3,6\n", "They part at position 1"),
            (b"clean,corrupted,answer,wrong_answer\n1 + 2 =,1 + 5 =,3 4,6\n", "is 2 tokens"),
            (b"clean,corrupted,answer,wrong_answer\n1 + x =,1 + 5 =,3,6\n", "outside the vocab"),
            (b"a,b\n1,2\n", "record 1 has columns a, b: expected columns clean,corrupted"),
            (b"", "is empty"),
            (b"x" * 10_000_000, "more than the 5 MB"),
        ],
    )
    def test_bad_files_get_one_sentence(self, content: bytes, message: str) -> None:
        at = visit("patching", model="modadd-113", pairs="file")
        settled(at.file_uploader[0].set_value(("pairs.csv", content, "text/csv")).run())
        assert message in texts(at)
        assert len(at.error) == 1
        assert not any(item.label.startswith("Run (") for item in at.button)

    def test_a_task_that_does_not_fit_the_model(self) -> None:
        at = visit("patching", model="modadd-113", task="indirect-object")
        assert "needs words that 'modadd-113' has as single tokens" in texts(at)

    @pytest.mark.parametrize(
        "query",
        [
            {"run": "../../etc/passwd"},
            {"run": "0" * 16, "cell": "99.99"},
            {"site": "nothing", "metric": "<b>", "direction": "up", "n": "-5", "task": "none"},
        ],
    )
    def test_a_broken_link_falls_back(self, query: dict[str, str]) -> None:
        at = visit("patching", model="modadd-113", **query)
        assert at.selectbox(key="site").value == "resid_pre"
        assert button(at, "Run (")


def test_opening_two_models_at_once_in_a_fresh_process() -> None:
    """Two tabs right after the start: transformers must not be imported twice at once."""
    code = (
        "import json, threading, workbench\n"
        "found, names = {}, workbench.list_models()\n"
        "def go(i, name):\n"
        "    try: found[i] = workbench.fingerprint(workbench.load_model(name))\n"
        "    except BaseException as error: found[i] = repr(error)\n"
        "pairs = list(enumerate([*names, *names]))\n"
        "threads = [threading.Thread(target=go, args=pair) for pair in pairs]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(json.dumps(found))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout.splitlines()[-1])
    names = workbench.list_models()
    expected = [workbench.fingerprint(workbench.load_model(name)) for name in names]
    assert [found[str(i)] for i in range(2 * len(names))] == [*expected, *expected]
