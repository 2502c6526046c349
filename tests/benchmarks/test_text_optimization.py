"""Batched text optimization against one candidate at a time, by `make bench`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import text_optimization


@pytest.mark.benchmark
def test_the_bundled_model() -> None:
    assert text_optimization.grammar() >= text_optimization.LEAST


@pytest.mark.benchmark
@pytest.mark.real_model
def test_a_pretrained_model(stories: Path) -> None:
    assert text_optimization.stories(stories) >= text_optimization.LEAST
