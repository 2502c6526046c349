"""What changed between two checkpoints, on models that differ by construction."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from analyses.grokking import changes, drops
from workbench.core.engine import running
from workbench.core.models import anatomy
from workbench.core.modular import recipe, training
from workbench.core.modular.run import TrainingRun
from workbench.core.modular.tasks import Task
from workbench.core.planted import two_steps, unplanted

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TASK = Task(p=11, fraction=0.5)


def edited(model: TransformerBridge, **factors: float) -> None:
    """Scale some parameters in place, named by what they end with (dots as double underscores)."""
    parameters = anatomy.stored_parameters(model)
    with torch.no_grad():
        for ending, factor in factors.items():
            (name,) = [n for n in parameters if n.endswith(ending.replace("__", "."))]
            parameters[name].mul_(factor)


def random_tokens(model: TransformerBridge, prompts: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, int(model.cfg.d_vocab), (prompts, length), generator=generator)


def top_answers(model: TransformerBridge, tokens: torch.Tensor) -> torch.Tensor:
    """What a model answers, so that its loss is lower than that of any other."""
    with torch.inference_mode():
        return model(tokens, return_type="logits")[:, -1].argmax(1).clone()


def losses_by_hand(
    model: TransformerBridge, tokens: torch.Tensor, answers: torch.Tensor
) -> np.ndarray:
    with torch.inference_mode():
        logits = model(tokens, return_type="logits")[:, -1].double()
        return torch.nn.functional.cross_entropy(logits, answers, reduction="none").numpy()


def test_a_head_that_alone_has_new_weights_is_all_of_the_change() -> None:
    before, after = unplanted.randomised(), unplanted.randomised()
    unplanted.redraw_head(after, 1, 2, seed=3)
    tokens = random_tokens(before, 40, 5)
    answers = top_answers(after, tokens)
    found = changes.what_changed(before, after, tokens=tokens, answers=answers, n_random=0)
    assert found.normalised[0]
    for mode in changes.MODES:
        for direction in changes.DIRECTIONS:
            for component in found.components:
                effect = found.effect(component, mode=mode, direction=direction)
                expected = {"a1.h2": 1.0}.get(component)
                if expected is None and (mode == "weights" or component.startswith(("a", "emb"))):
                    expected = 0.0
                if expected is not None:
                    assert effect == pytest.approx(expected, abs=2e-4), (component, mode)
    # The MLP above the head writes something else, but its own weights are the same.
    assert abs(found.effect("m1")) > 0.01
    moved = dict(zip(found.components, found.weight_change, strict=True))
    assert [name for name, size in moved.items() if size] == ["a1.h2"]


def test_the_weights_mode_is_the_model_with_that_components_weights_swapped() -> None:
    before, after = unplanted.randomised(seed=0), unplanted.randomised(seed=1)
    tokens = random_tokens(before, 12, 6)
    answers = tokens[:, 2]
    found = changes.what_changed(before, after, tokens=tokens, answers=answers, n_random=0)
    np.testing.assert_allclose(
        found.baselines[:, 0],
        np.stack([losses_by_hand(model, tokens, answers) for model in (before, after)], 1),
        atol=1e-5,
    )
    parts = {
        "embedding": ("tok_embed.", "pos."),
        "m0": ("layers.0.mlp.", "layers.0.ln2."),
        "m1": ("layers.1.mlp.", "layers.1.ln2."),
        "unembedding": ("head.", "ln_out."),
    }
    for component, names in parts.items():
        for direction, (host_seed, donor) in enumerate(((0, after), (1, before))):
            mixture = unplanted.randomised(seed=host_seed)
            theirs = anatomy.stored_parameters(donor)
            with torch.no_grad():
                for name, value in anatomy.stored_parameters(mixture).items():
                    if name.startswith(names):
                        value.copy_(theirs[name])
            expected = losses_by_hand(mixture, tokens, answers)
            node = found.components.index(component)
            measured = found.per_prompt[:, 0, 1, direction, node]
            np.testing.assert_allclose(measured, expected, atol=1e-5, err_msg=component)


def test_the_activations_mode_is_the_other_checkpoints_own_output() -> None:
    before, after = unplanted.randomised(seed=0), unplanted.randomised(seed=1)
    tokens = random_tokens(before, 12, 6)
    answers = tokens[:, 0]
    found = changes.what_changed(before, after, tokens=tokens, answers=answers, n_random=0)
    _, kept = running.run_and_keep(after, tokens, ["blocks.1.hook_mlp_out"])
    logits = running.run(
        before, tokens, {"blocks.1.hook_mlp_out": lambda _: kept["blocks.1.hook_mlp_out"]}
    )[:, -1].double()
    expected = torch.nn.functional.cross_entropy(logits.clone(), answers, reduction="none")
    measured = found.per_prompt[:, 0, 0, 0, found.components.index("m1")]
    np.testing.assert_allclose(measured, expected.numpy(), atol=1e-5)
    # What all heads and the bias write is what the attention writes.
    assert [c for c in found.components if c.startswith("a0")] == [
        *(f"a0.h{head}" for head in range(4)),
        "a0.bias",
    ]


def test_two_parts_of_a_chain_suffice_and_are_needed_as_wired() -> None:
    # Two heads in a row copy a token; logits are .25 A + .75 B. The chain's second head is cut.
    before, after = two_steps.two_layer(), two_steps.two_layer()
    edited(before, layers__1__attn__o__weight=0.0)
    tokens = torch.tensor([[0, i, 5, 4] for i in range(6)])
    answers = tokens[:, 1]
    found = changes.what_changed(before, after, tokens=tokens, answers=answers, n_random=0)
    # Six words: the copied one has logit .25 before and 1 after, the others 0.
    expected = [math.log(math.exp(logit) + 5) - logit for logit in (0.25, 1.0)]
    np.testing.assert_allclose(found.baselines[:, 0].mean(0), expected, atol=1e-6)
    metric = changes.METRICS.index("answer_logit")
    np.testing.assert_allclose(found.baselines[:, metric].mean(0), [0.25 * 5 / 6, 5 / 6], atol=1e-6)
    for mode in changes.MODES:
        effects = [found.effect(name, mode=mode) for name in found.components]
        np.testing.assert_allclose(
            effects, [float(name == "a1.h1") for name in found.components], atol=1e-6
        )
    assert found.flagged == ()
    assert "a1.h1 1.00" in found.summary()


def test_a_head_upstream_is_credited_for_what_its_reader_passes_on_only_with_the_reader() -> None:
    before, after = two_steps.two_layer(), two_steps.two_layer()
    for ending in ("layers__0__attn__o__weight", "layers__1__attn__o__weight"):
        edited(before, **{ending: 0.0})
    tokens = torch.tensor([[0, i, 5, 4] for i in range(6)])
    answers = tokens[:, 1]
    found = changes.what_changed(before, after, tokens=tokens, answers=answers, n_random=0)

    def share(metric: str, mode: str, direction: str, name: str) -> float:
        return found.effect(name, metric=metric, mode=mode, direction=direction)

    # Denoising: head 0 alone gives .25. Head 1 alone: what it wrote in the later run gives .75; its
    # weights alone read nothing from an empty subspace.
    logit = "answer_logit"
    assert share(logit, "activations", "denoising", "a0.h0") == pytest.approx(0.25)
    assert share(logit, "activations", "denoising", "a1.h1") == pytest.approx(0.75)
    assert share(logit, "weights", "denoising", "a1.h1") == pytest.approx(0.0, abs=1e-6)
    # Noising: without head 0 head 1 has nothing to read.
    assert share(logit, "weights", "noising", "a0.h0") == pytest.approx(1.0)
    assert share(logit, "weights", "noising", "a1.h1") == pytest.approx(0.75)
    weights = found.reasons[changes.MODES.index("weights")]
    reasons = dict(zip(found.components, weights, strict=True))
    assert "it works with others" in reasons["a0.h0"]
    assert "it works with others" in reasons["a1.h1"]
    assert set(found.flagged) == {"a0.h0", "a1.h1"}
    assert "need not sum to 1" in found.summary()


def test_equal_checkpoints_changed_nothing() -> None:
    model = unplanted.randomised()
    tokens = random_tokens(model, 5, 4)
    found = changes.what_changed(model, unplanted.randomised(), tokens=tokens, n_random=3)
    assert found.unchanged
    assert not found.changes.any()
    assert not found.random.any()
    assert not found.weight_change.any()
    assert "nothing changed" in found.summary()
    found.figure()


def test_without_answers_the_next_token_is_asked_for_everywhere() -> None:
    before, after = unplanted.randomised(seed=0), unplanted.randomised(seed=2)
    tokens = random_tokens(before, 6, 7)
    found = changes.what_changed(before, after, tokens=tokens, n_random=0)
    with torch.inference_mode():
        logits = before(tokens, return_type="logits")[:, :-1].double()
        each = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), tokens[:, 1:], reduction="none"
        )
    np.testing.assert_allclose(found.baselines[:, 0, 0], each.mean(1).numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A small network that memorises and begins to generalise."""
    small = recipe.recipe(d_model=16, n_heads=2, d_head=8, d_mlp=32, steps=200, learning_rate=3e-3)
    folder = tmp_path_factory.mktemp("run")
    return training.train(Task(p=7, fraction=0.8), small, folder=folder, stop="never")


