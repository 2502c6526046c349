"""Result: what every analysis returns, frozen, with provenance, saved as JSON and safetensors.

A result folder holds `result.json` (everything but arrays) and `arrays.safetensors`. It is written
under a temporary name and renamed, so a folder with the final name is whole. Nothing is pickled:
opening a result runs no code.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import datetime
import errno
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import tempfile
import types
import typing
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import beartype
import jaxtyping
import numpy as np
import safetensors
import safetensors.numpy
from beartype import door

from workbench.core import files, reading
from workbench.core.models import card, sources

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    import torch
    from transformer_lens.model_bridge import TransformerBridge

Told = typing.TypeVar("Told")

DOCUMENT, ARRAYS = "result.json", "arrays.safetensors"
# What a folder that is being replaced is called for a moment, within a temporary one beside it.
OLD = "old"
_FORMAT = 1
# Of what is said of a damaged one.
_LONGEST = 400
# A whole number may stand where any number may.
_NUMBERS = beartype.BeartypeConf(is_pep484_tower=True)
# Of an array, of a number that JSON has not, and of what else is called like one of these.
_MARKS = {"array", "number", "plain"}
_PLAIN_KINDS = {str, int, float, bool}
_VERSIONED = ("torch", "transformer-lens", "transformers", "numpy", "scipy")


class ResultError(ValueError):
    """A result folder could not be written or read; the message says why."""


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What made a result, in enough detail to make it again.

    Attributes:
        model: Name that the model was loaded by.
        fingerprint: Sha256 over its configuration and weights.
        analysis: Module and function.
        parameters: Every argument that changes numbers.
        seed: Seed of everything random.
        versions: Package versions.
        device: Where the model was.
        dtype: Its number format.
        weight_processing: What was done to the weights after reading ("none" as stored).
        wall_time: Seconds.
        created: When, UTC, ISO 8601.
        notes: What a reader must know about how it was computed.
    """

    model: str
    fingerprint: str
    analysis: str
    parameters: dict[str, Any]
    seed: int
    versions: dict[str, str]
    device: str
    dtype: str
    weight_processing: str
    wall_time: float
    created: str
    notes: tuple[str, ...] = ()


def provenance(
    model: TransformerBridge,
    *,
    analysis: str,
    parameters: dict[str, Any],
    seed: int,
    wall_time: float,
    notes: Sequence[str] = (),
) -> Provenance:
    """Describe a run that has just ended.

    Args:
        model: The model that it ran on.
        analysis: Module and function.
        parameters: Every argument that changes numbers; JSON types only.
        seed: Its seed.
        wall_time: Seconds.
        notes: What a reader must know about how it was computed.

    Returns:
        The provenance, with versions, device and time filled in.
    """
    source = sources.source_of(model)
    return described(
        source.name,
        card.fingerprint(model),
        analysis=analysis,
        parameters=parameters,
        seed=seed,
        wall_time=wall_time,
        device=str(model.cfg.device),
        dtype=str(model.cfg.dtype).removeprefix("torch."),
        weight_processing=source.processing,
        notes=notes,
    )


def described(
    name: str,
    fingerprint: str,
    *,
    analysis: str,
    parameters: dict[str, Any],
    seed: int,
    wall_time: float,
    device: str = "cpu",
    dtype: str = "float32",
    weight_processing: str = "none",
    notes: Sequence[str] = (),
) -> Provenance:
    """Describe a run on what is no single model: a training with its checkpoints, a curve.

    Args:
        name: What it ran on.
        fingerprint: Sha256 over the content of that.
        analysis: Module and function.
        parameters: Every argument that changes numbers; JSON types only.
        seed: Its seed.
        wall_time: Seconds.
        device: Where it ran.
        dtype: Number format of what it ran on.
        weight_processing: What was done to weights after reading.
        notes: What a reader must know about how it was computed.

    Returns:
        The provenance, with versions and time filled in.
    """
    return Provenance(
        model=name,
        fingerprint=fingerprint,
        analysis=analysis,
        parameters=parameters,
        seed=seed,
        versions=versions(),
        device=device,
        dtype=dtype,
        weight_processing=weight_processing,
        wall_time=wall_time,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        notes=tuple(notes),
    )


