from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformer_lens.HookedRootModule import HookedRootModule

from workbench.core.networks import architectures, mnist1d, shapes, sources
from workbench.core.networks.training import fitting

NAMES = ["mnist1d-cnn", "mnist1d-mlp", "shapes-branch"]


def accuracy(network: HookedRootModule, inputs: np.ndarray, labels: np.ndarray) -> float:
    with torch.no_grad():
        answers = network(torch.from_numpy(inputs)).argmax(1).numpy()
    return float((answers == labels).mean())


def test_the_bundled_networks_are_listed() -> None:
    assert sources.list_networks() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_network_opens_with_its_card_and_hook_points(name: str) -> None:
    network, card = sources.load_network(name), sources.network_card(name)
    assert isinstance(network, HookedRootModule)
    assert not network.training
    assert sources.network_name(network) == card.name == name
    assert card.n_parameters == sum(weight.numel() for weight in network.parameters())
    assert list(network.hook_dict)[-1] == "hook_logits"


def test_the_cards_of_mnist1d_tell_the_held_out_accuracy() -> None:
    data = mnist1d.generate()
    mlp = accuracy(sources.load_network("mnist1d-mlp"), data.test, data.test_labels)
    cnn = accuracy(sources.load_network("mnist1d-cnn"), data.test[:, None], data.test_labels)
    assert mlp == pytest.approx(sources.network_card("mnist1d-mlp").test_accuracy, abs=0.002)
    assert cnn == pytest.approx(sources.network_card("mnist1d-cnn").test_accuracy, abs=0.002)
    assert mlp > 0.62
    assert cnn > 0.85


def test_the_shapes_network_names_images_that_it_has_not_seen() -> None:
    # A third seed: neither that of the training images nor that of the card's.
    fresh = shapes.render(600, seed=2)
    found = accuracy(sources.load_network("shapes-branch"), fresh.images, fresh.labels)
    assert found == pytest.approx(sources.network_card("shapes-branch").test_accuracy, abs=0.03)
    assert found > 0.9


def test_every_branch_has_a_hook_point_and_their_concatenation_too() -> None:
    network = sources.load_network("shapes-branch")
    names = [f"mixed0.branch{size}.hook_out" for size in (1, 3, 5)]
    _, cache = network.run_with_cache(torch.rand(2, 3, 32, 32))
    together = torch.cat([cache[name] for name in names], dim=1)
    assert together.shape == (2, 36, 16, 16)
    assert torch.equal(together, cache["mixed0.hook_out"])


def test_a_branch_looks_through_a_kernel_of_its_size() -> None:
    network = sources.load_network("shapes-branch")
    weights = network.state_dict()
    assert [tuple(weights[f"mixed0.branch{k}.conv.weight"].shape) for k in (1, 3, 5)] == [
        (12, 12, 1, 1),
        (12, 12, 3, 3),
        (12, 12, 5, 5),
    ]


def test_an_mlp_is_the_function_that_its_weights_say() -> None:
    torch.manual_seed(0)
    network = architectures.build(architectures.Mlp(d_input=3, widths=(5, 4), n_classes=2))
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_()
    w = network.state_dict()
    inputs = torch.randn(6, 3)
    first = functional.relu(inputs @ w["layer0.linear.weight"].T + w["layer0.linear.bias"])
    second = functional.relu(first @ w["layer1.linear.weight"].T + w["layer1.linear.bias"])
    expected = second @ w["logits.weight"].T + w["logits.bias"]
    with torch.no_grad():
        torch.testing.assert_close(network(inputs), expected)


