"""Clusters in a real browser: from a concept to its units, its place, and what ablation says."""

from __future__ import annotations

from collections.abc import Callable

from playwright import sync_api

from analyses import neuron_clusters as clusters
from workbench.core.networks import sources
from workbench.core.prompts import named_concepts

Settle = Callable[..., None]
NETWORK, CONCEPT = "mnist1d-mlp", "digit 1"


def test_from_a_concept_to_its_place_and_a_unit(
    page: sync_api.Page, server: str, settle: Settle
) -> None:
    network = sources.load_network(NETWORK)
    concept = named_concepts.named_concept(network, CONCEPT)
    found = clusters.localize(network, concept)
    page.goto(
        f"{server}/clusters?of=an+image+or+sequence+network&network={NETWORK}"
        f"&concept={CONCEPT.replace(' ', '+')}&cell=1.0"
    )
    page.get_by_role("button", name="Is it in one place?").click(timeout=120_000)
    page.get_by_role("heading", name=found.verdict.capitalize()).wait_for(timeout=120_000)
    settle(page)
    # The controls stand beside the verdict, and the code below it.
    page.get_by_text("Negative controls: the same where there is nothing to find").wait_for()
    assert (
        "clusters.localize(network, concept"
        in page.locator("[data-testid=stCode]").last.inner_text()
    )
    page.get_by_role("button", name="Ablate and patch them").click()
    page.get_by_text("matched in firing rate").first.wait_for(timeout=120_000)
    settle(page)
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    # A link reopens what was found, at once.
    page.get_by_role("heading", name=found.verdict.capitalize()).wait_for(timeout=60_000)
    unit = clusters.selectivity(network, concept)
    first = next(name for name in unit.best(200) if name.startswith("layer1"))
    link = page.get_by_role("link", name="what it wants").first
    assert link.inner_text().split(":")[0].strip() in unit.names
    assert first in unit.names
    link.click()
    page.get_by_role("heading", name="Which input does a unit want?").wait_for(timeout=60_000)
