"""Unit: what does this unit respond to?

1. Pick a model and name a unit: a neuron, a head, a coordinate of the stream, a latent, or a
   direction that is made of two tokens or was stored.
2. See its whole range over a corpus, and whether its largest activations are of one kind.
3. Describe it and test the description on text that was held out; search for texts that drive it,
   and see how far outside of the data they lie; add it to the stream, and see what that does.
4. Write down what it is. Notes stay in the run folder and are exported as JSON lines.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from analyses import attention, weights
from analyses import feature_visualization as features
from analyses.attention import scoring
from analyses.feature_visualization import (
    belief,
    describing,
    examples,
    outside,
    polysemanticity,
    steering,
    unit_view,
)
from analyses.feature_visualization.text import optimization
from workbench.core import notes, results, runs
from workbench.core.models import card, directions
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
    tables,
)
from workbench.ui import describing as writing
from workbench.ui import pairs as choosing
from workbench.ui import token_strips as strips

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.engine.units import Unit

SECTIONS = ("Range", "Groups", "Description", "Optimized texts", "Steering", "Weights", "Notes")
RANGES = {"largest": "Largest", "quantile": "Evenly over the range", "smallest": "Smallest"}
METHODS = {"epo": "fluent to active (EPO)", "gcg": "active at any price (GCG)"}
FEW = 10
PAGES = Path(__file__).resolve().parent
# Of the session: what was picked before, and why no direction was made.
LAST, REFUSED = "dictionary of before", "direction that was refused"


class Looked:
    """The unit that is looked at, with all that the sections need of it."""

    def __init__(
        self, name: str, model: TransformerBridge, corpus: corpora.Parted, unit: Unit, through: str
    ) -> None:
        """Say which one.

        Args:
            name: Of the model.
            model: The bridge.
            corpus: What it is looked at on.
            unit: Which one; of a dictionary its place is that which the dictionary reads.
            through: Name of the dictionary whose latent it is, or `dictionaries.NONE`.
        """
        self.name, self.model, self.corpus, self.through = name, model, corpus, through
        self.given = dictionaries.given(model, through)
        self.unit, self.label = str(unit), str(unit)
        self.kind, self.index, self.layer = unit.kind, unit.index, unit.layer
        self.code: list[str] = []
        if self.given:
            site, layer = dictionaries.place_of(through)
            if unit.layer != layer:
                raise ValueError(f"{through} reads layer {layer}: write '{unit.kind} {layer}.0'")
            if self.is_direction and unit.index:
                raise ValueError(
                    f"{through} is one direction: write 'direction {layer}.0' (the others beside "
                    "it are random, as a control)"
                )
            self.unit = f"{site} {unit.layer}.{unit.index}"

    @property
    def is_direction(self) -> bool:
        """Whether it is a stored direction."""
        return "directions" in self.given

    @functools.cached_property
    def mark(self) -> str:
        """Of dictionary or direction, by which notes and stored results are told apart."""
        if self.is_direction:
            return results.mark(self.given["directions"])
        return results.mark(self.given["dictionary"].W_dec) if self.given else ""

    def title(self, what: str) -> str:
        """Name of a stored result about it."""
        return stored.title(
            f"{what} of {self.label}", self.model, self.corpus.seen, dictionary=self.mark
        )

    def call(self, function: str, *arguments: str) -> str:
        """Code of a call about it."""
        given = ["dictionary=dictionary"] if "dictionary" in self.given else []
        given += ["directions=vectors"] if self.is_direction else []
        return f"features.{function}({', '.join([*arguments, *given])})"


def show_rows(rows: list[dict[str, str]], otherwise: str) -> None:
    """A table, or what it means that it is empty."""
    if rows:
        st.markdown(tables.markdown(rows))
    else:
        st.caption(otherwise)


def scanned(at: Looked) -> features.TopExamples | None:
    """The scan of all units of its kind, which other units share."""
    seen = at.corpus.seen
    if at.given:
        kind, layer = dictionaries.place_of(at.through)
        layers = [layer]
        what = "scan of a direction" if at.is_direction else "scan of every latent"
    else:
        kind, layers = at.kind, None
        what = f"scan of every {kind}"
    arguments = ["model", "seen", repr(kind)] + ([f"layers={layers}"] if layers else [])
    at.code.append(f"scan = {at.call('top_examples', *arguments)}")
    return stored.made(
        features.TopExamples,
        examples.ANALYSIS,
        stored.title(what, at.model, seen, dictionary=at.mark),
        lambda report: features.top_examples(
            at.model, seen, kind, layers=layers, progress=report, **at.given
        ),
        label=f"Reading {seen.n_tokens:,} tokens for {'the' if at.is_direction else 'every'} "
        f"{at.kind}",
    )


def show_range(at: Looked) -> None:
    """Everything that the scan and the weights know of it."""
    scan = scanned(at)
    if scan is None:
        return
    view = stored.made(
        features.UnitView,
        unit_view.ANALYSIS,
        at.title("range"),
        lambda report: features.view_unit(
            at.model, at.corpus.seen, scan, at.label, progress=report, **at.given
        ),
        label=f"Looking at {at.label}",
    )
    if view is None:
        return
    call = at.call("view_unit", "model", "seen", "scan", repr(at.label))
    at.code.append(f"print({call}.summary())")
    st.markdown(escaping.markdown(view.summary()))
    showing.figure(view.figure())
    st.subheader("Examples from its whole range")
    for (kind, _), tab in zip(RANGES.items(), st.tabs(list(RANGES.values())), strict=True):
        with tab:
            strips.show(
                [
                    strips.Strip(f"{one.activation:.3g}", one.tokens, one.activations, one.spot)
                    for one in view.examples
                    if one.kind == kind
                ],
                key=f"strips:{kind}",
            )
    left, middle, right = st.columns([7, 7, 6], gap="medium")
    with left:
        show_triggers(view)
    with middle:
        show_outputs(view)
    if at.is_direction:
        right.caption(
            "A direction is read by itself: the others that were scanned with it are random, so "
            "there are no units that it responds with."
        )
    else:
        show_together(right, view)
    downloads.offer_stored(view, "unit")
    show_tokens_alone(at)


def show_together(place: Any, view: features.UnitView) -> None:
    """Units that vary with it."""
    with place:
        st.subheader("Responds with")
        rows = [{"unit": name, "correlation": f"{value:.2f}"} for name, value in view.together]
        show_rows(rows, "No other unit varies here.")
        st.caption(f"With shuffled tokens the largest is {view.together_by_chance:.2f}.")


def show_tokens_alone(at: Looked) -> None:
    """How much of the unit the token that it stands at explains."""
    st.subheader("Is it the token alone?")
    st.caption(
        "Each token's mean activation, learned on the text above, as a description: what it does "
        "not predict on held-out text depends on what stands before."
    )
    means = steps.step(
        jobs.job_key("token means", at.title("")),
        lambda report: features.token_means(at.model, at.corpus.seen, at.unit, **at.given),
        label="Learning the mean of each token",
    )
    if means is not None and tested(at, means, for_a_note=False) is not None:
        call = at.call("token_means", "model", "seen", repr(at.unit))
        at.code.append(f"means = {call}")
        call = at.call("believe", "model", "held_out", repr(at.unit), "means")
        at.code.append(f"print({call}.summary())")


def show_triggers(view: features.UnitView) -> None:
    """Tokens that stand where it is largest."""
    st.subheader("Triggers")
    rows = [
        {
            "tokens": " then ".join(one.text),
            "largest": f"{one.count} of {one.places}",
            "lift": f"{one.lift:.3g}",
            "p": f"{one.p_value:.2g}",
        }
        for one in view.triggers
        if one.p_value < 1
    ]
    show_rows(rows[:FEW], "No token stands there more often than chance gives.")
    if rows:
        st.caption("Lift: how many times more often than in the whole corpus.")


def show_outputs(view: features.UnitView) -> None:
    """Tokens that it writes for."""
    st.subheader("Writes for")
    rows = [
        {"promoted": f"{high} {up:+.2f}", "suppressed": f"{low} {down:+.2f}"}
        for (high, up), (low, down) in zip(view.promoted, view.suppressed, strict=True)
    ]
    show_rows(rows, "A head writes something else for each token that it attends to.")
    if rows:
        st.caption(
            "Logits by the direct path, up to the final norm's scale; as large in random vectors: "
            f"p = {view.output_p_value:.2g}."
        )


def show_groups(at: Looked) -> None:
    """Whether its largest activations are of one kind."""
    st.caption(
        "A unit that responds to several unrelated things is polysemantic: its largest activations "
        "fall apart into groups by what it reads there. One group is the null."
    )
    found = stored.made(
        features.SeparatedGroups,
        polysemanticity.ANALYSIS,
        at.title("groups"),
        lambda report: features.separated_groups(
            at.model, at.corpus.seen, at.unit, progress=report, **at.given
        ),
        label=f"Grouping the largest activations of {at.label}",
    )
    if found is None:
        return
    call = at.call("separated_groups", "model", "seen", repr(at.unit))
    at.code.append(f"print({call}.summary())")
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    for number, group in enumerate(found.groups, 1):
        typical = ", ".join(repr(token.text) for token in group.tokens[:5])
        st.markdown(
            escaping.markdown(
                f"Group {number}: {group.size} places, mean activation "
                f"{group.mean_activation:.3g}; tokens {typical}"
            )
        )
        st.code("\n".join(group.examples), language=None)
    downloads.offer_stored(found, "groups")


def show_description(at: Looked) -> None:
    """How well a description predicts it on text that was held out."""
    held_out = at.corpus.held_out
    others = "random directions" if at.is_direction else "every other unit of the layer"
    st.caption(
        f"Tested on {len(held_out):,} texts that were not scanned, and on {others}: a description "
        "that fits these as well says nothing about this one."
    )
    asked = writing.ask(
        describing.KINDS,
        lambda kind, text: features.described(at.model, kind, text),
        key="description",
    )
    if asked is None:
        return
    description, kind, text = asked
    found = tested(at, description)
    if found is not None:
        at.code.append(f"description = features.described(model, {kind!r}, {text!r})")
        call = at.call("believe", "model", "held_out", repr(at.unit), "description")
        at.code.append(f"print({call}.summary())")


def tested(
    at: Looked, description: features.Description, *, mark: str = "", for_a_note: bool = True
) -> features.Belief | None:
    """A description's scores, drawn; a note that is written next may rest on them.

    A description that its name does not tell from others has a mark.
    """
    name = f"{description.name} ({mark})" if mark else description.name
    found = stored.made(
        features.Belief,
        belief.ANALYSIS,
        at.title(f"{name} as a description"),
        lambda report: features.believe(
            at.model, at.corpus.held_out, at.unit, description, progress=report, **at.given
        ),
        label="Testing the description",
    )
    if found is not None:
        st.markdown(escaping.markdown(found.summary()))
        showing.figure(found.figure())
    if found is not None and for_a_note:
        st.session_state[f"evidence:{at.title('')}"] = evidence_of(found)
    return found


def evidence_of(found: features.Belief) -> notes.Evidence:
    """What a note keeps of a description's scores."""
    made = found.provenance

    def known(value: float) -> float | None:
        return None if pd.isna(value) else float(value)

    return notes.Evidence(
        description=found.description,
        correlation=known(found.correlation),
        precision=known(found.precision),
        recall=known(found.recall),
        p_value=known(found.p_value),
        n_tokens=found.n_tokens,
        run=runs.id_of(made),
    )


