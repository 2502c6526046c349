"""Dictionaries: sparse autoencoders from folders that sae-lens wrote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_FILES = ("cfg.json", "sae_weights.safetensors")


def load_dictionary(folder: str | os.PathLike[str], *, device: str = "cpu") -> Any:
    """Read a sparse autoencoder; nothing in the folder is executed.

    Args:
        folder: What `SAE.save_model` of sae-lens wrote: `cfg.json` and `sae_weights.safetensors`.
        device: Where to put it.

    Returns:
        A `sae_lens.SAE`, with its parameters frozen.

    Raises:
        ValueError: If the folder or a file in it is missing or cannot be read.
    """
    place = Path(folder)
    missing = [name for name in _FILES if not (place / name).is_file()]
    if missing:
        raise ValueError(
            f"{place} is no folder of a sparse autoencoder: {' and '.join(missing)} of sae-lens "
            f"{'is' if len(missing) == 1 else 'are'} not there"
        )
    import sae_lens

    try:
        made = sae_lens.SAE.load_from_disk(place, device=device)
    # What is wrong in such a file comes as any kind of error.
    except Exception as error:
        raise ValueError(f"{place} cannot be read as a sparse autoencoder: {error}") from error
    return made.eval().requires_grad_(False)
