"""Train `grammar-4l`: a four-layer transformer on the project's own probabilistic grammar.

How near to the true distribution does a small transformer come, and does it know the behaviours
that the grammar has by construction? This script trains it, measures both, and writes the bundle
only if every behaviour is at `BAR` or above on held-out combinations.

Method:

1. Data: an endless stream of documents of `workbench.core.models.training.grammar`, each seen
   once; held-out combinations are never among them.
2. Model: TransformerLens's NativeModel: norm before each part, learned positions, its own default
   initialisation.
3. Steps: AdamW, linear warm-up, cosine decay to 0, gradient norm clipped at 1. A batch is split by
   length, so that little is computed on padding; the gradient is that of the batch's mean loss.
4. Measures: excess loss over the grammar's own probabilities and accuracy on held-out pairs, both
   as `workbench.core.models.training.grammar_measures` defines them.
5. Files go to a folder beside the final one, which is replaced at the end.

Source: Wang et al. 2022 (arXiv 2211.00593) and Hanna et al. 2023 (arXiv 2305.00586) for two of the
behaviours; the grammar and the training are this project's.

Units: nats per predicted token (<eos> is predicted, <bos> is not); accuracies as fractions. Limits:
one seed; equal seeds give equal weights on one machine with one thread, not across machines.

Run: `python -m workbench.core.models.training.grammar_4l`
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import random
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from workbench.core.models import native
from workbench.core.models.training import grammar, grammar_measures
from workbench.core.prompts import lexicon, sentences, tasks

NAME = "grammar-4l"
BUNDLE = Path(__file__).parents[1] / "bundled" / NAME
BEHAVIOURS = ("indirect-object", "pronoun-gender", "agreement", "induction", "greater-than")
BAR = 0.97

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SetUp:
    """Everything that decides the trained weights.

    Attributes:
        n_layers: Blocks.
        d_model: Width of the residual stream.
        n_heads: Attention heads of a layer.
        d_mlp: Neurons of an MLP.
        seed: Of the initial weights and of the documents.
        steps: Optimizer steps.
        documents: Documents a step.
        groups: Parts of equal count, by length, in which a batch is computed.
        learning_rate: The highest.
        warm_up: Steps over which the learning rate rises linearly.
        weight_decay: On matrices; biases and norms have none.
        betas: Of AdamW.
    """

    n_layers: int = 4
    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 512
    seed: int = 0
    steps: int = 3_000
    documents: int = 128
    groups: int = 4
    learning_rate: float = 2e-3
    warm_up: int = 150
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)

    def settings(self) -> dict[str, Any]:
        """Fields of TransformerBridgeConfig that describe the network."""
        d_vocab = len(grammar.vocabulary())
        return {
            "d_model": self.d_model,
            "d_head": self.d_model // self.n_heads,
            "n_heads": self.n_heads,
            "n_layers": self.n_layers,
            "n_ctx": grammar.N_CTX,
            "d_vocab": d_vocab,
            "d_vocab_out": d_vocab,
            "d_mlp": self.d_mlp,
            "act_fn": "gelu",
            "normalization_type": "LN",
            "positional_embedding_type": "standard",
            "gated_mlp": False,
        }


def new_network(setup: SetUp) -> torch.nn.Module:
    """The network before training.

    Args:
        setup: Sizes and seed.

    Returns:
        A NativeModel with seeded weights.
    """
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.native import initialize_native_model
    from transformer_lens.model_bridge.sources.native.model import NativeModel

    config = TransformerBridgeConfig(**setup.settings())
    network = NativeModel(config)
    initialize_native_model(network, config, seed=setup.seed)
    return network


def learning_rate(setup: SetUp, step: int) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    if step < setup.warm_up:
        return setup.learning_rate * (step + 1) / setup.warm_up
    done = (step - setup.warm_up) / max(setup.steps - setup.warm_up, 1)
    return setup.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def optimizer_for(network: torch.nn.Module, setup: SetUp) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    matrices = [value for value in network.parameters() if value.ndim > 1]
    vectors = [value for value in network.parameters() if value.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": setup.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=setup.learning_rate, betas=setup.betas, fused=True)


def training_step(
    network: torch.nn.Module,
    optimizer: torch.optim.AdamW,
    documents: list[grammar.Document],
    setup: SetUp,
) -> float:
    """One step on the mean loss per token of a batch, in place.

    Args:
        network: Changed in place.
        optimizer: Made by `optimizer_for` over it.
        documents: The batch.
        setup: How many groups.

    Returns:
        Loss before the step, in nats per token.
    """
    ordered = sorted(documents, key=lambda document: document.predicted)
    count = sum(document.predicted for document in documents)
    size = -(-len(ordered) // setup.groups)
    optimizer.zero_grad()
    total = 0.0
    for begin in range(0, len(ordered), size):
        tokens, real = grammar_measures.encode(
            [document.words for document in ordered[begin : begin + size]]
        )
        loss = grammar_measures.summed_loss(network, tokens, real).sum() / count
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return total


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        network: The NativeModel.
        tokens: Predicted tokens seen.
        seconds: Wall time of the steps.
    """

    network: torch.nn.Module
    tokens: int
    seconds: float


