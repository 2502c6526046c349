"""Model folders, networks, dictionaries and trainings that somebody else has made."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given

import workbench
from tests.fuzz import corpus, drawing, effort, watching
from workbench.core import runs
from workbench.core.models import card, dictionaries
from workbench.core.modular import bundle, network, recipe, run, tasks
from workbench.core.modular.curves import Curves
from workbench.core.networks import sources as networks

# What a folder might hope that somebody imports or runs.
CODE = "import pathlib\npathlib.Path(__file__).with_name('RAN').write_text('')\n"


@functools.cache
def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the workbench's own format, small and sound."""
    folder = tmp_path_factory.mktemp("native") / "model"
    small = recipe.recipe(d_model=8, n_heads=2, d_head=4, d_mlp=8)
    bundle.write_model(folder, network.initial_weights(small, 5, 0), small, 5)
    return folder


@pytest.fixture(scope="module")
def huggingface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder, small and sound."""
    folder = tmp_path_factory.mktemp("huggingface") / "model"
    sizes: dict[str, Any] = {
        "n_embd": 8,
        "n_head": 2,
        "n_layer": 1,
        "vocab_size": 8,
        "n_positions": 16,
    }
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    made.save_pretrained(folder)
    bundle.build_tokenizer(5).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of a few steps."""
    folder = tmp_path_factory.mktemp("trainings") / "training"
    task = tasks.Task(p=5, fraction=0.5)
    small = recipe.recipe(d_model=8, n_heads=2, d_head=4, d_mlp=8, steps=2)
    (folder / "checkpoints").mkdir(parents=True)
    asked = {"format": 1, "task": vars(task), "recipe": vars(small)}
    (folder / "run.json").write_text(json.dumps(asked))
    state = run.State.start(task, small)
    state.curves = Curves([1.0, 0.5], [1, 2], [1.0, 0.7], [0.1, 0.4], [3.0, 2.0])
    run.write_state(folder, state)
    run.write_checkpoint(folder, 2, state.weights)
    return folder


def with_file(sound: Path, tmp_path: Path, name: str, content: bytes) -> Path:
    """A copy of a sound folder in which one file is bad, and code lies about."""
    folder = tmp_path / "copy"
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(sound, folder)
    (folder / name).write_bytes(content)
    for code in ("canary.py", "__init__.py", "modeling.py", "configuration.py", "sitecustomize.py"):
        (folder / code).write_text(CODE)
    return folder


def read(folder: Path, opens: Callable[[Path], Any]) -> Any:
    with watching.watched(hostile=folder.parent):
        found = watching.refused(lambda: opens(folder))
    assert not (folder / "RAN").exists()
    return found


def forward(folder: Path) -> None:
    """Open a model and use it."""
    model = workbench.load_model(folder)
    with torch.inference_mode():
        assert model(torch.tensor([[0, 1]])).shape[:2] == (1, 2)


def use_training(folder: Path) -> None:
    found = run.open_run(folder)
    assert found.summary() and len(found.fingerprint) == 64
    found.to_frame()
    for step in found.steps:
        found.snapshot(step)


def use_network(folder: Path) -> None:
    networks.network_fingerprint(networks.load_network(folder))


NETWORK = networks.BUNDLED / "mnist1d-mlp"
DICTIONARY = card.BUNDLED / "grammar-4l" / "dictionaries" / "resid_post.2"
# What is opened, and how; where its weights and its description are.
FOLDERS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "native": (forward, "config.json", "model.safetensors"),
    "huggingface": (forward, "config.json", "model.safetensors"),
    "training": (use_training, "run.json", "live.safetensors"),
    "network": (use_network, "config.json", "model.safetensors"),
    "dictionary": (dictionaries.load_dictionary, "cfg.json", "sae_weights.safetensors"),
}


def sound_folder(kind: str, request: pytest.FixtureRequest) -> Path:
    if kind == "network":
        return NETWORK
    return DICTIONARY if kind == "dictionary" else request.getfixturevalue(kind)


@pytest.mark.parametrize("kind", FOLDERS)
def test_bad_weights_are_refused(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    opens, _, weights = FOLDERS[kind]
    sound = sound_folder(kind, request)
    assert opens(sound) is None or kind == "dictionary", "the folder is sound before"
    for name, content in {**corpus.ARRAYS, "a pickle": corpus.ANY_TEXT["a pickle"]}.items():
        with subtests.test(name):
            read(with_file(sound, tmp_path, weights, content), opens)


@pytest.mark.parametrize("kind", FOLDERS)
def test_bad_descriptions_are_refused(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    opens, description, _ = FOLDERS[kind]
    sound = sound_folder(kind, request)
    for name, content in {**corpus.ANY_TEXT, **corpus.ANY_JSON}.items():
        with subtests.test(name):
            assert read(with_file(sound, tmp_path, description, content), opens) is None
    document = json.loads((sound / description).read_text())
    for name, changes in corpus.CONFIGS.items():
        with subtests.test(name):
            inner = {**document["config"], **changes} if "config" in document else {}
            changed = {**document, **changes, **({"config": inner} if inner else {})}
            read(with_file(sound, tmp_path, description, drawing.json_bytes(changed)), opens)


@pytest.mark.parametrize("kind", ["native", "huggingface"])
def test_bad_tokenizers_are_refused(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    sound = sound_folder(kind, request)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        for name, content in {**corpus.ANY_TEXT, **corpus.ANY_JSON}.items():
            with subtests.test(name, file=file):
                read(with_file(sound, tmp_path, file, content), workbench.load_model)
    document = json.loads((sound / "tokenizer_config.json").read_text())
    for name, changes in corpus.TOKENIZERS.items():
        with subtests.test(name):
            content = drawing.json_bytes({**document, **changes})
            read(with_file(sound, tmp_path, "tokenizer_config.json", content), workbench.load_model)


def test_altered_descriptions_are_read_or_refused(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for kind, count in {"native": 12, "huggingface": 6, "training": 20, "network": 12}.items():
        opens, description, _ = FOLDERS[kind]
        sound = sound_folder(kind, request)

        @effort.inputs(count)
        @given(document=drawing.altered(json.loads((sound / description).read_text())))
        def check(document: Any) -> None:
            content = drawing.json_bytes(document)
            read(with_file(sound, tmp_path, description, content), opens)  # noqa: B023 - used here

        check()


def test_names_of_models_are_no_way_out(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for name in drawing.TEXTS:
        with subtests.test(ascii(name[:40])):
            for opens in (workbench.load_model, networks.load_network, networks.is_network):
                with watching.watched(hostile=tmp_path):
                    assert not watching.refused(functools.partial(opens, name))
    for name in ("\x1b[2J/x", "~nobody-of-this-name/x", "a" * 5_000):
        with watching.watched(tmp_path, runs.default_root()):
            done = watching.command("patch", name, "--task", "agreement", "-n", "2")
            assert done.exit_code == 2
