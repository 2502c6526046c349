"""Dictionaries: sparse autoencoders from folders that sae-lens wrote, and published ones.

A bundled model may bring some along: the folders `dictionaries/<site>.<layer>` beside its weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.models import card, checksums, folders, sources

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_FILES = ("cfg.json", "sae_weights.safetensors")
_FOLDER = "dictionaries"


def list_dictionaries(name: str) -> list[str]:
    """Which dictionaries a bundled model brings along.

    Args:
        name: Of the model; any other model brings none.

    Returns:
        Each as site and layer, for example "resid_post.2".
    """
    if name not in card.list_models():
        return []
    return sorted(
        file.parent.name for file in (card.BUNDLED / name / _FOLDER).glob(f"*/{_FILES[0]}")
    )


def bundled_dictionary(model: TransformerBridge, place: str | None = None) -> Any:
    """Open a dictionary that a bundled model brings along.

    Args:
        model: The model, as `load_model` opened it.
        place: Which one, by site and layer; the first if not given.

    Returns:
        A `sae_lens.SAE` on the model's device, with its parameters frozen.

    Raises:
        ValueError: If the model brings none along, or none of that place.
    """
    source = sources.source_of(model)
    known = list_dictionaries(source.name) if source.kind == "bundled" else []
    if not known:
        brought = ", ".join(name for name in card.list_models() if list_dictionaries(name))
        raise ValueError(
            f"{source.name} brings no dictionary along (these do: {brought or 'none'}): open a "
            "folder with load_dictionary, or a published one with load_release"
        )
    if place is not None and place not in known:
        raise ValueError(
            f"{source.name} brings no dictionary of {place!r} along; expected {', '.join(known)}"
        )
    folder = folder_of(source.name, known[0] if place is None else place)
    return load_dictionary(folder, device=str(model.cfg.device))


def folder_of(name: str, place: str) -> Path:
    """Where a bundled model's dictionary lies.

    Args:
        name: Of the model.
        place: Site and layer, for example "resid_post.2".

    Returns:
        The folder, whether it is there or not.
    """
    return card.BUNDLED / name / _FOLDER / place


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
    checksums.require(place)
    import sae_lens

    try:
        made = sae_lens.SAE.load_from_disk(place, device=device)
    # What is wrong in such a file comes as any kind of error.
    except Exception as error:
        raise ValueError(
            f"{place} cannot be read as a sparse autoencoder: {folders.first_line(error)}"
        ) from error
    return made.eval().requires_grad_(False)


def load_release(release: str, sae_id: str, *, device: str = "cpu") -> Any:
    """Fetch a published sparse autoencoder by the names of sae-lens; the only use of a network.

    Args:
        release: Name of sae-lens' list of releases, or a hub repository, for example
            "gpt2-small-res-jb".
        sae_id: Which of the release, for example "blocks.8.hook_resid_pre".
        device: Where to put it.

    Returns:
        A `sae_lens.SAE`, with its parameters frozen. What was fetched once is kept by the hub's
        own cache, so that it needs no network again.

    Raises:
        ValueError: If there is no such release or autoencoder, or it cannot be fetched or read.
    """
    import sae_lens
    from huggingface_hub import errors

    try:
        made = sae_lens.SAE.from_pretrained(release, sae_id, device=device)
    except (OSError, errors.HfHubHTTPError) as error:
        raise ValueError(
            f"{sae_id!r} of {release!r} is not on this machine and cannot be fetched: is there a "
            "network, and does the hub have it?"
        ) from error
    # What is wrong in such a file comes as any kind of error.
    except Exception as error:
        raise ValueError(
            f"{sae_id!r} of {release!r} cannot be loaded: {folders.first_line(error)}"
        ) from error
    return made.eval().requires_grad_(False)
