"""What bad input is drawn from: hostile values, documents with something altered, damaged bytes."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

# Texts that mean something to a shell, a browser, a terminal, a path, a reader of numbers.
TEXTS = (
    "",
    " ",
    "\x00",
    "\x1b[2J\x1b]0;owned\x07",
    "\ud800",
    "\u202egnp.exe\u202c",
    "\u0301\u0301",
    "\r\n\t\u2028\u0085",
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "![](http://example.com/x.png) [a](javascript:alert(1))",
    "{{ 7 * 7 }} {% for x in y %}",
    "../../../../etc/passwd",
    "/etc/passwd",
    "~nobody-of-this-name/x",
    "file:///etc/passwd",
    "-1",
    "1e999",
    "NaN",
    "!!python/object/apply:os.system ['true']",
    "; DROP TABLE runs; --",
    "a" * 5_000,
    "é" * 300,
)
NUMBERS = (
    0, -1, 1, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 10**400, True, 0.5, -0.0, 1e308,
    float("inf"), float("-inf"), float("nan"),
)  # fmt: skip

texts = st.sampled_from(TEXTS) | st.text(max_size=20)
scalars = texts | st.sampled_from(NUMBERS) | st.none()
values = scalars | st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON document; of a long list, its first items."""
    found = [path]
    if isinstance(document, dict):
        for name, inner in document.items():
            found += _places(inner, (*path, name))
    elif isinstance(document, list):
        for i, inner in enumerate(document[:3]):
            found += _places(inner, (*path, i))
    return found


@st.composite
def altered(draw: st.DrawFn, document: Any, most: int = 2) -> Any:
    """A JSON document in which some things are replaced, left out, put in, or called otherwise."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(_places(made)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(values)
            continue
        *above, last = path
        holder = made
        for step in above:
            holder = holder[step]
        match draw(st.sampled_from(("replace", "replace", "replace", "remove", "rename", "wrap"))):
            case "remove":
                del holder[last]
            case "rename" if isinstance(holder, dict):
                holder[draw(texts)] = holder.pop(last)
            case "wrap":
                holder[last] = [holder[last]]
            case _:
                holder[last] = draw(values)
    return made


@st.composite
def damaged(draw: st.DrawFn, content: bytes, most: int = 3) -> bytes:
    """Bytes some of which are changed, cut off, put in or repeated."""
    made = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        # Where a file says what is in it comes first.
        near = draw(st.booleans())
        at = draw(st.integers(0, min(len(made), 400) if near else len(made)))
        match draw(st.sampled_from(("flip", "cut", "insert", "repeat", "remove"))):
            case "flip" if at < len(made):
                made[at] = draw(st.integers(0, 255))
            case "cut":
                del made[at:]
            case "insert":
                written = draw(st.binary(max_size=8) | texts.map(_bytes))
                made[at:at] = written
            case "repeat":
                made[at:at] = made[at : at + 50]
            case _:
                del made[at : at + draw(st.integers(1, 50))]
    return bytes(made)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def json_bytes(document: Any) -> bytes:
    """A document as a hostile writer has it: with NaN, infinities and halves of characters."""
    return json.dumps(document).encode()
