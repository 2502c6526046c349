"""The `workbench` command: models, patching, circuits, grokking, audits and the app.

Exit codes: 0 done, 1 something that was checked does not hold, 2 wrong input (one sentence on
standard error), 3 a report is about another model, 130 interrupted.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.commands import (
    answering,
    auditing,
    clusters,
    features,
    grokking,
    inspecting,
    options,
    runs,
    subject,
    terminal,
)
from workbench.core.models import card

if TYPE_CHECKING:
    import numpy as np

    from analyses.activation_patching import Comparison, PatchingResult
    from analyses.attribution import EdgeAttribution, NodeAttribution, Verification
    from analyses.circuits import Circuit, FaithfulnessCurve
    from analyses.grokking.changes import Changes
    from analyses.grokking.drops import Drops
    from analyses.grokking.sweep import Sweep
    from analyses.grokking.tracking import ProgressMeasures
    from analyses.path_patching import PathPatchingResult
    from workbench.core.modular.run import TrainingRun

APP = Path(__file__).parent / "app.py"
# Rows of a table that is one of several.
_FEW = 10
_SOME = 20
# Checkpoints of a run in a table.
_CHECKPOINTS = 8

app = typer.Typer(
    help="Ask a trained model what its weights and activations do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
grok = typer.Typer(
    help="Train networks on arithmetic, and see how and when they generalise.",
    no_args_is_help=True,
)
app.add_typer(grok, name="grok")
app.add_typer(features.app, name="features")
app.add_typer(clusters.app, name="clusters")
app.add_typer(runs.app, name="runs")
app.command()(inspecting.inspect)
app.command()(auditing.audit)
app.command()(auditing.reproduce)
app.command()(auditing.compare)
app.command()(auditing.selftest)


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
    again: options.Again = False,
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
        with answering.asking(again=again) as ask, terminal.progress() as report:
            from analyses import activation_patching

            bridge, drawn = subject.load(model, asked, device=device, report=report)
            how: dict[str, Any] = {**any_run, "seed": seed, "progress": report}
            if compare:
                result = ask(activation_patching.compare, bridge, drawn, **how)
            else:
                result = ask(activation_patching.patch, bridge, drawn, **how, **one_run)
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
    again: options.Again = False,
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
        with answering.asking(again=again) as ask, terminal.progress() as report:
            from analyses import attribution

            bridge, drawn = subject.load(model, asked, device=device, report=report)
            how |= {"verify_top": verify_top, "seed": seed, "progress": report}
            if edges:
                result = ask(attribution.attribute_edges, bridge, drawn, **how)
            else:
                result = ask(attribution.attribute_nodes, bridge, drawn, **how)
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
    again: options.Again = False,
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
        with answering.asking(again=again) as ask, terminal.progress() as report:
            from analyses import attribution, circuits
            from analyses.circuits import discovery
            from workbench.core.engine import running

            bridge, drawn = subject.load(model, asked, device=device, report=report)
            discovery.require_choices(scoring["method"], held_out)
            # The circuit is judged on pairs that the screening has not seen either.
            chosen, _ = discovery.split(len(drawn), held_out, seed)
            screened = ask(
                attribution.attribute_edges,
                bridge,
                drawn.subset(chosen),
                **scoring,
                verify_top=verify_top,
                progress=running.part(report, 0.0, 0.2),
            )
            found = ask(
                circuits.discover,
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
                sizes = ask(
                    circuits.faithfulness_curve,
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
    again: options.Again = False,
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
        with answering.asking(again=again) as ask, terminal.progress() as report:
            from analyses import path_patching

            bridge, drawn = subject.load(model, asked, device=device, report=report)
            result = ask(path_patching.path_patch, bridge, drawn, **how, seed=seed, progress=report)
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


@grok.command("train")
def grok_train(  # noqa: PLR0913 - one option a field of the task
    *,
    p: grokking.Modulus = None,
    operation: grokking.Operation = None,
    fraction: grokking.Fraction = None,
    seed: grokking.Seed = None,
    noise: grokking.Noise = None,
    recipe: grokking.RecipeName = None,
    changes: grokking.Set = None,
    steps: grokking.Steps = None,
    stop: grokking.Stop = "grokked",
    device: options.Device = "auto",
    output: grokking.Folder = None,
) -> None:
    """Train a network, or go on with a training that was stopped: give the same command again."""
    with terminal.one_sentence_for_bad_input():
        from workbench.core.modular import run, training

        ends = grokking.read_stop(stop)
        asked = options.given(p=p, operation=operation, fraction=fraction, seed=seed, noise=noise)
        if (
            output is not None
            and (output / "run.json").is_file()
            and not (asked or recipe or changes or steps)
        ):
            # A folder by itself says what was asked for.
            begun = run.open_run(output)
            task, how = begun.task, begun.recipe
        else:
            task = grokking.read_task(**asked)
            how = grokking.read_recipe(recipe, changes, steps)
        folder = run.folder_of(task, how) if output is None else output
        with terminal.says_how_to_go_on(), terminal.progress() as report:
            with terminal.stopping_between_steps(report) as checked:
                made = training.train(
                    task, how, folder=folder, stop=ends, device=device, progress=checked
                )
        terminal.say(made.summary())
        terminal.say(f"kept in {folder}")


@grok.command("track")
def grok_track(
    name: grokking.RunName, *, again: options.Again = False, output: options.Output = None
) -> None:
    """Measure every checkpoint of a run: its phases, its key frequencies, its losses."""
    with terminal.one_sentence_for_bad_input():
        run = grokking.find_run(name)
        with answering.asking(again=again) as ask, terminal.progress() as report:
            from analyses.grokking import tracking
            from analyses.grokking.phases import phases

            measures = ask(tracking.track, run, progress=report)
            found = None
            try:
                found = ask(phases, measures)
                said = found.summary()
            except ValueError as error:
                said = f"No phases could be read off: {error}."
            if output is not None:
                terminal.save(measures, output, {"measures": measures.to_frame()})
                if found is not None:
                    terminal.save(found, output / "phases", {"phases": found.to_frame()})
        _show_measures(run, measures)
        terminal.say(measures.summary())
        terminal.say(said)
        _say_where(output)


def _show_measures(run: TrainingRun, measures: ProgressMeasures) -> None:
    columns = {
        "train loss": measures.train_loss,
        "test loss": measures.test_loss,
        "test accuracy": measures.test_accuracy,
        "restricted": measures.restricted_loss,
        "excluded": measures.excluded_loss,
        "logits explained": measures.logit_explained,
        "Gini of W_E": measures.gini_embedding,
        "Σw²": measures.squared_weights,
    }
    # A measure that an operation has no theory for is left out.
    shown = {title: values for title, values in columns.items() if not all(map(math.isnan, values))}
    last = len(measures.steps) - 1
    # Checkpoints are dense where something happens, so even steps through them show it.
    rows = sorted({round(i * last / (_CHECKPOINTS - 1)) for i in range(_CHECKPOINTS)})
    terminal.table(
        ("step", *shown),
        [
            (f"{measures.steps[row]:,}", *(f"{values[row]:.3g}" for values in shown.values()))
            for row in rows
        ],
        title=f"{len(rows)} of {last + 1} checkpoints of {run.name}; losses in nats a pair",
    )


@grok.command("sweep")
def grok_sweep(  # noqa: PLR0913 - one option a field of the task
    *,
    vary: grokking.Vary,
    seeds: grokking.Seeds = 4,
    p: grokking.Modulus = None,
    operation: grokking.Operation = None,
    fraction: grokking.Fraction = None,
    noise: grokking.Noise = None,
    recipe: grokking.RecipeName = None,
    changes: grokking.Set = None,
    steps: grokking.Steps = None,
    stop: grokking.Stop = "grokked",
    jobs: grokking.Jobs = 1,
    device: options.Device = "auto",
    again: options.Again = False,
    output: options.Output = None,
) -> None:
    """Ask how the time to generalise depends on one or two settings, over several seeds."""
    with terminal.one_sentence_for_bad_input():
        task = grokking.read_task(p=p, operation=operation, fraction=fraction, noise=noise)
        how = grokking.read_recipe(recipe, changes, steps)
        values = grokking.read_vary(vary)
        ends = grokking.read_stop(stop)
        with (
            terminal.says_how_to_go_on(),
            answering.asking(again=again) as ask,
            terminal.progress() as report,
        ):
            from analyses.grokking.sweep import sweep

            with terminal.stopping_between_steps(report) as checked:
                found = ask(
                    sweep,
                    task,
                    how,
                    vary=values,
                    seeds=range(seeds),
                    stop=ends,
                    device=device,
                    aside={"n_jobs": jobs},
                    progress=checked,
                )
            if output is not None:
                terminal.save(found, output, {"runs": found.to_frame()})
        _show_sweep(found)
        terminal.say(found.summary())
        _say_where(output)


def _show_sweep(found: Sweep) -> None:
    terminal.table(
        ("setting", "median step of grokking", "censored", "test accuracy (mean)"),
        [
            (
                found.label(i),
                found.time_label(i),
                f"{sum(map(math.isnan, found.grokked_at[i]))} of {len(found.seeds)}",
                f"{found.test_accuracy[i].mean():.1%}",
            )
            for i in range(len(found.settings))
        ],
        title=f"{found.task.operation} mod {found.task.p}, n = {len(found.seeds)} seeds a setting",
    )


@grok.command("drops")
def grok_drops(  # noqa: PLR0913 - a file or a run
    file: grokking.File = None,
    *,
    run: grokking.RunOption = None,
    column: grokking.Column = None,
    level: grokking.Level = None,
    minimum: grokking.Minimum = None,
    seed: options.Seed = 0,
    again: options.Again = False,
    output: options.Output = None,
) -> None:
    """Find sudden drops of a loss, and in a run of one's own what changed inside."""
    with terminal.one_sentence_for_bad_input():
        if (file is None) == (run is None):
            raise ValueError("give either a FILE or --run RUN, and not both")
        if run is not None and column is not None:
            raise ValueError("--column chooses a curve of a FILE; of --run it is the test loss")
        inside: list[tuple[int, Changes | str]] = []
        with answering.asking(again=again) as ask, terminal.progress() as report:
            from analyses.grokking import curves, drops
            from workbench.core.engine import running

            trained = grokking.find_run(run) if run is not None else None
            if trained is None:
                curve = curves.read_curve(file or "", column=column)
            else:
                tested = trained.curves.arrays()
                curve = curves.Curve(
                    tested["test_steps"], tested["test_loss"], "test loss", trained.name
                )
            how = options.given(level=level, minimum=minimum)
            found = ask(
                drops.detect_drops,
                curve,
                **how,
                seed=seed,
                progress=running.part(report, 0.0, 0.5),
            )
            if trained is not None:
                inside = _looked_inside(ask, trained, found, seed, running.part(report, 0.5, 1.0))
            if output is not None:
                terminal.save(found, output, {"drops": found.to_frame()})
                for step, change in inside:
                    if not isinstance(change, str):
                        place = output / f"changes-{step}"
                        terminal.save(change, place, {"changes": change.to_frame()})
        _show_drops(found)
        terminal.say(found.summary())
        for step, change in inside:
            if isinstance(change, str):
                terminal.say(f"Inside at step {step:,}: {change}.")
            else:
                _show_changes(step, change)
        _say_where(output)


