"""Attention: where does each head look?

1. Write a prompt: every head is a small map of who looks at whom; click one to see it large.
2. Weigh attention by what the values write, and see what one position looks at most.
3. Labels (previous token, induction, …) come from random sequences, each with its score, null and
   p-value. Hide the heads below a threshold.
4. Take the labelled heads' looks at their target away, and see whether the model needs them; find
   the heads that carry a repeat, wherever they look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from analyses import attention
from analyses.attention import carriers, head_scores, patterns, scoring, verification
from workbench.core.evidence import SURE
from workbench.core.models import card
from workbench.ui import (
    addresses,
    attention_grid,
    downloads,
    escaping,
    heatmap,
    jobs,
    links,
    prompts,
    showing,
    steps,
    stored,
    subject,
    tables,
)

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.prompt import Prompt

ALL = "all heads"
BADGES = {
    head_scores.PREVIOUS: "previous",
    head_scores.CURRENT: "current",
    head_scores.FIRST: "first",
    head_scores.DUPLICATE: "duplicate",
}
# Work that takes longer waits for a click.
PATIENCE = 10.0


def layers_shown(model: TransformerBridge) -> list[int]:
    """The layers of one page; a choice of pages where there are several."""
    n = int(model.cfg.n_layers)
    each = max(1, attention_grid.MOST_TILES // int(model.cfg.n_heads))
    starts = list(range(0, n, each))
    if len(starts) == 1:
        return list(range(n))
    names = [f"{start} to {min(start + each, n) - 1}" for start in starts]
    name = addresses.pick("Layers", names, query="layers", key=f"layers:{n}:{each}")
    start = starts[names.index(name)]
    return list(range(start, min(start + each, n)))


def scored(model: TransformerBridge) -> attention.HeadScores | None:
    """Labels of all heads, made at once for a small model and after a click for a large one."""
    seconds = attention.scoring_seconds(model)
    what = (attention.HeadScores, scoring.ANALYSIS, stored.title("head scores", model))
    if seconds < PATIENCE:
        return stored.made(
            *what,
            lambda report: attention.score_heads(model, progress=report),
            label="Scoring every head on random sequences",
        )
    return stored.offered(
        *what,
        lambda report: attention.score_heads(model, progress=report),
        button="Score every head on random sequences",
        label="Scoring every head on random sequences",
        seconds=seconds,
    )


def kept(scores: attention.HeadScores | None, by: str, least: float) -> np.ndarray | None:
    """Which heads the filter shows; None for all."""
    if by == ALL or scores is None:
        return None
    if by not in scores.names or np.isnan(scores.excess[scores.place(by)]).all():
        st.caption(f"{escaping.markdown(by)} is not measurable in this model: all heads are shown.")
        return None
    return np.nan_to_num(scores.excess[scores.place(by)], nan=-1.0) >= least


def show_grid(
    seen: attention.AttentionPatterns,
    scores: attention.HeadScores | None,
    shown: np.ndarray | None,
    *,
    weighted: bool,
    head: attention_grid.Head,
    key: str,
) -> None:
    """Every head of a page of layers."""
    maps = seen.weighted if weighted else seen.pattern
    tiles: list[attention_grid.Tile] = []
    for place, layer in enumerate(seen.layers):
        for number in range(maps.shape[1]):
            if shown is not None and not shown[layer, number]:
                continue
            labels = () if scores is None else scores.labels(layer, number)
            values = maps[place, number]
            # Written lengths have no largest value of their own: each map has its own scale.
            values = values / max(float(values.max()), 1e-9) if weighted else values
            says = f"entropy {seen.entropy[place, number]:.2f} of a uniform look"
            badges = [BADGES.get(label, label) for label in labels]
            tiles.append(attention_grid.Tile((layer, number), values, badges, says))
    attention_grid.show(tiles, seen.layers, head=head, key=key)
    total = len(seen.layers) * maps.shape[1]
    st.caption(
        f"{len(tiles)} of {total} heads are shown. The first position is at the "
        "bottom and at the left; dark is much attention."
    )


def show_head(one: attention.HeadAttention, kind: str, prompt: Prompt) -> None:
    """One head large, and what one position looks at most."""
    start, stop = 0, len(prompt)
    if stop > patterns.MOST_CELLS and not st.toggle("The whole prompt, in blocks", key="blocks"):
        begin = (max(0, stop - patterns.MOST_CELLS // 2), stop)
        start, stop = st.slider("Positions", 0, stop, begin, key=f"positions:{hash(prompt.ids)}")
        if start == stop:
            st.info("Choose more than no position.")
            return
    blocks = one.blocks(start, stop)
    cell = heatmap.clickable_figure(
        lambda cell: one.figure(kind, start=start, stop=stop, selected=cell),
        (len(blocks), len(blocks)),
        key="pattern",
        query="cell",
    )
    query = stop - 1 if cell is None else blocks[cell[0]][0]
    token = escaping.markdown(one.tokens[query])
    st.markdown(f"What position {query} ({token}) looks at most; click a row for another one.")
    rows = one.top(query).to_dict("records")
    st.markdown(tables.markdown([{str(name): row[name] for name in row} for row in rows]))


def show_scores(scores: attention.HeadScores, layer: int, head: int) -> None:
    """What labels rest on."""
    labels = scores.labels(layer, head)
    rows = [
        {
            "about": name,
            "score": _number(scores.score[place, layer, head]),
            "null": _number(scores.null[place, layer, head]),
            "above the null": _number(scores.excess[place, layer, head]),
            "95% interval": _interval(scores.interval[:, place, layer, head]),
            "p": _number(scores.p_value[place, layer, head]),
            "label": "yes" if name in labels else "",
        }
        for place, name in enumerate(scores.names)
    ]
    st.markdown(tables.markdown(rows))
    elsewhere = scores.first_elsewhere[layer, head]
    said = (
        f"On random sequences; entropy there is {scores.entropy[layer, head]:.2f} of a uniform "
        "look. p is one-sided and corrected over all heads and scores. A label needs p up to "
        f"{SURE} and {scores.least:.2g} above the null; intervals are given near that."
    )
    if not np.isnan(elsewhere):
        said += f" To the first position, where BOS is replaced: {elsewhere:.3f}."
    st.caption(escaping.markdown(said))


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3g}"


def _interval(bounds: np.ndarray) -> str:
    return "" if np.isnan(bounds[0]) else f"{bounds[0]:.3g} to {bounds[1]:.3g}"


def show_verification(model: TransformerBridge, scores: attention.HeadScores) -> str:
    """Whether the model needs the labelled heads' looks; the code of it."""
    names = [name for name in head_scores.NAMES if name in scores.names and scores.heads(name)]
    if not names or not scores.length:
        return ""
    st.subheader("Does the model need it?")
    usual = names.index(head_scores.INDUCTION) if head_scores.INDUCTION in names else len(names) - 1
    name = st.selectbox("Heads labelled", names, usual, key=f"verify:{card.fingerprint(model)}")
    found = stored.offered(
        attention.HeadsVerified,
        verification.ANALYSIS,
        stored.title(f"heads verified ({name})", model),
        lambda report: attention.verify_heads(model, scores, name=name, progress=report),
        button=f"Take the attention to the target from heads labelled {escaping.markdown(name)}",
        label="Taking attention away, and the same from random heads",
        seconds=max(2.0, 100 * scores.provenance.wall_time / 4),
    )
    if found is None:
        return ""
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    return f"print(attention.verify_heads(model, scores, name={name!r}).summary())"


