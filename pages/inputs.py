"""Optimized inputs: which input does a unit want?

1. Pick one of the networks that come along, and a channel of it.
2. See the input that makes it most active grow from noise, beside the best real example and the
   same search on shuffled weights.
3. See how far outside of the data that input lies, and how small the region around a real example
   is in which the unit is linear: one input does not characterise it.
4. See a whole layer, or the way from one channel to another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from analyses import feature_visualization as features
from analyses.feature_visualization import outside
from analyses.feature_visualization.inputs import (
    LogOdds,
    Objective,
    Target,
    affine,
    drawing,
    interpolation,
    optimizing,
    watching,
)
from workbench.core import results
from workbench.core.networks import examples, sources
from workbench.ui import addresses, downloads, escaping, jobs, showing, steps, stored, subject

if TYPE_CHECKING:
    import numpy as np
    from transformer_lens.HookedRootModule import HookedRootModule

CLASSES = "hook_logits"
SECTIONS = ("One channel", "Around a real example", "All of a layer", "From one to another")
# Enough to see what a channel wants; the library's default is lucid's 512.
STEPS, QUICK = 128, 48
RATE = 0.1
EXAMPLES = 600
SOON = 0.5


@st.cache_resource(max_entries=4, show_spinner="Opening the network")
def opened(name: str) -> tuple[HookedRootModule, np.ndarray]:
    """A network with the examples that it is compared on."""
    inputs, _ = examples.held_out(name, EXAMPLES)
    return sources.load_network(name), inputs


@st.cache_resource(max_entries=32, show_spinner=False)
def pictures() -> dict[str, Any]:
    """The newest picture of each search that goes on, by its title."""
    return {}


@st.cache_data(max_entries=64, show_spinner=False)
def width(name: str, hook: str) -> int:
    """How many channels a hook point has."""
    return watching.channels(opened(name)[0], hook)


def unit_of(name: str, hook: str, channel: int) -> tuple[Objective, str]:
    """What is optimized, and the code of it."""
    if hook == CLASSES:
        return LogOdds(channel), f"LogOdds({channel})"
    return Target(hook, channel), f"Target({hook!r}, {channel})"


def optimized(
    name: str, hook: str, channel: int, settings: dict[str, Any]
) -> features.OptimizedInput | None:
    """The optimum of a channel; while it is searched for, its picture grows."""
    network, data = opened(name)
    unit, _ = unit_of(name, hook, channel)
    said = ", ".join(f"{key} {value}" for key, value in settings.items())
    title = (
        f"optimum of {unit.label} of {name} {sources.network_fingerprint(network)[:16]} ({said})"
    )
    growing = pictures()

    def grow(inputs: np.ndarray, activations: np.ndarray) -> None:
        shown = [f"{one:.3g}" for one in activations]
        growing[title] = drawing.pictured(list(zip(shown, inputs, strict=True)))

    def work(report: jobs.Report) -> features.OptimizedInput:
        try:
            return features.optimize_input(
                network,
                unit,
                data=data,
                control=True,
                progress=report,
                watch=grow,
                **settings,
            )
        finally:
            growing.pop(title, None)

    found = stored.made(
        features.OptimizedInput, optimizing.ANALYSIS, title, work, label=f"Climbing {unit.label}"
    )
    if found is None:
        watch(title)
    return found


def watch(title: str) -> None:
    """The newest picture of a search, drawn anew as long as it goes on."""

    @st.fragment(run_every=SOON)
    def newest() -> None:
        picture = pictures().get(title)
        if picture is not None:
            showing.figure(picture, key="growing")

    newest()


def show_channel(name: str, hook: str, channel: int) -> list[str]:
    """One channel's optimum with its controls."""
    network, data = opened(name)
    left, middle, right, last = st.columns(4)
    direction = left.segmented_control(
        "Towards", ["most", "least"], default="most", key="towards", required=True
    )
    n_steps = int(middle.number_input("Steps", 8, 2048, STEPS, key="steps"))
    diversity = float(right.number_input("Diversity", 0.0, 10.0, 0.0, key="diversity"))
    seed = int(last.number_input("Seed", 0, 2**31 - 1, 0, key="seed"))
    settings = {
        "steps": n_steps,
        "lr": RATE,
        "direction": 1 if direction == "most" else -1,
        "diversity": diversity,
        "seed": seed,
    }
    found = optimized(name, hook, channel, settings)
    if found is None:
        return []
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    unit, code = unit_of(name, hook, channel)
    against = stored.made(
        features.InputAgainstData,
        outside.INPUT_ANALYSIS,
        f"{unit.label} of {name}: optimum {results.mark(found.inputs)} against the data",
        lambda report: features.compare_input_with_data(
            network, unit, found, data, progress=report
        ),
        label="Comparing the optimum with the data",
    )
    if against is not None:
        st.subheader("How far outside of the data is that?")
        st.markdown(escaping.markdown(against.summary()))
        showing.figure(against.figure())
    downloads.offer_stored(found, "input")
    arguments = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    return [
        f"unit = inputs.{code}",
        "found = features.optimize_input(",
        f"    network, unit, data=data, control=True, {arguments}",
        ")",
        "print(found.summary())",
        "print(features.compare_input_with_data(network, unit, found, data).summary())",
    ]


