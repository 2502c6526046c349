from __future__ import annotations

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.visiting import errors
from workbench.core import plots
from workbench.ui import addresses


def page() -> None:
    import numpy as np
    import streamlit as st

    from workbench.ui import heatmap

    rows = st.number_input("rows", value=3)
    cell = heatmap.clickable(
        np.arange(rows * 2.0).reshape(rows, 2),
        key="map",
        query="cell",
        row_labels=[f"L{i}" for i in range(rows)],
        column_labels=["a", "b"],
        row_title="layer",
        column_title="position",
        colour_title="effect",
    )
    st.text(str(cell))


def app(address: str | None = None) -> AppTest:
    at = AppTest.from_function(page)
    if address is not None:
        at.query_params["cell"] = address
    at.run()
    assert not at.exception
    return at


def click(at: AppTest, row: int, column: int) -> AppTest:
    point = {"x": column, "y": row, "curve_number": 1, "point_index": row * 2 + column}
    at.session_state["map"] = {"selection": {"points": [point]}}
    at.run()
    assert not at.exception
    return at


def drawn(at: AppTest) -> dict[str, Any]:
    [chart] = at.get("plotly_chart")
    return json.loads(chart.proto.spec)  # pyright: ignore[reportAttributeAccessIssue]


def test_no_cell_is_chosen_at_first() -> None:
    at = app()
    assert at.text[0].value == "None"
    assert not drawn(at)["layout"].get("shapes")


def test_a_click_chooses_frames_and_puts_the_cell_in_the_address() -> None:
    at = click(app(), 2, 1)
    assert at.text[0].value == "(2, 1)"
    assert at.query_params["cell"] == "2.1"
    frame = drawn(at)["layout"]["shapes"][0]
    assert (frame["x0"], frame["y0"]) == (0.5, 1.5)


def test_the_cell_stays_after_plotly_deselects_it() -> None:
    at = click(app(), 2, 1)
    at.session_state["map"] = {"selection": {"points": []}}
    at.run()
    assert at.text[0].value == "(2, 1)"


def test_a_link_opens_with_its_cell() -> None:
    assert app("1.0").text[0].value == "(1, 0)"


@pytest.mark.parametrize("address", ["", "x", "1", "1.", "3.0", "0.2", "-1.0", "1.0.0", "9" * 5000])
def test_an_address_that_is_no_cell_is_said_until_one_is_clicked(address: str) -> None:
    at = app(address).run()
    assert at.text[0].value == "None"
    assert [error.endswith("which is no cell of this picture.") for error in errors(at)] == (
        [True] if address else []
    )
    click(at, 1, 0)
    assert not at.error
    assert not at.run().error


def test_a_cell_outside_a_smaller_grid_is_no_longer_chosen() -> None:
    at = click(app(), 2, 1)
    at.number_input[0].set_value(2).run()
    assert not at.exception
    assert at.text[0].value == "None"


def test_digits_of_other_scripts_are_no_cell() -> None:
    assert addresses.cell("1.0", (3, 2)) == (1, 0)
    assert addresses.cell("²." + "١", (3, 2)) is None


def test_a_figure_of_a_result_can_be_clicked_too() -> None:
    def draw() -> None:
        import numpy as np
        import streamlit as st

        from workbench.core import plots
        from workbench.ui import heatmap

        labels = ["a", "b"]
        cell = heatmap.clickable_figure(
            lambda cell: plots.heatmap(
                np.eye(2),
                row_labels=labels,
                column_labels=labels,
                row_title="",
                column_title="",
                colour_title="",
                selected=cell,
            ),
            (2, 2),
            key="map",
        )
        st.text(str(cell))

    at = click(AppTest.from_function(draw).run(), 0, 1)
    assert at.text[0].value == "(0, 1)"
    assert "cell" not in at.query_params
    assert drawn(at)["layout"]["font"]["color"] == plots.TEXT_COLOURS["light"]
