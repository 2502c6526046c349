"""Entry point of the app: `streamlit run workbench/app.py`. Navigation over pages/, nothing else.

1. Every file in pages/ is a page; its address is the file's name.
2. The title in the navigation is what the file's docstring opens with, up to the first colon.
3. The Model page comes first and is shown by default. The next ones go from the coarse question to
   the finer one; whatever else there is follows in order of its titles.

A new page is a new file: nothing has to be registered here.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

PAGES = Path(__file__).resolve().parent.parent / "pages"
FIRST = (
    "model",
    "inspector",
    "logit_lens",
    "direct_attribution",
    "attention",
    "contributions",
    "activations",
    "weights",
    "patching",
    "paths",
    "circuits",
    "features",
    "unit",
    "dictionaries",
    "inputs",
    "clusters",
    "grokking",
    "reports",
    "runs",
)


def page_title(path: Path) -> str:
    """Read a page's title from its docstring, without running it.

    Args:
        path: The page's file.

    Returns:
        The docstring up to its first colon, or the file's name where it has none.
    """
    # Not by `ast`: two tabs that parse at the same time can make Python 3.11 fail (gh-106905).
    opening, quotes, docstring = path.read_text(encoding="utf-8").partition('"""')
    title, colon, _ = docstring.partition(":")
    opens = bool(quotes) and not opening.strip()
    found = opens and colon and not set(title) & {"\n", '"'}
    return title if found else path.stem.replace("_", " ").capitalize()


def main() -> None:
    """Set up the window and run the page that the address names."""
    st.set_page_config(layout="wide")
    titles = {path: page_title(path) for path in PAGES.glob("*.py")}
    rank = {stem: place for place, stem in enumerate(FIRST)}
    ordered = sorted(titles, key=lambda path: (rank.get(path.stem, len(rank)), titles[path]))
    st.navigation(
        [
            st.Page(path, title=titles[path], url_path=path.stem, default=path.stem == FIRST[0])
            for path in ordered
        ]
    ).run()


if __name__ == "__main__":
    main()
