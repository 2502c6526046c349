"""A name becomes a TransformerBridge: bundled, a Hugging Face folder, or a hub name.

1. A bundled name is built from this project's own config and safetensors; no network.
2. A folder must hold config.json, safetensors weights and a tokenizer; no network.
3. Anything else that reads like a hub name is downloaded (safetensors, JSON and tokenizer files
   only) and then opened as a folder.

No source runs code from a checkpoint: pickled weights and repositories that bring their own Python
are refused. Weights are used as they are stored, without folding or centring, so logits are the
model's own; `plain_model` opens the same weights without TransformerLens to prove it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import re
import threading
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.core.models import card

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "tokenizer.model", "*.tiktoken"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class ModelSourceError(ValueError):
    """A model could not be opened; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a loaded model came from.

    Attributes:
        kind: "bundled", "folder", "hub", or "object" for a bridge made elsewhere.
        name: The name that it was asked for by.
        folder: The folder that holds its weights, if it is known.
        processing: What was done to the weights after reading them.
    """

    kind: Literal["bundled", "folder", "hub", "object"]
    name: str
    folder: Path | None
    processing: str = "none"


# transformers imports its parts on first use, and two threads that do so at once see half of them.
_opening = threading.Lock()
_sources: weakref.WeakKeyDictionary[Any, Source] = weakref.WeakKeyDictionary()


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> TransformerBridge:
    """Open a model by name or folder.

    Args:
        name_or_path: A bundled name (see `list_models`), a Hugging Face folder, or a hub name.
        device: "auto" takes a GPU where there is one, else the CPU; or a torch device name.
        dtype: Defaults to float32.
        revision: Branch, tag or commit, for a hub name only.

    Returns:
        The model in evaluation mode, weights unprocessed.

    Raises:
        ModelSourceError: If it cannot be opened; a subclass of ValueError, one sentence.
    """
    name = os.fspath(name_or_path).strip()
    place = torch_device(device)
    if name in card.list_models():
        source = Source("bundled", name, card.BUNDLED / name)
    elif name and Path(name).expanduser().is_dir():
        source = Source("folder", name, Path(name).expanduser().resolve())
    elif _looks_like_path(name):
        raise ModelSourceError(
            f"there is no folder {name!r}: give the folder that holds config.json"
        )
    else:
        source = Source("hub", name, _download(name, revision))
    with _opening:
        model = _open(source, place, dtype)
    _require_finite(model, source)
    _sources[model] = source
    return model


def source_of(model: TransformerBridge) -> Source:
    """Where a model came from; kind "object" for a bridge that this project did not load.

    A bridge that a researcher booted from a local folder still names that folder, which lets the
    comparison with the plain model run.
    """
    if model in _sources:
        return _sources[model]
    name = str(getattr(model.cfg, "model_name", None) or "model")
    folder = Path(name) if (Path(name) / "config.json").is_file() else None
    processed = "compatibility mode" if getattr(model, "compatibility_mode", False) else "none"
    return Source("object", name, folder, processed)


@contextlib.contextmanager
def called(model: TransformerBridge, name: str) -> Generator[None]:
    """Call a model by another name for a while: the one that it had when something was written.

    Args:
        model: Any bridge.
        name: What `source_of` and so every result calls it within.

    Yields:
        Nothing.
    """
    own, known = source_of(model), model in _sources
    _sources[model] = dataclasses.replace(own, name=name)
    try:
        yield
    finally:
        if known:
            _sources[model] = own
        else:
            del _sources[model]


def plain_model(model: TransformerBridge) -> torch.nn.Module | None:
    """The same checkpoint without TransformerLens's bridge, or None where its files are unknown.

    Args:
        model: A loaded bridge.

    Returns:
        A Hugging Face model (or a plain native network for a bundled name) in evaluation mode, on
        the bridge's device and in its dtype. It is read again from disk: nothing is shared.
    """
    source = source_of(model)
    if source.folder is None:
        return None
    if _native_config(source.folder):
        plain = _native_network(source.folder)
    else:
        plain = _huggingface_network(source.folder, model.cfg.dtype)
    return plain.to(device=model.cfg.device, dtype=model.cfg.dtype).eval()


def _open(source: Source, device: str, dtype: torch.dtype | None) -> TransformerBridge:
    folder = source.folder
    if folder is None:
        raise ModelSourceError(f"nothing is known of where {source.name!r} is stored")
    if _native_config(folder):
        return _open_native(folder, source.name, device, dtype)
    _require_huggingface_folder(folder, source.name)
    return _open_huggingface(folder, source.name, device, dtype)


def _native_config(folder: Path) -> dict[str, Any] | None:
    """Settings of a folder in this project's own format, None for any other folder."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    config = _read_json(path)
    return config["config"] if config.get("format") == "transformer-lens-native" else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelSourceError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelSourceError(f"{path} holds {type(value).__name__}, expected a JSON object")
    return value


def _native_bridge_config(folder: Path) -> Any:
    from transformer_lens.config import TransformerBridgeConfig

    settings = dict(_native_config(folder) or {})
    prepend_bos = bool(settings.pop("default_prepend_bos", False))
    try:
        config = TransformerBridgeConfig(
            **settings, init_weights=False, architecture="TransformerLensNative"
        )
    except TypeError as error:
        raise ModelSourceError(
            f"{folder / 'config.json'} does not describe a model: {error}"
        ) from error
    config.default_prepend_bos = prepend_bos
    return config


