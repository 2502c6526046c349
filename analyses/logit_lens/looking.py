"""Looking through a lens: a prompt is run once, and every row of it is read."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from analyses.logit_lens import reading, readout
from analyses.logit_lens.tuned import TunedLens
from workbench.core import results
from workbench.core.engine import running
from workbench.core.prompts import prompt as prompts

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "logit_lens.read"
NORMS = ("own", "final")
Tensor = torch.Tensor


def read(
    model: TransformerBridge,
    prompt: prompts.Prompt | str | Sequence[int],
    *,
    source: str = "resid",
    lens: TunedLens | None = None,
    norm: str = "own",
    tokens: Sequence[str | int] = (),
    top: int = 5,
    progress: running.Progress | None = None,
) -> reading.LensReading:
    """Read what the model would say after each layer.

    Args:
        model: The bridge.
        prompt: Text, token ids, or a prompt.
        source: "resid" for the stream before the first layer and after each; "attn_out" or
            "mlp_out" for what each of these adds to it, alone.
        lens: A tuned lens of this model, for the stream; the logit lens if not given.
        norm: "own" applies the final norm to what is read, as the model applies it to the final
            stream; "final" holds its scale at what it is for the final stream.
        tokens: Whose probability, rank and logit are kept: single tokens as text, or ids.
        top: How many of the top tokens are kept.
        progress: Told how far it is; may raise to stop.

    Returns:
        What is read at each row and position.

    Raises:
        ValueError: If the source, the norm, a token or the number of top tokens does not exist, the
            lens is another model's or for another source, or the model's output is not its final
            norm and unembedding.
    """
    started = time.perf_counter()
    asked_for = prompts.Prompt.of(model, prompt)
    asked = tuple(asked_for.answer(model, token) for token in tokens)
    _check(model, source, lens, norm)
    through = readout.Readout(model)
    report = progress or running.no_progress
    report(0.0, "running the model")
    with torch.inference_mode():
        logits, read_at, final = readout.run(model, asked_for.batch, source)
        vocabulary = logits.shape[-1]
        if not 1 <= top <= vocabulary or any(token >= vocabulary for token in asked):
            raise ValueError(
                f"top = {top} and tokens {asked}: the model has logits of {vocabulary} tokens"
            )
        frozen = through.frozen(final[0]) if norm == "final" else None

        def look(row: int, here: slice) -> Tensor:
            done = here.start + (here.stop - here.start) * row / len(read_at)
            report(done / len(asked_for), f"position {here.start} of {len(asked_for)}, row {row}")
            vectors = read_at[row][0, here]
            if lens is not None:
                vectors = lens.translated(row, vectors)
            return through.logits(vectors, None if frozen is None else frozen(here))

        through.require_output(final[0, -1:], logits[0, -1:])
        found = _read(look, len(read_at), logits[0], asked, top)
    # Texts of what is named are looked up once each.
    listed = np.unique(np.concatenate([found.top_ids.ravel(), found.final_ids, np.array(asked)]))
    listed = listed.astype(np.int64)
    return reading.LensReading(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "prompt": list(asked_for.ids),
                "source": source,
                "lens": None if lens is None else results.mark(lens.weights),
                "norm": norm,
                "tokens": list(asked),
                "top": top,
            },
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        prompt=asked_for,
        source=source,
        norm=norm,
        lens=reading.LOGIT if lens is None else reading.TUNED,
        rows=readout.row_names(model, source),
        top_ids=found.top_ids,
        top_probabilities=found.top_probabilities,
        top_logits=found.top_logits,
        entropy=found.entropy,
        divergence=found.divergence,
        asked=asked,
        asked_probabilities=found.asked_probabilities,
        asked_ranks=found.asked_ranks,
        asked_logits=found.asked_logits,
        final_ids=found.final_ids,
        listed=listed,
        listed_texts=prompts.token_texts(model, listed.tolist()),
    )


def _check(model: TransformerBridge, source: str, lens: TunedLens | None, norm: str) -> None:
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; expected one of {', '.join(NORMS)}")
    if lens is not None:
        lens.require(model)
        if source != "resid" or norm != "own":
            raise ValueError(
                "a tuned lens reads the stream with the final norm as it is: use source 'resid' "
                f"and norm 'own' with it, not {source!r} and {norm!r}"
            )


@dataclasses.dataclass(frozen=True)
class _Found:
    """The arrays of a reading."""

    top_ids: np.ndarray
    top_probabilities: np.ndarray
    top_logits: np.ndarray
    entropy: np.ndarray
    divergence: np.ndarray
    asked_probabilities: np.ndarray
    asked_ranks: np.ndarray
    asked_logits: np.ndarray
    final_ids: np.ndarray


def _read(
    look: Callable[[int, slice], Tensor],
    rows: int,
    logits: Tensor,
    asked: tuple[int, ...],
    top: int,
) -> _Found:
    """Every row at every position, some positions at a time: tables of logits are large."""
    width, vocabulary = logits.shape
    shape = (rows, width)
    found = _Found(
        top_ids=np.zeros((*shape, top), dtype=np.int64),
        top_probabilities=np.zeros((*shape, top), dtype=np.float32),
        top_logits=np.zeros((*shape, top), dtype=np.float32),
        entropy=np.zeros(shape, dtype=np.float32),
        divergence=np.zeros(shape, dtype=np.float32),
        asked_probabilities=np.zeros((*shape, len(asked)), dtype=np.float32),
        asked_ranks=np.zeros((*shape, len(asked)), dtype=np.int64),
        asked_logits=np.zeros((*shape, len(asked)), dtype=np.float32),
        final_ids=logits.argmax(-1).cpu().numpy(),
    )
    at_once = max(1, readout.AT_ONCE // vocabulary)
    for start in range(0, width, at_once):
        here = slice(start, min(start + at_once, width))
        final = logits[here].log_softmax(-1)
        for row in range(rows):
            _keep(found, (row, here), look(row, here), final, asked)
    return found


def _keep(
    found: _Found,
    at: tuple[int, slice],
    logits: Tensor,
    final: Tensor,
    asked: tuple[int, ...],
) -> None:
    """What is kept of one row's logits at some positions."""
    said = logits.log_softmax(-1)
    largest, best = logits.topk(found.top_ids.shape[-1], dim=-1)
    found.top_ids[at], found.top_logits[at] = best.cpu().numpy(), largest.cpu().numpy()
    found.top_probabilities[at] = said.gather(-1, best).exp().cpu().numpy()
    found.entropy[at] = readout.entropy(said).cpu().numpy()
    found.divergence[at] = readout.divergence(final, said).cpu().numpy()
    for place, token in enumerate(asked):
        own = logits[:, token, None]
        found.asked_logits[(*at, place)] = own[:, 0].cpu().numpy()
        found.asked_probabilities[(*at, place)] = said[:, token].exp().cpu().numpy()
        found.asked_ranks[(*at, place)] = (logits > own).sum(-1).cpu().numpy()
