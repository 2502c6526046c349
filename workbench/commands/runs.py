"""`workbench runs`: list, show, tag, export, delete and take in the results that are stored."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.commands import terminal

if TYPE_CHECKING:
    from workbench.core.runs import Run, RunStore

Name = Annotated[str, typer.Argument(metavar="ID", help="Of a run, or how it begins.")]
Names = Annotated[list[str], typer.Argument(metavar="ID…", help="Of runs, or how they begin.")]
Model = Annotated[
    str | None, typer.Option(help="Only of this model: its name, or how its fingerprint begins.")
]
Analysis = Annotated[str | None, typer.Option(help="Only of this analysis.")]
Tag = Annotated[str | None, typer.Option(help="Only with this tag.")]
Text = Annotated[
    str | None,
    typer.Option(help="Only with these words in title, model, analysis, tags or parameters."),
]
Since = Annotated[str | None, typer.Option(help="Not before this day (UTC): 2026-03-31.")]
Until = Annotated[str | None, typer.Option(help="Not after this day (UTC).")]
Json = Annotated[bool, typer.Option("--json", help="All that is known of each, as JSON.")]
Remove = Annotated[bool, typer.Option("--remove", help="Take the tags away.")]
Tags = Annotated[list[str], typer.Argument(metavar="TAG…", help="Words to find it by.")]
Archive = Annotated[Path, typer.Option("-o", "--output", help="ZIP archive to write.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Folders = Annotated[
    list[Path], typer.Argument(metavar="FOLDER…", help="Result folders, as -o or `save` writes.")
]
Title = Annotated[str, typer.Option(help="What to call them; by default as they are called.")]
Rows = Annotated[int, typer.Option("--top", help="First rows of its table.")]

_MINUTE = 16

app = typer.Typer(
    help="Find, tag, take along and delete the results that are stored.", no_args_is_help=True
)


@app.command("list")
def list_runs(  # noqa: PLR0913 - one option a thing to find by
    *,
    model: Model = None,
    analysis: Analysis = None,
    tag: Tag = None,
    text: Text = None,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """List what is stored, newest first."""
    with terminal.one_sentence_for_bad_input():
        store = _store()
        asked: dict[str, Any] = {
            "tag": tag,
            "text": text,
            "since": _day("--since", since),
            "until": _day("--until", until),
        }
        found = store.runs(analysis, model=model, **asked)
        if model is not None and not found:
            found = store.runs(analysis, fingerprint=model, **asked)
        damaged = store.unreadable()
    if as_json:
        terminal.say_json([dataclasses.asdict(run) for run in found])
        return
    if found:
        terminal.table(
            ("run", "made (UTC)", "analysis", "model", "title", "tags"),
            [
                (
                    run.id,
                    run.created[:_MINUTE].replace("T", " "),
                    run.analysis,
                    run.model,
                    run.title,
                    ", ".join(run.tags),
                )
                for run in found
            ],
        )
    terminal.say(f"{len(found):,} run{'' if len(found) == 1 else 's'} in {store.root}")
    for run, problem in damaged.items():
        terminal.say(f"{run} cannot be read: {problem}")


@app.command("show")
def show(name: Name, *, top: Rows = 10) -> None:
    """Say what a run found, how it was made, and how its table begins."""
    with terminal.one_sentence_for_bad_input():
        from workbench.commands import options

        rows = options.rows(top)
        store = _store()
        run = _run(store, name)
        with terminal.progress() as report:
            report(0.0, f"opening {run.id}")
            result = store.open(run.id)
            frame = None if result is None else result.to_frame()
            said = "" if result is None else result.summary()
    terminal.table(
        ("what", "is"),
        [
            ("run", run.id),
            ("title", run.title),
            ("tags", ", ".join(run.tags)),
            ("analysis", run.analysis),
            ("model", run.model),
            ("fingerprint", run.fingerprint),
            ("seed", str(run.seed)),
            ("made (UTC)", run.created),
            ("took", f"{run.wall_time:,.1f} s"),
            *((f"parameter {key}", json.dumps(value)) for key, value in run.parameters.items()),
            ("folder", str(store.root / run.id)),
        ],
    )
    if result is None or frame is None:
        terminal.say(
            f"It is a {run.kind}, which this workbench does not know: import its module and open "
            f"it with workbench.runs.RunStore().find"
        )
        return
    terminal.say(said)
    terminal.notes(result)
    shown = frame.head(rows)
    terminal.table(
        [str(column) for column in shown.columns],
        [tuple(map(_cell, row)) for row in shown.itertuples(index=False)],
        title=f"{len(shown):,} of {len(frame):,} rows",
    )


@app.command("tag")
def tag_run(name: Name, tags: Tags, *, remove: Remove = False) -> None:
    """Give tags to a run, or take them away."""
    with terminal.one_sentence_for_bad_input():
        store = _store()
        run = _run(store, name)
        now = store.tag(run.id, tags, remove=remove)
    terminal.say(f"{run.id} has the tags {', '.join(now)}" if now else f"{run.id} has no tags")


@app.command("export")
def export(names: Names, *, output: Archive) -> None:
    """Write runs into one ZIP archive, to be unpacked into the folder of another store."""
    with terminal.one_sentence_for_bad_input():
        store = _store()
        chosen = [_run(store, name).id for name in names]
        written = store.export(chosen, output)
    terminal.say(f"{len(set(chosen)):,} written to {written}")


@app.command("delete")
def delete(names: Names, *, yes: Yes = False) -> None:
    """Delete runs, with their folders."""
    with terminal.one_sentence_for_bad_input():
        store = _store()
        chosen = {run.id: run for run in (_run(store, name) for name in names)}
        for run in chosen.values():
            terminal.say(f"{run.id}  {run.analysis}, {run.model}: {run.title}")
        if not yes and not typer.confirm(f"Delete {len(chosen):,} of {store.root} for good?"):
            terminal.say("nothing was deleted")
            return
        for run in chosen:
            store.delete(run)
    terminal.say(f"{len(chosen):,} deleted")


@app.command("rebuild")
def rebuild() -> None:
    """Make the index anew from the folders, and clear away what killed runs left behind."""
    with terminal.one_sentence_for_bad_input():
        store = _store()
        count = store.rebuild()
        damaged = store.unreadable()
    terminal.say(f"{count:,} run{'' if count == 1 else 's'} in {store.root}")
    for run, problem in damaged.items():
        terminal.say(f"{run} cannot be read: {problem}")


@app.command("add")
def add(folders: Folders, *, title: Title = "") -> None:
    """Take in result folders that scripts have saved; they stay where they are, too."""
    with terminal.one_sentence_for_bad_input():
        store = _store()
        for folder in folders:
            terminal.say(f"{folder} is run {store.add(folder, title=title)}")


def _store() -> RunStore:
    from workbench.core import runs

    return runs.RunStore()


def _run(store: RunStore, name: str) -> Run:
    """The run of an id, or the only one whose id begins so.

    Raises:
        ValueError: If there is none, or several.
    """
    exact = store.run(name)
    found = [exact] if exact is not None else store.runs(beginning=name)
    if not found:
        raise ValueError(
            f"no run {name!a} is stored in {store.root}: `workbench runs list` says which there are"
        )
    if len(found) > 1:
        few: Sequence[str] = [run.id for run in found[:3]]
        raise ValueError(f"{len(found):,} runs begin with {name!a}: {', '.join(few)}, …")
    return found[0]


def _day(option: str, text: str | None) -> datetime.date | None:
    try:
        return None if text is None else datetime.date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{option} {text!a}: expected a day such as 2026-03-31") from error


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
