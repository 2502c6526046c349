"""A download from the hub that is cancelled: a real server, the real client, in a fresh process.

A process of its own, since the hub's client reads when it is imported where the hub is.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

REPO, COMMIT = "somebody/small", "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = os.urandom(4_000_000)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer.json": b"{}"}
CHUNK = 100_000


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does; the weights come slowly until `quick` is set."""

    protocol_version = "HTTP/1.1"
    quick = threading.Event()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        name = path.rsplit("/", 1)[-1]
        if "/resolve/" in path and name in FILES:
            self._send_file(FILES[name], body)
            return
        if "/tree/" in path:
            content: object = [
                {"type": "file", "path": file, "size": len(data), "oid": _mark(data)}
                for file, data in FILES.items()
            ]
        else:
            siblings = [{"rfilename": file} for file in FILES]
            content = {"id": REPO, "sha": COMMIT, "siblings": siblings}
        plain = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(plain)))
        self.end_headers()
        if body:
            self.wfile.write(plain)

    def _send_file(self, data: bytes, body: bool) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_mark(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        # Whoever cancels closes the connection.
        with contextlib.suppress(ConnectionError):
            while body and start < len(data):
                self.wfile.write(data[start : start + CHUNK])
                start += CHUNK
                if not self.quick.is_set():
                    time.sleep(0.05)


def is_large(path: Path) -> bool:
    return path.stat().st_size > CHUNK // 2


def _mark(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


PROGRAM = """
import hashlib, sys
from huggingface_hub import constants
# Smaller pieces than usual, so that a small file has several.
constants.DOWNLOAD_CHUNK_SIZE = 100_000
from workbench.core.models import sources
from workbench.ui import jobs

manager = jobs.Manager()
def fetch(report):
    return sources.find_source("somebody/small", progress=report).folder

job = manager.submit("download", fetch, label="Downloading")
while job.fraction < 0.2 and not job.done:
    job.wait(0.01)
job.cancel()
assert job.wait(20), "still downloading"
print(job.state, job.error, flush=True)
sys.stdin.readline()
job = manager.submit("download", fetch, label="Downloading")
assert job.wait(30), "still downloading"
print(job.state, job.error, flush=True)
content = (job.result / "model.safetensors").read_bytes()
print(hashlib.sha256(content).hexdigest(), flush=True)
"""


def test_a_cancelled_download_ends_at_once_and_the_next_one_is_whole(tmp_path: Path) -> None:
    Hub.quick.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None and process.stdout is not None
    first = process.stdout.readline()
    # Nothing that a second try would take for the whole file.
    whole = [path for path in tmp_path.rglob("*") if path.name == "model.safetensors"]
    begun = [path.name for path in tmp_path.rglob("*") if path.is_file() and is_large(path)]
    Hub.quick.set()
    rest, errors = process.communicate("\n", timeout=60)
    server.shutdown()
    server.server_close()
    assert first == "cancelled None\n", first + errors
    assert not whole
    assert all(name.endswith(".incomplete") for name in begun)
    assert rest.splitlines() == ["finished None", _mark(WEIGHTS)], rest + errors
