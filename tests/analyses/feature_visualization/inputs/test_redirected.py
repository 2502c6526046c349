from __future__ import annotations

import torch
from torch.nn import functional

from analyses.feature_visualization.inputs import redirected


def gradient(values: list[list[float]], weights: list[float]) -> list[list[float]]:
    """Of the loss −(weighted sum of the ReLUs), so positive weights want larger activations."""
    start = torch.tensor(values, requires_grad=True)
    with redirected.Redirected():
        loss = -(functional.relu(start) * torch.tensor(weights)).sum()
    (found,) = torch.autograd.grad(loss, start)
    return found.tolist()


def test_values_are_those_of_a_relu() -> None:
    values = torch.tensor([-1.0, 0.0, 2.0])
    with redirected.Redirected():
        for relu in (functional.relu, torch.relu, torch.nn.ReLU()):
            assert relu(values).tolist() == [0.0, 0.0, 2.0]


def test_a_dead_example_gets_the_gradient_that_would_wake_it() -> None:
    # The second neuron is wanted smaller and is off already: no gradient for it.
    assert gradient([[-1.0, -1.0]], [3.0, -2.0]) == [[-3.0, 0.0]]


def test_an_example_with_any_true_gradient_gets_that_alone() -> None:
    assert gradient([[-1.0, 5.0], [-1.0, -5.0]], [3.0, 2.0]) == [[0.0, -2.0], [-3.0, -2.0]]


def test_outside_of_the_context_gradients_are_the_true_ones() -> None:
    start = torch.tensor([-1.0], requires_grad=True)
    with redirected.Redirected():
        pass
    (found,) = torch.autograd.grad(functional.relu(start).sum(), start)
    assert found.tolist() == [0.0]
