"""Opening the app from a script or a notebook, on a model that the script has in memory.

1. The model and its pairs are put where pages find them (`shown`); nothing is copied.
2. Streamlit serves the app from a thread of this process with an event loop of its own, with the
   settings of `workbench/.streamlit`, so on 127.0.0.1 only.
3. `block=True` waits in the calling thread until Ctrl+C; `block=False` comes back at once, with the
   address and a way to stop.

Limits: a process serves one app at a time, with one model of a script in it: showing another one
replaces it on the same port. The pages run hooks on the very object, one at a time with whatever
`analyses` do in the script; a forward of the script's own takes no turn, so leave the model alone
while a page computes. PyTorch does not count what is written through `weight.data`: show the model
again after that, so that stored results of the former weights are not taken for its own. As under
Streamlit's own command, `__main__` is a page while one runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import sys
import threading
import urllib.parse
import webbrowser
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import streamlit.config
from streamlit import cli_util
from streamlit.runtime import Runtime
from streamlit.web import bootstrap
from streamlit.web.server import Server

from workbench.core.prompts import tokenization
from workbench.core.prompts.pairs import ContrastPairs
from workbench.ui import shown

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_APP = Path(__file__).resolve().parents[1] / "app.py"
_PAGES = _APP.parents[1] / "pages"
_HOST = "127.0.0.1"
_PATIENCE = 30.0
_MOST_PORTS = 65_535


@dataclasses.dataclass(frozen=True)
class Shown:
    """An app that was opened on a model.

    Attributes:
        url: Where it is.
        name: What the model is called there.
    """

    url: str
    name: str

    def stop(self) -> None:
        """End the server, whatever it shows by now, and free its port; a second time is fine."""
        _stop()


class _Running:
    """The app in a thread of this process."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._main = sys.modules["__main__"]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server | None = None
        self._ready = threading.Event()
        # Not the thread's own end: a Ctrl+C while Python 3.11 joins a thread marks it as ended.
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="workbench", daemon=True)

    def start(self) -> None:
        """Come back once it answers.

        Raises:
            RuntimeError: If it does not come up.
        """
        # Where Streamlit looks for the app's settings: its own command sets it, too, and there is
        # no other way.
        streamlit.config._main_script_path = str(_APP)  # pyright: ignore[reportPrivateUsage]
        bootstrap.load_config_options({"server_port": self.port, "server_headless": True})
        self._thread.start()
        if not self._ready.wait(_PATIENCE) or self._failure is not None:
            raise RuntimeError("the app did not come up") from self._failure

    def wait(self) -> None:
        """Wait for its end."""
        self._ended.wait()

    def stop(self) -> None:
        """End it, and let this process be as it was before."""
        if self._loop is not None and self._server is not None and not self._ended.is_set():
            self._loop.call_soon_threadsafe(self._server.stop)
            self._ended.wait(_PATIENCE)
        _forget_runtime()
        # Streamlit puts a page there each time that one runs.
        sys.modules["__main__"] = self._main

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # reported by the thread that waits for the start
            self._failure = error
        finally:
            self._ended.set()
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = Server(str(_APP), is_hello=False)
        await self._server.start()
        bootstrap.prepare_streamlit_environment(str(_APP))
        self._ready.set()
        await self._server.stopped


_lock = threading.RLock()
_running: list[_Running] = []


def show(
    model: TransformerBridge,
    pairs: ContrastPairs | None = None,
    *,
    port: int = 8501,
    page: str | None = None,
    open_browser: bool = True,
    block: bool = True,
) -> Shown:
    """Open the app on a model of this script, whatever it is: edited, folded, in no folder.

    A script that asks its own model::

        import torch
        from workbench import ContrastPairs, load_model, show

        model = load_model("grammar-4l")  # or a bridge of your own
        with torch.no_grad():
            model.blocks[1].attn.o.weight.mul_(0.5)
        pairs = ContrastPairs.from_task(model, "indirect-object", n=32)
        show(model, pairs)  # until Ctrl+C; with block=False, until .stop()

    The model is picked on every page by default, its name stands in the address, and results are
    kept under its fingerprint. Links to it work as long as it is shown. If something is shown
    already, this is shown instead of it, on the same port.

    Args:
        model: Any bridge; it is neither copied nor changed.
        pairs: Of this model; offered and chosen wherever a page asks for pairs.
        port: Of this machine, which alone can reach it.
        page: Which page to open, by the name of its file; "patching" with pairs, else "model".
        open_browser: Whether to open a browser there.
        block: Wait until Ctrl+C, and stop then.

    Returns:
        The address, and a way to stop; after Ctrl+C, of what has been stopped.

    Raises:
        ValueError: If it is no bridge, the pairs are another model's, there is no such page, the
            port is taken, or something is shown on another port.
    """
    _require_bridge(model)
    if pairs is not None:
        _require_own_pairs(model, pairs)
    opened = page or ("model" if pairs is None else "patching")
    _require_page(opened)
    with _lock:
        _require_port(port)
        exhibit = shown.put(model, pairs)
        if not _running:
            running = _Running(port)
            try:
                running.start()
            except BaseException:
                running.stop()
                shown.remove()
                raise
            _running.append(running)
        running = _running[0]
    query = urllib.parse.urlencode({"model": exhibit.name})
    handle = Shown(f"http://{_HOST}:{port}/{opened}?{query}", exhibit.name)
    if open_browser:
        webbrowser.open(handle.url)
    if block:
        with contextlib.suppress(KeyboardInterrupt):
            cli_util.print_to_cli(f"  {exhibit.name} is at {handle.url} (Ctrl+C ends it)")
            running.wait()
        handle.stop()
    return handle


