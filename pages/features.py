"""Features: what makes each unit fire?

1. Pick a model and a corpus, which is read once for all units of a kind.
2. Find units: all in an order, those that are largest at a token, or those that a description fits,
   against the same description of other texts.
3. Each is shown by a few of its largest examples; its own page has everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from analyses import feature_visualization as features
from analyses.feature_visualization import describing, examples, search
from workbench.ui import corpora, downloads, escaping, jobs, showing, stored, subject
from workbench.ui import describing as writing
from workbench.ui import token_strips as strips

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus

KINDS = ("neuron", "head")
ORDERS = {
    "largest activation": lambda scan: -scan.top_values[:, 0],
    "least often above zero": lambda scan: scan.density,
    "number": lambda scan: np.arange(len(scan.units)),
}
WAYS = ("all", "at a token", "by a description")
SHOWN = 6


def ordered(scan: features.TopExamples) -> list[str]:
    """All units in an order."""
    by = ORDERS[st.selectbox("Order by", list(ORDERS), key="order", bind="query-params")](scan)
    return [scan.units[i] for i in np.argsort(by, kind="stable")]


def at_token(model: TransformerBridge, corpus: Corpus, scan: features.TopExamples) -> list[str]:
    """Units that have a token at many of their largest activations."""
    word = st.text_input("Largest at the token", key="token", bind="query-params").strip()
    if not word:
        return []
    try:
        (token,) = features.TokenSet.of(model, [word]).tokens
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return []
    share = (scan.tokens_at_top(corpus) == token).mean(1)
    order = np.argsort(-share, kind="stable")
    found = [scan.units[i] for i in order if share[i] > 0]
    if not found:
        st.info(f"No unit has {escaping.markdown(repr(word))} among its largest activations.")
    return found


def by_description(
    model: TransformerBridge, corpus: Corpus, kind: str
) -> tuple[list[str], list[str]]:
    """Units that a description fits, and the code that finds them."""
    asked = writing.ask(
        describing.KINDS, lambda how, text: features.described(model, how, text), key="concept"
    )
    if asked is None:
        return [], []
    description, how, text = asked

    def work(report: jobs.Report) -> features.FoundUnits:
        return features.find_units(model, corpus, description, kind, progress=report)

    title = stored.title(f"every {kind} that fits {description.name}", model, corpus)
    label = f"Comparing {description.name} with every {kind}"
    found = stored.made(features.FoundUnits, search.ANALYSIS, title, work, label=label)
    if found is None:
        return [], []
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    code = [
        f"description = features.described(model, {how!r}, {text!r})",
        f"print(features.find_units(model, seen, description, {kind!r}).summary())",
    ]
    return list(found.units), code


def gallery(
    model: TransformerBridge,
    corpus: Corpus,
    scan: features.TopExamples,
    found: list[str],
    address: dict[str, str],
) -> None:
    """A few units at a time, each with its largest examples and a link to its page."""
    if not found:
        return
    pages = -(-len(found) // SHOWN)
    page = st.number_input(f"Part of {pages}", 1, pages, 1) - 1 if pages > 1 else 0
    for unit in found[page * SHOWN : (page + 1) * SHOWN]:
        place = scan.of(unit)
        with st.container(border=True):
            st.page_link(
                "../pages/unit.py", label=f"**{unit}**", query_params={**address, "unit": unit}
            )
            st.caption(
                f"Above zero at {scan.density[place]:.1%} of tokens, mean {scan.mean[place]:.3g}, "
                f"from {scan.bottom_values[place, 0]:.3g} to {scan.top_values[place, 0]:.3g}"
            )
            shown = features.largest_examples(model, corpus, scan, unit)
            strips.show(
                [
                    strips.Strip(f"{one.activation:.3g}", one.tokens, one.activations, one.spot)
                    for one in shown
                ],
                key=f"strips:{unit}",
            )


def look(name: str, model: TransformerBridge) -> None:
    """Everything below the pickers."""
    kind = st.selectbox("Units", KINDS, key="kind", bind="query-params")
    corpus = corpora.pick(model)
    if corpus is None:
        return
    seen = corpus.seen
    title = stored.title(f"scan of every {kind}", model, seen)
    scan = stored.made(
        features.TopExamples,
        examples.ANALYSIS,
        title,
        lambda report: features.top_examples(model, seen, kind, progress=report),
        label=f"Reading {seen.n_tokens:,} tokens for every {kind}",
    )
    if scan is None:
        return
    st.caption(escaping.markdown(scan.summary()))
    showing.fold("All of them at once", lambda: showing.figure(scan.figure()))
    way = st.segmented_control(
        "Find", WAYS, default=WAYS[0], key="find", required=True, bind="query-params"
    )
    code: list[str] = []
    if way == "at a token":
        found = at_token(model, seen, scan)
    elif way == "by a description":
        found, code = by_description(model, seen, kind)
    else:
        found = ordered(scan)
    address = {"model": name, **({corpora.QUERY: corpus.name} if corpus.name else {})}
    gallery(model, seen, scan, found, address)
    script = [
        "from workbench import Corpus, load_model",
        "from analyses import feature_visualization as features",
        "",
        f"model = load_model({name!r})",
        f"seen, held_out = {corpus.code}",
        f"scan = features.top_examples(model, seen, {kind!r})",
        "print(scan.summary())",
        *code,
    ]
    showing.code(script)
    downloads.offer_stored(scan, "scan")


st.caption(
    "Every unit is read over a whole corpus: where it is largest, but also where it is small or "
    "negative, since its largest examples alone mislead. Its own page shows all of its range."
)
picked = subject.pick()
if picked is not None:
    loaded = subject.loaded(picked)
    if loaded is not None:
        look(picked, loaded)
