"""Does a text say everything about this argument? If it does, equal requests are found by it.

1. Plain values are told as they are. A tuple is no list, and a mapping keeps its order: an analysis
   may tell them apart.
2. Arrays and files are told by a hash over their content, a corpus by its fingerprint.
3. Dataclasses of the workbench and of the analyses are told by their fields; of a result, when and
   in what time it was made is left out. Functions and classes of these packages are told by their
   names.
4. A language model is told by its fingerprint and by all else that a result may depend on: its
   name, configuration, tokenizer, device and number format. So are networks that this project
   built, sparse autoencoders of sae-lens, and training runs with the files of their checkpoints.
5. Of anything else nothing is said (`Untold`): an object of a script, whose code may change
   between two calls, a function without a name, a model that carries hooks.

Limits: what a file holds is read where it is given as a path; a text is a text, whatever it names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import math
import sys
import types
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from workbench.core import results
from workbench.core.models import card, sources
from workbench.core.runs import identity

_PLAIN = (types.NoneType, bool, int, str)
_ARRAYS = (np.ndarray, np.memmap)
# What differs between two runs that are equal otherwise.
_OF_THE_MOMENT = ("created", "wall_time")
# A tokenizer is left with these by whoever has used it last.
_OF_THE_LAST_CALL = ("padding", "truncation")


class Untold(Exception):
    """No text says everything about a value; the message names it."""


def fingerprint(subject: object) -> str:
    """Sha256 over all that is told of what an analysis looks at.

    Args:
        subject: A model, a network, a training run, a curve, a result.

    Returns:
        64 hexadecimal digits.

    Raises:
        Untold: If it cannot be told, or is only the name of something.
    """
    if isinstance(subject, str):
        raise Untold(f"the name {subject[:40]!r}, which may mean something else tomorrow")
    return hashlib.sha256(json.dumps(told(subject)).encode()).hexdigest()


def told(value: Any) -> Any:  # noqa: PLR0911 - one return a kind of value
    """All that determines what an analysis makes of an argument.

    Args:
        value: The argument.

    Returns:
        JSON types; equal for equal values, and different for different ones.

    Raises:
        Untold: If it cannot be told.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else ["float", str(value)]
    if kind in (list, tuple):
        return [kind.__name__, *map(told, value)]
    if kind is dict:
        return ["dict", *([told(name), told(item)] for name, item in value.items())]
    if kind in (range, slice):
        return [kind.__name__, *map(told, (value.start, value.stop, value.step))]
    if isinstance(value, (np.ndarray, np.generic)):
        return _array(value)
    if isinstance(value, PurePath):
        return ["file", str(value), _content([Path(value)])]
    if identity.is_ours(kind.__module__) and dataclasses.is_dataclass(value):
        return _fields(value)
    if _has_a_name(value):
        return ["name", name_of(value)]
    return _of_torch(value)


