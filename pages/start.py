"""Start: what do you want to know?

1. Every question that a page answers stands in one line, and leads to its page.
2. Four examples on models that come along: a click runs one in the background, and its answer is
   said in a sentence, with its control and a figure.
3. Each leads to its page with everything filled in. It asks what that page asks, under the same
   names, so that the page finds the result in the store.

Limits: an answer that is stored is known by the name of its model and by its title, so that it can
be shown before the model is opened; its page compares the weights.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from workbench.core import plots, runs
from workbench.core.models import card
from workbench.ui import contents, escaping, jobs, showing, steps, stored
from workbench.ui.shelf import shelf

if TYPE_CHECKING:
    import plotly.graph_objects as go


PAGES = Path(__file__).resolve().parent
GRAMMAR, MODULAR = "grammar-4l", "modadd-113"
TASK, PAIRS, SITE = "indirect-object", 32, "z"
NEURON = "neuron 0.31"
FREQUENCY = "frequency 14"
# Of what a neuron does: more than half.
MOSTLY = 0.5
HEIGHT = 280
COLUMNS = 2
models, server = shelf(), jobs.manager()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an example found.

    Attributes:
        sentence: The answer.
        control: How it is known not to be chance.
        figure: The same as a picture.
        address: What its page is opened with.
    """

    sentence: str
    control: str
    figure: go.Figure
    address: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Example:
    """A question that is answered in seconds.

    Attributes:
        question: The question.
        about: What is done for it.
        button: What the button says.
        stem: File of its page.
        model: Which model it is about.
        analysis: What makes its result.
        title: Pattern of its result's title in the store.
        make: Makes what its page needs, stores it, and returns the run of its result.
        read: Says what a stored run found.
    """

    question: str
    about: str
    button: str
    stem: str
    model: str
    analysis: str
    title: str
    make: Callable[[jobs.Report], str]
    read: Callable[[str], Answer]

    def stored(self) -> str:
        """The run in the store that answers it; empty where there is none."""
        made = runs.RunStore().runs(self.analysis, model=self.model)
        return next((run.id for run in made if re.fullmatch(self.title, run.title)), "")

    def answer(self, report: jobs.Report) -> Answer:
        """The stored answer, or a new one."""
        report(0.0, "starting torch" if not self.stored() else "opening the stored answer")
        return self.read(self.stored() or self.make(report))


def opened(kind: type[Any], run: str) -> Any:
    """A stored result.

    Raises:
        ValueError: If it is not there any more, or damaged.
    """
    found = runs.RunStore().find(kind, run)
    if found is None:
        raise ValueError("the stored answer cannot be opened any more: try again")
    return found


def share(key: str, found: Any, label: str) -> None:
    """Leave an outcome that is not stored where its page looks for it: as a job that has ended."""
    server.submit(key, lambda _: found, label=label)


def patch_heads(report: jobs.Report) -> str:
    """Every head at every position, as the Patching page asks by default."""
    from analyses import activation_patching
    from workbench.core.engine import metrics, running
    from workbench.core.prompts.pairs import ContrastPairs

    model = models.open(GRAMMAR, running.part(report, 0.0, 0.2))
    chosen = ContrastPairs.from_task(model, TASK, n=PAIRS, seed=0)
    options = activation_patching.Options(
        site=SITE,
        metric=next(iter(metrics.METRICS)),
        direction=activation_patching.DIRECTIONS[0],
        positions="each",
        ablation=None,
    )
    result = activation_patching.patch(
        model,
        chosen,
        **options,
        checks=activation_patching.check(model, chosen, options),
        progress=running.part(report, 0.2, 1.0),
    )
    return runs.RunStore().put(result, title=f"{SITE}, {chosen.name}")


def say_heads(run: str) -> Answer:
    """The head that brings most of the answer back."""
    from analyses import activation_patching

    found = opened(activation_patching.PatchingResult, run)
    best = layer, position, head = found.strongest(1)[0]
    low, high = found.interval[(slice(None), *best)]
    return Answer(
        f"{found.label(best)} brings back {found.effects[best]:.0%} of the right answer when its "
        "output is put into a run with the names exchanged: no other head brings back more.",
        f"{found.confidence:.0%} interval over {len(found.pairs)} pairs of prompts: {low:.0%} to "
        f"{high:.0%}; p = {found.adjusted_p[best]:.2g} after correction for all "
        f"{found.effects.size} cells.",
        plots.heatmap(
            found.effects[:, position],
            row_labels=[f"L{layer}" for layer in found.layers],
            column_labels=[f"H{each}" for each in range(found.effects.shape[2])],
            row_title="layer",
            column_title=f"head, at {found.columns[position].strip()}",
            colour_title=found.unit,
            selected=(layer, head),
        ),
        {"model": GRAMMAR, "site": SITE, "run": run},
    )


