"""The rows of the feature benchmark, by `make bench`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import features


@pytest.mark.benchmark
def test_scanning_a_small_model(stories: Path) -> None:
    assert stories.is_dir()
    assert min(features.scan("stories", trials=3)) > 0


@pytest.mark.benchmark
def test_scanning_at_the_size_of_gpt2() -> None:
    assert min(features.scan("gpt2", trials=1)) > 0


@pytest.mark.benchmark
def test_memory_over_ten_times_the_corpus(stories: Path) -> None:
    assert stories.is_dir()
    assert features.memory() > 0
