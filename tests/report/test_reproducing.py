"""Computing a report again: what is true is confirmed, and whatever was altered is found."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformer_lens.model_bridge import TransformerBridge

from tests.report import example
from workbench.core.models import card, sources
from workbench.report import auditing, html, reproducing, spec
from workbench.report.document import Report

NAME = "grammar-4l"
OFF: dict[str, Any] = {
    name: {"ask": False}
    for name in ("sites", "localization", "circuit", "units", "concepts", "training")
}
TINY = spec.AuditSpec.model_validate(
    {"behaviours": [{"task": "agreement", "n": 8}], "questions": OFF}
)
Alter = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return sources.load_model(NAME)


@pytest.fixture(scope="module")
def report(model: TransformerBridge) -> Report:
    return auditing.audit(model, TINY)


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return html.render(report)


def altered(report: Report, alter: Alter) -> Report:
    plain = json.loads(report.to_json())
    alter(plain)
    return Report.model_validate(plain)


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the numbers of a report stand that are claims about the model."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("seconds", "run_ids", "versions", "hardware", "manifest"):
                yield from numbers(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from numbers(inner, (*path, i))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path


def raised(plain: Any, path: tuple[Any, ...], by: float) -> Any:
    made = copy.deepcopy(plain)
    place = made
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] += by * max(abs(place[path[-1]]), 1)
    return made


def test_a_true_report_is_reproduced(report: Report, model: TransformerBridge) -> None:
    found = reproducing.reproduce(report, model=model)
    assert found.same
    assert not found.made_with
    assert found.fingerprint == card.fingerprint(model)
    claims = {row.where: row for row in found.rows}
    accuracy = claims["findings[behaviour/agreement].measured[accuracy].value"]
    assert accuracy.claimed == accuracy.recomputed == 1.0
    assert accuracy.difference == 0.0
    assert claims["manifest.seed"].same
    assert any(".figure.data[0]." in where for where in claims)
    assert "all agree" in found.summary()
    assert len(found.to_frame()) == len(found.rows)


@pytest.mark.parametrize("by", [2e-4, -2e-4])
def test_every_single_number_that_is_altered_is_found(report: Report, by: float) -> None:
    plain = json.loads(report.to_json())
    places = [path for path in numbers(plain) if path != ("format",)]
    assert len(places) > 50
    for path in places:
        before = plain
        for step in path:
            before = before[step]
        if isinstance(before, int):
            continue
        # Against its own size, as a small number that doubles is another number.
        wrong = Report.model_validate(raised(plain, path, by))
        different = [row for row in reproducing.compared(wrong, report) if not row.same]
        assert len(different) == 1, path
        assert different[0].where.endswith(str(path[-1]) if isinstance(path[-1], str) else "]")


def test_a_count_that_is_altered_by_one_is_found(report: Report) -> None:
    def one_more(plain: dict[str, Any]) -> None:
        plain["findings"][0]["measured"][0]["n"] += 1

    wrong = altered(report, one_more)
    assert [row.where for row in reproducing.compared(wrong, report) if not row.same] == [
        "findings[behaviour/agreement].measured[accuracy].n"
    ]


def test_what_is_within_the_tolerance_is_the_same(report: Report) -> None:
    def a_little(plain: dict[str, Any]) -> None:
        plain["findings"][0]["measured"][1]["value"] *= 1 + 5e-5

    near = altered(report, a_little)
    assert all(row.same for row in reproducing.compared(near, report))
    assert not all(row.same for row in reproducing.compared(near, report, 1e-5))
    assert not all(row.same for row in reproducing.compared(near, report, 0))


def _verdict(plain: dict[str, Any]) -> None:
    plain["findings"][0]["verdict"] = "pass"


def _sentence(plain: dict[str, Any]) -> None:
    first = plain["findings"][0]
    first["statement"] = first["statement"].replace("100 %", "99 %", 1)


def _words(plain: dict[str, Any]) -> None:
    first = plain["findings"][0]
    first["caveat"] = first["caveat"].replace("not tried", "tried")


def _headline(plain: dict[str, Any]) -> None:
    plain["headlines"].reverse()


def _limit_removed(plain: dict[str, Any]) -> None:
    plain["limits"].pop()


def _finding_removed(plain: dict[str, Any]) -> None:
    plain["findings"].pop()


def _size_of_the_model(plain: dict[str, Any]) -> None:
    fact = next(fact for fact in plain["examined"] if fact[0] == "layers")
    fact[1] = "40"


def _row_of_a_table(plain: dict[str, Any]) -> None:
    table = next(one["table"] for one in plain["sections"][0]["exhibits"] if one["table"])
    table["rows"][0][0] = "Another prompt"


def _threshold(plain: dict[str, Any]) -> None:
    plain["manifest"]["spec"]["behaviours"][0]["accuracy"] = {"pass": 0.2, "warn": 0.1}


def _both_seeds(plain: dict[str, Any]) -> None:
    plain["manifest"]["seed"] = plain["manifest"]["spec"]["seed"] = 1


@pytest.mark.parametrize(
    ("alter", "where"),
    [
        (_verdict, "findings[behaviour/agreement].verdict"),
        (_sentence, "findings[behaviour/agreement].statement"),
        (_words, "findings[behaviour/agreement].caveat"),
        (_headline, "headlines[0]"),
        (_limit_removed, "limits["),
        (_finding_removed, "findings[training].verdict"),
        (_size_of_the_model, "examined[layers][1]"),
        (_row_of_a_table, "sections[behaviour/agreement].exhibits[1].table.rows[0][0]"),
        (_threshold, "findings[behaviour/agreement].verdict"),
        (_both_seeds, "sections[behaviour/agreement]."),
    ],
)
def test_what_was_altered_is_found_by_its_place(
    report: Report, model: TransformerBridge, alter: Alter, where: str
) -> None:
    found = reproducing.reproduce(altered(report, alter), model=model)
    assert not found.same
    assert any(row.where.startswith(where) for row in found.different)
    assert "is not reproduced" in found.summary()


def test_a_manifest_that_contradicts_itself_is_found_before_anything_runs(report: Report) -> None:
    def only_one_seed(plain: dict[str, Any]) -> None:
        plain["manifest"]["spec"]["seed"] = 1

    def other_fingerprint(plain: dict[str, Any]) -> None:
        plain["manifest"]["spec"]["model"]["fingerprint"] = "0" * 64

    for alter, where in ((only_one_seed, "manifest.seed"), (other_fingerprint, "manifest.fing")):
        # A model that is not there would be an error, were it looked for.
        found = reproducing.reproduce(altered(report, alter), model="/nowhere")
        assert [row.where[: len(where)] for row in found.different] == [where]
        assert "nothing was computed" in found.notes[0]


def test_a_file_of_pairs_that_was_changed_is_found(report: Report, tmp_path: Path) -> None:
    def with_a_file(plain: dict[str, Any]) -> None:
        plain["manifest"]["inputs"] = {"pairs.csv": "0" * 64}

    asked = altered(report, with_a_file)
    with pytest.raises(reproducing.ReproductionError, match=r"--folder"):
        reproducing.reproduce(asked, model="/nowhere", folder=tmp_path)
    (tmp_path / "pairs.csv").write_text("clean,corrupted")
    found = reproducing.reproduce(asked, model="/nowhere", folder=tmp_path)
    assert [row.where for row in found.different] == ["manifest.inputs[pairs.csv]"]


def test_a_report_reads_no_file_outside_of_the_folder(report: Report, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    inside = tmp_path / "inside"
    inside.mkdir()

    def elsewhere(plain: dict[str, Any]) -> None:
        plain["manifest"]["inputs"] = {"../secret": "0" * 64}

    with pytest.raises(reproducing.ReproductionError, match="cannot be read"):
        reproducing.reproduce(altered(report, elsewhere), model="/nowhere", folder=inside)


def copied(folder: Path) -> Path:
    place = folder / "copy"
    shutil.copytree(card.BUNDLED / NAME, place)
    return place


def test_the_same_model_in_another_place_reproduces_the_report(
    report: Report, tmp_path: Path
) -> None:
    found = reproducing.reproduce(report, model=str(copied(tmp_path)))
    # What the card of a bundled model says is not in a folder that is only like it.
    assert {row.where.split("]")[0] for row in found.different} <= {
        "examined[what it is",
        "examined[what it was trained on",
    }


def test_one_altered_weight_is_another_model(report: Report, tmp_path: Path) -> None:
    place = copied(tmp_path)
    file = place / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights[min(weights)].view(-1)[0] += 1e-3
    safetensors.torch.save_file(weights, file)
    with pytest.raises(reproducing.WrongModelError, match="not the same"):
        reproducing.reproduce(report, model=str(place))


def test_a_model_keeps_its_own_name_afterwards(report: Report) -> None:
    bridge = TransformerBridge.boot_native(
        {"d_model": 8, "n_layers": 1, "n_heads": 2, "d_head": 4, "d_vocab": 9, "n_ctx": 4}
    )
    before = sources.source_of(bridge)
    with pytest.raises(RuntimeError, match="stop"), sources.called(bridge, "another"):
        assert sources.source_of(bridge).name == "another"
        raise RuntimeError("stop")
    assert sources.source_of(bridge) == before
    with pytest.raises(reproducing.WrongModelError):
        reproducing.reproduce(report, model=bridge)


def test_a_page_that_shows_something_else_than_its_data_is_found(
    report: Report, page: str, model: TransformerBridge
) -> None:
    assert reproducing.reproduce(report, model=model, page=page).same
    seen = page.replace("100 % of 8 prompts", "99 % of 8 prompts", 1)
    assert seen != page
    found = reproducing.reproduce(report, model=model, page=seen)
    assert [row.where for row in found.different] == ["page"]


def test_a_page_of_another_version_is_not_called_altered(
    report: Report, page: str, model: TransformerBridge
) -> None:
    def older(plain: dict[str, Any]) -> None:
        plain["manifest"]["versions"]["plotly"] = "0.1"

    found = reproducing.reproduce(altered(report, older), model=model, page=page)
    assert found.same
    assert "plotly 0.1" in found.notes[0]
    assert ("plotly", "0.1") in {row[:2] for row in found.made_with}


def test_a_hostile_report_compares_with_itself() -> None:
    whole = example.report()
    rows = reproducing.compared(whole, whole)
    assert all(row.same for row in rows)
    assert len({row.where for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("claimed", "recomputed", "same"),
    [
        ("12.3 % of 64", "12.3 % of 64", True),
        # 0.12345 is in the report, and between the two when it is printed as a share.
        ("12.34 % of 64", "12.35 % of 64", True),
        ("12.34 % of 64", "12.36 % of 64", False),
        ("12.3 % of 64", "12.4 % of 64", False),
        ("12.34 % of 64", "12.35 % of 65", False),
        ("-12.34 %", "12.34 %", False),
        ("12.34 % of 64", "12.34 % in 64", False),
        ("1,234 tokens", "1234 tokens", False),
        ("1e999", "2e999", False),
        ("9" * 5000, "9" * 4999 + "8", False),
    ],
)
def test_numbers_in_texts(claimed: str, recomputed: str, same: bool) -> None:
    rounding = reproducing._Rounding([0.12345, 64.0], 1e-4)
    assert reproducing._same_text(claimed, recomputed, rounding) is same


def test_what_a_report_may_open(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[bool] = []

    def snapshot(name: str, *, local_files_only: bool) -> str:
        asked.append(local_files_only)
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here")

    def of_the_hub(plain: dict[str, Any]) -> None:
        plain["manifest"]["model"] = "somebody/model"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert reproducing.location(report) == NAME
    foreign = altered(report, of_the_hub)
    with pytest.raises(reproducing.ReproductionError, match="nothing is downloaded"):
        reproducing.location(foreign)
    assert asked == [True]
    assert reproducing.location(foreign, "somebody/model") == "somebody/model"


def test_reports_are_read_from_both_kinds_of_file(
    report: Report, page: str, tmp_path: Path
) -> None:
    (tmp_path / "r.json").write_text(report.to_json(), encoding="utf-8")
    (tmp_path / "r.html").write_text(page, encoding="utf-8", newline="")
    assert reproducing.read(tmp_path / "r.json") == report
    assert reproducing.read(tmp_path / "r.html") == report
    assert reproducing.open_file(tmp_path / "r.html").page == page
    assert reproducing.open_file(tmp_path / "r.json").page is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.pdf", b"%PDF", r"no \.json or \.html"),
        ("r.json", b"{", "does not hold the JSON of a report"),
        ("r.json", b'{"title": NaN}', "NaN is no number"),
        ("r.json", b'{"title": 1, "title": 2}', "given twice"),
        ("r.json", b"[" * 100_000, "does not hold the JSON|nested too deeply"),
        ("r.json", b"\xff", "not UTF-8"),
        ("r.json", b'{"format": 7}', "reads format 1"),
        ("r.json", b"[]", "all of it is missing"),
        ("r.json", b"{}", "title is missing"),
        ("r.html", b"<html></html>", "no page of a report"),
        ("absent.json", None, "No such file"),
    ],
)
def test_files_that_are_no_report(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(reproducing.ReportFileError, match=message) as caught:
        reproducing.open_file(tmp_path / name)
    assert "Input should" not in str(caught.value)


def test_a_tolerance_is_a_number(report: Report) -> None:
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(reproducing.ReproductionError, match="at least 0"):
            reproducing.reproduce(report, tolerance=wrong)


def test_a_reproduction_can_be_cancelled(report: Report, model: TransformerBridge) -> None:
    def stop(fraction: float, note: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproducing.reproduce(report, model=model, progress=stop)
    assert sources.source_of(model).name == NAME
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("claimed", "recomputed", "same"),
    [
        # What rounding leaves of nothing differs with the number of threads.
        ("<b>-2.799e-07</b>, n = 64", "<b>1.812e-07</b>, n = 64", True),
        ("95% [-0.000, 0.000]", "95% [0.000, 0.000]", True),
        ("p = 0.0005", "p = 0.0007", False),
        ("by -0.25", "by 0.25", False),
        ("layers 1-2", "layers 1-3", False),
        ("<b>-2.799e-07</b>, n = 64", "<b>-2.799e-07</b>, n = 63", False),
    ],
)
def test_numbers_within_texts_are_held_to_the_tolerance_of_small_ones(
    claimed: str, recomputed: str, same: bool
) -> None:
    rounding = reproducing._Rounding([], reproducing.TOLERANCE)
    assert reproducing._same_text(claimed, recomputed, rounding) is same
