"""The row of the selectivity benchmark, by `make bench`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import selectivity


@pytest.mark.benchmark
def test_selectivity_of_all_neurons_of_a_small_model(stories: Path) -> None:
    assert stories.is_dir()
    seconds, ratio = selectivity.measured()
    assert seconds <= 20
    assert ratio >= 20