def show_texts(at: Looked) -> None:
    """Texts that were searched for, and how far outside of the data they lie."""
    scan = scanned(at)
    if scan is None:
        return
    place = scan.of(at.label)
    left, middle, right, last = st.columns(4)
    method = left.selectbox(
        "Method", list(METHODS), format_func=lambda one: METHODS[one], key="method"
    )
    length = int(middle.number_input("Tokens", 2, 32, 8, key="length"))
    restarts = int(right.number_input("Restarts", 1, 8, 2, key="restarts"))
    iterations = int(last.number_input("Iterations", 5, 300, 60, key="iterations"))
    start = None
    if st.toggle("Continue from its largest example", key="continue"):
        row, spot = int(scan.top_rows[place, 0]), int(scan.top_positions[place, 0])
        example = at.corpus.seen.row(row)[: spot + 1].tolist()
        start = [one for one in example if one not in at.corpus.seen.special][-length:]
    settings = {
        "method": method or "epo",
        "length": length,
        "restarts": restarts,
        "iterations": iterations,
        "start": start,
    }

    def work(report: jobs.Report) -> features.OptimizedText:
        return features.optimize_text(
            at.model,
            at.unit,
            reference=scan.sample_values[:, place],
            progress=report,
            **settings,
            **at.given,
        )

    said = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
    found = stored.made(
        features.OptimizedText,
        optimization.ANALYSIS,
        at.title(f"optimized texts ({said})"),
        work,
        label=f"Searching for texts that drive {at.label}",
    )
    if found is None:
        return
    arguments = [f"{key}={value!r}" for key, value in settings.items() if value is not None]
    reference = f"reference=scan.sample_values[:, scan.of({at.label!r})]"
    call = at.call("optimize_text", "model", repr(at.unit), *arguments, reference)
    at.code.append(f"found = {call}")
    at.code.append("print(found.summary())")
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    front = found.to_frame()
    st.dataframe(front[front["kind"] == "front"].drop(columns="kind"), hide_index=True)
    show_outside(at, found)
    downloads.offer_stored(found, "texts")


