"""The rows of the grokking benchmark that take a minute each, by `make bench`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.benchmarks import grokking


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(grokking.THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.benchmark
def test_steps_against_the_demos_loop() -> None:
    _, gap = grokking.steps(200)
    assert gap <= grokking.LOSSES_EQUAL


@pytest.mark.benchmark
def test_four_seeds_together() -> None:
    assert grokking.seeds(59, 0.5, 100, trials=1)[0] > 0


@pytest.mark.benchmark
def test_tracking_the_bundled_trajectory() -> None:
    assert grokking.track() > 0
