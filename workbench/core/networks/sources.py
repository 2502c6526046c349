"""A name becomes a network: bundled ones, or a folder that `save_network` wrote.

A folder holds `config.json` (which architecture, with which numbers) and `model.safetensors`;
nothing in it is run as code. The fingerprint is a sha256 over the configuration and every weight,
so that a result can say exactly which network it belongs to.
"""

from __future__ import annotations

import dataclasses
import json
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
import safetensors
import safetensors.torch
import torch

from workbench.core import files, reading
from workbench.core.models import card, checksums
from workbench.core.networks import architectures

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule

BUNDLED = Path(__file__).parent / "bundled"
_FORMAT = "workbench-network"
# Folder of a bundled network's other trainings.
_RETRAINED = "retrained"
# Of what a library says.
_LONGEST = 400

_names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


class NetworkError(ValueError):
    """A network could not be opened; the message says why."""


class NetworkCard(pydantic.BaseModel):
    """What is worth knowing about a bundled network before using it.

    Attributes:
        name: Name that `load_network` opens it by.
        title: What it is, in a few words.
        summary: What it is, in a few sentences.
        script: Command that makes it again.
        data: The data that it was trained and tested on.
        classes: Names of the class scores, in their order.
        train_accuracy: Share of the training examples that it gets right.
        test_accuracy: Share of the held-out examples that it gets right.
        n_train: Training examples.
        n_test: Held-out examples.
        seed: Seed of everything random.
        steps: Optimizer steps.
        seconds: Wall time of the training on one thread.
        optimizer: Name and settings.
        n_parameters: Trained numbers.
        references: Publications.
        caveats: What it is not good for.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    summary: str
    script: str
    data: str
    classes: tuple[str, ...]
    train_accuracy: float
    test_accuracy: float
    n_train: int
    n_test: int
    seed: int
    steps: int
    seconds: float
    optimizer: str
    n_parameters: int
    references: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


def list_networks() -> list[str]:
    """Names of the bundled networks, in alphabetical order."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/card.json"))


def retrained(name: str) -> list[Path]:
    """Folders of the other trainings of a bundled network, for `load_network`.

    Args:
        name: One of `list_networks()`.

    Returns:
        One folder a seed; none where it was trained once.
    """
    return sorted(path.parent for path in (BUNDLED / name / _RETRAINED).glob("*/config.json"))


def network_card(name: str) -> NetworkCard:
    """Card of a bundled network.

    Args:
        name: One of `list_networks()`.

    Returns:
        The validated card.

    Raises:
        NetworkError: If there is no bundled network of that name.
    """
    if name not in list_networks():
        raise NetworkError(_unknown(name))
    text = (BUNDLED / name / "card.json").read_text(encoding="utf-8")
    return NetworkCard.model_validate_json(text)


