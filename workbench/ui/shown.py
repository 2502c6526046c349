"""What a script shows: a live bridge, and pairs for it, that the pages of this server offer.

The model stands on the shelf for good and is picked on every page until the reader picks another
one; its pairs are offered wherever pairs are chosen. One thing is shown at a time. `serving.show`
puts it here and takes it away again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
from pathlib import PurePath
from typing import TYPE_CHECKING

from workbench.core.models import card, sources
from workbench.ui.shelf import shelf

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

_LONGEST = 60


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """What is shown now.

    Attributes:
        name: What the model is called everywhere: "shown: " and its own name.
        pairs: Of the model, if there are any.
    """

    name: str
    pairs: ContrastPairs | None


class _Stand:
    """Holds what is shown, for all threads of the process."""

    def __init__(self) -> None:
        self.exhibit: Exhibit | None = None
        self.lock = threading.RLock()
        self.removal = contextlib.ExitStack()


_stand = _Stand()


def current() -> Exhibit | None:
    """What is shown now, if anything."""
    return _stand.exhibit


def pairs_of(name: str) -> ContrastPairs | None:
    """The pairs that a script shows with the model of this name."""
    exhibit = current()
    return exhibit.pairs if exhibit is not None and exhibit.name == name else None


def put(model: TransformerBridge, pairs: ContrastPairs | None) -> Exhibit:
    """Show a model instead of what was shown before.

    Args:
        model: Any bridge; it is neither copied nor changed.
        pairs: Of the model, if there are any.

    Returns:
        What is shown.
    """
    with _stand.lock:
        remove()
        card.forget_fingerprint(model)
        name = _stand.removal.enter_context(sources.lent(model, readable_name(model)))
        shelf().put(name, model, pinned=True)
        _stand.removal.callback(shelf().drop, name)
        _stand.exhibit = Exhibit(name, pairs)
        return _stand.exhibit


def remove() -> None:
    """Show nothing any more; the model is the script's alone again."""
    with _stand.lock:
        _stand.exhibit = None
        _stand.removal.close()


def readable_name(model: TransformerBridge) -> str:
    """The end of a model's own name, without what a page would have to escape."""
    own = PurePath(sources.source_of(model).name.removeprefix(sources.SHOWN)).name
    return re.sub(r"[^\w.+-]+", "-", own)[:_LONGEST].strip("-") or "model"