def _stop() -> None:
    with _lock:
        if _running:
            _running.pop().stop()
            shown.remove()


def _forget_runtime() -> None:
    # A stopped runtime would be found again, and refuse another one; there is no other way.
    Runtime._instance = None  # pyright: ignore[reportPrivateUsage]


def _require_bridge(model: Any) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    if not isinstance(model, TransformerBridge):
        found = (
            f"the module {model.__name__}"
            if isinstance(model, ModuleType)
            else f"a {type(model).__name__}"
        )
        raise ValueError(
            f"expected a TransformerBridge to show, found {found}: open it with load_model(...), "
            "or make one with TransformerBridge.boot_transformers or boot_native"
        )


def _require_own_pairs(model: TransformerBridge, pairs: Any) -> None:
    """Check that every token means the same to the model as when the pairs were made."""
    if not isinstance(pairs, ContrastPairs):
        raise ValueError(f"expected ContrastPairs to show, found a {type(pairs).__name__}")
    made_again = "make them with this model, as ContrastPairs.from_text(model, ...)"
    if model.tokenizer is None:
        raise ValueError(
            f"the model has no tokenizer, and the pairs were made with one: {made_again}"
        )
    sides = (
        (pairs.clean_tokens, pairs.clean_strings),
        (pairs.corrupted_tokens, pairs.corrupted_strings),
        (pairs.answers, pairs.answer_strings),
        (pairs.wrong_answers, pairs.wrong_strings),
    )
    for tokens, strings in sides:
        for i, (ids, texts) in enumerate(zip(tokens, strings, strict=True)):
            if ids and max(ids) >= int(model.cfg.d_vocab):
                raise ValueError(
                    f"pair {i + 1} is another model's: it has token {max(ids)}, and this model "
                    f"knows {model.cfg.d_vocab}; {made_again}"
                )
            if len(ids) > int(model.cfg.n_ctx):
                raise ValueError(
                    f"pair {i + 1} is another model's: it has {len(ids)} tokens, and this model "
                    f"reads {model.cfg.n_ctx}; {made_again}"
                )
            here = tokenization.strings(model, ids)
            for token, was, means in zip(ids, texts, here, strict=True):
                if was != means:
                    raise ValueError(
                        f"pair {i + 1} is another model's: token {token} was {was!r} to it, and "
                        f"is {means!r} to this model; {made_again}"
                    )


def _require_page(page: str) -> None:
    pages = sorted(path.stem for path in _PAGES.glob("*.py"))
    if page not in pages:
        raise ValueError(f"there is no page {page!r}; the pages are {', '.join(pages)}")


def _require_port(port: int) -> None:
    if not 0 < port <= _MOST_PORTS:
        raise ValueError(f"port = {port}; expected 1 to {_MOST_PORTS}")
    if _running:
        if _running[0].port != port:
            raise ValueError(
                f"something is shown on port {_running[0].port} already: stop it first, or show "
                "this one there, instead of it"
            )
        return
    if Runtime.exists():
        raise ValueError(
            "this process is a Streamlit server already: call show from a script of its own"
        )
    with contextlib.closing(socket.socket()) as probe:
        # As the server will: what has just been stopped there is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise ValueError(
                f"port {port} is not to be had ({error.strerror}): end what uses it, or give "
                "another one, as show(..., port=8502)"
            ) from error
