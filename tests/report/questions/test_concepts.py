"""Where a concept lives in modadd-113, whose groups of neurons are known, and what is not asked."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import workbench
from workbench.core import runs
from workbench.report.examining import Answer, Examination, NotExamined
from workbench.report.questions import concepts
from workbench.report.spec import AuditSpec, Concepts, Questions


def on_the_table(folder: Path, name: str = "modadd-113", **asked: object) -> Examination:
    model = workbench.load_model(name)
    spec = AuditSpec(questions=Questions(concepts=Concepts.model_validate({"n": 600, **asked})))
    return Examination(
        model, workbench.fingerprint(model), spec, folder, store=runs.RunStore(folder / "runs")
    )


def quick(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(concepts, "PERMUTATIONS", 999)
    patch.setattr(concepts, "RANDOM", 39)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def wave(folder: Path) -> Answer:
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        return concepts.examine(on_the_table(folder), "frequency 5")


def test_a_key_frequency_has_neurons_of_its_own_and_the_model_needs_them(wave: Answer) -> None:
    assert wave.finding.verdict == "pass"
    assert "is held in one place: cluster" in wave.finding.statement
    numbers = {one.name.split(" ")[0]: one for one in wave.section.measured}
    specificity = numbers["specificity"]
    assert specificity.low is not None and specificity.low > 0
    assert specificity.p_value is not None and specificity.p_value < 0.05
    assert specificity.null_value is not None and specificity.value is not None
    assert specificity.null_value < specificity.value
    enrichment = numbers["enrichment"]
    assert enrichment.value is not None and enrichment.value >= 3
    assert enrichment.p_value is not None and enrichment.p_value < 0.01
    assert numbers["neurons"].null_value == 0
    assert any("clusters of neurons by their weights" in one for one in wave.section.caveats)
    controls = wave.section.exhibits[-1].table
    assert controls is not None
    assert [row[0] for row in controls.rows] == [
        "untrained network",
        "shuffled weights",
        "fake concept",
    ]


@pytest.mark.parametrize(("expected", "verdict"), [("localized", "pass"), ("spread", "fail")])
def test_what_the_spec_expects_decides(
    wave: Answer, folder: Path, monkeypatch: pytest.MonkeyPatch, expected: str, verdict: str
) -> None:
    quick(monkeypatch)
    table = on_the_table(folder, expect={"frequency 5": expected})
    found = concepts.examine(table, "frequency 5")
    assert found.finding.verdict == verdict
    assert f"(expected: {expected})" in found.finding.statement
    assert found.section.measured == wave.section.measured


def test_a_place_that_is_too_large_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its neurons share a cluster with those of another frequency.
    quick(monkeypatch)
    found = concepts.examine(on_the_table(folder), "frequency 6")
    assert found.finding.verdict == "warn"
    assert "in so large a place" in found.finding.caveat


class TestChoose:
    def test_those_of_the_spec(self, tmp_path: Path) -> None:
        table = on_the_table(tmp_path, concepts=["residue 3", "residue 3", "frequency 2"])
        assert concepts.choose(table.model, table.spec) == ("residue 3", "frequency 2")

    def test_else_the_frequencies_that_the_weights_hold_most_of(self, tmp_path: Path) -> None:
        table = on_the_table(tmp_path, most=4)
        chosen = concepts.choose(table.model, table.spec)
        assert {int(one.split()[1]) for one in chosen} == {5, 6, 14, 42}

    def test_else_the_first_that_are_known_by_name(self, tmp_path: Path) -> None:
        table = on_the_table(tmp_path, "grammar-4l")
        assert concepts.choose(table.model, table.spec) == ("gender", "number")


class TestFiles:
    def test_a_file_of_labelled_inputs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quick(monkeypatch)
        vocabulary = workbench.load_model("grammar-4l").tokenizer.get_vocab()
        number = [("boxes", 1), ("lamps", 1), ("bottles", 1), ("horses", 1)]
        number += [("box", 0), ("lamp", 0), ("bottle", 0), ("horse", 0)]
        first = [word for word in sorted(vocabulary) if word.isalpha() and word.islower()][:20]
        rows = [(f"{word} {noun}", label) for word in first for noun, label in number]
        with (tmp_path / "number.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
        found = concepts.examine(
            on_the_table(tmp_path, "grammar-4l", concepts=["number.csv"], n=50), "number.csv"
        )
        assert found.finding.about == "number.csv"
        assert found.section.measured[0].n == 50 < len(rows)

    @pytest.mark.parametrize(
        ("name", "content", "sentence"),
        [
            ("none.csv", None, "no file 'none.csv' beside the spec"),
            ("bad.csv", "a,b\n1,2\n", "text,label"),
            ("../out.csv", None, "outside of the folder"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_not_examined(
        self, tmp_path: Path, name: str, content: str | None, sentence: str
    ) -> None:
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(NotExamined, match=sentence):
            concepts.examine(on_the_table(tmp_path, "grammar-4l"), name)


def test_a_name_that_is_not_known_is_not_examined(tmp_path: Path) -> None:
    with pytest.raises(NotExamined, match="grammar-4l has no concept 'weather'"):
        concepts.examine(on_the_table(tmp_path, "grammar-4l"), "weather")
