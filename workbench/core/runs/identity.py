"""What a run and a request are called: hashes over everything that determines them."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from workbench.core import results

# Whose code answers requests.
_PACKAGES = ("analyses", "workbench.core", "workbench.report.questions")


def run_id(analysis: str, fingerprint: str, parameters: dict[str, Any], seed: int = 0) -> str:
    """Id of the run that these inputs make.

    Args:
        analysis: Module and function.
        fingerprint: Of the model.
        parameters: Every argument that changes numbers; JSON types only.
        seed: Of everything random. It need not be given where the parameters have it. Seed 0
            leaves the id as it was before seeds counted, so that old links stay.

    Returns:
        16 hexadecimal digits.
    """
    content: list[Any] = [analysis, fingerprint, parameters]
    if seed and parameters.get("seed") != seed:
        content.append(seed)
    return _hash(content)[:16]


def id_of(made: results.Provenance) -> str:
    """Id of the run that a result is kept as.

    Args:
        made: Its provenance.

    Returns:
        16 hexadecimal digits.
    """
    return run_id(made.analysis, made.fingerprint, made.parameters, made.seed)


def request_key(kind: type[results.Result], fingerprint: str, request: dict[str, Any]) -> str:
    """Key under which the answer to a request is found again.

    It changes with the versions of the workbench and of the packages that compute, and with any
    change to the code of the analyses: an answer of other code is not the answer.

    Args:
        kind: Class of the result.
        fingerprint: Of the model.
        request: Everything besides the model that determines the result; JSON types only.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: If the request holds anything but JSON types.
    """
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        return _hash([name, fingerprint, request, code()])
    except (TypeError, ValueError) as error:
        raise ValueError(f"a request is made of JSON types only: {error}") from error


@functools.cache
def code() -> str:
    """Mark of the code and the versions that results are made by here.

    Returns:
        64 hexadecimal digits.
    """
    mark = hashlib.sha256(json.dumps(results.versions(), sort_keys=True).encode())
    for package in _PACKAGES:
        found = importlib.util.find_spec(package)
        for root in (found.submodule_search_locations or ()) if found is not None else ():
            for path in sorted(Path(root).rglob("*.py")):
                mark.update(f"{package}/{path.relative_to(root).as_posix()}".encode())
                mark.update(hashlib.sha256(path.read_bytes()).digest())
    return mark.hexdigest()


def is_ours(module: str) -> bool:
    """Whether `code` changes with the code of a module.

    Args:
        module: Its full name.

    Returns:
        True for the workbench's own that answer requests.
    """
    return any(module == package or module.startswith(f"{package}.") for package in _PACKAGES)


def _hash(content: list[Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
