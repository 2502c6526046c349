"""Reports: what would an audit of this model say?

1. Pick a model and choose what is asked of it, or bring a spec as a file; take the spec along.
2. Run the audit. It may take minutes, goes on when the page is left, and can be cancelled.
3. Read the report: verdicts, the most important findings, a section for each question, and what the
   audit cannot tell. Its link stays; take it along as HTML, PDF or JSON.
"""

from __future__ import annotations

import pprint
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from workbench.core import plots, runs
from workbench.core.models import card
from workbench.core.prompts import tasks
from workbench.report import spec as specs
from workbench.report import wording
from workbench.ui import addresses, escaping, jobs, reports, showing, steps, subject, tables

if TYPE_CHECKING:
    from workbench.report.document import Exhibit, Report, Section

NEW = "a new audit"
CHOOSING, FILE = "by choosing", "from a file"
QUESTIONS = {
    "sites": "which site carries it",
    "localization": "is it localized",
    "circuit": "its circuit",
    "units": "single units",
    "concepts": "concepts",
    "training": "the training story",
}
# Behaviour, or question, and field, with what a reader calls it.
THRESHOLDS = {
    ("behaviour", "accuracy"): "Accuracy",
    ("behaviour", "logit_difference"): "Logit difference",
    ("sites", "effect"): "Largest effect of a site",
    ("localization", "components"): "Share of components needed",
    ("circuit", "faithfulness"): "Faithfulness of the circuit",
    ("circuit", "size"): "Share of connections in the circuit",
    ("training", "test_loss"): "Test loss at the end of training",
}


def pick_report() -> str:
    """The report in the address, or a new audit."""
    kept = reports.listed()
    asked = st.query_params.get("report", NEW)
    if asked != NEW and asked not in kept and reports.find(asked) is None:
        st.info("This report is not stored on this machine.")
        asked = NEW
    # One of many may be older than those that are listed.
    older = [] if asked == NEW or asked in kept else [asked]
    options = [NEW, *older, *kept]
    # The address is what counts; the widget follows it, also when the page itself changes it.
    st.session_state["chosen report"] = asked

    def label(name: str) -> str:
        found = None if name == NEW else reports.find(name)
        if found is None:
            return name
        when = f"{found.created:%Y-%m-%d %H:%M} UTC"
        return wording.visible(f"{wording.title(found)}, {found.verdict}, {when}")

    def follow() -> None:
        reopen(st.session_state["chosen report"])

    return st.selectbox("Report", options, format_func=label, key="chosen report", on_change=follow)


def reopen(name: str) -> None:
    """Put a report into the address, or take it out."""
    if name == NEW:
        st.query_params.pop("report", None)
    else:
        st.query_params["report"] = name


def build(model: str) -> None:
    """Choose the spec, show it, and run the audit."""
    from workbench.report import spec_files

    way = st.segmented_control(
        "The spec",
        (CHOOSING, FILE),
        default=CHOOSING,
        key="spec",
        required=True,
        bind="query-params",
    )
    try:
        spec = uploaded(model) if way == FILE else chosen(model)
    except spec_files.SpecError as error:
        for problem in error.problems:
            st.error(escaping.markdown(problem))
        return
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return
    if spec is None:
        return
    text = spec_files.to_yaml(spec)
    with st.expander("The spec as YAML, for `workbench audit --spec`"):
        st.code(text, language="yaml")
        st.download_button("Spec (YAML)", text, "audit.yaml", "application/yaml", on_click="ignore")
    tested = st.toggle(
        "Test the workbench itself, too",
        value=True,
        key="selftest",
        bind="query-params",
        help="Models whose answer is known by construction are put through every analysis, on this "
        "machine. The table is the report's appendix. It takes about 15 seconds.",
    )
    run(model, spec, tested)


