"""Clusters that were planted are found, and none where nothing was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch

import workbench
from analyses.neuron_clusters import clustering
from analyses.neuron_clusters.clustering import meaning
from workbench.core.modular import fourier
from workbench.core.networks import architectures
from workbench.core.planted import known_groups
from workbench.core.prompts.concepts import Concept
from workbench.core.prompts.corpus import Corpus

ARI = sklearn.metrics.adjusted_rand_score
GROUPS, TRUTH = known_groups.GROUPS, known_groups.TRUTH
QUICK: dict[str, Any] = {"counts": range(2, 7), "resamples": 6, "shuffles": 19}
# Key frequencies of modadd-113.
KEYS = {5, 6, 14, 42}


@pytest.fixture(scope="module")
def found() -> clustering.Clusters:
    inputs = known_groups.noise()
    classes = [str(i) for i in inputs[:, :GROUPS].argmax(1)]
    return clustering.find_clusters(
        known_groups.driven(0.6, constant=3), inputs, classes=classes, **QUICK
    )


@pytest.mark.parametrize("strength", [0.3, 0.9])
def test_the_number_and_the_members_of_planted_groups_are_found(strength: float) -> None:
    found = clustering.find_clusters(known_groups.driven(strength), known_groups.noise(), **QUICK)
    assert found.k == GROUPS and found.p_value == pytest.approx(1 / 20)
    assert ARI(TRUTH, found.labels) >= 0.95
    assert not found.from_weights and found.ncut == ()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_units_with_nothing_in_common_are_no_clusters(seed: int) -> None:
    found = clustering.find_clusters(
        known_groups.driven(0.0), known_groups.noise(seed), seed=seed, **QUICK
    )
    assert found.k == 1 and found.p_value > 0.05
    assert found.clusters == () and not found.labels.any()
    assert "No clusters beyond chance" in found.summary()
    found.map_figure()


def test_constant_units_are_left_out_and_counted(found: clustering.Clusters) -> None:
    assert found.left_out == (clustering.LeftOut("constant", 3),)
    assert found.labels[:3].tolist() == [-1, -1, -1]
    assert found.k == GROUPS and ARI(TRUTH[3:], found.labels[3:]) == 1.0
    assert sorted(one.size for one in found.clusters) == [7, 10, 10, 10]


def test_stability_of_the_true_number_is_perfect_and_beyond_chance(
    found: clustering.Clusters,
) -> None:
    own = {one.k: one for one in found.stability}
    assert own[4].mean == own[4].low == own[4].high == 1.0
    assert own[6].mean < 0.95 and own[4].null_high < 0.5
    assert found.z > 5


def test_clusters_respond_to_their_class_and_write_it(found: clustering.Clusters) -> None:
    for one in found.clusters:
        group = str(TRUTH[int(one.units[0].rpartition(".")[2])])
        assert one.meaning.responds[0].what == group
        first = one.meaning.responds[0]
        assert first.count / first.examples > 2 * first.share and first.p_value < 1e-4
        assert one.meaning.writes[0].what == f"class {group}"
        assert one.meaning.writes[0].size > 5 * abs(one.meaning.writes[1].size)
        assert one.cohesion > 0.3 and one.cohesion_p == pytest.approx(1 / 20)
        assert one.places == {"layer0": one.size} and one.meaning.opposed == 0


def test_a_result_is_saved_drawn_and_the_same_again(
    found: clustering.Clusters, tmp_path: Path
) -> None:
    back = clustering.Clusters.load(found.save(tmp_path / "clusters"))
    assert back.clusters == found.clusters and back.stability == found.stability
    np.testing.assert_array_equal(back.labels, found.labels)
    drawn: list[Any] = [found.figure(), found.map_figure(), found.stability_figure()]
    assert drawn[0].data[0].z.shape == (37, 37)
    left_out = [-1] * int((found.labels < 0).sum())
    in_order = [*sorted(found.labels[found.labels >= 0].tolist()), *left_out]
    assert drawn[1].data[0].z.tolist() == [in_order]
    assert [one.name for one in drawn[2].data if one.name] == ["these units", "shuffled"]
    assert found.to_frame()["cluster"].to_list() == found.labels.tolist()
    assert found.clusters_frame()["size"].to_list() == [10, 10, 10, 7]
    assert len(found.stability_frame()) == 5
    inputs = known_groups.noise()
    classes = [str(i) for i in inputs[:, :GROUPS].argmax(1)]
    again = clustering.find_clusters(
        known_groups.driven(0.6, constant=3), inputs, classes=classes, **QUICK
    )
    assert again.stability == found.stability and again.clusters == found.clusters
    assert found.members(0) == found.clusters[0].units


def modular(inside: float) -> Any:
    """Two layers of 24 neurons in two modules; weights within a module are so much larger."""
    torch.manual_seed(0)
    network: Any = architectures.build(architectures.Mlp(5, (24, 24), 2))
    half = torch.arange(24) % 2
    same = half[:, None] == half
    with torch.no_grad():
        network.get_submodule("layer1.linear").weight *= torch.where(same, inside, 1.0)
    return network


def test_a_graph_of_two_modules_is_cut_less_than_chance_and_a_random_one_is_not() -> None:
    planted = clustering.find_clusters(modular(4.0), by="graph", **QUICK)
    assert planted.k == 2 and ARI(np.arange(48) % 2, planted.labels) == 1.0
    assert planted.ncut_z[0] < -2 and planted.ncut_p == (1 / 20,)
    assert planted.from_weights and planted.found
    random = clustering.find_clusters(modular(1.0), by="graph", **QUICK)
    assert random.ncut_p[0] > 0.05 and random.k == 1
    assert "normalised cut" in random.summary()


def test_units_of_equal_weights_are_found_without_activations() -> None:
    found = clustering.find_clusters(known_groups.driven(0.6), by="weights", **QUICK)
    assert found.k == GROUPS and ARI(TRUTH, found.labels) == 1.0
    assert found.from_weights and found.n_examples == 0


@pytest.fixture(scope="module")
def modadd() -> Any:
    return workbench.load_model("modadd-113")


@pytest.fixture(scope="module")
def truth(modadd: Any) -> tuple[np.ndarray, np.ndarray]:
    """Frequency of each neuron and the share that it explains, as `grokking.fourier` assigns it."""
    pairs = torch.cartesian_prod(torch.arange(113), torch.arange(113))
    tokens = torch.cat([pairs, torch.full((len(pairs), 1), 113)], 1)
    hook = "blocks.0.mlp.hook_post"
    with torch.inference_mode():
        _, cache = modadd.run_with_cache(tokens, names_filter=[hook])
    values = cache[hook][:, -1].reshape(113, 113, -1).numpy()
    return fourier.best_frequency(fourier.explained_by_frequency(values))


def test_clusters_by_function_are_the_frequencies(
    modadd: Any, truth: tuple[np.ndarray, np.ndarray]
) -> None:
    found = clustering.find_clusters(modadd, by="function", **QUICK)
    used = found.labels >= 0
    assert ARI(truth[0][used], found.labels[used]) >= 0.9
    assert found.k == len(KEYS)
    assert {one.meaning.wave[0].frequency for one in found.clusters} == KEYS
    assert all(o.meaning.wave[0].written == o.meaning.wave[0].frequency for o in found.clusters)
    np.testing.assert_array_equal(used, truth[1] >= 0.85)
    assert found.left_out[0].count == (~used).sum()


def test_clusters_by_co_activation_are_the_frequencies_of_the_explained_neurons(
    modadd: Any, truth: tuple[np.ndarray, np.ndarray]
) -> None:
    found = clustering.find_clusters(modadd, most=1500, **QUICK)
    explained = truth[1] >= 0.85
    assert ARI(truth[0][explained], found.labels[explained]) >= 0.9
    # Those that no frequency explains are a group of their own.
    assert found.k == len(KEYS) + 1
    mixed = int(np.bincount(found.labels[~explained]).argmax())
    assert found.clusters[mixed].meaning.wave[0].explained < 0.6


def test_clusters_of_a_language_model_have_tokens() -> None:
    model = workbench.load_model("grammar-4l")
    corpus = Corpus.bundled(model, documents=150)
    found = clustering.find_clusters(
        model, corpus, layers=[0], counts=4, resamples=2, shuffles=19, most=400
    )
    assert found.given and found.k == 4 and found.places == ("neuron 0",)
    triggers = {one.meaning.responds[0].what for one in found.clusters if one.meaning.responds}
    assert "." in triggers
    full_stop = next(
        o for o in found.clusters if o.meaning.responds[:1] and "." == o.meaning.responds[0].what
    )
    assert any(one.endswith(".") for one in full_stop.meaning.examples)
    assert full_stop.meaning.writes[0].size > 0 > full_stop.meaning.writes[-1].size
    assert 0 < full_stop.meaning.writes_p[0] <= 1


def test_a_joint_activation_is_the_mean_of_standardised_values() -> None:
    x = np.random.default_rng(0).normal(size=200)
    signs, activation = meaning.joint(np.stack([x, 3 * x + 1, -2 * x], 1))
    assert signs.tolist() == [1, 1, -1]
    np.testing.assert_allclose(activation, (x - x.mean()) / x.std())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"counts": 1}, "from 2 up"),
        ({"counts": ()}, "from 2 up"),
        ({"by": "colour"}, "expected one of coactivation"),
        ({"shuffles": 5}, "at least 2 and 19"),
        ({"most": 3}, "at least 20 examples"),
        ({"inputs": None}, "give inputs"),
        ({"inputs": "nothing"}, "a str is nothing to read"),
        ({"inputs": known_groups.noise()[:5]}, "has 5 examples"),
        ({"inputs": np.repeat(known_groups.noise()[:30], 2, axis=0)}, "stand there twice"),
        ({"inputs": np.full((30, GROUPS + known_groups.UNITS), np.nan)}, "finite"),
        ({"classes": ["a"]}, "1 classes for 300 inputs"),
        ({"counts": 30}, "need at least 60 units"),
        ({"by": "graph"}, "at least two layers"),
        ({"by": "function"}, "waves over residues"),
        ({"layers": [3]}, "layers 0 to 0"),
        ({"confidence": 1.5}, "between 0 and 1"),
    ],
)
def test_bad_arguments_get_a_sentence(arguments: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"inputs": known_groups.noise(), **QUICK, **arguments}
    by = given.pop("by", "coactivation")
    with pytest.raises(ValueError, match=said):
        clustering.find_clusters(known_groups.driven(0.5), given.pop("inputs"), by=by, **given)


def test_a_concept_says_what_a_cluster_responds_to() -> None:
    inputs = known_groups.noise()
    concept = Concept(inputs, (inputs[:, 2] > 0.5).astype(np.int64), "third group")
    found = clustering.find_clusters(
        known_groups.driven(0.8), concept, counts=4, resamples=2, shuffles=19
    )
    third = next(o for o in found.clusters if "layer0.20" in o.units)
    assert third.meaning.responds[0].what == "third group"
    assert found.provenance.parameters["inputs"]["concept"]["name"] == "third group"


def test_progress_may_stop_it() -> None:
    class Stopped(Exception):
        pass

    def stop(fraction: float, note: str) -> None:
        if fraction > 0.3:
            raise Stopped(note)

    with pytest.raises(Stopped, match="clustering"):
        clustering.find_clusters(
            known_groups.driven(0.5), known_groups.noise(), progress=stop, **QUICK
        )
