"""Directions: made in five ways, kept and read back, and refused where they are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

import workbench
from analyses import feature_visualization as features
from tests import families
from workbench import Concept, Corpus
from workbench.core.engine import running, units
from workbench.core.models import card, directions
from workbench.core.models.directions import Direction, DirectionError
from workbench.core.planted import known_units, word_level


@pytest.fixture(scope="module")
def grammar() -> Any:
    return workbench.load_model("grammar-4l")


@pytest.fixture(scope="module")
def planted() -> Any:
    return known_units.detectors()


@pytest.fixture(scope="module")
def words(planted: Any) -> Corpus:
    rng = np.random.default_rng(0)
    return Corpus.from_tokens(planted, rng.integers(0, len(word_level.WORDS), (60, 4)))


def axis(model: Any, name: str = "first", site: str = "neuron", index: int = 0) -> Direction:
    width = int(model.cfg.d_mlp if site == "neuron" else model.cfg.d_model)
    vector = 3 * np.eye(width, dtype=np.float32)[index]
    return Direction(name, site, 0, vector, "an axis", card.fingerprint(model))


class TestKept:
    def test_it_is_read_back_as_it_was(self, planted: Any, tmp_path: Path) -> None:
        given = axis(planted)
        assert directions.names(planted, root=tmp_path) == []
        key = directions.keep(planted, given, root=tmp_path)
        assert key == "neuron.0-first"
        assert directions.names(planted, root=tmp_path) == [key]
        found = directions.load(planted, key, root=tmp_path)
        assert np.array_equal(found.vector, given.vector)
        assert (found.name, found.site, found.layer, found.made) == (
            "first",
            "neuron",
            0,
            "an axis",
        )
        directions.forget(planted, key, root=tmp_path)
        assert directions.names(planted, root=tmp_path) == []
        assert list(directions.folder(planted, tmp_path).iterdir()) == []

    def test_it_lies_in_the_run_folder_of_its_own_model(self, planted: Any) -> None:
        directions.keep(planted, axis(planted))
        other = families.bridge("native")
        assert directions.names(planted) == ["neuron.0-first"]
        assert directions.names(other) == []
        with pytest.raises(DirectionError, match="of another model"):
            directions.keep(other, axis(planted))

    @pytest.mark.parametrize(
        "name", ["", "../outside", "a/b", "a.b", ".hidden", "a" * 61, "a b", "a\n", "é", "-first"]
    )
    def test_a_hostile_name_is_refused(self, planted: Any, name: str) -> None:
        with pytest.raises(DirectionError, match="is no name of a direction"):
            axis(planted, name)

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "../../etc/passwd",
            "neuron.0-../x",
            "neuron.0-none",
            "/abs",
            "neuron.0-a\n",
            "a" * 999,
        ],
    )
    def test_a_hostile_key_is_not_there(self, planted: Any, key: str, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text("{}")
        with pytest.raises(DirectionError, match="there is no direction"):
            directions.load(planted, key, root=tmp_path)
        with pytest.raises(DirectionError, match="there is no direction"):
            directions.forget(planted, key, root=tmp_path)

    def test_what_is_damaged_or_renamed_is_a_sentence(self, planted: Any, tmp_path: Path) -> None:
        key = directions.keep(planted, axis(planted), root=tmp_path)
        place = directions.folder(planted, tmp_path)
        record = json.loads((place / f"{key}.json").read_text())
        vector = (place / f"{key}.safetensors").read_bytes()
        for wrong in ({"layer": "0"}, {"site": "z"}, {"more": 1}, {"name": "../x"}):
            (place / f"{key}.json").write_text(json.dumps(record | wrong))
            with pytest.raises(DirectionError, match="damaged"):
                directions.load(planted, key, root=tmp_path)
        (place / f"{key}.json").write_text(json.dumps(record | {"name": "second"}))
        with pytest.raises(DirectionError, match="renamed by hand"):
            directions.load(planted, key, root=tmp_path)
        (place / f"{key}.json").write_text(json.dumps(record))
        for content in (b"", vector[:20], b"\0" * 40):
            (place / f"{key}.safetensors").write_bytes(content)
            with pytest.raises(DirectionError, match="damaged"):
                directions.load(planted, key, root=tmp_path)
        short = safetensors.numpy.save({"vector": np.ones(3, dtype=np.float32)})
        (place / f"{key}.safetensors").write_bytes(short)
        with pytest.raises(DirectionError, match="the vector has 3 numbers"):
            directions.load(planted, key, root=tmp_path)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"vector": np.zeros(4, dtype=np.float32)}, "zero or not finite"),
            ({"vector": np.full(4, np.nan, dtype=np.float32)}, "zero or not finite"),
            ({"vector": np.zeros(0, dtype=np.float32)}, "0 numbers"),
            ({"site": "z"}, "unknown site"),
            ({"made": ""}, "0 characters"),
            ({"made": "a" * 1001}, "1,001 characters"),
        ],
    )
    def test_what_is_no_direction_is_refused(
        self, planted: Any, change: dict[str, Any], said: str
    ) -> None:
        given: dict[str, Any] = {
            "name": "one",
            "site": "neuron",
            "layer": 0,
            "vector": np.ones(4, dtype=np.float32),
            "made": "by hand",
            "fingerprint": card.fingerprint(planted),
        }
        with pytest.raises(DirectionError, match=said):
            Direction(**{**given, **change})

    def test_a_layer_or_width_that_is_not_there(self, planted: Any, tmp_path: Path) -> None:
        mark = card.fingerprint(planted)
        far = Direction("far", "neuron", 9, np.ones(4, dtype=np.float32), "by hand", mark)
        with pytest.raises(DirectionError, match="layers 0 to 1"):
            directions.keep(planted, far, root=tmp_path)
        wide = Direction("wide", "neuron", 0, np.ones(5, dtype=np.float32), "by hand", mark)
        with pytest.raises(DirectionError, match="5 numbers; neuron has 4"):
            directions.keep(planted, wide, root=tmp_path)


def test_an_axis_gives_the_neurons_own_numbers(planted: Any, words: Corpus) -> None:
    given = axis(planted, index=2).as_units(controls=9)
    own = features.top_examples(planted, words, "neuron", layers=[0])
    found = features.top_examples(planted, words, "neuron", layers=[0], directions=given)
    at, place = own.of("neuron 0.2"), found.of("direction 0.0")
    assert len(found.units) == 10
    assert np.array_equal(found.top_values[place], own.top_values[at])
    assert np.array_equal(found.top_rows[place], own.top_rows[at])
    assert found.mean[place] == own.mean[at] and found.density[place] == own.density[at]


def test_beside_it_stand_random_unit_vectors_the_same_each_time(planted: Any) -> None:
    one, two = (axis(planted).as_units() for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (1 + directions.CONTROLS, 4)
    assert torch.allclose(one.norm(dim=1), torch.ones(len(one)))
    assert axis(planted).as_units(controls=0).tolist() == [[1, 0, 0, 0]]


class TestOfTokens:
    @pytest.mark.parametrize("family", [*families.CONFIGS, families.NATIVE])
    def test_it_reads_the_logit_difference_off_the_last_stream(self, family: str) -> None:
        model = families.bridge(family)
        layer = families.LAYERS - 1
        made = directions.of_tokens(model, 3, 1, layer=layer)
        tokens = torch.tensor([[0, 3, 2, 1, 4, 5]])
        name = f"blocks.{layer}.hook_resid_post"
        logits, kept = running.run_and_keep(model, tokens, [name])
        gaps = (logits[0, :, 3] - logits[0, :, 1]).double()
        stream = kept[name][0].double()
        read = stream @ torch.from_numpy(made.vector).double()
        if family == "gemma2":
            # Its logits are bent by a soft cap.
            assert np.corrcoef(read, gaps)[0, 1] > 0.9
            return
        layer_norm = family in {"gpt2", "pythia", families.NATIVE}
        spread = stream.var(-1, correction=0) if layer_norm else (stream**2).mean(-1)
        scaled = read / (spread + float(model.cfg.eps)).sqrt()
        # A unit vector: up to one factor, and up to biases, which are the same at every position.
        assert np.corrcoef(scaled, gaps)[0, 1] > 1 - 1e-6
        assert np.linalg.norm(made.vector) == pytest.approx(1.0, rel=1e-5)

    def test_words_and_ids_are_the_same_and_the_name_says_what_it_is(self, grammar: Any) -> None:
        made = directions.of_tokens(grammar, " are", " is", layer=2)
        ids = [int(grammar.to_tokens(word, prepend_bos=False)[0, 0]) for word in ("are", "is")]
        same = directions.of_tokens(grammar, *ids, layer=2)
        assert np.array_equal(made.vector, same.vector)
        assert made.key == "resid_post.2-are-less-is"
        assert made.made == "logit of 'are' less 'is', as the final norm lets it be read"
        alone = directions.of_tokens(grammar, " are", layer=2)
        assert alone.made.startswith("logit of 'are',")

    @pytest.mark.parametrize(
        ("tokens", "more", "said"),
        [
            ((" are", " are"), {}, "both tokens are the same"),
            ((" zebra", None), {}, "outside the vocabulary"),
            ((" are is", None), {}, "is 2 tokens"),
            ((" are", None), {"site": "neuron"}, "neurons are no stream"),
            ((" are", None), {"layer": 7}, "layers 0 to 3"),
        ],
    )
    def test_what_is_no_direction_is_a_sentence(
        self, grammar: Any, tokens: tuple[Any, Any], more: dict[str, Any], said: str
    ) -> None:
        call: Any = directions.of_tokens
        with pytest.raises(ValueError, match=said):
            call(grammar, *tokens, **{"layer": 2, **more})


class TestOtherWays:
    def test_two_prompts_that_differ_in_a_token(self, planted: Any) -> None:
        made = directions.of_prompts(
            planted, (0, 3, 2, 1), (0, 4, 2, 1), layer=0, site="resid_pre", position=1
        )
        expected = np.zeros(len(made.vector))
        expected[3], expected[4] = 1, -1
        assert np.array_equal(made.vector, expected)
        assert "position 1" in made.made
        with pytest.raises(DirectionError, match="zero or not finite"):
            directions.of_prompts(planted, (0, 3), (0, 3), layer=0)
        with pytest.raises(ValueError, match="positions 0 to 1"):
            directions.of_prompts(planted, (0, 3), (0, 3), layer=0, position=5)

    def test_means_with_and_without_a_concept(self, planted: Any, words: Corpus) -> None:
        rows = [words.row(i).tolist() for i in range(20)]
        is_dog = [[int(token == known_units.DOG) for token in row] for row in rows]
        concept = Concept(rows, is_dog, "dogs and others")
        made = directions.of_concept(planted, concept, layer=0, site="neuron")
        # Neuron 0 is 1 at "dog" and 0 elsewhere.
        assert made.vector[0] == pytest.approx(1.0)
        assert made.name == "dogs-and-others"
        flat = [one for row in is_dog for one in row]
        assert f"{sum(flat)} examples" in made.made

    def test_the_axis_along_which_most_varies(self, planted: Any, words: Corpus) -> None:
        family = units.family(planted, "resid_post", 0)
        rows = np.stack([words.row(i) for i in range(len(words))])
        _, kept = running.run_and_keep(planted, torch.from_numpy(rows), [family.hook])
        table = kept[family.hook].flatten(0, 1).double().numpy()
        _, sizes, vectors = np.linalg.svd(table - table.mean(0))
        for number in (0, 1):
            made = directions.of_axis(planted, words, layer=0, number=number)
            assert abs(made.vector @ vectors[number]) == pytest.approx(1.0, abs=1e-5)
            assert f"{sizes[number] ** 2 / (sizes**2).sum():.1%} of the variance" in made.made
        with pytest.raises(DirectionError, match="axes 0 to"):
            directions.of_axis(planted, words, layer=0, number=999)

    def test_a_file_that_holds_it(self, planted: Any, tmp_path: Path) -> None:
        table = np.arange(1, 9, dtype=np.float64).reshape(2, 4)
        np.save(tmp_path / "my vectors.npy", table)
        made = directions.of_file(
            planted, tmp_path / "my vectors.npy", layer=0, site="neuron", row=1
        )
        assert made.vector.tolist() == [5, 6, 7, 8] and made.name == "my-vectors"
        safetensors.numpy.save_file({"a": table[0], "b": table[1]}, tmp_path / "two.safetensors")
        given: dict[str, Any] = {"layer": 0, "site": "neuron"}
        found = directions.of_file(planted, tmp_path / "two.safetensors", tensor="a", **given)
        assert found.vector.tolist() == [1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("name", "content", "more", "said"),
        [
            ("none.npy", None, {}, "cannot be read"),
            ("x.pt", b"x", {}, "expected .npy or .safetensors"),
            ("x.npy", b"no array", {}, "cannot be read"),
            ("x.safetensors", b"no tensors", {}, "cannot be read"),
            ("rows.npy", np.ones((2, 4)), {}, "or the number of a row"),
            ("rows.npy", np.ones((2, 4)), {"row": 5}, "rows 0 to 1"),
            ("wide.npy", np.ones(7), {}, "the vector has 7 numbers"),
            ("words.npy", np.array(["a"]), {}, "or the number of a row"),
            ("code.npy", np.array([print], dtype=object), {}, "cannot be read"),
        ],
    )
    def test_a_file_that_does_not_is_a_sentence(
        self, planted: Any, tmp_path: Path, name: str, content: Any, more: Any, said: str
    ) -> None:
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content is not None:
            np.save(tmp_path / name, content, allow_pickle=True)
        with pytest.raises(DirectionError, match=said):
            directions.of_file(planted, tmp_path / name, layer=0, site="neuron", **more)

    def test_a_name_is_made_of_any_text(self) -> None:
        assert directions.plain_name(" he less  she! ") == "he-less-she"
        assert directions.plain_name("…") == "direction"
        assert len(directions.plain_name("a b" * 99)) <= 60
