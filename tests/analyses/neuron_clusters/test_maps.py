"""The map of a network: each unit has one square, in the order that is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from analyses.neuron_clusters import maps

PLACE = np.repeat([0, 1, 2], [3, 5, 1])
NAMES = [f"p{place}.{i}" for i, place in enumerate(PLACE)]
VALUES = np.array([0.1, 0.9, np.nan, 0.5, 0.4, 0.3, 0.2, 0.6, 0.7])


def test_units_stand_by_value_or_by_number() -> None:
    by_value = maps.laid_out(["a", "b", "c"], PLACE, VALUES)
    assert by_value.unit.tolist() == [[1, 0, 2, -1, -1], [7, 3, 4, 5, 6], [8, -1, -1, -1, -1]]
    by_number = maps.laid_out(["a", "b", "c"], PLACE, VALUES, order="number")
    assert by_number.unit.tolist() == [[0, 1, 2, -1, -1], [3, 4, 5, 6, 7], [8, -1, -1, -1, -1]]
    spread = by_value.spread(VALUES)
    assert spread[1].tolist() == [0.6, 0.5, 0.4, 0.3, 0.2]
    assert np.isnan(spread[0, 2:]).all()


def test_a_click_finds_its_unit_and_marks_are_drawn_below_it() -> None:
    layout = maps.laid_out(["a", "b", "c"], PLACE, VALUES)
    figure: Any = maps.number_map(layout, NAMES, VALUES, title="AUC", marked=[3, 8])
    dots, last = figure.data[-2], figure.data[-1]
    assert sorted(zip(dots.x, dots.y, strict=True)) == [(0, 2), (1, 1)]
    # Row-major, a marker a square: what `plots.heatmap` promises of its last trace.
    assert len(last.x) == layout.unit.size


def test_clusters_have_colours_and_the_rest_is_grey() -> None:
    layout = maps.laid_out(["a", "b", "c"], PLACE, VALUES)
    labels = np.array([0, 0, 1, 2, -1, 1, 1, 0, -1])
    figure: Any = maps.cluster_map(layout, NAMES, labels)
    grid = figure.data[0]
    assert (grid.zmin, grid.zmax) == (-1.5, 2.5)
    assert grid.colorbar.ticktext == ("none", "0", "1", "2")
    colours = {colour for _, colour in grid.colorscale}
    assert len(colours) == 4
    assert grid.z[2][0] == -1
