"""Types are checked while the library is tested."""

from __future__ import annotations

from typing import Any, cast

import jaxtyping
import pytest

from tests import typechecking
from workbench.core import evidence
from workbench.core.prompts import lexicon


def test_types_are_checked_in_every_module_but_those_that_are_called_most() -> None:
    assert set(typechecking.UNCHECKED) < set(typechecking.modules())
    no_array, no_word = cast("Any", "no null"), cast("Any", 3)
    with pytest.raises(jaxtyping.TypeCheckError):
        evidence.p_value(0.5, no_array)
    with pytest.raises(ValueError, match="3"):
        lexicon.is_female(no_word)
