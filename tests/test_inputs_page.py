"""The Optimized inputs page: a channel, the region around an example, a layer, a way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from analyses import feature_visualization as features
from analyses.feature_visualization.inputs import Target
from tests.visiting import code_of, printed, settled, texts, visit
from workbench.core.networks import examples, sources

NETWORK, HOOK = "mnist1d-mlp", "layer1.hook_out"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    st.cache_resource.clear()


def opened(section: str, **more: str) -> AppTest:
    query = {"network": NETWORK, "hook": HOOK, "channel": "3", "section": section, **more}
    return visit("inputs", **query)


def test_one_channel_is_what_the_library_finds_and_its_code_runs() -> None:
    at = opened("One channel")
    network, (data, _) = sources.load_network(NETWORK), examples.held_out(NETWORK, 600)
    unit = Target(HOOK, 3)
    found = features.optimize_input(network, unit, data=data, control=True, steps=128, lr=0.1)
    against = features.compare_input_with_data(network, unit, found, data)
    assert found.summary() in texts(at)
    assert against.summary() in texts(at)
    printed(code_of(at))


def test_its_picture_grows_while_it_is_searched_for() -> None:
    network, (data, _) = sources.load_network(NETWORK), examples.held_out(NETWORK, 100)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    found = features.optimize_input(
        network,
        Target(HOOK, 3),
        data=data,
        steps=64,
        watch=lambda inputs, activations: seen.append((inputs, activations)),
    )
    best = np.array([activations.max() for _, activations in seen])
    assert len(seen) > 10
    assert (np.diff(best) >= 0).all()
    assert best[-1] == found.activations.max()
    np.testing.assert_array_equal(seen[-1][0], found.inputs)


def test_the_region_around_an_example() -> None:
    at = opened("Around a real example")
    network, (data, _) = sources.load_network(NETWORK), examples.held_out(NETWORK, 600)
    assert features.linear_region(network, Target(HOOK, 3), data[0]).summary() in texts(at)
    box = next(item for item in at.number_input if item.key == "example")
    at = settled(box.set_value(7).run())
    assert features.linear_region(network, Target(HOOK, 3), data[7]).summary() in texts(at)


def test_all_classes_and_the_way_from_one_to_another() -> None:
    at = opened("All of a layer", hook="hook_logits")
    assert "Channel 3 is the class" in texts(at)
    assert "Each channel's best of two quick searches" in texts(at)
    at = opened("From one to another")
    assert f"from {HOOK}[3]" in texts(at)
    box = next(item for item in at.number_input if item.key == "other")
    assert "Pick another channel" in settled(box.set_value(3).run()).info[0].value


@pytest.mark.parametrize("channel", ["-1", "99999999999", "three", "²"])
def test_a_link_to_a_channel_that_is_not_there_opens_another(channel: str) -> None:
    at = opened("Around a real example", channel=channel)
    box: Any = next(item for item in at.number_input if item.label == "Channel")
    assert 0 <= box.value <= box.max
