"""Do the shares of a graph tell which of its edges matter to the answer?"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import scipy.stats
from jaxtyping import Float

from analyses.contributions import effects, graph, naming, parts, runs
from workbench.core import plots, results
from workbench.core.engine import running
from workbench.core.evidence import SURE
from workbench.core.prompts.prompt import Prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "contributions.agreement"
_EDGES = 200
_SHUFFLES = 999
# With fewer edges a rank correlation says nothing.
FEWEST = 5


@dataclasses.dataclass(frozen=True)
class ShareAgreement(results.Result):
    """Shares of some edges of a graph beside their exact effects.

    Attributes:
        names: The edges.
        answer_names: The answer, and the one that it is compared with, as text.
        measure: Which share.
        shares: Of each edge.
        flows: How much of the target passes through each edge.
        sizes: Length of each edge's vector.
        changes: What the logit (difference) changes by without each edge.
        rank_correlation: Spearman's, of the sizes of shares and of changes.
        p_value: As large a correlation where shares are shuffled among the edges.
        by_flow: Spearman's correlation of flows and sizes of changes.
        by_size: Spearman's correlation of the vectors' lengths and sizes of changes.
        available: How many edges of heads and MLPs the graph has.
    """

    names: tuple[str, ...]
    answer_names: tuple[str, ...]
    measure: str
    shares: Float[np.ndarray, " edge"]
    flows: Float[np.ndarray, " edge"]
    sizes: Float[np.ndarray, " edge"]
    changes: Float[np.ndarray, " edge"]
    rank_correlation: float
    p_value: float
    by_flow: float
    by_size: float
    available: int

    def to_frame(self) -> pd.DataFrame:
        """One row an edge."""
        return pd.DataFrame(
            {
                "edge": self.names,
                "share": self.shares,
                "flow": self.flows,
                "length": self.sizes,
                "change": self.changes,
            }
        )

    def figure(self) -> go.Figure:
        """Size of the exact effect over the share, one point an edge."""
        figure = go.Figure(
            go.Scatter(
                x=np.abs(self.shares),
                y=np.abs(self.changes),
                mode="markers",
                marker={"size": 6, "color": plots.COLOURS[0], "opacity": 0.7},
                text=list(self.names),
                hovertemplate="%{text}<br>share %{x:.3g}, effect %{y:.3g}<extra></extra>",
            )
        )
        figure.update_layout(template=plots.TEMPLATE, height=320)
        figure.update_xaxes(title=f"share ({self.measure})")
        title = f"size of the exact effect on the<br>{effects.measured(self.answer_names)}"
        figure.update_yaxes(title=plots.escape(title).replace("&lt;br&gt;", "<br>"))
        return figure

    def summary(self) -> str:
        """The rank correlation, against shuffled shares and against plainer numbers."""
        if len(self.names) < FEWEST:
            return (
                f"The graph has {self.available} edges of heads and MLPs: too few to say whether "
                "shares and exact effects agree."
            )
        sure = self.p_value <= SURE
        verdict = (
            "more than chance"
            if sure and self.rank_correlation > 0
            else "no more than chance: on this prompt the shares do not tell which edges matter"
        )
        return (
            f"Over {len(self.names)} of {self.available} edges of heads and MLPs of "
            f"{self.provenance.model}, shares ({self.measure}) and sizes of exact effects on the "
            f"{effects.measured(self.answer_names)} have a rank correlation of "
            f"{self.rank_correlation:.2f} (p = {self.p_value:.2g} against shuffled shares), "
            f"{verdict}. For comparison: {self.by_flow:.2f} with how much of the target passes "
            f"through the edge, {self.by_size:.2f} with the length of what it writes."
        )


def agreement(
    model: TransformerBridge,
    traced: graph.ContributionGraph,
    answer: str | int,
    *,
    wrong: str | int | None = None,
    corrupted: Prompt | str | Sequence[int] | None = None,
    measure: str = "proximity",
    edges: int = _EDGES,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> ShareAgreement:
    """Compare shares of edges of heads and MLPs with their exact effects.

    Args:
        model: The bridge that the graph was traced in.
        traced: The graph.
        answer: Token whose logit is measured at the graph's target.
        wrong: Token whose logit is taken off it.
        corrupted: Prompt whose parts are put in place of this one's.
        measure: "proximity" or "update".
        edges: How many edges to draw, evenly, from all of the graph.
        seed: Of what is drawn.
        progress: Called with the fraction done; what it raises stops the runs.

    Returns:
        Shares beside effects.

    Raises:
        ValueError: If the graph is another model's, or an answer is no single token.
    """
    progress = progress or running.no_progress
    started = time.perf_counter()
    graph.require_same(model, traced)
    values = traced.values(measure)
    if edges < 1:
        raise ValueError(f"edges = {edges}; expected at least one")
    asked = runs.Asked.of(
        model, traced.prompt, answer, wrong=wrong, corrupted=corrupted, target=traced.target
    )
    compared = [naming.KINDS.index(kind) for kind in (naming.HEAD, naming.MLP)]
    available = np.flatnonzero(np.isin(traced.kinds, compared))
    random = np.random.default_rng(seed)
    chosen = np.sort(random.permutation(available)[:edges])
    some = [traced.edge(i) for i in chosen]
    changes = sizes = np.zeros(0, dtype=np.float32)
    if some:
        with parts.locked(model):
            without = runs.Runs.of(model, asked)
            taken = without.taken(some)
            sizes = taken.norm(dim=1).cpu().numpy()
            changes, _ = without.changes(some, taken, progress)
    shares, flows = values[chosen], traced.flows[chosen]
    by_share, p_value = _ranked(np.abs(shares), np.abs(changes), seed)
    return ShareAgreement(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "traced": traced.provenance.parameters,
                "answer": asked.answer,
                "wrong": list(asked.wrong),
                "corrupted": [list(other.ids) for other in asked.corrupted],
                "measure": measure,
                "edges": edges,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        names=tuple(map(str, some)),
        answer_names=asked.names(model),
        measure=measure,
        shares=shares,
        flows=flows,
        sizes=sizes,
        changes=changes,
        rank_correlation=by_share,
        p_value=p_value,
        by_flow=_spearman(flows, np.abs(changes)),
        by_size=_spearman(sizes, np.abs(changes)),
        available=len(available),
    )


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation; 0 where it is not defined, since then nothing is told apart."""
    if len(one) < FEWEST or np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    found: Any = scipy.stats.spearmanr(one, other)
    return float(found.statistic)


def _ranked(one: np.ndarray, other: np.ndarray, seed: int) -> tuple[float, float]:
    """Rank correlation, and its p-value against one side shuffled (of a larger one)."""
    own = _spearman(one, other)
    if len(one) < FEWEST:
        return own, 1.0
    ranks, others = (scipy.stats.rankdata(values) for values in (one, other))
    ranks, others = ranks - ranks.mean(), others - others.mean()
    shuffled = np.random.default_rng(seed).permuted(np.tile(ranks, (_SHUFFLES, 1)), axis=1)
    # Shuffling changes neither side's spread, so products of ranks order correlations; rounding
    # must not let an equal one count as smaller.
    as_large = shuffled @ others >= ranks @ others - 1e-9 * len(ranks)
    return own, float((1 + as_large.sum()) / (1 + _SHUFFLES))
