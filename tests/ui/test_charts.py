from __future__ import annotations

import json
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from streamlit.testing.v1 import AppTest

from workbench.core import plots
from workbench.ui import charts


def grid(*, columns: int = 2, label: str = "a", **arguments: Any) -> go.Figure:
    return plots.heatmap(
        np.arange(2.0 * columns).reshape(2, columns),
        row_labels=["one", "two"],
        column_labels=[f"{label}{place}" for place in range(columns)],
        row_title="layer",
        column_title="position",
        colour_title="effect",
        **arguments,
    )


def layout(figure: go.Figure, theme: str | None = "light", **settings: bool) -> dict[str, Any]:
    return charts.ready(figure, theme, **settings).to_dict()["layout"]


def test_it_says_what_plotly_says_of_the_figure_without_a_template() -> None:
    sent = charts.ready(grid(), "light").to_dict()
    full = grid()
    assert json.loads(json.dumps(sent, allow_nan=False)) == sent
    assert sent["data"] == plots.spec(full)["data"]
    style = pio.templates[plots.TEMPLATE].layout.to_plotly_json()
    made = sent["layout"]
    assert "template" not in made
    assert made["colorway"] == list(style["colorway"])
    assert made["hoverlabel"] == style["hoverlabel"]
    for axis in ("xaxis", "yaxis"):
        own = plots.spec(full)["layout"][axis]
        assert made[axis] == style[axis] | own
        # The figure's own word counts more than the template's.
        assert made[axis]["showgrid"] is False


def test_every_axis_of_a_figure_with_several_has_the_style() -> None:
    figure = go.Figure([go.Scatter(y=[1]), go.Scatter(y=[2], yaxis="y2")])
    figure.update_layout(template=plots.TEMPLATE, yaxis2={"overlaying": "y", "side": "right"})
    made = layout(figure)
    assert made["yaxis2"]["gridcolor"] == made["yaxis"]["gridcolor"]
    assert made["yaxis2"]["side"] == "right"


@pytest.mark.parametrize(
    ("theme", "colours"), [("dark", "dark"), ("light", "light"), (None, "light")]
)
def test_text_has_the_colour_of_the_page(theme: str | None, colours: str) -> None:
    figure = grid()
    assert layout(figure, theme)["font"]["color"] == plots.TEXT_COLOURS[colours]
    assert figure.layout.font.color is None


def test_equal_figures_have_equal_revisions_and_others_have_not() -> None:
    revision = layout(grid())["datarevision"]
    assert layout(grid())["datarevision"] == revision
    assert layout(grid(selected=(0, 0)))["datarevision"] != revision
    assert layout(grid(), "dark")["datarevision"] != revision


def test_what_can_be_clicked_says_what_the_client_would_set() -> None:
    made = layout(grid(), clickable=True)
    assert made["clickmode"] == "event+select"
    assert made["hovermode"] == "closest"
    assert "clickmode" not in layout(grid())


def test_long_labels_widen_the_margins_and_no_margin_shrinks() -> None:
    short, long = layout(grid())["margin"], layout(grid(label="a token of many letters "))["margin"]
    assert long["b"] == short["b"]
    many = layout(grid(columns=12, label="a token of many letters "))["margin"]
    assert many["b"] > short["b"] + 50
    least = pio.templates[plots.TEMPLATE].layout.margin.to_plotly_json()
    assert all(made[side] >= least[side] for made in (short, long, many) for side in least)


def test_marks_within_labels_take_no_room() -> None:
    plain, marked = grid(), grid()
    plain.update_yaxes(ticktext=["one", "two"])
    marked.update_yaxes(ticktext=["<b>one</b>", "t&amp;o"])
    assert layout(plain)["margin"] == layout(marked)["margin"]


def test_a_figure_in_a_style_of_its_own_keeps_it() -> None:
    figure = go.Figure(go.Bar(y=[1])).update_layout(template="plotly")
    made = layout(figure, "dark")
    assert made["template"] == plots.spec(figure)["layout"]["template"]
    assert made["font"]["color"] == plots.TEXT_COLOURS["dark"]
    assert "template" not in layout(go.Figure(go.Bar(y=[1])).update_layout(template=plots.TEMPLATE))


def test_streamlit_sends_it_as_it_stands() -> None:
    def page() -> None:
        import plotly.graph_objects as go

        from workbench.core import plots
        from workbench.ui import showing

        showing.figure(go.Figure(go.Bar(y=[1.0, 2.0])).update_layout(template=plots.TEMPLATE))

    [chart] = AppTest.from_function(page).run().get("plotly_chart")
    figure = go.Figure(go.Bar(y=[1.0, 2.0])).update_layout(template=plots.TEMPLATE)
    said = json.loads(chart.proto.spec)  # pyright: ignore[reportAttributeAccessIssue]
    assert said == charts.ready(figure, "light").to_dict()
