"""How near a network comes to the grammar: its loss above the entropy, its right answers.

1. `fast_logits` is NativeModel's function with fused attention, for training and measuring alike.
2. Excess loss: the network's -log p minus the grammar's exact -log p on the same documents. Being
   a paired difference, it has a small standard error. Its expectation is the Kullback-Leibler
   divergence from the grammar to the network, which is never negative.
3. Accuracy: over different held-out pairs of a task, by the task's own criterion. Where several
   answers are right (greater-than), also the probability on all of them.

Units: nats per predicted token (<eos> is predicted, <bos> is not); accuracies as fractions. Limits:
documents and pairs come from seeds that no training uses, and the network is a NativeModel.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from workbench.core.models.training import grammar
from workbench.core.prompts import lexicon, tasks

_MEASURING_SEED = 10_000


def fast_logits(
    network: Any, tokens: Int[Tensor, "batch position"]
) -> Float[Tensor, "batch position d_vocab"]:
    """NativeModel's function with fused attention: the same logits, about twice as fast.

    Args:
        network: A NativeModel as `new_network` makes it.
        tokens: Padded on the right, if at all; no prediction depends on what follows.

    Returns:
        Logits after every token.
    """
    batch, length = tokens.shape
    stream = network.tok_embed(tokens) + network.pos.weight[:length]
    for layer in network.layers:
        attention = layer.attn
        normed = layer.ln1(stream)
        query, key, value = (
            linear(normed).view(batch, length, attention.n_heads, attention.d_head).transpose(1, 2)
            for linear in (attention.q, attention.k, attention.v)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + attention.o(mixed.transpose(1, 2).reshape(batch, length, -1))
        stream = stream + layer.mlp(layer.ln2(stream))
    return network.head(network.ln_out(stream))


def encode(
    texts: Sequence[Sequence[str]],
) -> tuple[Int[Tensor, "batch position"], Bool[Tensor, "batch position"]]:
    """Token ids of several texts, padded on the right.

    Args:
        texts: Words of each.

    Returns:
        Ids, and True where there is a word.
    """
    ids = {word: index for index, word in enumerate(grammar.vocabulary())}
    tokens = torch.full((len(texts), max(map(len, texts))), ids[grammar.PAD])
    for row, words in enumerate(texts):
        tokens[row, : len(words)] = torch.tensor([ids[word] for word in words])
    return tokens, tokens != ids[grammar.PAD]


def summed_loss(
    network: Any, tokens: Int[Tensor, "batch position"], real: Bool[Tensor, "batch position"]
) -> Float[Tensor, " batch"]:
    """-log p of each document under the network, in nats.

    Args:
        network: A NativeModel.
        tokens: From <bos> to <eos>, padded.
        real: True where there is a word.

    Returns:
        One sum over predicted tokens per document.
    """
    logits = fast_logits(network, tokens[:, :-1])
    losses = functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return (losses * real[:, 1:]).sum(1)


@torch.inference_mode()
def answer_logits(network: Any, pairs: Sequence[tasks.TextPair]) -> Float[Tensor, "prompt d_vocab"]:
    """Logits after each clean prompt.

    Args:
        network: A NativeModel.
        pairs: Of any task whose words the grammar has.

    Returns:
        One row per pair.
    """
    rows: list[Tensor] = []
    for begin in range(0, len(pairs), 256):
        words = [
            [grammar.BOS, *lexicon.split_words(pair.clean)] for pair in pairs[begin : begin + 256]
        ]
        tokens, real = encode(words)
        rows.append(fast_logits(network, tokens)[torch.arange(len(words)), real.sum(1) - 1])
    return torch.cat(rows)


def accuracy(network: Any, task_name: str, n: int, seed: int = _MEASURING_SEED) -> float:
    """Share of held-out pairs that the network gets right by the task's own criterion.

    Args:
        network: A NativeModel.
        task_name: One of `BEHAVIOURS`.
        n: Different pairs to measure on.
        seed: Of the pairs.

    Returns:
        A fraction.
    """
    task = tasks.get_task(task_name)
    pairs = task.pairs(n, seed=seed)
    logits = answer_logits(network, pairs)
    right = _word_ids([pair.answer for pair in pairs])
    if task.criterion == "top token":
        return (logits.argmax(1) == right).double().mean().item()
    wrong = _word_ids([pair.wrong_answer for pair in pairs])
    rows = torch.arange(len(pairs))
    return (logits[rows, right] > logits[rows, wrong]).double().mean().item()


def mass_on_greater(network: Any, n: int, seed: int = _MEASURING_SEED) -> float:
    """Mean probability on years that are greater than the clean one; 1 under the grammar itself.

    Args:
        network: A NativeModel.
        n: Different greater-than pairs to measure on.
        seed: Of the pairs.

    Returns:
        A fraction.
    """
    pairs = tasks.get_task("greater-than").pairs(n, seed=seed)
    years = _word_ids(lexicon.TWO_DIGITS)
    probabilities = answer_logits(network, pairs).softmax(1)[:, years]
    starts = torch.tensor([int(pair.combination[-1]) for pair in pairs])
    greater = torch.arange(len(years)) > starts[:, None]
    return (probabilities * greater).sum(1).mean().item()


def _word_ids(words: Sequence[str]) -> Int[Tensor, " answer"]:
    ids = {word: index for index, word in enumerate(grammar.vocabulary())}
    return torch.tensor([ids[word.strip()] for word in words])


@dataclasses.dataclass(frozen=True)
class Excess:
    """Loss of a network above the grammar's own, on the same documents.

    Attributes:
        value: Nats per predicted token.
        standard_error: Of the ratio, over documents.
        loss: The network's loss, nats per predicted token.
        n: Documents.
    """

    value: float
    standard_error: float
    loss: float
    n: int


@torch.inference_mode()
def excess_loss(network: Any, n: int, seed: int = _MEASURING_SEED) -> Excess:
    """Mean of the network's -log p minus the grammar's exact -log p.

    Args:
        network: A NativeModel.
        n: Fresh documents of the training grammar.
        seed: Of the documents.

    Returns:
        The paired difference with its standard error.
    """
    rng = random.Random(f"measuring/{seed}")
    drawn = [grammar.sample(rng) for _ in range(n)]
    documents = sorted(drawn, key=lambda document: document.predicted)
    losses = torch.cat(
        [
            summed_loss(network, *encode([d.words for d in documents[begin : begin + 128]]))
            for begin in range(0, n, 128)
        ]
    ).double()
    exact = torch.tensor([document.neg_log_probability for document in documents]).double()
    counts = torch.tensor([document.predicted for document in documents]).double()
    value = ((losses - exact).sum() / counts.sum()).item()
    # Standard error of a ratio of sums, by linearisation.
    residual = (losses - exact) - value * counts
    error = residual.std().item() / math.sqrt(n) / counts.mean().item()
    return Excess(value, error, (losses.sum() / counts.sum()).item(), n)
