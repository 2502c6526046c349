"""Train `modadd-113`: a one-layer transformer that groks addition modulo 113.

What does a network learn that first memorises `a + b mod p` and, long after, generalises? This
script trains the mainline model of the paper until memorisation is gone, and writes the bundle.

Method:

1. Data: all p² pairs as tokens `a b =`; `random.seed(seed)` shuffles the row-major list and the
   first 30 % (3,830 pairs) are for training, the rest for testing.
2. Model: one layer without normalisation, untied, biases only in the MLP. Every weight is drawn
   from normal(0, 1/d_model), the unembedding from normal(0, 1/d_vocab), as in the paper's own code.
3. Steps: full batch, AdamW, cross-entropy at the last position over all p + 1 logits, in float64;
   the learning rate rises linearly from 0 over the first 10 steps.
4. Speed: only the last position is computed. Without normalisation the query at `=` is one constant
   vector, so keys, values and scores are tables of 2p + 1 rows (p first operands, p second
   operands, `=`) out of which each pair picks its three. The function is NativeModel's.
5. Card: losses, accuracy over all p² pairs, the key frequencies and how much of the logits they
   explain (`measure`).

Source: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability",
arXiv 2301.05217; the initialisation follows the code published with it.

Units: losses in nats per pair (one predicted token each), explained variance and shares as
fractions. Limits: one seed, no trajectory; equal seeds give equal weights on one machine with one
thread, not across machines.

Run: `python -m workbench.core.models.training.modadd_113`
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import os
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from workbench.core.models import card
from workbench.core.models.training import fourier

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME = "modadd-113"

# The paper analyses epoch 40,000. With this seed nothing is left to clean up by then: the sum of
# squared weights falls by less than half a percent over the last 10,000 of these epochs.
EPOCHS = 25_000

_log = logging.getLogger(__name__)

Weights = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class SetUp:
    """Everything that decides the trained weights.

    Attributes:
        p: The modulus, a prime; tokens 0 … p - 1 are residues, token p is `=`.
        n_heads: Attention heads.
        d_head: Width of a head.
        d_model: Width of the residual stream.
        d_mlp: Neurons of the MLP.
        fraction: Share of the p² pairs that is trained on.
        seed: Seed of the split (Python's generator) and of the initial weights (torch's).
        learning_rate: Of AdamW, after the warm-up.
        weight_decay: Of AdamW, on every trained weight.
        betas: Of AdamW.
        warm_up: Steps over which the learning rate rises linearly from 0.
    """

    p: int = 113
    n_heads: int = 4
    d_head: int = 32
    d_model: int = 128
    d_mlp: int = 512
    fraction: float = 0.3
    seed: int = 0
    learning_rate: float = 1e-3
    weight_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    warm_up: int = 10

    @property
    def d_vocab(self) -> int:
        """Tokens: the residues and `=`."""
        return self.p + 1

    def bridge_settings(self) -> dict[str, Any]:
        """Fields of TransformerBridgeConfig that describe the network."""
        return {
            "d_model": self.d_model,
            "d_head": self.d_head,
            "n_heads": self.n_heads,
            "n_layers": 1,
            "n_ctx": 3,
            "d_vocab": self.d_vocab,
            "d_vocab_out": self.d_vocab,
            "d_mlp": self.d_mlp,
            "act_fn": "relu",
            "normalization_type": None,
            "positional_embedding_type": "standard",
            "gated_mlp": False,
        }


# NativeModel's linear layers always carry biases; the paper's attention has none, so these stay 0.
FROZEN = tuple(f"layers.0.attn.{name}.bias" for name in "qkvo")


def initial_weights(setup: SetUp) -> Weights:
    """Weights before training, under NativeModel's own names.

    Args:
        setup: Sizes and seed.

    Returns:
        Float32 tensors; those not in `FROZEN` require gradients.
    """
    generator = torch.Generator().manual_seed(setup.seed)

    def normal(*shape: int, width: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / math.sqrt(width)

    d_model, d_attention = setup.d_model, setup.n_heads * setup.d_head
    weights = {
        "tok_embed.weight": normal(setup.d_vocab, d_model, width=d_model),
        "pos.weight": normal(3, d_model, width=d_model),
        "layers.0.attn.q.weight": normal(d_attention, d_model, width=d_model),
        "layers.0.attn.k.weight": normal(d_attention, d_model, width=d_model),
        "layers.0.attn.v.weight": normal(d_attention, d_model, width=d_model),
        "layers.0.attn.o.weight": normal(d_model, d_attention, width=d_model),
        "layers.0.mlp.fc_in.weight": normal(setup.d_mlp, d_model, width=d_model),
        "layers.0.mlp.fc_in.bias": torch.zeros(setup.d_mlp),
        "layers.0.mlp.fc_out.weight": normal(d_model, setup.d_mlp, width=d_model),
        "layers.0.mlp.fc_out.bias": torch.zeros(d_model),
        "head.weight": normal(setup.d_vocab, d_model, width=setup.d_vocab),
    }
    for value in weights.values():
        value.requires_grad_(True)
    for name in FROZEN:
        weights[name] = torch.zeros(d_model if ".o." in name else d_attention)
    return weights


def split_pairs(setup: SetUp) -> tuple[Int64[Tensor, "batch 2"], Int64[Tensor, "_ 2"]]:
    """Training and test pairs (a, b), in shuffled order.

    Args:
        setup: Modulus, share and seed.

    Returns:
        The first `int(fraction · p²)` pairs of the shuffled row-major list, and the others.
    """
    pairs = [(a, b) for a in range(setup.p) for b in range(setup.p)]
    random.Random(setup.seed).shuffle(pairs)
    count = int(setup.fraction * len(pairs))
    return torch.tensor(pairs[:count]), torch.tensor(pairs[count:])


def last_logits(
    weights: Weights, pairs: Int64[Tensor, "batch 2"], setup: SetUp
) -> Float[Tensor, "batch d_vocab"]:
    """Logits at `=` for each pair; see `last_activations`."""
    return last_activations(weights, pairs, setup)[1]


def last_activations(
    weights: Weights, pairs: Int64[Tensor, "batch 2"], setup: SetUp
) -> tuple[Float[Tensor, "batch neuron"], Float[Tensor, "batch d_vocab"]]:
    """NativeModel's function at its last position, faster.

    Args:
        weights: NativeModel's state, attention biases zero.
        pairs: Operands a and b.
        setup: Sizes.

    Returns:
        For each pair the MLP's neurons after the ReLU, and the logits.
    """
    p, n_heads, d_head = setup.p, setup.n_heads, setup.d_head
    embedding, position = weights["tok_embed.weight"], weights["pos.weight"]
    equals = embedding[p] + position[2]
    rows = torch.cat([embedding[:p] + position[0], embedding[:p] + position[1], equals[None]])
    query = (weights["layers.0.attn.q.weight"] @ equals).view(n_heads, d_head)
    keys = (rows @ weights["layers.0.attn.k.weight"].T).view(-1, n_heads, d_head)
    values = rows @ weights["layers.0.attn.v.weight"].T
    scores = (keys * query).sum(-1) / math.sqrt(d_head)

    first, second = pairs[:, 0], pairs[:, 1] + p
    # F.embedding, not indexing: its backward is a fast sum over rows in a fixed order.
    seen = torch.stack(
        [
            functional.embedding(first, scores),
            functional.embedding(second, scores),
            scores[2 * p].expand(len(pairs), n_heads),
        ]
    )
    pattern = seen.softmax(dim=0)[..., None]
    shape = (len(pairs), n_heads, d_head)
    mixed = pattern[0] * functional.embedding(first, values).view(shape)
    mixed = torch.addcmul(mixed, pattern[1], functional.embedding(second, values).view(shape))
    mixed = torch.addcmul(mixed, pattern[2], values[2 * p].view(n_heads, d_head))

    middle = torch.addmm(equals, mixed.flatten(1), weights["layers.0.attn.o.weight"].T)
    hidden = functional.linear(
        middle, weights["layers.0.mlp.fc_in.weight"], weights["layers.0.mlp.fc_in.bias"]
    ).relu_()
    written = functional.linear(
        hidden, weights["layers.0.mlp.fc_out.weight"], weights["layers.0.mlp.fc_out.bias"]
    )
    return hidden, (middle + written) @ weights["head.weight"].T


def pair_loss(
    logits: Float[Tensor, "batch d_vocab"], pairs: Int64[Tensor, "batch 2"], p: int
) -> Float64[Tensor, ""]:
    """Mean cross-entropy of a + b mod p in nats, in float64.

    Near 1e-7 nats float32 would round most pairs' losses to 0 and stop their gradients.
    """
    return functional.cross_entropy(logits.double(), pairs.sum(1) % p)


def optimizer_for(weights: Weights, setup: SetUp) -> torch.optim.AdamW:
    """AdamW over every weight that is trained."""
    trained = [value for name, value in weights.items() if name not in FROZEN]
    return torch.optim.AdamW(
        trained,
        lr=setup.learning_rate,
        weight_decay=setup.weight_decay,
        betas=setup.betas,
        fused=True,
    )


def training_step(
    weights: Weights,
    optimizer: torch.optim.AdamW,
    pairs: Int64[Tensor, "batch 2"],
    step: int,
    setup: SetUp,
) -> float:
    """One full-batch step, in place.

    Args:
        weights: Changed in place.
        optimizer: Made by `optimizer_for` over the same weights.
        pairs: The training pairs.
        step: Steps taken before this one; the first has learning rate 0.
        setup: Sizes and schedule.

    Returns:
        The training loss before the step.
    """
    for group in optimizer.param_groups:
        group["lr"] = setup.learning_rate * min(step / setup.warm_up, 1.0)
    optimizer.zero_grad()
    loss = pair_loss(last_logits(weights, pairs, setup), pairs, setup.p)
    loss.backward()
    optimizer.step()
    return loss.item()


@dataclasses.dataclass
class Progress:
    """State of a training that can be written down and taken up again.

    Attributes:
        weights: The network.
        optimizer: Its optimizer.
        step: Steps taken.
        seconds: Wall time spent in them.
    """

    weights: Weights
    optimizer: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def start(cls, setup: SetUp) -> Progress:
        """State before the first step."""
        weights = initial_weights(setup)
        return cls(weights, optimizer_for(weights, setup))

    @classmethod
    def resume(cls, path: Path, setup: SetUp) -> Progress:
        """State that `save` wrote."""
        stored = torch.load(path, weights_only=True)
        progress = cls.start(setup)
        with torch.no_grad():
            for name, value in stored["weights"].items():
                progress.weights[name].copy_(value)
        progress.optimizer.load_state_dict(stored["optimizer"])
        progress.step, progress.seconds = stored["step"], stored["seconds"]
        return progress

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on; never leaves half a file."""
        state = {
            "weights": {name: value.detach() for name, value in self.weights.items()},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        unfinished = path.with_suffix(".unfinished")
        torch.save(state, unfinished)
        os.replace(unfinished, path)


def train(setup: SetUp, epochs: int, checkpoint: Path | None = None) -> Progress:
    """Train for a number of full-batch steps.

    Args:
        setup: What to train.
        epochs: Steps in all, those of an earlier, interrupted training counted.
        checkpoint: File that is read if it exists and rewritten every 500 steps.

    Returns:
        The state after the last step.
    """
    if checkpoint is not None and checkpoint.is_file():
        progress = Progress.resume(checkpoint, setup)
    else:
        progress = Progress.start(setup)
    training, held_out = split_pairs(setup)
    while progress.step < epochs:
        began = time.perf_counter()
        loss = training_step(progress.weights, progress.optimizer, training, progress.step, setup)
        progress.step += 1
        progress.seconds += time.perf_counter() - began
        if progress.step % 100 == 0 or progress.step == epochs:
            _report(progress, loss, held_out, setup)
        if checkpoint is not None and (progress.step % 500 == 0 or progress.step == epochs):
            progress.save(checkpoint)
    return progress


def _report(
    progress: Progress, loss: float, held_out: Int64[Tensor, "batch 2"], setup: SetUp
) -> None:
    with torch.inference_mode():
        logits = last_logits(progress.weights, held_out, setup)
        test = pair_loss(logits, held_out, setup.p).item()
        accuracy = (logits.argmax(1) == held_out.sum(1) % setup.p).double().mean().item()
    _log.info(
        "step %6d  train %.3e  test %.3e  test accuracy %.4f  squared weights %.1f  %.0f s",
        progress.step,
        loss,
        test,
        accuracy,
        squared_weights(progress.weights),
        progress.seconds,
    )


def squared_weights(weights: Weights) -> float:
    """Sum of squares of all weights, which weight decay drives down."""
    return sum(value.detach().double().square().sum().item() for value in weights.values())


def all_pairs(p: int) -> Int64[Tensor, "batch 2"]:
    """All p² pairs in row-major order."""
    return torch.cartesian_prod(torch.arange(p), torch.arange(p))


def neuron_logit_map(weights: Weights, p: int) -> Float64[np.ndarray, "residue neuron"]:
    """W_U W_out: what each neuron adds to the logit of each residue, `=` left out."""
    unembedding = weights["head.weight"][:p].detach().double()
    return (unembedding @ weights["layers.0.mlp.fc_out.weight"].detach().double()).numpy()


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


def measure(weights: Weights, setup: SetUp) -> Measures:
    """Measure a network in float64 arithmetic on its stored weights.

    Args:
        weights: The network.
        setup: What it was trained as.

    Returns:
        All figures of the card that depend on the weights.
    """
    p = setup.p
    exact = {name: value.detach().double() for name, value in weights.items()}
    training, held_out = split_pairs(setup)
    every = all_pairs(p)
    with torch.inference_mode():
        hidden, logits = last_activations(exact, every, setup)
        correct = (logits.argmax(1) == every.sum(1) % p).view(p, p)
        losses = functional.cross_entropy(logits, every.sum(1) % p, reduction="none").view(p, p)
    cube = logits[:, :p].reshape(p, p, p).numpy()
    shares = fourier.frequency_shares(neuron_logit_map(exact, p))
    keys = fourier.key_frequencies(shares)
    neurons = fourier.explained_neurons(hidden.reshape(p, p, -1).numpy())
    return Measures(
        train_loss=losses[tuple(training.T)].mean().item(),
        test_loss=losses[tuple(held_out.T)].mean().item(),
        accuracy=correct.double().mean().item(),
        test_accuracy=correct[tuple(held_out.T)].double().mean().item(),
        keys=keys,
        key_power=float(shares[np.array(keys, dtype=int) - 1].sum()),
        logits_explained=fourier.explained_logits(cube, keys),
        neurons_explained=float((neurons >= fourier.EXPLAINED).mean()),
        squared_weights=squared_weights(exact),
    )


def build_tokenizer(p: int) -> PreTrainedTokenizerFast:
    """Word-level tokenizer of sums: "12 + 57 =" becomes [12, 57, p].

    The network's own vocabulary is exactly the residues and `=`; `+` separates and disappears, and
    nothing is prepended. Any other word becomes `<unk>`, whose id p + 1 lies outside of the
    network's vocabulary, so that it is seen, or fails in the embedding, and never passes for a
    residue. `<pad>` (p + 2) also stands for the end of text, since libraries add a token of their
    own to a tokenizer that names none.

    Args:
        p: The modulus.

    Returns:
        The tokenizer; decoding joins words with a space.
    """
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*map(str, range(p)), "=", "<unk>", "<pad>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace("+", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        tokenizers.Regex(r"\d+|=|[^\s\d=]+"), behavior="removed", invert=True
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def build_card(measured: Measures, progress: Progress, setup: SetUp) -> card.ModelCard:
    """The card of a trained network."""
    every = setup.p**2
    trained_on = int(setup.fraction * every)
    return card.ModelCard(
        name=NAME,
        title=f"One-layer transformer that groks addition modulo {setup.p}",
        summary=(
            f"Reads `a b =` and gives a + b mod {setup.p}. Trained on 30 % of the pairs until it "
            "had memorised them, then generalised to all others, then shed what it had memorised. "
            f"It computes with a few waves: {len(measured.keys)} key frequencies carry "
            f"{measured.logits_explained:.0%} of the variance of its logits."
        ),
        tasks=("modular-addition",),
        default_prompt="12 + 57 =",
        training=_card_training(progress, setup, trained_on),
        measures=_card_measures(measured, setup, trained_on, _trained(progress.weights)),
        behaviours=(
            card.Behaviour(
                task="modular-addition",
                accuracy=measured.test_accuracy,
                n=every - trained_on,
                chance=1 / setup.p,
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


def _trained(weights: Weights) -> int:
    return sum(value.numel() for name, value in weights.items() if name not in FROZEN)


def _card_training(progress: Progress, setup: SetUp, trained_on: int) -> card.Training:
    return card.Training(
        script="python -m workbench.core.models.training.modadd_113",
        data=(
            f"{trained_on:,} of the {setup.p**2:,} pairs (a, b), the first 30 % of the row-major "
            f"list shuffled with random.seed({setup.seed})"
        ),
        seed=setup.seed,
        steps=progress.step,
        tokens=3 * trained_on * progress.step,
        seconds=round(progress.seconds, 1),
        optimizer=(
            f"AdamW, full batch, learning rate {setup.learning_rate:g} after {setup.warm_up} "
            f"warm-up steps, weight decay {setup.weight_decay:g}, betas {setup.betas[0]:g} and "
            f"{setup.betas[1]:g}; cross-entropy in float64"
        ),
        hardware="1 CPU thread, float32 weights",
    )


def _card_measures(
    measured: Measures, setup: SetUp, trained_on: int, weights: int
) -> tuple[card.Measure, ...]:
    every = setup.p**2
    keys = ", ".join(map(str, measured.keys))
    rows: list[tuple[str, float, str, int, str]] = [
        ("train loss", measured.train_loss, "nats/pair", trained_on, "at the last position"),
        ("test loss", measured.test_loss, "nats/pair", every - trained_on, "at the last position"),
        ("accuracy", measured.accuracy, "fraction", every, "all pairs, highest of all logits"),
        (
            "key frequencies",
            float(len(measured.keys)),
            "frequencies",
            (setup.p - 1) // 2,
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
            setup.d_mlp,
            f"at least {fourier.EXPLAINED:g} of the variance over all pairs",
        ),
        ("squared weights", measured.squared_weights, "sum", weights, "over all trained weights"),
    ]
    return tuple(
        card.Measure(name=name, value=value, unit=unit, n=n, note=note)
        for name, value, unit, n, note in rows
    )


def write_bundle(folder: Path, progress: Progress, setup: SetUp) -> card.ModelCard:
    """Write config, weights, tokenizer and card, the card last.

    Args:
        folder: Made if it is missing; a model is listed once its card is there.
        progress: A finished training.
        setup: What was trained.

    Returns:
        The card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = build_card(measure(progress.weights, setup), progress, setup)
    config = {
        "format": "transformer-lens-native",
        "config": setup.bridge_settings() | {"default_prepend_bos": False},
    }
    stored = {name: value.detach().contiguous() for name, value in progress.weights.items()}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        unfinished = Path(name)
        build_tokenizer(setup.p).save_pretrained(unfinished)
        safetensors.torch.save_file(stored, unfinished / "model.safetensors")
        (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (unfinished / "card.json").write_text(written.model_dump_json(indent=2) + "\n")
        for file in sorted(unfinished.iterdir(), key=lambda path: path.name == "card.json"):
            file.chmod(0o644)
            os.replace(file, folder / file.name)
    return written


def main() -> None:
    """Train, measure and write the bundle."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--checkpoint", type=Path, help="file to resume from and to write to")
    parser.add_argument("--output", type=Path, default=card.BUNDLED / NAME)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    setup = SetUp(seed=arguments.seed)
    progress = train(setup, arguments.epochs, arguments.checkpoint)
    written = write_bundle(arguments.output, progress, setup)
    for row in written.measures:
        _log.info("%s: %.6g %s (n = %d; %s)", row.name, row.value, row.unit, row.n, row.note)


if __name__ == "__main__":
    main()
