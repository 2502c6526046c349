"""The examples that a bundled network was trained on, made again, and the classes of a concept's.

Limits: a network that is not bundled brings its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from workbench.core.networks import examples, mnist1d, shapes, sources
from workbench.core.networks.training import fitting
from workbench.core.networks.training import shapes as shapes_recipe

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule

    from workbench.core.prompts.concepts import Concept


def training_examples(network: HookedRootModule) -> fitting.Split:
    """What a bundled network was trained on.

    Args:
        network: As `load_network` opened it.

    Returns:
        Inputs and classes, as its training script had them.

    Raises:
        ValueError: If it is not bundled.
    """
    name = sources.network_name(network)
    if name == "shapes-branch":
        made = shapes.render(shapes_recipe.N_TRAIN, seed=shapes_recipe.TRAIN_SEED)
        return fitting.Split(made.images, made.labels)
    if name in ("mnist1d-mlp", "mnist1d-cnn"):
        data = mnist1d.generate()
        inputs = data.train[:, None] if name.endswith("cnn") else data.train
        return fitting.Split(inputs, data.train_labels)
    raise ValueError(
        f"{name!r} is none of the networks that come along ({', '.join(sources.list_networks())}), "
        "so nobody knows what it was trained on: give data, its training examples with their "
        "classes"
    )


def classes_of(network: HookedRootModule, concept: Concept) -> Int[np.ndarray, " example"]:
    """Classes of a concept's inputs, where these are held-out examples of a bundled network.

    Args:
        network: As `load_network` opened it.
        concept: Whose inputs.

    Returns:
        One class an input.

    Raises:
        ValueError: If the network is not bundled or an input is none of its held-out examples.
    """
    name = sources.network_name(network)
    missing = len(concept.inputs)
    if name in sources.list_networks():
        known: dict[bytes, int] = {}
        # Rendered images depend on how many are rendered; of sequences the first are the same.
        fewer = (len(concept.inputs),) if name == "shapes-branch" else ()
        for n in (None, *fewer):
            inputs, labels = examples.held_out(name, n)
            known |= {_key(each): int(k) for each, k in zip(inputs, labels, strict=True)}
            found = [known.get(_key(each), -1) for each in concept.inputs]
            missing = found.count(-1)
            if not missing:
                return np.array(found, dtype=np.int64)
    raise ValueError(
        f"the right classes of {missing:,} of the {len(concept.inputs):,} inputs of "
        f"{concept.name!r} are not known: give classes, one for each input"
    )


def seen_in_training(inputs: np.ndarray, data: fitting.Split) -> int:
    """How many inputs stand among the training examples, too."""
    trained = {_key(each) for each in data.inputs}
    return sum(_key(each) in trained for each in inputs)


def _key(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, dtype=np.float32).tobytes()
