from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
import pytest

from workbench.core import plots


def traces(figure: go.Figure) -> list[Any]:
    return list(cast("Any", figure).data)


def layout(figure: go.Figure) -> Any:
    return cast("Any", figure).layout


def grid(values: list[list[float]], **arguments: Any) -> go.Figure:
    array = np.array(values, dtype=np.float64)
    return plots.heatmap(
        array,
        row_labels=[f"L{i}" for i in range(array.shape[0])],
        column_labels=[f"c{i}" for i in range(array.shape[1])],
        row_title="layer",
        column_title="position",
        colour_title="effect",
        **arguments,
    )


def test_whitespace_in_tokens_is_visible() -> None:
    assert plots.token_labels([" Mary", "\n", "\t", "", "a b"], numbered=False) == [
        "·Mary",
        "↵",
        "⇥",
        "∅",
        "a·b",
    ]


def test_tags_in_tokens_are_text() -> None:
    hostile = '<a href="http://example.org">x</a>'
    [label] = plots.token_labels([hostile[:20]], numbered=False)
    assert label == '&lt;a·href="http://exam'
    assert "<" not in plots.escape(hostile)


def test_what_cannot_be_seen_is_shown_as_its_code_point() -> None:
    assert plots.token_labels(["\u202e", "\x00"], numbered=False) == ["U+202E", "U+0000"]


def test_a_long_token_is_cut() -> None:
    [label] = plots.token_labels(["x" * 100], numbered=False)
    assert label == "x" * 23 + "…"


def test_repeated_tokens_get_labels_of_their_own() -> None:
    assert plots.token_labels([" a", " a"]) == ["0 ·a", "1 ·a"]
    assert plots.token_labels(["a", "b", "a"], numbered=False) == ["a", "b", "a (2)"]


def test_the_colours_are_centred_on_zero() -> None:
    heat = traces(grid([[0.5, -2.0], [1.0, float("nan")]]))[0]
    assert (heat.zmin, heat.zmax) == (-2.0, 2.0)
    assert heat.colorscale[0][1] != heat.colorscale[-1][1]


def test_magnitudes_run_from_the_least_to_the_most() -> None:
    heat = traces(grid([[3.0, 5.0]], scale="sequential"))[0]
    assert (heat.zmin, heat.zmax) == (3.0, 5.0)


@pytest.mark.parametrize("scale", ["diverging", "sequential"])
@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_constant_or_empty_grid_still_has_a_range(scale: str, value: float) -> None:
    heat = traces(grid([[value, value]], scale=scale))[0]
    assert heat.zmin < heat.zmax


