"""Showing a model of a script: what is refused, and a server that comes and goes with it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.serving import free_port
from workbench.core.planted import two_steps, unplanted
from workbench.core.prompts.pairs import ContrastPairs
from workbench.ui import serving, shown

PATIENCE = 120.0
SCRIPT = """
import sys
from workbench import show
from workbench.core.planted import unplanted
shown = show(unplanted.randomised(), port={port}, open_browser=False)
print("after Ctrl+C", flush=True)
first = show(unplanted.randomised(), port={port}, open_browser=False, block=False, page="weights")
second = show(unplanted.randomised(seed=1), port={port}, open_browser=False, block=False)
print(first.url.partition("?")[0], second.name, flush=True)
try:
    show(unplanted.randomised(), port={port} + 1, open_browser=False)
except ValueError as error:
    print(error, flush=True)
first.stop()
second.stop()
print("stopped", flush=True)
"""


@pytest.fixture(scope="module")
def model() -> Any:
    return unplanted.randomised()


def pairs_for(model: Any) -> ContrastPairs:
    return ContrastPairs.from_text(model, ["ape bee"], ["cat bee"], ["dog"], ["elk"])


def refused(*arguments: Any, **more: Any) -> str:
    """What showing says, checked to be one line, and to show nothing."""
    with pytest.raises(ValueError) as caught:
        serving.show(*arguments, **{"open_browser": False, "port": free_port()} | more)
    text = str(caught.value)
    assert "\n" not in text and shown.current() is None
    return text


class TestBadInput:
    @pytest.mark.parametrize("what", ["grammar-4l", None, os])
    def test_what_is_no_bridge(self, what: Any) -> None:
        assert "expected a TransformerBridge to show" in refused(what)

    def test_what_are_no_pairs(self, model: Any) -> None:
        assert "expected ContrastPairs to show, found a list" in refused(model, ["ape bee"])

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"clean_tokens": ((6, 0, 900),)}, "it has token 900, and this model knows 7"),
            ({"answers": ((4,),)}, "token 4 was 'dog' to it, and is 'elk' to this model"),
            (
                {"clean_tokens": ((0,) * 13,), "clean_strings": (("ape",) * 13,)},
                "it has 13 tokens, and this model reads 12",
            ),
        ],
    )
    def test_pairs_of_another_model(self, change: dict[str, Any], words: str, model: Any) -> None:
        others = dataclasses.replace(pairs_for(model), **change)
        assert words in refused(model, others)

    def test_pairs_without_a_tokenizer(self, model: Any) -> None:
        bare = two_steps.two_layer()
        bare.tokenizer = None
        assert "the model has no tokenizer" in refused(bare, pairs_for(model))

    def test_a_page_that_is_not_there(self, model: Any) -> None:
        text = refused(model, page="../secrets")
        assert "there is no page '../secrets'; the pages are activations, attention" in text

    @pytest.mark.parametrize("port", [0, -1, 65_536])
    def test_a_port_that_cannot_be(self, port: int, model: Any) -> None:
        assert "expected 1 to 65535" in refused(model, port=port)

    def test_a_port_that_is_taken(self, model: Any) -> None:
        with contextlib.closing(socket.socket()) as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = int(other.getsockname()[1])
            assert f"port {port} is not to be had" in refused(model, port=port)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5) as got:
            return bool(got.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_a_script_waits_until_it_is_interrupted_and_may_show_again(tmp_path: Path) -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(port=port)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            where = next((line for line in process.stdout if " is at " in line), "it did not start")
            served = answers(port)
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0, error
    assert f"is at http://127.0.0.1:{port}/model?model=shown%3A+" in where
    assert served
    assert [line for line in out.splitlines() if line.strip() not in ("", "Stopping...")] == [
        "after Ctrl+C",
        f"http://127.0.0.1:{port}/weights shown: native",
        f"something is shown on port {port} already: stop it first, or show this one there, "
        "instead of it",
        "stopped",
    ]
    assert not answers(port)
