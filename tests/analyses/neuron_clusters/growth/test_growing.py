from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.neuron_clusters import growth
from analyses.neuron_clusters.growth import finetuning, widening
from workbench.core.networks import architectures, examples, sources
from workbench.core.networks.training.fitting import Split
from workbench.core.planted import known_clusters
from workbench.core.prompts.concepts import Concept

# The class is the largest of six numbers: two neurons cannot tell, six can.
D = 6
SEEDS = range(6)


def drawn(n: int, seed: int) -> Split:
    inputs = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return Split(inputs, inputs.argmax(1).astype(np.int64))


def trained(widths: tuple[int, ...], data: Split, steps: int) -> Any:
    torch.manual_seed(0)
    network = architectures.build(architectures.Mlp(D, widths, D))
    return finetuning.fine_tuned(network, data, finetuning.Recipe(steps, 50, 0.02, 0.0))


def halves(split: Split) -> Concept:
    return Concept(split.inputs, (split.labels < 3).astype(np.int64), "first half")


TRAIN, TEST = drawn(2000, 0), drawn(500, 1)


def experiment(network: Any, place: str, **options: Any) -> growth.Growth:
    given: dict[str, Any] = {"data": TRAIN, "classes": TEST.labels, "batch": 32}
    given |= {"steps": 40, "rate": 0.03, "decay": 0.0, "seeds": SEEDS}
    return growth.grow(network, halves(TEST), place, **(given | options))


@pytest.fixture(scope="module")
def bottleneck() -> Any:
    """Two neurons first, and many behind them."""
    return trained((2, 32), TRAIN, 300)


@pytest.fixture(scope="module")
def there(bottleneck: Any) -> growth.Growth:
    return experiment(bottleneck, "layer0")


def test_at_the_bottleneck_it_says_add_here(there: growth.Growth, bottleneck: Any) -> None:
    assert there.verdict == "add here"
    # All 6 seeds agree, which happens by chance in 2 of 2^6 cases.
    assert there.primary.p_value == pytest.approx(1 / 32)
    assert there.primary.mean > 0.3
    assert there.primary.interval[0] > 0
    assert there.rank == 1
    # Many neurons behind two can only know what the two know.
    beside = there.against(growth.NOWHERE).mean - there.primary.mean
    assert abs(beside) < 0.1
    assert there.rest.mean > 0.3
    assert there.of("error").mean(0)[0] < there.of("error").mean(0)[1] - 0.1
    assert there.preserved < 1e-4
    place, elsewhere, spread, nowhere = there.variants
    # 6 · (6 + 1 + 32) and 26 · (2 + 1 + 6).
    assert (place.parameters, elsewhere.parameters, nowhere.parameters) == (234, 234, 0)
    assert elsewhere.added[0].channels == 26
    assert place.multiply_adds == 6 * (6 + 32)
    assert abs(spread.parameters - 234) < 39


def test_the_contrasts_are_made_of_the_values(there: growth.Growth) -> None:
    loss, rest = there.of("log_loss"), there.of("rest_log_loss")
    assert np.array_equal(there.primary.differences, loss[:, 1] - loss[:, 0])
    assert np.array_equal(there.rest.differences, rest[:, 1] - rest[:, 0])
    nowhere = there.against(growth.NOWHERE).differences
    assert np.array_equal(nowhere, loss[:, 3] - loss[:, 0])
    frame = there.to_frame()
    mean: Any = frame.groupby("variant")["log_loss"].mean()
    assert mean["layer0"] == pytest.approx(loss[:, 0].mean())
    assert mean["nowhere"] == pytest.approx(loss[:, 3].mean())
    assert len(frame) == 4 * 6
    with pytest.raises(ValueError, match="not compared with 'layer7' by 'log_loss'"):
        there.against("layer7")


def test_values_are_those_of_widening_and_fine_tuning(
    there: growth.Growth, bottleneck: Any
) -> None:
    recipe = finetuning.Recipe(40, 32, 0.03, 0.0)
    grown = widening.widened(bottleneck, {"layer0": 6}, seed=4)
    tuned = finetuning.fine_tuned(grown, TRAIN, recipe, seed=4)
    with torch.no_grad():
        logs = torch.log_softmax(tuned(torch.tensor(TEST.inputs)).double(), 1).numpy()
    own = -logs[np.arange(500), TEST.labels]
    assert there.of("log_loss")[4, 0] == pytest.approx(own[TEST.labels < 3].mean(), rel=1e-6)


