"""How many inputs are drawn: few, the same ones, in every run of the tests; many in `make fuzz`.

`WORKBENCH_FUZZ=20` draws 20 times as many, other ones each time; a failure prints how to draw it
again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import hypothesis

TIMES = int(os.environ.get("WORKBENCH_FUZZ", "1"))


def inputs(count: int) -> Callable[[Any], Any]:
    """Settings of a test.

    Args:
        count: Inputs that are drawn in every run of the tests.

    Returns:
        A decorator. Nothing is kept in the checkout, and no input is timed.
    """
    return hypothesis.settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        print_blob=TIMES > 1,
        database=None,
        deadline=None,
        # Fixtures are folders and models, which no input changes.
        suppress_health_check=(
            hypothesis.HealthCheck.function_scoped_fixture,
            hypothesis.HealthCheck.too_slow,
            hypothesis.HealthCheck.data_too_large,
            hypothesis.HealthCheck.filter_too_much,
            hypothesis.HealthCheck.large_base_example,
        ),
    )
