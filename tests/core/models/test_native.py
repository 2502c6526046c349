"""Folders in TransformerLens' own words: what is written is read again, to the bit, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformer_lens

import workbench
from workbench.core.engine import running
from workbench.core.models import folders, native, sources
from workbench.core.planted import unplanted

TOKENS = torch.tensor([[1, 2, 3, 0], [4, 5, 1, 1]])
# HookedTransformer is deprecated; its state dictionaries are what many researchers have.
OLD = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native.save_native(unplanted.randomised(), tmp_path_factory.mktemp("models") / "own")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


class TestRoundTrip:
    @pytest.mark.parametrize(
        "make", [unplanted.randomised, lambda: workbench.load_model("modadd-113")]
    )
    def test_the_same_model_comes_back_to_the_bit(
        self, make: Callable[[], Any], tmp_path: Path
    ) -> None:
        model = make()
        again = workbench.load_model(native.save_native(model, tmp_path / "own"))
        assert workbench.fingerprint(again) == workbench.fingerprint(model)
        tokens = TOKENS[:, : int(model.cfg.n_ctx)]
        assert torch.equal(running.run(again, tokens), running.run(model, tokens))
        assert again.cfg.default_prepend_bos == model.cfg.default_prepend_bos

    def test_edited_weights_and_an_unembedding_bias_come_back(self, tmp_path: Path) -> None:
        model = unplanted.randomised()
        with torch.no_grad():
            model.b_U.add_(torch.arange(7.0))
        again = workbench.load_model(native.save_native(model, tmp_path / "own"))
        assert workbench.fingerprint(again) == workbench.fingerprint(model)
        assert torch.equal(running.run(again, TOKENS), running.run(model, TOKENS))
        plain = sources.plain_model(again)
        assert plain is not None
        # The bridge and the network add the same numbers in the same order.
        torch.testing.assert_close(plain(TOKENS), running.run(again, TOKENS), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_another_number_format_is_kept_where_it_is_asked_for(
        self, dtype: torch.dtype, tmp_path: Path
    ) -> None:
        model = unplanted.randomised(dtype=dtype)
        place = native.save_native(model, tmp_path / "own")
        again = workbench.load_model(place, dtype=dtype)
        assert workbench.fingerprint(again) == workbench.fingerprint(model)

    def test_a_model_without_a_tokenizer_opens(self, folder: Path) -> None:
        for file in folder.glob("tokenizer*"):
            file.unlink()
        assert workbench.load_model(folder).tokenizer is None

    def test_the_configuration_may_be_the_bridges_own_dictionary(self, folder: Path) -> None:
        model = workbench.load_model(folder)
        text = json.dumps(model.cfg.to_dict(), default=str)
        (folder / "config.json").write_text(text)
        assert workbench.fingerprint(workbench.load_model(folder)) == workbench.fingerprint(model)


class TestWriting:
    def test_a_folder_in_use_is_left_as_it_is(self, written: Path) -> None:
        before = {file.name: file.read_bytes() for file in written.iterdir()}
        with pytest.raises(ValueError, match="is there already"):
            native.save_native(unplanted.randomised(seed=1), written)
        assert {file.name: file.read_bytes() for file in written.iterdir()} == before

    def test_nothing_is_left_behind_when_writing_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(safetensors.torch, "save_file", fail)
        with pytest.raises(OSError, match="No space left"):
            native.save_native(unplanted.randomised(), tmp_path / "own")
        assert list(tmp_path.iterdir()) == []

    def test_what_is_no_native_bridge_is_refused(self) -> None:
        model = unplanted.randomised()
        model.cfg.architecture = "LlamaForCausalLM"
        with pytest.raises(ValueError, match=r"its own save_pretrained\(folder\)"):
            native.save_native(model, "nowhere")

    def test_a_setting_that_the_format_cannot_say_is_refused(self) -> None:
        model = unplanted.randomised()
        model.cfg.parallel_attn_mlp = True
        with pytest.raises(ValueError, match="parallel_attn_mlp = True is not what a native"):
            native.save_native(model, "nowhere")


KINDS: dict[str, dict[str, Any]] = {
    "LayerNorm": {"normalization_type": "LN", "act_fn": "gelu"},
    "folded": {"normalization_type": "LNPre", "act_fn": "gelu_new"},
    "attention only": {"normalization_type": None, "attn_only": True},
    "rotary, grouped, gated": {
        "normalization_type": "RMS",
        "act_fn": "silu",
        "positional_embedding_type": "rotary",
        "n_key_value_heads": 2,
        "gated_mlp": True,
    },
    "rotary in pairs, in part": {
        "normalization_type": "LN",
        "act_fn": "relu",
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": True,
        "rotary_dim": 4,
        "final_rms": True,
    },
    "rotary in halves, in part": {
        "normalization_type": "RMSPre",
        "act_fn": "relu",
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
        "attn_scale": 2.5,
        "attn_scores_soft_cap": 3.0,
        "output_logits_soft_cap": 5.0,
    },
}


def hooked(kind: str) -> Any:
    """A HookedTransformer whose every parameter, biases and norms included, is random."""
    config = transformer_lens.HookedTransformerConfig(
        n_layers=2, d_model=16, d_head=8, n_heads=4, d_mlp=24, n_ctx=12, d_vocab=7, seed=0,
        device="cpu", **KINDS[kind],
    )  # fmt: skip
    model = transformer_lens.HookedTransformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            spared = config.gated_mlp and name.endswith(("mlp.b_in", "mlp.b_out"))
            value.copy_(
                torch.zeros(()) if spared else torch.randn(value.shape, generator=generator)
            )
    return model.eval()


def write_hooked(model: Any, folder: Path) -> Path:
    """What a researcher would write, with nothing but torch and json."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model.cfg.to_dict(), default=str))
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "model.safetensors",
    )
    return folder


