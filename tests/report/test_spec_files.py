"""Specs as files: what is written reads back, and what is wrong is named by line and field."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pydantic
import pytest
import yaml

from workbench.report import spec_files
from workbench.report.spec import AuditSpec, Behaviour, Concepts, Questions, Subject, Threshold

WRONG = {
    "unknown field": ("title: x\nquestion:\n  sites: {}", 2, "question", "did you mean questions?"),
    "unknown field, deeply": (
        "questions:\n  circuit:\n    ask: true\n    randm: 20",
        4,
        "questions.circuit.randm",
        "did you mean random?",
    ),
    "below the range": (
        "questions:\n  circuit:\n    random: 3",
        3,
        "questions.circuit.random",
        "is 3; expected a whole number from 19 to 10,000",
    ),
    "above the range": ("confidence: 1", 1, "confidence", "above 0.5 and below 1"),
    "text for a number": ('seed: "7"', 1, "seed", 'is "7"; expected a whole number'),
    "a fraction for a whole number": ("seed: 1.5", 1, "seed", "is 1.5; expected a whole number"),
    "a number for a text": ("title: 7", 1, "title", "is 7; expected text"),
    "true for a text": ("title: true", 1, "title", "is true; expected text"),
    "true for a number": ("seed: true", 1, "seed", "expected a whole number"),
    "yes": ("questions:\n  sites:\n    ask: yes", 3, "questions.sites.ask", "expected true, false"),
    "octal": ("seed: 010", 1, "seed", "expected decimal digits"),
    "underscores": ("seed: 1_000", 1, "seed", "expected decimal digits"),
    "NaN": ("limits:\n  minutes: .nan", 2, "limits.minutes", "expected a number above 0"),
    "infinity": ("limits:\n  minutes: -.inf", 2, "limits.minutes", "expected a number above 0"),
    "too large a number": ("limits:\n  minutes: 1e999", 2, "limits.minutes", "too large"),
    "too many digits": (f"seed: {'9' * 400}", 1, "seed", "too large"),
    "a list for a mapping": (
        "model:\n  - grammar-4l",
        2,
        "model",
        "a list of 1; expected a mapping",
    ),
    "a mapping for a list": ("behaviours:\n  task: induction", 2, "behaviours", "expected a list"),
    "a text for a mapping": (
        "model: grammar-4l",
        1,
        "model",
        "expected a mapping with fields name",
    ),
    "nothing for a mapping": ("title: x\nmodel:", 2, "model", "is empty; expected a mapping"),
    "a text alone": ("grammar-4l", 1, "the spec", "expected a mapping"),
    "nothing": ("# only this\n", 1, "", "the file is empty; expected a mapping"),
    "a field twice": ("title: x\nseed: 1\ntitle: y", 3, "title", "is given twice"),
    "an alias": ("title: x\nmodel: *there", 2, "model", "expected the value itself"),
    "an anchor": ("model: &there {name: x}", 1, "model", "expected the value itself"),
    "a tag": ("model:\n  name: !!python/object:os.system x", 2, "model.name", "has a tag"),
    "two documents": ("title: x\n---\ntitle: y", 2, "", "a second document begins"),
    "deep nesting": ("behaviours:\n  " + "[" * 200, 2, "behaviours[0]", "nested too deeply"),
    "a tab": ("questions:\n\tsites: {}", 2, "", "a tab; expected spaces"),
    "no YAML": ("title: x\nseed: 'x", 2, "", "this is not YAML"),
    "a control character": ("title: x\nseed: \x07", 2, "", "a control character"),
    "a name that is a list": (
        "model:\n  [a]: b",
        2,
        "a name in model",
        "is no text; expected a field",
    ),
    "task and pairs": (
        "behaviours:\n- task: induction\n- {task: agreement, pairs: a.csv}",
        3,
        "behaviours[1]",
        "either a task or a file of pairs",
    ),
    "an unknown task": (
        "behaviours:\n  - n: 8\n    task: indirect-objekt",
        3,
        "behaviours[0].task",
        "did you mean indirect-object?",
    ),
    "a task twice": (
        "behaviours:\n- task: induction\n- task: induction",
        3,
        "behaviours[1].task",
        "expected another",
    ),
    "align with a task": (
        "behaviours:\n- task: induction\n  align: true",
        3,
        "behaviours[0].align",
        "expected false",
    ),
    "half a threshold": (
        "behaviours:\n- task: induction\n  accuracy: {pass: 0.9}",
        3,
        "behaviours[0].accuracy.warn",
        "is missing; expected a number that is finite",
    ),
    "an unknown site": (
        "questions:\n  sites:\n    kinds:\n      - z\n      - resid_prae",
        5,
        "questions.sites.kinds[1]",
        "did you mean resid_pre?",
    ),
    "no site": ("questions:\n  sites:\n    kinds: []", 3, "questions.sites.kinds", "1 to 6 texts"),
    "a site twice": (
        "questions: {sites: {kinds: [z, z]}}",
        1,
        "questions.sites.kinds[1]",
        "expected each kind once",
    ),
    "no unit": (
        "questions:\n  units:\n    units: [neuron 2]",
        3,
        "questions.units.units[0]",
        'expected kind layer.index, as in "neuron 2.31"',
    ),
    "an unknown kind of unit": (
        "questions:\n  units:\n    units: [neurone 2.3]",
        3,
        "questions.units.units[0]",
        "did you mean neuron?",
    ),
    "an unknown concept": (
        "questions:\n  concepts:\n    concepts: [gendr]",
        3,
        "questions.concepts.concepts[0]",
        "did you mean gender?",
    ),
    "an unknown verdict": (
        "questions:\n  concepts:\n    expect:\n      gender: localised",
        4,
        "questions.concepts.expect.gender",
        "expected one of localized, spread, not represented",
    ),
    "a verdict of another concept": (
        "questions:\n  concepts:\n    concepts: [gender]\n    expect:\n      number: spread",
        5,
        "questions.concepts.expect.number",
        "expected one of gender",
    ),
    "a verdict of nothing": (
        'questions:\n  concepts:\n    expect:\n      "": spread',
        4,
        "questions.concepts.expect",
        "1 character or more",
    ),
    "no fingerprint": ("model:\n  fingerprint: abc", 2, "model.fingerprint", 'is "abc"; expected'),
    "too long a text": (f"title: {'x' * 501}", 1, "title", "expected text of 1 to 500 characters"),
    "another format": ("format: 2", 1, "format", "is 2; expected 1"),
}


def sentence(text: str) -> str:
    with pytest.raises(spec_files.SpecError) as caught:
        spec_files.read_text(text, "audit.yaml")
    return str(caught.value)


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_named_by_line_and_field(kind: str) -> None:
    text, line, field, expected = WRONG[kind]
    said = sentence(text)
    assert said.startswith(f"audit.yaml, line {line}, column ")
    assert said.split(": ", 1)[1].startswith(field)
    assert expected in said
    assert "\n" not in said
    assert "Input should" not in said and "Traceback" not in said


def test_every_problem_is_told_in_the_order_of_the_lines() -> None:
    said = sentence("seed: x\ntitle: 3\nmodel: {nam: y}\nlimits: {minutes: 0}").splitlines()
    assert [int(re.findall(r"line (\d+)", line)[0]) for line in said] == [1, 2, 3, 4]


def test_a_thousand_problems_are_not_a_thousand_lines() -> None:
    said = sentence("\n".join(f"field{i}: 1" for i in range(1000))).splitlines()
    assert len(said) == 21
    assert said[-1] == "and 980 more"


def test_what_a_spec_holds_is_shown_without_doing_anything() -> None:
    said = sentence('title: ["\\e[31m\\u202e"]\n"\\u202e\\e[2J": 1')
    assert said.isprintable() or all(line.isprintable() for line in said.splitlines())


@pytest.mark.parametrize("name", ["grammar-4l", "a: {#'\"", "yes", "010", "\u202eoops", "x\ny"])
def test_the_commented_spec_reads_back_as_the_default(name: str) -> None:
    text = spec_files.commented(name)
    assert spec_files.read_text(text, "audit.yaml") == AuditSpec(model=Subject(name=name))
    assert max(map(len, text.splitlines())) <= 104 + len(name)


def test_the_commented_spec_says_what_every_field_means() -> None:
    text = spec_files.commented("grammar-4l")
    for name in AuditSpec.model_fields:
        before = text[: text.index(f"\n{name}:")].splitlines()[-1]
        assert before.startswith("# ") and len(before) > 15
    assert "Random connected circuits of its size that it is compared with." in text
    assert "a whole number from 19" in text


def test_its_example_of_a_behaviour_is_one() -> None:
    text = spec_files.commented("grammar-4l")
    head, example = text.split("behaviours: []\n# For example, in place of []:\n")
    lines = example.splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#   "))
    uncommented = [line.removeprefix("# ") for line in lines[:end]]
    whole = "\n".join([head + "behaviours:", *uncommented, *lines[end:]])
    read = spec_files.read_text(whole, "audit.yaml")
    assert read == AuditSpec(behaviours=(Behaviour(task="indirect-object"),))


def test_a_spec_survives_its_file(tmp_path: Path) -> None:
    (tmp_path / "1e-3").write_text("x")
    (tmp_path / "010").mkdir()
    (tmp_path / "a: b.csv").write_text("x")
    spec = AuditSpec(
        title="no\N{ZERO WIDTH SPACE}\u2028\x85 'quotes' \"\\ \N{GRINNING FACE} # - 2020-01-01",
        model=Subject(name="12:30:45", fingerprint="0" * 64),
        behaviours=(
            Behaviour(task="induction", n=7, accuracy=Threshold(passes=1e-9, warns=-2.5e20)),
            Behaviour(pairs="1e-3", align=True),
        ),
        questions=Questions(
            concepts=Concepts(concepts=("a: b.csv",), expect={"a: b.csv": "not represented"}),
        ),
        seed=2**31 - 1,
    )
    file = tmp_path / "audit.yaml"
    file.write_text(spec_files.to_yaml(spec), encoding="utf-8")
    assert spec_files.read(file) == spec
    # Another reader of YAML sees the same.
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["title"] == spec.title


def test_numbers_without_a_point_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "audit.yaml"
    file.write_bytes(b"\xef\xbb\xbfconfidence: 9e-1\nlimits:\n  minutes: 5\n")
    assert spec_files.read(file) == AuditSpec.model_validate(
        {"confidence": 0.9, "limits": {"minutes": 5.0}}
    )


def test_files_that_are_no_spec(tmp_path: Path) -> None:
    file = tmp_path / "audit.yaml"
    with pytest.raises(spec_files.SpecError, match="No such file"):
        spec_files.read(file)
    file.write_bytes(b"title: x\nseed: \xff")
    with pytest.raises(spec_files.SpecError, match=r"audit\.yaml, line 2: byte 15 is not UTF-8"):
        spec_files.read(file)
    file.write_bytes(b"# " + b"x" * spec_files.LARGEST)
    with pytest.raises(spec_files.SpecError, match="larger than 1 MB"):
        spec_files.read(file)
    with pytest.raises(spec_files.SpecError, match="larger than 1 MB"):
        spec_files.read_text("#" * (spec_files.LARGEST + 1), "audit.yaml")


def test_a_file_that_a_spec_names_must_be_there(tmp_path: Path) -> None:
    file = tmp_path / "audit.yaml"
    file.write_text("behaviours:\n  - n: 5\n    pairs: pairs.csv\n")
    with pytest.raises(spec_files.SpecError, match=r"line 3, column 12: behaviours\[0\]\.pairs"):
        spec_files.read(file)
    (tmp_path / "pairs.csv").write_text("clean,corrupted")
    assert spec_files.read(file).behaviours[0].pairs == "pairs.csv"


def test_the_schema_describes_every_field() -> None:
    made = spec_files.schema()
    for node in (made, *made["$defs"].values()):
        assert node["additionalProperties"] is False
        assert "Attributes" not in node["description"]
        assert all(len(field["description"]) > 8 for field in node["properties"].values())
    assert made["$defs"]["Circuit"]["properties"]["random"]["minimum"] == 19
    assert set(made["$defs"]["Threshold"]["properties"]) == {"pass", "warn"}
    json.dumps(made)
    # A caller who changes it changes nothing here.
    made["properties"].clear()
    assert spec_files.schema()["properties"]


def test_what_the_file_refuses_the_class_refuses_too() -> None:
    with pytest.raises(pydantic.ValidationError):
        AuditSpec.model_validate({"questions": {"circuit": {"random": 3}}})