def is_network(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder says that it holds a network of this project.

    Args:
        folder: Any path.

    Returns:
        True if `load_network` is the one to open it, damaged or not.
    """
    try:
        place = Path(folder).expanduser()
        document = reading.json_of((place / "config.json").read_bytes())
    # What can be no name of a folder is none of a network.
    except (OSError, ValueError, RuntimeError):
        return False
    return isinstance(document, dict) and document.get("format") == _FORMAT


def load_network(name: str | os.PathLike[str], *, device: str = "cpu") -> HookedRootModule:
    """Open a network by its name.

    Args:
        name: A bundled name (see `list_networks`), or a folder that `save_network` wrote.
        device: Torch device to put it on.

    Returns:
        The network in evaluation mode, float32.

    Raises:
        NetworkError: If there is no such network or its files are damaged.
    """
    text = os.fspath(name)
    bundled = text in list_networks()
    folder = BUNDLED / text if bundled else files.folder_of(text) if text else None
    if folder is None or not (folder / "config.json").is_file():
        raise NetworkError(_unknown(text))
    weights = folder / "model.safetensors"
    try:
        checksums.require(folder)
    except checksums.ChangedFileError as error:
        raise NetworkError(str(error)) from error
    config = _read_config(folder / "config.json")
    try:
        found = safetensors.torch.load_file(weights)
        _require_shapes(config, found)
        network = architectures.build(config)
        network.load_state_dict(found)
    # Of a size that no tensor has, torch says that it is no number.
    except (OSError, RuntimeError, TypeError, safetensors.SafetensorError) as error:
        raise NetworkError(
            f"{weights} does not hold the weights that its config.json describes: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
        raise NetworkError(f"{weights} holds weights that are not finite numbers")
    _names[network] = text if bundled else _folder_name(folder)
    return network.to(device)


def save_network(network: HookedRootModule, folder: str | os.PathLike[str]) -> Path:
    """Write a network that `architectures.build` made, for `load_network`.

    Args:
        network: The network.
        folder: Where to; it is made if it is missing.

    Returns:
        The folder.

    Raises:
        NetworkError: If the network has no config of this project.
    """
    config = getattr(network, "cfg", None)
    if not isinstance(config, architectures.Config):
        raise NetworkError(
            f"only networks of this project can be saved, found a {type(network).__name__} whose "
            f"cfg is a {type(config).__name__}"
        )
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    document = {
        "format": _FORMAT,
        "architecture": config.name,
        "config": dataclasses.asdict(config),
    }
    (target / "config.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    safetensors.torch.save_file(weights, target / "model.safetensors")
    # safetensors writes files that only their owner may read.
    (target / "model.safetensors").chmod(0o644)
    return target


def network_name(network: HookedRootModule) -> str:
    """Name that a network was loaded by, or that of its class for one made elsewhere.

    Args:
        network: Any network with hook points.

    Returns:
        The name.
    """
    return _names.get(network, type(network).__name__)


def network_fingerprint(network: HookedRootModule) -> str:
    """Sha256 over a network's configuration and every weight; devices do not matter.

    Args:
        network: Any network with hook points. For one that this project did not build, torch's
            description of its modules stands for the configuration.

    Returns:
        64 hexadecimal digits.
    """
    config = getattr(network, "cfg", None)
    ours = isinstance(config, architectures.Config)
    return card.digest(repr(config) if ours else str(network), sorted(network.state_dict().items()))


def _folder_name(folder: Path) -> str:
    """Name of a network in a folder; another training of a bundled one says of which."""
    if folder.parent.name == _RETRAINED:
        return f"{folder.parent.parent.name}, training {folder.name}"
    return folder.name


def _unknown(name: str) -> str:
    return (
        f"no bundled network is called {reading.quoted(name)} and no folder of that name holds a "
        f"network; the bundled networks are {', '.join(list_networks())}"
    )


def _read_config(path: Path) -> architectures.Config:
    try:
        document = reading.json_of(path.read_bytes())
        if document["format"] != _FORMAT:
            raise NetworkError(
                f"{path} is of format {reading.quoted(document['format'])}, expected {_FORMAT!r}"
            )
        kind = architectures.KINDS[document["architecture"]]
        checked = pydantic.TypeAdapter(kind).validate_python(
            document["config"], strict=False, extra="forbid"
        )
    except NetworkError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NetworkError(
            f"{path} does not describe a network: {reading.plain(reason, _LONGEST)}"
        ) from error
    if any(number < 1 for number in _numbers(checked)):
        raise NetworkError(f"{path} describes a network with a size below 1")
    return checked


def _require_shapes(config: architectures.Config, found: Mapping[str, torch.Tensor]) -> None:
    """Refuse sizes that the weights do not have, before anything of these sizes is made."""
    with torch.device("meta"):
        wanted = architectures.build(config).state_dict()
    for name, value in wanted.items():
        if name not in found or found[name].shape != value.shape:
            there = tuple(found[name].shape) if name in found else "nothing"
            raise RuntimeError(f"{name} is {there}, expected {tuple(value.shape)}")


def _numbers(config: architectures.Config) -> list[int]:
    values = dataclasses.astuple(config)
    return [n for value in values for n in (value if isinstance(value, tuple) else (value,))]
