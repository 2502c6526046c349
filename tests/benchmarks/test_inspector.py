"""The rows of the inspector's benchmark, by `make bench`."""

from __future__ import annotations

import pytest

from tests.benchmarks import inspector


@pytest.mark.benchmark
def test_no_view_takes_four_gigabytes_above_the_model() -> None:
    found = inspector.all_measured("gpt2")
    assert max(one["megabytes"] for one in found.values()) < inspector.MOST_MEGABYTES


@pytest.mark.benchmark
def test_a_deep_model_is_looked_at() -> None:
    assert min(one["seconds"] for one in inspector.all_measured("deep").values()) > 0
