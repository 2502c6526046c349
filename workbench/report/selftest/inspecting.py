"""Does laying one prompt open show what the model was made to do there?

Limits: streams without norms, but for the sum of parts, which is taken in a random model with them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from analyses import activations, contributions, direct_attribution, logit_lens
from workbench.core.planted import known_translator, unplanted, word_level
from workbench.core.planted.two_steps import DIRECT, INDIRECT
from workbench.core.prompts.corpus import Corpus
from workbench.report.selftest.checking import (
    Check,
    Models,
    Outcome,
    at_most,
    both,
    same,
    within,
)

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# "dog" stands at position 1, and is what the model answers.
_IDS = (0, 3, 2, 1)
_TEXT, _ANSWER = "ape dog cat bee", "dog"
# A coordinate of the unplanted model that is made large.
_LARGE = 5
# Texts that a tuned lens is trained on, its steps, and what it leaves of the logit lens's
# divergence; and texts on which lenses are compared.
_ROWS, _STEPS, _LEFT, _HELD_OUT = 200, 200, 0.02, 100
# Random vectors that an effect is compared with.
_FEW = 9


def _lens(models: Models) -> Outcome:
    found = logit_lens.read(models.two_steps, _IDS, tokens=[_ANSWER])
    return within(found.asked_logits[:, -1, 0], [0, DIRECT, 1])


def _lens_of_attention(models: Models) -> Outcome:
    found = logit_lens.read(models.two_steps, _IDS, source="attn_out", tokens=[_ANSWER])
    return within(found.asked_logits[:, -1, 0], [DIRECT, INDIRECT])


def _lens_of_nothing(models: Models) -> Outcome:
    found = logit_lens.read(models.two_steps, _IDS, source="mlp_out", tokens=[_ANSWER])
    largest = float(np.abs(found.asked_logits).max())
    return within(largest, 0, said=f"largest logit {largest:.1e}")


def _turning(models: Models) -> tuple[TransformerBridge, Corpus, np.ndarray]:
    """The model that turns its stream, rows for it, and by what it turns."""
    turning, turned = known_translator.turning()
    model = word_level.on(turning, models.device)
    rng = np.random.default_rng(models.seed)
    rows = rng.integers(0, len(known_translator.WORDS), (_ROWS + _HELD_OUT, 6))
    return model, Corpus.from_tokens(model, rows), turned.numpy()


def _trained(model: TransformerBridge, rows: Corpus, steps: int, seed: int) -> logit_lens.TunedLens:
    return logit_lens.train(
        model,
        rows.take(range(_ROWS)),
        steps=steps,
        tokens=64,
        learning_rate=1,
        weight_decay=0,
        seed=seed,
    )


def _tuned(models: Models) -> Outcome:
    model, rows, _ = _turning(models)
    lens = _trained(model, rows, _STEPS, models.seed)
    left = [
        float(logit_lens.read(model, _IDS, lens=one).divergence[1].max()) for one in (lens, None)
    ]
    said = f"KL divergence {left[0]:.1e} nats, {left[1]:.2f} with the logit lens"
    return at_most(left[0] / left[1], _LEFT, said)


def _compared(models: Models, *, known: bool) -> logit_lens.LensComparison:
    """The lens that knows by what the model turns, or one that translates nothing."""
    model, rows, turned = _turning(models)
    started = _trained(model, rows, 1, models.seed)
    weights = np.zeros_like(started.weights)
    if known:
        weights[1] = turned - np.eye(len(turned), dtype=turned.dtype)
    lens = dataclasses.replace(started, weights=weights, biases=np.zeros_like(started.biases))
    held_out = rows.take(range(_ROWS, len(rows)))
    return logit_lens.compare(model, held_out, lens, seed=models.seed)


def _believed(models: Models) -> Outcome:
    found = _compared(models, known=True)
    # After layer 0 nothing is left of the divergence, and the top token is the model's own.
    numbers = [found.tuned_divergence[1], found.tuned_agreement[1]]
    return both(same([found.believed[1]], ["tuned lens"]), within(numbers, [0, 1]))


def _not_believed(models: Models) -> Outcome:
    found = _compared(models, known=False)
    return both(
        same(set(found.believed), ["neither"]),
        within(found.difference, np.zeros(len(found.difference))),
    )


def _shares(models: Models) -> Outcome:
    found = direct_attribution.attribute(models.two_steps, _TEXT, _ANSWER)
    truth = [{"a0.h0": DIRECT, "a1.h1": INDIRECT}.get(name, 0.0) for name in found.names]
    said = ", ".join(f"{name} {found.share(name):.4f}" for name in ("a0.h0", "a1.h1"))
    return within(found.here, truth, said=said)


def _sum(models: Models) -> Outcome:
    found = direct_attribution.attribute(models.unplanted, (6, *_IDS), 3)
    total, logit = float(found.here.sum()), float(found.before_cap[-1])
    return within(total, logit, said=f"parts sum to {total:.5f}, the logit is {logit:.5f}")


def _over_pairs(models: Models) -> Outcome:
    found = direct_attribution.attribute_pairs(models.two_steps, models.pairs, seed=models.seed)
    truth = [{"a0.h0": DIRECT, "a1.h1": INDIRECT}.get(name, 0.0) for name in found.names]
    mean = dict(zip(found.names, found.mean, strict=True))
    said = f"a0.h0 {mean['a0.h0']:.4f}, a1.h1 {mean['a1.h1']:.4f}"
    return within(found.mean, truth, said=said)


def _removed(models: Models) -> Outcome:
    shares = direct_attribution.attribute(models.two_steps, _TEXT, _ANSWER)
    found = direct_attribution.check(models.two_steps, shares, seed=models.seed)
    total = dict(zip(found.names, found.total, strict=True))
    return within([total["a0.h0"], total["a1.h1"]], [DIRECT + INDIRECT, INDIRECT])


def _traced(models: Models) -> Outcome:
    graph = contributions.trace(models.two_steps, _TEXT)
    found = {str(graph.edge(i)): float(graph.shares[i]) for i in graph.routes(0.02)}
    # Before: token and place, of length 1 each; then A beside them, then B beside these.
    truth = {
        "past mlp 1 at 3": 1,
        "past attn 1 at 3": 3 / 4,
        "head 1.1 from 3 to 3": 1 / 4,
        "past mlp 0 at 3": 1,
        "past attn 0 at 3": 2 / 3,
        "head 0.0 from 1 to 3": 1 / 3,
    }
    return both(same(found, truth), within([found[name] for name in truth], [*truth.values()]))


def _effects(models: Models) -> Outcome:
    truth = {
        "head 0.0 from 1 to 3": -1,
        "head 1.1 from 3 to 3": -INDIRECT,
        "past attn 1 at 3": -DIRECT,
        "mlp 1 at 3": 0,
    }
    changes = [
        contributions.edge_effect(
            models.two_steps, _TEXT, edge, _ANSWER, others=0, seed=models.seed
        ).change
        for edge in truth
    ]
    return within(changes, [*truth.values()])


def _unread(models: Models) -> Outcome:
    case = models.induction
    found = contributions.edge_effect(
        case.model,
        case.clean[0],
        "head 0.1 from 1 to 2",
        case.answers[0],
        others=_FEW,
        seed=models.seed,
    )
    return within(found.change, 0, said=f"change {found.change:.1e}")


def _promoted(models: Models) -> Outcome:
    graph = contributions.trace(models.two_steps, _TEXT)
    found = contributions.promoted(
        models.two_steps, graph, "head 1.1 from 3 to 3", top=1, seed=models.seed
    )
    token, logit = found.promoted[0]
    # One token of six has it, so the mean is a sixth.
    return both(same([token], [_ANSWER]), within(logit, INDIRECT * 5 / 6))


def _state(node: str, truth: dict[str, float], models: Models) -> Outcome:
    graph = contributions.trace(models.two_steps, _TEXT)
    found = contributions.state_tokens(models.two_steps, graph, node, top=len(word_level.WORDS))
    shares = dict(zip(found.tokens, found.probabilities, strict=True))
    # Five words have a logit of 0.
    logits = {word: truth.get(word, 0.0) for word in word_level.WORDS}
    total = sum(np.exp(one) for one in logits.values())
    return within(
        [shares[word] for word in logits], [np.exp(one) / total for one in logits.values()]
    )


def _state_between(models: Models) -> Outcome:
    return _state("after mlp 0 at 3", {_ANSWER: DIRECT}, models)


def _state_before(models: Models) -> Outcome:
    return _state("input at 3", {}, models)


def _agreeing(models: Models) -> Outcome:
    graph = contributions.trace(models.two_steps, _TEXT)
    found = contributions.agreement(models.two_steps, graph, _ANSWER, seed=models.seed)
    return both(
        same(found.names, ("head 0.0 from 1 to 3", "head 1.1 from 3 to 3")),
        within(np.stack([found.shares, found.changes]), [[1 / 3, 1 / 4], [-1, -INDIRECT]]),
    )


def _one_hot(models: Models) -> Outcome:
    found = activations.values(models.two_steps, _IDS, "blocks.0.hook_resid_pre")
    truth = np.zeros(found.kept[0].shape)
    positions = np.arange(len(_IDS))
    truth[positions, _IDS] = truth[positions, 3 * len(word_level.WORDS) + positions] = 1
    return within(found.kept[0], truth, said=f"{int((found.kept[0] != 0).sum())} ones")


def _growing(models: Models) -> Outcome:
    found = activations.stream(models.two_steps, _IDS, seed=models.seed)
    # A token and its place are two ones. At the last position each layer adds a one; elsewhere
    # heads attend to all positions alike, so layer 0 adds the mean of the tokens so far, and layer
    # 1 the mean of what layer 0 added so far.
    eye = np.eye(len(_IDS))
    first = np.array([eye[: position + 1].mean(0) for position in range(len(_IDS))])
    second = np.array([first[: position + 1].mean(0) for position in range(len(_IDS))])
    first[-1] = second[-1] = eye[1]
    squares = np.cumsum([np.full(len(_IDS), 2), (first**2).sum(1), (second**2).sum(1)], axis=0)
    return within(found.norm, np.sqrt(squares[:, 1:]).mean(1))


def _random_rows(models: Models) -> Corpus:
    rng = np.random.default_rng(models.seed)
    return Corpus.from_tokens(models.unplanted, rng.integers(0, len(word_level.WORDS), (80, 8)))


def _outlier(models: Models) -> Outcome:
    model = unplanted.randomised(seed=models.seed)
    unplanted.enlarge_coordinate(model, _LARGE)
    found = activations.outlier_dimensions(
        word_level.on(model, models.device), _random_rows(models), seed=models.seed
    )
    return same(found.found, [_LARGE])


def _no_outlier(models: Models) -> Outcome:
    found = activations.outlier_dimensions(models.unplanted, _random_rows(models), seed=models.seed)
    return same(found.found, [])


def _firing(models: Models) -> Outcome:
    found = activations.distribution(
        models.detectors, models.words, "blocks.0.mlp.hook_post", seed=models.seed
    )
    # The third of four positions, whatever stands there.
    return within(found.mean[1], 1 / 4)


CHECKS = (
    Check(
        "logit_lens.read",
        "the answer's logit is 0 before layer 0, 0.25 after it, and 1 after layer 1",
        _lens,
    ),
    Check(
        "logit_lens.read",
        "attention writes 0.25 of the answer's logit in layer 0 and 0.75 in layer 1",
        _lens_of_attention,
    ),
    Check(
        "logit_lens.train",
        "the last layer turns the stream by a fixed rotation, which a tuned lens learns",
        _tuned,
    ),
    Check(
        "logit_lens.compare",
        "a lens that turns the stream as the last layer will is the one to believe, exactly",
        _believed,
    ),
    Check(
        "logit_lens.compare",
        "nothing: a lens that translates nothing is no better than the logit lens",
        _not_believed,
    ),
    Check("logit_lens.read", "nothing: MLPs that write nothing read as nothing", _lens_of_nothing),
    Check(
        "direct_attribution.attribute",
        "of the answer's logit one head writes 0.25, another 0.75, no other part anything",
        _shares,
    ),
    Check(
        "direct_attribution.attribute",
        "in a random model with norms, the shares of all parts sum to the logit",
        _sum,
    ),
    Check(
        "direct_attribution.attribute_pairs",
        "over pairs, one head writes 0.25 of the logit difference, another 0.75",
        _over_pairs,
    ),
    Check(
        "direct_attribution.check",
        "without the first head the whole logit is gone, without the second 0.75 of it",
        _removed,
    ),
    Check("contributions.trace", "six edges lead to the answer, of known shares", _traced),
    Check(
        "contributions.edge_effect",
        "taken out, four edges change the answer's logit by -1, -0.75, -0.25 and 0",
        _effects,
    ),
    Check(
        "contributions.edge_effect",
        "nothing: an edge into what nobody reads changes nothing",
        _unread,
    ),
    Check(
        "contributions.promoted",
        "the second head's edge promotes the answer, by 0.625 above the mean",
        _promoted,
    ),
    Check(
        "contributions.state_tokens",
        "between the layers the answer has a logit of 0.25",
        _state_between,
    ),
    Check(
        "contributions.state_tokens",
        "nothing: before the first layer all tokens are alike",
        _state_before,
    ),
    Check(
        "contributions.agreement",
        "two edges of heads, their shares, and what the answer loses without either",
        _agreeing,
    ),
    Check(
        "activations.values",
        "before layer 0 the stream is a one for the token and a one for the place",
        _one_hot,
    ),
    Check("activations.stream", "the length of the stream after each layer", _growing),
    Check(
        "activations.distribution",
        "a neuron that fires at one position of four has a mean of 0.25",
        _firing,
    ),
    Check("activations.outlier_dimensions", "coordinate 5 is out of scale", _outlier),
    Check("activations.outlier_dimensions", "nothing: no coordinate is out of scale", _no_outlier),
)