def test_layers_grow_upward_and_positions_run_to_the_right() -> None:
    figure = grid([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert layout(figure).yaxis.range == (-0.5, 1.5)
    assert layout(figure).xaxis.range == (-0.5, 2.5)
    assert layout(figure).yaxis.ticktext == ("L0", "L1")
    assert traces(figure)[0].z[1][0] == 4.0


def test_each_cell_has_a_marker_that_says_what_it_is() -> None:
    figure = grid([[1.0, float("nan")], [0.25, -4.0]], hover=np.array([["a", "b"], ["c", "d"]]))
    markers = traces(figure)[-1]
    assert list(zip(markers.y, markers.x, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert list(markers.customdata) == [
        "L0 · c0<br><b>1</b><br>a",
        "L0 · c1<br><b>no value</b><br>b",
        "L1 · c0<br><b>0.25</b><br>c",
        "L1 · c1<br><b>-4</b><br>d",
    ]


def test_many_cells_are_drawn_by_webgl() -> None:
    assert isinstance(traces(grid([[0.0] * 50] * 50))[-1], go.Scatter)
    assert isinstance(traces(grid([[0.0] * 51] * 50))[-1], go.Scattergl)


def test_masked_cells_are_greyed_and_do_not_stretch_the_colours() -> None:
    figure = grid([[1.0, 100.0]], mask=np.array([[False, True]]))
    heat, grey, _ = traces(figure)
    assert heat.zmax == 1.0
    assert np.isnan(grey.z[0][0]) and grey.z[0][1] == 1.0


def test_the_selected_cell_is_framed() -> None:
    shapes = layout(grid([[1.0, 2.0], [3.0, 4.0]], selected=(1, 0))).shapes
    assert {(s.x0, s.x1, s.y0, s.y1) for s in shapes} == {(-0.5, 0.5, 0.5, 1.5)}


def test_many_columns_get_fewer_ticks() -> None:
    ticks = layout(grid([[0.0] * 100])).xaxis
    assert len(ticks.tickvals) <= 48
    assert ticks.ticktext[1] == f"c{ticks.tickvals[1]}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"selected": (0, 2)}, r"cell \(0, 2\) is outside"),
        ({"mask": np.zeros((2, 1), dtype=bool)}, r"mask of shape \(1, 2\), found \(2, 1\)"),
        ({"hover": np.full((2, 2), "x")}, r"hover of shape \(1, 2\), found \(2, 2\)"),
    ],
)
def test_what_does_not_fit_the_grid_is_an_error(arguments: dict[str, Any], message: str) -> None:
    # Asked directly: while tests run, jaxtyping's own check of the shapes would come first.
    fitting = {"selected": None} | arguments
    with pytest.raises(ValueError, match=message):
        plots._check_grid(np.zeros((1, 2)), ["L0"], ["a", "b"], **fitting)


def test_labels_must_fit_the_grid() -> None:
    with pytest.raises(ValueError, match="1 rows and 2 columns, found 2 and 2"):
        plots.heatmap(
            np.zeros((1, 2)),
            row_labels=["a", "b"],
            column_labels=["a", "b"],
            row_title="",
            column_title="",
            colour_title="",
        )


def test_bars_carry_their_intervals() -> None:
    values = np.array([1.0, -2.0])
    figure = plots.bars(
        values, np.array([0.5, -2.5]), np.array([1.25, -1.0]), labels=["a", "b"], value_title="y"
    )
    [bar] = traces(figure)
    assert list(bar.y) == [1.0, -2.0]
    assert list(bar.error_y.array) == [0.25, 1.0]
    assert list(bar.error_y.arrayminus) == [0.5, 0.5]


def test_bars_need_a_label_each_and_whole_intervals() -> None:
    with pytest.raises(ValueError, match="expected 2 labels, one a bar, found 1"):
        plots.bars(np.zeros(2), labels=["a"], value_title="")
    with pytest.raises(ValueError, match="both ends"):
        plots.bars(np.zeros(1), np.zeros(1), labels=["a"], value_title="")


def test_a_line_has_its_band_beneath_it() -> None:
    x = np.array([0.0, 1.0])
    bounds = np.array([[0.0, 1.0], [2.0, 3.0]])
    figure = plots.line(
        x, {"loss": x + 1}, x_title="step", y_title="nats", bands={"loss": bounds}, log_y=True
    )
    band, curve = traces(figure)
    # One closed outline: along the lower bound, and back along the upper one.
    assert list(band.x)[:-1] == [0.0, 1.0, 1.0, 0.0]
    assert list(band.y)[:-1] == [0.0, 1.0, 3.0, 2.0]
    assert band.fill == "toself" and curve.name == "loss"
    assert layout(figure).yaxis.type == "log" and layout(figure).xaxis.type == "linear"
    with pytest.raises(ValueError, match="bands for"):
        plots.line(x, {"a": x}, x_title="", y_title="", bands={"b": bounds})


def test_a_band_leaves_a_gap_where_it_is_not_known() -> None:
    x = np.arange(5.0)
    bounds = np.stack([x, x + 1])
    bounds[0, 2] = np.nan
    figure = plots.line(x, {"a": x}, x_title="", y_title="", bands={"a": bounds})
    outline = np.array(traces(figure)[0].x, dtype=float)
    assert np.array_equal(outline, [0, 1, 1, 0, np.nan, 3, 4, 4, 3, np.nan], equal_nan=True)


def test_a_figure_is_plain_json_without_being_changed() -> None:
    figure = grid([[1.0, np.nan]])
    spec = plots.spec(figure)
    assert json.loads(json.dumps(spec, allow_nan=False)) == spec
    assert spec["data"][0]["z"] == [[1.0, None]]
    assert spec["layout"]["height"] == layout(figure).height
    assert isinstance(traces(figure)[0].z, np.ndarray)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.float32(0.5), 0.5),
        (np.array([1, 2]), [1, 2]),
        (np.array([True, False]), [True, False]),
        (np.array([0.5, np.inf]), [0.5, None]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([[{"b": math.nan}]], dtype=object), [[{"b": None}]]),
        ((None, -math.inf, "a"), [None, None, "a"]),
        ({1: Path("a")}, {"1": "a"}),
    ],
    ids=repr,
)
def test_values_in_plain_json(value: object, said: object) -> None:
    assert plots.plain(value) == said