def show_outside(at: Looked, optimized: features.OptimizedText) -> None:
    """How far outside of the data the optimum lies, and what its neighbourhood predicts."""
    seen = at.corpus.seen
    st.subheader("How far outside of the data is that?")
    settings = at.title(f"optimum {results.mark(optimized.tokens)} against examples")
    found = stored.made(
        features.OptimumAgainstExamples,
        outside.TEXT_ANALYSIS,
        settings,
        lambda report: features.compare_with_examples(
            at.model, seen, optimized, progress=report, **at.given
        ),
        label="Comparing the optimum with the data",
    )
    if found is None:
        return
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    st.subheader("Does its neighbourhood predict the unit?")
    near = features.Neighbourhood.of(at.model, at.unit, optimized, **at.given)
    if tested(at, near, mark=results.mark(optimized.tokens)) is not None:
        call = at.call("compare_with_examples", "model", "seen", "found")
        at.code.append(f"print({call}.summary())")
        call = at.call("Neighbourhood.of", "model", repr(at.unit), "found")
        at.code.append(f"near = {call}")
        call = at.call("believe", "model", "held_out", repr(at.unit), "near")
        at.code.append(f"print({call}.summary())")


def show_steering(at: Looked) -> None:
    """What it does to add the unit to the stream, and what that costs."""
    st.caption(
        "The unit is added at several strengths, on prompts whose answers are known and on "
        "unrelated text; random directions of the same length are the control."
    )
    choice = choosing.choose(at.name)
    if choice is None:
        return
    asked = ", ".join(f"{key} {value}" for key, value in choice.description.items())
    found = stored.made(
        features.Steering,
        steering.ANALYSIS,
        at.title(f"steering ({asked})"),
        lambda report: features.steer(
            at.model,
            choice.make(at.model),
            at.corpus.held_out,
            at.unit,
            progress=report,
            **at.given,
        ),
        label=f"Steering with {at.label}",
    )
    if found is None:
        return
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    strengths = found.strengths.tolist()
    strength = st.select_slider(
        "Strength", strengths, found.strongest, format_func=lambda one: f"{one:.3g}", key="strength"
    )
    dose = found.at(strength)
    rows = [
        {
            "measure": found.metric.replace("_", " "),
            "change": f"{dose.effect:+.3g} ({dose.interval[0]:+.3g} to {dose.interval[1]:+.3g})",
            "random directions": f"{dose.control_effect[0]:+.3g} to {dose.control_effect[1]:+.3g}",
            "p": f"{dose.p_value:.2g}",
        },
        {
            "measure": "loss of unrelated text",
            "change": f"{dose.loss_change:+.3g} ({dose.loss_interval[0]:+.3g} to "
            f"{dose.loss_interval[1]:+.3g})",
            "random directions": f"{dose.control_loss[0]:+.3g} to {dose.control_loss[1]:+.3g}",
            "p": f"{dose.loss_p_value:.2g}",
        },
    ]
    st.markdown(tables.markdown(rows))
    prompt = st.text_input("See it write: a prompt", key="prompt").strip()
    if prompt:
        try:
            for title, value in (("as it is", 0.0), (f"steered by {strength:.3g}", strength)):
                text = features.steered_text(at.model, prompt, at.unit, value, **at.given)
                st.caption(title)
                st.code(text, language=None)
        except ValueError as error:
            st.error(escaping.markdown(str(error)))
    if "task" in choice.description:
        given = ", ".join(f"{key}={choice.description[key]!r}" for key in ("n", "seed"))
        made = f"ContrastPairs.from_task(model, {choice.description['task']!r}, {given})"
    elif "rows" in choice.description:
        made = f"ContrastPairs.from_records(model, {choice.description['rows']!r})"
    else:
        made = f"ContrastPairs.from_file(model, {choice.description['file']!r})"
    at.code.append(f"pairs = {made}")
    call = at.call("steer", "model", "pairs", "held_out", repr(at.unit))
    at.code.append(f"print({call}.summary())")
    downloads.offer_stored(found, "steering")


