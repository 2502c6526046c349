"""What units are read with: dictionaries that come with a model or were trained here; directions.

One that was trained here lies in the run folder, under the fingerprint of the model that it was
trained on, as a folder that sae-lens reads, too. Its name begins with the place that it reads:
"resid_post.2-topk-256-8-3000-0". A stored direction is "direction resid_post.2-he-less-she". A name
is only ever one of those that are listed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from workbench.core import files, runs
from workbench.core.models import card, dictionaries, directions

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

NONE = "none"
# What a stored direction's name begins with among dictionaries; theirs begin with a site.
DIRECTION = "direction "
# Of a folder's name, what does not go into the name of a dictionary.
_PLAIN = re.compile(r"[^A-Za-z0-9]+")


def listed(name: str, model: TransformerBridge) -> list[str]:
    """Names of all dictionaries of a model.

    Args:
        name: Of the model.
        model: The bridge.

    Returns:
        Those that come with it first.
    """
    # The configuration is written last but one: a training that goes on has none yet.
    own = sorted(file.parent.name for file in own_folder(model).glob("*/cfg.json"))
    return [*dictionaries.list_dictionaries(name), *own]


def own_folder(model: TransformerBridge) -> Path:
    """Where dictionaries that are trained here are kept.

    Args:
        model: The bridge.

    Returns:
        The folder; it may not be there yet.
    """
    return runs.default_root() / "dictionaries" / card.fingerprint(model)[:16]


def adopt(model: TransformerBridge, folder: str) -> str:
    """Take a dictionary from elsewhere on this machine among the model's own.

    Args:
        model: The bridge.
        folder: What sae-lens wrote.

    Returns:
        Its name from now on.

    Raises:
        ValueError: If it cannot be read, or reads no place of this model.
    """
    from workbench.core.engine import units

    source = Path(folder).expanduser()
    found = dictionaries.load_dictionary(source)
    hook = getattr(found.cfg.metadata, "hook_name", None)
    kinds = [kind for kind in units.KINDS if kind != "head"]
    layers = range(int(model.cfg.n_layers))
    every = (units.family(model, kind, layer) for kind in kinds for layer in layers)
    fits = [
        f"{family.kind}.{family.layer}"
        for family in every
        if family.hook == hook and family.size == found.W_dec.shape[1]
    ]
    if not fits:
        raise ValueError(
            f"{folder} reads {found.W_dec.shape[1]} numbers at {hook!r}, which is no place of this "
            "model: expected a dictionary that was trained on it"
        )
    name = f"{fits[0]}-{_PLAIN.sub('_', source.resolve().name)}"
    place = own_folder(model) / name
    if not (place / "cfg.json").is_file():
        place.mkdir(parents=True, exist_ok=True)
        # The configuration comes last: without it nothing is listed.
        for file in ("sae_weights.safetensors", "cfg.json"):
            files.write_whole(place / file, (source / file).read_bytes())
    return name


def listed_directions(model: TransformerBridge) -> list[str]:
    """Names of all directions that are stored of a model.

    Args:
        model: The bridge.

    Returns:
        As they stand among the dictionaries.
    """
    return [f"{DIRECTION}{key}" for key in directions.names(model)]


def given(model: TransformerBridge, name: str) -> dict[str, Any]:
    """What functions about units take to read with a dictionary or a direction.

    Args:
        model: The bridge.
        name: One that is listed, or `NONE`.

    Returns:
        The argument, `dictionary` or `directions`; nothing for a model's own units.

    Raises:
        ValueError: If it cannot be read.
    """
    if name == NONE:
        return {}
    if name.startswith(DIRECTION):
        return {"directions": directions.load(model, name.removeprefix(DIRECTION)).as_units()}
    return {"dictionary": opened(model, name)}


def kind_of(name: str) -> str:
    """Kind of the units that are read with a dictionary or a direction.

    Args:
        name: One that is listed.

    Returns:
        "latent" or "direction".
    """
    return "direction" if name.startswith(DIRECTION) else "latent"


def place_of(name: str) -> tuple[str, int]:
    """Site and layer that a dictionary reads, or a direction is of.

    Args:
        name: One that is listed.

    Returns:
        Both.
    """
    place = name.removeprefix(DIRECTION).split("-", maxsplit=1)[0]
    site, _, layer = place.rpartition(".")
    return site, int(layer)


def opened(model: TransformerBridge, name: str) -> Any:
    """A dictionary, read once and not at every click.

    Args:
        model: The bridge.
        name: One that is listed.

    Returns:
        A `sae_lens.SAE`.

    Raises:
        ValueError: If it cannot be read.
    """
    return _opened(str(own_folder(model)), name, model)


def code(model: TransformerBridge, name: str) -> str:
    """Code that opens a dictionary or a direction.

    Args:
        model: The bridge.
        name: One that is listed.

    Returns:
        A line of a script, which needs `from workbench.core.models import` what `module_of` says.
    """
    if name.startswith(DIRECTION):
        key = name.removeprefix(DIRECTION)
        return f"vectors = directions.load(model, {key!r}).as_units()"
    if "-" not in name:
        return f"dictionary = dictionaries.bundled_dictionary(model, {name!r})"
    folder = str(own_folder(model) / name)
    return f"dictionary = dictionaries.load_dictionary({folder!r})"


def module_of(name: str) -> str:
    """Module that the code of `code` needs."""
    return "directions" if name.startswith(DIRECTION) else "dictionaries"


@st.cache_resource(max_entries=8, show_spinner=False)
def _opened(root: str, name: str, _model: TransformerBridge) -> Any:
    if "-" not in name:
        return dictionaries.bundled_dictionary(_model, name)
    return dictionaries.load_dictionary(Path(root) / name)
