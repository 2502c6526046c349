"""Runs: what has been found out so far?

1. Every result that a page, a command or a script has put into the run store, newest first; found
   by model, analysis, tag, words and day. All of it stands in the address.
2. One that is chosen is shown again; two of one kind are compared; any number can be tagged, taken
   along as a ZIP archive, and deleted. `?run=ID` reopens one, `?run=ID,ID` compares two.

Limits: a list shows its newest thousand runs. A run of a class that only a script knows is listed,
and opened in that script.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from workbench.core import runs
from workbench.core.runs import comparing
from workbench.ui import buttons, downloads, escaping, jobs, showing, steps, tables

if TYPE_CHECKING:
    from workbench.core.results import Result

PAGES = Path(__file__).resolve().parent
# Pages that reopen a run of their own, by analysis, and what they are called.
REOPENED_BY = {
    "activation_patching.patch": ("patching", "Patching"),
    "path_patching.path_patch": ("paths", "Paths"),
    "circuits.discover": ("circuits", "Circuits"),
}
SHOWN, ROWS, MINUTE = 1000, 1000, 16
# Folders of a path that is shown whole; a hub name has two.
SHORT = 3
BOTH = 2


def ask(store: runs.RunStore) -> dict[str, Any]:
    """Draw the filters.

    Returns:
        What `RunStore.runs` is to be asked.
    """
    known = store.known()
    places = st.columns(3)
    asked: dict[str, Any] = {}
    for place, name in zip(places, ("model", "analysis", "tag"), strict=True):
        linked = st.query_params.get(name, "")
        # A link may ask for what is not there, and is then answered with nothing.
        options = [*known[name], *([linked] if linked and linked not in known[name] else [])]
        asked[name] = place.selectbox(
            name.capitalize(),
            options,
            index=None,
            placeholder=f"any {name}",
            key=name,
            bind="query-params",
        )
    words, first, last = st.columns([2, 1, 1])
    asked["text"] = words.text_input(
        "Words",
        key="text",
        bind="query-params",
        placeholder="in title, model, analysis, tags or parameters",
    )
    asked["since"] = first.date_input("From (UTC)", None, key="since", bind="query-params")
    asked["until"] = last.date_input("To (UTC)", None, key="until", bind="query-params")
    return {name: value for name, value in asked.items() if value}


def pick(found: Sequence[runs.Run]) -> list[str]:
    """The list, and what is chosen in it; a link may also choose what it does not show.

    Returns:
        Ids of runs.
    """
    linked = [one for one in st.query_params.get("run", "").split(",") if one]
    shown = found[:SHOWN]
    if not shown:
        return linked
    ids = [run.id for run in shown]
    event: Any = st.dataframe(
        [
            {
                "title": run.title,
                "tags": list(run.tags),
                "analysis": run.analysis,
                "model": short(run.model),
                "made (UTC)": run.created[:MINUTE].replace("T", " "),
                "run": run.id,
                "seed": str(run.seed),
            }
            for run in shown
        ],
        hide_index=True,
        column_config={"title": st.column_config.TextColumn(width="large")},
        height=min(400, 38 + 35 * len(shown)),
        on_select="rerun",
        selection_mode="multi-row",
        selection_default={
            "selection": {"rows": [i for i, run in enumerate(ids) if run in linked]}
        },
        # Rows of another list are other runs.
        key=f"runs:{hashlib.sha256(','.join(ids).encode()).hexdigest()[:16]}",
    )
    more = f"the newest {SHOWN:,} of {len(found):,}" if len(found) > SHOWN else f"{len(found):,}"
    st.caption(
        f"{more} run{'' if len(found) == 1 else 's'}. Choose one to see it again, two to compare "
        "them, any number to tag, export or delete them."
    )
    chosen = [ids[row] for row in event.selection.rows]
    return chosen or [one for one in linked if one not in ids]


def short(model: str) -> str:
    """The end of a model's name where that is a long path; what made the run has the whole."""
    folders = Path(model).parts
    return model if len(folders) <= SHORT else "/".join(["…", *folders[-SHORT:]])


