"""The Activations page: any hook point, on a prompt and over a corpus, as the library says it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import workbench
from analyses import activations
from analyses import feature_visualization as features
from tests.visiting import button, code_of, few_documents, printed, settled, texts, visit
from workbench import Corpus
from workbench.core import notes, results, runs
from workbench.core.models import card, directions

DOCUMENTS = 40
PROMPT = "The boxes near the chair"
NEURONS = "blocks.2.mlp.hook_post"


@pytest.fixture(autouse=True)
def _few_documents() -> Generator[None]:
    with few_documents(DOCUMENTS):
        yield


@pytest.fixture(scope="module")
def model() -> Any:
    return workbench.load_model("grammar-4l")


def opened(**more: str) -> AppTest:
    return visit("activations", model="grammar-4l", prompt=PROMPT, **more)


def linked(at: AppTest) -> list[str]:
    return [item.proto.query_string for item in at.get("page_link")]


def test_a_hook_point_on_a_prompt(model: Any) -> None:
    at = opened(hook=NEURONS, coordinate="31")
    found = activations.values(model, PROMPT, NEURONS)
    assert found.summary() in texts(at)
    assert [item.value for item in at.subheader][0] == "neuron 31"
    assert any("neuron+2.31" in link or "neuron%202.31" in link for link in linked(at))
    frame = next(item.value for item in at.dataframe if "norm" in item.value)
    np.testing.assert_allclose(frame["norm"], found.norm)
    assert printed(code_of(at)).strip() == found.summary()


def test_a_click_on_the_map_chooses_the_coordinate(model: Any) -> None:
    at = opened(hook=NEURONS)
    found = activations.values(model, PROMPT, NEURONS)
    part = found.window()
    key = f"map:{card.fingerprint(model)}:{NEURONS}:{hash(found.ids)}:spread:0"
    at.session_state[key] = {"selection": {"points": [{"x": 1, "y": 3}]}}
    at = settled(at.run())
    assert next(item for item in at.number_input if "Coordinate" in item.label).value == int(
        part.coordinates[3]
    )
    assert at.query_params["coordinate"] == str(part.coordinates[3])


def test_over_a_corpus(model: Any) -> None:
    at = opened(hook="blocks.1.hook_resid_post", section="Over a corpus")
    seen, _ = Corpus.bundled(model).split(0.7)
    found = activations.distribution(model, seen, "blocks.1.hook_resid_post")
    assert found.summary() in texts(at)
    assert any("resid_post" in link for link in linked(at))
    assert printed(code_of(at)).strip() == found.summary()


@pytest.mark.parametrize("of", ["the prompt", "a corpus"])
def test_the_stream_by_depth(model: Any, of: str) -> None:
    at = opened(section="The stream", of=of, depths="4.1")
    if of == "the prompt":
        found = activations.stream(model, PROMPT)
    else:
        seen, _ = Corpus.bundled(model).split(0.7)
        found = activations.stream(model, seen)
        assert activations.outlier_dimensions(model, seen).summary() in texts(at)
    assert found.summary() in texts(at)
    assert f"Cosine of after 3 with after 0: {found.cosine[4, 1]:.3f}" in texts(at)
    assert any("blocks.3.hook_resid_post" in link for link in linked(at))


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("blocks.9.hook_resid_post", "has no hook point"),
        ("blocks.0.attn.hook_result", "does not fire"),
        ("<img src=x>", "has no hook point"),
    ],
)
def test_a_hook_point_that_cannot_be_looked_at_is_a_sentence(hook: str, said: str) -> None:
    at = opened(hook=hook)
    assert said in texts(at)
    assert len(at.error) == 1


def test_token_ids_have_no_distribution() -> None:
    at = opened(hook="embed.hook_in", section="Over a corpus")
    assert "token ids, not activations" in at.info[0].value


class TestDirectionOnTheUnitPage:
    """A direction is a unit like any other: made on its page, kept, and looked at."""

    def made(self, model: Any) -> tuple[str, Any]:
        key = directions.keep(model, directions.of_tokens(model, " are", " is", layer=2))
        return f"direction {key}", directions.load(model, key).as_units()

    def test_it_is_made_of_two_tokens_and_picked(self, model: Any) -> None:
        at = visit("unit", model="grammar-4l", unit="neuron 0.31", section="Notes")
        fields = {item.key: item for item in at.text_input}
        fields["direction-token"].set_value(" are")
        fields["direction-less"].set_value(" is")
        next(item for item in at.selectbox if item.key == "direction-layer").set_value(2)
        at = settled(button(at, "Make it").click().run())
        assert not at.error
        assert directions.names(model) == ["resid_post.2-are-less-is"]
        box: Any = next(item for item in at.selectbox if item.label == "Dictionary")
        assert box.value == "direction resid_post.2-are-less-is"
        assert at.query_params["unit"] == "direction 2.0"
        assert "logit of 'are' less 'is'" in texts(at)
        fields = {item.key: item for item in at.text_input}
        fields["direction-token"].set_value(" zebra")
        at = settled(button(at, "Make it").click().run())
        assert "outside the vocabulary" in at.error[0].value

    def test_its_whole_range_and_the_code_that_reproduces_it(self, model: Any) -> None:
        name, vectors = self.made(model)
        at = visit(
            "unit", model="grammar-4l", unit="direction 2.0", dictionary=name, section="Range"
        )
        seen, _ = Corpus.bundled(model).split(0.7)
        scan = features.top_examples(model, seen, "resid_post", layers=[2], directions=vectors)
        view = features.view_unit(model, seen, scan, "direction 2.0", directions=vectors)
        assert view.summary() in texts(at)
        assert "the others that were scanned with it are random" in texts(at)
        assert view.summary() in printed(code_of(at))

    def test_a_note_about_it(self, model: Any) -> None:
        name, vectors = self.made(model)
        at = visit(
            "unit", model="grammar-4l", unit="direction 2.0", dictionary=name, section="Notes"
        )
        at.text_area[0].set_value("tells are from is")
        settled(button(at, "Save").click().run())
        (note,) = notes.read(runs.default_root(), card.fingerprint(model))
        assert (note.unit, note.dictionary) == ("direction 2.0", results.mark(vectors))

    @pytest.mark.parametrize(
        ("unit", "said"),
        [
            ("direction 2.5", "is one direction"),
            ("direction 1.0", "reads layer 2"),
            ("neuron 2.0", "is no direction: pick no dictionary"),
            ("latent 2.0", "is a latent: pick the dictionary"),
        ],
    )
    def test_what_is_no_such_direction_is_a_sentence(
        self, model: Any, unit: str, said: str
    ) -> None:
        name, _ = self.made(model)
        at = visit("unit", model="grammar-4l", unit=unit, dictionary=name, section="Notes")
        assert said in texts(at) and len(at.error) == 1


def test_a_unit_leads_to_where_it_is_shown_besides() -> None:
    at = visit("unit", model="grammar-4l", unit="neuron 2.31", section="Notes")
    (link,) = [one for one in linked(at) if "hook_post" in one]
    assert "coordinate=31" in link
