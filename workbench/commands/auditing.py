"""`workbench audit`, `reproduce`, `compare` and `selftest`: reports, and whether they hold.

Exit codes beside the usual: 1 where something does not hold (a claim of a report, a planted truth,
a verdict with `--fail-on`), 3 where the model is not the one that a report is about.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.commands import options, terminal

if TYPE_CHECKING:
    from workbench.report.comparing import Comparison
    from workbench.report.document import Cell, Report, SelfTest
    from workbench.report.reproducing import Compared, Reproduction
    from workbench.report.spec import AuditSpec

Subject = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Bundled name, Hugging Face folder or hub name; that of the spec by default.",
    ),
]
First = Annotated[
    str,
    typer.Argument(
        metavar="A",
        help="The base: bundled name, folder, hub name, or a checkpoint of a run such as "
        "modadd-113@step-5000.",
    ),
]
Second = Annotated[str, typer.Argument(metavar="B", help="What is compared with it.")]
Spec = Annotated[
    Path | None,
    typer.Option(help="YAML that says what is asked; without it, the default audit."),
]
Outputs = Annotated[
    list[Path] | None,
    typer.Option("-o", "--output", help="Report file: .html, .pdf or .json; may be repeated."),
]
Tables = Annotated[
    list[Path] | None,
    typer.Option(
        "-o",
        "--output",
        help="File of the comparison: .html, .pdf, .json or .csv; may be repeated.",
    ),
]
Init = Annotated[
    bool,
    typer.Option("--init", help="Write a spec with every field explained (to -o FILE.yaml)."),
]
Schema = Annotated[
    bool, typer.Option("--schema", help="Write the JSON schema of a spec (to -o FILE.json).")
]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of everything random, in place of the spec's.", min=0, max=2**31 - 1),
]
Store = Annotated[
    bool, typer.Option("--store/--no-store", help="Take stored results, and keep new ones.")
]
SelfTested = Annotated[
    bool,
    typer.Option("--selftest/--no-selftest", help="Put known answers through every analysis, too."),
]
FailOn = Annotated[
    str | None,
    typer.Option(help="End with exit code 1 on a verdict like this or worse: warn or fail."),
]
ReportFile = Annotated[Path, typer.Argument(metavar="REPORT", help="A report: .html or .json.")]
Override = Annotated[
    str | None,
    typer.Option(help="Where the model is, if not where the report says; may be a hub name."),
]
Folder = Annotated[
    Path, typer.Option(help="Folder that the paths of the report's spec are relative to.")
]
Tolerance = Annotated[
    float | None,
    typer.Option(help="Largest difference of two numbers, relative to the larger (1e-4)."),
]
Everything = Annotated[
    bool, typer.Option("--all", help="List every claim, not only the main ones.")
]

_SPEC_FILES = (".yaml", ".yml")
# Claims that differ in the table.
_MOST = 50
_WRONG_MODEL = 3
_FAILING: dict[str, tuple[str, ...]] = {"warn": ("warn", "fail"), "fail": ("fail",)}


def audit(  # noqa: PLR0913 - one option a choice
    model: Subject = None,
    *,
    spec: Spec = None,
    output: Outputs = None,
    init: Init = False,
    schema: Schema = False,
    seed: Seed = None,
    store: Store = True,
    selftest: SelfTested = True,
    fail_on: FailOn = None,
    device: options.Device = "auto",
) -> None:
    """Examine a model, and write a report that others can check."""
    with terminal.one_sentence_for_bad_input():
        if init or schema:
            _write_template(model, output, init=init, schema=schema, spec=spec)
            return
        if fail_on is not None and fail_on not in _FAILING:
            raise ValueError(f"--fail-on {fail_on!r}: expected warn or fail")
        _require_writable(output, (".html", ".pdf", ".json"))
        asked = _asked(spec, model, seed)
        with terminal.progress() as report:
            from workbench.core import runs
            from workbench.core.models import sources
            from workbench.report import auditing

            report(0.0, f"loading {asked.model.name}")
            made = auditing.audit(
                sources.load_model(asked.model.name, device=device),
                asked,
                store=runs.RunStore() if store else None,
                folder=Path(".") if spec is None else spec.parent,
                selftest=selftest,
                progress=report,
            )
            for path in output or ():
                report(1.0, f"writing {path.name}")
                terminal.write(path, _drawn(made, path))
        _show_report(made)
        _say_where(output)
        if fail_on is not None and made.verdict in _FAILING[fail_on]:
            raise typer.Exit(1)


def _asked(spec: Path | None, model: str | None, seed: int | None) -> AuditSpec:
    from workbench.report import spec as specs
    from workbench.report import spec_files

    if spec is None and model is None:
        raise ValueError("say which model: workbench audit MODEL, or --spec FILE with a model")
    asked = specs.AuditSpec() if spec is None else spec_files.read(spec)
    # The fingerprint that a spec asks for stays asked for.
    subject = asked.model.model_copy(update=options.given(name=model))
    return asked.model_copy(update={"model": subject, **options.given(seed=seed)})


def _require_writable(files: Sequence[Path] | None, suffixes: Sequence[str]) -> None:
    """Refuse before a long run what could not be written after it."""
    for path in files or ():
        if path.suffix.lower() not in suffixes:
            raise ValueError(f"-o {path}: expected a name that ends in {', '.join(suffixes)}")
        if path.is_dir() or not path.parent.is_dir():
            raise ValueError(f"-o {path}: expected a file in a folder that is there")


def _write_template(
    model: str | None, output: Sequence[Path] | None, *, init: bool, schema: bool, spec: Path | None
) -> None:
    from workbench.report import spec as specs
    from workbench.report import spec_files

    if (init and schema) or spec is not None:
        raise ValueError("--init and --schema each stand alone: leave the other options out")
    _require_writable(output, _SPEC_FILES if init else (".json",))
    if init:
        text = spec_files.commented(specs.Subject().name if model is None else model)
    else:
        text = json.dumps(spec_files.schema(), indent=1, ensure_ascii=False) + "\n"
    for path in output or ():
        if path.exists():
            raise ValueError(f"{path} is there already: choose another name")
        terminal.write(path, text.encode())
    if output:
        _say_where(output)
    else:
        typer.echo(text, nl=False)


def _drawn(report: Report, path: Path) -> bytes:
    from workbench.report import html, pdf

    match path.suffix.lower():
        case ".json":
            return report.to_json().encode()
        case ".html":
            return html.render(report).encode()
        case _:
            return pdf.render(report)


def _show_report(report: Report) -> None:
    from workbench.report import wording

    terminal.table(
        ("", "question", "about", "verdict", "found"),
        [
            (
                wording.SIGNS[one.verdict],
                one.question,
                wording.visible(one.about),
                wording.WORDS[one.verdict],
                wording.visible(one.reason or one.statement),
            )
            for one in report.findings
        ],
        title=wording.visible(wording.title(report)),
    )
    terminal.say(wording.OVERALL[report.verdict])
    for one in wording.headlines(report):
        said = filter(None, (one.statement, one.evidence, one.caveat))
        terminal.say(f"• {wording.visible(' '.join(said))}")
    if report.selftest is not None:
        _say_recovered(report.selftest)


def reproduce(
    report: ReportFile,
    *,
    model: Override = None,
    folder: Folder = Path("."),
    tolerance: Tolerance = None,
    all_: Everything = False,
) -> None:
    """Compute a report again, and list what it claims beside what was found."""
    with terminal.one_sentence_for_bad_input():
        from workbench.report import reproducing, wording

        opened = reproducing.open_file(report)
        where = reproducing.location(opened.report, model)
        terminal.say(
            f"The report is about {wording.visible(opened.report.manifest.model)}, which is read "
            f"from {wording.visible(where)}."
        )
        try:
            with terminal.progress() as progress:
                found = reproducing.reproduce(
                    opened.report,
                    model=where,
                    folder=folder,
                    page=opened.page,
                    progress=progress,
                    **options.given(tolerance=tolerance),
                )
        except reproducing.WrongModelError as error:
            terminal.complain(wording.visible(str(error)))
            raise typer.Exit(_WRONG_MODEL) from error
        _show_reproduction(found, everything=all_)
        if not found.same:
            raise typer.Exit(1)


def _show_reproduction(found: Reproduction, *, everything: bool) -> None:
    main = [row for row in found.rows if everything or _is_main(row)]
    _show_claims(main, "Claimed and recomputed")
    if found.different:
        _show_claims(found.different[:_MOST], "Differences")
        if len(found.different) > _MOST:
            terminal.say(f"and {len(found.different) - _MOST:,} more differences")
    for what, then, now in found.made_with:
        terminal.say(f"Made with {_shown(what)} {_shown(then)}; now {_shown(now)}.")
    for note in found.notes:
        terminal.say(note)
    terminal.say(found.summary())


def _is_main(row: Compared) -> bool:
    """Whether it is a verdict or one of the numbers that verdicts rest on."""
    known = row.claimed is not None or row.recomputed is not None
    names = (".verdict", ".value", ".low", ".high", ".n", ".p_value")
    return known and row.where.startswith("findings[") and row.where.endswith(names)


def _show_claims(rows: Iterable[Compared], title: str) -> None:
    terminal.table(
        ("", "claim", "claimed", "recomputed", "difference"),
        [
            (
                "✓" if row.same else "✗",
                _shown(row.where),
                _shown(row.claimed),
                _shown(row.recomputed),
                "" if row.difference is None else f"{row.difference:.2g}",
            )
            for row in rows
        ],
        title=title,
    )


def _shown(value: Cell) -> str:
    """A claim in a table: numbers with every digit that may differ."""
    from workbench.report import wording

    if isinstance(value, str):
        return wording.visible(value)
    return f"{value:.8g}" if isinstance(value, float) else wording.number(value)


def compare(  # noqa: PLR0913 - one option a choice
    a: First,
    b: Second,
    *,
    spec: Spec = None,
    output: Tables = None,
    seed: Seed = None,
    store: Store = True,
    top: options.Rows = 40,
) -> None:
    """Put two models, or two checkpoints, under the same spec, and say what changed."""
    with terminal.one_sentence_for_bad_input():
        shown = options.rows(top)
        _require_writable(output, (".html", ".pdf", ".json", ".csv"))
        asked = _asked(spec, a, seed)
        with terminal.progress() as report:
            from workbench.core import runs
            from workbench.report import comparing

            found = comparing.compare(
                a,
                b,
                asked,
                store=runs.RunStore() if store else None,
                folder=Path(".") if spec is None else spec.parent,
                progress=report,
            )
            for path in output or ():
                report(1.0, f"writing {path.name}")
                terminal.write(path, _drawn_of_both(found, path))
        _show_comparison(found, shown)
        _say_where(output)


def _drawn_of_both(found: Comparison, path: Path) -> bytes:
    from workbench.report import html, pdf

    match path.suffix.lower():
        case ".json":
            return found.to_json().encode()
        case ".csv":
            return found.to_frame().to_csv(index=False).encode()
        case ".html":
            return html.render_comparison(found).encode()
        case _:
            return pdf.render_comparison(found)


def _show_comparison(found: Comparison, rows: int) -> None:
    from workbench.report import comparing, wording

    terminal.table(
        ("", "finding", "A", "B"),
        [
            ("≠" if one.changed else "=", wording.visible(one.id), one.first, one.second)
            for one in found.verdicts
        ],
        title=f"A: {wording.visible(found.names[0])}, B: {wording.visible(found.names[1])}",
    )
    signs = {True: "≠", False: "=", None: "?"}
    terminal.table(
        ("", "finding", "number", "A", "B", "B minus A", "adjusted p"),
        [
            (
                signs[one.changed],
                wording.visible(one.id),
                wording.visible(one.name),
                *map(comparing.told, (one.first, one.second, one.gap)),
                "" if one.p_value is None else wording.number(one.p_value),
            )
            for one in found.changes[:rows]
        ],
        title="≠ changed, = not beyond chance or both intervals, ? without intervals",
    )
    if len(found.changes) > rows:
        terminal.say(f"and {len(found.changes) - rows} more numbers (--top)")
    terminal.say(wording.visible(found.summary()))


def selftest() -> None:
    """Put models whose answer is known by construction through every analysis."""
    with terminal.one_sentence_for_bad_input():
        with terminal.progress() as report:
            from workbench.report.selftest import selftest as put_to_the_test

            found = put_to_the_test(progress=report)
        terminal.table(
            ("", "analysis", "planted", "recovered", "measured", "bound"),
            [
                (
                    "✓" if row.right else "✗",
                    row.analysis,
                    row.planted,
                    row.recovered,
                    "" if row.measured is None else f"{row.measured:.4g}",
                    row.bound,
                )
                for row in found.rows
            ],
        )
        _say_recovered(found)
        if not found.passed:
            raise typer.Exit(1)


def _say_recovered(found: SelfTest) -> None:
    right = sum(row.right for row in found.rows)
    terminal.say(
        f"Self-test: {right} of {len(found.rows)} planted truths were recovered on this machine."
    )


def _say_where(files: Sequence[Path] | None) -> None:
    for path in files or ():
        terminal.say(f"saved in {path}")