def uploaded(model: str) -> specs.AuditSpec | None:
    """A spec out of a file.

    Raises:
        ValueError: If it is none, or is about another model.
    """
    from workbench.report import spec_files

    file = st.file_uploader(
        "Spec (YAML)",
        type=["yaml", "yml"],
        help="As `workbench audit --init` writes it. It stays on this machine.",
    )
    if file is None:
        return None
    try:
        text = file.getvalue().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is not UTF-8: save it as UTF-8 text") from error
    spec = spec_files.read_text(text, file.name)
    if spec.model.name != model:
        raise ValueError(
            f"{file.name} is about {spec.model.name!r}, and {model!r} is picked above: pick the "
            "model that the spec is about"
        )
    st.caption(escaping.markdown(f"Files that it names are looked for in {reports.folder()}."))
    return spec


def chosen(model: str) -> specs.AuditSpec:
    """A spec out of the controls."""
    own = card.model_card(model).tasks if model in card.list_models() else ()
    names = [*own, *(name for name in tasks.TASKS if name not in own)]
    left, right = st.columns([4, 1])
    behaviours = left.multiselect(
        "Behaviours",
        names,
        key="behaviours",
        bind="query-params",
        placeholder="Those that the model is known for, or shows",
    )
    n = right.number_input(
        "Pairs of each",
        2,
        10_000,
        64,
        key="n",
        bind=addresses.whole_number("n"),
        disabled=not behaviours,
    )
    asked = st.pills(
        "Questions",
        list(QUESTIONS),
        selection_mode="multi",
        default=list(QUESTIONS),
        format_func=QUESTIONS.__getitem__,
        key="asked",
        bind="query-params",
    )
    questions: dict[str, dict[str, Any]] = {name: {"ask": name in asked} for name in QUESTIONS}
    with st.expander("Numbers of the questions"):
        choose_numbers(questions)
    with st.expander("Thresholds: where a finding passes and where it fails"):
        judged = choose_thresholds(questions)
    with st.expander("Title, limits and seed"):
        more = choose_limits()
    # A behaviour that is not named is found by the audit, with thresholds as they are.
    return specs.AuditSpec.model_validate(
        {
            "model": {"name": model},
            "behaviours": [{"task": name, "n": n, **judged} for name in behaviours],
            "questions": questions,
            **more,
        }
    )


def choose_numbers(questions: dict[str, dict[str, Any]]) -> None:
    """The main numbers of each question."""
    known = specs.Questions()
    one, two, three, four, five = st.columns(5)
    questions["circuit"]["random"] = one.number_input(
        "Random circuits", 19, 10_000, known.circuit.random, key="random"
    )
    questions["units"]["most"] = two.number_input("Units", 0, 20, known.units.most, key="units")
    questions["units"]["tokens"] = three.number_input(
        "Tokens read for them", 100, 10_000_000, known.units.tokens, 1000, key="tokens"
    )
    questions["concepts"]["most"] = four.number_input(
        "Concepts", 0, 20, known.concepts.most, key="concepts"
    )
    questions["concepts"]["n"] = five.number_input(
        "Inputs of each", 50, 1_000_000, known.concepts.n, 100, key="inputs"
    )
    left, right = st.columns(2)
    questions["units"]["units"] = listed(
        left.text_input(
            "Units by name", key="unit-names", placeholder="neuron 1.199, head 2.1; none: chosen"
        )
    )
    questions["concepts"]["concepts"] = listed(
        right.text_input(
            "Concepts by name", key="concept-names", placeholder="gender; none: chosen"
        )
    )


def listed(text: str) -> list[str]:
    """Names with semicolons or commas between them; a comma with "=" behind it is of a name."""
    parts = text.split(";") if ";" in text or "=" in text else text.split(",")
    return [part.strip() for part in parts if part.strip()]


