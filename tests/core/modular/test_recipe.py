"""Published set-ups by name, and what may be changed in them."""

from __future__ import annotations

import pytest

from workbench.core.modular import recipe


def test_the_mainline_set_up_is_the_papers() -> None:
    made = recipe.recipe("nanda-2023")
    assert (made.d_model, made.n_heads, made.d_head, made.d_mlp) == (128, 4, 32, 512)
    assert (made.learning_rate, made.weight_decay, made.warm_up) == (1e-3, 1.0, 10)
    assert (made.beta1, made.beta2, made.steps) == (0.9, 0.98, 40_000)
    assert made.grokfast_lambda == 0


def test_a_change_leaves_the_rest() -> None:
    made = recipe.recipe("omnigrok-2022", steps=10)
    assert (made.steps, made.constrain_norm, made.initial_scale) == (10, True, 0.8)
    assert recipe.RECIPES["omnigrok-2022"].steps == 5_000


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nanda", {}, "'nanda' is not known: choose from nanda-2023"),
        ("nanda-2023", {"lr": 1e-3}, "has no 'lr': choose from name, d_model"),
        ("nanda-2023", {"steps": 0}, "steps = 0; expected at least 1"),
        ("nanda-2023", {"learning_rate": float("nan")}, "learning_rate = nan"),
        ("nanda-2023", {"weight_decay": -1.0}, "weight_decay = -1.0; expected 0 or more"),
        ("nanda-2023", {"beta2": 1.0}, "beta2 = 1.0; expected 0 up to"),
        ("nanda-2023", {"precision": "float16"}, "'float16'; expected 'float32' or 'bfloat16'"),
    ],
)
def test_what_has_no_meaning_is_refused(
    name: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises((recipe.RecipeError, TypeError), match=message):
        recipe.recipe(name, **changes)
