"""Train `modadd-113`: a one-layer transformer that groks addition modulo 113.

What does a network learn that first memorises `a + b mod p` and, long after, generalises? This
script trains the mainline model of the paper, set-up and length included, and writes the bundle:
the model, and the trajectory that it came by.

Method:

1. Task and recipe are the published ones (`modular.tasks`, recipe `nanda-2023`): p = 113, 30 % of
   the pairs, full batches, AdamW with weight decay 1, 40,000 epochs, one thread.
2. Out of the checkpoints that the training keeps, `CHECKPOINTS` are chosen so that the measures
   move about equally from one to the next. They are packed into 12 bits a weight (`bundle.pack`).
3. Card: losses, accuracy over all p² pairs, the key frequencies and how much of the logits they
   explain (`measure`), in float64 arithmetic on the stored weights.

Source: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability",
arXiv 2301.05217; the initialisation follows the code published with it.

Units: losses in nats per pair (one predicted token each), explained variance and shares as
fractions. Limits: one seed; equal seeds give equal weights on one machine with one version of the
arithmetic only. Sums in another order drift apart while nothing but rounding moves the loss: such a
training had the same key frequencies and each end of a phase within its interval here, with test
loss below .1 from step 5,098 on instead of 5,408.

Run: `python -m workbench.core.models.training.modadd_113` (about half an hour; it can be
interrupted and goes on where it was)
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch.nn import functional

from workbench.core.models import card
from workbench.core.modular import bundle, fourier, network, recipe, run, tasks, training

NAME = "modadd-113"
TASK = tasks.Task()
RECIPE = recipe.recipe("nanda-2023")
CHECKPOINTS = 40
# Steps between two lines of the log.
_REPORT_SECONDS = 30.0

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Measures:
    """What the card says of the trained network.

    Attributes:
        train_loss: Mean cross-entropy of the training pairs, nats a pair.
        test_loss: The same over all other pairs.
        accuracy: Share of all p² pairs whose highest logit is the sum.
        test_accuracy: The same over the pairs that were not trained on.
        keys: Key frequencies.
        key_power: Their share of the neuron-logit map's power.
        logits_explained: Share of the logits' variance along the keys' cos(w(a + b - c)).
        neurons_explained: Share of the neurons that one frequency explains to at least .85.
        squared_weights: Sum of squares of all weights.
    """

    train_loss: float
    test_loss: float
    accuracy: float
    test_accuracy: float
    keys: tuple[int, ...]
    key_power: float
    logits_explained: float
    neurons_explained: float
    squared_weights: float


def measure(found: run.TrainingRun) -> Measures:
    """Measure the last checkpoint of a run in float64 arithmetic on its stored weights.

    Args:
        found: A run of addition.

    Returns:
        All figures of the card that depend on the weights.
    """
    task, p = found.task, found.task.p
    weights = found.weights(found.steps[-1])
    exact = {name: value.double()[None] for name, value in weights.items()}
    train, test = task.split()
    answers = task.answers()
    with torch.inference_mode():
        parts = list(network.forward(exact, task.pairs()[None], found.recipe.n_heads))
        logits = torch.cat([part[0][0] for part in parts])
        hidden = torch.cat([part[1][0] for part in parts])
        correct = logits.argmax(1) == answers
        losses = functional.cross_entropy(logits, answers, reduction="none")
    shares = fourier.frequency_shares(_neuron_logit_map(weights, p))
    keys = fourier.key_frequencies(shares)
    neurons = fourier.explained_neurons(hidden.reshape(p, p, -1).numpy())
    return Measures(
        train_loss=losses[train].mean().item(),
        test_loss=losses[test].mean().item(),
        accuracy=correct.double().mean().item(),
        test_accuracy=correct[test].double().mean().item(),
        keys=keys,
        key_power=float(shares[np.array(keys, dtype=int) - 1].sum()),
        logits_explained=fourier.explained_logits(logits[:, :p].reshape(p, p, p).numpy(), keys),
        neurons_explained=float((neurons >= fourier.EXPLAINED).mean()),
        squared_weights=network.squared_weights(weights),
    )


def _neuron_logit_map(weights: network.Weights, p: int) -> Float64[np.ndarray, "residue neuron"]:
    return (weights[network.UNEMBEDDING][:p].double() @ weights[network.OUT].double()).numpy()


def build_card(measured: Measures, found: run.TrainingRun, seconds: float) -> card.ModelCard:
    """The card of a trained network.

    Args:
        measured: Its figures.
        found: Its training.
        seconds: Wall time of the training.
    """
    task = found.task
    return card.ModelCard(
        name=NAME,
        title=f"One-layer transformer that groks addition modulo {task.p}",
        summary=(
            f"Reads `a b =` and gives a + b mod {task.p}. Trained on {task.fraction:.0%} of the "
            "pairs until it had memorised them, then generalised to all others, then shed what it "
            f"had memorised. It computes with a few waves: {len(measured.keys)} key frequencies "
            f"carry {measured.logits_explained:.0%} of the variance of its logits."
        ),
        tasks=("modular-addition",),
        default_prompt="12 + 57 =",
        training=_card_training(found, seconds),
        measures=_card_measures(measured, found),
        behaviours=(
            card.Behaviour(
                task="modular-addition",
                accuracy=measured.test_accuracy,
                n=task.n_pairs - task.n_train,
                chance=1 / task.p,
                split="held-out pairs",
            ),
        ),
        references=(
            "Nanda, Chan, Lieberum, Smith and Steinhardt 2023, Progress measures for grokking via "
            "mechanistic interpretability, arXiv 2301.05217",
        ),
        caveats=(
            "Only the prediction after `=` was trained: the logits at the other positions, and the "
            "logit of `=` itself, mean nothing.",
            "The context is 3 tokens: it cannot continue past the answer.",
            "Which frequencies are key depends on the seed; their number and the share that they "
            "explain are the reproducible part.",
        ),
    )


def _card_training(found: run.TrainingRun, seconds: float) -> card.Training:
    task, made = found.task, found.recipe
    return card.Training(
        script="python -m workbench.core.models.training.modadd_113",
        data=(
            f"{task.n_train:,} of the {task.n_pairs:,} pairs (a, b), the first {task.fraction:.0%} "
            f"of the row-major list shuffled with random.seed({task.seed})"
        ),
        seed=task.seed,
        steps=found.step,
        tokens=3 * task.n_train * found.step,
        seconds=round(seconds, 1),
        optimizer=(
            f"AdamW, full batch, learning rate {made.learning_rate:g} after {made.warm_up} "
            f"warm-up steps, weight decay {made.weight_decay:g}, betas {made.beta1:g} and "
            f"{made.beta2:g}; cross-entropy in float64"
        ),
        hardware="1 CPU thread, float32 weights",
    )


def _card_measures(measured: Measures, found: run.TrainingRun) -> tuple[card.Measure, ...]:
    task = found.task
    every, trained_on = task.n_pairs, task.n_train
    trained = found.weights(found.steps[-1])
    weights = sum(value.numel() for name, value in trained.items() if name not in network.FROZEN)
    keys = ", ".join(map(str, measured.keys))
    rows: list[tuple[str, float, str, int, str]] = [
        ("train loss", measured.train_loss, "nats/pair", trained_on, "at the last position"),
        ("test loss", measured.test_loss, "nats/pair", every - trained_on, "at the last position"),
        ("accuracy", measured.accuracy, "fraction", every, "all pairs, highest of all logits"),
        (
            "key frequencies",
            float(len(measured.keys)),
            "frequencies",
            (task.p - 1) // 2,
            f"k = {keys}: at least {fourier.KEY_SHARE:.0%} of the power of the neuron-logit map "
            f"each, {measured.key_power:.2%} together",
        ),
        (
            "logit variance explained",
            measured.logits_explained,
            "fraction",
            every,
            "by cos(2πk(a + b - c)/p) of the key frequencies, after centring over c",
        ),
        (
            "neurons explained by one frequency",
            measured.neurons_explained,
            "fraction",
            found.recipe.d_mlp,
            f"at least {fourier.EXPLAINED:g} of the variance over all pairs",
        ),
        ("squared weights", measured.squared_weights, "sum", weights, "over all trained weights"),
    ]
    return tuple(
        card.Measure(name=name, value=value, unit=unit, n=n, note=note)
        for name, value, unit, n, note in rows
    )


def write_bundle(folder: Path, found: run.TrainingRun, seconds: float) -> card.ModelCard:
    """Write config, weights, tokenizer, trajectory and card, the card last.

    Args:
        folder: Made if it is missing; a model is listed once its card is there.
        found: An ended training.
        seconds: Wall time of the training.

    Returns:
        The card.
    """
    *early, last = training.checkpoints_evenly(found, CHECKPOINTS)
    written = build_card(measure(found), found, seconds)
    trajectory = bundle.trajectory_bytes(
        dataclasses.asdict(found.task),
        dataclasses.asdict(found.recipe),
        found.curves.arrays(),
        [(step, found.weights(step)) for step in early],
        last,
    )
    bundle.write_model(
        folder,
        found.weights(last),
        found.recipe,
        found.task.p,
        more={
            bundle.TRAJECTORY: trajectory,
            "card.json": (written.model_dump_json(indent=2) + "\n").encode(),
        },
    )
    return written


def main() -> None:
    """Train, measure and write the bundle."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", type=Path, help="folder of the training; goes on if it was begun")
    parser.add_argument("--output", type=Path, default=card.BUNDLED / NAME)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    began = shown = time.monotonic()

    def report(_fraction: float, note: str) -> None:
        nonlocal shown
        if time.monotonic() - shown >= _REPORT_SECONDS:
            shown = time.monotonic()
            _log.info("%s, %.0f s", note, shown - began)

    found = training.train(
        TASK, RECIPE, folder=arguments.run, stop="never", device="cpu", progress=report
    )
    written = write_bundle(arguments.output, found, time.monotonic() - began)
    for row in written.measures:
        _log.info("%s: %.6g %s (n = %d; %s)", row.name, row.value, row.unit, row.n, row.note)


if __name__ == "__main__":
    main()