def test_behind_the_bottleneck_it_says_elsewhere(bottleneck: Any) -> None:
    found = experiment(bottleneck, "layer1", n=26, elsewhere=["layer0"])
    assert found.verdict == "elsewhere is better"
    assert found.primary.mean < -0.3
    assert found.rank == 2
    assert found.variants[1].added[0].channels == 6
    assert "Elsewhere is better: 26 more channels at layer1" in found.summary()
    assert found.against(growth.NOWHERE).p_value > 0.05
    assert "Adding at layer1 was not shown to be better than adding nothing" in found.summary()


def test_a_network_that_knows_it_all_gains_nowhere() -> None:
    far = Split((6 * np.eye(D)[TRAIN.labels] + TRAIN.inputs / 10).astype(np.float32), TRAIN.labels)
    test = Split((6 * np.eye(D)[TEST.labels] + TEST.inputs / 10).astype(np.float32), TEST.labels)
    network = trained((12, 12), far, 100)
    found = growth.grow(
        network,
        halves(test),
        "layer0",
        data=far,
        classes=test.labels,
        metric="error",
        steps=10,
        seeds=SEEDS,
    )
    assert found.verdict == "it makes no difference"
    assert found.before[found.measures.index("error")] == 0
    assert not found.of("error").any()
    assert (found.primary.mean, found.primary.p_value) == (0, 1)


def test_too_few_seeds_are_told_and_decide_nothing(bottleneck: Any) -> None:
    found = experiment(bottleneck, "layer0", seeds=[3, 1], steps=5)
    assert found.verdict == "it makes no difference"
    assert "at least 6 seeds are needed" in found.summary()
    again = experiment(bottleneck, "layer0", seeds=[3, 1], steps=5)
    assert np.array_equal(found.values, again.values)
    assert not np.array_equal(found.values[0], found.values[1])


def test_it_saves_draws_and_tells(there: growth.Growth, tmp_path: Path) -> None:
    loaded = growth.Growth.load(there.save(tmp_path / "growth"))
    assert np.array_equal(loaded.values, there.values)
    assert loaded.variants == there.variants
    assert loaded.verdict == "add here"
    assert loaded.summary() == there.summary()
    assert loaded.primary.p_value == there.primary.p_value
    loss = there.of("log_loss")
    traces: Any = there.figure().data
    # Three ways to grow, each with its seeds and its mean, for the concept and for the rest.
    assert len(traces) == 12
    assert np.allclose(traces[0].x, loss[:, 0] - loss[:, 3])
    assert traces[1].x[0] == pytest.approx((loss[:, 0] - loss[:, 3]).mean())
    told = there.summary()
    for part in ("Add here: 6 more channels at layer0", "p = 0.031", "245 held-out", "No harm"):
        assert part.replace("245", str(int((TEST.labels < 3).sum()))) in told
    assert "adding nothing" not in told
    assert there.provenance.parameters["seeds"] == list(SEEDS)
    assert there.provenance.analysis == "neuron_clusters.grow"


def test_a_bundled_network_brings_its_examples() -> None:
    network: Any = sources.load_network("mnist1d-mlp")
    inputs, labels = examples.held_out("mnist1d-mlp")
    chosen = np.arange(0, 1000, 7)
    concept = Concept(inputs[chosen], (labels[chosen] == 3).astype(np.int64), "three")
    found = growth.grow(network, concept, "layer1", n=2, steps=1, rate=1e-9, seeds=[0])
    assert found.n_train == 4000
    assert (found.n_with, found.n_without) == (
        int((labels[chosen] == 3).sum()),
        int((labels[chosen] != 3).sum()),
    )
    with torch.no_grad():
        logs = torch.log_softmax(network(torch.tensor(inputs[chosen])).double(), 1).numpy()
    own = -logs[np.arange(len(chosen)), labels[chosen]]
    assert found.before[0] == pytest.approx(own[labels[chosen] == 3].mean(), rel=1e-6)
    # A step of nearly no length leaves every variant where it was.
    assert np.allclose(found.values, found.before, atol=1e-4)


