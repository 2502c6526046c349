"""What does adding a unit do to an answer at several strengths, and what does it cost elsewhere?

1. A few rows of the corpus are drawn; on them the unit's range says which strengths to try.
2. Prompts and rows are run with the unit, and with each random direction, at each strength.

Source: Rimsky et al. 2024, arXiv 2312.06681 (dose-response of steering, and its side effects).

Units: strengths in units of the activation that is added.

Limits: those of the package.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from analyses.feature_visualization.steering import adding, control, runs
from analyses.feature_visualization.steering.result import Steering
from workbench.core import evidence, results
from workbench.core.engine import metrics, preflight, running, scan
from workbench.core.engine import units as families
from workbench.core.prompts import corpus as corpora

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

ANALYSIS = "feature_visualization.steer"
Tensor = torch.Tensor
Strengths = Sequence[float | int] | Float[np.ndarray, " _point"]
# Without strengths: so many, up to so many times the largest activation on the text, either way.
_POINTS, _REACH = 9, 2.0
# Tokens of a row of text that are read: more rows say more about the spread than longer ones.
_LONGEST = 128


def steer(
    model: TransformerBridge,
    pairs: ContrastPairs,
    corpus: corpora.Corpus,
    unit: families.Unit | str,
    *,
    strengths: Strengths | None = None,
    metric: str | metrics.Function = "logit_difference",
    directions: Float[torch.Tensor, "direction width"] | None = None,
    dictionary: Any = None,
    positions: str = "all",
    controls: int = 39,
    tokens: int = 1000,
    loss_bound: float | int = 0.1,
    confidence: float = 0.95,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Steering:
    """Add a unit at several strengths, and measure what it does and what it costs.

    Args:
        model: The bridge.
        pairs: Whose clean prompts the metric is measured on.
        corpus: Unrelated text, for the side effect and the unit's range.
        unit: What is added; with directions or a dictionary its kind is the site that they read.
        strengths: How much; 0 is put in where it is missing. Without any: 9 of them, up to twice
            the unit's largest absolute activation on the text, either way.
        metric: As for `activation_patching.patch`.
        directions: Vectors of the site, of any length but zero; made unit vectors, so that a
            strength is the length that is added.
        dictionary: A sparse autoencoder, whose latents' decoder rows are added as long as they are.
        positions: "all" adds at every position; "ordinary" leaves special tokens (BOS) alone.
        controls: How many random directions; no p-value is below 1 / (1 + controls).
        tokens: About how many tokens of the corpus are predicted; rows are drawn at random.
        loss_bound: Largest change of the loss, nats a token, that the summary accepts.
        confidence: Of the intervals.
        seed: Of the rows, the random directions and the bootstrap.
        progress: Told how far it is; may raise to stop.

    Returns:
        The dose-response with its side effect and control.

    Raises:
        ValueError: If the unit does not exist, is a head, or writes nothing; it never responds on
            the text and no strengths are given; the metric needs what the pairs do not have; an
            argument is out of its range; or a strength makes logits that are not finite.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    adding.require_positions(positions)
    _require(controls, tokens, loss_bound, strengths)
    evidence.require_confidence(confidence)
    preflight.require_metric(pairs, metric)
    measure = metrics.find(metric)
    family, index = families.family_of(model, unit, directions=directions, dictionary=dictionary)
    vectors = adding.vectors_of(model, family, index, controls, seed)
    text = _drawn(corpus, tokens, seed)
    report(0.0, "reading the unit on the text")
    low, high, stream = _range(model, text, family, index)
    doses = _doses(strengths, max(abs(low), abs(high)), family.unit(index))
    runner = runs.Runner(model, family, pairs, text, positions)
    strength = torch.tensor(doses[doses != 0]).to(vectors)
    added = (strength[:, None] * vectors[:, None]).flatten(0, 1)
    values = runner.metric(pairs, measure, added, running.part(report, 0.05, 0.4))
    loss, divergence = runner.text(text, added, running.part(report, 0.4, 0.95))
    report(0.95, "bootstrap intervals")
    bootstrap = evidence.Bootstrap(
        confidence=confidence, n_resamples=evidence.DEFAULT_BOOTSTRAP["n_resamples"], seed=seed
    )
    made = results.provenance(
        model,
        analysis=ANALYSIS,
        parameters={
            "unit": str(unit),
            "pairs": pairs.digest(),
            "corpus": corpus.fingerprint,
            "strengths": None if strengths is None else doses.tolist(),
            "metric": measure.name,
            "directions": None,
            "dictionary": None,
            "positions": positions,
            "controls": controls,
            "tokens": tokens,
            "loss_bound": float(loss_bound),
            "confidence": confidence,
        }
        | families.marks(directions, dictionary),
        seed=seed,
        wall_time=time.perf_counter() - started,
        notes=(runner.how,),
    )
    return Steering(
        provenance=made,
        unit=str(family.unit(index)),
        pairs=pairs.name,
        corpus=corpus.name,
        metric=measure.name,
        positions=positions,
        strengths=doses,
        predicted=text.lengths - 1,
        **control.compared(values, loss, divergence, text.lengths - 1, doses, bootstrap),
        length=float(adding.into_stream(model, family, vectors[:1]).norm()),
        stream=stream,
        seen=(low, high),
        loss_bound=float(loss_bound),
        confidence=confidence,
    )


