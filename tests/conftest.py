"""What every test stands on: one thread a process, no network, the shared pretrained model."""

from __future__ import annotations

import os
from pathlib import Path

# Read when the libraries are imported: before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["STREAMLIT_CLIENT_SHOW_ERROR_DETAILS"] = "full"
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import pytest
import torch
from jaxtyping import config
from streamlit import config as streamlit_config

from tests import typechecking

# As in the app's own settings, which Streamlit's test driver does not read.
streamlit_config.set_option("runner.magicEnabled", False)

# Before any module of the library is imported.
typechecking.install()

# Several test processes share the cores; more threads each made small models 40 times slower.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _types_are_checked(request: pytest.FixtureRequest) -> None:
    """Check types where the library is tested; pages and commands call what is checked there."""
    tested = request.path.relative_to(ROOT / "tests").parts[0]
    config.update("jaxtyping_disable", tested not in typechecking.FOLDERS)


@pytest.fixture(autouse=True)
def _own_run_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has an empty run store: none reads what another, or a person, left behind."""
    # Beside the test's own folder, which stays empty until the test writes there.
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path.with_name(f"{tmp_path.name}-runs")))


@pytest.fixture(scope="session")
def stories() -> Path:
    """Folder of the pretrained language model stories260K, beside the checkout."""
    shared = os.environ.get("WORKBENCH_SHARED")
    folder = (Path(shared) if shared else ROOT.parent / "shared") / "models" / "stories260K"
    if not (folder / "config.json").is_file():
        pytest.skip(
            "stories260K is not here: WORKBENCH_SHARED names the folder that has models/stories260K"
        )
    return folder
