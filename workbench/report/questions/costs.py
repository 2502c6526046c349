"""What a question about a model's graph will cost, before it is begun.

1. A forward pass of clean prompts is timed, the quicker one of two: the first has to warm up.
2. A run of the graph is worth at least one pass of its prompts, so their number gives the least
   time; the outputs of all components of all prompts, clean and corrupted, give the memory.

Limits: a lower bound, so that nothing is refused that would have fitted. What takes longer after
all is stopped by the audit's limit of time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from workbench.core.engine import graph, running

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs
    from workbench.report.examining import Examination


def components(model: TransformerBridge) -> tuple[str, ...]:
    """Heads and MLPs of a model.

    Args:
        model: The bridge.

    Returns:
        Their names, as in a circuit.

    Raises:
        ValueError: If the model cannot be taken apart into its components.
    """
    whole = graph.Graph.of_model(model)
    return tuple(name for name in whole.senders if whole.kind_of(name) != "input")


def require_runs(examination: Examination, pairs: ContrastPairs, runs: int) -> None:
    """Refuse runs of the graph that the limits do not allow.

    Args:
        examination: The model and its limits.
        pairs: Of which one half is run.
        runs: How many sets of edges at the least.

    Raises:
        NotExamined: If they would take longer, or more memory, than is left.
    """
    model: Any = examination.model
    indices = pairs.groups()[-1]
    times = [_seconds(model, pairs.batch(indices)[0]) for _ in range(2)]
    seconds = min(times) * len(pairs) / len(indices) / 2 * runs
    width = int(model.cfg.d_model) * int(model.cfg.dtype.itemsize)
    positions = max(pairs.lengths(i)[0] for i in range(len(pairs)))
    outputs = (len(components(model)) + 1) * len(pairs) / 2 * positions * width
    examination.require(seconds=seconds, megabytes=2 * outputs / 1e6)


def _seconds(model: TransformerBridge, tokens: torch.Tensor) -> float:
    started = time.perf_counter()
    running.run(model, tokens)
    return time.perf_counter() - started