def mark(values: np.ndarray | torch.Tensor) -> str:
    """A short mark that tells arrays apart, for parameters that no JSON holds.

    Args:
        values: Weights, directions, or any other numbers.

    Returns:
        16 hexadecimal digits.
    """
    plain = values if isinstance(values, np.ndarray) else values.detach().cpu().float().numpy()
    return hashlib.sha256(np.ascontiguousarray(plain).tobytes()).hexdigest()[:16]


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the packages whose numerics a result depends on, and of the workbench."""
    import workbench

    return {"workbench": workbench.__version__} | {
        name: importlib.metadata.version(name) for name in _VERSIONED
    }


@dataclasses.dataclass(frozen=True)
class Result(abc.ABC):
    """Base of every result: frozen fields, read-only arrays, saving and loading.

    A subclass adds its fields and implements `to_frame`, `figure` and `summary`. Fields may be
    arrays, JSON types, tuples of these, and frozen dataclasses of these.
    """

    provenance: Provenance

    _kinds: ClassVar[dict[str, type[Result]]] = {}
    # Its folder, if it was loaded; no field, as two results are equal wherever they lie.
    loaded_from: ClassVar[Path | None] = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Remember the subclass, so that `Result.load` finds it by the name on disk.

        What it tells of itself is told by a loaded one, too, whose parts may not fit each other.
        """
        super().__init_subclass__(**keywords)
        Result._kinds[f"{cls.__module__}.{cls.__qualname__}"] = cls
        for name in ("to_frame", "figure", "summary"):
            if name in vars(cls):
                setattr(cls, name, _saying_damage(vars(cls)[name]))

    def __post_init__(self) -> None:
        """Make the arrays read-only: a frozen result cannot be edited through them."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    @abc.abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """The numbers as a tidy table, one row a measurement."""

    @abc.abstractmethod
    def figure(self) -> go.Figure:
        """The picture of this result."""

    @abc.abstractmethod
    def summary(self) -> str:
        """A few sentences in plain words with the numbers."""

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write this result; a folder of that name is replaced only once the new one is whole.

        Args:
            folder: Where to; its parent is made if it is missing.

        Returns:
            The folder.

        Raises:
            ResultError: If the place holds something that is not a result, or cannot be written.
        """
        target = Path(folder)
        if _is_foreign(target):
            raise ResultError(f"{target} exists and is no result folder: choose another name")
        with written_beside(self, target) as scratch:
            put_in_place(scratch, target)
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a result back, equal to the saved one to the bit.

        Args:
            folder: A folder written by `save`.

        Returns:
            The result, of the class that was saved.

        Raises:
            ResultError: If it is not a result of this class, or is damaged.
        """
        path = Path(folder)
        try:
            document = reading.json_of((path / DOCUMENT).read_bytes(), halves=True)
            arrays = safetensors.numpy.load_file(path / ARRAYS)
            kind = cls._kinds.get(document["kind"])
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            why = reading.plain(str(error), _LONGEST)
            raise ResultError(f"{path} is not a result folder or is damaged: {why}") from error
        if kind is None or not issubclass(kind, cls):
            raise ResultError(
                f"{path} holds a {reading.plain(str(document['kind']))}, expected a "
                f"{cls.__name__} (import its module before loading)"
            )
        try:
            found = typing.cast("Self", _restore(kind, document["fields"], arrays, ""))
            object.__setattr__(found, "loaded_from", path)
            return found
        # What a constructor makes of values that are not what they should be is any kind of error.
        except Exception as error:
            raise ResultError(f"{path} is damaged: {reading.quoted(error, _LONGEST)}") from error


def _saying_damage(tell: Callable[..., Told]) -> Callable[..., Told]:
    """Let a method of a result say in a sentence that a loaded one is damaged.

    Types and axes are checked as it is read; whether its names are as many as its numbers shows
    only in use.
    """

    @functools.wraps(tell)
    def guarded(found: Result, *given: Any, **settings: Any) -> Told:
        try:
            return tell(found, *given, **settings)
        except Exception as error:
            # What it was given may be what is wrong, and says so.
            about_given = isinstance(error, ValueError) and (given or settings)
            if found.loaded_from is None or about_given or isinstance(error, OSError):
                raise
            why = reading.quoted(error, _LONGEST)
            raise ResultError(
                f"{found.loaded_from} is damaged: its parts do not fit each other ({why})"
            ) from error

    return guarded


def what_made(folder: Path) -> tuple[str, Provenance]:
    """What a result folder says of itself, whatever its class is.

    Args:
        folder: A folder written by `Result.save`.

    Returns:
        Name of the class with its module, and the provenance, whose types are not checked.

    Raises:
        ResultError: If it is no result folder or is damaged.
    """
    try:
        document = reading.json_of((folder / DOCUMENT).read_bytes(), halves=True)
        if not (folder / ARRAYS).is_file():
            raise FileNotFoundError(f"{ARRAYS} is missing")
        made = _restore(Provenance, document["fields"]["provenance"], {}, "")
        return str(document["kind"]), made
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = reading.quoted(error, _LONGEST)
        raise ResultError(f"{folder} is no result folder or is damaged: {why}") from error


@contextlib.contextmanager
def written_beside(result: Result, target: Path) -> Generator[Path]:
    """Write a result under a temporary name beside the folder that it is to become.

    Args:
        result: Any result.
        target: The folder; its parent is made if it is missing.

    Yields:
        The temporary folder, whole, to be put in place; it is gone at the end.

    Raises:
        ResultError: If it cannot be written or put in place.
    """
    arrays, document = _to_document(result)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ResultError(f"cannot write to {target.parent}: {files.reason(error)}") from error
    try:
        safetensors.numpy.save_file(arrays, scratch / ARRAYS)
        (scratch / DOCUMENT).write_text(json.dumps(document, indent=1, allow_nan=False))
        scratch.chmod(0o755)
        yield scratch
    except (OSError, safetensors.SafetensorError) as error:
        raise ResultError(f"cannot write {target}: {files.reason(error)}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_foreign(target: Path) -> bool:
    """Whether something is there that is not a result.

    Others may put a result there meanwhile: the folder that was looked at is then no longer there.
    """
    try:
        looked_at = target.stat().st_ino
        names = os.listdir(target)
        stayed = target.stat().st_ino == looked_at
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        # A file, or something below one, which cannot be there.
        return target.exists()
    return stayed and bool(names) and DOCUMENT not in names


def put_in_place(scratch: Path, target: Path) -> None:
    """Rename a whole folder into place, moving an old one aside and only then removing it.

    Others may be putting the same result there at the same time: whoever is last stays. Whoever is
    killed between the two leaves the old one as `.NAME.…/old`.

    Args:
        scratch: What `written_beside` yields.
        target: The folder that it is to become.

    Raises:
        OSError: If it cannot be renamed.
    """
    asides: list[Path] = []
    try:
        while True:
            try:
                scratch.rename(target)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            asides.append(Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)))
            with contextlib.suppress(FileNotFoundError):
                target.rename(asides[-1] / OLD)
    finally:
        # Only now, so that at each moment one of both is there.
        for aside in asides:
            if not target.exists():
                with contextlib.suppress(OSError):
                    (aside / OLD).rename(target)
            shutil.rmtree(aside, ignore_errors=True)


def _to_document(result: Result) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays: dict[str, np.ndarray] = {}
    kind = f"{type(result).__module__}.{type(result).__qualname__}"
    return arrays, {"format": _FORMAT, "kind": kind, "fields": _plain(result, "", arrays)}


def _plain(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """JSON form of a value; arrays are put aside under the path at which they stand."""
    if isinstance(value, np.ndarray):
        arrays[path] = np.ascontiguousarray(value)
        return {"array": path}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}/{i}", arrays) for i, item in enumerate(value)]
    if isinstance(value, dict):
        found = {key: _plain(item, f"{path}/{key}", arrays) for key, item in value.items()}
        # What is called like one of the marks must not be taken for it.
        return {"plain": found} if len(found) == 1 and set(found) <= _MARKS else found
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    return value


def _require_kinds(hints: dict[str, Any], fields: dict[str, Any]) -> None:
    """Refuse values of other types, and arrays of other axes, than the fields of a class have."""
    with jaxtyping.jaxtyped("context"):
        for name, value in fields.items():
            if not door.is_bearable(value, hints[name], conf=_NUMBERS):
                raise TypeError(f"{name} is not what it should be")


def _require_items(kind: Any, items: Sequence[Any], path: str) -> None:
    """Refuse any item of another type: of many, the check of the whole looks at one by chance."""
    # Of plain kinds, one of each type tells of all.
    some = {type(item): item for item in items}.values() if kind in _PLAIN_KINDS else items
    if not all(door.is_bearable(item, kind, conf=_NUMBERS) for item in some):
        raise TypeError(f"{path.strip('/')} holds what it should not")


def _restore(  # noqa: PLR0911 - one return a kind of value
    kind: Any, plain: Any, arrays: dict[str, np.ndarray], path: str
) -> Any:
    """Inverse of `_plain`, guided by the annotation that the value has in its dataclass.

    A container is of one kind, or None.
    """
    if isinstance(plain, dict) and len(plain) == 1:
        ((mark, inner),) = plain.items()
        if mark == "array" and isinstance(inner, str):
            return arrays[inner]
        if mark == "number" and isinstance(inner, str):
            return float(inner)
        if mark == "plain" and isinstance(inner, dict):
            plain = typing.cast("dict[str, Any]", inner)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = {
            name: _restore(hints[name], plain[name], arrays, f"{path}/{name}") for name in plain
        }
        if not issubclass(typing.cast("type", kind), Provenance):
            _require_kinds(hints, fields)
        return typing.cast("Any", kind)(**fields)
    origin: Any = typing.get_origin(kind)
    if origin is types.UnionType and plain is not None:
        options = [option for option in typing.get_args(kind) if option is not types.NoneType]
        return _restore(options[0], plain, arrays, path) if len(options) == 1 else plain
    if isinstance(plain, list):
        inner = typing.get_args(kind)
        element = inner[0] if inner else Any
        items = [_restore(element, item, arrays, f"{path}/{i}") for i, item in enumerate(plain)]
        if inner[1:] in ((), (...,)):
            _require_items(element, items, path)
        return tuple(items) if origin is tuple else items
    if isinstance(plain, dict):
        element = typing.get_args(kind)[1] if origin is dict else Any
        found = {
            key: _restore(element, item, arrays, f"{path}/{key}") for key, item in plain.items()
        }
        _require_items(element, list(found.values()), path)
        return found
    return plain
