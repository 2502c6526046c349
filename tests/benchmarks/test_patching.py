"""Every row of the patching table that does not take many minutes, by `make bench`.

`python -m tests.benchmarks.patching` prints the whole table.
"""

from __future__ import annotations

import pytest

from tests.benchmarks import patching


@pytest.mark.benchmark
@pytest.mark.parametrize(("case", "table"), patching.ROWS)
def test_ratio_and_difference(case: str, table: str) -> None:
    if case.startswith("GPT-2"):
        pytest.skip("takes minutes a row: run python -m tests.benchmarks.patching")
    try:
        model, pairs = patching.ROWS[case, table]()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    _, gap = patching.compare(f"{case}, {table}", patching.TABLES[table], model, pairs)
    assert gap <= patching.EXACT
