"""What a report says: hidden characters, numbers, absent evidence, the order of its parts."""

from __future__ import annotations

import pytest
import yaml

from tests.report import example
from workbench.report import wording
from workbench.report.document import Measured


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("two\nlines", "two\nlines"),
        ("\u202egnp.exe\u202c", "⟨U+202E⟩gnp.exe⟨U+202C⟩"),
        ("a\u2028b\u0000c\ufeff\u200b", "a⟨U+2028⟩b⟨U+0000⟩c⟨U+FEFF⟩⟨U+200B⟩"),
        ("\u2066x\u2069\u061c\t", "⟨U+2066⟩x⟨U+2069⟩⟨U+061C⟩⟨U+0009⟩"),
        ("e\u0301 שלום 中文", "e\u0301 שלום 中文"),
        ("\u3164\u2800", "⟨U+3164⟩⟨U+2800⟩"),
    ],
)
def test_what_turns_hides_or_breaks_text_is_written_as_its_code_point(
    text: str, shown: str
) -> None:
    assert wording.visible(text) == shown


def test_a_tower_of_marks_is_cut_down() -> None:
    assert wording.visible("a" + "\u0301" * 6) == "a" + "\u0301" * 4 + "⟨U+0301⟩" * 2


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (None, "not known"),
        (True, "yes"),
        (12345, "12,345"),
        (-3.0, "−3"),
        (0.123456, "0.1235"),
        (-1e-7, "−1e−07"),
        ("as it is", "as it is"),
    ],
)
def test_numbers_have_four_digits_and_counts_all(
    cell: str | float | int | None, shown: str
) -> None:
    assert wording.number(cell) == shown


def test_absent_evidence_is_said() -> None:
    bare = Measured(name="rank", value=None, unit="logits")
    assert wording.measured_row(bare) == (
        "rank",
        "not known",
        "no interval",
        "no count",
        "no null",
        "no p",
        "none asked",
    )
    assert set(wording.measured_row(bare)[1:]) == wording.ABSENT


def test_a_full_number_is_said_with_its_interval_null_and_threshold() -> None:
    full = example.report().finding("circuit/agreement").measured[0]
    assert wording.measured_row(full) == (
        "faithfulness",
        "0.913",
        "[0.882, 0.941]",
        "64",
        "random connected circuits of its size, mean: 0.214",
        "0.0196",
        "passes from 0.8, fails below 0.5",
    )


def test_every_finding_and_section_is_in_one_group_and_findings_keep_their_section() -> None:
    report = example.report()
    parts = [part for group in wording.groups(report) for part in group.parts]
    assert [part.finding for part in parts] == list(report.findings)
    assert [part.section.id for part in parts if part.section] == [
        one.id for one in report.sections
    ]
    assert len({part.anchor for part in parts}) == len(parts)
    alone = report.model_copy(update={"findings": ()})
    kept = [part.section for group in wording.groups(alone) for part in group.parts]
    assert kept == list(report.sections)


def test_exhibits_are_counted_as_a_reader_meets_them() -> None:
    labels = wording.labels(example.report())
    assert labels["behaviour/agreement", 0] == "Table 1"
    assert labels["sites/agreement", 1] == "Figure 2"
    assert labels["training", 0] == "Figure 8"


def test_the_spec_can_be_asked_again() -> None:
    report = example.report()
    assert yaml.safe_load(wording.spec_text(report)) == report.manifest.spec.plain()


@pytest.mark.parametrize(("spent", "shown"), [(0.5, "0.5 s"), (59.0, "59 s"), (200, "3 min 20 s")])
def test_wall_times_are_in_minutes_and_seconds(spent: float | int, shown: str) -> None:
    assert wording.seconds(spent) == shown


def test_when_a_report_was_made_is_told_to_the_minute() -> None:
    assert wording.when(example.report()) == "2026-11-22 05:30 UTC"
    hostile = example.report().manifest.model_copy(update={"created": "yesterday"})
    other = example.report().model_copy(update={"manifest": hostile})
    assert wording.when(other) == "yesterday"


def test_what_is_not_shown_of_a_table_is_said() -> None:
    assert wording.left_out(0, 1) == "… 1 more row not kept in the report."
    assert (
        wording.left_out(1, 0) == "… 1 more row in the interactive report (HTML) and in the JSON."
    )
