"""Figures without a browser: what Plotly's JSON says is what matplotlib draws, or a named refusal.

The last class draws the figures of real results of the main analyses.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from matplotlib import collections, colors, lines, patches
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import workbench
from analyses import activation_patching, circuits, direct_attribution, neuron_clusters
from analyses.feature_visualization import top_examples
from analyses.grokking import pictures
from tests.report import example
from workbench import ContrastPairs
from workbench.core import plots
from workbench.core.models import anatomy
from workbench.core.modular import network
from workbench.core.planted import known_clusters, modular_adder
from workbench.core.prompts.corpus import Corpus
from workbench.report import exhibits, figures, vector
from workbench.report.document import Table
from workbench.report.vector import notes, page


def json_of(figure: go.Figure) -> dict[str, Any]:
    kept = exhibits.figure(figure, "a figure").figure
    assert kept is not None
    return kept


def built(figure: go.Figure) -> Figure:
    return vector.built(json_of(figure))


def axes_of(figure: go.Figure) -> list[Axes]:
    """The axes of panels and colour bars, without the paper behind them."""
    return built(figure).axes[1:]


def ticks(ax: Axes, letter: str) -> list[str]:
    labels = ax.get_xticklabels() if letter == "x" else ax.get_yticklabels()
    return [one.get_text() for one in labels if one.get_text()]


def filled(cells: Any) -> np.ndarray:
    """Numbers of a heat map, NaN where a cell is blank."""
    return np.ma.filled(cells.get_array(), np.nan)


class TestScatter:
    def test_lines_have_the_points_colours_and_gaps_of_the_figure(self) -> None:
        figure = go.Figure(
            go.Scatter(
                x=[1, 2, 3, 4],
                y=[1.0, None, 3.0, 4.0],
                mode="lines",
                line={"color": "rgb(178, 24, 43)", "dash": "dot", "width": 4},
            )
        )
        (ax,) = axes_of(figure)
        (line,) = ax.get_lines()
        np.testing.assert_array_equal(np.asarray(line.get_ydata()), [1.0, np.nan, 3.0, 4.0])
        assert colors.to_hex(line.get_color()) == "#b2182b"
        # Four pixels of 96 to the inch, in points.
        assert line.get_linewidth() == 3.0

    def test_markers_have_the_colours_of_their_numbers_and_a_colour_bar(self) -> None:
        marker: dict[str, Any] = {
            "color": [0.0, 1.0],
            "colorscale": [[0, "#000000"], [1, "#ffffff"]],
            "colorbar": {"title": {"text": "score"}},
            "size": 8,
        }
        ax, bar = axes_of(go.Figure(go.Scatter(x=[0, 1], y=[0, 1], mode="markers", marker=marker)))
        (points,) = [one for one in ax.collections if isinstance(one, collections.PathCollection)]
        assert [colors.to_hex(one) for one in np.asarray(points.get_facecolor())] == [
            "#000000",
            "#ffffff",
        ]
        assert points.get_sizes() == pytest.approx([36.0])
        assert bar.get_ylabel() == "score"

    def test_names_of_categories_are_in_their_order(self) -> None:
        figure = go.Figure(go.Scatter(x=["b", "a", "b"], y=[1, 2, 3], mode="markers"))
        (ax,) = axes_of(figure)
        assert ticks(ax, "x") == ["b", "a"]
        ordered = figure.update_xaxes(categoryorder="array", categoryarray=["a", "b"])
        assert ticks(axes_of(ordered)[0], "x") == ["a", "b"]

    def test_error_bars_reach_as_far_as_the_interval(self) -> None:
        error = {"type": "data", "symmetric": False, "array": [0.5], "arrayminus": [0.25]}
        (ax,) = axes_of(go.Figure(go.Scatter(x=[1], y=[2.0], error_y=error, mode="markers")))
        (bar,) = [one for one in ax.collections if isinstance(one, collections.LineCollection)]
        np.testing.assert_allclose(bar.get_segments()[0], [[1, 1.75], [1, 2.5]])

    def test_a_band_is_a_filled_outline_a_stretch(self) -> None:
        band = np.array([[0.0, 1.0, np.nan, 3.0, 4.0], [1.0, 2.0, np.nan, 4.0, 5.0]])
        x = np.arange(5.0)
        figure = plots.line(x, {"a": band.mean(0)}, x_title="", y_title="", bands={"a": band})
        (ax,) = axes_of(figure)
        polygons = [one for one in ax.patches if isinstance(one, patches.Polygon)]
        assert len(polygons) == 2
        np.testing.assert_allclose(polygons[0].get_xy()[:4], [[0, 0], [1, 1], [1, 2], [0, 1]])


class TestBars:
    def test_groups_stand_beside_one_another(self) -> None:
        figure = go.Figure([go.Bar(x=[1, 2], y=[3, 4]), go.Bar(x=[1, 2], y=[5, 6])])
        (ax,) = axes_of(figure)
        bars = [one for one in ax.patches if isinstance(one, patches.Rectangle)]
        assert [one.get_height() for one in bars] == [3, 4, 5, 6]
        assert bars[0].get_x() + bars[0].get_width() == pytest.approx(bars[2].get_x())

    def test_relative_bars_stand_on_what_is_on_their_side_of_zero(self) -> None:
        figure = go.Figure([go.Bar(x=[0, 1], y=[1, -1]), go.Bar(x=[0, 1], y=[2, 3])])
        (ax,) = axes_of(figure.update_layout(barmode="relative"))
        bars = [one for one in ax.patches if isinstance(one, patches.Rectangle)]
        assert [one.get_y() for one in bars] == [0, 0, 1, 0]

    def test_a_waterfall_begins_where_the_last_step_ended(self) -> None:
        step = ["relative", "relative", "total"]
        (ax,) = axes_of(go.Figure(go.Waterfall(x=["a", "b", "c"], y=[2, -0.5, 0], measure=step)))
        bars = [one for one in ax.patches if isinstance(one, patches.Rectangle)]
        ends = [(one.get_y(), one.get_y() + one.get_height()) for one in bars]
        assert ends == [(0, 2), (2, 1.5), (0, 1.5)]
        assert ticks(ax, "x") == ["a", "b", "c"]

    def test_a_histogram_counts_every_number_and_shapes_are_within_its_range(self) -> None:
        (ax,) = axes_of(example.figures()["histogram"])
        bars = [one for one in ax.patches if isinstance(one, patches.Rectangle)][:12]
        assert sum(one.get_height() for one in bars) == 50
        assert ax.get_xlim()[1] > 0.94


class TestHeatmap:
    def test_cells_have_the_colours_of_their_numbers_and_unknown_ones_none(self) -> None:
        values = np.array([[-1.0, 0.0], [np.nan, 1.0]])
        figure = plots.heatmap(
            values,
            row_labels=["r0", "r1"],
            column_labels=["c0", plots.escape("<b>")],
            row_title="row",
            column_title="column",
            colour_title="effect",
        )
        ax, bar = axes_of(figure)
        (grid,) = [one for one in ax.collections if isinstance(one, collections.QuadMesh)]
        np.testing.assert_array_equal(filled(grid), values)
        grid.update_scalarmappable()
        shown = np.asarray(grid.get_facecolor()).reshape(-1, 4)
        assert colors.to_hex(shown[0]) == "#67001f"
        assert colors.to_hex(shown[3]) == "#053061"
        assert shown[2][3] == 0
        assert (ax.get_xlabel(), ax.get_ylabel(), bar.get_ylabel()) == ("column", "row", "effect")
        assert (ticks(ax, "x"), ticks(ax, "y")) == (["c0", "<b>"], ["r0", "r1"])

    def test_many_cells_are_one_picture(self) -> None:
        (ax, _) = axes_of(go.Figure(go.Heatmap(z=np.zeros((40, 40)))))
        assert len(ax.get_images()) == 1
        assert filled(ax.get_images()[0]).shape == (40, 40)

    def test_axes_that_share_colours_share_one_bar(self) -> None:
        figure = plotly_grid(2).update_layout(coloraxis={"colorscale": "Blues", "cmin": 0})
        assert len(axes_of(figure)) == 3


def plotly_grid(count: int) -> go.Figure:
    figure = go.Figure()
    for place in range(1, count + 1):
        name = "" if place == 1 else str(place)
        figure.add_trace(
            go.Heatmap(z=[[0, place]], xaxis=f"x{name}", yaxis=f"y{name}", coloraxis="coloraxis")
        )
        domain = [(place - 1) / count, (place - 0.5) / count]
        figure.update_layout({f"xaxis{name}": {"domain": domain, "anchor": f"y{name}"}})
    return figure


class TestAround:
    def test_panels_are_where_their_domains_are(self) -> None:
        paper, left, right = vector.built(json_of(plotly_grid(2))).axes[:3]
        whole = paper.get_position()
        for ax, start in ((left, 0.0), (right, 0.5)):
            place = ax.get_position()
            assert (place.x0 - whole.x0) / whole.width == pytest.approx(start, abs=1e-6)
            assert place.width / whole.width == pytest.approx(0.25, abs=1e-6)

    def test_logarithmic_axes_have_powers_of_ten(self) -> None:
        figure = go.Figure(go.Scatter(x=[0, 1, 2], y=[1e-4, 1.0, 1e4]))
        (ax,) = axes_of(figure.update_yaxes(type="log", range=[-4, 4]))
        assert ax.get_yscale() == "log"
        assert ax.get_ylim() == (pytest.approx(1e-4), pytest.approx(1e4))
        assert {"10⁻⁴", "1", "10⁴"} <= set(ticks(ax, "y"))

    def test_lines_and_regions_are_shapes_and_words_are_plain_text(self) -> None:
        figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1]))
        figure.add_hline(y=0.5, line={"color": "#ff0000"}).add_vrect(x0=0.2, x1=0.4)
        figure.add_annotation(x=0.5, y=0.5, text="<b>here</b><br>&lt;img&gt; $x$", showarrow=False)
        (ax,) = axes_of(figure)
        line: Any = next(one for one in ax.get_children() if is_red_line(one))
        assert list(np.asarray(line.get_ydata())) == [0.5, 0.5]
        boxes = [one for one in ax.patches if isinstance(one, patches.Rectangle)]
        assert [(one.get_x(), one.get_width()) for one in boxes] == [(0.2, pytest.approx(0.2))]
        assert "here\n<img> $x$" in [one.get_text() for one in ax.texts]

    def test_nothing_is_cut_off(self) -> None:
        drawn = vector.built(json_of(example.figures()["grid"]))
        renderer: Any = drawn.canvas
        width, height = drawn.get_size_inches() * drawn.dpi
        boxes = [ax.get_tightbbox(renderer.get_renderer()) for ax in drawn.axes]
        for box in filter(None, boxes):
            assert box.x0 >= -1
            assert box.y0 >= -1
            assert box.x1 <= width + 1
            assert box.y1 <= height + 1

    def test_the_same_figure_is_the_same_bytes_and_holds_no_date_and_no_link(self) -> None:
        kept = json_of(example.figures()["panels"])
        drawn = vector.draw(kept)
        assert vector.draw(kept) == drawn
        names = {one.tag.rsplit("}", 1)[-1] for one in ET.fromstring(drawn).iter()}
        assert not names & {"script", "a", "foreignObject", "text", "image"}
        assert not re.search(r"20\d\d-\d\d-\d\d|href=\"(?!#)", drawn)

    def test_characters_that_the_font_lacks_are_their_code_points(self) -> None:
        assert vector.printable("\u202ea שלום 中") == "⟨U+202E⟩a שלום ⟨U+4E2D⟩"

    def test_a_kind_that_is_not_drawn_is_named(self) -> None:
        with pytest.raises(vector.CannotDraw, match="'box', 'scattergeo' is drawn in the inter"):
            vector.draw({"data": [{"type": "box"}, {"type": "scattergeo"}, {"type": "bar"}]})

    @pytest.mark.parametrize(
        "damaged",
        [
            {"data": [{"type": "heatmap", "z": []}]},
            {"data": [{"x": [1], "y": [2], "error_y": {"array": [1, 2, 3]}}]},
            {"data": [{"x": [1]}], "layout": {"shapes": [{"type": "path"}]}},
            {"data": [{"type": "heatmap", "z": [[1, 2, 3]], "x": [1, 2, 3, 4, 5]}]},
            {"data": [{"type": "bar", "x": [1, 2, 3], "y": [1, 2, 3], "base": [1, 2]}]},
            {"data": [{"y": [1, 2]}], "layout": {"yaxis": {"type": "log", "range": [0, 400]}}},
        ],
    )
    def test_a_damaged_figure_is_refused_in_one_sentence(self, damaged: dict[str, Any]) -> None:
        with pytest.raises(vector.CannotDraw):
            vector.draw(damaged)

    @pytest.mark.parametrize("odd", [["x"], {"no": 1}, "nope", True, "1e400"])
    def test_a_part_of_another_type_or_size_counts_as_absent(self, odd: object) -> None:
        trace = dict.fromkeys(("mode", "line", "fill", "text", "opacity", "xaxis", "error_y"), odd)
        marker = {"colorscale": odd, "color": [1, 2], "symbol": odd, "size": odd, "line": odd}
        axis = dict.fromkeys(("side", "range", "tickvals", "ticktext", "dtick", "domain"), odd)
        places = dict.fromkeys(("x0", "x1", "y0", "y1", "layer", "line", "fillcolor"), odd)
        note = dict.fromkeys(("x", "y", "ax", "xanchor", "font", "textangle"), odd)
        cells = dict.fromkeys(("xgap", "zmid", "coloraxis", "text", "opacity"), odd)
        damaged: dict[str, Any] = {
            "data": [
                {"x": [1, 2], "y": [1, 2], **trace, "marker": marker},
                {"type": "bar", "x": [1, 2], "y": [1, 2], "width": odd, "textposition": odd},
                {"type": "heatmap", "z": [[1]], **cells, "texttemplate": "a"},
                {"type": "histogram", "x": [1, 2], "xbins": {"size": odd}, "histnorm": odd},
                {"type": "waterfall", "x": [1, 2], "y": [1, 2], "measure": [odd, odd]},
            ],
            "layout": {
                "xaxis": axis,
                "height": odd,
                "barmode": odd,
                "shapes": [places, odd],
                "annotations": [{"text": "here", **note}, odd],
            },
        }
        assert vector.draw(damaged).startswith("<?xml")

    def test_a_mistake_of_ours_is_not_called_a_damaged_figure(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def mistaken(_page: page.Page) -> None:
            raise TypeError("an argument is missing")

        monkeypatch.setattr(notes, "draw", mistaken)
        with pytest.raises(TypeError, match="an argument is missing"):
            vector.draw({"data": [{"y": [1, 2]}]})

    @pytest.mark.parametrize(
        "odd", [{}, {"data": None}, {"data": [{}]}, {"data": [{"x": "abc", "y": {"no": 1}}]}]
    )
    def test_an_empty_figure_is_an_empty_picture(self, odd: dict[str, Any]) -> None:
        assert vector.draw(odd).startswith("<?xml")


def is_red_line(artist: object) -> Any:
    return isinstance(artist, lines.Line2D) and colors.to_hex(artist.get_color()) == "#ff0000"


class TestNumbersOfAFigure:
    def test_a_grid_is_listed_cell_by_cell_with_the_words_of_its_axes(self) -> None:
        found = figures.table(json_of(example.figures()["grid"]))
        assert found is not None
        assert found.columns == ("series", "position", "stream before", "effect (0 none, 1 full)")
        assert len(found.rows) == 40
        assert found.rows[1][1:3] == ("1 ·cats", "layer 0")

    def test_bars_are_listed_with_their_names(self) -> None:
        found = figures.table(json_of(example.figures()["bars"]))
        assert found is not None
        assert found.rows[0] == ("", "a0.h0", 0.62)

    def test_what_is_left_out_is_counted(self) -> None:
        found = figures.table({"data": [{"x": list(range(30))}]}, rows=10)
        assert found == Table(
            columns=("series", "horizontal", "vertical"),
            rows=tuple(("", at, at) for at in range(10)),
            left_out=20,
        )


class TestRealResults:
    def drawn(self, figure: go.Figure) -> list[Axes]:
        """The axes, with the titles that the figure gives them."""
        kept = json_of(figure)
        axes = vector.built(kept).axes[1:]
        titles = {ax.get_xlabel() for ax in axes} | {ax.get_ylabel() for ax in axes}
        layout = figures.layout(kept)
        used = {name for one in figures.traces(kept) for name in figures.pair(one)}
        for name in used:
            asked = figures.mapping(layout.get(f"{name[0]}axis{name[1:]}"))
            if asked.get("visible", True):
                assert vector.printable(figures.title(asked)) in titles
        return axes

    def test_of_patching_and_direct_attribution_and_circuits(self) -> None:
        model = workbench.load_model("grammar-4l")
        pairs = ContrastPairs.from_task(model, "indirect-object", n=2)
        patched = activation_patching.patch(model, pairs)
        ax, _ = self.drawn(patched.figure())
        (grid,) = [one for one in ax.collections if isinstance(one, collections.QuadMesh)]
        np.testing.assert_allclose(filled(grid), patched.effects, atol=1e-6)

        found = direct_attribution.attribute(model, "Mary gave a drink to", " Mary", wrong=" John")
        (ax,) = self.drawn(found.figure())[:1]
        steps = len(json_of(found.figure())["data"][0]["x"])
        assert len([one for one in ax.patches if isinstance(one, patches.Rectangle)]) == steps

        curve = circuits.faithfulness_curve(
            model, pairs, steps=1, fractions=(0.01, 1.0), n_random=1
        )
        (ax,) = self.drawn(curve.figure())
        np.testing.assert_allclose(
            np.asarray(ax.get_lines()[0].get_ydata()), curve.faithfulness, atol=1e-6
        )
        assert ax.get_xscale() == "log"

    def test_of_units_and_their_examples(self) -> None:
        model = workbench.load_model("grammar-4l")
        corpus = Corpus.bundled(model, documents=60)
        found = top_examples(model, corpus, ["neuron"], k=4, sample=100)
        (ax,) = self.drawn(found.figure())
        points = [one for one in ax.collections if isinstance(one, collections.PathCollection)]
        shown = sum(len(np.asarray(one.get_offsets())) for one in points)
        assert shown == sum(len(one["x"]) for one in json_of(found.figure())["data"]) > 0

    def test_of_clusters(self) -> None:
        planted = known_clusters.planted({"layer1.branch2": 12}, effect=2.0, seed=0)
        concept = known_clusters.concept(n=200, seed=1)
        found = neuron_clusters.selectivity(planted, concept, probes=(1, 4), seed=3)
        ax = self.drawn(found.figure())[0]
        grids = [one for one in ax.collections if isinstance(one, collections.QuadMesh)]
        shown = filled(grids[0])
        assert np.isfinite(shown).sum() == len(found.names)

    def test_of_a_network_that_adds_by_waves(self) -> None:
        task = modular_adder.ADDITION
        model = modular_adder.adder(task)
        snapshot = network.snapshot(anatomy.stored_parameters(model), task, model.cfg.n_heads)
        ordered = pictures.order(task)
        (ax,) = self.drawn(pictures.embedding(snapshot, ordered))
        bars = [one for one in ax.patches if isinstance(one, patches.Rectangle)]
        assert len(bars) == 2 * (task.p // 2)
        *heads, bar = self.drawn(pictures.attention(snapshot, ordered))
        assert len(heads) == model.cfg.n_heads
        assert bar.get_ylabel() == "attention to a"
