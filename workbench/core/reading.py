"""What somebody else has written, read with care: JSON, and words that can be shown.

1. `json_of` reads JSON, and says in a few words what is wrong with it: also where it is nested so
   deeply that Python's own reader gives up, where it holds a whole number that is larger than any
   floating-point number, and where it holds half a character, which no tokenizer or page takes.
2. `quoted`, `plain` and `listed` put what was found into a message: short, on one line, and without
   characters that would move a terminal's cursor or turn text around.
3. `visible` writes the code points of characters that turn, hide or break a text.

Limits: numbers that JSON has not (NaN, Infinity) are read, as programs write them; whether a value
is what was expected is for the caller to check.
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Iterable
from typing import Any

LONGEST, MOST = 80, 12
# So that each is within the range of floating-point numbers, which it meets sooner or later.
_MOST_DIGITS = 300
_PLAIN_BREAKS = "\n"
# Letters that draw nothing: Hangul fillers, and the empty braille pattern.
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800")
# Line and paragraph separators, controls, formats (bidi among them), surrogates, private, unknown.
_UNSEEN = frozenset({"Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"})
# Combining marks in a row that a script may need; more would climb over the lines around.
_MOST_MARKS = 4


class UnreadableError(ValueError):
    """A text is no JSON that can be used; the message says why, in a few words."""


def json_of(text: str | bytes, *, halves: bool = False, **how: Any) -> Any:
    """Read JSON.

    Args:
        text: UTF-8, or text.
        halves: Take half a character, too; whoever shows or stores the value minds it then.
        **how: As of `json.loads`; an `UnreadableError` that one raises is passed on.

    Returns:
        The value.

    Raises:
        UnreadableError: If it is none, or holds what nobody can go on with.
    """
    try:
        written = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(written, parse_int=_whole, **how)
        # Half a character stands in JSON as its number, or in a text that was read without care.
        if not halves:
            escaped = "\\ud" in written.lower()
            (json.dumps(value, ensure_ascii=False) if escaped else written).encode()
    except UnreadableError:
        raise
    except RecursionError as error:
        raise UnreadableError("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise UnreadableError(f"it is not UTF-8 text (byte {error.start})") from error
    except UnicodeEncodeError as error:
        raise UnreadableError("it holds half a character (a lone surrogate)") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UnreadableError(f"{error.msg}, {where}") from error
    return value


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise UnreadableError("it holds a number of hundreds of digits")
    return int(digits)


def quoted(value: object, longest: int = LONGEST) -> str:
    """A value as Python writes it, which hides nothing, cut where it is long.

    Args:
        value: Anything.
        longest: Characters that are shown.

    Returns:
        One line.
    """
    # Of what is long, the beginning is enough, and much quicker to write.
    text = repr(value[: longest + 1] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= longest + 2 else f"{text[: longest + 1]}…"


def plain(text: str, longest: int = LONGEST) -> str:
    """A name as it stands where that can be read, else as Python writes it.

    Args:
        text: A name of a column, a file, an error.
        longest: Characters that are shown.

    Returns:
        One line.
    """
    short = text if len(text) <= longest else f"{text[:longest]}…"
    return short if short.isprintable() else repr(short)[1:-1]


def listed(names: Iterable[object], most: int = MOST) -> str:
    """Names in a row, the first of them where they are many.

    Args:
        names: Whatever they are.
        most: How many are shown.

    Returns:
        One line; "nothing" where there are none.
    """
    every = [str(name) for name in names]
    more = [f"… ({len(every):,} in all)"] if len(every) > most else []
    return ", ".join([*(plain(name) for name in every[:most]), *more]) or "nothing"


def nearest(name: str, known: Iterable[str]) -> str:
    """What a name that does not exist may have meant, to end a message with.

    Args:
        name: The name.
        known: Those that exist.

    Returns:
        In brackets, up to three of them.
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"(nearest: {', '.join(near)})" if near else "(nothing has a similar name)"


def visible(text: str) -> str:
    """Text in which nothing hides.

    Args:
        text: Any string.

    Returns:
        The same, with "⟨U+202E⟩" for a character that would turn, hide or break text.
    """
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        hidden = (
            unicodedata.category(character) in _UNSEEN or character in _BLANK or marks > _MOST_MARKS
        ) and character not in _PLAIN_BREAKS
        shown.append(f"⟨U+{ord(character):04X}⟩" if hidden else character)
    return "".join(shown)
