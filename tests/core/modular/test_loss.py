"""The loss in pieces against automatic differentiation of the native network."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.core.modular.conftest import native, prompts, random_weights
from workbench.core.modular import loss, network, tasks

P = 11


def batch(every: list[tasks.Task]) -> tuple[loss.Batch, torch.Tensor]:
    pairs = torch.stack([task.pairs()[task.split()[0]] for task in every])
    labels = torch.stack([task.labels()[task.split()[0]] for task in every])
    return loss.batch(pairs, labels, P, n_heads=2, n_neurons=12), pairs


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("piece", [1024, 7])
def test_losses_and_gradients_are_those_of_automatic_differentiation(
    seeds: tuple[int, ...], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_PIECE", piece)
    every = [tasks.Task(p=P, seed=seed, noise=0.2) for seed in seeds]
    side_by_side = [random_weights(P, seed) for seed in seeds]
    weights = network.stacked(side_by_side)
    for name, value in weights.items():
        value.requires_grad_(name not in network.FROZEN)
    made, pairs = batch(every)
    tables = network.tables(weights, 2)
    losses, gradients = loss.losses_and_gradients(tables, made, torch.float32)
    torch.autograd.backward(tables, gradients)

    for at, plain_weights in enumerate(side_by_side):
        plain = native(P, plain_weights)
        expected = functional.cross_entropy(plain(prompts(pairs[at], P))[:, -1], made.labels[at])
        expected.backward()
        assert losses[at].item() == pytest.approx(expected.item(), rel=1e-6)
        for name, value in plain.named_parameters():
            if name not in network.FROZEN:
                found = weights[name].grad
                assert found is not None and value.grad is not None
                torch.testing.assert_close(found[at].double(), value.grad, rtol=1e-4, atol=1e-6)


def test_losses_far_below_single_precision_keep_their_gradient() -> None:
    weights = network.stacked([random_weights(P, 0)])
    made, _ = batch([tasks.Task(p=P)])
    tables = network.tables(weights, 2)
    logits = torch.zeros(1, P + 1, dtype=torch.float32)
    labels = made.labels[:, :1]
    logits[0, labels[0, 0]] = 30.0
    found, gradient = loss._cross_entropy(logits[None], labels, 1)
    # log(1 + 11 e^-30): float32 would give 0.
    assert found.item() == pytest.approx(11 * 9.357622968840175e-14, rel=1e-3)
    assert gradient[0, 0, labels[0, 0]].item() == pytest.approx(
        -11 * 9.357622968840175e-14, rel=1e-2
    )
    assert tables.out.shape == (1, 12, P + 1)


def test_half_precision_is_near() -> None:
    weights = network.stacked([random_weights(P, 0)])
    made, _ = batch([tasks.Task(p=P)])
    exact, rounded = (
        loss.losses_and_gradients(network.tables(weights, 2), made, dtype)[0].item()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact
