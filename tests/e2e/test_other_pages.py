"""What a page of somebody else, open in the same browser, can get from the server: no data."""

from __future__ import annotations

import base64
import http.client
from urllib.parse import urlsplit

import pytest

ELSEWHERE = "elsewhere.example"


def answer(server: str, path: str, headers: dict[str, str]) -> int:
    """Status of what the server says to a request that names its host as it likes."""
    place = urlsplit(server)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def stream(server: str, *, host: str, origin: str) -> int:
    """Status of what it says to a client that wants to talk, as every page does."""
    upgrade = {
        "Host": host,
        "Origin": origin,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
    }
    return answer(server, "/_stcore/stream", upgrade)


def test_its_own_page_may_talk_to_it(server: str) -> None:
    assert stream(server, host=urlsplit(server).netloc, origin=server) == 101


@pytest.mark.parametrize("with_port", [False, True], ids=["name", "name and port"])
def test_no_page_of_another_host_may(server: str, with_port: bool) -> None:
    other = f"{ELSEWHERE}:{urlsplit(server).port}" if with_port else ELSEWHERE
    assert stream(server, host=urlsplit(server).netloc, origin=f"http://{other}") == 403


@pytest.mark.parametrize("with_port", [False, True], ids=["name", "name and port"])
def test_no_name_that_is_made_to_point_here_helps(server: str, with_port: bool) -> None:
    other = f"{ELSEWHERE}:{urlsplit(server).port}" if with_port else ELSEWHERE
    assert stream(server, host=other, origin=f"http://{other}") == 403
    assert stream(server, host=other, origin=server) == 403
