"""Whether the advice experiment can be made with what is given: said before anything is trained.

Limits: a network that was trained on other data than is said cannot be told from one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.neuron_clusters.growth import data as examples
from analyses.neuron_clusters.growth import finetuning, measuring

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule

    from workbench.core.networks.training.fitting import Split
    from workbench.core.prompts.concepts import Concept


def require_numbers(recipe: finetuning.Recipe, n: int, seeds: Sequence[int], metric: str) -> None:
    """Check the arguments that stand alone.

    Raises:
        ValueError: If one is out of its range.
    """
    for name, value in (("n", n), ("steps", recipe.steps), ("batch", recipe.batch)):
        if value < 1:
            raise ValueError(f"{name} = {value}; expected at least 1")
    if not (0 < recipe.rate < np.inf and 0 <= recipe.decay < np.inf):
        raise ValueError(
            f"rate = {recipe.rate}, decay = {recipe.decay}; expected a rate above 0 and a decay of "
            "0 or more"
        )
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(
            f"seeds = {list(seeds)}; expected at least one, each different and 0 or more"
        )
    if metric not in measuring.METRICS:
        raise ValueError(f"metric = {metric!r}; expected one of {', '.join(measuring.METRICS)}")


def require_places(known: Sequence[str], place: str, elsewhere: Sequence[str] | None) -> None:
    """Check that places exist and are different.

    Raises:
        ValueError: If not, or there is no other place to compare with.
    """
    others = [each for each in known if each != place] if elsewhere is None else list(elsewhere)
    for each in (place, *others):
        if each not in known:
            raise ValueError(f"there is no place {each!r} to widen; choose of {', '.join(known)}")
    if not others or place in others or len(set(others)) < len(others):
        raise ValueError(
            f"elsewhere = {others}; expected at least one place, each different, and none of them "
            f"{place!r}"
        )


def require_concept(network: HookedRootModule, concept: Concept) -> None:
    """Check that a network can read a concept's inputs and that it has labels.

    Raises:
        ValueError: If not.
    """
    config: Any = network.cfg
    shape = tuple(config.input_shape)
    if concept.is_text or concept.inputs.shape[1:] != shape:
        given = "texts" if concept.is_text else f"arrays of shape {concept.inputs.shape[1:]}"
        raise ValueError(
            f"{concept.name!r} holds {given}: this network reads arrays of shape {shape}"
        )
    if concept.graded:
        raise ValueError(
            f"{concept.name!r} has targets: growing is measured on examples with and without a "
            "concept, so give it labels of 1 and 0"
        )


def require_examples(
    network: HookedRootModule, concept: Concept, classes: np.ndarray, train: Split
) -> None:
    """Check that examples and classes fit each other, and that none is held out and trained on.

    Raises:
        ValueError: If not.
    """
    config: Any = network.cfg
    n_classes = int(config.n_classes)
    told = (
        ("the concept's inputs", concept.inputs, classes),
        ("the training examples", train.inputs, train.labels),
    )
    for name, inputs, labels in told:
        if labels.shape != (len(inputs),) or not len(labels):
            raise ValueError(
                f"{name} are {len(inputs):,} with classes of shape {labels.shape}: give one class "
                "for each"
            )
        if labels.min() < 0 or labels.max() >= n_classes:
            raise ValueError(
                f"the classes of {name} are from {labels.min()} to {labels.max()}: the network has "
                f"classes 0 to {n_classes - 1}"
            )
    if train.inputs.shape[1:] != concept.inputs.shape[1:] or not np.isfinite(train.inputs).all():
        raise ValueError(
            f"training examples of shape {train.inputs.shape[1:]}; expected finite numbers "
            f"of shape {concept.inputs.shape[1:]}"
        )
    seen = examples.seen_in_training(concept.inputs, train)
    if seen:
        raise ValueError(
            f"{seen:,} of the {len(classes):,} inputs of {concept.name!r} are training examples: "
            "leave them out, or nothing is held out"
        )


def require_metric(held: measuring.Held, metric: str) -> None:
    """Check that the metric exists for these examples.

    Raises:
        ValueError: If not.
    """
    if metric not in held.measures:
        both = np.intersect1d(held.labels[held.has], held.labels[~held.has])
        raise ValueError(
            f"{metric} needs classes that have the concept as a whole, or not at all; class "
            f"{both[0]} has examples of both: choose log_loss or error"
        )
