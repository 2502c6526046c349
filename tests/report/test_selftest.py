"""The self-test recovers what was planted, covers every analysis, and reports what is broken."""

from __future__ import annotations

import importlib
import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analyses
from analyses import activation_patching, weights
from workbench.core.models import sources
from workbench.core.planted import known_features, word_level
from workbench.report.document import Recovered, SelfTest
from workbench.report.selftest import checking, patching, run, selftest
from workbench.report.selftest import weights as weight_checks

# An analysis is a module, or a package of modules.
ANALYSES = sorted(
    path.stem
    for path in Path(analyses.__path__[0]).iterdir()
    if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
)


class Stopped(Exception):
    pass


class Told:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.notes: list[str] = []

    def __call__(self, fraction: float, note: str) -> None:
        self.fractions.append(fraction)
        self.notes.append(note)


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


@pytest.fixture(scope="module")
def found(told: Told) -> SelfTest:
    return selftest(device="cpu", progress=told)


def test_everything_that_was_planted_is_recovered(found: SelfTest) -> None:
    assert [row for row in found.rows if not row.right] == []
    assert found.passed
    assert found.seconds > 0


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_has_a_row(found: SelfTest, name: str) -> None:
    assert any(row.analysis.split(".")[0] == name for row in found.rows)


def test_a_row_names_a_public_function_and_has_a_number_beside_its_bound(found: SelfTest) -> None:
    for row in found.rows:
        package, function = row.analysis.split(".")
        module = importlib.import_module(f"analyses.{package}")
        assert inspect.isfunction(getattr(module, function)), row.analysis
        assert row.planted and row.recovered and row.bound
        assert row.measured is not None and math.isfinite(row.measured)
    # No two rows ask the same.
    assert len({(row.analysis, row.planted) for row in found.rows}) == len(found.rows)


@pytest.mark.parametrize(
    "analysis",
    [
        "activation_patching.patch",
        "activations.outlier_dimensions",
        "attention.score_heads",
        "circuits.faithfulness",
        "feature_visualization.believe",
        "grokking.detect_drops",
        "grokking.fourier",
        "neuron_clusters.find_clusters",
        "neuron_clusters.localize",
    ],
)
def test_where_nothing_was_planted_nothing_is_found(found: SelfTest, analysis: str) -> None:
    controls = [
        row
        for row in found.rows
        if row.analysis == analysis and row.planted.startswith("nothing: ")
    ]
    assert controls
    assert all(row.right for row in controls)


def test_it_tells_how_far_it_is(found: SelfTest, told: Told) -> None:
    assert told.fractions == sorted(told.fractions)
    assert (told.fractions[0], told.fractions[-1]) == (0.0, 1.0)
    assert told.notes[:-1] == [row.analysis for row in found.rows]


def test_it_is_kept_in_a_report_and_read_back(found: SelfTest) -> None:
    assert SelfTest.model_validate_json(found.model_dump_json()) == found


def test_it_stops_when_told_to() -> None:
    def stop(fraction: float, note: str) -> None:
        raise Stopped(note)

    with pytest.raises(Stopped, match=r"activation_patching\.patch"):
        selftest(device="cpu", progress=stop)


def test_a_device_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(sources.ModelSourceError, match="'abacus' is not to be had here"):
        selftest(device="abacus")


class TestBroken:
    def test_an_analysis_that_raises_is_a_row_that_is_not_right(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("nothing\n  to divide by")

        monkeypatch.setattr(activation_patching, "patch", broken)
        found = run(patching.CHECKS, device="cpu")
        patched = [row for row in found.rows if row.analysis == "activation_patching.patch"]
        assert not found.passed
        assert {row.right for row in patched} == {False}
        assert {row.recovered for row in patched} == {"ZeroDivisionError: nothing to divide by"}
        assert {row.measured for row in patched} == {None}
        # The others go on.
        others = [row for row in found.rows if row not in patched]
        assert others and all(row.right for row in others if "compare" not in row.analysis)

    def test_an_analysis_that_is_a_little_off_is_not_right(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = weights.copying

        class Off:
            def __init__(self, copying: np.ndarray) -> None:
                self.copying = copying

        def off_by_a_thousandth(*given: Any, **named: Any) -> Any:
            return Off(real(*given, **named).copying + 1e-3)

        monkeypatch.setattr(weights, "copying", off_by_a_thousandth)
        (row,) = (
            row
            for row in run(weight_checks.CHECKS[:1], device="cpu").rows
            if row.analysis == "weights.copying"
        )
        assert not row.right
        assert row.measured == pytest.approx(1e-3, rel=1e-3)
        assert row.bound == "within 0.0001"


class TestOutcomes:
    def test_the_largest_deviation_decides(self) -> None:
        outcome = checking.within([1.0, 2.0, 3.0], [1.0, 2.5, 3.25], bound=0.5)
        assert (outcome.right, outcome.measured) == (True, 0.5)
        assert outcome.recovered == "1, 2, 3; off by at most 5.0e-01"
        assert not checking.within([1.0, 2.0], [1.0, 2.5], bound=0.499).right

    def test_what_is_no_number_is_not_right(self) -> None:
        check = checking.Check("a.b", "one", lambda _: checking.within([math.nan], [1.0]))
        row = checking.row(check, checking.Models("cpu"))
        assert row == Recovered(
            analysis="a.b",
            planted="one",
            recovered="nan; off by at most nan",
            right=False,
            measured=None,
            bound="within 0.0001",
        )
        assert not checking.at_least(math.nan, 0, "").right
        assert not checking.at_most(math.nan, 0, "").right

    def test_more_numbers_than_were_planted_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"shape \(2,\); expected \(1,\)"):
            checking.within([1.0, 1.0], [1.0])

    def test_names_that_are_missing_or_besides_are_counted(self) -> None:
        outcome = checking.same(["b", "x"], ["a", "b"])
        assert outcome == checking.Outcome("b, x", False, 2, "none missing, none besides")
        assert checking.same(["b", "a"], ["a", "b"]).right
        assert checking.same([], []).recovered == "nothing"
        many = checking.same(range(20), range(20))
        assert many.right and many.recovered.endswith("11 and 8 more")

    def test_of_two_that_which_is_wrong_decides(self) -> None:
        right, wrong = checking.at_least(2, 1, "two"), checking.at_most(2, 1, "too many")
        assert checking.both(wrong, right)[:3] == ("too many; two", False, 2)
        assert checking.both(right, wrong) == ("two; too many", False, 2, "at most 1")
        assert checking.both(right, right).right


def test_words_of_features_are_what_they_are_said_to_be() -> None:
    model = known_features.words()
    features = known_features.directions()
    assert features.norm(dim=1).numpy() == pytest.approx(1)
    embedded = model.W_E.detach()
    drawn = known_features.combined(
        features, known_features.N_WORDS, generator=_generator(), share=known_features.SHARE
    )
    assert np.array_equal(embedded.numpy(), drawn.numpy())
    # Each is in one word of 32, and a word of none is nothing.
    assert (embedded == 0).all(1).double().mean() == pytest.approx((31 / 32) ** 32, abs=0.06)
    assert word_level.on(model, "cpu") is model


def _generator() -> Any:
    import torch

    return torch.Generator().manual_seed(0)