def show_weights(at: Looked) -> None:
    """What its weights read and write, and which labels a head has earned."""
    layer, index = at.layer, at.index
    asked = {
        "neuron": lambda report: weights.neuron(at.model, layer, index),
        "head": lambda report: weights.head(at.model, layer, index),
    }
    if at.kind not in asked:
        st.caption(
            "Neurons and heads have weights of their own. What others write along this one is on "
            "the Direct attribution page, for one prompt."
        )
        return
    work: Any = asked[at.kind]
    found = steps.step(
        jobs.job_key("weights of a unit", card.fingerprint(at.model), at.label),
        work,
        label=f"Reading the weights of {at.label}",
    )
    if found is None:
        return
    at.code.append(f"print(weights.{at.kind}(model, {layer}, {index}).summary())")
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure(), key="weights")
    if at.kind == "head":
        show_labels(at)


def show_labels(at: Looked) -> None:
    """Where the head looks on random sequences, and what that earns it."""
    st.subheader("Labels")
    scores = stored.offered(
        attention.HeadScores,
        scoring.ANALYSIS,
        stored.title("head scores", at.model),
        lambda report: attention.score_heads(at.model, progress=report),
        button="Score every head on random sequences",
        label="Scoring every head on random sequences",
        seconds=attention.scoring_seconds(at.model),
    )
    if scores is None:
        return
    every = scores.to_frame().to_dict("records")
    own = [row for row in every if row["head"] == f"{at.layer}.{at.index}"]
    labels = scores.labels(at.layer, at.index)
    st.markdown(escaping.markdown(f"{at.label}: {', '.join(labels) or 'no label'}."))
    st.markdown(
        tables.markdown(
            [
                {
                    "about": row["about"],
                    "score": f"{row['score']:.2f}",
                    "null": f"{row['null']:.2f}",
                    "p": f"{row['p']:.2g}",
                }
                for row in own
            ]
        )
    )
    at.code.append(f"print(attention.score_heads(model).labels({at.layer}, {at.index}))")


