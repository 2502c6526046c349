"""A name becomes a TransformerBridge: bundled, a Hugging Face folder, or a hub name.

1. A bundled name is built from this project's own config and safetensors; no network.
2. A folder must hold config.json and safetensors weights, as Hugging Face (with a tokenizer) or
   TransformerLens (see `native`) lay them out; no network.
3. "shown: NAME" is a bridge of this very process that `lent` gave that name; no file is read.
4. Anything else that reads like a hub name is downloaded (safetensors, JSON and tokenizer files
   only) and then opened as a folder.

No source runs code from a checkpoint: pickled weights and repositories that bring their own Python
are refused. Weights are used as they are stored, without folding or centring, so logits are the
model's own; `plain_model` opens the same weights without TransformerLens to prove it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.core import files, reading
from workbench.core.models import card, checksums, memory, native
from workbench.core.models.folders import ModelSourceError, first_line, read_json

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "tokenizer.model", "*.tiktoken"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
# What configs of Hugging Face call the number of layers.
_LAYERS = ("n_layer", "n_layers", "num_layers", "num_hidden_layers")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# What the names of lent objects begin with: no bundled model's, and no hub name has a colon.
SHOWN = "shown: "


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
_lent: dict[str, Any] = {}


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
    # A device that is not there is said before anything is downloaded.
    place = torch_device(device)
    return read_source(find_source(name_or_path, revision=revision), device=place, dtype=dtype)


def find_source(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Source:
    """Where the files of a model are; of a hub name, they are downloaded.

    Args:
        name_or_path: A bundled name (see `list_models`), a Hugging Face folder, or a hub name.
        revision: Branch, tag or commit, for a hub name only.
        progress: Told how much of a download is done; what it raises ends it, and the next one goes
            on from there.

    Returns:
        The source, with its folder.

    Raises:
        ModelSourceError: If there is none.
    """
    name = os.fspath(name_or_path).strip()
    if name.startswith(SHOWN):
        if name not in _lent:
            raise ModelSourceError(gone(name))
        return Source("object", name, None)
    if name in card.list_models():
        return Source("bundled", name, card.BUNDLED / name)
    folder = files.folder_of(name) if name else None
    if folder is not None:
        return Source("folder", name, folder.resolve())
    if _looks_like_path(name):
        raise ModelSourceError(
            f"there is no folder {reading.quoted(name)}: give the folder that holds config.json"
        )
    return Source("hub", name, _download(name, revision, progress))


def needed_bytes(source: Source, dtype: torch.dtype | None = None) -> int:
    """What the weights of a source take once they are loaded, by the headers of its files.

    Args:
        source: What `find_source` gave.
        dtype: The number format that they are loaded as; float32 if none is given.

    Returns:
        Bytes.

    Raises:
        ModelSourceError: If a file of weights is not what its header says.
    """
    import torch

    if source.folder is None:
        return 0
    try:
        return memory.stored_bytes(source.folder, (dtype or torch.float32).itemsize)
    except memory.DamagedError as error:
        raise ModelSourceError(str(error)) from error


def read_source(
    source: Source, *, device: str = "auto", dtype: torch.dtype | None = None
) -> TransformerBridge:
    """Read the model of a source, if there is room for it.

    Args:
        source: What `find_source` gave.
        device: "auto" takes a GPU where there is one, else the CPU; or a torch device name.
        dtype: Defaults to float32.

    Returns:
        The model in evaluation mode, weights unprocessed; a lent object is given as it is.

    Raises:
        ModelSourceError: If it cannot be opened or there is no room.
    """
    if source.name in _lent:
        return _lent[source.name]
    place = torch_device(device)
    try:
        if source.folder is not None:
            checksums.require(source.folder)
        needed = needed_bytes(source, dtype)
        memory.require_budget(needed, source.name)
        memory.require_free(needed, source.name)
    except (checksums.ChangedFileError, memory.NoRoomError) as error:
        raise ModelSourceError(str(error)) from error
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
    with _described(model, dataclasses.replace(source_of(model), name=name)):
        yield


@contextlib.contextmanager
def lent(model: TransformerBridge, name: str) -> Generator[str]:
    """Let a bridge of this process be opened by name, as it is, for a while.

    Args:
        model: Any bridge; the object itself is what `load_model` gives for its name.
        name: What to call it; "shown: " is put in front.

    Yields:
        The name that `load_model` and every result know it by within. Its files are not named any
        more: its weights may be others than theirs.
    """
    full = f"{SHOWN}{name.removeprefix(SHOWN)}"
    own = source_of(model)
    with _described(model, Source("object", full, None, own.processing)):
        _lent[full] = model
        try:
            yield full
        finally:
            del _lent[full]


def gone(name: str) -> str:
    """What to say of an object that is lent no more.

    Args:
        name: The name that it had.

    Returns:
        One sentence: what it was, and how to have it again.
    """
    return (
        f"{name!r} was an object of a script that has ended or showed another one since: call "
        "workbench.show(model, pairs) there again, or keep it in a folder with "
        "workbench.save_native(model, folder)"
    )


@contextlib.contextmanager
def _described(model: TransformerBridge, source: Source) -> Generator[None]:
    """Say for a while that a model comes from somewhere else."""
    own, known = source_of(model), model in _sources
    _sources[model] = source
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
    if _is_native(source.folder):
        plain = native.read_network(source.folder)
    else:
        plain = _huggingface_network(source.folder, model.cfg.dtype)
    return plain.to(device=model.cfg.device, dtype=model.cfg.dtype).eval()


def _open(source: Source, device: str, dtype: torch.dtype | None) -> TransformerBridge:
    folder = source.folder
    if folder is None:
        raise ModelSourceError(f"nothing is known of where {source.name!r} is stored")
    if _is_native(folder):
        return _open_native(folder, source.name, device, dtype)
    _require_huggingface_folder(folder, source.name)
    return _open_huggingface(folder, source.name, device, dtype)


def _is_native(folder: Path) -> bool:
    path = folder / native.CONFIG
    return path.is_file() and native.describes(read_json(path))


def _open_native(
    folder: Path, name: str, device: str, dtype: torch.dtype | None
) -> TransformerBridge:
    import torch
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    network = native.read_network(folder).to(device=device, dtype=dtype or torch.float32)
    with _tokenizer_alone(folder) as place:
        model = build_bridge_from_module(
            network,
            architecture=native.ARCHITECTURE,
            tl_config=native.read_settings(folder).bridge_config(),
            tokenizer=_tokenizer(place) if _has_tokenizer(place) else None,
            dtype=dtype or torch.float32,
            device=device,
            model_name=name,
        ).eval()
    if model.tokenizer is not None:
        model.tokenizer.name_or_path = str(folder)
    return model


@contextlib.contextmanager
def _tokenizer_alone(folder: Path) -> Generator[Path]:
    """A copy of a folder's tokenizer without its config.json, which Hugging Face would misread."""
    with tempfile.TemporaryDirectory() as name:
        for file in folder.iterdir():
            kept = file.suffix in (".json", ".txt", ".model") and file.is_file()
            if kept and file.name != native.CONFIG:
                shutil.copyfile(file, Path(name) / file.name)
        yield Path(name)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / file).is_file() for file in _TOKENIZER_FILES)


