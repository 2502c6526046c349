"""Concepts: what counts as an example, fakes, named ways in, and every way to get them wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench.core.modular import fourier
from workbench.core.networks import shapes
from workbench.core.networks.sources import load_network
from workbench.core.planted import unplanted
from workbench.core.prompts import concept_tasks, grammar_variables, named_concepts, tokenization
from workbench.core.prompts.concepts import Concept, ConceptError, fake

TEXTS = ["ape bee", "cat", "dog elk", "fox"]


@pytest.fixture(scope="module")
def grammar() -> TransformerBridge:
    return workbench.load_model("grammar-4l", device="cpu")


@pytest.fixture(scope="module")
def modadd() -> TransformerBridge:
    return workbench.load_model("modadd-113", device="cpu")


class TestExamples:
    def test_of_tokens_each_that_counts(self) -> None:
        concept = Concept([[5, 6, 7], [8, 9]], [[1, -1, 0], [0, 1]], "c")
        found = concept.examples()
        assert found.row.tolist() == [0, 0, 1, 1]
        assert found.position.tolist() == [0, 2, 0, 1]
        assert found.labels.tolist() == [True, False, False, True]
        assert concept.reading == "token"

    def test_of_inputs_each_that_counts(self) -> None:
        concept = Concept([*TEXTS, "bee"], [1, 0, -1, 1, 0], "c", confounds={"x": [1, 2, 3, 4, 5]})
        found = concept.examples()
        assert found.row.tolist() == [0, 1, 3, 4]
        assert found.position.tolist() == [-1] * 4
        assert found.confounds["x"].tolist() == [1, 2, 4, 5]
        assert concept.reading == "last"

    def test_targets_are_numbers(self) -> None:
        targets = np.array([[0.5, 1], [1, 0], [2, 3], [0, 0]])
        concept = Concept(TEXTS, targets, "c")
        assert concept.graded
        assert np.array_equal(concept.examples().targets, targets)


class TestWhatSaysNothing:
    @pytest.mark.parametrize(
        ("inputs", "labels", "more", "message"),
        [
            (TEXTS, [1, 0, 0, 0], {}, "1 examples with the concept and 3 without"),
            (TEXTS, [1, 1, 1, 1], {}, "4 examples with the concept and 0 without"),
            (TEXTS, [1, 0, 1], {}, "4 inputs and 3 labels"),
            (["ape", "ape ", "bee", "cat"], [1, 1, 0, 0], {}, "1 of the 4 inputs .* stand there"),
            (["ape", " ", "bee", "cat"], [1, 1, 0, 0], {}, "a text of 'c' is empty"),
            (TEXTS, [1, 0, 2, 0], {}, "label 2 of 'c': expected 1"),
            (TEXTS, [1, 0, float("nan"), 0], {}, "label nan of 'c'"),
            (TEXTS, np.full((4, 1), np.nan), {}, "labels of 'c' holds a value that is not finite"),
            (TEXTS, np.ones((4, 1)), {}, "is not finite, or the same"),
            ([[1, 2], [3, 4]], [[1, 0], [1]], {}, "labels of 'c' do not fit"),
            ([[1, 2], [3, 4]], [[1, 0], [1, 0]], {"reading": "mean"}, "at each token, not 'mean'"),
            ([[1.5, 2], [3, 4]], [1, 0], {}, "neither texts nor rows of whole numbers"),
            (TEXTS, [1, 0, 1, 0], {"confounds": {"x": [1, 2]}}, "x of 'c' do not fit"),
            (TEXTS, [1, 0, 1, 0], {"confounds": {"x": [1, 2, 3, np.inf]}}, "x of 'c' holds"),
            (np.array([[1.0, np.nan], [1, 2]]), [1, 0], {}, "expected finite numbers"),
        ],
    )
    def test_gets_a_sentence(
        self, inputs: Any, labels: Any, more: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConceptError, match=message):
            Concept(inputs, labels, "c", **more)


class TestFake:
    def test_rows_of_one_label_swap_it_as_a_whole(self) -> None:
        rows = [[i, i + 20, i + 40] for i in range(20)]
        labels = [[-1, i % 2, i % 2] for i in range(20)]
        made = fake(Concept(rows, labels, "c"), seed=1)
        assert made.name == "fake: c"
        assert all(row[0] == -1 and row[1] == row[2] for row in made.labels)
        assert sum(int(row[1]) for row in made.labels) == 10
        assert [int(row[1]) for row in made.labels] != [row[1] for row in labels]

    def test_tokens_are_dealt_labels_where_they_count(self) -> None:
        labels = [[-1, 1, 0, 0] for _ in range(40)]
        made = Concept([[i, i, i, i] for i in range(40)], labels, "c").fake(seed=1)
        flat = np.stack(made.labels)
        assert (flat[:, 0] == -1).all()
        assert (flat == 1).sum() == 40
        # What was always in one place is now as likely in each.
        assert ((flat == 1).sum(0)[1:] > 5).all()

    def test_of_inputs_and_targets_it_is_a_permutation_that_a_seed_repeats(self) -> None:
        texts = [f"text {i}" for i in range(30)]
        concept = Concept(texts, [i % 3 - 1 for i in range(30)], "c")
        made = concept.fake(seed=2)
        assert np.array_equal(made.labels == -1, concept.labels == -1)
        assert (made.labels == 1).sum() == 10
        assert not np.array_equal(made.labels, concept.labels)
        assert np.array_equal(made.labels, concept.fake(seed=2).labels)
        graded = Concept(texts, np.arange(60.0).reshape(30, 2), "c")
        dealt = graded.fake(seed=2).labels
        assert not np.array_equal(dealt, graded.labels)
        assert np.array_equal(dealt[dealt[:, 0].argsort()], graded.labels)


class TestTasks:
    @pytest.mark.parametrize("variable", list(concept_tasks.VARIABLES))
    def test_the_example_is_the_word_that_carries_it(
        self, grammar: TransformerBridge, variable: str
    ) -> None:
        concept = Concept.from_task(grammar, variable, n=60, at="word")
        examples = concept.examples()
        assert (len(examples), int(examples.labels.sum())) == (60, 30)
        for row, position, label in zip(
            examples.row, examples.position, examples.labels, strict=True
        ):
            words = tokenization.strings(grammar, tokenization.bare(grammar, concept.inputs[row]))
            word = words[position]
            if variable == "gender":
                assert label == grammar_variables.lexicon.is_female(word)
            elif variable == "number":
                assert position == 1
                assert label == (word in grammar_variables.lexicon.NOUNS.values())
            elif variable == "role":
                assert words.index(word) < position
                names = [w for w in words if w in grammar_variables.lexicon.NAMES]
                assert label == (names[0] == word)
            else:
                assert label == (int(word) >= 50)

    def test_at_the_answer_the_model_knows_it(self, grammar: TransformerBridge) -> None:
        concept = Concept.from_task(grammar, "gender", n=40, at="answer")
        she, he = (grammar.tokenizer.convert_tokens_to_ids(word) for word in ("she", "he"))
        for text, label in zip(concept.inputs, concept.labels, strict=True):
            logits = grammar(torch.tensor([tokenization.encode(grammar, text)]))[0, -1]
            assert bool(logits[she] > logits[he]) == bool(label)

    def test_words_of_several_tokens_have_the_label_at_the_last(self, stories: Path) -> None:
        model = workbench.load_model(stories)
        concept = Concept.from_task(model, "digit", n=20, at="word")
        for text, row in zip(concept.inputs, concept.labels, strict=True):
            (at,) = np.flatnonzero(row >= 0)
            tokens = tokenization.strings(model, tokenization.encode(model, text)[1:])
            assert int("".join(tokens[at - 1 : at + 1])) >= 50 * row[at]
            assert bool(int("".join(tokens[at - 1 : at + 1])) >= 50) == bool(row[at])
        assert set(concept.confounds) == {"position", "length", "frequency"}

    def test_what_cannot_be_asked(self, grammar: TransformerBridge) -> None:
        with pytest.raises(ConceptError, match="no task varies 'mood': expected one of gender"):
            Concept.from_task(grammar, "mood")
        with pytest.raises(ConceptError, match="n = 2: expected at least 4"):
            Concept.from_task(grammar, "gender", n=2)
        with pytest.raises(ConceptError, match=r"only 0 prompts for 'gender' .* does not know"):
            Concept.from_task(unplanted.randomised(), "gender", n=4)


class TestModular:
    def test_the_answer_is_the_residue(self, modadd: TransformerBridge) -> None:
        concept = Concept.residue(modadd, 5)
        rows = np.stack(concept.inputs)
        assert rows.shape == (113 * 113, 3)
        assert np.array_equal(concept.labels, rows[:, :2].sum(1) % 113 == 5)
        fewer = Concept.residue(modadd, 5, n=100, seed=1)
        assert (len(fewer.labels), int(fewer.labels.sum())) == (100, 50)
        assert fewer.reading == "last"

    def test_targets_are_orthonormal_waves(self, modadd: TransformerBridge) -> None:
        targets = Concept.frequency(modadd, 7).labels
        assert np.allclose(targets.T @ targets, np.eye(8), atol=1e-12)
        assert np.allclose(targets.sum(0), 0, atol=1e-10)
        a, b = np.divmod(np.arange(113**2), 113)
        wave = np.cos(2 * np.pi * 7 * (a + b) / 113)
        explained = ((targets.T @ wave) ** 2).sum() / (wave**2).sum()
        assert explained == pytest.approx(1, abs=1e-12)

    def test_they_explain_what_the_share_of_one_frequency_explains(
        self, modadd: TransformerBridge
    ) -> None:
        concept = Concept.frequency(modadd, 3)
        values = np.random.default_rng(0).normal(size=113 * 113) + 40 * concept.labels[:, 4]
        centred = values - values.mean()
        explained = ((concept.labels.T @ centred) ** 2).sum() / (centred**2).sum()
        cube = values.reshape(113, 113, 1)
        shares = fourier.explained_by_frequency(cube)
        assert explained == pytest.approx(float(shares[2, 0]), abs=1e-9)

    def test_what_cannot_be_asked(
        self, modadd: TransformerBridge, grammar: TransformerBridge
    ) -> None:
        with pytest.raises(ConceptError, match="the answers are 0 to 112, not 113"):
            Concept.residue(modadd, 113)
        with pytest.raises(ConceptError, match="frequencies 1 to 56, not 0"):
            Concept.frequency(modadd, 0)
        with pytest.raises(ConceptError, match="n = 3: there are 12,769 pairs"):
            Concept.frequency(modadd, 1, n=3)
        with pytest.raises(ConceptError, match="modulo a prime"):
            Concept.residue(grammar, 1)


class TestImages:
    def test_shapes_are_labelled_as_they_were_rendered(self) -> None:
        drawn = shapes.render(60, seed=1)
        curved = Concept.shapes("3D curvature", n=60)
        assert np.array_equal(curved.inputs, drawn.images)
        assert np.array_equal(curved.labels, drawn.labels < 3)
        assert np.array_equal(Concept.shapes("edge", n=60).labels, drawn.labels == 4)
        assert np.allclose(curved.confounds["brightness"], drawn.images.mean((1, 2, 3)), atol=1e-6)
        assert np.array_equal(curved.confounds["coloured"], drawn.coloured)
        coloured = Concept.shapes("coloured", n=60)
        assert np.array_equal(coloured.labels, drawn.coloured)
        assert set(coloured.confounds) == {"brightness", "contrast"}

    def test_digits(self) -> None:
        concept = Concept.mnist1d(3, channels=True)
        assert concept.inputs.shape == (1000, 1, 40)
        assert int(concept.labels.sum()) == 106
        assert set(concept.confounds) == {"mean", "deviation"}
        assert len(Concept.mnist1d(3, n=200, seed=1).labels) == 200

    def test_what_cannot_be_asked(self) -> None:
        with pytest.raises(ConceptError, match="no concept 'cube': they have sphere"):
            Concept.shapes("cube")
        with pytest.raises(ConceptError, match="the digits are 0 to 9, not 10"):
            Concept.mnist1d(10)
        with pytest.raises(ConceptError, match="n = 2,000: there are 1,000 held-out"):
            Concept.mnist1d(1, n=2000)
        with pytest.raises(ConceptError, match="n = 5: expected at least 12"):
            Concept.shapes("edge", n=5)


class TestByName:
    def test_every_kind_of_subject_has_its_own(self) -> None:
        assert set(named_concepts.named_concepts("anything")) == set(concept_tasks.VARIABLES)
        assert len(named_concepts.named_concepts("modadd-113")) == 113 + 56
        assert len(named_concepts.named_concepts("mnist1d-mlp")) == 10
        assert list(named_concepts.named_concepts("shapes-branch")) == [
            "3D curvature",
            *shapes.CLASSES,
            "coloured",
        ]
        assert (
            named_concepts.named_concepts("grammar-4l")[
                "number of the subject, at its word = plural"
            ]
            == "Is the number of the subject, at its word 'plural', and not 'singular'?"
        )

    def test_each_is_the_concept_of_that_name(
        self, grammar: TransformerBridge, modadd: TransformerBridge
    ) -> None:
        network = load_network("shapes-branch")
        made = named_concepts.named_concept(network, "curve", n=60)
        assert np.array_equal(made.labels, Concept.shapes("curve", n=60).labels)
        made = named_concepts.named_concept(load_network("mnist1d-cnn"), "digit 4", n=100)
        assert made.inputs.shape == (100, 1, 40)
        made = named_concepts.named_concept(modadd, "residue 9", n=50)
        assert np.array_equal(made.labels, Concept.residue(modadd, 9, n=50).labels)
        assert named_concepts.named_concept(modadd, "frequency 2", n=50).labels.shape == (50, 8)
        made = named_concepts.named_concept(grammar, "role", n=20)
        assert made.inputs == Concept.from_task(grammar, "role", n=20).inputs

    def test_of_the_grammar_it_is_its_variable(
        self, grammar: TransformerBridge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(named_concepts, "_DOCUMENTS", 300)
        name = "gender of the person, at its word = female"
        made = named_concepts.named_concept(grammar, name, n=200)
        examples = made.examples()
        assert made.name == name
        assert 40 < len(examples) <= 200
        tokens = [
            int(made.inputs[r][p]) for r, p in zip(examples.row, examples.position, strict=True)
        ]
        words = tokenization.strings(grammar, tokens)
        female = [grammar_variables.lexicon.is_female(word) for word in words]
        assert examples.labels.tolist() == female

    def test_what_there_is_not(self, grammar: TransformerBridge) -> None:
        with pytest.raises(ConceptError, match="grammar-4l has no concept 'mood': it has gender"):
            named_concepts.named_concept(grammar, "mood")
        with pytest.raises(ConceptError, match="shapes-branch has no concept 'cube'"):
            named_concepts.named_concept(load_network("shapes-branch"), "cube")
