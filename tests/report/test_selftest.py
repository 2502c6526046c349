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
from analyses import weights
from workbench.core.models import sources
from workbench.core.planted import known_features, word_level
from workbench.report.document import Recovered, SelfTest
from workbench.report.selftest import CHECKS, checking, circuits, heads, patching, run, selftest
from workbench.report.selftest import weights as weight_checks

# An analysis is a module, or a package of modules.
ANALYSES = sorted(
    path.stem
    for path in Path(analyses.__path__[0]).iterdir()
    if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
)

_OPENS = "opens what is on disk"
_WRITES_DOWN = "writes down what determines a result, from which a stored one is found"
_DRAWS = "draws what `attribute` found, which has rows"
_CHECKS = "checks prompts before a run; what runs them has rows"
_READS = "reads a name or a prompt, and measures nothing"
_CHOOSES = "chooses what an analysis is given where nothing is asked for"
_ESTIMATES = "estimates a time, which no model tells beforehand"
# Public functions that are no analysis of a model, and why.
NO_ANALYSIS = {
    "activation_patching.check": _CHECKS,
    "activation_patching.comparison_parameters": _WRITES_DOWN,
    "activation_patching.mark_of": _WRITES_DOWN,
    "activation_patching.parameters": _WRITES_DOWN,
    "attention.scoring_seconds": _ESTIMATES,
    "attention.usual_length": _CHOOSES,
    "attention.usual_tokens": _CHOOSES,
    "circuits.parameters": _WRITES_DOWN,
    "contributions.counterpart": _READS,
    "contributions.edge_or_node": _READS,
    "direct_attribution.head_bars": _DRAWS,
    "direct_attribution.neuron_bars": _DRAWS,
    "direct_attribution.positions": _DRAWS,
    "direct_attribution.sources": _DRAWS,
    "direct_attribution.unit_of": _READS,
    "direct_attribution.waterfall": _DRAWS,
    "grokking.bundled_run": _OPENS,
    "grokking.columns_of": _OPENS,
    "grokking.open_run": _OPENS,
    "grokking.read_curve": _OPENS,
    "grokking.recipe": _CHOOSES,
    "grokking.stored_runs": _OPENS,
    "logit_lens.training_seconds": _ESTIMATES,
    "path_patching.check": _CHECKS,
    "path_patching.parameters": _WRITES_DOWN,
}


def public_functions(name: str) -> set[str]:
    """What an analysis offers; a module without a list offers what is defined in it."""
    module = importlib.import_module(f"analyses.{name}")
    functions = dict(inspect.getmembers(module, inspect.isfunction))
    own = [one for one, value in functions.items() if value.__module__ == module.__name__]
    offered = getattr(module, "__all__", own)
    return {f"{name}.{one}" for one in offered if one in functions and not one.startswith("_")}


def without_a_row() -> set[str]:
    named = {check.analysis for check in CHECKS}
    return set().union(*map(public_functions, ANALYSES)) - named


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("nothing\n  to divide by")


def breaks(monkeypatch: pytest.MonkeyPatch, analysis: str) -> None:
    """Let an analysis raise."""
    package, function = analysis.split(".")
    monkeypatch.setattr(importlib.import_module(f"analyses.{package}"), function, broken)


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


def test_every_public_analysis_has_a_row_or_a_reason_why_it_has_none() -> None:
    # A new analysis needs a row in `workbench.report.selftest`; a reason that is no longer needed
    # has to go.
    assert without_a_row() == set(NO_ANALYSIS)


def test_an_analysis_without_a_row_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "newcomer", broken, raising=False)
    monkeypatch.setattr(weights, "__all__", [*weights.__all__, "newcomer"])
    assert without_a_row() - set(NO_ANALYSIS) == {"weights.newcomer"}


@pytest.mark.parametrize("name", ANALYSES)
def test_every_package_of_analyses_has_a_row(name: str) -> None:
    assert any(check.analysis.split(".")[0] == name for check in CHECKS)


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
        "activation_patching.inspect_cell",
        "activations.outlier_dimensions",
        "attention.score_heads",
        "circuits.faithfulness",
        "circuits.inspect_edge",
        "contributions.state_tokens",
        "feature_visualization.believe",
        "feature_visualization.compare_input_with_data",
        "feature_visualization.compare_with_examples",
        "feature_visualization.dictionary_quality",
        "feature_visualization.match_variables",
        "feature_visualization.neighbours",
        "feature_visualization.steered_text",
        "feature_visualization.token_triggers",
        "grokking.detect_drops",
        "grokking.fourier",
        "grokking.sweep",
        "grokking.train",
        "grokking.what_changed_at",
        "logit_lens.compare",
        "neuron_clusters.find_clusters",
        "neuron_clusters.grow",
        "neuron_clusters.localize",
        "weights.compare",
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
        breaks(monkeypatch, "activation_patching.patch")
        found = run(patching.CHECKS, device="cpu")
        patched = [row for row in found.rows if row.analysis == "activation_patching.patch"]
        assert not found.passed
        assert {row.right for row in patched} == {False}
        assert {row.recovered for row in patched} == {"ZeroDivisionError: nothing to divide by"}
        assert {row.measured for row in patched} == {None}
        # The others go on, but for those that read what it found.
        others = [row for row in found.rows if row not in patched]
        wrong = {row.analysis for row in others if not row.right}
        assert wrong == {"activation_patching.compare_like", "activation_patching.inspect_cell"}

    @pytest.mark.parametrize(
        ("analysis", "checks"),
        [
            ("attention.one_head", heads.CHECKS),
            ("circuits.areas", circuits.CHECKS),
            ("path_patching.path_patch", patching.CHECKS),
            ("weights.compare", weight_checks.CHECKS),
        ],
    )
    def test_exactly_its_own_rows_are_not_right(
        self, monkeypatch: pytest.MonkeyPatch, analysis: str, checks: tuple[checking.Check, ...]
    ) -> None:
        breaks(monkeypatch, analysis)
        found = run(checks, device="cpu")
        wrong = [(row.analysis, row.planted) for row in found.rows if not row.right]
        assert wrong == [(one.analysis, one.planted) for one in checks if one.analysis == analysis]
        assert wrong

    def test_a_row_puts_its_planted_truth_through_the_analysis_that_it_names(self) -> None:
        models = checking.Models("cpu")
        for check in CHECKS:
            with pytest.MonkeyPatch.context() as patch:
                breaks(patch, check.analysis)
                row = checking.row(check, models)
            # What comes before it in the row is as it was, and what is broken is what stopped it.
            assert row.recovered == "ZeroDivisionError: nothing to divide by", check

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