def change(store: runs.RunStore, chosen: Sequence[runs.Run]) -> None:
    """Tags, archive and deletion of what is chosen."""
    count = "this run" if len(chosen) == 1 else f"these {len(chosen):,} runs"
    tagged, archived, deleted = st.columns([3, 1, 1], vertical_alignment="bottom")
    with tagged:
        tag(store, chosen, count)
    ids = [run.id for run in chosen]
    archived.download_button(
        "Export (ZIP)",
        lambda: archive(store, ids),
        f"runs-{ids[0]}.zip" if len(ids) == 1 else f"{len(ids)}-runs.zip",
        "application/zip",
        on_click="ignore",
        help="Unpacked into the folder of another store, they are runs of that one.",
    )
    with deleted.popover("Delete …"):
        st.markdown(f"This deletes {count} from the disk. It cannot be undone.")
        if buttons.pressed(st.button, f"Delete {count} for good"):
            for run in ids:
                store.delete(run)
            del st.query_params["run"]
            st.rerun()


def tag(store: runs.RunStore, chosen: Sequence[runs.Run], count: str) -> None:
    """The tags that all chosen runs have; another choice is written at once."""
    first, *others = chosen
    common = [word for word in first.tags if all(word in run.tags for run in others)]
    now = st.multiselect(
        f"Tags of {count}",
        dict.fromkeys([*common, *store.known()["tag"]]),
        common,
        accept_new_options=True,
        placeholder="type a word, and Enter",
        key=f"tags:{','.join(run.id for run in chosen)[:200]}:{common}",
    )
    added = [word for word in now if word not in common]
    removed = [word for word in common if word not in now]
    if added or removed:
        for run in chosen:
            store.tag(run.id, added)
            store.tag(run.id, removed, remove=True)
        st.rerun()


def archive(store: runs.RunStore, ids: Sequence[str]) -> bytes:
    """The chosen folders as a ZIP archive."""
    with tempfile.TemporaryDirectory() as scratch:
        return store.export(ids, Path(scratch) / "runs.zip").read_bytes()


def opened(store: runs.RunStore, run: runs.Run) -> tuple[Result | None] | None:
    """A result, or none where its class is not known; None while it is being read.

    It is read in the background, as the libraries of its module may have to be loaded first.
    """
    key = jobs.job_key("open run", str(store.root), run.id, run.created, run.wall_time)
    return steps.step(key, lambda _: (store.open(run.id),), label=f"Opening {run.id}")


def say_unknown(run: runs.Run) -> None:
    """Say where a run can be opened whose class is not known here."""
    st.info(
        escaping.markdown(
            f"This is a {run.kind}, which the workbench itself does not know, or whose folder is "
            "damaged. The script that defines the class opens it, as below."
        )
    )


def show(store: runs.RunStore, run: runs.Run) -> None:
    """One run again: what it says, its figure, its table, what made it."""
    st.header(escaping.markdown(run.title))
    st.caption(
        escaping.markdown(
            f"{run.analysis} of {run.model}, {run.created[:MINUTE].replace('T', ' ')} UTC, seed "
            f"{run.seed}, took {jobs.duration(run.wall_time)}"
        )
    )
    if run.analysis in REOPENED_BY:
        page, name = REOPENED_BY[run.analysis]
        st.page_link(
            PAGES / f"{page}.py",
            label=f"Open it on the page **{name}**, where it can be clicked through",
            query_params={"model": run.model, "run": run.id},
        )
    found = opened(store, run)
    if found is None:
        return
    (result,) = found
    if result is None:
        say_unknown(run)
    else:
        st.markdown(escaping.markdown(result.summary()))
        showing.figure(result.figure())
        frame = result.to_frame

        def table() -> None:
            rows = frame()
            st.dataframe(rows.head(ROWS), hide_index=True)
            if len(rows) > ROWS:
                st.caption(f"The first {ROWS:,} of {len(rows):,} rows.")

        showing.fold("Table", table)
    with st.expander("What made it"):
        made = {"fingerprint": run.fingerprint, "parameters": run.parameters}
        more = {} if result is None else {"versions": result.provenance.versions}
        st.json(made | more)
    if result is not None:
        downloads.offer(result, run=run.id, folder=store.root / run.id, name="run")