def train(setup: SetUp) -> Trained:
    """Train from the first step to the last.

    Args:
        setup: What to train.

    Returns:
        The network and what it cost.
    """
    rng = random.Random(setup.seed)
    network = new_network(setup)
    optimizer = optimizer_for(network, setup)
    tokens, began = 0, time.perf_counter()
    for step in range(setup.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(setup, step)
        documents = [grammar.sample(rng) for _ in range(setup.documents)]
        loss = training_step(network, optimizer, documents, setup)
        tokens += sum(document.predicted for document in documents)
        if (step + 1) % 250 == 0:
            _report(network, step + 1, loss, time.perf_counter() - began)
    return Trained(network, tokens, time.perf_counter() - began)


def _report(network: torch.nn.Module, step: int, loss: float, seconds: float) -> None:
    scores = [f"{name} {grammar_measures.accuracy(network, name, 200):.3f}" for name in BEHAVIOURS]
    excess = grammar_measures.excess_loss(network, 500)
    _log.info(
        "step %5d  loss %.4f  excess %.4f  %s  %.0f s",
        *(step, loss, excess.value, "  ".join(scores), seconds),
    )


def build_tokenizer() -> Any:
    """Word-level tokenizer of the grammar: <bos> in front, and decoding gives English text.

    Returns:
        A PreTrainedTokenizerFast that pads on the right.
    """
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, processors

    ids = {word: index for index, word in enumerate(grammar.vocabulary())}
    words = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=grammar.UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Split(
        tokenizers.Regex(lexicon.WORD_PATTERN), "removed", invert=True
    )
    words.post_processor = processors.TemplateProcessing(
        single=f"{grammar.BOS} $A", special_tokens=[(grammar.BOS, ids[grammar.BOS])]
    )
    words.decoder = decoders.Sequence(
        [
            decoders.Replace(tokenizers.Regex(r"^(?=\w)"), " "),
            decoders.Fuse(),
            # Two pairs of digits are a year.
            decoders.Replace(tokenizers.Regex(r"(?<=\b\d\d) (?=\d\d\b)"), ""),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=grammar.BOS,
        eos_token=grammar.EOS,
        unk_token=grammar.UNKNOWN,
        pad_token=grammar.PAD,
        padding_side="right",
        model_max_length=grammar.N_CTX,
        clean_up_tokenization_spaces=False,
    )


def measure_behaviours(network: Any, n: int = 1_000) -> list[dict[str, Any]]:
    """The card's behaviours.

    Args:
        network: The trained NativeModel.
        n: Different held-out pairs of each task.

    Returns:
        One entry per behaviour, in the card's form.
    """
    return [
        {
            "task": name,
            "accuracy": grammar_measures.accuracy(network, name, n),
            "n": n,
            "chance": round(tasks.get_task(name).chance, 4),
            "split": f"held-out combinations; right means: {tasks.get_task(name).criterion}",
        }
        for name in BEHAVIOURS
    ]


def measures(network: Any) -> list[dict[str, Any]]:
    """The card's figures about the distribution.

    Args:
        network: The trained NativeModel.

    Returns:
        Entropy, loss, excess loss and the mass on greater years, in the card's form.
    """
    entropy = grammar.entropy_per_token()
    excess = grammar_measures.excess_loss(network, 10_000)
    parameters = sum(value.numel() for value in network.parameters())

    def entry(name: str, value: float, unit: str, n: int, note: str) -> dict[str, Any]:
        return {"name": name, "value": value, "unit": unit, "n": n, "note": note}

    return [
        entry(
            "entropy of the grammar",
            *(entropy.value, "nats/token", entropy.n),
            "H(document) / E[tokens], <eos> counted, <bos> not; closed form except for random "
            "sequences, whose exact -log p is averaged: standard error "
            f"{entropy.standard_error:.1e}",
        ),
        entry(
            "loss",
            *(excess.loss, "nats/token", excess.n),
            "mean -log p of the model on fresh documents of the training grammar, n in documents; "
            f"the exact -log p of this sample is {excess.loss - excess.value:.4f}",
        ),
        entry(
            "excess loss",
            *(excess.value, "nats/token", excess.n),
            "loss minus the grammar's exact -log p on the same documents; standard error "
            f"{excess.standard_error:.1e}",
        ),
        entry(
            "probability on greater years",
            *(grammar_measures.mass_on_greater(network, 1_000), "fraction", 1_000),
            "greater-than, held-out combinations; 1 under the grammar",
        ),
        entry(
            "parameters", float(parameters), "count", 1, "all trained, biases and norms included"
        ),
    ]


def card(setup: SetUp, trained: Trained) -> dict[str, Any]:
    """Everything that the bundle says about itself.

    Args:
        setup: What was trained.
        trained: The result.

    Returns:
        Contents of card.json.
    """
    share = f"{sentences.HELD_OUT_SHARE:.0%}"
    return {
        "name": NAME,
        "title": "Four-layer transformer that reads simple English of a known grammar",
        "summary": (
            "A decoder-only transformer trained from scratch on English sentences that a "
            "probabilistic grammar generates. Because the grammar is known, so are the right "
            "answers and the lowest possible loss. It knows who receives a gift, which pronoun and "
            "which verb fits, which years are later, and how a random sequence goes on. It knows "
            f"{len(grammar.vocabulary())} tokens and nothing else about the world."
        ),
        "tasks": list(BEHAVIOURS),
        "default_prompt": "When Mary and John went to the store, John gave a drink to",
        "training": {
            "script": "python -m workbench.core.models.training.grammar_4l",
            "data": (
                "Documents drawn from workbench.core.models.training.grammar, each seen once: one "
                "to three sentences, or a block of random words written two or three times. "
                f"{share} of the combinations of names, nouns, years and templates are held out."
            ),
            "seed": setup.seed,
            "steps": setup.steps,
            "tokens": trained.tokens,
            "seconds": round(trained.seconds, 1),
            "optimizer": (
                f"AdamW, learning rate {setup.learning_rate:g} with {setup.warm_up} steps of "
                f"warm-up and cosine decay to 0, betas {setup.betas}, weight decay "
                f"{setup.weight_decay:g} on matrices, gradient norm clipped at 1, "
                f"{setup.documents} documents a step, float32"
            ),
            "hardware": "1 CPU thread",
        },
        "measures": measures(trained.network),
        "behaviours": measure_behaviours(trained.network),
        "references": [
            "Wang et al. 2022, arXiv 2211.00593",
            "Hanna et al. 2023, arXiv 2305.00586",
            "Olsson et al. 2022, arXiv 2209.11895",
            "Linzen et al. 2016, arXiv 1611.01368",
        ],
        "caveats": [
            "Any word outside its vocabulary becomes <unk>, which it never saw in training.",
            "The held-out split holds combinations out, not words: each name and noun was seen in "
            "training, in other combinations.",
            "Some of its probability for a later year lies on earlier years: see the measure.",
            "It reads at most 64 tokens. Sentences of one document are independent of each other.",
            "Weights come from one seed; another seed may solve a behaviour with other components.",
        ],
    }


def write_bundle(folder: Path, setup: SetUp, trained: Trained, contents: dict[str, Any]) -> None:
    """Write weights, config, tokenizer and card, then put them in place of what was there.

    Args:
        folder: The bundle's folder.
        setup: What was trained.
        trained: The result.
        contents: Of card.json.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    build_tokenizer().save_pretrained(unfinished)
    config = {
        "format": native.FORMAT,
        "config": setup.settings() | {"default_prepend_bos": True},
    }
    _write_json(unfinished / "config.json", config)
    _write_json(unfinished / "card.json", contents)
    state = {name: value.contiguous() for name, value in trained.network.state_dict().items()}
    save_file(state, unfinished / "model.safetensors")
    # safetensors writes for the owner alone; a package is read by anyone.
    (unfinished / "model.safetensors").chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Train, measure and, if the bar is met, write the bundle."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=SetUp.seed)
    parser.add_argument("--steps", type=int, default=SetUp.steps)
    parser.add_argument("--output", type=Path, default=BUNDLE)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    setup = SetUp(seed=arguments.seed, steps=arguments.steps)
    trained = train(setup)
    contents = card(setup, trained)
    short = [b for b in contents["behaviours"] if b["accuracy"] < BAR]
    for part in (*contents["behaviours"], *contents["measures"]):
        _log.info("%s", part)
    if short:
        raise SystemExit(f"not written: below {BAR:.0%} on {[b['task'] for b in short]}")
    write_bundle(arguments.output, setup, trained, contents)
    _log.info("written to %s", arguments.output)


if __name__ == "__main__":
    main()
