"""What every page says of stored results: that none is kept, or that one is damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import streamlit as st

from workbench.ui import escaping


def warn() -> None:
    """Draw the warning, where there is something to warn of."""
    # Slow to import: the title of the first page is not to wait for it.
    from workbench.core import runs

    reason = runs.RunStore().not_kept
    if reason:
        st.warning(
            f"Nothing is kept: {escaping.markdown(reason)}. What is computed is shown, and gone "
            "when the server ends; the download buttons take it along."
        )


@contextlib.contextmanager
def saying_damage() -> Generator[None]:
    """Say in a sentence where a stored result that a page shows is damaged; the page ends there.

    Yields:
        Nothing.
    """
    try:
        yield
    except ValueError as error:
        from workbench.core import results

        if not isinstance(error, results.ResultError):
            raise
        st.error(f"{escaping.markdown(str(error))}: delete it, or run it again.")