@OLD
class TestHookedTransformer:
    @pytest.mark.parametrize("kind", KINDS)
    def test_its_logits_are_the_same(self, kind: str, tmp_path: Path) -> None:
        model = hooked(kind)
        bridge = workbench.load_model(write_hooked(model, tmp_path / "hooked"))
        with torch.inference_mode():
            expected = model(TOKENS)
        assert expected.std() > 0.5
        torch.testing.assert_close(running.run(bridge, TOKENS), expected, atol=1e-5, rtol=1e-5)

    def test_heads_and_neurons_keep_their_numbers(self, tmp_path: Path) -> None:
        model = hooked("LayerNorm")
        bridge = workbench.load_model(write_hooked(model, tmp_path / "hooked"))
        for name in ("blocks.1.attn.hook_z", "blocks.1.attn.hook_q", "blocks.0.mlp.hook_post"):
            _, theirs = model.run_with_cache(TOKENS, names_filter=name)
            _, ours = bridge.run_with_cache(TOKENS, names_filter=name)
            torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-5)

    def test_what_a_native_network_cannot_do_is_refused(self, tmp_path: Path) -> None:
        model = hooked("rotary, grouped, gated")
        with torch.no_grad():
            model.blocks[0].mlp.b_in += 1
        text = sentence(write_hooked(model, tmp_path / "hooked"))
        assert "blocks.0.mlp.b_in is not zero" in text


def sentence(folder: Path) -> str:
    """What opening says, checked to be one line."""
    with pytest.raises(sources.ModelSourceError) as caught:
        workbench.load_model(folder)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