def layered(**arguments: Any) -> go.Figure:
    """Two edges from input to a head, one of them negative, and one from the head to the logits."""
    return plots.layered_graph(
        ["input", "a0.h0", "logits"],
        np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 2.0]]),
        np.array([[0, 1], [0, 1], [1, 2]]),
        np.array([0.5, -1.0, 2.0]),
        row_labels=["input", "L0", "logits"],
        value_title="effect",
        **arguments,
    )


def test_an_edge_of_a_layered_graph_is_found_by_the_custom_data_of_its_marker() -> None:
    markers = traces(layered(hover=["q", "k", "out"]))[-1]
    assert list(markers.customdata) == [0, 1, 2]
    assert list(markers.text) == ["q", "k", "out"]
    assert list(markers.marker.color) == [0.5, -1.0, 2.0]


def test_negative_edges_are_red_and_positive_ones_blue_on_a_scale_centred_on_zero() -> None:
    drawn = [trace for trace in traces(layered()) if trace.mode == "lines"]
    widths = {(trace.line.color, trace.line.width) for trace in drawn}
    # Sizes 0.5, 1 and 2 are a quarter, half and all of six widths, rounded up.
    assert widths == {(plots.COLOURS[0], 2), (plots.COLOURS[1], 3), (plots.COLOURS[0], 6)}
    marker = traces(layered())[-1].marker
    assert (marker.cmin, marker.cmax) == (-2.0, 2.0)


def test_edges_run_from_node_to_node_and_two_of_the_same_ends_lie_apart() -> None:
    figure = layered()
    drawn = {trace.line.width: trace for trace in traces(figure) if trace.mode == "lines"}
    for width in (2, 3):
        points = np.column_stack([drawn[width].x, drawn[width].y])[:-1]
        np.testing.assert_allclose(points[[0, -1]], [[0, 0], [1, 1]])
    first, second = (np.column_stack([drawn[w].x, drawn[w].y])[6] for w in (2, 3))
    assert second[0] - first[0] > 0.1


def test_a_selected_edge_is_drawn_again_in_black_over_white() -> None:
    colours = [t.line.color for t in traces(layered(selected=2)) if t.mode == "lines"]
    assert colours[-2:] == ["#ffffff", "#111111"]


def test_rows_of_a_layered_graph_grow_upward_under_their_labels() -> None:
    axis = layout(layered()).yaxis
    assert list(axis.ticktext) == ["input", "L0", "logits"]
    assert list(axis.tickvals) == [0, 1, 2]


def test_a_layered_graph_without_edges_can_be_drawn() -> None:
    figure = plots.layered_graph(
        ["input"],
        np.zeros((1, 2)),
        np.zeros((0, 2), dtype=np.int64),
        np.zeros(0),
        row_labels=["input"],
        value_title="effect",
    )
    assert len(traces(figure)[-1].x) == 0


def test_a_selected_edge_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="edge 3 does not exist; there are 3 edges"):
        layered(selected=3)


def test_hover_texts_of_a_layered_graph_are_one_an_edge() -> None:
    with pytest.raises(ValueError, match="expected 3 hover texts, one an edge, found 1"):
        layered(hover=["only one"])
