"""Tests, in the same tree as what they test; `typechecking` is what pytest's options name."""

from tests import typechecking as typechecking
