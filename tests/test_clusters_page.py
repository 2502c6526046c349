"""The Clusters page says what the library says, and its code runs."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import workbench
from analyses import neuron_clusters as clusters
from tests.visiting import button, code_of, errors, settled, texts, unfolded, visit
from workbench.core import runs

NETWORK = "mnist1d-mlp"
OF = "an image or sequence network"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    st.cache_resource.clear()


def opened(section: str = "One concept", **more: str) -> AppTest:
    return visit("clusters", of=OF, network=NETWORK, section=section, **more)


def clicked(at: AppTest, label: str) -> AppTest:
    return settled(button(at, label).click().run())


def test_an_address_with_what_is_not_there_says_so() -> None:
    at = opened(concept="digit 11")
    (said,) = errors(at)
    assert said == "The address asks for concept = 'digit 11', which is not there. This is digit 0."


def test_a_concept_of_a_network_from_the_map_to_the_ablation() -> None:
    at = opened(concept="digit 1", cell="0.0")
    (run,) = runs.RunStore().runs("neuron_clusters.selectivity")
    found = runs.RunStore().find(clusters.Selectivity, run.id)
    assert found is not None
    assert found.summary() in texts(unfolded(at))
    first = [name for name in found.best(200) if name.startswith("layer0")]
    largest = max(first, key=lambda name: found.effect[found.names.index(name)])
    (link,) = at.get("page_link")
    assert link.proto.label == f"**{largest}**: what it wants"
    at = unfolded(clicked(at, "Is it in one place?"))
    shown = texts(at)
    controls = next(item.value for item in at.dataframe if "verdict" in item.value)
    headings = [item.value for item in at.subheader]
    at = clicked(at, "Ablate and patch them")
    code = code_of(at)
    assert "clusters.verify(network, concept, units)" in code
    library: dict[str, Any] = {}
    exec(compile(code, "the page's code", "exec"), library)  # what it shows must run
    place = library["place"]
    assert place.summary() in shown
    assert place.verdict.capitalize() in headings
    assert list(controls["verdict"]) == [one.verdict for one in place.controls]
    assert library["verified"].summary() in texts(at)
    assert found.summary() == library["found"].summary()


def test_groups_of_a_network_and_the_one_that_is_clicked() -> None:
    at = clicked(opened("Groups", by="with like weights", **{"unit-of": "0.0"}), "Find them")
    (run,) = runs.RunStore().runs("neuron_clusters.find_clusters")
    found = runs.RunStore().find(clusters.Clusters, run.id)
    assert found is not None
    assert found.method == "weights"
    assert len(found.names) == 200
    assert found.summary() in texts(at)
    assert "inputs, by='weights'" in code_of(at)


def test_tokens_of_a_language_model_and_what_is_none() -> None:
    at = visit("clusters", model="grammar-4l", way="tokens", **{"concept-tokens": "zzz"})
    assert "zzz" in at.error[0].value
    at = visit("clusters", model="grammar-4l", way="tokens", **{"concept-tokens": "the"})
    assert not at.error
    assert "Concept.from_tokens(model, seen, ['the'])" in code_of(at)
    assert workbench.fingerprint(workbench.load_model("grammar-4l"))


def test_where_all_neurons_lie_in_one_layer_places_are_groups_of_like_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The page's own numbers of rounds take a minute.
    for function, few in {
        "find_clusters": {"counts": 3, "resamples": 3, "shuffles": 20},
        "localize": {"permutations": 999, "verify": False, "controls": False},
    }.items():
        monkeypatch.setattr(
            clusters, function, functools.partial(getattr(clusters, function), **few)
        )
    asked = {"model": "modadd-113", "concept": "frequency 14"}
    at = visit("clusters", **asked)
    assert "All 512 units lie at one hook point (neuron 0)" in texts(at)
    at = clicked(at, "Is it in one place?")
    (run,) = runs.RunStore().runs("neuron_clusters.localize")
    found = runs.RunStore().find(clusters.Localization, run.id)
    assert found is not None
    assert found.summary() in texts(unfolded(at))
    assert {len(set(found.hit_places)), found.hit_places[0]} == {1, found.places[0].name}
    assert found.places[0].name.startswith("cluster")
    code = code_of(at)
    assert "groups = clusters.find_clusters(model, by='weights', kinds='neuron')" in code
    assert "clusters.localize(model, concept, places=groups, kinds='neuron')" in code
    # Of other kinds no weights tell groups apart.
    at = visit("clusters", kind="head", **asked)
    assert "All 4 units lie at one hook point (head 0), so none can have more" in texts(at)
    assert not [one for one in at.button if one.label.startswith("Is it in one place?")]


@pytest.mark.parametrize("cell", ["999.999", "-1.0", "x", "0.0.0"])
def test_a_link_to_a_square_that_is_not_there_opens_none(cell: str) -> None:
    at = opened(concept="digit 1", cell=cell)
    assert not at.get("page_link")
