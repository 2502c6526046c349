"""The recipe: every hyperparameter of a training, and the published set-ups by name.

Sources: Nanda et al. 2023, arXiv 2301.05217 (`nanda-2023`); Liu, Michaud & Tegmark 2022 "Omnigrok",
arXiv 2210.01117 (`omnigrok-2022`: initial scale and constrained norm); Lee et al. 2024 "Grokfast",
arXiv 2405.20233 (`grokfast-2024`: slow gradients amplified).
"""

from __future__ import annotations

import dataclasses
import math

PRECISIONS = ("float32", "bfloat16")


class RecipeError(ValueError):
    """A recipe that cannot be trained; the message says what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is built and trained; full batches throughout.

    Attributes:
        name: What it is called; a recipe changed by hand keeps the name of where it came from.
        d_model: Width of the residual stream.
        n_heads: Attention heads.
        d_head: Width of a head.
        d_mlp: Neurons of the MLP.
        steps: Optimizer steps at the most.
        learning_rate: Of AdamW, after the warm-up.
        warm_up: Steps over which the learning rate rises linearly from 0.
        weight_decay: Of AdamW, on every trained weight.
        beta1: Of AdamW.
        beta2: Of AdamW.
        initial_scale: Factor on every initial weight (Omnigrok's α).
        constrain_norm: Whether the weights are brought back to their initial norm after each step.
        grokfast_alpha: Momentum of the slow gradient (Grokfast-EMA).
        grokfast_lambda: How much of the slow gradient is added; 0 leaves Grokfast out.
        precision: Of the matrix products over the pairs, one of `PRECISIONS`; the loss is float64
            in either case.
    """

    name: str = "nanda-2023"
    d_model: int = 128
    n_heads: int = 4
    d_head: int = 32
    d_mlp: int = 512
    steps: int = 40_000
    learning_rate: float = 1e-3
    warm_up: int = 10
    weight_decay: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.98
    initial_scale: float = 1.0
    constrain_norm: bool = False
    grokfast_alpha: float = 0.98
    grokfast_lambda: float = 0.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            RecipeError: If one has no meaning.
        """
        for field in ("d_model", "n_heads", "d_head", "d_mlp", "steps"):
            if getattr(self, field) < 1:
                raise RecipeError(f"{field} = {getattr(self, field)}; expected at least 1")
        for field in ("learning_rate", "initial_scale"):
            if not 0 < getattr(self, field) < math.inf:
                raise RecipeError(f"{field} = {getattr(self, field)}; expected more than 0")
        for field in ("weight_decay", "grokfast_lambda", "warm_up"):
            if not 0 <= getattr(self, field) < math.inf:
                raise RecipeError(f"{field} = {getattr(self, field)}; expected 0 or more")
        for field in ("beta1", "beta2", "grokfast_alpha"):
            if not 0 <= getattr(self, field) < 1:
                raise RecipeError(
                    f"{field} = {getattr(self, field)}; expected 0 up to, not with, 1"
                )
        if self.precision not in PRECISIONS:
            raise RecipeError(f"precision {self.precision!r}; expected 'float32' or 'bfloat16'")


RECIPES = {
    made.name: made
    for made in (
        Recipe(),
        Recipe(
            name="omnigrok-2022",
            steps=5_000,
            weight_decay=0.0,
            initial_scale=0.8,
            constrain_norm=True,
        ),
        Recipe(name="grokfast-2024", grokfast_lambda=2.0),
    )
}


def recipe(name: str = "nanda-2023", **changes: object) -> Recipe:
    """A published set-up, with what differs from it.

    Args:
        name: One of `RECIPES`.
        **changes: Fields of `Recipe` with other values.

    Returns:
        The recipe.

    Raises:
        RecipeError: If there is no set-up of that name, no such field, or a value has no meaning.
    """
    if name not in RECIPES:
        raise RecipeError(f"recipe {name!r} is not known: choose from {', '.join(RECIPES)}")
    fields = [field.name for field in dataclasses.fields(Recipe)]
    for field in changes:
        if field not in fields:
            raise RecipeError(f"a recipe has no {field!r}: choose from {', '.join(fields)}")
    return dataclasses.replace(RECIPES[name], **changes)  # pyright: ignore[reportArgumentType]
