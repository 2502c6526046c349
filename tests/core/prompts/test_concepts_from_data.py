"""Concepts from files and corpora, their confounds, and classes that are made alike in them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench.core.prompts import concept_balance, concept_files, grammar_variables, tokenization
from workbench.core.prompts.concepts import Concept, ConceptError
from workbench.core.prompts.corpus import Corpus

TEXTS = [
    "The king likes the park.",
    "Mary likes the park.",
    "The queen saw John at the beach.",
    "The keys are old.",
]


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return workbench.load_model("grammar-4l", device="cpu")


@pytest.fixture(scope="module")
def corpus(model: TransformerBridge) -> Corpus:
    return Corpus.bundled(model, documents=300)


def has_it(model: TransformerBridge, concept: Concept) -> set[str]:
    """Words at the examples with the concept."""
    found = concept.examples()
    pairs = zip(found.row[found.labels], found.position[found.labels], strict=True)
    tokens = [int(concept.inputs[row][position]) for row, position in pairs]
    return set(tokenization.strings(model, tokens))


class TestFiles:
    def test_csv_of_texts(self, tmp_path: Path) -> None:
        file = tmp_path / "royal.csv"
        labels = ["true", "0", "1", "False"]
        lines = [f'"{text}",{label}' for text, label in zip(TEXTS, labels, strict=True)]
        file.write_text("\n".join(["text,label", *lines]))
        concept = Concept.from_file(file)
        assert concept.inputs == tuple(TEXTS)
        assert concept.labels.tolist() == [1, 0, 1, 0]
        assert concept.name == "royal"
        # Words, as no model has read them.
        assert concept.confounds["length"].tolist() == [5, 4, 7, 4]

    def test_a_value_of_several(self, model: TransformerBridge, tmp_path: Path) -> None:
        file = tmp_path / "who.jsonl"
        labels = ["royal", "plain", "royal", "none"]
        rows = [{"text": t, "label": v} for t, v in zip(TEXTS, labels, strict=True)]
        file.write_text("\n".join(map(json.dumps, [*rows, {"text": "cat", "label": ""}])))
        concept = Concept.from_file(file, value="royal")
        assert concept.labels.tolist() == [1, 0, 1, 0, -1]
        assert concept.name == "who = royal"

    def test_rows_of_tokens(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.jsonl"
        rows = [
            {"tokens": [1, 5, 6], "labels": [-1, 1, 0]},
            {"tokens": [1, 5], "labels": [0, True]},
        ]
        file.write_text("\n".join(map(json.dumps, rows)))
        concept = Concept.from_file(file, name="mine")
        assert [row.tolist() for row in concept.inputs] == [[1, 5, 6], [1, 5]]
        assert [row.tolist() for row in concept.labels] == [[-1, 1, 0], [0, 1]]
        found = concept.examples().confounds
        assert found["position"].tolist() == [1, 2, 0, 1]
        assert found["length"].tolist() == [3, 3, 2, 2]
        assert np.allclose(found["frequency"], np.log([2, 1, 2, 2]))

    def test_marked_characters_become_tokens(
        self, model: TransformerBridge, stories: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "spans.jsonl"
        marked = [[4, 8]], [[0, 4]], [[4, 9], [14, 18]], [[4, 8]]
        rows = [{"text": t, "spans": s} for t, s in zip(TEXTS, marked, strict=True)]
        file.write_text("\n".join(map(json.dumps, rows)))
        for each in (model, workbench.load_model(stories)):
            concept = Concept.from_file(file, model=each)
            for text, row, spans in zip(concept.inputs, concept.labels, marked, strict=True):
                ids = tokenization.encode(each, text)[1:]
                pieces = [tokenization.strings(each, [i])[0] for i in ids]
                written = "".join(p.strip() for p, one in zip(pieces, row, strict=True) if one)
                assert written == "".join(text[a:b] for a, b in spans).replace(" ", "")
        with pytest.raises(ConceptError, match=r"depends on the model: give model="):
            Concept.from_file(file)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.txt", "text,label", "neither .csv nor .jsonl"),
            ("a.csv", "", "holds no input"),
            ("a.csv", "text,label\n", "holds no input"),
            ("a.csv", "words,label\nape,1\n", "line 2 has words, label: expected columns"),
            ("a.csv", "text,label\nape,1\nbee,x\n", "line 3: label x: expected 1, 0, -1"),
            ("a.csv", "text,label\nape,1\nbee,nan\n", "line 3: label nan"),
            ("a.csv", 'text,label\nape,1\n"bee,0\n', "line 2 or after it cannot be read"),
            ("a.csv", "text,label\nape,1\n  ,0\n", "line 3: the text is '  '"),
            ("a.csv", "text,label\nape,1\nape,0\n", "line 3: this input stands in a.csv, line 2"),
            ("a.csv", "text,label\nape,1\nbee,0\ncat,0\n", "1 examples with the concept and 2"),
            ("a.jsonl", '{"text": "ape", "label": 1}\n{"text":\n', "line 2 cannot be read"),
            ("a.jsonl", '\n["ape", 1]\n', "line 2 is no object but list"),
            ("a.jsonl", '{"text": "ape", "label": NaN}', "line 1: label nan"),
            ("a.jsonl", '{"text": 5, "label": 1}', "line 1: the text is 5"),
            ("a.jsonl", '{"tokens": [1, 2], "labels": [1]}', "has 1 labels and 2 tokens"),
            ("a.jsonl", '{"tokens": [1, -2], "labels": [1, 0]}', r"tokens are \[1, -2\]"),
            ("a.jsonl", '{"tokens": [1, 2], "labels": 1}', "labels are 1: expected a list"),
            (
                "a.jsonl",
                '{"text": "ape", "label": 1}\n{"tokens": [1], "label": 1}',
                "line 2 has tokens and label, and the first line text and label",
            ),
        ],
    )
    def test_a_bad_line_gets_a_sentence(
        self, tmp_path: Path, name: str, content: str, message: str
    ) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(ConceptError, match=message):
            Concept.from_file(tmp_path / name)

    def test_so_does_what_the_model_reads_otherwise(self, model: TransformerBridge) -> None:
        content = json.dumps({"text": "The king", "labels": [1, 0, 0]}).encode()
        with pytest.raises(ConceptError, match=r"line 1 has 3 labels and 2 tokens"):
            concept_files.from_bytes(content, "a.jsonl", model=model)
        content = json.dumps({"text": "The xylophone", "labels": [1, 0]}).encode()
        with pytest.raises(ConceptError, match=r"line 1: 'xylophone' is outside"):
            concept_files.from_bytes(content, "a.jsonl", model=model)
        content = json.dumps({"text": "The king", "spans": [[4, 40]]}).encode()
        with pytest.raises(ConceptError, match=r"line 1: span \[4, 40\]: .* the 8 characters"):
            concept_files.from_bytes(content, "a.jsonl", model=model)

    def test_so_does_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(ConceptError, match="cannot read .*No such file"):
            Concept.from_file(tmp_path / "none.csv")
        with pytest.raises(ConceptError, match=r"has 21\.0 MB, more than the 20 MB"):
            concept_files.from_bytes(b"", "big.csv", size=21_000_000)
        with pytest.raises(ConceptError, match=r"is not UTF-8 text \(byte 0\)"):
            concept_files.from_bytes(b"\xff\xfe", "a.csv")


class TestCorpora:
    def test_a_set_of_tokens(self, model: TransformerBridge, corpus: Corpus) -> None:
        king = model.tokenizer.convert_tokens_to_ids("king")
        concept = Concept.from_tokens(model, corpus, ["the", king], most=2000, seed=1)
        assert has_it(model, concept) == {"the", "king"}
        examples = concept.examples()
        assert 1900 < len(examples) <= 2000
        flat = np.concatenate(concept.inputs)
        labels = np.concatenate(concept.labels)
        assert (labels[np.isin(flat, corpus.special)] == -1).all()
        the = model.tokenizer.convert_tokens_to_ids("the")
        assert np.array_equal(labels == 1, np.isin(flat, [the, king]))
        again = Concept.from_tokens(model, corpus, ["the", king], most=2000, seed=1)
        assert all(map(np.array_equal, concept.inputs, again.inputs))

    def test_a_pattern(self, model: TransformerBridge, corpus: Corpus) -> None:
        concept = Concept.from_pattern(model, corpus, r"\b(?:in|to) \d\d", most=1000)
        for row, labels in zip(concept.inputs, concept.labels, strict=True):
            words = tokenization.strings(model, row.tolist())
            for at, label in enumerate(labels[1:], 1):
                year = words[at].isdigit() and words[at - 1] in ("in", "to")
                before = (
                    words[at] in ("in", "to") and at + 1 < len(words) and words[at + 1].isdigit()
                )
                assert bool(label) == (year or before)

    def test_a_pattern_over_pieces_of_words(self, stories: Path) -> None:
        model = workbench.load_model(stories)
        made = Corpus.from_texts(model, ["Once upon a time", "a cat saw the king", "the cat ran"])
        concept = Concept.from_pattern(model, made, "cat")
        for row, labels in zip(concept.inputs, concept.labels, strict=True):
            pieces = tokenization.strings(model, row.tolist())
            marked = [p for p, label in zip(pieces, labels, strict=True) if label == 1]
            whole = "".join(pieces[1:])
            assert "".join(marked).strip() == ("cat" if "cat" in whole else "")

    def test_a_variable_of_the_grammar(self, model: TransformerBridge) -> None:
        labelled = grammar_variables.grammar_labels(model, documents=200, seed=3)
        concept = Concept.from_variable(labelled, "gender of the person, at its word", "female")
        words = has_it(model, concept)
        assert words
        assert all(map(grammar_variables.lexicon.is_female, words))
        variable = next(v for v in labelled.variables if v.name == "role of the name")
        concept = Concept.from_variable(labelled, "role of the name", "gives")
        wanted = int((variable.at == variable.values.index("gives")).sum())
        assert int(concept.examples().labels.sum()) == wanted
        with pytest.raises(ConceptError, match="has no value 'takes': it has gives"):
            Concept.from_variable(labelled, "role of the name", "takes")
        with pytest.raises(ConceptError, match="has no variable 'mood'"):
            Concept.from_variable(labelled, "mood", "sad")

    def test_rows_that_stand_twice_count_once(self, model: TransformerBridge) -> None:
        made = Corpus.from_texts(model, [*TEXTS, TEXTS[0], TEXTS[0]], name="few")
        concept = Concept.from_tokens(model, made, ["likes", "saw"])
        assert len(concept.inputs) == 4
        assert concept.caveats == ("2 rows of few stood there twice and were left out",)

    def test_what_says_nothing(self, model: TransformerBridge, corpus: Corpus) -> None:
        with pytest.raises(ConceptError, match="a set of tokens needs at least one"):
            Concept.from_tokens(model, corpus, [])
        with pytest.raises(ConceptError, match="'xylophone' is outside the vocabulary"):
            Concept.from_tokens(model, corpus, ["xylophone"])
        with pytest.raises(ConceptError, match=r"'the king' is 2 tokens \('the', 'king'\)"):
            Concept.from_tokens(model, corpus, ["the king"])
        with pytest.raises(ConceptError, match="there is no token 9999"):
            Concept.from_tokens(model, corpus, [9999])
        with pytest.raises(ConceptError, match=r"'pattern zzz' is true of no token of the"):
            Concept.from_pattern(model, corpus, "zzz")
        with pytest.raises(ConceptError, match="is true of every token"):
            Concept.from_pattern(model, corpus, r"(?s).*")
        with pytest.raises(ConceptError, match="is no regular expression"):
            Concept.from_pattern(model, corpus, "(the")
        with pytest.raises(ConceptError, match="gives between 1 and 2 examples"):
            Concept.from_tokens(model, corpus, ["the"], most=2)

    def test_a_pattern_whose_time_has_no_bound_is_stopped(
        self, model: TransformerBridge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from workbench.core.prompts import concept_corpora

        monkeypatch.setattr(concept_corpora, "_SECONDS", 0.2)
        made = Corpus.from_texts(model, [" ".join(["the"] * 60), *TEXTS])
        start = time.monotonic()
        with pytest.raises(ConceptError, match="repetitions or alternatives that overlap"):
            Concept.from_pattern(model, made, r"(\w|\w\w|\s)+[!?]")
        assert time.monotonic() - start < 5


class TestConfounds:
    def test_of_texts_they_are_those_of_their_tokens(self, model: TransformerBridge) -> None:
        concept = Concept(TEXTS, [1, 0, 1, 0], "c").with_confounds(model)
        assert concept.confounds["length"].tolist() == [6, 5, 8, 5]
        # All end with a full stop, where they are read.
        assert set(concept.confounds) == {"length"}
        pooled = Concept(TEXTS, [1, 0, 1, 0], "c", reading="mean").with_confounds(model)
        rows = [tokenization.bare(model, text) for text in TEXTS]
        every = sum(rows, [])
        expected = [np.mean([np.log(every.count(token)) for token in row]) for row in rows]
        assert np.allclose(pooled.confounds["frequency"], expected)

    def test_those_that_are_given_stay(self) -> None:
        given = {"length": np.array([9.0, 8, 7, 6])}
        concept = Concept(TEXTS, [1, 0, 1, 0], "c", confounds=given).with_confounds()
        assert concept.confounds["length"].tolist() == [9, 8, 7, 6]


def planted(n: int = 2000, seed: int = 0, shift: float | int = 1) -> Concept:
    """Inputs whose confound "x" is larger with the concept, and whose "y" is any number."""
    random = np.random.default_rng(seed)
    labels = (random.random(n) < 0.3).astype(np.int64)
    confounds = {"x": random.normal(size=n) + shift * labels, "y": random.normal(size=n)}
    return Concept(random.normal(size=(n, 3)), labels, "c", confounds=confounds)


class TestBalance:
    def test_imbalance_is_the_area_under_the_curve(self) -> None:
        concept = planted()
        found = concept_balance.imbalance(concept)
        for name in ("x", "y"):
            expected = roc_auc_score(concept.labels, concept.confounds[name])
            assert found[name] == pytest.approx(expected, abs=1e-12)
        assert found["x"] == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.03)

    def test_a_planted_difference_goes(self) -> None:
        concept = planted()
        made = concept.balanced(bins=10)
        after = concept_balance.imbalance(made)
        assert after["x"] == pytest.approx(0.5, abs=0.03)
        assert after["y"] == pytest.approx(0.5, abs=0.03)
        assert made.caveats == ()
        assert len(made.labels) > 600
        # Every cell has one ratio between the classes, so finer bins must not tell them apart.
        by_class = [made.confounds["x"][made.labels == value] for value in (0, 1)]
        compared: Any = stats.ks_2samp(*by_class)
        assert compared.statistic < 0.1
        rows = {row.tobytes(): i for i, row in enumerate(concept.inputs)}
        at = [rows[row.tobytes()] for row in made.inputs]
        assert np.array_equal(concept.labels[at], made.labels)
        assert np.array_equal(concept.confounds["x"][at], made.confounds["x"])

    def test_equal_seeds_draw_the_same(self) -> None:
        concept = planted(400)
        draws = [concept.balanced(seed=seed).inputs for seed in (1, 1, 2)]
        assert np.array_equal(draws[0], draws[1])
        assert not np.array_equal(draws[0], draws[2])

    def test_what_does_not_overlap_is_said(self) -> None:
        made = planted(shift=20).balanced()
        (caveat,) = made.caveats
        assert caveat.startswith("x cannot be balanced: it is ")
        assert "AUC 1.00, 1.00 before; 0.50 is balance" in caveat
        assert concept_balance.imbalance(made)["y"] == pytest.approx(0.5, abs=0.03)

    def test_what_only_one_class_has_in_its_bins_is_taken_out_again(self) -> None:
        random = np.random.default_rng(0)
        labels = np.repeat([1, 0], [50, 450])
        x = np.where(labels, 2.0, random.choice([0.0, 1, 1.9, 3, 4, 5, 6], 500))
        concept = Concept(random.normal(size=(500, 2)), labels, "c", confounds={"x": x})
        made = concept.balanced()
        assert made.caveats[0].startswith("x cannot be balanced: it is 2 to 2 with the concept")
        assert len(made.labels) == 500

    def test_coarse_bins_are_said_to_be(self) -> None:
        made = planted(4000).balanced(["x"], bins=2)
        (caveat,) = made.caveats
        assert caveat.startswith("x still differs within its bins (AUC 0.")

    def test_tokens_stop_counting(self) -> None:
        random = np.random.default_rng(0)
        tokens = [random.integers(0, 50, 12) for _ in range(200)]
        # The concept stands early in a row.
        labels = [(random.random(12) < np.linspace(0.6, 0.1, 12)).astype(int) for _ in tokens]
        concept = Concept(tokens, labels, "early").with_confounds()
        assert concept_balance.imbalance(concept)["position"] < 0.4
        made = concept.balanced(["position"], bins=12)
        found = made.examples()
        assert concept_balance.imbalance(made)["position"] == pytest.approx(0.5, abs=1e-3)
        shares = [found.labels[found.position == place].mean() for place in range(12)]
        assert np.allclose(shares, shares[0])
        kept = {row.tobytes(): own for row, own in zip(concept.inputs, concept.labels, strict=True)}
        for row, own in zip(made.inputs, made.labels, strict=True):
            before = kept[np.asarray(row).tobytes()]
            assert ((own == -1) | (own == before)).all()

    def test_what_cannot_be_asked(self) -> None:
        with pytest.raises(ConceptError, match="has no confound 'z': it has x, y"):
            planted(50).balanced(["z"])
        with pytest.raises(ConceptError, match="bins = 1"):
            planted(50).balanced(bins=1)
        graded = Concept(TEXTS, np.arange(4.0)[:, None], "waves")
        with pytest.raises(ConceptError, match="has targets and no labels"):
            graded.balanced()
        plain = Concept(TEXTS, [1, 0, 1, 0], "c").balanced()
        assert "nothing is balanced" in plain.caveats[0]
        assert plain.labels.tolist() == [1, 0, 1, 0]
