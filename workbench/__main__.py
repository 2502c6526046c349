"""The `workbench` command: models, patching, attribution, circuits and the app from a terminal.

Exit codes: 0 done, 2 wrong input (one sentence on standard error), 130 interrupted.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.commands import options, subject, terminal
from workbench.core.models import card

if TYPE_CHECKING:
    import numpy as np

    from analyses.activation_patching import Comparison, PatchingResult
    from analyses.attribution import EdgeAttribution, NodeAttribution, Verification
    from analyses.circuits import Circuit, FaithfulnessCurve
    from analyses.path_patching import PathPatchingResult

APP = Path(__file__).parent / "app.py"
# Rows of a table that is one of several.
_FEW = 10
_SOME = 20

app = typer.Typer(
    help="Ask a trained model what its weights and activations do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def models() -> None:
    """List the bundled models with what each was trained to do."""
    known = map(card.model_card, card.list_models())
    terminal.table(
        ("model", "what it is", "tasks (accuracy on held-out combinations)"),
        [
            (
                one.name,
                one.title,
                ", ".join(f"{b.task} {b.accuracy:.1%}" for b in one.behaviours),
            )
            for one in known
        ],
    )
    terminal.say("Any Hugging Face folder or hub name works in place of these.")


@app.command()
def patch(  # noqa: PLR0913 - one option a way to patch
    model: options.Model,
    *,
    task: options.Task = None,
    pairs: options.Pairs = None,
    n: options.Number = None,
    align: options.Align = False,
    site: options.Site = None,
    metric: options.Metric = None,
    direction: options.Direction = None,
    ablation: options.Ablation = None,
    reference: options.Reference = None,
    positions: options.Positions = None,
    layers: options.Layers = None,
    top: options.Top = None,
    compare: options.Compare = False,
    memory: options.Memory = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    output: options.Output = None,
) -> None:
    """Find which layer, position, head or neuron of a model carries a behaviour."""
    with terminal.one_sentence_for_bad_input():
        asked = subject.asked(task, pairs, n=n, seed=seed, align=align)
        one_run = options.given(
            direction=direction, ablation=ablation, layers=options.layers(layers), memory=memory
        )
        any_run = options.given(
            site=site,
            metric=metric,
            positions=options.positions(positions),
            reference=options.texts(reference),
            top=top,
        )
        _require_what_fits(one_run, compare=compare, reference=reference)
        with terminal.progress() as report:
            from analyses import activation_patching

            bridge, drawn = subject.load(model, asked, device=device, report=report)
            how: dict[str, Any] = {**any_run, "seed": seed, "progress": report}
            if compare:
                result = activation_patching.compare(bridge, drawn, **how)
            else:
                result = activation_patching.patch(bridge, drawn, **how, **one_run)
            if output is not None:
                terminal.save(result, output, {"effects": result.to_frame()})
        if isinstance(result, activation_patching.Comparison):
            _show_comparison(result)
        else:
            _show_patching(result)
        _say_where(output)


def _require_what_fits(one_run: dict[str, Any], *, compare: bool, reference: Path | None) -> None:
    if compare and one_run:
        raise ValueError(
            f"--compare makes every intervention in every layer, so --{next(iter(one_run))} has no "
            "place beside it: leave one of them out"
        )
    if reference is not None and not compare and one_run.get("ablation") != "mean":
        raise ValueError(
            "--reference holds the texts of a mean ablation: use it with --direction noising "
            "--ablation mean, or with --compare"
        )
    if one_run.get("memory", 1.0) <= 0:
        raise ValueError(f"--memory {one_run['memory']:g}: expected megabytes above 0")


def _show_patching(result: PatchingResult) -> None:
    terminal.checks(result.preflight)
    terminal.notes(result)
    bounds = result.interval if result.normalised else result.change_interval
    _show_effects(
        result,
        "cell",
        [
            (result.label(cell), result.shown[cell], bounds[:, *cell], result.adjusted_p[cell])
            for cell in result.strongest(len(result.units) or _FEW)
        ],
    )
    terminal.say(result.summary())


def _show_effects(
    result: PatchingResult | PathPatchingResult,
    what: str,
    strongest: Sequence[tuple[str, float, np.ndarray, float]],
) -> None:
    """A table of names, effects with their bounds, and adjusted p-values, strongest first."""
    terminal.table(
        ("rank", what, "effect", "adjusted p"),
        [
            (str(rank), name, terminal.number(effect, *bounds), f"{p:.2g}")
            for rank, (name, effect, bounds, p) in enumerate(strongest, start=1)
        ],
        title=f"{result.unit}, {result.confidence:.0%} intervals, n = {len(result.pairs)}",
    )


def _show_comparison(result: Comparison) -> None:
    rows = [
        [
            f"{cell} ⚑" if reason else cell,
            *(
                # The interval below its number, so that five of them stand side by side.
                terminal.number(result.effects[i, j], *result.interval[:, i, j]).replace(
                    " [", "\n["
                )
                for j in range(len(result.interventions))
            ),
        ]
        for i, (cell, reason) in enumerate(zip(result.cells, result.reasons, strict=True))
    ]
    terminal.notes(result)
    what = "fraction" if result.normalised else "change, not normalised"
    terminal.table(
        ("cell", *result.interventions),
        rows,
        title=f"{result.site} of {result.provenance.model} on {result.pairs.name}: {what}, "
        f"{result.confidence:.0%} intervals, n = {len(result.pairs)}",
    )
    if not result.flagged:
        terminal.say(result.summary())
        return
    apart = "more than chance and by a tenth" if result.normalised else "more than chance"
    terminal.say(f"{len(result.flagged)} of {len(rows)} cells disagree by {apart}:")
    for cell, reason in zip(result.cells, result.reasons, strict=True):
        if reason:
            terminal.say(f"⚑ {cell}: {reason}.")
    for sentence in result.left_out:
        terminal.say(sentence)


@app.command()
def attribute(  # noqa: PLR0913 - nodes and edges in one command
    model: options.Model,
    *,
    task: options.Task = None,
    pairs: options.Pairs = None,
    n: options.Number = None,
    align: options.Align = False,
    edges: options.Edges = False,
    method: options.Method = None,
    sites: options.Sites = None,
    metric: options.Slope = None,
    direction: options.Direction = None,
    verify_top: options.VerifyTop = 20,
    top: options.Rows = _SOME,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    output: options.Output = None,
) -> None:
    """Rank every node (or edge) by one gradient, and measure the top again exactly."""
    with terminal.one_sentence_for_bad_input():
        asked = subject.asked(task, pairs, n=n, seed=seed, align=align)
        shown = options.rows(top)
        if not edges and method is not None:
            raise ValueError("--method says how edges are scored: use it with --edges")
        if edges and sites is not None:
            raise ValueError("--sites says which nodes are ranked: leave it out with --edges")
        how = options.given(
            method=method,
            sites=options.names("--sites", sites),
            metric=metric,
            direction=direction,
        )
        with terminal.progress() as report:
            from analyses import attribution

            bridge, drawn = subject.load(model, asked, device=device, report=report)
            ask = attribution.attribute_edges if edges else attribution.attribute_nodes
            result = ask(bridge, drawn, **how, verify_top=verify_top, seed=seed, progress=report)
            if output is not None:
                _save_attribution(result, output)
        _show_attribution(result, shown)
        terminal.say(result.summary())
        _say_where(output)


def _save_attribution(result: NodeAttribution | EdgeAttribution, folder: Path) -> None:
    tables = {"ranking": result.ranking()}
    if result.verified is not None:
        tables["verified"] = result.verified.to_frame()
    terminal.save(result, folder, tables)


def _show_attribution(result: NodeAttribution | EdgeAttribution, n: int) -> None:
    ranking = result.ranking(n)
    name = "edge" if "edge" in ranking else "name"
    value = next(column for column in ("score", "effect", "change") if _is_known(ranking, column))
    exact = _exact_by_name(result.verified)
    titles = ["rank", name if name == "edge" else "node", "estimate"]
    shown = zip(ranking[name], ranking[value], ranking["low"], ranking["high"], strict=True)
    rows = [
        [str(rank), who, terminal.number(*numbers)]
        for rank, (who, *numbers) in enumerate(shown, start=1)
    ]
    if exact:
        titles.append("exact")
        for row in rows:
            row.append(exact.get(row[1], ""))
    title = f"{result.unit}, {result.confidence:.0%} intervals, n = {len(result.pairs)}"
    terminal.table(titles, rows, title=title)


def _is_known(ranking: Any, column: str) -> bool:
    return column in ranking and bool(ranking[column].notna().all())


def _exact_by_name(verified: Verification | None) -> dict[str, str]:
    """Exact value of each place that was measured again, with its interval."""
    if verified is None:
        return {}
    numbers = zip(verified.exact, *verified.exact_interval, strict=True)
    return {
        name: terminal.number(*map(float, three))
        for name, three in zip(verified.names, numbers, strict=True)
    }


@app.command()
def circuit(  # noqa: PLR0913 - three steps in one command
    model: options.Model,
    *,
    task: options.Task = None,
    pairs: options.Pairs = None,
    n: options.Number = None,
    target: options.Target = None,
    metric: options.Slope = None,
    method: options.Method = None,
    search: options.Search = None,
    held_out: options.HeldOut = 0.5,
    verify_top: options.VerifyTop = 30,
    curve: options.Curve = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    output: options.Output = None,
) -> None:
    """Screen all edges, verify the top exactly, and explain the behaviour by a circuit."""
    with terminal.one_sentence_for_bad_input():
        asked = subject.asked(task, pairs, n=n, seed=seed, usual=64)
        scoring: dict[str, Any] = {
            "method": method or "eap_ig",
            "metric": metric or "logit_difference",
            "seed": seed,
        }
        finding: dict[str, Any] = options.given(target=target, search=search)
        with terminal.progress() as report:
            from analyses import attribution, circuits
            from analyses.circuits import discovery
            from workbench.core.engine import running

            bridge, drawn = subject.load(model, asked, device=device, report=report)
            discovery.require_choices(scoring["method"], held_out)
            # The circuit is judged on pairs that the screening has not seen either.
            chosen, _ = discovery.split(len(drawn), held_out, seed)
            screened = attribution.attribute_edges(
                bridge,
                drawn.subset(chosen),
                **scoring,
                verify_top=verify_top,
                progress=running.part(report, 0.0, 0.2),
            )
            found = circuits.discover(
                bridge,
                drawn,
                **scoring,
                **finding,
                held_out=held_out,
                scores=screened,
                progress=running.part(report, 0.2, 0.9),
            )
            sizes = None
            if curve:
                sizes = circuits.faithfulness_curve(
                    bridge,
                    drawn,
                    **scoring,
                    held_out=held_out,
                    progress=running.part(report, 0.9, 1.0),
                )
            if output is not None:
                _save_circuit(found, screened, sizes, output)
        _show_screening(screened)
        _show_circuit(found)
        if sizes is not None:
            _show_curve(sizes)
        _say_where(output)


def _save_circuit(
    found: Circuit, screened: EdgeAttribution, sizes: FaithfulnessCurve | None, folder: Path
) -> None:
    terminal.save(found, folder, {"edges": found.to_frame()})
    _save_attribution(screened, folder / "attribution")
    if sizes is not None:
        terminal.save(sizes, folder / "curve", {"curve": sizes.to_frame()})


def _show_screening(screened: EdgeAttribution) -> None:
    n = len(screened.pairs)
    terminal.say(
        f"1. Screen: {int(screened.allowed.sum())} edges ranked by {screened.method} on the {n} "
        "pairs that choose the circuit."
    )
    _show_attribution(screened, _FEW)
    said = "2. Verify: no estimate was measured again exactly."
    if screened.verified is not None:
        said = f"2. Verify: {screened.verified.summary()}"
    terminal.say(" ".join([said, *screened.notes]))


def _show_circuit(found: Circuit) -> None:
    terminal.say("3. Explain: the circuit, and how much of the behaviour it carries by itself.")
    strongest = found.strongest(_SOME)
    terminal.table(
        ("edge", "fraction destroyed", "exact change", "estimated change"),
        [
            (
                found.edges[i],
                terminal.number(found.effects[i], *found.effect_interval[:, i]),
                terminal.number(found.exact[i], *found.exact_interval[:, i]),
                terminal.number(found.weights[i]),
            )
            for i in strongest
        ],
        title=f"The {len(strongest)} strongest of the circuit's {len(found.edges)} edges, each "
        f"corrupted by itself, {found.confidence:.0%} intervals",
    )
    terminal.say(found.summary())


def _show_curve(sizes: FaithfulnessCurve) -> None:
    points = zip(sizes.fractions, sizes.sizes, sizes.faithfulness, *sizes.interval, strict=True)
    random = sizes.random.mean(0)
    terminal.table(
        ("share of edges", "edges", "faithfulness", "random order"),
        [
            (f"{share:.1%}", str(count), terminal.number(*three), terminal.number(random[i]))
            for i, (share, count, *three) in enumerate(points)
        ],
        title="Faithfulness of the top edges at each size",
    )
    terminal.say(sizes.summary())


@app.command()
def paths(  # noqa: PLR0913 - Typer tells options apart by their annotations
    model: options.Model,
    *,
    task: options.Task = None,
    pairs: options.Pairs = None,
    n: options.Number = None,
    senders: options.From = None,
    receivers: options.To = None,
    through: options.Through = None,
    metric: options.Metric = None,
    direction: options.Direction = None,
    top: options.Rows = _SOME,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    output: options.Output = None,
) -> None:
    """Patch the paths from each head and MLP to chosen receivers, and nothing else."""
    with terminal.one_sentence_for_bad_input():
        asked = subject.asked(task, pairs, n=n, seed=seed)
        shown = options.rows(top)
        how = options.given(
            senders=options.names("--from", senders),
            receivers=options.names("--to", receivers),
            through=options.names("--through", through),
            metric=metric,
            direction=direction,
        )
        with terminal.progress() as report:
            from analyses import path_patching

            bridge, drawn = subject.load(model, asked, device=device, report=report)
            result = path_patching.path_patch(bridge, drawn, **how, seed=seed, progress=report)
            if output is not None:
                terminal.save(result, output, {"effects": result.to_frame()})
        terminal.checks(result.preflight)
        order = [result.senders.index(name) for name in result.strongest(shown)]
        _show_effects(
            result,
            "sender",
            [
                (result.senders[i], result.shown[i], result.bounds[:, i], result.adjusted_p[i])
                for i in order
            ],
        )
        terminal.say(result.summary())
        _say_where(output)


def _say_where(output: Path | None) -> None:
    if output is not None:
        terminal.say(f"saved in {output}")


@app.command("app")
def serve(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8501,
) -> None:
    """Open the workbench in the browser."""
    command = [sys.executable, "-m", "streamlit", "run", str(APP), "--server.port", str(port)]
    raise typer.Exit(subprocess.call(command))


if __name__ == "__main__":
    app()
