"""Options of the commands: what they are called, what they mean, and how their texts are read.

An option that is not given is None, so that a default is written once: in the analysis.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Argument(help="Bundled name, Hugging Face folder or hub name.")]
Task = Annotated[str | None, typer.Option(help="Named task to draw pairs from.")]
Pairs = Annotated[Path | None, typer.Option(help="CSV, JSONL or JSON file of pairs.")]
Number = Annotated[
    int | None,
    typer.Option("-n", "--n", help="Pairs to draw from the task (32; for a circuit 64)."),
]
Align = Annotated[
    bool, typer.Option("--align", help="Match the tokens of --pairs that differ in length.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Result folder.")]
Again = Annotated[
    bool, typer.Option("--again", help="Compute anew what an equal command has stored.")
]

Metric = Annotated[
    str | None,
    typer.Option(
        help="logit_difference (default), probability, kl_divergence, cross_entropy or rank."
    ),
]
Slope = Annotated[
    str | None,
    typer.Option(help="logit_difference (default), probability, kl_divergence or cross_entropy."),
]
Direction = Annotated[str | None, typer.Option(help="denoising or noising.")]
Positions = Annotated[
    str | None,
    typer.Option(
        help="each, all, pairs (of query and key), or position sets with commas: names such as "
        "'last token', or indices such as -1."
    ),
]

Site = Annotated[
    str | None,
    typer.Option(
        help="resid_pre (default; with --compare z), resid_post, attn_out, mlp_out, z, q, k, v, "
        "pattern or neuron."
    ),
]
Ablation = Annotated[
    str | None, typer.Option(help="zero, mean or resample; with --direction noising.")
]
Layers = Annotated[str | None, typer.Option(help="Only these, with commas: 1,2.")]
Top = Annotated[
    int | None,
    typer.Option(help="How many neurons to measure (20), or cells to --compare (12)."),
]
Compare = Annotated[
    bool, typer.Option("--compare", help="Both directions and every ablation in one table.")
]
Reference = Annotated[
    Path | None,
    typer.Option(help="Texts that the mean ablation averages over, one a line."),
]
Memory = Annotated[float | None, typer.Option(help="Most megabytes beside the model (1024).")]

Edges = Annotated[bool, typer.Option("--edges", help="Edges between components, not nodes.")]
Method = Annotated[str | None, typer.Option(help="How edges are scored: eap or eap_ig.")]
Sites = Annotated[
    str | None, typer.Option(help="Nodes of these sites, with commas: resid_pre,z,neuron.")
]
VerifyTop = Annotated[
    int, typer.Option(help="How many of the largest estimates to measure exactly.")
]
Rows = Annotated[int, typer.Option("--top", help="Rows of the table.")]

Target = Annotated[float | None, typer.Option(help="Faithfulness to reach (0.9).")]
Search = Annotated[
    str | None, typer.Option(help="Begin with all edges (prune) or with the top ones (grow).")
]
HeldOut = Annotated[
    float, typer.Option(help="Share of the pairs kept apart for the final faithfulness.")
]
Curve = Annotated[
    bool, typer.Option("--curve", help="Also measure faithfulness at every circuit size.")
]

From = Annotated[
    str | None, typer.Option("--from", help="Senders, with commas: a0.h1,m2; all by default.")
]
To = Annotated[
    str | None,
    typer.Option("--to", help="Receivers, with commas: a3.h1<q>,m2; logits by default."),
]
Through = Annotated[
    str | None, typer.Option(help="Components that paths may go through, with commas.")
]

_WORDS = ("each", "all", "pairs")
# A larger file is no list of prompts.
_MAX_TEXT_BYTES = 50_000_000


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, as keyword arguments.

    Args:
        **options: Values by name; None where an option was not given.

    Returns:
        Those that are not None.
    """
    return {name: value for name, value in options.items() if value is not None}


def names(option: str, text: str | None) -> tuple[str, ...] | None:
    """Names with commas between them.

    Args:
        option: What the option is called, for messages.
        text: What was typed; None for nothing.

    Returns:
        The names; None for nothing.

    Raises:
        ValueError: If one of them is empty.
    """
    if text is None:
        return None
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise ValueError(f"{option} {text!r}: expected names with single commas between them")
    return found


def rows(count: int) -> int:
    """Rows of a table.

    Args:
        count: How many are asked for.

    Returns:
        The same.

    Raises:
        ValueError: If there are none.
    """
    if count < 1:
        raise ValueError(f"--top {count}: expected 1 row or more")
    return count


def layers(text: str | None) -> tuple[int, ...] | None:
    """Layers with commas between them.

    Args:
        text: What was typed; None for nothing.

    Returns:
        The layers; None for nothing.

    Raises:
        ValueError: If one of them is no number.
    """
    found = names("--layers", text)
    if found is None:
        return None
    if not all(name.isdecimal() for name in found):
        raise ValueError(f"--layers {text!r}: expected numbers with commas, for example 1,2")
    return tuple(map(int, found))


def positions(text: str | None) -> str | list[str | int] | None:
    """Where to patch: one of three words, or position sets.

    Args:
        text: What was typed; None for nothing.

    Returns:
        The word, or a list of names and indices; None for nothing.

    Raises:
        ValueError: If a set is empty.
    """
    if text is None or text in _WORDS:
        return text
    found = names("--positions", text) or ()
    return [int(name) if re.fullmatch(r"-?\d+", name) else name for name in found]


def texts(file: Path | None) -> tuple[str, ...] | None:
    """The lines of a text file that are not blank.

    Args:
        file: Its path; None for nothing.

    Returns:
        The lines; None for nothing.

    Raises:
        ValueError: If it cannot be read, is too large, or has no such line.
    """
    if file is None:
        return None
    try:
        if file.stat().st_size > _MAX_TEXT_BYTES:
            raise ValueError(f"{file} is larger than {_MAX_TEXT_BYTES / 1e6:.0f} MB: keep a part")
        content = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text (byte {error.start})") from error
    lines = tuple(line.strip() for line in content.splitlines() if line.strip())
    if not lines:
        raise ValueError(f"{file} has no text: expected one a line")
    return lines
