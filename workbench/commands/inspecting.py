"""`workbench inspect`: what happens in a model on one prompt, and what its weights are, as tables.

Each view is an analysis of its own; this runs those that are asked for, prints their tables, and
saves their results and figures in a folder a view.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.commands import answering, options, terminal

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.prompt import Prompt
    from workbench.core.results import Result

Written = Annotated[str, typer.Option("--prompt", help="Text that the model reads.")]
Answer = Annotated[
    str | None,
    typer.Option(
        help="A single token whose logit is taken apart, with its leading space if it has one; the "
        "most probable one by default."
    ),
]
Wrong = Annotated[
    str | None, typer.Option(help="Another token, whose logit is taken off; none by default.")
]
Position = Annotated[
    int, typer.Option(help="Which position the tables are about; -1 is the last one.")
]
Views = Annotated[
    str | None,
    typer.Option(
        "--look",
        help="Only these, with commas: lens, attribution, attention, contributions, activations, "
        "weights.",
    ),
]
Report = Callable[[float, str], None]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is looked at.

    Attributes:
        model: The bridge.
        prompt: What it reads.
        position: Which position the tables are about.
        answer: Token whose logit is taken apart.
        wrong: Another token, whose logit is taken off.
        rows: Rows of a table.
        seed: Of everything random.
        ask: Asks an analysis.
    """

    model: TransformerBridge
    prompt: Prompt
    position: int
    answer: str | int
    wrong: str | None
    rows: int
    seed: int
    ask: answering.Asking


@dataclasses.dataclass(frozen=True)
class View:
    """What was found, to be shown and saved.

    Attributes:
        results: Name of a folder to a result.
        show: Prints the tables.
    """

    results: dict[str, Result]
    show: Callable[[], None]


def inspect(  # noqa: PLR0913 - one option a thing to ask
    model: options.Model,
    *,
    prompt: Written,
    answer: Answer = None,
    wrong: Wrong = None,
    position: Position = -1,
    look: Views = None,
    top: options.Rows = 10,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    again: options.Again = False,
    output: options.Output = None,
) -> None:
    """See what a model does with a prompt, layer by layer and head by head, and what it weighs."""
    with terminal.one_sentence_for_bad_input():
        chosen = _chosen(look)
        rows = options.rows(top)
        with answering.asking(again=again) as ask, terminal.progress() as report:
            from workbench.core.engine import continuation, running
            from workbench.core.models import sources
            from workbench.core.prompts.prompt import Prompt

            report(0.0, f"loading {model}")
            bridge = sources.load_model(model, device=device)
            read = Prompt.of(bridge, prompt)
            at = read.position(position)
            if answer is None:
                (answer,) = continuation.likely_answers(bridge, read, position=at, k=1) or ("",)
            asked = Asked(bridge, read, at, answer, wrong, rows, seed, ask)
            found: list[View] = []
            for i, name in enumerate(chosen):
                part = running.part(report, 0.1 + 0.9 * i / len(chosen), 1.0)
                part(0.0, f"looking at {name}")
                found.append(_VIEWS[name](asked, part))
            if output is not None:
                for view in found:
                    for folder, result in view.results.items():
                        terminal.save(result, output / folder, {folder: result.to_frame()})
        for view in found:
            view.show()
            for result in view.results.values():
                terminal.say(result.summary())
        if output is not None:
            terminal.say(f"saved in {output}")


def _chosen(look: str | None) -> Sequence[str]:
    names = options.names("--look", look) or tuple(_VIEWS)
    if unknown := [name for name in names if name not in _VIEWS]:
        raise ValueError(f"--look {unknown[0]!r}: expected some of {', '.join(_VIEWS)}")
    return names


def _lens(at: Asked, report: Report) -> View:
    from analyses import logit_lens

    asked = [one for one in (at.answer, at.wrong) if one is not None]
    found = at.ask(logit_lens.read, at.model, at.prompt, tokens=asked)

    def show() -> None:
        cells = [found.at(row, at.position) for row in range(len(found.rows))]
        titles = [f"rank of {one.text!r}" for one in cells[0].asked]
        terminal.table(
            ("after", "it would say", "entropy", "KL to the end", *titles),
            [
                (
                    cell.row,
                    ", ".join(f"{one.text!r} {one.probability:.1%}" for one in cell.top[:3]),
                    f"{cell.entropy:.2f}",
                    f"{cell.divergence:.2f}",
                    *(f"{one.rank:,} ({one.probability:.1%})" for one in cell.asked),
                )
                for cell in cells
            ],
            title=f"Logit lens at position {at.position} ({at.prompt.tokens[at.position]!r})",
        )

    return View({"lens": found}, show)