def choose_thresholds(questions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Thresholds of the questions, which are filled in, and of behaviours, which are returned."""
    st.caption("Accuracy and logit difference are of behaviours that are named above.")
    judged: dict[str, Any] = {}
    for (name, field), label in THRESHOLDS.items():
        kind = specs.Behaviour if name == "behaviour" else type(getattr(specs.Questions(), name))
        usual: specs.Threshold = kind.model_fields[field].default
        says, passes, warns = st.columns([3, 1, 1], vertical_alignment="center")
        says.markdown(f"{label}: {'more' if usual.more_is_better else 'less'} is better")
        asked = {
            "pass": passes.number_input("Passes at", value=usual.passes, key=f"pass:{field}"),
            "warn": warns.number_input("Fails beyond", value=usual.warns, key=f"warn:{field}"),
        }
        (judged if name == "behaviour" else questions[name])[field] = asked
    return judged


def choose_limits() -> dict[str, Any]:
    """Title, limits, seed and confidence."""
    usual = specs.Limits()
    title = st.text_input("Title", specs.AuditSpec().title, max_chars=specs.LONGEST, key="title")
    one, two, three, four = st.columns(4)
    return {
        "title": title.strip() or specs.AuditSpec().title,
        "limits": {
            "minutes": one.number_input("Minutes", 0.1, 10_080.0, usual.minutes, key="minutes"),
            "gigabytes": two.number_input("Gigabytes", 0.1, 4096.0, usual.gigabytes, key="gb"),
        },
        "seed": three.number_input(
            "Seed", 0, 2**31 - 1, 0, key="seed", bind=addresses.whole_number("seed")
        ),
        "confidence": four.number_input("Confidence", 0.51, 0.999, 0.95, 0.01, key="confidence"),
    }


def run(model: str, spec: specs.AuditSpec, tested: bool) -> None:
    """The button, the progress, and at the end the report in the address."""
    key = jobs.job_key("audit", model, spec.plain(), tested)
    shelf, folder = subject.shelf(), reports.folder()

    def work(report: jobs.Report) -> str:
        from workbench.report import audit

        report(0.0, "opening the model")
        found = audit(
            shelf.open(model, lambda _, note: report(0.0, note)),
            spec,
            store=runs.RunStore(),
            folder=folder,
            selftest=tested,
            progress=report,
        )
        return reports.keep(found)

    cost = f"at most {jobs.duration(60 * spec.limits.minutes)}"
    made = steps.asked(key, work, button=f"Run the audit ({cost})", label=f"Auditing {model}")
    if made is not None:
        reopen(made)
        st.rerun()


def show(report: Report, name: str) -> None:
    """The whole report, from the verdicts to the manifest."""
    made = report.manifest
    st.header(said(wording.title(report)))
    st.caption(
        said(
            f"{made.model}, fingerprint {made.fingerprint[:16]}…, {report.created:%Y-%m-%d %H:%M} "
            f"UTC, seed {made.seed}"
        )
    )
    st.markdown(f"**{wording.OVERALL[report.verdict]}**")
    counted = wording.counts(report)
    for place, (verdict, count) in zip(st.columns(len(counted)), counted, strict=True):
        place.metric(f"{wording.SIGNS[verdict]} {wording.WORDS[verdict]}", count)
    st.subheader("The most important findings")
    for finding in wording.headlines(report):
        st.markdown(
            f"**{wording.SIGNS[finding.verdict]} {said(finding.statement)}**  \n"
            f"{said(finding.evidence)}  \n*Caveat:* {said(finding.caveat)}"
        )
    st.subheader("Verdicts")
    st.markdown(
        tables.markdown(
            [
                {
                    "verdict": f"{wording.SIGNS[one.verdict]} {wording.WORDS[one.verdict]}",
                    "question": wording.TITLES[one.question],
                    "about": wording.visible(one.about),
                    "finding": wording.visible(one.reason or one.statement),
                }
                for one in report.findings
            ]
        )
    )
    if report.sections:
        show_section(report, name)
    st.subheader("What this audit cannot tell")
    for limit in report.limits:
        st.markdown(f"- {said(limit)}")
    showing.fold(
        "The workbench on itself: what it recovered of what was planted",
        lambda: show_selftest(report),
    )
    showing.fold("The manifest: what is needed to compute it again", lambda: show_manifest(report))
    take_along(report, name)
    showing.code(script(report))


def show_manifest(report: Report) -> None:
    """All that computing a report again takes, and its spec."""
    for title, rows in wording.manifest_rows(report):
        if rows:
            st.markdown(f"**{title}**")
            st.dataframe(pd.DataFrame(rows, columns=["name", "value"]), hide_index=True)
    st.code(wording.spec_text(report), language="yaml")


def said(text: str) -> str:
    """Text of a report as Markdown that shows it as it is."""
    return escaping.markdown(wording.visible(text))


def show_section(report: Report, name: str) -> None:
    """One section: the answer, its figures and tables, and every number."""
    sections = {one.id: one for one in report.sections}
    asked = st.selectbox(
        "Section",
        list(sections),
        format_func=lambda one: wording.visible(sections[one].title),
        key=f"section:{name}",
    )
    section: Section = sections[asked]
    labels = wording.labels(report)
    st.subheader(said(section.asked))
    st.markdown(said(section.summary))
    for index, exhibit in enumerate(section.exhibits):
        show_exhibit(exhibit, labels[section.id, index], f"{name}:{section.id}:{index}")
    if section.measured:
        rows = [wording.measured_row(one) for one in section.measured]
        st.dataframe(visible(rows, wording.MEASURED_COLUMNS), hide_index=True)
    st.markdown(f"*How:* {said(section.method)}")
    for caveat in section.caveats:
        st.markdown(f"- {said(caveat)}")
    if section.papers:
        st.caption(said("Source: " + "; ".join(section.papers)))


def show_exhibit(exhibit: Exhibit, label: str, key: str) -> None:
    """A figure or a table with its caption."""
    if exhibit.figure is not None:
        try:
            drawn = go.Figure(exhibit.figure).update_layout(template=plots.TEMPLATE)
        except ValueError:
            st.caption("This figure cannot be drawn: its file was changed.")
        else:
            showing.figure(drawn, key=key)
    if exhibit.table is not None:
        st.dataframe(visible(exhibit.table.rows, exhibit.table.columns), hide_index=True)
        if exhibit.table.left_out:
            st.caption(f"{exhibit.table.left_out:,} more rows are left out.")
    st.caption(said(f"{label}. {exhibit.caption}"))


def visible(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> pd.DataFrame:
    """A table in which no character hides."""
    shown = [[wording.visible(x) if isinstance(x, str) else x for x in row] for row in rows]
    return pd.DataFrame(shown, columns=list(map(wording.visible, columns)))


def show_selftest(report: Report) -> None:
    """The table of planted truths, or that it was not made."""
    if report.selftest is None:
        st.markdown("The self-test was not run with this audit.")
        return
    columns = ("recovered", "analysis", "planted", "what was found", "measured", "bound")
    rows = [
        (
            "yes" if row.right else "no",
            row.analysis,
            row.planted,
            row.recovered,
            row.measured,
            row.bound,
        )
        for row in report.selftest.rows
    ]
    st.dataframe(visible(rows, columns), hide_index=True)


def take_along(report: Report, name: str) -> None:
    """Downloads, each made when it is asked for."""

    def html() -> str:
        from workbench.report import html as page

        return page.render(report)

    def pdf() -> bytes:
        from workbench.report import pdf as document

        return document.render(report)

    formats = (
        ("HTML (one file, works offline)", html, "html", "text/html"),
        ("PDF", pdf, "pdf", "application/pdf"),
        ("JSON (every number)", report.to_json, "json", "application/json"),
    )
    for place, (label, make, ending, kind) in zip(st.columns(3), formats, strict=True):
        place.download_button(label, make, f"audit-{name}.{ending}", kind, on_click="ignore")
    st.caption(
        "Whoever gets it can compute every number in it again: `workbench reproduce` with the file."
    )


def script(report: Report) -> list[str]:
    """Python code that makes the report again."""
    spec = report.manifest.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    files = bool(report.manifest.inputs)
    lines = ["from pathlib import Path", ""] if files else []
    where = f", folder=Path({str(reports.folder())!r})" if files else ""
    return [
        *lines,
        "from workbench.report import AuditSpec, audit",
        "",
        "spec = AuditSpec.model_validate(",
        *(f"    {line}" for line in pprint.pformat(spec, width=90).splitlines()),
        ")",
        f"report = audit({report.manifest.model!r}, spec{where})",
        "for finding in report.findings:",
        "    print(finding.verdict, finding.statement, finding.reason)",
    ]


selected = pick_report()
if selected == NEW:
    picked = subject.pick()
    if picked is not None:
        build(picked)
else:
    opened = reports.find(selected)
    if opened is not None:
        show(opened, selected)