def show_carriers(model: TransformerBridge, scores: attention.HeadScores) -> str:
    """Which heads the repeat is carried by, wherever they look; the code of it."""
    if not scores.length:
        return ""
    st.subheader("Which heads carry a repeat, wherever they look?")
    found = stored.offered(
        attention.RepeatCarriers,
        carriers.ANALYSIS,
        stored.title("heads that carry a repeat", model),
        lambda report: attention.repeat_carriers(model, progress=report),
        button="Let each head write what it writes where nothing repeats",
        label="Swapping every head with a sequence that does not repeat",
        seconds=max(2.0, scores.entropy.size * scores.provenance.wall_time / 8),
    )
    if found is None:
        return ""
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    return "print(attention.repeat_carriers(model).summary())"


def main() -> None:
    """Draw the page."""
    st.caption(
        "Attention says from where a head reads. A label such as induction comes with a score "
        "against a null and a p-value; what the model does with it is another question."
    )
    name = subject.pick()
    model = subject.loaded(name) if name else None
    if name is None or model is None:
        return
    prompt = prompts.box(name, model)
    if prompt is None:
        return
    links.same_prompt(name, "attention")
    layers = layers_shown(model)
    seen = steps.step(
        jobs.job_key("attention", card.fingerprint(model), prompt.ids, layers),
        lambda report: attention.look(model, prompt, layers=layers),
        label="Looking at every head",
    )
    if seen is None:
        return
    scores = scored(model)
    left, middle, right = st.columns([3, 3, 4])
    by = left.selectbox("Filter by", [ALL, *head_scores.NAMES], key="by", bind="query-params")
    least = middle.slider(
        "Hide heads below",
        0.0,
        1.0,
        0.3,
        0.05,
        key="least",
        bind="query-params",
        help="Attention above the null, as a share of the head's attention.",
        disabled=by == ALL,
    )
    kind = right.segmented_control(
        "Attention",
        attention.KINDS,
        default=attention.KINDS[0],
        key="kind",
        bind="query-params",
        help="Weighted: times the length of what the head writes from there, |v W_O|.",
    )
    kind = kind or attention.KINDS[0]
    key = f"heads:{name}"
    head = attention_grid.chosen(key, int(model.cfg.n_layers), int(model.cfg.n_heads))
    head = head or first_choice(scores, layers)
    shown = kept(scores, by or ALL, least)
    show_grid(seen, scores, shown, weighted=kind != attention.KINDS[0], head=head, key=key)
    layer, number = head
    one = steps.step(
        jobs.job_key("attention head", card.fingerprint(model), prompt.ids, layer, number),
        lambda report: attention.one_head(model, prompt, layer=layer, head=number),
        label=f"Looking at head {layer}.{number}",
    )
    if one is None:
        return
    st.subheader(f"Head {layer}.{number}")
    links.unit(name, f"head {layer}.{number}")
    st.markdown(escaping.markdown(one.summary()))
    show_head(one, kind, prompt)
    code = [
        "from workbench import load_model",
        "from analyses import attention",
        "",
        f"model = load_model({name!r})",
        f"prompt = {(prompt.text or list(prompt.ids))!r}",
        f"one = attention.one_head(model, prompt, layer={layer}, head={number})",
        "print(one.summary())",
        f"one.figure({kind!r}).show()",
    ]
    if scores is not None:
        st.subheader("Its scores on random sequences")
        if np.isfinite(scores.excess).any():
            show_scores(scores, layer, number)
        labelled = scores

        def labels() -> None:
            name = by if by in labelled.names else head_scores.INDUCTION
            st.markdown(escaping.markdown(labelled.summary()))
            showing.figure(labelled.figure(name))
            downloads.offer_stored(labelled, "heads")

        showing.fold("Labels of all heads", labels)
        code += ["scores = attention.score_heads(model)", "print(scores.summary())"]
        tested = (show_verification(model, scores), show_carriers(model, scores))
        code += [line for line in tested if line]
    showing.code(code)


def first_choice(scores: attention.HeadScores | None, layers: list[int]) -> attention_grid.Head:
    """The head that is shown large before one is chosen: one with a label, where there is one."""
    if scores is not None:
        for name in reversed(scores.names):
            if here := [head for head in scores.heads(name) if head[0] in layers]:
                return here[0]
    return layers[0], 0


main()