def _looked_inside(
    ask: answering.Asking,
    run: TrainingRun,
    found: Drops,
    seed: int,
    report: Callable[[float, str], None],
) -> list[tuple[int, Changes | str]]:
    """What changed at each drop, or why that cannot be said."""
    from analyses.grokking import changes, swapping
    from workbench.core.engine import running

    inside: list[tuple[int, Changes | str]] = []
    for i, (step, start, end) in enumerate(zip(found.steps, found.starts, found.ends, strict=True)):
        own = running.part(report, i / len(found.steps), (i + 1) / len(found.steps))
        try:
            around = ask(changes.what_changed_at, run, (start, end), seed=seed, progress=own)
        except swapping.ChangesError as error:
            inside.append((step, str(error)))
        else:
            inside.append((step, around))
    return inside


def _show_drops(found: Drops) -> None:
    if not found.steps:
        return
    places = zip(found.steps, found.starts, found.ends, strict=True)
    numbers = zip(found.sizes, found.sharpness, found.p_values, strict=True)
    terminal.table(
        ("step", "from", "to", "dex", "dex a decade of steps", "p"),
        [
            (*(f"{step:,}" for step in three), *(f"{value:.2g}" for value in more))
            for three, more in zip(places, numbers, strict=True)
        ],
        title=f"Sudden drops of {found.name}",
    )


def _show_changes(step: int, change: Changes) -> None:
    values, bounds = change.shown()
    cells = [(mode, direction) for mode in range(2) for direction in range(2)]
    terminal.table(
        (
            "component",
            "put into the earlier",
            "taken out of the later",
            "put in, weights alone",
            "taken out, weights alone",
            "weights moved by",
        ),
        [
            (
                f"{name} ⚑" if name in change.flagged else name,
                *(
                    terminal.number(values[*cell, i], *bounds[:, *cell, i]).replace(" [", "\n[")
                    for cell in cells
                ),
                f"{change.weight_change[i]:.0%}",
            )
            for name in change.strongest()
            for i in [change.components.index(name)]
        ],
        title=f"What changed inside at step {step:,} ({change.names[0]} to {change.names[1]}): "
        f"{change.unit}, {change.confidence:.0%} intervals, n = {change.n}",
    )
    terminal.say(change.summary())


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
