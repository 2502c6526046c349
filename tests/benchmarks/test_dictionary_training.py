"""The rows of the benchmark of training dictionaries, by `make bench`."""

from __future__ import annotations

import pytest

from tests.benchmarks import dictionary_training


@pytest.mark.benchmark
@pytest.mark.parametrize("sizes", dictionary_training.SIZES, ids=str)
def test_a_step_of_a_dictionary(sizes: tuple[int, int, int, int]) -> None:
    assert dictionary_training.step(*sizes) > 0
