"""Memory: how many prompts and how many rows go together, so that a run stays under its budget.

A sweep keeps two runs of a batch of prompts (half of the budget) and recomputes rows of patched
runs (the other half). What does not fit is split into more batches; at least one prompt and one
run go through in any case.
"""

from __future__ import annotations

from typing import Any

# Megabytes beside the model, where nobody says otherwise.
DEFAULT_MEGABYTES = 1024.0
# More rows than this are no faster together: the matrix products are as large as they need be.
_ENOUGH_ROWS = 8192
# On a CPU a larger activation than this is given back to the system after each use, and taking its
# pages anew costs a quarter of the time of a GPT-2's sweep.
_PAGES = 16e6
_KEPT_RUNS = 2


def prompts(cfg: Any, length: int, megabytes: float, *, kept_logits: bool) -> int:
    """Most prompts of one length in a batch.

    Args:
        cfg: The bridge's configuration.
        length: Positions of a prompt.
        megabytes: Budget of the whole sweep.
        kept_logits: Whether a forward pass makes logits of every position, as the plain way does.

    Returns:
        At least one.
    """
    heads = int(cfg.n_heads) * int(cfg.d_head)
    # Stream, two outputs, queries, keys and values with their rotations, head outputs.
    layer = 3 * int(cfg.d_model) + 6 * heads + int(cfg.d_mlp or 0) + int(cfg.n_heads) * length
    kept = _KEPT_RUNS * int(cfg.n_layers) * layer
    logits = 2 * int(cfg.d_vocab) if kept_logits else 0
    return max(1, int(megabytes * 1e6 / 2 // (_bytes(cfg) * length * (kept + logits))))


def rows(cfg: Any, megabytes: float) -> int:
    """Most rows (one position of one patched run) that go through the layers together.

    Args:
        cfg: The bridge's configuration.
        megabytes: Budget of the whole sweep.

    Returns:
        At least one.
    """
    heads = int(cfg.n_heads) * int(cfg.d_head)
    # Stream, its normalised copy, outputs, the MLP's inside; queries, keys, values, head outputs.
    row = 6 * int(cfg.d_model) + 4 * int(cfg.d_mlp or 0) + 8 * heads
    most = min(_ENOUGH_ROWS, int(megabytes * 1e6 / 2 // (_bytes(cfg) * row)))
    if str(cfg.device).startswith("cpu"):
        widest = max(int(cfg.d_mlp or 0), int(cfg.d_model), heads)
        most = min(most, int(_PAGES // (_bytes(cfg) * widest)))
    return max(1, most)


def logit_rows(cfg: Any, vocabulary: int, megabytes: float) -> int:
    """Most runs whose logits over so many tokens are held together; at least one."""
    return max(1, int(megabytes * 1e6 / 4 // (_bytes(cfg) * 4 * vocabulary)))


def _bytes(cfg: Any) -> int:
    return int(cfg.dtype.itemsize)
