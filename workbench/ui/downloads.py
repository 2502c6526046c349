"""Taking a result along: as a table, as an interactive figure, and as the result folder itself."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import streamlit as st

from workbench.core import runs
from workbench.ui import escaping

if TYPE_CHECKING:
    from workbench.core.results import Result


def offer(result: Result, *, run: str, folder: Path, name: str) -> None:
    """Draw the download buttons, where the run is kept, and the link that reopens it.

    Args:
        result: What to take along.
        run: Its id in the run store.
        folder: Where the store keeps it.
        name: Stem of the file names.
    """
    _buttons(result, f"{name}-{run}")
    here = urlsplit(st.context.url or "")
    # All that stands in the address, so that the controls come back as they are.
    asked = st.query_params
    query = urlencode(
        [(name, value) for name in asked for value in asked.get_all(name) if name != "run"]
        + [("run", run)]
    )
    # Where the store cannot be written, it is kept elsewhere for a while.
    place = folder if folder.is_dir() else runs.RunStore().folder(run)
    st.caption(escaping.markdown(f"Saved as run {run} in {place}. The link that reopens it:"))
    st.code(f"{here.scheme}://{here.netloc}{here.path}?{query}", language=None)


def offer_stored(result: Result, name: str) -> None:
    """Draw the same for a result that lies in the run store.

    Args:
        result: What to take along.
        name: Stem of the file names.
    """
    run = runs.id_of(result.provenance)
    offer(result, run=run, folder=runs.default_root() / run, name=name)


def offer_unstored(result: Result, name: str) -> None:
    """Draw the download buttons of a result that is computed anew whenever it is asked for.

    Args:
        result: What to take along.
        name: Stem of the file names.
    """
    _buttons(result, name)


def _buttons(result: Result, name: str) -> None:
    table, figure, whole = st.columns(3)
    # The content is made when a button is clicked: the figure alone is some megabytes.
    table.download_button(
        "Table (CSV)",
        lambda: result.to_frame().to_csv(index=False),
        f"{name}.csv",
        "text/csv",
        on_click="ignore",
    )
    figure.download_button(
        "Figure (HTML, works offline)",
        lambda: result.figure().to_html(include_plotlyjs=True),
        f"{name}.html",
        "text/html",
        on_click="ignore",
    )
    whole.download_button(
        "Everything (ZIP)",
        lambda: zipped(result),
        f"{name}.zip",
        "application/zip",
        on_click="ignore",
    )


def zipped(result: Result) -> bytes:
    """A result's folder, as `Result.save` writes it, in a ZIP archive.

    Args:
        result: Any result.

    Returns:
        The archive.
    """
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as scratch:
        folder = result.save(Path(scratch) / "result")
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, file.name)
    return buffer.getvalue()