def test_the_checkpoints_around_a_step_of_a_training_are_compared(trained: TrainingRun) -> None:
    first, last = changes.checkpoints_around(trained, (0, 200))
    assert (first, last) == (0, 200)
    notes: list[float] = []
    found = changes.what_changed_at(
        trained, (0, 200), n_random=4, progress=lambda fraction, _note: notes.append(fraction)
    )
    assert found.names == ("step 0", "step 200")
    assert found.components == ("embedding", "a0.h0", "a0.h1", "m0", "unembedding")
    curves = trained.curves
    # All held-out pairs: the loss is the one that was measured in training.
    np.testing.assert_allclose(
        found.baselines[:, 0].mean(0), [curves.test_loss[0], curves.test_loss[-1]], rtol=1e-4
    )
    np.testing.assert_allclose(
        found.baselines[:, 2].mean(0), [curves.test_accuracy[0], curves.test_accuracy[-1]]
    )
    assert found.random.shape == (4, 5)
    assert notes == sorted(notes)
    assert max(notes) <= 1
    weights = trained.weights(0)["head.weight"], trained.weights(200)["head.weight"]
    moved = float((weights[1] - weights[0]).norm() / weights[0].norm())
    assert found.weight_change[-1] == pytest.approx(moved, rel=1e-5)


