"""The `workbench` command: models, patching and the app from a terminal.

Exit codes: 0 done, 2 wrong input (one sentence on standard error), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Annotated

import rich.console
import rich.progress
import rich.table
import typer

from workbench.core.models import card

APP = Path(__file__).parent / "app.py"

app = typer.Typer(
    help="Ask a trained model what its weights and activations do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out = rich.console.Console()
_err = rich.console.Console(stderr=True)


@app.command()
def models() -> None:
    """List the bundled models with what each was trained to do."""
    table = rich.table.Table("model", "what it is", "tasks (accuracy on held-out combinations)")
    for name in card.list_models():
        known = card.model_card(name)
        accuracy = ", ".join(f"{b.task} {b.accuracy:.1%}" for b in known.behaviours)
        table.add_row(name, known.title, accuracy)
    _out.print(table)
    _out.print("Any Hugging Face folder or hub name works in place of these.")


@app.command()
def patch(  # noqa: PLR0917 - Typer tells arguments from options by their annotations
    model: Annotated[str, typer.Argument(help="Bundled name, Hugging Face folder or hub name.")],
    task: Annotated[str | None, typer.Option(help="Named task to draw pairs from.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="CSV, JSONL or JSON file of pairs.")] = None,
    n: Annotated[int, typer.Option(help="Pairs to draw from the task.")] = 32,
    site: Annotated[
        str, typer.Option(help="resid_pre, resid_post, attn_out, mlp_out, z, q, k or v.")
    ] = "resid_pre",
    metric: Annotated[str, typer.Option(help="Scalar to measure.")] = "logit_difference",
    direction: Annotated[str, typer.Option(help="denoising or noising.")] = "denoising",
    ablation: Annotated[
        str | None, typer.Option(help="zero, mean or resample; with --direction noising.")
    ] = None,
    positions: Annotated[str, typer.Option(help="each or all.")] = "each",
    seed: Annotated[int, typer.Option(help="Seed of pairs and bootstrap.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Result folder.")] = None,
) -> None:
    """Find which layer and position (or head) of a model carry a behaviour."""
    with _one_sentence_for_bad_input():
        if (task is None) == (pairs is None):
            raise ValueError("give either --task NAME or --pairs FILE, and not both")
        with _progress() as report:
            from analyses import activation_patching
            from workbench.core.models import sources
            from workbench.core.prompts.pairs import ContrastPairs

            report(0.0, f"loading {model}")
            subject = sources.load_model(model, device=device)
            asked = (
                ContrastPairs.from_file(subject, pairs)
                if pairs is not None
                else ContrastPairs.from_task(subject, task or "", n=n, seed=seed)
            )
            result = activation_patching.patch(
                subject,
                asked,
                site=site,
                metric=metric,
                direction=direction,
                ablation=ablation,
                positions=positions,
                seed=seed,
                progress=report,
            )
            folder = result.save(output) if output is not None else None
        for check in result.preflight.checks:
            _out.print(f"{check.mark} {check.name}: {check.detail}", markup=False)
        _out.print(result.summary(), markup=False)
        if folder is not None:
            result.to_frame().to_csv(folder / "effects.csv", index=False)
            result.figure().write_html(folder / "figure.html", include_plotlyjs=True)
            _out.print(f"saved in {folder}", markup=False)


@app.command("app")
def serve(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8501,
) -> None:
    """Open the workbench in the browser."""
    command = [sys.executable, "-m", "streamlit", "run", str(APP), "--server.port", str(port)]
    raise typer.Exit(subprocess.call(command))


@contextlib.contextmanager
def _one_sentence_for_bad_input() -> Generator[None]:
    try:
        yield
    except ValueError as error:
        _err.print(f"workbench: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        _err.print("workbench: interrupted; nothing was saved")
        raise typer.Exit(130) from error


@contextlib.contextmanager
def _progress() -> Generator[Callable[[float, str], None]]:
    """A rich progress bar on standard error; gone when the run is over."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=_err, transient=True) as bar:
        row = bar.add_task("starting", total=1.0)
        yield lambda fraction, note: bar.update(row, completed=fraction, description=note)


if __name__ == "__main__":
    app()