def show_notes(at: Looked) -> None:
    """What is written down about it, and about the model's other units."""
    root, mark = runs.default_root(), card.fingerprint(at.model)
    versions = notes.history(root, mark, at.label, dictionary=at.mark)
    newest = versions[-1] if versions and not versions[-1].deleted else None
    text = st.text_area(
        f"What is {at.label}?", newest.text if newest else "", key=f"note:{at.title('')}"
    )
    evidence = st.session_state.get(f"evidence:{at.title('')}")
    if evidence is not None:
        st.caption(escaping.markdown(f"Kept with it: the scores of {evidence.description}."))
    save, remove, _ = st.columns([1, 1, 4])
    try:
        if buttons.pressed(save.button, "Save"):
            notes.write(
                root,
                mark,
                at.label,
                text,
                model=at.name,
                dictionary=at.mark,
                evidence=evidence or (newest.evidence if newest else None),
            )
            st.rerun()
        if newest and buttons.pressed(remove.button, "Delete"):
            notes.delete(root, mark, at.label, dictionary=at.mark)
            st.rerun()
    except notes.NoteError as error:
        st.error(escaping.markdown(str(error)))
    if len(versions) > 1:
        changes = pd.DataFrame(
            {"written": f"{one.written:%Y-%m-%d %H:%M}", "text": one.text or "deleted"}
            for one in reversed(versions)
        )
        showing.fold(f"{len(versions)} versions", lambda: st.dataframe(changes, hide_index=True))
    every = notes.read(root, mark)
    if every:
        st.subheader(f"All notes about {at.name}")
        rows = [{"unit": note.unit, "note": note.text} for note in every]
        st.dataframe(pd.DataFrame(rows), hide_index=True)
        st.download_button(
            "Export (JSONL)",
            lambda: notes.export(root, mark),
            f"notes-{mark[:16]}.jsonl",
            "application/jsonl",
            on_click="ignore",
        )
    own = st.file_uploader("Notes that somebody else exported", type=["jsonl"])
    if own is not None and buttons.pressed(st.button, "Add them"):
        try:
            st.info(f"{len(notes.load_export(root, own.getvalue()))} new versions were added.")
        except notes.NoteError as error:
            st.error(escaping.markdown(str(error)))