def compare(store: runs.RunStore, first: runs.Run, second: runs.Run) -> None:
    """Two runs beside each other: what made them, what they say, where their numbers differ."""
    st.header("What differs between these two?")
    both = [opened(store, run) for run in (first, second)]
    found = [result for read in both if read is not None for result in read]
    if len(found) < BOTH:
        return
    for place, run, result in zip(st.columns(2), (first, second), found, strict=True):
        with place:
            st.subheader(escaping.markdown(run.title))
            st.caption(escaping.markdown(f"{run.id}, {run.model}, seed {run.seed}"))
            if result is None:
                say_unknown(run)
            else:
                st.markdown(escaping.markdown(result.summary()))
    one, other = found
    if one is None or other is None:
        return
    if first.analysis != second.analysis:
        st.info("These are two analyses: their numbers cannot be put side by side.")
        return
    causes = comparing.parted(one.provenance, other.provenance)
    st.subheader("What made them")
    if causes:
        rows = [{"what": what, "first": was, "second": now} for what, was, now in causes]
        st.dataframe(rows, hide_index=True)
    else:
        st.markdown("Nothing that is recorded differs, not even a version.")
    st.subheader("Their numbers")
    try:
        frame = comparing.differences(one, other)
    except ValueError as error:
        st.info(escaping.markdown(str(error)))
        return
    apart = frame["difference"].tolist()
    missing = sum(map(math.isnan, apart))
    differ = sum(abs(value) > 0 for value in apart)
    st.markdown(
        f"{differ:,} of {len(frame):,} numbers differ"
        + (f"; {missing:,} are in one of both only, or are not known" if missing else "")
        + ". Differences have no interval here: what is chance is not said."
    )
    digits = {
        name: st.column_config.NumberColumn(format="%.4g")
        for name in ("first", "second", "difference")
    }
    st.dataframe(frame.head(ROWS), hide_index=True, column_config=digits)


def script(asked: dict[str, Any], chosen: Sequence[runs.Run]) -> list[str]:
    """Python code that lists and opens the same."""
    given = {
        name: f"datetime.date.fromisoformat({value.isoformat()!r})"
        if isinstance(value, datetime.date)
        else repr(value)
        for name, value in asked.items()
    }
    arguments = ", ".join(f"{name}={value}" for name, value in given.items())
    lines = ["import datetime", ""] if "datetime" in arguments else []
    lines += [
        "from workbench import runs",
        "",
        "store = runs.RunStore()",
        f"for run in store.runs({arguments}):",
        "    print(run.id, run.created, run.analysis, run.model, run.title)",
    ]
    lines += [f"print(store.open({run.id!r}).summary())  # {run.analysis}" for run in chosen[:BOTH]]
    if len(chosen) == BOTH:
        lines.insert(
            lines.index("from workbench import runs") + 1,
            "from workbench.core.runs import comparing",
        )
        pair = ", ".join(f"store.open({run.id!r})" for run in chosen)
        lines.append(f"print(comparing.differences({pair}))")
    return lines


def main() -> None:
    """List, filter, and show what is chosen."""
    store = runs.RunStore()
    asked = ask(store)
    found = store.runs(**asked)
    if not found:
        st.info(
            "No run is like this. Leave a filter out to see more."
            if asked
            else "Nothing yet. What the pages and commands find is kept here by itself."
        )
    linked = pick(found)
    if linked:
        st.query_params["run"] = ",".join(linked)
    elif "run" in st.query_params:
        del st.query_params["run"]
    chosen = [run for run in map(store.run, linked) if run is not None]
    if len(chosen) < len(linked):
        st.info("A run of this link is not stored on this machine.")
    if chosen:
        change(store, chosen)
    if len(chosen) == 1:
        show(store, chosen[0])
    elif len(chosen) == BOTH:
        compare(store, *chosen)
    damaged = store.unreadable()
    if damaged:
        with st.expander(f"Folders that cannot be read: {len(damaged):,}"):
            st.markdown(tables.markdown([{"run": one, "why": why} for one, why in damaged.items()]))
    st.caption(
        escaping.markdown(f"Kept in {store.root}.")
        + " Folders that a script has saved are taken in by `workbench runs add FOLDER`."
    )
    showing.code(script(asked, chosen))


try:
    main()
except runs.RunStoreError as error:
    st.error(escaping.markdown(str(error)))
