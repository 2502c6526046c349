"""Opening models: three sources, and one sentence for each thing that can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
import transformers
from huggingface_hub import errors

import workbench
from workbench.core.engine import continuation, running
from workbench.core.models import sources
from workbench.core.planted import two_steps, unplanted, word_level

VOCABULARY = len(word_level.WORDS) + 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Hugging Face folder with everything that belongs in one."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    word_level.word_tokenizer(word_level.WORDS, bos=True).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestSources:
    @pytest.mark.parametrize("name", workbench.list_models())
    def test_bundled(self, name: str) -> None:
        model = workbench.load_model(name)
        source = sources.source_of(model)
        assert (source.kind, source.name, source.processing) == ("bundled", name, "none")
        card = workbench.model_card(name)
        said = continuation.next_tokens(model, card.default_prompt, k=1)
        assert said.iloc[0]["token"].strip() == {"grammar-4l": "Mary", "modadd-113": "69"}[name]

    def test_a_folder(self, whole: Path) -> None:
        model = workbench.load_model(whole)
        assert sources.source_of(model).kind == "folder"
        assert (model.cfg.n_layers, model.cfg.n_heads, model.cfg.n_key_value_heads) == (2, 4, 2)
        assert model.cfg.dtype == torch.float32
        assert not model.training

    @pytest.mark.real_model
    def test_stories260k_continues_as_its_documentation_prints(self, stories: Path) -> None:
        text = (
            "Once upon a time, there was a little girl named Lily. She loved to play outside in "
            "the park. One day, she saw a big, red ball. She wanted to play with it, but it was "
            "too high."
        )
        model = workbench.load_model(stories)
        assert continuation.continue_text(model, "", n_tokens=90).startswith(text)

    def test_a_hub_name_is_downloaded_without_pickles_and_opened_as_a_folder(
        self, whole: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: dict[str, Any] = {}

        def download(name: str, **arguments: Any) -> str:
            asked.update(arguments, name=name)
            return str(whole)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        model = workbench.load_model("somebody/tiny-llama", revision="v1")
        assert (asked["name"], asked["revision"]) == ("somebody/tiny-llama", "v1")
        assert not [pattern for pattern in asked["allow_patterns"] if "bin" in pattern]
        assert sources.source_of(model).kind == "hub"
        assert workbench.fingerprint(model) == workbench.fingerprint(workbench.load_model(whole))

    @pytest.mark.parametrize("make", [two_steps.two_layer, unplanted.randomised])
    def test_a_bridge_of_ones_own_is_an_object_without_files(self, make: Callable[[], Any]) -> None:
        model = make()
        assert sources.source_of(model).kind == "object"
        assert sources.plain_model(model) is None

    def test_another_number_format(self, whole: Path) -> None:
        model = workbench.load_model(whole, dtype=torch.bfloat16)
        assert {p.dtype for p in model.original_model.parameters()} == {torch.bfloat16}

    @pytest.mark.parametrize("name", [*workbench.list_models(), "folder"])
    def test_the_bridge_equals_the_plain_model(self, name: str, whole: Path) -> None:
        model = workbench.load_model(whole if name == "folder" else name)
        plain = sources.plain_model(model)
        assert plain is not None
        tokens = torch.tensor([[1, 2, 3], [4, 5, 1]])
        with torch.inference_mode():
            output = plain(tokens)
        expected = output if isinstance(output, torch.Tensor) else output.logits
        torch.testing.assert_close(running.run(model, tokens), expected, atol=1e-4, rtol=0)


class TestFingerprint:
    def test_two_loads_agree_and_one_changed_weight_differs(self, whole: Path) -> None:
        first, second = workbench.load_model(whole), workbench.load_model(whole)
        before = workbench.fingerprint(first)
        assert before == workbench.fingerprint(second)
        assert len(before) == 64
        with torch.no_grad():
            next(second.original_model.parameters())[0, 0] += 1e-3
        assert workbench.fingerprint(second) != before
        assert workbench.fingerprint(first) == before

    def test_the_configuration_counts(self, folder: Path, whole: Path) -> None:
        edit_json(folder / "config.json", rms_norm_eps=0.5)
        same = workbench.fingerprint(workbench.load_model(whole))
        assert workbench.fingerprint(workbench.load_model(folder)) != same

    def test_hub_folder_and_copy_are_the_same_model(self, folder: Path, whole: Path) -> None:
        copies = (workbench.load_model(folder), workbench.load_model(whole))
        assert workbench.fingerprint(copies[0]) == workbench.fingerprint(copies[1])


def sentence(name: Any, **arguments: Any) -> str:
    """What opening says, checked to be one line without a traceback."""
    with pytest.raises(sources.ModelSourceError) as caught:
        workbench.load_model(name, **arguments)
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text and len(text) < 500
    return text


class TestBadInput:
    def test_a_hub_name_without_a_network(self) -> None:
        text = sentence("somebody/some-model")
        assert "the hub cannot be asked for it" in text
        assert "use a bundled model (grammar-4l, modadd-113), a Hugging Face folder" in text

    def test_an_unknown_name_suggests_the_nearest(self) -> None:
        assert "did you mean 'grammar-4l'?" in sentence("grammer-4l")

    @pytest.mark.parametrize("name", ["two words", "a/b/c d", "<script>", ""])
    def test_what_cannot_be_a_name(self, name: str) -> None:
        text = sentence(name)
        assert "is not a model" in text or "there is no folder" in text

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (errors.RepositoryNotFoundError, "the hub has no model"),
            (errors.GatedRepoError, "is gated on the hub: accept its terms"),
            (errors.RevisionNotFoundError, "has no revision 'v9'"),
        ],
    )
    def test_what_the_hub_answers(
        self, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(name: str, **_: Any) -> str:
            raise error.__new__(error)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
        assert words in sentence("somebody/some-model", revision="v9")

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        assert "there is no folder" in sentence(tmp_path / "nothing")

    def test_a_folder_without_a_config(self, tmp_path: Path) -> None:
        assert "has no config.json: give a Hugging Face folder" in sentence(tmp_path)

    def test_a_folder_without_a_tokenizer(self, folder: Path) -> None:
        for file in folder.glob("tokenizer*"):
            file.unlink()
        assert "has no tokenizer: save one beside the weights" in sentence(folder)

    def test_a_tokenizer_that_is_damaged(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{")
        assert "tokenizer.save_pretrained(folder)" in sentence(folder)

    def test_a_pickled_checkpoint_is_never_opened(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        text = sentence(folder)
        assert "pickled weights (pytorch_model.bin), which can run code" in text
        assert "safe_serialization=True" in text

    def test_no_weights_at_all(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        assert "has no safetensors weights" in sentence(folder)

    def test_an_architecture_that_the_library_cannot_run(self, folder: Path) -> None:
        edit_json(folder / "config.json", model_type="unheard-of", architectures=["UnheardOf"])
        text = sentence(folder)
        assert "transformer-lens cannot run" in text and "UnheardOf" in text

    def test_a_repository_with_code_of_its_own(self, folder: Path) -> None:
        edit_json(folder / "config.json", auto_map={"AutoModel": "code.Model"})
        assert "needs Python code of its own" in sentence(folder)

    def test_a_config_that_is_not_json(self, folder: Path) -> None:
        (folder / "config.json").write_text("{not json")
        assert "is not readable JSON" in sentence(folder)
        (folder / "config.json").write_text("[1]")
        assert "holds list, expected a JSON object" in sentence(folder)

    def test_weights_that_are_cut_off(self, folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        assert "is damaged (its header" in sentence(folder)

    def test_weights_that_are_nan(self, folder: Path) -> None:
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        weights["model.norm.weight"][:3] = torch.nan
        safetensors.torch.save_file(
            weights, folder / "model.safetensors", metadata={"format": "pt"}
        )
        text = sentence(folder)
        assert "has 3 weights that are NaN or infinite in" in text

    def test_a_device_that_is_not_there(self) -> None:
        assert "use 'auto' or 'cpu'" in sentence("modadd-113", device="warp-drive")

    @pytest.mark.parametrize("damage", ["config", "weights", "unknown"])
    def test_a_native_folder_that_is_damaged(self, damage: str, tmp_path: Path) -> None:
        folder = tmp_path / "native"
        shutil.copytree(sources.card.BUNDLED / "modadd-113", folder)
        config = json.loads((folder / "config.json").read_text())
        if damage == "config":
            config["config"]["d_model"] = 64
        elif damage == "unknown":
            config["config"]["n_dimensions"] = 64
        else:
            (folder / "model.safetensors").write_bytes(b"\0" * 100)
        (folder / "config.json").write_text(json.dumps(config))
        words = "is damaged" if damage == "weights" else "describe"
        assert words in sentence(folder)
