"""The `workbench clusters` commands: what the library finds, and one sentence for bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer import testing

from analyses import neuron_clusters as clusters
from tests import computing
from workbench import __main__
from workbench.core.networks import sources
from workbench.core.prompts import named_concepts

NETWORK = "mnist1d-mlp"


def invoke(*arguments: str) -> testing.Result:
    return testing.CliRunner().invoke(__main__.app, ["clusters", *arguments])


def said_by(done: testing.Result) -> str:
    return " ".join(done.stdout.split())


def test_a_concept_is_located_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "found"
    done = invoke(
        "locate", NETWORK, "--concept", "digit 1", "--no-controls", "--verify", "-o", str(folder)
    )
    assert done.exit_code == 0, done.output
    network = sources.load_network(NETWORK)
    concept = named_concepts.named_concept(network, "digit 1")
    expected = clusters.selectivity(network, concept)
    assert expected.summary() in said_by(done)
    kept = clusters.Localization.load(folder)
    assert kept.summary() in said_by(done)
    assert kept.controls == ()
    assert set(kept.hits) <= set(expected.names)
    verified = clusters.Verification.load(folder / "verified")
    assert set(verified.units) == set(kept.hits)
    assert verified.summary() in said_by(done)
    assert (folder / "selectivity" / "units.csv").is_file()


def test_many_concepts_are_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = invoke("sweep", NETWORK, "--concepts", "digit 0,digit 1", "-o", str(folder))
    assert done.exit_code == 0, done.output
    assert clusters.ConceptSweep.load(folder).concepts == ("digit 0", "digit 1")
    assert "Of 2 concepts in mnist1d-mlp" in said_by(done)


def test_groups_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "groups"
    done = invoke("find", NETWORK, "--by", "weights", "-k", "3", "-o", str(folder))
    assert done.exit_code == 0, done.output
    found = clusters.Clusters.load(folder)
    assert found.summary() in said_by(done)
    assert (folder / "units.csv").is_file()


def test_equal_groups_are_answered_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = computing.counted(monkeypatch, clusters.find_clusters, clusters)
    command = ("find", NETWORK, "--by", "weights", "-k", "3")
    first, second = invoke(*command), invoke(*command)
    assert said_by(first) == said_by(second)
    assert len(calls) == 1
    assert "--again computes anew" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("locate", NETWORK), "give one of --concept"),
        (("locate", NETWORK, "--concept", "digit 11"), "it has digit 0, digit 1"),
        (("locate", NETWORK, "--tokens", "a"), "a network reads no text"),
        (("locate", NETWORK, "--concept", "digit 1", "--units", "head"), "for language models"),
        (("locate", NETWORK, "--concept", "digit 1", "--places", "shelf"), "shelf"),
        (("locate", NETWORK, "--concept", "digit 1", "--permutations", "5"), "5 permutations"),
        (("locate", "no-such-model", "--concept", "gender"), "no-such-model"),
        (("locate", "grammar-4l", "--tokens", "zzz"), "zzz"),
        (("locate", "grammar-4l", "--pattern", "("), "("),
        (("locate", "grammar-4l", "--file", "missing.csv"), "missing.csv"),
        (("sweep", NETWORK, "--concepts", "digit 0,,digit 1"), "single commas"),
        (("find", NETWORK, "--by", "magic"), "magic"),
        (("find", "grammar-4l", "--by", "function"), "waves over residues"),
        (("grow", "grammar-4l", "--concept", "gender", "--place", "x"), "is a language model"),
        (("grow", NETWORK, "--concept", "digit 1", "--place", "attic"), "attic"),
    ],
)
def test_bad_input_ends_with_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert message in " ".join(done.stderr.split())
