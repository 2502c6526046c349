"""The experiment on `shapes-branch` that is in the documentation says what its numbers say."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from analyses.neuron_clusters import growth
from analyses.neuron_clusters.growth import widening
from workbench.core.networks import sources

SAVED = Path(__file__).resolve().parents[4] / "docs" / "growth-shapes-branch"


@pytest.fixture(scope="module")
def saved() -> growth.Growth:
    return growth.Growth.load(SAVED)


def test_it_is_of_the_bundled_network_with_enough_seeds(saved: growth.Growth) -> None:
    network = sources.load_network("shapes-branch")
    assert saved.provenance.fingerprint == sources.network_fingerprint(network)
    assert len(saved.seeds) >= 6
    assert sum(variant.kind == "elsewhere" for variant in saved.variants) >= 4
    assert [variant.kind for variant in saved.variants[-2:]] == ["spread", "nowhere"]
    assert (saved.n_with, saved.n_without, saved.n_train) == (1500, 1500, 12_000)
    assert saved.preserved < 1e-4


def test_every_place_has_as_many_parameters_as_channels_allow(saved: growth.Growth) -> None:
    network = sources.load_network("shapes-branch")
    target = saved.variants[0].parameters
    for variant in saved.variants:
        if variant.kind == "elsewhere":
            channels = {each.place: each.channels for each in variant.added}
            assert widening.added_parameters(network, channels) == variant.parameters
            assert (
                abs(variant.parameters - target) <= variant.parameters / channels[variant.name] / 2
            )


def test_the_verdict_follows_from_the_values(saved: growth.Growth) -> None:
    losses = saved.of("log_loss")
    others = [i for i, variant in enumerate(saved.variants) if variant.kind == "elsewhere"]
    advantage = losses[:, others].mean(1) - losses[:, 0]
    assert np.allclose(saved.primary.differences, advantage, atol=1e-12)
    signs = np.array(list(itertools.product((1, -1), repeat=len(advantage))))
    means = np.abs((signs * advantage).mean(1))
    p_value = (means >= abs(advantage.mean()) - 1e-12).mean()
    assert saved.primary.p_value == pytest.approx(p_value)
    expected = "it makes no difference"
    if p_value < 0.05:
        nowhere = losses[:, -1] - losses[:, 0]
        helps = nowhere.mean() > 0 and saved.against(growth.NOWHERE).p_value < 0.05
        better = "add here" if helps else expected
        expected = better if advantage.mean() > 0 else "elsewhere is better"
    assert saved.verdict == expected
    assert saved.summary().startswith(expected[0].upper() + expected[1:])