def show_region(name: str, hook: str, channel: int) -> list[str]:
    """Where the unit is linear around an example."""
    network, data = opened(name)
    unit, code = unit_of(name, hook, channel)
    st.caption(
        "A ReLU network is exactly linear around each input, up to the nearest boundary at which a "
        "neuron turns on or off. Beyond it another linear map holds: what is seen at one point "
        "says nothing there."
    )
    number = int(st.number_input("Example", 0, len(data) - 1, 0, key="example"))
    if hook == CLASSES:
        # The log odds of a class are no linear function; its score is.
        unit, code = Target(CLASSES, channel), f"Target({CLASSES!r}, {channel})"
    found = stored.made(
        features.LinearRegion,
        affine.ANALYSIS,
        f"region of {unit.label} of {name} {sources.network_fingerprint(network)[:16]} around "
        f"example {number}",
        lambda report: features.linear_region(network, unit, data[number]),
        label="Following the unit until it bends",
    )
    if found is None:
        return []
    st.markdown(escaping.markdown(found.summary()))
    left, right = st.columns(2)
    with left:
        showing.figure(drawing.pictured([("example", found.input), ("slope", found.gradient)]))
    with right:
        showing.figure(found.figure())
    downloads.offer_stored(found, "region")
    return [
        f"found = features.linear_region(network, inputs.{code}, data[{number}])",
        "print(found.summary())",
    ]


def show_layer(name: str, hook: str, channel: int) -> list[str]:
    """The optima of all channels of a hook point."""
    del channel  # all of them
    network, data = opened(name)
    count = width(name, hook)
    mark = sources.network_fingerprint(network)[:16]
    title = f"optima of all {count} channels of {hook} of {name} {mark}"

    def work(report: jobs.Report) -> list[tuple[str, np.ndarray]]:
        made = []
        for at in range(count):
            report(at / count, f"channel {at} of {count}")
            found = features.optimize_input(
                network, unit_of(name, hook, at)[0], data=data, steps=QUICK, lr=0.2, restarts=2
            )
            best = found.best_example_activation or float("nan")
            text = f"{at}: {found.activations[found.best]:.3g} (data {best:.3g})"
            made.append((text, found.inputs[found.best]))
        return made

    key = jobs.job_key("gallery", title)
    found = steps.step(key, work, label=f"Climbing all {count} channels of {hook}")
    if found is None:
        return []
    st.caption(
        f"Each channel's best of two quick searches ({QUICK} steps), with its activation and that "
        f"of the best of {len(data)} real examples. Pick a channel for the whole search."
    )
    showing.figure(drawing.pictured(found))
    return [
        f"for channel in range({count}):",
        f"    unit = inputs.Target({hook!r}, channel)"
        if hook != CLASSES
        else "    unit = inputs.LogOdds(channel)",
        f"    found = features.optimize_input(network, unit, data=data, steps={QUICK}, lr=0.2, "
        "restarts=2)",
        "    print(found.summary())",
    ]


def show_way(name: str, hook: str, channel: int) -> list[str]:
    """A row of inputs from one channel to another."""
    network, data = opened(name)
    last = width(name, hook) - 1
    other = int(st.number_input("To channel", 0, last, min(last, channel + 1), key="other"))
    if other == channel:
        st.info("Pick another channel than the one that the row begins with.")
        return []
    (first, code), (second, other_code) = (unit_of(name, hook, at) for at in (channel, other))
    found = stored.made(
        features.InterpolatedInputs,
        interpolation.ANALYSIS,
        f"from {first.label} to {second.label} of {name} "
        f"{sources.network_fingerprint(network)[:16]} in {STEPS} steps",
        lambda report: features.interpolated_inputs(
            network, first, second, data=data, steps=STEPS, lr=RATE, progress=report
        ),
        label=f"Going from {first.label} to {second.label}",
    )
    if found is None:
        return []
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    downloads.offer_stored(found, "row")
    return [
        f"first, second = inputs.{code}, inputs.{other_code}",
        "found = features.interpolated_inputs(",
        f"    network, first, second, data=data, steps={STEPS}, lr={RATE}",
        ")",
        "print(found.summary())",
    ]


DRAW: dict[str, Any] = dict(
    zip(SECTIONS, (show_channel, show_region, show_layer, show_way), strict=True)
)


def look() -> None:
    """The pickers, and what is asked for."""
    names = sources.list_networks()
    left, middle, right = st.columns([2, 2, 1])
    name = subject.pick_network(names, left)
    card = sources.network_card(name)
    st.caption(escaping.markdown(f"{card.summary} Held-out accuracy {card.test_accuracy:.1%}."))
    network, data = opened(name)
    hooks = list(network.hook_dict)
    hook = addresses.pick("Layer", hooks, query="hook", place=middle)
    last = width(name, hook) - 1
    channel = addresses.number("Channel", last, query="channel", key=f"channel:{hook}", place=right)
    if hook == CLASSES:
        st.caption(f"Channel {channel} is the class {escaping.markdown(card.classes[channel])}.")
    section = showing.section(SECTIONS)
    code = DRAW[section](name, hook, channel)
    if code:
        script = [
            "from analyses import feature_visualization as features",
            "from analyses.feature_visualization import inputs",
            "from workbench.core.networks import examples, sources",
            "",
            f"network = sources.load_network({name!r})",
            f"data, _ = examples.held_out({name!r}, {len(data)})",
            *code,
        ]
        showing.code(script)


st.caption(
    "An optimum is one input. It is shown beside real ones, beside the same search on shuffled "
    "weights, and with how far outside of the data it lies."
)
look()
