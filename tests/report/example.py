"""A report that looks like a real one: every verdict, figures of several kinds, hostile strings."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.subplots

from workbench.core import plots
from workbench.report import comparing, document, exhibits, spec

# What a tokenizer or a spec may hold; each would do harm in a page that does not escape it.
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "\u202egnp.exe\u202c",
    "{{ 7 * 7 }} #eval(1) $x$ `y` *z* \\ @cite <label>",
    "<a href=\"javascript:document.title='owned'\">a link</a>",
    "\u2028\u2029\u0000\ufeff\u200b",
    "שלום ‎ 中文 👩‍🔬",
)
FINGERPRINT = "3f9ac1d07be24418a6c0f35d9e7721b84c56d2e9010fa8b3c7d64e5912ab80f6"
CAPTION = "Effect of patching each layer and position. " + HOSTILE[0]


@functools.cache
def report() -> document.Report:
    """The report; drawn by several test modules, made once."""
    asked = spec.AuditSpec(
        title=f"Audit of a small grammar model {HOSTILE[2]}",
        model=spec.Subject(name=HOSTILE[1], fingerprint=FINGERPRINT),
        behaviours=(spec.Behaviour(task="agreement"), spec.Behaviour(pairs=HOSTILE[3])),
    )
    sections = (_behaviour(), _sites(), _circuit(), _units(), _training())
    return document.Report(
        title=asked.title,
        examined=(
            ("model", HOSTILE[1]),
            ("fingerprint", FINGERPRINT),
            ("architecture", "4 layers, 4 heads, width 64, 214,272 parameters"),
            ("vocabulary", f"127 tokens, the longest {HOSTILE[0]}"),
            ("behaviours", "subject-verb agreement (64 pairs), gender of pronouns (64 pairs)"),
        ),
        findings=_findings(),
        headlines=("circuit/agreement", "sites/agreement", "training"),
        sections=sections,
        limits=(
            "The behaviours are the ones that the spec names; the model may do other things.",
            "A circuit is faithful on prompts like those it was measured on, and on no others.",
            f"Whether anything follows from a token named {HOSTILE[0]} was not asked.",
        ),
        manifest=document.Manifest(
            model=HOSTILE[1],
            fingerprint=FINGERPRINT,
            spec=asked,
            inputs={HOSTILE[3]: "9" * 64},
            seed=0,
            versions={"workbench": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
            hardware={"processor": "x86-64, 2 cores", "memory": "16 GB", "device": "cpu, float32"},
            run_ids={one.id: one.run_ids for one in sections},
            seconds={one.id: one.seconds for one in sections},
            created="2026-11-22T05:30:00+00:00",
        ),
        selftest=document.SelfTest(
            rows=(
                document.Recovered(
                    analysis="circuits.discover",
                    planted="one head copies; nothing else does",
                    recovered="a1.h0 and no other",
                    right=True,
                    measured=1.0,
                    bound="at least 0.95",
                ),
                document.Recovered(
                    analysis="neuron_clusters.localize",
                    planted="six neurons of layer 1 hold the concept",
                    recovered="five of six",
                    right=False,
                    measured=0.83,
                    bound="at least 0.9",
                ),
            ),
            seconds=42.5,
        ),
    )


def bare() -> document.Report:
    """The least that a report may hold: nothing was found, nothing was looked at."""
    whole = report()
    manifest = whole.manifest.model_copy(
        update={"inputs": {}, "run_ids": {}, "seconds": {}, "hardware": {}}
    )
    return whole.model_copy(
        update={
            "findings": (),
            "headlines": (),
            "sections": (),
            "limits": (),
            "examined": (),
            "selftest": None,
            "manifest": manifest,
        }
    )


def figures() -> dict[str, go.Figure]:
    """Figures of the kinds that analyses draw."""
    return {
        "grid": _grid(),
        "curve": _curve(),
        "bars": _bars(),
        "graph": _graph(),
        "histogram": _histogram(),
        "panels": _panels(),
    }


def _findings() -> tuple[document.Finding, ...]:
    faithful = exhibits.measured(
        "faithfulness",
        0.913,
        interval=(0.882, 0.941),
        n=64,
        p_value=0.0196,
        null="random connected circuits of its size, mean",
        null_value=0.214,
        threshold=spec.Threshold(passes=0.8, warns=0.5),
    )
    return (
        document.Finding(
            id="behaviour/agreement",
            question="behaviour",
            about="subject-verb agreement",
            verdict="pass",
            statement="The model agrees the verb with its subject in 63 of 64 prompts.",
            evidence="Accuracy 0.984, 95% interval [0.953, 1], n = 64.",
            caveat="All prompts come from one template with two distractors.",
        ),
        document.Finding(
            id="behaviour/pronouns",
            question="behaviour",
            about=HOSTILE[0],
            verdict="fail",
            statement=f"The model answers {HOSTILE[0]} where {HOSTILE[6]} is right.",
            evidence="Accuracy 0.41, 95% interval [0.3, 0.52], n = 64.",
            caveat="The prompts may be unlike those it was trained on.",
        ),
        document.Finding(
            id="sites/agreement",
            question="sites",
            about="subject-verb agreement",
            verdict="warn",
            statement="The stream at the subject carries the number of the verb up to layer 2.",
            evidence="Largest normalized effect 0.62, 95% interval [0.41, 0.79], n = 64.",
            caveat="Patching shows that a site suffices, not that the model needs it.",
        ),
        document.Finding(
            id="circuit/agreement",
            question="circuit",
            about="subject-verb agreement",
            verdict="pass",
            statement="A circuit of 38 of 412 connections does nearly all of the work.",
            evidence=(
                "Faithfulness 0.913 on held-out pairs, 95% interval [0.882, 0.941], n = 64; "
                "50 random connected circuits of its size reach 0.214 on average (p = 0.0196)."
            ),
            caveat="What is outside was set to its mean; other ways to remove it give 0.84.",
            measured=(faithful,),
        ),
        document.Finding(
            id="units/neuron-2.31",
            question="units",
            about="neuron 2.31",
            verdict="warn",
            statement="Neuron 2.31 fires on plural subjects, and on some full stops.",
            evidence="AUC 0.87 for plural subjects, n = 20,000 tokens.",
            caveat="Descriptions of a neuron cover its largest activations only.",
        ),
        document.Finding(
            id="concepts/tense",
            question="concepts",
            about="tense",
            verdict="not examined",
            statement="Whether a cluster of neurons holds the tense is not known.",
            reason="the audit's limit of 60 minutes was reached before",
        ),
        document.Finding(
            id="training",
            question="training",
            about="the training run",
            verdict="pass",
            statement="The test loss drops at step 9,400, when the key frequencies have formed.",
            evidence="Test loss falls from 1.9 to 0.004 nats between steps 8,800 and 10,200.",
            caveat="One run; other seeds drop at other steps.",
        ),
    )


def _behaviour() -> document.Section:
    frame = pd.DataFrame(
        {
            "prompt": ["the cats near the dog", HOSTILE[0], HOSTILE[2], HOSTILE[6]],
            "right answer": ["are", "is", HOSTILE[1], "中"],
            "logit difference": [3.214159, -0.5, np.nan, 1e-7],
            "answered right": [True, False, None, True],
        }
    )
    whole = pd.concat([frame] * 8, ignore_index=True)
    return document.Section(
        id="behaviour/agreement",
        question="behaviour",
        title="Subject-verb agreement",
        asked="Does the model choose the form of the verb that the subject asks for?",
        summary=(
            "The model is right in 63 of 64 prompts. Its mean logit difference is 3.21 logits; "
            f"the prompt that it gets wrong holds {HOSTILE[0]}."
        ),
        method=(
            "Each prompt is read once and the logits of the right and of the wrong verb are "
            "compared at the last position. Intervals are bootstrap intervals over prompts."
        ),
        papers=("Linzen et al. 2016, arXiv 1611.01368", HOSTILE[4]),
        exhibits=(exhibits.table(whole, "The prompts, the worst first. " + HOSTILE[1], rows=6),),
        measured=(
            exhibits.measured(
                "accuracy",
                0.984,
                interval=(0.953, 1.0),
                n=64,
                null="chance",
                null_value=0.5,
                threshold=spec.Threshold(passes=0.9, warns=0.7),
            ),
            exhibits.measured("logit difference", 3.2145, interval=(2.9, 3.5), n=64, unit="logits"),
            exhibits.measured(f"rank of {HOSTILE[5]}", float("nan")),
        ),
        caveats=("All prompts come from one template.", f"Tokens such as {HOSTILE[5]} are rare."),
        run_ids=("20261122-053000-a1b2c3",),
        seconds=3.4,
    )


def _sites() -> document.Section:
    return document.Section(
        id="sites/agreement",
        question="sites",
        title="Subject-verb agreement: where it is carried",
        asked="Which place in the model, once restored, restores the answer?",
        summary="The number of the subject stays at its own position up to layer 2 and then moves.",
        method=(
            "An activation of the clean run replaces that of the corrupted run, one site at a "
            "time. The effect is the share of the logit difference that comes back."
        ),
        papers=("Wang et al. 2022, arXiv 2211.00593",),
        exhibits=(
            exhibits.figure(_grid(), CAPTION),
            exhibits.figure(_bars(), "The ten largest effects with their intervals."),
        ),
        measured=(
            exhibits.measured("largest effect", 0.62, interval=(0.41, 0.79), n=64),
            exhibits.measured("second largest effect", 0.48, interval=(0.3, 0.6), n=64),
        ),
        caveats=("A site that suffices need not be one that is needed.",),
        run_ids=("20261122-053100-d4e5f6",),
        seconds=8.25,
    )


def _circuit() -> document.Section:
    return document.Section(
        id="circuit/agreement",
        question="circuit",
        title="Subject-verb agreement: its circuit",
        asked="Which connections are enough, and how much do they do?",
        summary="38 of 412 connections carry 0.913 of the logit difference on held-out pairs.",
        method=(
            "Connections are scored by integrated gradients and the best are kept. What is left "
            "out is set to its mean over the corrupted prompts."
        ),
        papers=("Hanna et al. 2024, arXiv 2403.17806", "Conmy et al. 2023, arXiv 2304.14997"),
        exhibits=(
            exhibits.figure(_graph(), "The circuit; blue connections raise the logit difference."),
            exhibits.figure(_curve(), "Faithfulness by the share of connections that are kept."),
            exhibits.figure(_histogram(), "Random circuits of this size, and this one as a line."),
        ),
        measured=(),
        caveats=("Means of corrupted prompts may hold what the circuit needs.",),
        run_ids=("20261122-053200-070809", "20261122-053210-0a0b0c"),
        seconds=71.9,
    )


def _units() -> document.Section:
    unknown = go.Figure(go.Box(y=[1.0, 2.0, 4.0], name="activation")).update_layout(height=260)
    outside = go.Figure(go.Scattergeo(lat=[0.0], lon=[0.0]))
    return document.Section(
        id="units/neuron-2.31",
        question="units",
        title="Neuron 2.31",
        asked="What makes this neuron fire?",
        summary="It fires on plural subjects (AUC 0.87).",
        method="The corpus is read once. Every token's activation is kept.",
        exhibits=(
            exhibits.figure(unknown, "Spread of its activation."),
            exhibits.figure(outside, "A figure of a kind that needs a network."),
        ),
        seconds=5.0,
    )


def _training() -> document.Section:
    return document.Section(
        id="training",
        question="training",
        title="The training story",
        asked="When did the loss drop, and what changed in the circuit at that step?",
        summary="The test loss drops at step 9,400.",
        method="Checkpoints are measured one by one. Drops are found by a scan over all steps.",
        papers=("Nanda et al. 2023, arXiv 2301.05217",),
        exhibits=(exhibits.figure(_panels(), "Losses and accuracy over the training."),),
        measured=(exhibits.measured("test loss at the end", 0.000412, n=10215, unit="nats"),),
        run_ids=(),
        seconds=30.0,
    )


def _grid() -> go.Figure:
    effects = np.random.default_rng(0).normal(size=(5, 8)) * np.linspace(0.1, 1, 5)[:, None]
    tokens = [" the", " cats", HOSTILE[0], " near", HOSTILE[2], HOSTILE[1], " dog", "中"]
    return plots.heatmap(
        effects,
        row_labels=[f"layer {layer}" for layer in range(5)],
        column_labels=plots.token_labels(tokens),
        row_title="stream before",
        column_title="position",
        colour_title="effect (0 none, 1 full)",
    )


def _bars() -> go.Figure:
    values = np.linspace(0.62, 0.1, 10)
    names = [f"a{layer}.h{head}" for layer in range(5) for head in range(2)]
    return plots.bars(
        values,
        values - 0.08,
        values + 0.09,
        labels=names,
        value_title="normalized effect",
        label_title="head",
    )


def _curve() -> go.Figure:
    shares = np.geomspace(0.01, 1, 12)
    kept = 1 - (1 - shares) ** 6
    return plots.line(
        shares,
        {"by score": kept, "random order": shares**1.5},
        x_title="share of connections",
        y_title="faithfulness (0 corrupted, 1 clean)",
        bands={"by score": np.stack([kept - 0.05, kept + 0.05])},
        log_x=True,
    ).add_hline(y=1, line={"dash": "dot", "color": plots.COLOURS[-1]})


def _graph() -> go.Figure:
    names = ["embed", "a0.h1", "m0", "a1.h2", "m1", "logits"]
    places = np.array([[0, 0], [0, 1], [1.5, 1], [0.4, 2], [1.8, 2], [0.8, 3]], dtype=np.float64)
    links = np.array([[0, 1], [0, 2], [1, 3], [2, 3], [2, 4], [3, 5], [4, 5], [0, 5]])
    scores = np.array([0.8, 0.3, 0.9, -0.2, 0.15, 1.2, -0.5, 0.1])
    return plots.layered_graph(
        names,
        places,
        links,
        scores,
        row_labels=["embedding", "layer 0", "layer 1", "output"],
        value_title="score (logits)",
    )


def _histogram() -> go.Figure:
    random = np.random.default_rng(1).normal(0.21, 0.08, 50)
    figure = go.Figure(go.Histogram(x=random, nbinsx=12, marker={"color": plots.COLOURS[-1]}))
    figure.add_vrect(x0=0.882, x1=0.941, fillcolor=plots.COLOURS[0], opacity=0.18, line_width=0)
    figure.add_vline(x=0.913, line={"color": plots.COLOURS[0], "width": 3})
    figure.update_layout(template=plots.TEMPLATE, showlegend=False)
    figure.update_xaxes(title="faithfulness (0 corrupted, 1 clean)")
    return figure.update_yaxes(title="random circuits")


def _panels() -> go.Figure:
    steps = np.arange(0, 20_001, 400)
    later = 1 / (1 + np.exp(-(steps - 9_400) / 500))
    figure = plotly.subplots.make_subplots(rows=2, cols=1, vertical_spacing=0.14)
    for name, loss, colour in (
        ("train loss", 2 * np.exp(-steps / 900) + 1e-4, plots.COLOURS[0]),
        ("test loss", 2 * (1 - later) + 4e-4, plots.COLOURS[1]),
    ):
        drawn = go.Scattergl(x=steps, y=loss, name=name, mode="lines", line={"color": colour})
        figure.add_trace(drawn, row=1, col=1)
    accuracy = go.Scatter(x=steps, y=later, name="test accuracy", mode="lines")
    figure.add_trace(accuracy, row=2, col=1)
    figure.add_vrect(x0=8_800, x1=10_200, fillcolor="#8a9099", opacity=0.18, line_width=0)
    figure.update_layout(template=plots.TEMPLATE, height=480)
    figure.update_yaxes(title="loss (nats)", type="log", row=1, col=1)
    figure.update_yaxes(title="accuracy", tickformat=".0%", row=2, col=1)
    return figure.update_xaxes(title="step", row=2, col=1)


@functools.cache
def comparison() -> comparing.Comparison:
    """Two models, of which the second does worse: each rule, each judgement, hostile names."""
    first = report()
    worse = first.findings[0].model_copy(
        update={"verdict": "fail", "caveat": f"One template. {HOSTILE[0]}"}
    )
    manifest = first.manifest.model_copy(update={"fingerprint": "b" * 64, "model": HOSTILE[0]})
    second = first.model_copy(
        update={"findings": (worse, *first.findings[1:]), "manifest": manifest}
    )
    number = document.Measured
    accuracy = comparing.Change(
        id="behaviour/agreement",
        question="behaviour",
        about="subject-verb agreement",
        name="accuracy",
        first=number(name="accuracy", value=0.984375, low=0.953125, high=1.0),
        second=number(name="accuracy", value=0.734375, low=0.625, high=0.828125),
        difference=-0.25,
        low=-0.359375,
        high=-0.140625,
        n=64,
        p_value=0.0123456,
        rule="paired",
        changed=True,
    )
    margin = accuracy.model_copy(
        update={
            "about": HOSTILE[0],
            "id": "behaviour/pronouns",
            "difference": 0.03125,
            "low": -0.0625,
            "high": 0.125,
            "changed": False,
        }
    )
    faithful = comparing.Change(
        id="circuit/agreement",
        question="circuit",
        about="subject-verb agreement",
        name=f"faithfulness {HOSTILE[1]}",
        first=number(name="faithfulness", value=0.913, low=0.882, high=0.941),
        second=number(name="faithfulness", value=0.512, low=0.4321, high=0.5987),
        difference=-0.401,
        rule="intervals",
        changed=True,
    )
    size = comparing.Change(
        id="circuit/agreement",
        question="circuit",
        about="subject-verb agreement",
        name="connections in the circuit",
        first=number(name="connections in the circuit", value=38.0),
        second=number(name="connections in the circuit", value=51.0),
        difference=13.0,
        rule="values",
        changed=None,
    )
    verdicts = tuple(
        comparing.VerdictPair(id=one.id, first=one.verdict, second=other.verdict)
        for one, other in zip(first.findings, second.findings, strict=True)
    )
    return comparing.Comparison(
        names=(HOSTILE[1], HOSTILE[0]),
        reports=(first, second),
        verdicts=verdicts,
        changes=(accuracy, faithful, margin, size),
        left_out=(f"concepts/tense was not examined in either model: {HOSTILE[2]}",),
    )
