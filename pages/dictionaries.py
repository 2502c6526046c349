"""Dictionaries: which directions does a layer write in?

1. Pick a model and one of its dictionaries (sparse autoencoders), or train one here.
2. See what it keeps of the model, against mean ablation and random directions; how often its
   latents are active; and, on a model whose language is known, which of its variables have one.
3. Pick a latent: examples, tokens, neighbours, and what it becomes in a larger dictionary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from analyses import feature_visualization as features
from analyses.feature_visualization import examples
from analyses.feature_visualization.dictionaries import KINDS, dashboard, labels, quality, variables
from workbench.core import results
from workbench.core.models import card
from workbench.ui import (
    addresses,
    buttons,
    corpora,
    dictionaries,
    downloads,
    escaping,
    jobs,
    showing,
    steps,
    stored,
    subject,
)
from workbench.ui import token_strips as strips

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SECTIONS = ("Quality", "Latents", "Known variables", "Train another")
SITES = ("resid_post", "resid_pre", "mlp_out", "attn_out", "neuron")
# The one bundled model whose language has a known grammar.
GRAMMAR = "grammar-4l"
DOCUMENTS = 800
REFUSED = "folder that was refused"


class Opened:
    """A dictionary with all that the sections need of it."""

    def __init__(
        self, name: str, model: TransformerBridge, corpus: corpora.Parted, place: str
    ) -> None:
        """Open it.

        Args:
            name: Of the model.
            model: The bridge.
            corpus: What it is looked at on.
            place: Its own name.
        """
        self.name, self.model, self.corpus, self.place = name, model, corpus, place
        self.dictionary = dictionaries.opened(model, place)
        self.site, self.layer = dictionaries.place_of(place)
        self.mark = results.mark(self.dictionary.W_dec)

    def title(self, what: str) -> str:
        """Name of a stored result about it."""
        return stored.title(what, self.model, self.corpus.seen, dictionary=self.mark)


def show_quality(at: Opened) -> list[str]:
    """What it keeps of the model, on text that was held out."""
    found = stored.made(
        features.DictionaryQuality,
        quality.ANALYSIS,
        at.title("quality"),
        lambda report: features.dictionary_quality(
            at.model, at.corpus.held_out, at.dictionary, progress=report
        ),
        label="Putting the dictionary into the model",
    )
    if found is None:
        return []
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    st.dataframe(found.to_frame(), hide_index=True)
    downloads.offer_stored(found, "quality")
    return ["print(features.dictionary_quality(model, held_out, dictionary).summary())"]


def show_latents(at: Opened) -> list[str]:
    """How often latents are active, and one of them from all sides."""
    scan = stored.made(
        features.TopExamples,
        examples.ANALYSIS,
        at.title("scan of every latent"),
        lambda report: features.top_examples(
            at.model,
            at.corpus.seen,
            at.site,
            layers=[at.layer],
            dictionary=at.dictionary,
            progress=report,
        ),
        label=f"Reading {at.corpus.seen.n_tokens:,} tokens for every latent",
    )
    if scan is None:
        return []
    overview = features.latent_overview(at.model, at.corpus.seen, at.dictionary, scanned=scan)
    st.markdown(escaping.markdown(overview.summary()))
    showing.figure(overview.figure())
    order = np.argsort(-scan.top_values[:, 0], kind="stable").tolist()
    left, right = st.columns(2)
    latent = addresses.pick(
        "Latent (largest activation first)",
        order,
        query="latent",
        key=f"latent:{at.place}",
        place=left,
    )
    others = [one for one in dictionaries.listed(at.name, at.model) if is_larger(at, one)]
    larger = right.selectbox(
        "Splits in the larger dictionary",
        [dictionaries.NONE, *others],
        help="One of the same place with more latents; train it under 'Train another'.",
    )
    return show_latent(at, scan, int(latent), None if larger == dictionaries.NONE else larger)


def is_larger(at: Opened, other: str) -> bool:
    """Whether another dictionary reads the same place and has more latents."""
    if dictionaries.place_of(other) != (at.site, at.layer):
        return False
    return len(dictionaries.opened(at.model, other).W_dec) > len(at.dictionary.W_dec)


def show_latent(
    at: Opened, scan: features.TopExamples, latent: int, larger: str | None
) -> list[str]:
    """One latent from all sides."""
    other = None if larger is None else dictionaries.opened(at.model, larger)
    found = stored.made(
        features.LatentDashboard,
        dashboard.ANALYSIS,
        at.title(f"latent {latent}" + (f" beside {larger}" if larger else "")),
        lambda report: features.latent_dashboard(
            at.model,
            at.corpus.seen,
            at.dictionary,
            latent,
            scanned=scan,
            larger=other,
            progress=report,
        ),
        label=f"Looking at latent {latent}",
    )
    if found is None:
        return []
    st.subheader(f"Latent {latent}")
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    address = {
        "model": at.name,
        "dictionary": at.place,
        "unit": f"latent {at.layer}.{latent}",
        **({corpora.QUERY: at.corpus.name} if at.corpus.name else {}),
    }
    st.page_link(
        "../pages/unit.py", label="Describe it, search for it, steer with it", query_params=address
    )
    shown = [one for one in found.view.examples if one.kind != "smallest" and one.activation > 0]
    strips.show(
        [
            strips.Strip(f"{one.activation:.3g}", one.tokens, one.activations, one.spot)
            for one in shown
        ],
        key="strips:latent",
    )
    downloads.offer_stored(found, "latent")
    site = f"{at.site!r}, layers=[{at.layer}], dictionary=dictionary"
    code = [f"scan = features.top_examples(model, seen, {site})"]
    more = ""
    if larger is not None:
        opens = dictionaries.code(at.model, larger)
        code.append(opens.replace("dictionary =", "larger =", 1))
        more = ", larger=larger"
    call = f"latent_dashboard(model, seen, dictionary, {latent}, scanned=scan{more})"
    return [*code, f"print(features.{call}.summary())"]


def show_variables(at: Opened) -> list[str]:
    """Which of the grammar's variables have a latent."""
    if at.name != GRAMMAR:
        st.info(f"Only the language of {GRAMMAR} has variables that are known by construction.")
        return []
    found = stored.made(
        features.VariableMatches,
        variables.ANALYSIS,
        at.title("known variables"),
        lambda report: features.match_variables(
            at.model,
            labels.grammar_labels(at.model, documents=DOCUMENTS),
            at.dictionary,
            progress=report,
        ),
        label="Looking for a latent for each variable of the grammar",
    )
    if found is None:
        return []
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    st.dataframe(found.to_frame(), hide_index=True)
    downloads.offer_stored(found, "variables")
    return [
        "from analyses.feature_visualization.dictionaries import labels",
        f"labelled = labels.grammar_labels(model, documents={DOCUMENTS})",
        "print(features.match_variables(model, labelled, dictionary).summary())",
    ]