def read_neuron(report: jobs.Report) -> str:
    """All that the Unit page shows of the range of a neuron."""
    from analyses import feature_visualization as features
    from analyses.feature_visualization import belief, examples, unit_view
    from workbench.core.engine import running
    from workbench.core.prompts.corpus import Corpus
    from workbench.ui import corpora

    model = models.open(GRAMMAR, running.part(report, 0.0, 0.2))
    seen, held_out = Corpus.bundled(model).split(corpora.SEEN)
    title = functools.partial(stored.title, model=model, corpus=seen)
    _, scan = stored.kept(
        features.TopExamples,
        examples.ANALYSIS,
        title("scan of every neuron"),
        lambda: features.top_examples(
            model, seen, "neuron", layers=None, progress=running.part(report, 0.2, 0.8)
        ),
    )
    run, _ = stored.kept(
        features.UnitView,
        unit_view.ANALYSIS,
        title(f"range of {NEURON}"),
        lambda: features.view_unit(model, seen, scan, NEURON),
    )
    report(0.85, "learning the mean of each token")
    means = features.token_means(model, seen, NEURON)
    share(
        jobs.job_key("token means", title(f" of {NEURON}")),
        means,
        "Learning the mean of each token",
    )
    stored.kept(
        features.Belief,
        belief.ANALYSIS,
        title(f"{means.name} as a description of {NEURON}"),
        lambda: features.believe(
            model, held_out, NEURON, means, progress=running.part(report, 0.9, 1.0)
        ),
    )
    return run


def say_neuron(run: str) -> Answer:
    """The token that the neuron's largest activations stand at."""
    from analyses import feature_visualization as features

    found = opened(features.UnitView, run)
    first = found.triggers[0]
    return Answer(
        f"It fires at {' then '.join(map(repr, first.text))}: {first.count} of its {first.places} "
        f"largest activations stand there, {first.lift:.3g} times as often as in the whole text.",
        f"By chance so many stand there with p = {first.p_value:.2g}. It was read over "
        f"{found.n_tokens:,} tokens, small and negative activations included.",
        found.figure().update_layout(showlegend=False),
        {"model": GRAMMAR, "unit": NEURON},
    )


def track_training(report: jobs.Report) -> str:
    """Every checkpoint of the training that comes along, measured."""
    from analyses import grokking
    from analyses.grokking import tracking

    run = grokking.bundled_run(MODULAR)
    made, _ = stored.kept(
        grokking.ProgressMeasures,
        tracking.ANALYSIS,
        f"measures, {run.name}",
        lambda: grokking.track(run, progress=report),
    )
    return made


def say_training(run: str) -> Answer:
    """When it answers what it was trained on, when the rest, and what forms in between."""
    from analyses import grokking

    measures = opened(grokking.ProgressMeasures, run)
    found = grokking.phases(measures)
    key = jobs.job_key("phases", measures.provenance.fingerprint)
    share(key, found, "Reading the phases")
    ends = dict(zip(found.names, zip(found.boundaries, found.intervals, strict=True), strict=True))
    end, (low, high) = ends["circuit formation"]
    return Answer(
        f"It knows the pairs that it was shown by step {found.memorised_at:,.0f} and answers all "
        f"others only from step {found.grokked_at:,.0f} on; the circuit that does it has formed by "
        f"step {end:,.0f}.",
        f"{found.confidence:.0%} interval of that step, for the noise of the curves: {low:,.0f} to "
        f"{high:,.0f}.",
        plots.line(
            measures.steps,
            {
                "pairs shown": measures.train_loss,
                "all others": measures.test_loss,
                "all others, by the circuit alone": measures.restricted_loss,
            },
            x_title="training step",
            y_title="loss, nats a pair",
            log_y=True,
        ).update_yaxes(**plots.POWERS_OF_TEN),
        {"run": MODULAR},
    )


def read_frequency(report: jobs.Report) -> str:
    """The effect of a frequency on every neuron, as the Clusters page asks by default."""
    from analyses import neuron_clusters as clusters
    from analyses.neuron_clusters import marks
    from workbench.core.engine import running
    from workbench.core.prompts import named_concepts

    model = models.open(MODULAR, running.part(report, 0.0, 0.2))
    concept = named_concepts.named_concept(model, FREQUENCY)
    which = f"{concept.name} {marks.described(concept)['mark']}"
    run, _ = stored.kept(
        clusters.Selectivity,
        "neuron_clusters.selectivity",
        f"selectivity, model {card.fingerprint(model)[:16]}, neuron, {which}",
        lambda: clusters.selectivity(
            model, concept, kinds="neuron", progress=running.part(report, 0.2, 1.0)
        ),
    )
    return run


