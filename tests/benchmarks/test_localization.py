"""Share of right verdicts where the truth was planted, by `make bench`."""

from __future__ import annotations

import pytest

from tests.benchmarks import localization


@pytest.mark.benchmark
@pytest.mark.parametrize("effect", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("case", localization.PLANTED, ids=lambda case: case.name)
def test_what_was_planted_is_told(case: localization.Case, effect: float) -> None:
    assert localization.simulate(case, effect, 200) >= 0.95


@pytest.mark.benchmark
@pytest.mark.parametrize(
    "case", (localization.ABSENT, *localization.NOTHING), ids=lambda case: case.name
)
def test_nothing_is_localized_where_nothing_is(case: localization.Case) -> None:
    assert localization.simulate(case, 2.0, 200) >= 0.95


@pytest.mark.benchmark
@pytest.mark.parametrize("case", (*localization.PLANTED, localization.ABSENT), ids=lambda c: c.name)
def test_all_five_parts_agree(case: localization.Case) -> None:
    assert localization.simulate(case, 2.0, 10, whole=True) >= 0.9