def name_of(value: Any) -> str:
    """Module and name of a function or class of the workbench or of the analyses.

    Args:
        value: The function or class.

    Returns:
        Both, with a colon between them.

    Raises:
        Untold: If it is none, or is not what is found by this name.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not _has_a_name(value) or module is None:
        raise _untold(value)
    found: Any = sys.modules.get(module)
    for part in str(name).split("."):
        found = getattr(found, part, None)
    if not identity.is_ours(module) or found is not value:
        raise _untold(value)
    return f"{module}:{name}"


def _has_a_name(value: object) -> bool:
    return inspect.isroutine(value) or inspect.isclass(value)


def _untold(value: Any) -> Untold:
    kind = value if _has_a_name(value) else type(value)
    return Untold(f"{kind.__module__}.{kind.__qualname__}")


def _array(value: Any) -> list[Any]:
    exact = type(value) in _ARRAYS or isinstance(value, np.generic)
    if not exact or value.dtype.hasobject or value.dtype.names is not None:
        raise _untold(value)
    content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    return [type(value).__name__, value.dtype.str, list(value.shape), content]


def _content(files: Iterable[Path]) -> str:
    """Hash over the names and contents of files."""
    made = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            raise Untold(f"{path}, which is no file that can be read") from error
        made.update(f"{path.name} {digest}\n".encode())
    return made.hexdigest()


def _fields(value: Any) -> list[Any]:
    from workbench.core.modular.run import TrainingRun
    from workbench.core.prompts.corpus import Corpus

    names = [field.name for field in dataclasses.fields(value)]
    kept = {name: getattr(value, name) for name in names}
    if isinstance(value, results.Provenance):
        kept = {name: item for name, item in kept.items() if name not in _OF_THE_MOMENT}
    elif isinstance(value, Corpus):
        # Its tokens may be more than fit into the memory.
        kept = {name: kept[name] for name in ("name", "special")}
        kept["fingerprint"] = value.fingerprint
    elif isinstance(value, TrainingRun):
        kept = _run(value)
    kind = type(value)
    told_fields = ([name, told(item)] for name, item in kept.items())
    return [f"{kind.__module__}:{kind.__qualname__}", *told_fields]


def _run(value: Any) -> dict[str, Any]:
    if not str(value.read.__module__).startswith("workbench.core.modular."):
        raise _untold(value)
    # Beside them lies what a training changes while it goes on; its curves are in the fingerprint.
    packed = value.folder.glob("*.safetensors")
    single = value.folder.glob("checkpoints/*.safetensors")
    passing = ("state.safetensors", "live.safetensors")
    files = sorted(path for path in (*packed, *single) if path.name not in passing)
    return {
        "name": value.name,
        "folder": str(value.folder),
        "fingerprint": value.fingerprint,
        "checkpoints": _content(files),
    }


def _of_torch(value: Any) -> list[Any]:
    # Where nobody has imported it, nothing is of it.
    torch: Any = sys.modules.get("torch")
    if torch is None:
        raise _untold(value)
    if isinstance(value, (torch.dtype, torch.device)):
        return ["torch", str(value)]
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        if value.layout is not torch.strided or value.is_quantized:
            raise _untold(value)
        return ["tensor", str(value.device), card.digest("", [("", value)])]
    if isinstance(value, torch.nn.Module):
        return _module(value)
    raise _untold(value)


def _module(value: Any) -> list[Any]:
    points = getattr(value, "hook_dict", {}).values()
    if any(point.fwd_hooks or point.bwd_hooks for point in points):
        raise Untold("a model that carries hooks")
    from transformer_lens.model_bridge import TransformerBridge

    kind = type(value)
    if isinstance(value, TransformerBridge):
        return ["model", value.training, *_bridge(value)]
    if kind.__module__ == "workbench.core.networks.architectures":
        from workbench.core.networks import sources as networks

        device = str(next(value.parameters()).device)
        mark = networks.network_fingerprint(value)
        return ["network", networks.network_name(value), device, mark]
    if kind.__module__.startswith("sae_lens."):
        version = importlib.metadata.version("sae-lens")
        mark = card.digest("", sorted(value.state_dict().items()))
        return ["dictionary", kind.__qualname__, version, told(value.cfg.to_dict()), mark]
    raise _untold(value)


def _bridge(model: Any) -> list[Any]:
    source = sources.source_of(model)
    config: dict[str, Any] = {name: repr(item) for name, item in vars(model.cfg).items()}
    original = getattr(model.original_model, "config", None)
    if original is not None:
        config["original"] = repr(original.to_dict())
    configured = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    mark = card.fingerprint(model)
    return [source.name, source.processing, mark, configured, _tokenizer(model.tokenizer)]


def _tokenizer(tokenizer: Any) -> list[str] | None:
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _untold(tokenizer)
    content = json.loads(backend.to_str())
    kept = {name: item for name, item in content.items() if name not in _OF_THE_LAST_CALL}
    special = repr(sorted(tokenizer.special_tokens_map.items()))
    return [hashlib.sha256(json.dumps(kept).encode()).hexdigest(), special]