def _native_network(folder: Path) -> torch.nn.Module:
    import safetensors.torch
    from transformer_lens.model_bridge.sources.native.model import NativeModel

    weights_file = folder / "model.safetensors"
    try:
        network = NativeModel(_native_bridge_config(folder))
        network.load_state_dict(safetensors.torch.load_file(weights_file))
    except (OSError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        raise ModelSourceError(
            f"{weights_file} does not hold the weights that its config.json describes: "
            f"{_first_line(error)}"
        ) from error
    return network.eval()


def _open_native(
    folder: Path, name: str, device: str, dtype: torch.dtype | None
) -> TransformerBridge:
    import torch
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    network = _native_network(folder).to(device=device, dtype=dtype or torch.float32)
    return build_bridge_from_module(
        network,
        architecture="TransformerLensNative",
        tl_config=_native_bridge_config(folder),
        tokenizer=_tokenizer(folder),
        dtype=dtype or torch.float32,
        device=device,
        model_name=name,
    ).eval()


def _tokenizer(folder: Path) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise ModelSourceError(
            f"the tokenizer in {folder} cannot be opened ({_first_line(error)}): save it again "
            "with tokenizer.save_pretrained(folder)"
        ) from error


def _require_huggingface_folder(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise ModelSourceError(
            f"{name!r} has no config.json: give a Hugging Face folder, as written by "
            "model.save_pretrained(folder)"
        )
    if "auto_map" in _read_json(folder / "config.json"):
        raise ModelSourceError(
            f"{name!r} needs Python code of its own (auto_map in its config.json), which is never "
            "run here: convert it to an architecture that transformers includes"
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelSourceError(_no_safetensors(folder, name))
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise ModelSourceError(
            f"{name!r} has no tokenizer: save one beside the weights with "
            "tokenizer.save_pretrained(folder)"
        )


def _no_safetensors(folder: Path, name: str) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"{name!r} holds only pickled weights ({pickles[0]}), which can run code when opened: "
            "convert them with model.save_pretrained(folder, safe_serialization=True)"
        )
    return (
        f"{name!r} has no safetensors weights: expected model.safetensors beside config.json (a "
        "checkpoint that exists only in pickled form has to be converted with "
        "model.save_pretrained(folder, safe_serialization=True) first)"
    )


def _open_huggingface(
    folder: Path, name: str, device: str, dtype: torch.dtype | None
) -> TransformerBridge:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = _tokenizer(folder)
    number_format = dtype or torch.float32
    try:
        model = TransformerBridge.boot_transformers(
            str(folder),
            hf_model=_huggingface_network(folder, number_format),
            tokenizer=tokenizer,
            device=device,
            dtype=number_format,
        )
    # transformers and transformer_lens raise a dozen kinds here; all mean the same to the reader.
    except Exception as error:
        architecture = _read_json(folder / "config.json").get("architectures") or "unnamed"
        raise ModelSourceError(
            f"transformer-lens cannot run {name!r} (architecture {architecture}): "
            f"{_first_line(error)}; use a decoder-only architecture that it supports"
        ) from error
    return model.eval()


def _huggingface_network(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    import transformers

    with _quiet_transformers():
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype
        )


def _download(name: str, revision: str | None) -> Path:
    """Fetch a hub repository's safetensors, JSON and tokenizer files; the only use of a network."""
    import huggingface_hub
    from huggingface_hub import errors

    if not _HUB_NAME.fullmatch(name):
        raise ModelSourceError(f"{name!r} is not a model: {_what_is_there(name)}")
    try:
        return Path(
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES)
        )
    except errors.GatedRepoError as error:
        raise ModelSourceError(
            f"{name!r} is gated on the hub: accept its terms there and log in with 'hf auth login'"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelSourceError(f"{name!r} has no revision {revision!r} on the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelSourceError(f"the hub has no model {name!r}: {_what_is_there(name)}") from error
    except (OSError, errors.HFValidationError, errors.HfHubHTTPError) as error:
        raise ModelSourceError(
            f"{name!r} is neither bundled nor a folder, and the hub cannot be asked for it"
            f": {_what_is_there(name)}"
        ) from error


def _what_is_there(name: str) -> str:
    bundled = card.list_models()
    near = difflib.get_close_matches(name, bundled, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"{guess}use a bundled model ({', '.join(bundled)}), a Hugging Face folder, or a hub name"
    )


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or not name


def torch_device(device: str) -> str:
    """Name of a device that there is.

    Args:
        device: "auto" takes a GPU where there is one, else the CPU; or a torch device name.

    Returns:
        A torch device name.

    Raises:
        ModelSourceError: If there is no such device here.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelSourceError(
            f"device {device!r} is not to be had here ({_first_line(error)}): use 'auto' or 'cpu'"
        ) from error
    return device


def _require_finite(model: TransformerBridge, source: Source) -> None:
    for name, value in model.original_model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            count = int((~value.isfinite()).sum())
            raise ModelSourceError(
                f"{source.name!r} has {count} weights that are NaN or infinite in {name}: the "
                "checkpoint is damaged or its training diverged; use another one"
            )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".:") if text else type(error).__name__


@contextlib.contextmanager
def _quiet_transformers() -> Generator[None]:
    """Keep transformers' weight-loading bar out of a script's output and a server's log."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