class TestBadSettings:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"n_dimensions": 3}, "there is no setting 'n_dimensions'"),
            ({"n" * 5_000: 3}, "n…; expected those of"),
            ({"d_model": "16"}, "d_model: Input should be a valid integer"),
            ({"d_model": 0}, "d_model: Input should be greater than or equal to 1"),
            ({"d_model": True}, "d_model: Input should be a valid integer"),
            ({"n_layers": 10**9}, "n_layers: Input should be less than or equal to 1000"),
            ({"n_ctx": 100_000}, "n_ctx 100000 takes 20 GB of attention masks in 2 layers"),
            ({"act_fn": "solu"}, "act_fn: Input should be 'gelu', 'gelu_new'"),
            ({"positional_embedding_type": "alibi"}, "positional_embedding_type: Input should be"),
            ({"eps": float("nan")}, "eps: Input should be"),
            ({"n_key_value_heads": 3}, "4 query heads cannot share 3 key heads"),
            ({"rotary_dim": 6}, "rotary_dim 6 is more than d_head 4"),
            ({"normalization_type": None, "final_rms": True}, "final_rms needs a normalization"),
            ({"attn_scale": 1}, "attn_scale = 1 leaves scores undivided"),
            ({"attention_dir": "bidirectional"}, "expected 'causal'"),
            ({"use_local_attn": True}, "use_local_attn = True is not what a native network can"),
            ({"clip_qkv": 8.0}, "clip_qkv = 8.0 is not what a native network can do"),
        ],
    )
    def test_a_setting_that_is_wrong_is_named(
        self, changes: dict[str, Any], words: str, folder: Path
    ) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["config"].update(changes)
        (folder / "config.json").write_text(json.dumps(config))
        text = sentence(folder)
        assert "does not describe a model" in text
        assert words in text

    def test_a_setting_that_is_missing_is_named(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        del config["config"]["d_vocab"]
        (folder / "config.json").write_text(json.dumps(config))
        assert "d_vocab: Field required" in sentence(folder)

    @pytest.mark.parametrize("content", [[], 3, None])
    def test_settings_that_are_no_object(self, content: Any, folder: Path) -> None:
        made = {"format": native.FORMAT, "config": content}
        (folder / "config.json").write_text(json.dumps(made))
        assert 'expected "format" and "config"' in sentence(folder)

    def test_a_file_that_is_too_large_or_too_deep(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "config.json").write_text("[" * 100_000)
        assert "is not readable JSON" in sentence(folder)
        monkeypatch.setattr(folders, "MAX_JSON_BYTES", 10_000)
        assert "settings take" in sentence(folder)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")


class TestBadWeights:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda w: w.pop("head.weight"), "it lacks head.weight"),
            (lambda w: [w.pop(name) for name in list(w)[:5]], "it lacks head.weight, layers.0"),
            (lambda w: w.update(other=torch.ones(2)), "it has besides other"),
            (
                lambda w: w.update({"head.weight": torch.ones(3, 3)}),
                "head.weight has the shape (3, 3), expected (7, 16)",
            ),
            (
                lambda w: w.update({"head.weight": torch.ones(7, 16, dtype=torch.int64)}),
                "head.weight holds I64, expected floating-point numbers",
            ),
            (
                lambda w: w["head.weight"].__setitem__((0, 0), torch.nan),
                "has 1 weights that are NaN or infinite in",
            ),
        ],
    )
    def test_a_tensor_that_is_wrong_is_named(
        self, change: Callable[[dict[str, torch.Tensor]], None], words: str, folder: Path
    ) -> None:
        rewrite(folder, change)
        assert words in sentence(folder)

    @pytest.mark.parametrize("kept", [0, 4, 100, -1])
    def test_a_file_that_is_cut_off(self, kept: int, folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:kept])
        assert "model.safetensors" in sentence(folder)

    @pytest.mark.parametrize("length", [2**63, 10**12])
    def test_a_header_that_claims_to_be_huge(self, length: int, folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
        assert "model.safetensors" in sentence(folder)

    def test_a_tensor_that_claims_to_be_huge(self, folder: Path) -> None:
        huge = {"head.weight": {"dtype": "F32", "shape": [10**9, 10**6], "data_offsets": [0, 4]}}
        header = json.dumps(huge).encode()
        content = len(header).to_bytes(8, "little") + header + b"\0" * 4
        (folder / "model.safetensors").write_bytes(content)
        assert "of memory and models may take" in sentence(folder)

    def test_no_weights_at_all(self, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        assert "there is no model.safetensors" in sentence(folder)


def test_a_tokenizer_that_is_damaged_is_not_passed_over(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer.save_pretrained(folder)" in sentence(folder)


def test_a_lent_object_is_what_its_name_opens_until_it_is_given_back() -> None:
    model = unplanted.randomised()
    before = sources.source_of(model)
    with sources.lent(model, "own") as name:
        assert name == "shown: own"
        assert workbench.load_model(name) is model
        assert sources.source_of(model).name == name
        assert sources.source_of(model).folder is None
    assert sources.source_of(model) == before
    with pytest.raises(ValueError, match=r"call workbench.show\(model, pairs\) there again"):
        workbench.load_model(name)


def test_texts_are_read_as_before(written: Path) -> None:
    made = unplanted.randomised().to_tokens("bee fox cat")
    assert made.tolist() == [[6, 1, 5, 2]]
    assert torch.equal(workbench.load_model(written).to_tokens("bee fox cat"), made)
