from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from analyses.neuron_clusters.growth import finetuning
from workbench.core.networks import architectures
from workbench.core.networks.training.fitting import Split

RECIPE = finetuning.Recipe(steps=7, batch=8, rate=0.05, decay=0.1)


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    return architectures.build(architectures.Mlp(4, (6,), 3))


@pytest.fixture(scope="module")
def data() -> Split:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(20, 4)).astype(np.float32)
    return Split(inputs, random.integers(0, 3, 20))


def weights(network: Any) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


def test_it_is_adamw_on_seeded_batches_with_a_falling_rate(network: Any, data: Split) -> None:
    own = [weight.detach().clone().requires_grad_() for weight in network.parameters()]
    inputs, labels = torch.tensor(data.inputs), torch.tensor(data.labels)
    random = torch.Generator().manual_seed(3)
    order: list[torch.Tensor] = []
    while len(order) < RECIPE.steps:
        order += list(torch.randperm(20, generator=random).split(8))
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in own]
    for step, chosen in enumerate(order[: RECIPE.steps]):
        rate = RECIPE.rate * (1 + np.cos(np.pi * step / RECIPE.steps)) / 2
        hidden = functional.relu(inputs[chosen] @ own[0].T + own[1])
        loss = functional.cross_entropy(hidden @ own[2].T + own[3], labels[chosen])
        gradients = torch.autograd.grad(loss, own)
        with torch.no_grad():
            for weight, gradient, (first, second) in zip(own, gradients, moments, strict=True):
                weight.mul_(1 - rate * RECIPE.decay)
                first.lerp_(gradient, 0.1)
                second.lerp_(gradient**2, 0.001)
                power = step + 1
                size = (second / (1 - 0.999**power)).sqrt() + 1e-8
                weight.sub_(rate * first / (1 - 0.9**power) / size)
    tuned = finetuning.fine_tuned(network, data, RECIPE, seed=3)
    expected = torch.cat([weight.detach().flatten() for weight in own])
    assert torch.allclose(weights(tuned), expected, atol=1e-6)
    assert not tuned.training


def test_equal_seeds_give_equal_bits_and_the_original_stays(network: Any, data: Split) -> None:
    before = weights(network)
    first, second, other = (
        weights(finetuning.fine_tuned(network, data, RECIPE, seed=seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(weights(network), before)


def test_stopping_leaves_the_threads_as_they_were(network: Any, data: Split) -> None:
    class StoppedError(Exception):
        pass

    def stop(share: float, _text: str) -> None:
        raise StoppedError

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(StoppedError):
            finetuning.fine_tuned(network, data, RECIPE, progress=stop)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_scores_are_the_network_s_own(network: Any, data: Split) -> None:
    expected = network(torch.tensor(data.inputs)).detach().double().numpy()
    assert np.array_equal(finetuning.class_scores(network, data.inputs), expected)