def test_progress_rises_and_may_stop(bottleneck: Any) -> None:
    class StoppedError(Exception):
        pass

    seen: list[tuple[float, str]] = []

    def watch(share: float, text: str) -> None:
        seen.append((share, text))
        if len(seen) == 5:
            raise StoppedError

    before = {name: value.clone() for name, value in bottleneck.state_dict().items()}
    with pytest.raises(StoppedError):
        experiment(bottleneck, "layer0", progress=watch)
    assert [share for share, _ in seen] == sorted(share for share, _ in seen)
    assert seen[1][1] == "seed 0, layer0: step 0 of 40"
    after = bottleneck.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"place": "layer9"}, "no place 'layer9' to widen; choose of layer0, layer1"),
    ({"elsewhere": ["layer0"]}, "none of them 'layer0'"),
    ({"elsewhere": []}, "at least one place"),
    ({"n": 0}, "n = 0; expected at least 1"),
    ({"steps": 0}, "steps = 0; expected at least 1"),
    ({"rate": 0}, "rate = 0.0"),
    ({"rate": float("nan")}, "rate = nan"),
    ({"seeds": []}, "at least one, each different"),
    ({"seeds": [1, 1]}, "at least one, each different"),
    ({"metric": "charm"}, "metric = 'charm'; expected one of log_loss"),
    ({"confidence": 95.0}, "confidence = 95.0; expected a level between 0 and 1"),
    ({"classes": TEST.labels[:9]}, r"inputs are 500 with classes of shape \(9,\)"),
    ({"classes": TEST.labels + 1}, "from 1 to 6: the network has classes 0 to 5"),
    ({"classes": None}, "the right classes of 500 of the 500 inputs of 'first half'"),
    ({"data": None}, "none of the networks that come along"),
    ({"data": TEST}, "500 of the 500 inputs of 'first half' are training examples"),
    ({"data": Split(TRAIN.inputs[:, :4], TRAIN.labels)}, r"of shape \(4,\); expected finite"),
    ({"classes": TEST.labels % 3, "metric": "concept_auc"}, "class 0 has examples of both"),
    ({"rate": 1e30, "seeds": [0]}, "not finite numbers"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_arguments_get_a_sentence(
    bottleneck: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        given: dict[str, Any] = {"place": "layer0", "steps": 2}
        experiment(bottleneck, **(given | options))


def test_concepts_and_networks_that_do_not_fit_are_told(bottleneck: Any) -> None:
    texts = Concept(("a", "b", "c", "d"), [1, 1, 0, 0], "letters")
    with pytest.raises(ValueError, match=r"'letters' holds texts: this network reads .* \(6,\)"):
        growth.grow(bottleneck, texts, "layer0")
    graded = Concept(TEST.inputs, TEST.inputs[:, :2].astype(np.float64), "numbers")
    with pytest.raises(ValueError, match="'numbers' has targets"):
        growth.grow(bottleneck, graded, "layer0")
    planted = known_clusters.planted({"layer1.branch2": 10})
    with pytest.raises(ValueError, match="cannot be widened"):
        growth.grow(planted, known_clusters.concept(20), "layer1.branch2")
    with pytest.raises(ValueError, match="fewer than half of what one channel takes"):
        experiment(trained((1, 90), TRAIN, 1), "layer1", n=1)


def test_a_place_that_cannot_be_matched_is_left_out_and_named() -> None:
    random = np.random.default_rng(0)
    images = random.random((40, 3, 16, 16)).astype(np.float32)
    data = Split(images[:20], np.arange(20) % 2)
    torch.manual_seed(0)
    network = architectures.build(architectures.BranchCnn(16, 4, (3, 2), 2))
    labels = np.arange(20) % 2
    found = growth.grow(
        network,
        Concept(images[20:], labels, "nothing"),
        "mixed1.branch1",
        n=9,
        data=data,
        classes=labels,
        steps=1,
        seeds=[0],
    )
    # 9 · (9 + 1 + 2) = 108 parameters; a channel of the stem is read by three branches.
    target = 108
    costs = {"stem": 27 + 1 + 3 * (1 + 9 + 25), "mixed1.branch5": 9 * 25 + 1 + 2}
    assert costs == {"stem": 133, "mixed1.branch5": 228}
    assert found.left_out == ("mixed1.branch5",)
    for variant in found.variants:
        if variant.kind == "elsewhere":
            count = variant.added[0].channels
            assert abs(variant.parameters - target) <= variant.parameters / count / 2
    assert "Left out: mixed1.branch5." in found.summary()