DRAW: dict[str, Any] = dict(
    zip(
        SECTIONS,
        (
            show_range,
            show_groups,
            show_description,
            show_texts,
            show_steering,
            show_weights,
            show_notes,
        ),
        strict=True,
    )
)


def pick_unit(name: str, model: TransformerBridge, corpus: corpora.Parted) -> Looked | None:
    """Choose the unit by its name."""
    # Brings torch, which a page that opens a model has by now.
    from workbench.core.engine import units

    brought = [*dictionaries.listed(name, model), *dictionaries.listed_directions(model)]
    left, right = st.columns([1, 2])
    through = dictionaries.NONE
    if brought:
        through = addresses.pick(
            "Dictionary",
            [dictionaries.NONE, *brought],
            query="dictionary",
            place=left,
            help="With a dictionary, units are its latents: 'latent 2.13'; a stored direction is "
            "one unit: 'direction 2.0'.",
        )
    make_direction(model)
    start = "neuron 0.0"
    if through != dictionaries.NONE:
        start = f"{dictionaries.kind_of(through)} {dictionaries.place_of(through)[1]}.0"
    # What was picked just now has units of its own; the address still names one of before.
    before = st.session_state.get(LAST, through)
    st.session_state[LAST] = through
    written = right.text_input(
        "Unit",
        st.query_params.get("unit", start) if before == through else start,
        key=f"unit:{through}",
        help="Kind, layer and number: 'neuron 2.13', 'head 1.3', 'resid_post 0.5'.",
    )
    try:
        unit = units.Unit.parse(written)
        require_kind(unit, through)
        looked = Looked(name, model, corpus, unit, through)
        units.family_of(model, looked.unit, **looked.given)
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return None
    st.query_params["unit"] = str(unit)
    if looked.is_direction:
        key = through.removeprefix(dictionaries.DIRECTION)
        st.caption(escaping.markdown(f"{key}: {directions.load(model, key).made}."))
    show_elsewhere(looked)
    return looked


def require_kind(unit: Unit, through: str) -> None:
    """Refuse a unit of another kind than those of the dictionary that was picked.

    Raises:
        ValueError: If it is one.
    """
    brought = ("latent", "direction")
    expected = None if through == dictionaries.NONE else dictionaries.kind_of(through)
    if unit.kind == expected or (expected is None and unit.kind not in brought):
        return
    if unit.kind in brought:
        raise ValueError(f"{unit} is a {unit.kind}: pick the dictionary that it is of")
    raise ValueError(f"{unit} is no {expected}: pick no dictionary")