def test_a_single_step_lies_between_the_last_checkpoint_before_it_and_the_next(
    trained: TrainingRun,
) -> None:
    steps = trained.steps
    middle = steps[len(steps) // 2]
    before = steps[len(steps) // 2 - 1]
    assert changes.checkpoints_around(trained, middle) == (before, middle)
    assert changes.checkpoints_around(trained, before + 1) == (before, middle)


def test_the_deepest_of_several_drops_is_looked_into(trained: TrainingRun) -> None:
    found = drops.detect_drops(drops.simulate(200, drop=0.5, noise=0.01, seed=1))
    two = dataclasses.replace(
        found,
        steps=(60, 160),
        starts=(50, 150),
        ends=(70, 170),
        sizes=(0.3, 0.6),
        sharpness=(1.0, 1.0),
        p_values=(0.01, 0.01),
    )
    expected = max(s for s in trained.steps if s <= 150), min(s for s in trained.steps if s >= 170)
    assert changes.checkpoints_around(trained, two) == expected
    none = dataclasses.replace(
        found, steps=(), starts=(), ends=(), sizes=(), sharpness=(), p_values=()
    )
    with pytest.raises(ValueError, match="no drop was found"):
        changes.what_changed_at(trained, none)


def test_the_result_is_kept_and_read_back(trained: TrainingRun, tmp_path: Path) -> None:
    found = changes.what_changed_at(trained, (0, 200), n_random=2)
    back = changes.Changes.load(found.save(tmp_path / "changes"))
    np.testing.assert_array_equal(back.effects, found.effects)
    assert back.reasons == found.reasons
    assert back.summary() == found.summary()
    frame = found.to_frame()
    assert len(frame) == 3 * 2 * 2 * 5
    row = frame.query("component == 'm0' and metric == 'loss' and mode == 'weights'")
    np.testing.assert_allclose(row["effect"], found.effects[0, 1, :, 3])
    assert len(found.figure().data) == 4  # pyright: ignore[reportArgumentType]


def test_equal_seeds_give_equal_bits(trained: TrainingRun) -> None:
    one, other = (changes.what_changed_at(trained, (0, 200), n=10, n_random=3) for _ in range(2))
    assert one.n == 10
    np.testing.assert_array_equal(one.random, other.random)
    np.testing.assert_array_equal(one.interval, other.interval)


def test_wrong_input_is_one_sentence() -> None:
    before = unplanted.randomised()
    tokens = random_tokens(before, 3, 4)
    with pytest.raises(ValueError, match=r"differ in architecture: layers\.2\..* is missing"):
        changes.what_changed(before, unplanted.randomised(n_layers=3), tokens=tokens)
    with pytest.raises(ValueError, match="either a task or tokens"):
        changes.what_changed(before, before)
    with pytest.raises(ValueError, match="either a task or tokens"):
        changes.what_changed(before, before, tokens=tokens, task=TASK)
    with pytest.raises(ValueError, match="has 7 tokens; pairs modulo 11 need 12"):
        changes.what_changed(before, before, task=TASK)
    with pytest.raises(ValueError, match="2 answers for 3 prompts"):
        changes.what_changed(before, before, tokens=tokens, answers=tokens[:2, 0])
    with pytest.raises(ValueError, match="between 0 and 6"):
        changes.what_changed(before, before, tokens=tokens + 6)
    with pytest.raises(ValueError, match="two tokens each"):
        changes.what_changed(before, before, tokens=tokens[:, :1])
    with pytest.raises(ValueError, match="n_random = -1"):
        changes.what_changed(before, before, tokens=tokens, n_random=-1)
    found = changes.what_changed(before, before, tokens=tokens, n_random=0)
    with pytest.raises(ValueError, match="there is no 'a9.h0': choose from embedding"):
        found.effect("a9.h0")


def test_a_step_outside_of_the_checkpoints_is_an_error(trained: TrainingRun) -> None:
    with pytest.raises(ValueError, match="no checkpoints on both sides of 0 to 0"):
        changes.what_changed_at(trained, 0)
    with pytest.raises(ValueError, match="its checkpoints: from 0 to 200"):
        changes.what_changed_at(trained, 500)
