from __future__ import annotations

import numpy as np
import pytest
import torch

import workbench
from analyses.neuron_clusters import controls
from workbench.core.engine import populations, running
from workbench.core.models import card
from workbench.core.networks import sources
from workbench.core.planted import known_clusters as wired
from workbench.core.prompts.concepts import Concept

HOOK = "blocks.2.mlp.hook_post"


@pytest.fixture(scope="module")
def grammar():
    return workbench.load_model("grammar-4l")


def weights(subject):
    named = getattr(subject, "original_model", subject).named_parameters()
    return {name: value.detach() for name, value in named}


@pytest.mark.parametrize("made", [controls.untrained, controls.shuffled_weights])
def test_a_bridges_copy_runs_on_its_own_weights(grammar, made) -> None:
    tokens = torch.randint(0, 400, (3, 9), generator=torch.Generator().manual_seed(0))
    before = card.fingerprint(grammar)
    clean = running.run(grammar, tokens)
    copied = made(grammar, 1)
    assert card.fingerprint(grammar) == before
    assert torch.equal(running.run(grammar, tokens), clean)
    # A bridge that was never copied, given the same weights, says the same everywhere.
    fresh = workbench.load_model("grammar-4l")
    fresh.original_model.load_state_dict(copied.original_model.state_dict())
    torch.testing.assert_close(
        running.run(copied, tokens), running.run(fresh, tokens), rtol=0, atol=1e-5
    )
    _, own = running.run_and_keep(copied, tokens, [HOOK])
    _, other = running.run_and_keep(fresh, tokens, [HOOK])
    torch.testing.assert_close(own[HOOK], other[HOOK], rtol=0, atol=1e-5)
    assert (running.run(copied, tokens) - clean).abs().max() > 1
    assert running.lock_of(copied) is not running.lock_of(grammar)
    shared = {value.data_ptr() for value in weights(grammar).values()}
    assert not shared & {value.data_ptr() for value in weights(copied).values()}
    assert card.fingerprint(made(grammar, 1)) == card.fingerprint(copied)
    assert card.fingerprint(made(grammar, 2)) != card.fingerprint(copied)


def test_shuffled_weights_keep_each_matrix_up_to_order(grammar) -> None:
    shuffled = weights(controls.shuffled_weights(grammar, 0))
    for name, value in weights(grammar).items():
        if value.ndim < 2:
            assert torch.equal(shuffled[name], value)
        else:
            assert torch.equal(shuffled[name].flatten().sort()[0], value.flatten().sort()[0])
            assert (shuffled[name] == value).float().mean() < 0.5


def test_an_untrained_bridge_keeps_deviations_and_neutral_vectors(grammar) -> None:
    fresh = weights(controls.untrained(grammar, 0))
    for name, value in weights(grammar).items():
        if value.ndim < 2:
            wanted = 0.0 if name.endswith("bias") else float(value.mean())
            assert fresh[name].unique().tolist() == pytest.approx([wanted])
        else:
            assert float(fresh[name].std()) == pytest.approx(float(value.std()), rel=0.1)
            assert float(fresh[name].mean()) == pytest.approx(0, abs=0.1 * float(value.std()))
            pair = torch.stack([fresh[name].flatten(), value.flatten()])
            assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.05


def test_a_network_of_the_project_is_built_again() -> None:
    network = sources.load_network("shapes-branch")
    state = torch.random.get_rng_state()
    fresh = controls.untrained(network, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert fresh.cfg == network.cfg
    assert sources.network_fingerprint(fresh) == sources.network_fingerprint(
        controls.untrained(network, 3)
    )
    kernel = fresh.mixed0.branch5.conv.weight.detach()
    assert (fresh.mixed0.branch5.conv.bias == 0).all()
    # He et al. 2015: deviation sqrt(2 / inputs).
    inputs = kernel[0].numel()
    assert float(kernel.std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.05)


def test_control_networks_have_the_same_units_and_other_values() -> None:
    network = wired.planted({"layer0.branch0": 12}, 2.0, 0)
    population = populations.population_of(network)
    concept = wired.concept(40, 0)
    assert controls.subject_of(population) is network
    own = population.bench(concept).values
    for made in (controls.untrained, controls.shuffled_weights):
        other = controls.same_units(population, made(network, 0))
        assert other.names == population.names
        assert np.abs(other.bench(concept).values - own).max() > 0.5
    assert np.array_equal(populations.population_of(network).bench(concept).values, own)


def test_units_of_a_language_model_are_found_again(grammar) -> None:
    population = populations.population_of(grammar, ("neuron", "head"), layers=[1, 3])
    other = controls.same_units(population, controls.shuffled_weights(grammar, 0))
    assert other.names == population.names
    rows = [np.arange(5, 11), np.arange(20, 29), np.arange(40, 45), np.arange(60, 64)]
    concept = Concept(rows, [1, 0, 1, 0], "rows")
    assert np.abs(other.bench(concept).values - population.bench(concept).values).max() > 0.1


class Bare(populations.Population):
    places = ()

    def bench(self, concept: Concept) -> populations.Bench:
        raise NotImplementedError

    def provenance(self, *, analysis, parameters, seed, wall_time):
        raise NotImplementedError


def test_subjects_without_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="a str has no weights: give a language model"):
        controls.untrained("grammar-4l")
    with pytest.raises(ValueError, match="does not say which model"):
        controls.subject_of(Bare())
    mine = populations.population_of(sources.load_network("mnist1d-mlp"))
    with pytest.raises(ValueError, match="give a training of the same architecture"):
        controls.same_units(mine, populations.population_of(sources.load_network("shapes-branch")))
