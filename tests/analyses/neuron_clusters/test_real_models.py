"""Gender, number and role in models that were trained: on the grammar, and on stories.

What the grammar decides by construction must be there at the word that it decides, and the same
units must tell it by the grammar's own labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import workbench
from analyses import neuron_clusters as clusters
from workbench.core.engine import populations
from workbench.core.models import dictionaries
from workbench.core.prompts import named_concepts
from workbench.core.prompts.concepts import Concept

# What the grammar calls the same.
VARIABLES = {
    "gender": "gender of the person, where it decides = female",
    "number": "number of the subject, where it decides = plural",
}


@pytest.fixture(scope="module")
def grammar() -> Any:
    return workbench.load_model("grammar-4l")


def selective(model: Any, concept: Concept, **more: Any) -> clusters.Selectivity:
    return clusters.selectivity(model, concept, permutations=200, probes=(1,), **more)


@pytest.mark.parametrize("name", ["gender", "number"])
def test_what_decides_a_word_of_the_grammar_is_told_by_single_neurons(
    grammar: Any, name: str
) -> None:
    concept = Concept.from_task(grammar, name, n=200)
    found = selective(grammar, concept)
    values = populations.of_model(grammar).bench(concept).values
    for unit in found.order[:20]:
        expected = roc_auc_score(concept.labels, values[:, unit])
        assert found.effect[unit] == pytest.approx(expected, abs=1e-12)
    assert found.strength[found.order[:3]].min() > 0.49
    assert found.probes[0].each[0].auc > 0.99
    # By the labels of the grammar itself, on other sentences.
    known = [each for each in named_concepts.named_concepts("grammar-4l") if each.startswith(name)]
    assert VARIABLES[name].split(" = ")[0] in {each.split(" = ")[0] for each in known}
    own = next(each for each in known if each.startswith(VARIABLES[name].split(" = ")[0]))
    labelled = named_concepts.named_concept(grammar, own, n=400)
    again = selective(grammar, labelled)
    best = found.order[:10]
    assert np.median(again.strength[best]) > 0.45
    # The task's concept and the variable's value may be opposites; then all of them turn around.
    same = np.sign(again.effect[best] - 0.5) * np.sign(found.effect[best] - 0.5)
    assert abs(same.sum()) == len(best)


def test_no_layer_of_the_grammar_model_holds_gender_alone_and_controls_are_negative(
    grammar: Any,
) -> None:
    concept = Concept.from_task(grammar, "gender", n=200)
    found = clusters.localize(grammar, concept, permutations=999)
    assert found.verdict == "spread"
    assert len(found.hits) >= 100
    # Beyond chance in the last layer, which the summary says; but not three times as many.
    assert found.places[0].name == "neuron 3"
    assert found.places[0].enrichment < 3
    assert [one.verdict for one in found.controls] == ["not represented"] * 3


def test_the_role_of_a_name_is_told_by_no_neuron_at_the_answer(grammar: Any) -> None:
    # Heads copy the name itself; whether it was named first or second is of no use there.
    concept = Concept.from_task(grammar, "role", n=200)
    found = clusters.localize(grammar, concept, permutations=999, controls=False)
    assert found.verdict == "not represented"
    gives = next(
        each for each in named_concepts.named_concepts("grammar-4l") if each.endswith("= gives")
    )
    at_the_name = selective(grammar, named_concepts.named_concept(grammar, gives, n=400))
    assert at_the_name.strength[at_the_name.order[:3]].min() > 0.4


class TestStories:
    def test_gender_is_told_by_neurons_of_the_last_layer(self, stories: Path) -> None:
        teller = workbench.load_model(str(stories))
        concept = Concept.from_task(teller, "gender", n=400)
        found = selective(teller, concept, kinds=("neuron", "head"))
        assert found.names[found.order[0]] == "neuron 4.96"
        assert found.effect[found.order[0]] < 0.25
        place = clusters.localize(teller, concept, permutations=999)
        assert {at for at in place.hit_places} == {"neuron 4"}
        assert place.verdict == "spread"
        assert all(one.verdict != "localized" for one in place.controls)

    @pytest.mark.parametrize("name", ["number", "role"])
    def test_the_others_are_looked_at_and_told(self, stories: Path, name: str) -> None:
        teller = workbench.load_model(str(stories))
        concept = Concept.from_task(teller, name, n=400)
        found = clusters.localize(teller, concept, permutations=999)
        assert found.verdict in {"spread", "not represented"}
        assert all(one.verdict != "localized" for one in found.controls)
        assert selective(teller, concept).n_examples == 400


def test_latents_of_a_dictionary_tell_gender_and_carry_it(grammar: Any) -> None:
    of: dict[str, Any] = {
        "kinds": "resid_post",
        "layers": [2],
        "dictionary": dictionaries.bundled_dictionary(grammar, "resid_post.2"),
    }
    concept = Concept.from_task(grammar, "gender", n=200)
    found = selective(grammar, concept, **of)
    assert found.names[found.order[0]].startswith("latent 2.")
    assert found.strength[found.order[:3]].min() > 0.49
    carried = clusters.verify(
        grammar, concept, found.best(8), **of, n_random=24, most_examples=80, ablations=("mean",)
    )
    assert carried.specific
    assert carried.specificity > 0.6
    with pytest.raises(ValueError, match="one place only"):
        clusters.localize(grammar, concept, **of)


def test_a_frequency_is_localized_in_a_cluster_of_weights() -> None:
    model = workbench.load_model("modadd-113")
    # Fitted from weights alone, so they were declared before looking.
    places = clusters.find_clusters(model, by="weights", counts=4, resamples=4, shuffles=19)
    concept = Concept.frequency(model, 14, n=1500)
    found = clusters.localize(
        model, concept, places=places, permutations=4999, controls=False, verify=False
    )
    assert found.verdict == "localized"
    assert found.places[0].share == 1
    assert found.places[0].hits == len(found.hits)
    neurons = [
        name
        for name, label in zip(places.names, places.labels, strict=True)
        if f"cluster {label}" == found.place
    ]
    assert set(found.hits) <= set(neurons)