def _attribution(at: Asked, report: Report) -> View:
    from analyses import direct_attribution

    found = at.ask(
        direct_attribution.attribute,
        at.model,
        at.prompt,
        at.answer,
        wrong=at.wrong,
        position=at.position,
    )

    def show() -> None:
        terminal.table(
            ("part", "share"),
            [(name, f"{found.share(name):+.3f}") for name in found.largest[: at.rows]],
            title=f"Parts of {found.asked} at position {at.position}, in logits",
        )
        terminal.table(
            ("neuron", "share"),
            [(name, f"{share:+.3f}") for name, share in list(found.neurons().items())[: at.rows]],
            title="Neurons among them",
        )

    return View({"attribution": found}, show)


def _attention(at: Asked, report: Report) -> View:
    from analyses import attention

    found = at.ask(attention.look, at.model, at.prompt)
    scores = at.ask(attention.score_heads, at.model, seed=at.seed, progress=report)

    def show() -> None:
        frame = scores.to_frame()
        ordered = sorted(frame.to_dict("records"), key=lambda row: -row["excess"])
        terminal.table(
            ("head", "label", "score", "null", "p"),
            [
                (
                    row["head"],
                    row["about"],
                    f"{row['score']:.2f}",
                    f"{row['null']:.2f}",
                    f"{row['p']:.2g}",
                )
                for row in ordered
                if row["label"]
            ],
            title="Heads with a label",
        )

    return View({"attention": found, "head-scores": scores}, show)


def _contributions(at: Asked, report: Report) -> View:
    from analyses import contributions

    found = at.ask(contributions.trace, at.model, at.prompt, target=at.position, progress=report)

    def show() -> None:
        routes = found.routes()
        frame = found.to_frame().iloc[routes]
        moved = frame[frame["kind"].isin(["head", "mlp"])].sort_values("flow", ascending=False)
        terminal.table(
            ("edge", "share", "of the update", "of what reaches the position"),
            [
                (
                    found.told(found.edge(i)),
                    f"{row['share']:.1%}",
                    _percent(row["share_of_update"]),
                    f"{row['flow']:.3f}",
                )
                for i, row in zip(moved.index[: at.rows], moved.to_dict("records"), strict=False)
            ],
            title=f"Routes to position {at.position}",
        )

    return View({"contributions": found}, show)


def _activations(at: Asked, report: Report) -> View:
    from analyses import activations

    found = at.ask(activations.stream, at.model, at.prompt, seed=at.seed, progress=report)

    def show() -> None:
        rows = found.to_frame().to_dict("records")
        terminal.table(
            ("depth", "norm", "first position", "random updates", "anisotropy"),
            [
                (
                    row["depth"],
                    terminal.number(row["norm"], row["norm low"], row["norm high"]),
                    terminal.number(row["norm of the first position"]),
                    terminal.number(row["norm, random updates"]),
                    terminal.number(row["anisotropy"]),
                )
                for row in rows
            ],
            title="Residual stream",
        )

    return View({"stream": found}, show)


def _weights(at: Asked, report: Report) -> View:
    from analyses import weights

    table = at.ask(weights.matrices, at.model, progress=report)
    heads = at.ask(weights.copying, at.model, seed=at.seed, progress=report)

    def show() -> None:
        terminal.table(
            ("matrix", "shape", "norm", "largest", "effective rank", "of a random one", "beyond"),
            [
                (
                    row["matrix"],
                    f"{row['rows']} × {row['columns']}",
                    terminal.number(row["frobenius"]),
                    terminal.number(row["spectral"]),
                    terminal.number(row["effective_rank"]),
                    terminal.number(row["random_rank"]),
                    f"{row['outside']}",
                )
                for row in table.to_frame().to_dict("records")
                if not row["matrix"].startswith("head ")
            ],
            title="Matrices",
        )
        terminal.table(
            ("head", "copying", "p", "matching", "p"),
            [
                (
                    f"{row['layer']}.{row['head']}",
                    f"{row['copying']:+.2f}",
                    f"{row['copying_adjusted_p']:.2g}",
                    f"{row['matching']:+.2f}",
                    f"{row['matching_adjusted_p']:.2g}",
                )
                for row in heads.to_frame().to_dict("records")[: at.rows]
            ],
            title="Heads that copy most",
        )

    return View({"matrices": table, "copying": heads}, show)


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:+.1%}"


_VIEWS: dict[str, Callable[[Asked, Report], View]] = {
    "lens": _lens,
    "attribution": _attribution,
    "attention": _attention,
    "contributions": _contributions,
    "activations": _activations,
    "weights": _weights,
}
