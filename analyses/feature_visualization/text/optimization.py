"""The public call: what is asked for is checked, searched from several starts, and told."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from analyses.feature_visualization.text import (
    candidates,
    evolution,
    pareto,
    result,
    token_gradients,
    vocabulary,
)
from workbench.core import results
from workbench.core.engine import running, units

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "feature_visualization.optimize_text"
METHODS = ("epo", "gcg")
PENALTIES = (0.1, 10.0)
# Random texts that the optimum is compared with.
_RANDOM_TEXTS = 256


def optimize_text(  # noqa: PLR0913 -- one call covers both methods; all have defaults
    model: TransformerBridge,
    unit: units.Unit | str,
    *,
    method: str = "epo",
    length: int = 12,
    population: int = 8,
    children: int = 32,
    top_tokens: int = 512,
    iterations: int = 300,
    restart_every: int = 40,
    restarts: int = 3,
    diversity: float = 0.25,
    penalties: tuple[float, float] = PENALTIES,
    start: str | Sequence[int] | None = None,
    reference: Float[np.ndarray, " example"] | None = None,
    allowed: Sequence[int] | None = None,
    directions: Float[torch.Tensor, "direction width"] | None = None,
    dictionary: Any = None,
    maximise: bool = True,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> result.OptimizedText:
    """Search for the texts at whose last token a unit is most active.

    Args:
        model: Any bridge with a tokenizer; it is not changed.
        unit: Such as "neuron 2.13"; with directions or a dictionary the kind names the site that
            these are read from, as in "resid_post 2.13".
        method: "epo", or "gcg" for no regard to fluency.
        length: Tokens of a text, BOS not counted.
        population: Prices of fluency, each with a text of its own; GCG has the single price 0.
        children: New texts of each kept text in an iteration; GCG draws all of them from its one.
        top_tokens: Tokens that are tried at a position, at most; at most a quarter of those
            allowed.
        iterations: Of each restart.
        restart_every: Iterations until all prices start again from one of their texts.
        restarts: Searches from different starts.
        diversity: What a text loses that is made of tokens of earlier restarts' best texts only, as
            a share of what these gained over random texts; the first restart is never affected.
        penalties: Lowest and highest price, in activation a nat; those between lie evenly on a
            logarithmic scale.
        start: An example to continue from, as text or token ids; a shorter one gets random tokens
            in front, since the unit is read at the last token. None begins with random texts.
        reference: The unit's activations over a corpus, for quantiles.
        allowed: Tokens that may be put in; None for all. Special ones are never used.
        directions: One vector a unit, instead of the coordinates.
        dictionary: A sparse autoencoder whose latents are the units.
        maximise: False searches for the most negative activation.
        seed: Of everything random.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The Pareto front, the best text of each restart, and what random texts give.

    Raises:
        ValueError: If there is no such unit, the length exceeds the context, the start is longer
            than the length or outside of the vocabulary, no token may be used, a number is out of
            range, or an activation is not finite.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    settings = _settings(
        method,
        population=population,
        children=children,
        top_tokens=top_tokens,
        iterations=iterations,
        restart_every=restart_every,
        penalties=penalties,
    )
    _require(restarts=restarts, length=length)
    if not (math.isfinite(diversity) and diversity >= 0):
        raise ValueError(f"diversity = {diversity}; expected a number that is not negative")
    known = None if reference is None else _reference(reference)
    family, index = units.family_of(model, unit, directions=directions, dictionary=dictionary)
    words = vocabulary.of_model(model, allowed)
    target = candidates.Target(
        family, index, 1 if maximise else -1, words.prefix, _before(model, family, maximise)
    )
    _require_length(model, target, length)
    example = None if start is None else vocabulary.start_of(model, start, words.prefix, length)

    report(0.0, "measuring random texts")
    reader = candidates.Reader(model, target)
    # A stream of its own, so that every method and setting is compared with the same texts.
    control_rng, *streams = np.random.default_rng(seed).spawn(1 + restarts)
    control = reader.measure(words.random_texts(control_rng, _RANDOM_TEXTS, length))
    shown = _example(reader, target, example)
    search = evolution.Search(
        reader,
        token_gradients.TokenGradients(model, target),
        words,
        settings,
        sign=target.sign,
        read=lambda ids: vocabulary.read(model, ids),
    )
    front = pareto.Front.empty(length)
    found: list[evolution.Evolved] = []
    for restart, rng in enumerate(streams):
        evolved = search.run(
            _starts(words, rng, population * children, length, example),
            front,
            costs=_costs(words.size, found, control, diversity, target.sign),
            rng=rng,
            restart=restart,
            report=running.part(report, restart / restarts, (restart + 1) / restarts),
        )
        front = evolved.front
        found.append(evolved)
    report(1.0, "done")
    return _result(
        model,
        _Outcome(target, settings, words, front, found, control, shown, known, method),
        example=example,
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "unit": str(unit),
                "method": method,
                "length": length,
                "population": population,
                "children": children,
                "top_tokens": top_tokens,
                "iterations": iterations,
                "restart_every": restart_every,
                "restarts": restarts,
                "diversity": diversity,
                "penalties": list(penalties),
                "start": start if start is None or isinstance(start, str) else _ids(start),
                "allowed": None if allowed is None else _ids(allowed),
                "maximise": maximise,
                "seed": seed,
                "reference": None if known is None else results.mark(known),
                "directions": None,
                "dictionary": None,
            }
            | units.marks(directions, dictionary),
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        evaluations=reader.evaluations,
    )


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What the searches gave, before it is written down."""

    target: candidates.Target
    settings: evolution.Settings
    words: vocabulary.Vocabulary
    front: pareto.Front
    found: list[evolution.Evolved]
    control: candidates.Measured
    shown: candidates.Measured
    reference: np.ndarray | None
    method: str

    def quantiles(self, values: np.ndarray) -> np.ndarray:
        """Share of the corpus that is at most as large; NaN without a corpus."""
        if self.reference is None:
            return np.full(len(values), np.nan)
        below = np.searchsorted(self.reference, values, side="right")
        return below / len(self.reference)


def _result(
    model: TransformerBridge,
    outcome: _Outcome,
    *,
    example: Int[np.ndarray, " token"] | None,
    provenance: results.Provenance,
    evaluations: int,
) -> result.OptimizedText:
    front, found, prefix = outcome.front, outcome.found, outcome.words.prefix
    best = np.stack([each.best for each in found])
    values = np.concatenate([each.best_measured.activation for each in found])
    shape = (len(found), -1, len(outcome.settings.penalties))
    return result.OptimizedText(
        provenance=provenance,
        unit=outcome.target.name,
        method=outcome.method,
        maximise=outcome.target.sign > 0,
        prefix=prefix,
        tokens=front.texts,
        texts=tuple(vocabulary.read(model, ids) for ids in front.texts),
        activation=front.measured.activation,
        cross_entropy=front.measured.cross_entropy,
        quantile=outcome.quantiles(front.measured.activation),
        retokenises=np.array(
            [vocabulary.retokenizes(model, ids, prefix) for ids in front.texts], dtype=bool
        ),
        found_in=front.found_in,
        best_tokens=best,
        best_texts=tuple(vocabulary.read(model, ids) for ids in best),
        best_activation=values,
        best_cross_entropy=np.concatenate([each.best_measured.cross_entropy for each in found]),
        best_quantile=outcome.quantiles(values),
        penalties=outcome.settings.penalties,
        trace_activation=np.stack([each.trace.activation for each in found]).reshape(shape),
        trace_cross_entropy=np.stack([each.trace.cross_entropy for each in found]).reshape(shape),
        random_activation=outcome.control.activation,
        random_cross_entropy=outcome.control.cross_entropy,
        random_quantile=outcome.quantiles(outcome.control.activation),
        start_text="" if example is None else vocabulary.read(model, example),
        start_activation=float(outcome.shown.activation[0]),
        start_cross_entropy=float(outcome.shown.cross_entropy[0]),
        start_quantile=float(outcome.quantiles(outcome.shown.activation)[0]),
        n_reference=0 if outcome.reference is None else len(outcome.reference),
        n_evaluations=evaluations,
    )


def _settings(
    method: str,
    *,
    population: int,
    children: int,
    top_tokens: int,
    iterations: int,
    restart_every: int,
    penalties: tuple[float, float],
) -> evolution.Settings:
    if method not in METHODS:
        raise ValueError(f"method = {method!r}; expected one of {', '.join(METHODS)}")
    _require(
        population=population,
        children=children,
        top_tokens=top_tokens,
        iterations=iterations,
        restart_every=restart_every,
    )
    low, high = penalties
    if not (0 < low <= high and math.isfinite(high)):
        raise ValueError(f"penalties = {penalties}; expected two numbers above 0, the lower first")
    if method == "gcg":
        prices, children = np.zeros(1), population * children
    else:
        prices = np.geomspace(low, high, population)
    return evolution.Settings(prices, children, top_tokens, iterations, restart_every)


def _require(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} = {value}; expected at least 1")


def _reference(reference: Float[np.ndarray, " example"]) -> Float[np.ndarray, " example"]:
    """Activations over the corpus, in order."""
    if reference.ndim != 1 or not reference.size or not np.isfinite(reference).all():
        raise ValueError(
            f"the reference has shape {reference.shape}; expected one finite activation for each "
            "token of a corpus, and at least one"
        )
    return np.sort(reference.astype(np.float64))


def _before(model: TransformerBridge, family: units.Family, maximise: bool) -> str | None:
    """Where to look for a way to fire while a neuron is silent.

    A gated neuron is a product of two factors, and neither one by itself is a guide.
    """
    if family.kind != "neuron" or not maximise or getattr(model.cfg, "gated_mlp", False):
        return None
    name = f"blocks.{family.layer}.mlp.hook_pre"
    return name if name in model.hook_dict else None


def _require_length(model: TransformerBridge, target: candidates.Target, length: int) -> None:
    context = int(model.cfg.n_ctx)
    total = length + len(target.prefix)
    if total > context:
        raise ValueError(
            f"a text of {length} tokens takes {total} with what stands in front of it, and the "
            f"context is {context}: shorten it"
        )
    if length <= target.unpredicted:
        raise ValueError(
            "the model puts no token in front of a text, so nothing predicts a single token and it "
            "has no cross-entropy: give a length of at least 2"
        )


def _example(
    reader: candidates.Reader,
    target: candidates.Target,
    example: Int[np.ndarray, " token"] | None,
) -> candidates.Measured:
    """What the given example gives as it is; NaN where there is none."""
    if example is None:
        return candidates.Measured(*np.full((3, 1), np.nan))
    return reader.measure(example[None], fluency=len(example) > target.unpredicted)


def _starts(
    words: vocabulary.Vocabulary,
    rng: np.random.Generator,
    n: int,
    length: int,
    example: Int[np.ndarray, " token"] | None,
) -> Int[np.ndarray, "candidate position"]:
    """Texts to begin with, none twice; a given example stands at the end, where the unit is."""
    texts = words.random_texts(rng, n, length)
    if example is not None:
        texts[:, length - len(example) :] = example
    return np.unique(texts, axis=0)


def _costs(
    size: int,
    found: Sequence[evolution.Evolved],
    control: candidates.Measured,
    diversity: float,
    sign: int,
) -> Float[np.ndarray, " d_vocab"]:
    """What each token costs: in which share of the earlier restarts' best texts it is."""
    costs = np.zeros(size)
    if not found or not diversity:
        return costs
    for each in found:
        costs[np.unique(each.best)] += 1 / len(found)
    best = max(float(sign * each.best_measured.activation[0]) for each in found)
    return diversity * max(best - float(sign * control.activation.mean()), 0.0) * costs


def _ids(tokens: Sequence[int]) -> list[int]:
    return [int(token) for token in tokens]
