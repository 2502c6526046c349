"""Which coordinates of the stream are out of scale in many layers?

One pass over a corpus reads a site in every layer. A coordinate is an outlier of a layer where it
stands out from the others as `outliers` says; it is one of the model where that is so in a quarter
of the layers. Beside it stands the published rule: size above 6, at 6 % of the tokens, in 25 % of
the layers.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool

from analyses.activations import outliers
from analyses.activations.moments import HALVES, Moments
from analyses.activations.outliers import Outliers
from workbench.core import plots, results
from workbench.core.engine import running, scan, units

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus

ANALYSIS = "activations.outlier_dimensions"
_SAMPLED = 512
_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class OutlierDimensions(results.Result):
    """Coordinates that are out of scale, layer by layer.

    Attributes:
        site: Where the stream is read.
        corpus: Name of what was read.
        n_tokens: Tokens that count.
        layers: One entry a layer.
        by_size: Coordinates of LLM.int8()'s rule, layers included.
        stands_out: Where a coordinate stands out, in both halves of the rows.
    """

    site: str
    corpus: str
    n_tokens: int
    layers: tuple[Outliers, ...]
    by_size: Bool[np.ndarray, " width"]
    stands_out: Bool[np.ndarray, "layer width"]

    @property
    def found(self) -> tuple[int, ...]:
        """Coordinates that stand out in a quarter of the layers, in the most layers first."""
        share = self.stands_out.mean(0)
        order = np.argsort(-share, kind="stable")
        return tuple(int(one) for one in order if share[one] >= outliers.LAYERS)

    def unit(self, layer: int, coordinate: int) -> str:
        """Name of a coordinate as a unit."""
        return f"{self.site} {layer}.{coordinate}"

    def to_frame(self) -> pd.DataFrame:
        """One row a coordinate that stands out in some layer, or is one by its size."""
        some = np.flatnonzero(self.stands_out.any(0) | self.by_size)
        distance = np.stack([one.distance for one in self.layers])
        rms = np.stack([one.rms for one in self.layers])
        best = np.nan_to_num(distance[:, some], nan=-np.inf).argmax(0)
        frame = pd.DataFrame(
            {
                "coordinate": some,
                "layers in which it stands out": self.stands_out[:, some].sum(0),
                "most in layer": best,
                "robust deviations there": distance[best, some],
                "rms there": rms[best, some],
                "LLM.int8() rule": self.by_size[some],
            }
        )
        return frame.sort_values(
            ["layers in which it stands out", "robust deviations there"], ascending=False
        ).reset_index(drop=True)

    def figure(self) -> go.Figure:
        """Distance of the coordinates that stand out, or stand out most, in every layer."""
        distance = np.stack([one.distance for one in self.layers])
        finite = np.where(np.isfinite(distance), distance, np.nan)
        most = np.nan_to_num(distance, nan=-np.inf).max(0)
        chosen = np.argsort(-most, kind="stable")[:_SHOWN]
        return plots.heatmap(
            finite[:, chosen],
            row_labels=[f"layer {layer}" for layer in range(len(self.layers))],
            column_labels=[str(one) for one in chosen],
            row_title="",
            column_title="coordinate, those that stand out most first",
            colour_title="robust deviations",
        )

    def summary(self) -> str:
        """How many coordinates, which, and what random directions give."""
        found = self.found
        named = f" ({outliers.listed(found)})"
        chance = max((int(one.null_count.max(initial=0)) for one in self.layers), default=0)
        reach = max((float(one.null.max(initial=0.0)) for one in self.layers), default=0.0)
        return (
            f"{self.site} of {self.provenance.model} on {self.n_tokens:,} tokens of {self.corpus}: "
            f"{len(found)} coordinates{named if found else ''} stand out in size by more than "
            f"{outliers.BEYOND:g} robust standard deviations in at least {outliers.LAYERS:.0%} of "
            f"{len(self.layers)} layers, in both halves of the rows; of as many random directions "
            f"at most {chance} do in a layer, the furthest {reach:.2f}. By the rule of LLM.int8() "
            f"(size above {outliers.SIZE:g} at {outliers.TOKENS:.0%} of the tokens in "
            f"{outliers.LAYERS:.0%} of the layers) {int(self.by_size.sum())} are."
        )


def outlier_dimensions(
    model: TransformerBridge,
    corpus: Corpus,
    *,
    site: str = "resid_post",
    seed: int = 0,
    progress: running.Progress | None = None,
) -> OutlierDimensions:
    """Find the coordinates that are out of scale, in every layer.

    Args:
        model: The bridge.
        corpus: What it reads.
        site: One of the streams: resid_pre, resid_post, attn_out, mlp_out.
        seed: Of the sample of tokens and the random directions.
        progress: Told how far it is; may raise to stop.

    Returns:
        The coordinates.

    Raises:
        ValueError: If there is no such site, or nothing counts.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    if site not in units.STREAMS:
        raise ValueError(f"unknown site {site!r}; expected one of {', '.join(units.STREAMS)}")
    layers = range(int(model.cfg.n_layers))
    families = [units.family(model, site, layer) for layer in layers]
    sums = [Moments(family.size, outliers.SIZE) for family in families]
    sampled: list[list[np.ndarray]] = [[] for _ in layers]
    rng = np.random.default_rng(seed)
    drawn = rng.choice(corpus.n_tokens, min(_SAMPLED, corpus.n_tokens), replace=False)
    reader = scan.Reader(model, corpus, families)
    tokens = 0
    for number, chunk in enumerate(corpus.chunks()):
        report(number / corpus.n_chunks, f"{tokens:,} tokens read")
        at = np.nonzero(chunk.counted.numpy())[0]
        half, numbers = chunk.rows[at] % HALVES, corpus.numbers(chunk)
        here = torch.from_numpy(np.isin(numbers, drawn))
        tokens += len(at)

        def take(
            layer: int,
            table: torch.Tensor,
            half: np.ndarray = half,
            here: torch.Tensor = here,
        ) -> None:
            values = table.float()
            sums[layer].take(values, torch.ones_like(values, dtype=torch.bool), half)
            sampled[layer].append(values[here.to(values.device)].cpu().numpy())

        reader.read(chunk, take)
    if not tokens:
        raise ValueError(f"{corpus.name} holds special tokens only: nothing counts")
    found = tuple(
        outliers.of_sums(one, np.concatenate(sample), seed=seed + layer)
        for layer, (one, sample) in enumerate(zip(sums, sampled, strict=True))
    )
    stands_out = np.zeros((len(found), families[0].size), dtype=bool)
    for layer, one in enumerate(found):
        stands_out[layer, one.found] = True
    return OutlierDimensions(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={"corpus": corpus.fingerprint, "site": site},
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        site=site,
        corpus=corpus.name,
        n_tokens=tokens,
        layers=found,
        by_size=outliers.across_layers(np.stack([one.beyond for one in found])),
        stands_out=stands_out,
    )