def make_direction(model: TransformerBridge) -> None:
    """A small form: the direction of the stream that tells one token's logit from another's."""
    with st.expander("Make a direction of two tokens"), st.form("direction", border=False):
        left, middle, right, last = st.columns([2, 2, 1, 1], vertical_alignment="bottom")
        says = "A single token, with its leading space if it has one."
        left.text_input("Logit of", key="direction-token", help=says)
        middle.text_input("Less the logit of", key="direction-less", help=f"{says} Empty: none.")
        right.selectbox("Layer", range(int(model.cfg.n_layers)), key="direction-layer")
        last.form_submit_button("Make it", on_click=keep_direction, args=(model,))
    if said := st.session_state.pop(REFUSED, ""):
        st.error(escaping.markdown(said))


def keep_direction(model: TransformerBridge) -> None:
    """Make what the form asks for, keep it, and pick it."""
    token, less = (st.session_state[f"direction-{field}"] for field in ("token", "less"))
    try:
        # A model without a tokenizer is asked by token ids.
        first, second = (
            one if model.tokenizer or not one.strip().isdigit() else int(one)
            for one in (token, less)
        )
        if not token:
            raise ValueError("write the token whose logit the direction is to be")
        made = directions.of_tokens(
            model,
            first,
            None if second == "" else second,
            layer=int(st.session_state["direction-layer"]),
        )
        key = directions.keep(model, made)
    except ValueError as error:
        st.session_state[REFUSED] = str(error)
        return
    st.session_state["dictionary"] = f"{dictionaries.DIRECTION}{key}"


def show_elsewhere(at: Looked) -> None:
    """Links to other pages that show the unit."""
    layer, index = at.layer, at.index
    asked = {
        "head": (
            ("Attention", "attention", {"head": f"{layer}.{index}"}),
            ("Weights", "weights", {"section": "Heads", "head": f"{layer}.{index}"}),
            ("Activations", "activations", {"hook": f"blocks.{layer}.attn.hook_z"}),
        ),
        "neuron": (
            (
                "Weights",
                "weights",
                {"section": "Neurons", "layer": str(layer), "neuron": str(index)},
            ),
            ("Clusters", "clusters", {}),
            (
                "Activations",
                "activations",
                {"hook": f"blocks.{layer}.mlp.hook_post", "coordinate": str(index)},
            ),
        ),
    }
    stream = {"hook": f"blocks.{layer}.hook_{at.kind}", "coordinate": str(index)}
    usual = () if at.given else (("Activations", "activations", stream),)
    found = asked.get(at.kind, usual)
    if found:
        with st.container(horizontal=True):
            st.caption("Elsewhere")
            for title, stem, address in found:
                query = {"model": at.name, **address}
                st.page_link(PAGES / f"{stem}.py", label=title, query_params=query)


def look(name: str, model: TransformerBridge) -> None:
    """Everything below the pickers."""
    corpus = corpora.pick(model)
    if corpus is None:
        return
    at = pick_unit(name, model, corpus)
    if at is None:
        return
    section = showing.section(SECTIONS)
    DRAW[section](at)
    if at.code:
        body = "\n".join(at.code)
        reads = "seen" in body or "held_out" in body
        names = ["ContrastPairs"] * ("ContrastPairs" in body) + ["Corpus"] * reads
        plain = [one for one in ("attention", "weights") if f"{one}." in body]
        script = [
            f"from workbench import {', '.join([*names, 'load_model'])}",
            *([f"from analyses import {', '.join(plain)}"] if plain else []),
            *(["from analyses import feature_visualization as features"] * ("features." in body)),
            *(
                [f"from workbench.core.models import {dictionaries.module_of(at.through)}"]
                if at.given
                else []
            ),
            "",
            f"model = load_model({name!r})",
            *([f"seen, held_out = {corpus.code}"] if reads else []),
            *([dictionaries.code(model, at.through)] if at.given else []),
            *at.code,
        ]
        showing.code(script)


picked = subject.pick()
if picked is not None:
    loaded = subject.loaded(picked)
    if loaded is not None:
        look(picked, loaded)
