"""The share of all units whose optimum exceeds the data, by `make bench`."""

from __future__ import annotations

import pytest

from tests.benchmarks import optimized_inputs
from workbench.core.networks import sources


@pytest.mark.benchmark
@pytest.mark.parametrize("name", sources.list_networks())
def test_optima_exceed_the_best_example(name: str) -> None:
    assert optimized_inputs.share(name) >= 0.95
