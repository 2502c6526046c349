"""Small tables as Markdown: on screen at once, before pandas and the browser's grid are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.ui import escaping


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Write rows as a Markdown table; text in cells is shown as it is.

    Args:
        rows: One mapping a row, all with the keys of the first.

    Returns:
        The table; empty for no rows.
    """
    if not rows:
        return ""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_cell(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: object) -> str:
    return escaping.markdown(f"{value:.4g}" if isinstance(value, float) else f"{value}")