def _tokenizer(folder: Path) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise ModelSourceError(
            f"the tokenizer of this model cannot be opened ({first_line(error)}): save it again "
            "with tokenizer.save_pretrained(folder)"
        ) from error


def _require_huggingface_folder(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise ModelSourceError(
            f"{name!r} has no config.json: give a Hugging Face folder, as written by "
            "model.save_pretrained(folder)"
        )
    config = read_json(folder / "config.json")
    if "auto_map" in config:
        raise ModelSourceError(
            f"{name!r} needs Python code of its own (auto_map in its config.json), which is never "
            "run here: convert it to an architecture that transformers includes"
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelSourceError(_no_safetensors(folder, name))
    if not _has_tokenizer(folder):
        raise ModelSourceError(
            f"{name!r} has no tokenizer: save one beside the weights with "
            "tokenizer.save_pretrained(folder)"
        )
    _require_layers(folder, name, config)


def _require_layers(folder: Path, name: str, config: dict[str, Any]) -> None:
    """Refuse more layers than there are weights: each would be built before weights are missed."""
    import safetensors

    asked = [config.get(key) for key in _LAYERS]
    most = max((value for value in asked if isinstance(value, int)), default=0)
    stored = 0
    for file in folder.glob("*.safetensors"):
        try:
            with safetensors.safe_open(file, framework="pt") as weights:
                stored += len(weights.keys())
        except (OSError, safetensors.SafetensorError) as error:
            raise ModelSourceError(f"{file} cannot be read: {first_line(error)}") from error
    if most > stored:
        raise ModelSourceError(
            f"{name!r} does not hold the weights that its config.json describes: {stored:,} "
            f"tensors cannot be {most:,} layers"
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
        architecture = read_json(folder / "config.json").get("architectures") or "unnamed"
        raise ModelSourceError(
            f"transformer-lens cannot run {name!r} (architecture {architecture}): "
            f"{first_line(error)}; use a decoder-only architecture that it supports"
        ) from error
    return model.eval()


def _huggingface_network(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    import transformers

    with _quiet_transformers():
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype
        )


def _download(
    name: str, revision: str | None, progress: Callable[[float, str], None] | None
) -> Path:
    """Fetch a hub repository's safetensors, JSON and tokenizer files; the only use of a network."""
    import huggingface_hub
    from huggingface_hub import errors

    if not _HUB_NAME.fullmatch(name):
        raise ModelSourceError(f"{reading.quoted(name)} is not a model: {_what_is_there(name)}")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=_HUB_FILES, **_watched(progress)
            )
        )
    except errors.GatedRepoError as error:
        raise ModelSourceError(
            f"{name!r} is gated on the hub: accept its terms there and log in with 'hf auth login'"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelSourceError(f"{name!r} has no revision {revision!r} on the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelSourceError(
            f"the hub has no model {reading.quoted(name)}: {_what_is_there(name)}"
        ) from error
    except (OSError, errors.HFValidationError, errors.HfHubHTTPError) as error:
        raise ModelSourceError(
            f"{reading.quoted(name)} is neither bundled nor a folder, and the hub cannot be asked "
            "for it"
            f": {_what_is_there(name)}"
        ) from error


def _watched(progress: Callable[[float, str], None] | None) -> dict[str, Any]:
    """What tells a download to report; nothing where nobody asks."""
    if progress is None:
        return {}
    from huggingface_hub.utils import tqdm

    class Reporting(tqdm):
        """A bar that draws nothing: whatever the hub counts with it is reported."""

        seen = 0

        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **(settings | {"disable": True}))
            # A bar that draws nothing keeps no unit.
            self.counted = settings.get("unit")

        def update(self, n: float | None = 1) -> bool | None:
            self.seen += int(n or 0)
            share = self.seen / self.total if self.counted == "B" and self.total else 0.0
            progress(min(1.0, share), f"downloading, {self.seen / 1e6:.0f} MB" if share else "")
            return super().update(n)

    return {"tqdm_class": Reporting}


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
            f"device {device!r} is not to be had here ({first_line(error)}): use 'auto' or 'cpu'"
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
