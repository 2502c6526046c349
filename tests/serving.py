"""The app, served with a run store of its own, and what its process takes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_START, _END = 120.0, 10.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """The app in a process of its own."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it answers.

        Args:
            folder: Gets the run store and the log.
            settings: More environment variables.

        Raises:
            RuntimeError: If it does not come up.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.runs, self._log = folder / "runs", folder / "server.log"
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        environment = os.environ | {"WORKBENCH_RUNS": str(self.runs), "HF_HUB_OFFLINE": "1"}
        # What tests set for themselves: a person's app shows no traceback.
        environment.pop("STREAMLIT_CLIENT_SHOW_ERROR_DETAILS", None)
        app = [sys.executable, "-m", "streamlit", "run", str(ROOT / "workbench" / "app.py")]
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [*app, "--server.port", str(port), "--server.headless", "true"],
                cwd=folder,
                env=environment | dict(settings or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Whatever it starts is in its group, and ends with it.
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.address}/_stcore/health", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"the server did not come up: {self.log()[-2000:]}")

    def log(self) -> str:
        """What it has written."""
        return self._log.read_text(errors="replace")

    def memory(self) -> int:
        """Bytes that its process holds in memory."""
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * _PAGE

    def children(self) -> list[int]:
        """Ids of the processes that it has started."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        with contextlib.suppress(OSError):
            found = [(task / "children").read_text().split() for task in tasks.iterdir()]
            return [int(child) for children in found for child in children]
        return []

    def stop(self) -> None:
        """Ask it to end, and end it where it does not."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_END)
        self.kill()

    def kill(self) -> None:
        """End it, and what it has started, without warning."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def served(folder: Path, settings: Mapping[str, str] | None = None) -> Generator[Server]:
    """The app for as long as the context lasts.

    Args:
        folder: Gets the run store and the log.
        settings: More environment variables.

    Yields:
        The server.
    """
    server = Server(folder, settings)
    try:
        yield server
    finally:
        server.stop()
