"""How a run says which concept it was of: no JSON holds inputs and labels themselves."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from workbench.core.prompts.concepts import Concept


def described(concept: Concept) -> dict[str, Any]:
    """A concept for the parameters of a provenance.

    Args:
        concept: Any concept.

    Returns:
        Its name, how units are read, its confounds and caveats, and a mark of inputs and labels.
    """
    digest = hashlib.sha256()
    if isinstance(concept.inputs, np.ndarray):
        digest.update(np.ascontiguousarray(concept.inputs).tobytes())
    else:
        for each in concept.inputs:
            digest.update(each.encode() if isinstance(each, str) else np.asarray(each).tobytes())
            digest.update(b"\0")
    for row in concept.labels:
        digest.update(np.asarray(row, dtype=np.float64).tobytes())
    return {
        "name": concept.name,
        "reading": concept.reading,
        "confounds": sorted(concept.confounds),
        "caveats": list(concept.caveats),
        "mark": digest.hexdigest()[:16],
    }
