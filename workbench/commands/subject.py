"""What a command runs on: the model, and the pairs of a task or of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs


@dataclasses.dataclass(frozen=True)
class Asked:
    """Which pairs are asked for.

    Attributes:
        task: Named task, if they are drawn from one.
        file: File of pairs, if they are read from one.
        n: How many to draw from the task.
        seed: Seed of drawing them.
        align: Match the tokens of prompts that differ in length.
    """

    task: str | None
    file: Path | None
    n: int
    seed: int
    align: bool


def asked(
    task: str | None,
    file: Path | None,
    *,
    n: int | None,
    seed: int,
    align: bool = False,
    usual: int = 32,
) -> Asked:
    """Check that the options about pairs belong together.

    Args:
        task: Named task.
        file: File of pairs.
        n: How many to draw from the task; None for `usual`.
        seed: Seed of drawing them.
        align: Match the tokens of prompts that differ in length.
        usual: How many where nothing is said.

    Returns:
        The pairs that are asked for.

    Raises:
        ValueError: If there is no task and no file, or both, or an option of the other one.
    """
    if (task is None) == (file is None):
        raise ValueError("give either --task NAME or --pairs FILE, and not both")
    if file is not None and n is not None:
        raise ValueError("-n draws pairs from a --task; of --pairs FILE all are taken")
    if task is not None and align:
        raise ValueError("--align is for --pairs FILE; the pairs of a task have equal lengths")
    return Asked(task, file, usual if n is None else n, seed, align)


def load(
    model: str, pairs: Asked, *, device: str, report: Callable[[float, str], None]
) -> tuple[TransformerBridge, ContrastPairs]:
    """Load a model and make the pairs for it.

    Args:
        model: Bundled name, folder or hub name.
        pairs: Which pairs are asked for.
        device: Where the model goes.
        report: Told what is done.

    Returns:
        Both.

    Raises:
        ValueError: If one of them cannot be had.
    """
    from workbench.core.models import sources
    from workbench.core.prompts.pairs import ContrastPairs

    report(0.0, f"loading {model}")
    bridge = sources.load_model(model, device=device)
    if pairs.file is not None:
        return bridge, ContrastPairs.from_file(bridge, pairs.file, align=pairs.align)
    drawn = ContrastPairs.from_task(bridge, pairs.task or "", n=pairs.n, seed=pairs.seed)
    return bridge, drawn