def test_a_saved_network_opens_as_the_same_function(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = architectures.Cnn1d(length=11, channels=(3, 4), kernel=3, stride=2, n_classes=5)
    network = architectures.build(config)
    opened = sources.load_network(sources.save_network(network, tmp_path / "small"))
    assert opened.cfg == config
    assert sources.network_fingerprint(opened) == sources.network_fingerprint(network)
    assert sources.network_name(opened) == "small"
    inputs = torch.randn(2, 1, 11)
    assert torch.equal(opened(inputs), network(inputs))


def test_a_fingerprint_changes_with_one_weight_and_with_the_config() -> None:
    def made(*widths: int) -> HookedRootModule:
        torch.manual_seed(0)
        return architectures.build(architectures.Mlp(d_input=3, widths=widths, n_classes=2))

    first, second = made(4), made(4)
    assert sources.network_fingerprint(first) == sources.network_fingerprint(second)
    with torch.no_grad():
        second.get_parameter("logits.bias")[1] += 1e-6
    prints = {sources.network_fingerprint(one) for one in (first, second, made(5), made(4, 4))}
    assert len(prints) == 4
    assert all(len(one) == 64 for one in prints)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    for ask in (sources.load_network, sources.network_card):
        with pytest.raises(sources.NetworkError, match=f"'resnet'.*{', '.join(NAMES)}"):
            ask("resnet")
    with pytest.raises(ValueError, match="no bundled network is called ''"):
        sources.load_network("")


def damaged(folder: Path, **changes: object) -> Path:
    """A copy of a bundled network whose config is changed."""
    shutil.copytree(sources.BUNDLED / "mnist1d-mlp", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "of format 'other', expected 'workbench-network'"),
        ({"architecture": "gru"}, "does not describe a network: 'gru'"),
        ({"config": {"d_input": 40}}, "does not describe a network"),
        ({"config": {"d_input": 40, "widths": [0], "n_classes": 10}}, "a size below 1"),
        ({"config": {"d_input": 40, "widths": [7], "n_classes": 10}}, "does not hold the weights"),
        ({"config": {"d_input": 2**63, "widths": [9], "n_classes": 9}}, "not hold the weights"),
    ],
)
def test_damaged_configs_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(sources.NetworkError, match=message):
        sources.load_network(damaged(tmp_path / "network", **changes))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = damaged(tmp_path / "network")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(sources.NetworkError, match="does not hold the weights"):
        sources.load_network(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(sources.NetworkError, match="does not hold the weights"):
        sources.load_network(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(sources.NetworkError, match="does not describe a network"):
        sources.load_network(folder)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = architectures.build(architectures.Mlp(d_input=3, widths=(4,), n_classes=2))
    with torch.no_grad():
        network.get_parameter("logits.bias").fill_(torch.nan)
    with pytest.raises(sources.NetworkError, match="not finite numbers"):
        sources.load_network(sources.save_network(network, tmp_path / "network"))


def test_networks_of_others_cannot_be_saved(tmp_path: Path) -> None:
    class Foreign(HookedRootModule):
        pass

    with pytest.raises(sources.NetworkError, match="found a Foreign"):
        sources.save_network(Foreign(), tmp_path / "network")
    assert sources.network_name(Foreign()) == "Foreign"
    assert len(sources.network_fingerprint(Foreign())) == 64


def test_training_learns_and_equal_seeds_give_equal_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BUNDLED", tmp_path)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode: None)
    data = mnist1d.generate(500, seed=0)
    train = fitting.Split(data.train, data.train_labels)
    test = fitting.Split(data.test, data.test_labels)
    config = architectures.Mlp(d_input=40, widths=(16,), n_classes=10)
    prints: list[str] = []
    for name in ("first", "second"):
        card = fitting.fit(
            config,
            train,
            test,
            fitting.Recipe(epochs=10, batch=50, rate=1e-2, decay=0.0, seed=3),
            name=name,
            title="",
            summary="",
            script="",
            data="",
            classes=mnist1d.CLASSES,
        )
        assert card.steps == 80
        assert card.train_accuracy > 0.3
        assert sources.network_card(name) == card
        prints.append(sources.network_fingerprint(sources.load_network(name)))
    assert prints[0] == prints[1]


def test_other_trainings_of_a_network_are_beside_it() -> None:
    folders = sources.retrained("shapes-branch")
    assert [folder.name for folder in folders] == ["1", "2", "3", "4"]
    assert sources.retrained("mnist1d-mlp") == []
    own = sources.load_network("shapes-branch")
    marks = {sources.network_fingerprint(own)}
    rendered = shapes.render(300, seed=1)
    for folder in folders:
        other = sources.load_network(folder)
        marks.add(sources.network_fingerprint(other))
        assert sources.network_name(other) == f"shapes-branch, training {folder.name}"
        with torch.no_grad():
            found = other(torch.from_numpy(rendered.images)).argmax(1).numpy()
        assert (found == rendered.labels).mean() > 0.88
    assert len(marks) == 5


def test_a_folder_says_whether_it_holds_a_network(tmp_path: Path) -> None:
    assert sources.is_network(sources.BUNDLED / "mnist1d-mlp")
    assert not sources.is_network(tmp_path)
    (tmp_path / "config.json").write_text("[1, 2]")
    assert not sources.is_network(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert not sources.is_network(tmp_path)
