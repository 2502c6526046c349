"""Entry point of the app: `streamlit run workbench/app.py`. Navigation over pages/, nothing else.

1. Every file in pages/ is a page; its address is the file's name. Start is shown by default.
2. The others stand under the question that they answer, a new one under the last heading; see
   `workbench.ui.contents`.
3. A page's own question is its title. It is drawn here, before the page imports what it needs.

A new page is a new file: nothing has to be registered here.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import streamlit as st

from workbench.ui import addresses, buttons, contents, importing, keeping

PAGES = Path(__file__).resolve().parent.parent / "pages"


def main() -> None:
    """Set up the window and run the page that the address names."""
    importing.wait_for_whole_packages()
    st.set_page_config(layout="wide")
    first = contents.read(PAGES / f"{contents.FIRST}.py")
    others = contents.grouped(PAGES)
    headings = {
        heading: [st.Page(page.path, title=page.title, url_path=page.path.stem) for page in pages]
        for heading, pages in others.items()
    }
    start = st.Page(first.path, title=first.title, default=True)
    chosen = st.navigation({"": [start], **headings}, expanded=True)
    asked = {page.title: page.heading for page in chain([first], *others.values())}
    if heading := asked[chosen.title]:
        st.title(heading)
    addresses.turn_to(chosen.title)
    keeping.warn()
    with keeping.saying_damage():
        chosen.run()
    buttons.forget()
    importing.begin()


if __name__ == "__main__":
    main()