def open_folder(model: TransformerBridge) -> None:
    """Take a dictionary from a folder that sae-lens wrote."""
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    folder = left.text_input(
        "Or open a folder that sae-lens wrote",
        help="cfg.json and sae_weights.safetensors, on this machine. It is copied into the run "
        "folder; nothing in it is executed.",
    ).strip()
    right.button("Open", disabled=not folder, width="stretch", on_click=take, args=(model, folder))
    refused = st.session_state.pop(REFUSED, "")
    if refused:
        st.error(escaping.markdown(refused))


def take(model: TransformerBridge, folder: str) -> None:
    """Answer a click: the folder becomes one of the model's dictionaries, or is refused."""
    try:
        turn_to(dictionaries.adopt(model, folder))
    except ValueError as error:
        st.session_state[REFUSED] = str(error)


def turn_to(place: str) -> None:
    """Answer a click: look at a dictionary."""
    st.query_params["dictionary"] = place
    st.session_state["section"] = SECTIONS[0]
    st.session_state.pop("training", None)


def train(name: str, model: TransformerBridge, corpus: corpora.Parted) -> None:
    """The form of a training, and how far it is."""
    del name  # the dictionary is kept under the model's fingerprint
    with st.form("train"):
        first = st.columns(3)
        site = first[0].selectbox("Site", SITES) or SITES[0]
        layer = int(first[1].number_input("Layer", 0, int(model.cfg.n_layers) - 1, 0))
        kind = first[2].selectbox("Architecture", KINDS) or KINDS[0]
        second = st.columns(4)
        latents = int(second[0].number_input("Latents", 8, 65_536, 256))
        k = int(second[1].number_input("Active at a token (k)", 1, 512, 8))
        n_steps = int(second[2].number_input("Steps", 50, 1_000_000, 1000))
        seed = int(second[3].number_input("Seed", 0, 2**31 - 1, 0))
        sent = buttons.pressed(st.form_submit_button, "Train")
    asked = [site, layer, kind, latents, k, n_steps, seed]
    if sent:
        st.session_state["training"] = asked
    if "training" not in st.session_state:
        return
    site, layer, kind, latents, k, n_steps, seed = st.session_state["training"]
    place = f"{site}.{layer}-{kind}-{latents}-{k}-{n_steps}-{seed}-{corpus.seen.fingerprint[:8]}"
    folder = dictionaries.own_folder(model) / place

    def work(report: jobs.Report) -> features.TrainedDictionary:
        return features.train_dictionary(
            model,
            corpus.seen,
            site,
            layer=layer,
            latents=latents,
            kind=kind,
            k=k,
            steps=n_steps,
            seed=seed,
            folder=folder,
            progress=report,
        )

    st.caption("A training that is cancelled goes on where it stopped.")
    key = jobs.job_key("dictionary", card.fingerprint(model), place)
    found = steps.step(key, work, label=f"Training {place}")
    if found is None:
        return
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    st.button("Look at it", on_click=turn_to, args=(place,))


DRAW: dict[str, Any] = dict(
    zip(SECTIONS, (show_quality, show_latents, show_variables), strict=False)
)


def look(name: str, model: TransformerBridge) -> None:
    """Everything below the pickers."""
    corpus = corpora.pick(model)
    if corpus is None:
        return
    known = dictionaries.listed(name, model)
    if not known:
        st.info("This model has no dictionary yet: train one here, on the text above.")
        train(name, model, corpus)
        open_folder(model)
        return
    asked = st.query_params.get("dictionary", "")
    # A list that another one is put before, or that a click turns, is another one.
    mark = f"dictionary:{len(known)}:{known.index(asked) if asked in known else 0}"
    place = addresses.pick("Dictionary", known, query="dictionary", key=mark)
    section = showing.section(SECTIONS)
    if section == SECTIONS[-1]:
        train(name, model, corpus)
        open_folder(model)
        return
    try:
        at = Opened(name, model, corpus, place)
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return
    code = DRAW[section](at)
    if code:
        script = [
            "from workbench import Corpus, load_model",
            "from analyses import feature_visualization as features",
            "from workbench.core.models import dictionaries",
            "",
            f"model = load_model({name!r})",
            f"seen, held_out = {corpus.code}",
            dictionaries.code(model, at.place),
            *code,
        ]
        showing.code(script)


st.caption(
    "A dictionary writes each activation as a sum of a few directions out of many. It keeps only "
    "part of the model, and how much is the first thing to look at."
)
picked = subject.pick()
if picked is not None:
    loaded = subject.loaded(picked)
    if loaded is not None:
        look(picked, loaded)
