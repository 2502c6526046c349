"""Published numbers that the grokking analyses are held against; they are not in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def refdata() -> Path:
    """Folder of digitised published curves, beside the checkout."""
    shared = os.environ.get("WORKBENCH_SHARED")
    folder = (Path(shared) if shared else ROOT.parent / "shared") / "refdata"
    if not folder.is_dir():
        pytest.skip(
            "the published curves are not here: WORKBENCH_SHARED names the folder that has refdata"
        )
    return folder
