"""How selectivity looks: a map of the whole network, and curves of its probes.

1. The map (`maps`) has a row for each place and a square for each of its units, in their own order
   or from the largest effect to the smallest.
2. Probes are a curve of F1 by size, beside random units (the band holds all draws), all units, and
   always saying yes.

Source: Olah et al. 2020 for families of units side by side; Gurnee et al. 2023 for the curves.

Units: AUC less one half (blue: larger with the concept, red: smaller), or R².

Limits: those of `maps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from analyses.neuron_clusters import maps
from workbench.core import plots

if TYPE_CHECKING:
    from analyses.neuron_clusters.probes import Probes
    from analyses.neuron_clusters.selectivity import Selectivity


def laid_out(found: Selectivity, order: str) -> maps.NetworkMap:
    """Where each unit stands on the map.

    Args:
        found: The effects.
        order: Of a place's units: from the largest "value" on, or by "number".

    Returns:
        The map.
    """
    return maps.laid_out(found.places, found.place, found.effect, order=order)


def network_map(
    found: Selectivity,
    order: str,
    *,
    marked: Sequence[int] = (),
    selected: plots.Cell | None = None,
) -> go.Figure:
    """Draw every unit as a square.

    Args:
        found: The effects.
        order: Of a place's units.
        marked: Units that get a dot.
        selected: Square to outline.

    Returns:
        The figure; `laid_out` says which unit a square is.
    """
    return maps.number_map(
        laid_out(found, order),
        [
            f"{name}: {found.measure} {effect:.3f}, adjusted p {p:.2g}"
            for name, effect, p in zip(found.names, found.effect, found.discovery_p, strict=True)
        ],
        found.effect if found.graded else found.effect - 0.5,
        title="R²" if found.graded else "AUC less 1/2",
        marked=marked,
        selected=selected,
        scale="sequential" if found.graded else "diverging",
    )


def probe_curves(found: Probes) -> go.Figure:
    """Draw F1 by the number of units.

    Args:
        found: The probes.

    Returns:
        The figure.
    """
    sizes = np.array([probe.size for probe in found.each])
    random = np.array([probe.random_f1 for probe in found.each]).reshape(len(sizes), -1)
    flat = np.ones(len(sizes))
    figure = plots.line(
        sizes,
        {
            "best units": np.array([probe.f1 for probe in found.each], dtype=np.float64),
            "random units": random.mean(1),
            f"all {found.whole.size:,} units": found.whole.f1 * flat,
            "always yes": found.always * flat,
        },
        x_title="units in the probe",
        y_title="F1 on other rows",
        bands={"random units": np.stack([random.min(1), random.max(1)])},
        log_x=True,
    )
    figure.update_traces(mode="lines+markers", selector={"name": "best units"})
    figure.update_xaxes(tickvals=sizes.tolist(), ticktext=[str(size) for size in sizes])
    return figure.update_yaxes(range=[0, 1.02])