def say_frequency(run: str) -> Answer:
    """How many neurons follow the frequency, and how closely."""
    from analyses import neuron_clusters as clusters

    found = opened(clusters.Selectivity, run)
    best = found.order[0]
    low, high = found.interval[:, best]
    follow = found.effect >= MOSTLY
    layers = " and ".join(map(str, sorted(set(found.layer[follow].tolist()))))
    return Answer(
        f"{follow.sum()} of the {len(found.names)} neurons, all in layer {layers}, follow "
        f"{found.concept}: it explains {found.effect[follow].min():.0%} or more of each of them, "
        f"and {found.effect[~follow].max():.0%} or less of any other.",
        f"The clearest is {found.names[best]}: {found.effect[best]:.1%}, {found.confidence:.0%} "
        f"interval {low:.1%} to {high:.1%}. Shuffled, it explains {found.null.max():.1%} of a "
        f"neuron at most, {len(found.null):,} times.",
        plots.line(
            np.arange(len(found.names)),
            {"explained": found.effect[found.order]},
            x_title="neurons, the clearest first",
            y_title=f"R² of {found.concept}",
        ),
        {"model": MODULAR, "concept": FREQUENCY},
    )


EXAMPLES = (
    Example(
        "Which head finds the indirect object?",
        f"Every attention head of {GRAMMAR} is patched at every position, on {PAIRS} pairs such as "
        "“Mary and John went …, John gave … to”.",
        "Find the head",
        "patching",
        GRAMMAR,
        "activation_patching.patch",
        rf"{SITE}, {TASK} \(n={PAIRS}, seed=0\)",
        patch_heads,
        say_heads,
    ),
    Example(
        "What makes this neuron fire?",
        f"Every neuron of {GRAMMAR} is read over a corpus; {NEURON} is looked at from its largest "
        "activation to its smallest.",
        "Read the neuron",
        "unit",
        GRAMMAR,
        "feature_visualization.view_unit",
        rf"range of {re.escape(NEURON)}, model \w+, corpus \w+",
        read_neuron,
        say_neuron,
    ),
    Example(
        "How does a circuit grok?",
        f"Every checkpoint of the training of {MODULAR} is measured: what it answers, and what "
        "forms inside long before it shows.",
        "Watch it grok",
        "grokking",
        MODULAR,
        "grokking.track",
        f"measures, {MODULAR}",
        track_training,
        say_training,
    ),
    Example(
        "Where do the frequency neurons live?",
        f"How closely does each neuron of {MODULAR}, which adds modulo 113, follow a wave of "
        f"{FREQUENCY}?",
        "Find the neurons",
        "clusters",
        MODULAR,
        "neuron_clusters.selectivity",
        rf"selectivity, model \w+, neuron, {re.escape(FREQUENCY)} \w+",
        read_frequency,
        say_frequency,
    ),
)


def show_questions() -> None:
    """Every question under its heading, with a link to the page that answers it."""
    columns = [column.container(gap=None) for column in st.columns(COLUMNS, gap="medium")]
    lengths = [0] * COLUMNS
    for heading, pages in contents.grouped(PAGES).items():
        # Each under the shortest column, so that all of them fit on one screen.
        place = lengths.index(min(lengths))
        lengths[place] += len(pages) + 1
        with columns[place]:
            st.markdown(f"**{heading}**")
            for page in pages:
                st.page_link(page.path, label=escaping.markdown(page.heading or page.title))


def show_example(example: Example) -> None:
    """The question with its button, how far it is, or its answer."""
    st.subheader(example.question)
    st.caption(escaping.markdown(example.about))
    key = jobs.job_key("example", str(runs.default_root()), example.question)
    if server.find(key) is None and not example.stored():
        steps.offer(key, example.answer, button=example.button, label=example.button)
        return
    answer = steps.step(key, example.answer, label=example.button)
    if answer is None:
        return
    # Its role is that of a status, which a screen reader reads out when it appears.
    st.success(escaping.markdown(answer.sentence))
    st.caption(escaping.markdown(answer.control))
    showing.figure(answer.figure.update_layout(height=HEIGHT), key=f"figure:{example.stem}")
    title = contents.read(PAGES / f"{example.stem}.py").title
    st.page_link(
        PAGES / f"{example.stem}.py",
        label=f"Open it on the page {title}",
        icon=":material/arrow_forward:",
        query_params=answer.address,
    )


if "model" in st.query_params:
    # The page of a model once had this address.
    st.switch_page(PAGES / "model.py", query_params=st.query_params.to_dict())
show_questions()
st.header("Four answers in seconds, on models that come along")
for pair in (EXAMPLES[:2], EXAMPLES[2:]):
    for column, example in zip(st.columns(2, gap="medium"), pair, strict=True):
        with column.container(border=True):
            show_example(example)
