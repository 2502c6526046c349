"""What pages there are, by the question that they answer.

1. Every file in pages/ is a page; nothing has to be registered.
2. Its docstring opens with its title, a colon and its question, as in "Runs: what has been found
   out so far?".
3. `GROUPS` puts pages under a heading, from the coarse question to the finer one. A page that is in
   none of them stands under the last heading, in order of its title.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

FIRST = "start"
OTHERS = "What else is there?"
GROUPS = {
    "What is in the model?": (
        "model",
        "inspector",
        "logit_lens",
        "direct_attribution",
        "attention",
        "contributions",
        "activations",
        "weights",
    ),
    "Which component carries it?": ("patching", "paths", "circuits"),
    "What makes it fire?": ("features", "unit", "dictionaries", "inputs"),
    "Where, and how did it form?": ("clusters", "grokking"),
    "What do I hand over?": ("reports", "runs"),
}


@dataclasses.dataclass(frozen=True)
class Page:
    """A page, as its docstring opens.

    Attributes:
        path: Its file.
        title: What stands in the navigation.
        question: What it answers; empty where its docstring asks nothing.
    """

    path: Path
    title: str
    question: str

    @property
    def heading(self) -> str:
        """The question as a sentence begins; empty where there is none."""
        return self.question[:1].upper() + self.question[1:]


def read(path: Path) -> Page:
    """Read what a page is from its docstring, without running it.

    Args:
        path: The page's file.

    Returns:
        The page; its title is the file's name where the docstring has none.
    """
    # Not by `ast`: two tabs that parse at the same time can make Python 3.11 fail (gh-106905).
    opening, quotes, docstring = path.read_text(encoding="utf-8").partition('"""')
    first = docstring.partition("\n")[0].partition('"""')[0]
    title, colon, asked = first.partition(":")
    if not quotes or opening.strip() or not colon:
        return Page(path, path.stem.replace("_", " ").capitalize(), "")
    question = asked.strip()
    return Page(path, title, question if question.endswith("?") else "")


def grouped(folder: Path) -> dict[str, list[Page]]:
    """The pages of a folder under their headings; the first page is not among them.

    Args:
        folder: Where the pages lie.

    Returns:
        Pages by heading; no heading is without pages.
    """
    found = {path.stem: read(path) for path in folder.glob("*.py") if path.stem != FIRST}
    known = [stem for stems in GROUPS.values() for stem in stems]
    others = sorted((page for stem, page in found.items() if stem not in known), key=_by_title)
    every = {
        heading: [found[stem] for stem in stems if stem in found]
        for heading, stems in GROUPS.items()
    }
    return {heading: pages for heading, pages in (every | {OTHERS: others}).items() if pages}


def _by_title(page: Page) -> str:
    return page.title
