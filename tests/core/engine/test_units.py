"""Units by name: where their vectors are, and what a result says of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from workbench.core import results
from workbench.core.engine import units
from workbench.core.planted import known_units


@dataclasses.dataclass(frozen=True)
class Latents:
    """A dictionary that is nothing but its decoder."""

    W_dec: torch.Tensor


@pytest.fixture(scope="module")
def planted() -> TransformerBridge:
    return known_units.detectors()


def test_a_vector_is_where_the_model_is(planted: TransformerBridge) -> None:
    # A device that every machine has, and that mixes with no other.
    elsewhere = torch.device("meta")
    width = planted.cfg.d_model
    given = torch.eye(width)[:2] * 3
    for family in (
        units.family(planted, "neuron", 0),
        units.family(planted, "resid_post", 0, dictionary=Latents(given)),
    ):
        assert family.device == family.direction(1).device == torch.device("cpu")
        moved = dataclasses.replace(family, device=elsewhere)
        assert moved.direction(1).device == elsewhere
    assert torch.equal(units.family(planted, "resid_post", 0).direction(5), torch.eye(width)[5])


def test_directions_go_to_the_model(
    planted: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planted.cfg, "device", "meta")
    given = torch.eye(planted.cfg.d_model)[:2]
    family = units.family(planted, "resid_post", 0, directions=given)
    read = family.read(torch.zeros(1, 3, planted.cfg.d_model, device="meta"))
    assert read.device == family.direction(0).device == torch.device("meta")


def test_a_result_marks_what_its_units_were_read_with() -> None:
    given = torch.ones(2, 3)
    mark = results.mark(given)
    assert units.marks(None, None) == {}
    assert units.marks(given, None) == {"directions": mark}
    assert units.marks(None, Latents(given)) == {"dictionary": mark}
    assert units.marks(given + 1, None) != {"directions": mark}