def _drawn(corpus: corpora.Corpus, tokens: int, seed: int) -> corpora.Corpus:
    """Random rows, cut, in which about so many tokens are predicted."""
    order = np.random.default_rng(seed).permutation(len(corpus))
    lengths = np.minimum(corpus.lengths[order], _LONGEST)
    order, predicted = order[lengths > 1], np.cumsum(lengths[lengths > 1] - 1)
    if not len(order):
        raise ValueError(f"no row of {corpus.name} has two tokens, so nothing is predicted there")
    chosen = np.sort(order[: int(np.searchsorted(predicted, tokens)) + 1])
    rows = [corpus.row(int(row))[:_LONGEST] for row in chosen]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return corpora.Corpus(corpus.name, np.concatenate(rows), starts, corpus.special)


def _range(
    model: TransformerBridge, text: corpora.Corpus, family: families.Family, index: int
) -> tuple[float, float, float]:
    """The unit's smallest and largest activation, and the mean length of the stream."""
    stream = "resid_pre" if family.site == "resid_pre" else "resid_post"
    beside = families.family(model, stream, family.layer)
    reader = scan.Reader(model, text, [family, beside])
    activations: list[Tensor] = []
    lengths: list[Tensor] = []

    def take(number: int, table: Float[Tensor, "token unit"]) -> None:
        if number == 0:
            activations.append(table[:, index].float().cpu())
        else:
            lengths.append(table.float().norm(dim=1).cpu())

    for chunk in text.chunks():
        reader.read(chunk, take)
    seen = torch.cat(activations)
    if not len(seen):
        raise ValueError(f"{text.name} holds special tokens only: give text")
    return float(seen.min()), float(seen.max()), float(torch.cat(lengths).double().mean())


def _doses(
    strengths: Strengths | None, largest: float, unit: families.Unit
) -> Float[np.ndarray, " point"]:
    """The strengths, ascending, with 0 among them."""
    if strengths is not None:
        return np.unique(np.array([0.0, *strengths]) + 0.0)
    if not largest > 0:
        raise ValueError(
            f"{unit} is 0 on all of the text, which says nothing of how much to add: give strengths"
        )
    return np.linspace(-_REACH * largest, _REACH * largest, _POINTS)


def _require(
    controls: int, tokens: int, loss_bound: float | int, strengths: Strengths | None
) -> None:
    for name, value in (("controls", controls), ("tokens", tokens)):
        if value < 1:
            raise ValueError(f"{name} = {value}; expected at least 1")
    if not loss_bound > 0:
        raise ValueError(f"loss_bound = {loss_bound}; expected a number of nats above 0")
    if strengths is None:
        return
    if not np.isfinite(np.asarray(strengths, dtype=np.float64)).all():
        raise ValueError(f"strengths = {list(strengths)}; expected finite numbers")
    if not np.any(strengths):
        raise ValueError("strengths holds nothing but 0: give at least one other")
