"""What bad input is tried on, made once."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
from pathlib import Path

import pytest
from hypothesis import configuration

import analyses
import workbench
from workbench.core.models import card


@pytest.fixture(scope="session", autouse=True)
def _nothing_in_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What Hypothesis keeps of Unicode is no part of the checkout."""
    configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


@pytest.fixture(scope="session", autouse=True)
def _all_of_the_library_is_there() -> None:
    """Hypothesis draws constants of the modules that are there: none comes while it draws."""
    for package in (workbench, analyses):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(".__main__"):
                importlib.import_module(module.name)


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the workbench's own format in which everything is right."""
    folder = tmp_path_factory.mktemp("sound") / "model"
    source = card.BUNDLED / "modadd-113"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, folder / name)
    return folder
