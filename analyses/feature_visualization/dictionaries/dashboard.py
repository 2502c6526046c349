"""What is one latent of a dictionary, and what are all of them together?

1. `latent_overview` reads the largest activation and the density (share of tokens at which it is
   active) of every latent from a scan (`top_examples` with the dictionary), and calls latents dead
   or dense by stated thresholds.
2. `latent_dashboard` looks at one latent: examples over its whole range, tokens at its largest
   activations and tokens that it promotes (`view_unit`; places where it is not active are no
   examples of its largest activations).
3. Its nearest latents by decoder direction, against random directions (`neighbours`), and by
   co-activation at the scan's sample of tokens, against shuffled tokens.
4. With a larger dictionary: the latents that it becomes there, against random directions
   (`splitting`).

Source: Bricken et al. 2023, "Towards Monosemanticity" (dashboards, density, splitting).

Units and sign: activations as the dictionary has them, never negative; densities from 0 to 1;
cosines and correlations from -1 to 1; logits up to the final norm's scale.

Limits: a latent that is active at none of n tokens may be active at up to 3 / n of all (95 %). The
sample says little of co-activation where a latent is rare: with `n` sampled tokens of density d,
some n d places are all that it rests on, which is said. Nothing here says that the model uses it.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.subplots
from jaxtyping import Bool, Float, Int

from analyses.activation_patching import units
from analyses.feature_visualization import examples, unit_view
from analyses.feature_visualization.dictionaries import latents, quality, stepping
from workbench.core import plots, results
from workbench.core.engine import running

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from analyses.feature_visualization.dictionaries.activations import Place
    from workbench.core.prompts.corpus import Corpus

OVERVIEW = "feature_visualization.latent_overview"
ANALYSIS = "feature_visualization.latent_dashboard"
# Tokens at which a scan that is made here keeps all activations: latents are rare.
_SAMPLE = 4096
_BARS = 41


@dataclasses.dataclass(frozen=True)
class LatentOverview(results.Result):
    """All latents of a dictionary over a corpus.

    Attributes:
        hook: Hook point that it reads.
        corpus: Name of the corpus.
        n_tokens: Tokens that were read.
        density: Share of them at which each latent is active.
        largest: Largest activation of each.
        when_active: Mean activation where it is active; NaN for one that never is.
        dead_up_to: Up to this density a latent counts as dead.
        dense_above: Above this density it counts as dense.
    """

    hook: str
    corpus: str
    n_tokens: int
    density: Float[np.ndarray, " latent"]
    largest: Float[np.ndarray, " latent"]
    when_active: Float[np.ndarray, " latent"]
    dead_up_to: float
    dense_above: float

    @property
    def dead(self) -> Bool[np.ndarray, " latent"]:
        """Latents that are active at hardly any token."""
        return self.density <= self.dead_up_to

    @property
    def dense(self) -> Bool[np.ndarray, " latent"]:
        """Latents that are active at very many tokens."""
        return self.density > self.dense_above

    def to_frame(self) -> pd.DataFrame:
        """One row a latent."""
        return pd.DataFrame(
            {
                "latent": np.arange(len(self.density)),
                "density": self.density,
                "largest": self.largest,
                "when_active": self.when_active,
                "dead": self.dead,
                "dense": self.dense,
            }
        )

    def figure(self) -> go.Figure:
        """How many latents have which density, on a logarithmic scale: the density histogram."""
        active = np.log10(self.density[self.density > 0])
        low = float(active.min(initial=-1.0))
        figure = go.Figure(
            go.Histogram(
                x=active,
                xbins={"start": low, "end": 1e-9, "size": -low / _BARS},
                marker={"color": plots.COLOURS[0]},
                hovertemplate="%{x}: %{y} latents<extra></extra>",
            )
        )
        figure.add_vline(
            float(np.log10(self.dense_above)), line={"color": plots.COLOURS[-1], "dash": "dash"}
        )
        never = int((self.density == 0).sum())
        figure.update_layout(template=plots.TEMPLATE, showlegend=False, bargap=0)
        figure.update_xaxes(
            title=f"log₁₀ density over {self.n_tokens:,} tokens ({never:,} latents never active; "
            "dashed: dense)"
        )
        return figure.update_yaxes(title="latents")

    def summary(self) -> str:
        """How many latents there are of each kind, by which thresholds, and the spread."""
        n, dead, dense = len(self.density), int(self.dead.sum()), int(self.dense.sum())
        up_to = "none" if not self.dead_up_to else f"up to {self.dead_up_to:.2g}"
        said = (
            f"{n:,} latents at {self.hook} over {self.n_tokens:,} tokens of {self.corpus}: "
            f"{dead:,} ({dead / n:.1%}) are dead (active at {up_to} of the tokens; one that is "
            f"active at none may be at {3 / self.n_tokens:.1g} of all, 95 %), {dense:,} "
            f"({dense / n:.1%}) are dense (above {self.dense_above:.0%})."
        )
        alive = self.density[~self.dead]
        if not len(alive):
            return said
        low, middle, high = np.quantile(alive, [0.05, 0.5, 0.95])
        return (
            f"{said} The others are active at {middle:.2%} of the tokens in the median (9 of 10 "
            f"between {low:.2%} and {high:.2%})."
        )


@dataclasses.dataclass(frozen=True)
class Split:
    """A latent in a larger dictionary.

    Attributes:
        nearest: Its nearest latents there, nearest first.
        cosine: Of decoder directions with each of them.
        explained: Share of its squared length in their span.
        children: Large latents that are nearer than 95 % of random directions come to their
            nearest one.
        p_value: Of the nearest cosine against random directions, corrected over all latents.
        chance_cosine: 95 % quantile of random directions' cosine with their nearest.
        chance_explained: Mean share that is explained of random directions.
        n_random: How many these are.
    """

    nearest: tuple[int, ...]
    cosine: tuple[float, ...]
    explained: float
    children: int
    p_value: float
    chance_cosine: float
    chance_explained: float
    n_random: int


@dataclasses.dataclass(frozen=True)
class LatentDashboard(results.Result):
    """One latent from all sides.

    Attributes:
        latent: Which one.
        status: "dead", "dense" or "sparse", by the overview's thresholds.
        dead_up_to: Up to this density a latent counts as dead.
        dense_above: Above this density it counts as dense.
        largest: Its largest activation.
        view: Examples, density, triggers and tokens that it promotes.
        near: All other latents by decoder direction and by co-activation.
        together_by_chance: Largest absolute correlation of any latent once tokens are shuffled.
        n_active: Sampled tokens at which it is active: what co-activation rests on.
        split: What it becomes in a larger dictionary; empty without one.
    """

    latent: int
    status: str
    dead_up_to: float
    dense_above: float
    largest: float
    view: unit_view.UnitView
    near: latents.Neighbours
    together_by_chance: float
    n_active: int
    split: tuple[Split, ...]

    def co_active(self) -> Int[np.ndarray, " neighbour"]:
        """Latents whose correlation with this one is beyond shuffled tokens, highest first."""
        found = self.near.nearest("correlation")
        return found[self.near.correlation[found] > self.together_by_chance]

    def to_frame(self) -> pd.DataFrame:
        """One row a token, a neighbour or a part: what, its value, and what chance gives."""
        near, nan = self.near, float("nan")
        rows: list[tuple[str, str, float, float, float]] = [
            ("density", "share of tokens", self.view.density, nan, nan),
            ("activation", "largest", self.largest, nan, nan),
        ]
        rows += [
            (kind, text, logit, nan, self.view.output_p_value if kind == "promotes" else nan)
            for kind, listed in (
                ("promotes", self.view.promoted),
                ("suppresses", self.view.suppressed),
            )
            for text, logit in listed
        ]
        rows += [
            ("trigger", " then ".join(one.text), one.lift, 1.0, one.p_value)
            for one in self.view.triggers
        ]
        rows += [
            ("nearest direction", f"latent {i}", float(near.cosine[i]), nan, float(near.p_value[i]))
            for i in near.nearest()
        ]
        rows += [
            (
                "active together",
                f"latent {i}",
                float(near.correlation[i]),
                self.together_by_chance,
                nan,
            )
            for i in near.nearest("correlation")
        ]
        rows += [
            ("splits into", f"large latent {i}", cosine, one.chance_cosine, one.p_value)
            for one in self.split
            for i, cosine in zip(one.nearest, one.cosine, strict=True)
        ]
        return pd.DataFrame(rows, columns=["part", "what", "value", "chance", "p_value"])

    def figure(self) -> go.Figure:
        """Activations where it is active, tokens that it promotes, and the nearest latents."""
        figure = plotly.subplots.make_subplots(rows=1, cols=3, horizontal_spacing=0.12)
        sample = self.view.sample
        figure.add_histogram(
            x=sample[sample > 0],
            nbinsx=30,
            marker={"color": plots.COLOURS[0]},
            hovertemplate="%{x}<br>%{y} tokens<extra></extra>",
            row=1,
            col=1,
        )
        moved = [*self.view.promoted, *self.view.suppressed[::-1]]
        figure.add_bar(
            x=[logit for _, logit in moved],
            y=plots.token_labels([text for text, _ in moved]),
            orientation="h",
            marker={"color": [plots.COLOURS[int(logit < 0)] for _, logit in moved]},
            hovertemplate="%{y}: %{x:.3g}<extra></extra>",
            row=1,
            col=2,
        )
        shown = np.union1d(self.near.nearest(), self.near.nearest("correlation"))
        figure.add_scatter(
            x=self.near.cosine[shown],
            y=self.near.correlation[shown],
            mode="markers",
            marker={"color": plots.COLOURS[0], "size": 8},
            text=[f"latent {i}" for i in shown],
            hovertemplate="%{text}<br>cosine %{x:.2f}, correlation %{y:.2f}<extra></extra>",
            row=1,
            col=3,
        )
        if np.isfinite(self.together_by_chance):
            line: Any = {"color": plots.COLOURS[-1], "dash": "dash"}
            figure.add_hline(self.together_by_chance, line=line, row=1, col=3)  # pyright: ignore[reportArgumentType]
        figure.update_layout(template=plots.TEMPLATE, showlegend=False, height=420)
        active = f"{self.n_active:,} of {len(sample):,} sampled tokens"
        figure.update_xaxes(title=f"activation, where active<br>({active})", row=1, col=1)
        figure.update_yaxes(title="tokens", row=1, col=1)
        figure.update_xaxes(title="logit of a token", row=1, col=2)
        figure.update_yaxes(autorange="reversed", dtick=1, row=1, col=2)
        figure.update_xaxes(title="cosine of decoders", row=1, col=3)
        return figure.update_yaxes(title="correlation (dashed: chance)", row=1, col=3)

    def summary(self) -> str:
        """What it does, which latents are near it, and what it becomes, each against chance."""
        view, bounds = self.view, f"dead: up to {self.dead_up_to:g}, dense: above "
        said = [
            f"Latent {self.latent} is {self.status}: active at {view.density:.2%} of "
            f"{view.n_tokens:,} tokens of {view.corpus} ({bounds}{self.dense_above:g})."
        ]
        if self.status == "dead":
            said.append("What it fires at cannot be said: there are no examples.")
        else:
            said.append(view.summary())
        said.append(self.near.summary())
        fellow = self.co_active()
        if fellow.size:
            said.append(
                f"{len(fellow)} of these are correlated beyond shuffled tokens, where the largest "
                f"is {self.together_by_chance:.2f} (it is active at {self.n_active:,} of them)."
            )
        elif self.near.n_tokens:
            said.append("None of these is correlated beyond shuffled tokens.")
        for one in self.split:
            first = ", ".join(
                f"{i} ({cosine:.2f})" for i, cosine in zip(one.nearest, one.cosine, strict=True)
            )
            said.append(
                f"In the larger dictionary the nearest latents are {first}; "
                f"{one.children} are nearer than {one.chance_cosine:.2f}, which 95 % of "
                f"{one.n_random:,} random directions stay below (p = {one.p_value:.2g}). Together "
                f"these explain {one.explained:.0%} of it (random: {one.chance_explained:.0%})."
            )
        return " ".join(said)


def latent_overview(
    model: TransformerBridge,
    corpus: Corpus,
    dictionary: Any,
    *,
    scanned: examples.TopExamples | None = None,
    at: str | None = None,
    dead_up_to: float | int = 0.0,
    dense_above: float | int = 0.1,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> LatentOverview:
    """Look at all latents of a dictionary.

    Args:
        model: The bridge.
        corpus: What it reads.
        dictionary: A sparse autoencoder with `encode` and `W_dec`.
        scanned: A scan of the corpus for its latents; made here if not given.
        at: Hook point, where the dictionary does not know it.
        dead_up_to: Up to this share of tokens a latent counts as dead.
        dense_above: Above this share it counts as dense.
        seed: Of a scan that is made here.
        progress: Told the fraction done; may raise to stop.

    Returns:
        Density and largest activation of each.

    Raises:
        ValueError: If the scan is of another model, corpus or dictionary, nobody says where the
            dictionary reads, or a threshold is out of its range.
    """
    started = time.perf_counter()
    _require_thresholds(dead_up_to, dense_above)
    where = quality.where_it_reads(model, corpus, dictionary, at)
    scanned = scanned or _scan(model, corpus, dictionary, where, seed, progress)
    made = results.provenance(
        model,
        analysis=OVERVIEW,
        parameters={
            **scanned.provenance.parameters,
            "hook": where.hook,
            "dead_up_to": float(dead_up_to),
            "dense_above": float(dense_above),
        },
        seed=scanned.provenance.seed,
        wall_time=0.0,
    )
    places = _places(made.fingerprint, corpus, scanned, dictionary, where)
    density = scanned.density[places]
    with np.errstate(invalid="ignore", divide="ignore"):
        when_active = np.where(density > 0, scanned.mean[places] / density, np.nan)
    return LatentOverview(
        provenance=dataclasses.replace(made, wall_time=time.perf_counter() - started),
        hook=where.hook,
        corpus=corpus.name,
        n_tokens=scanned.n_tokens,
        density=density,
        largest=scanned.top_values[places, 0],
        when_active=when_active,
        dead_up_to=float(dead_up_to),
        dense_above=float(dense_above),
    )


def latent_dashboard(
    model: TransformerBridge,
    corpus: Corpus,
    dictionary: Any,
    latent: int,
    *,
    scanned: examples.TopExamples | None = None,
    larger: Any = None,
    at: str | None = None,
    dead_up_to: float | int = 0.0,
    dense_above: float | int = 0.1,
    count: int = 10,
    around: int = 12,
    n_random: int | None = None,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> LatentDashboard:
    """Look at one latent of a dictionary.

    Args:
        model: The bridge.
        corpus: What it reads.
        dictionary: A sparse autoencoder with `encode` and `W_dec`.
        latent: Which latent.
        scanned: A scan of the corpus for the dictionary's latents; made here if not given. All that
            it holds is taken from it.
        larger: Another dictionary of the same site, or the `Splitting` that was made with it.
        at: Hook point, where the dictionary does not know it.
        dead_up_to: Up to this share of tokens a latent counts as dead.
        dense_above: Above this share it counts as dense.
        count: How many neighbours, triggers and tokens are shown.
        around: How many tokens of an example are shown before and after the place.
        n_random: Random directions for the neighbours; 40 a latent if not given.
        seed: Of random directions, and of a scan that is made here.
        progress: Told the fraction done; may raise to stop.

    Returns:
        Everything that is known of it.

    Raises:
        ValueError: If there is no such latent, the scan is of another model, corpus or dictionary,
            the splitting is of another dictionary, nobody says where the dictionary reads, or a
            threshold is out of its range.
    """
    started = time.perf_counter()
    _require_thresholds(dead_up_to, dense_above)
    report = progress or running.no_progress
    n = len(dictionary.W_dec)
    if not 0 <= latent < n:
        raise stepping.DictionaryError(f"the dictionary has latents 0 to {n - 1}, not {latent}")
    where = quality.where_it_reads(model, corpus, dictionary, at)
    scanned = scanned or _scan(
        model, corpus, dictionary, where, seed, running.part(report, 0.0, 0.6)
    )
    made = results.provenance(
        model,
        analysis=ANALYSIS,
        parameters={
            **scanned.provenance.parameters,
            "hook": where.hook,
            "latent": latent,
            "dead_up_to": float(dead_up_to),
            "dense_above": float(dense_above),
            "around": around,
        },
        seed=seed,
        wall_time=0.0,
    )
    place = int(_places(made.fingerprint, corpus, scanned, dictionary, where)[latent])
    split = _split(dictionary, larger, latent, seed)
    report(0.6, "examples and tokens")
    view = unit_view.view_unit(
        model,
        corpus,
        _where_active(scanned),
        scanned.units[place],
        around=around,
        top=count,
        dictionary=dictionary,
        progress=running.part(report, 0.6, 0.8),
    )
    report(0.8, "nearest latents")
    near = latents.neighbours(dictionary, latent, count=count, n_random=n_random, seed=seed)
    density = float(scanned.density[place])
    dense = "dense" if density > dense_above else "sparse"
    return LatentDashboard(
        provenance=dataclasses.replace(made, wall_time=time.perf_counter() - started),
        latent=latent,
        status="dead" if density <= dead_up_to else dense,
        dead_up_to=float(dead_up_to),
        dense_above=float(dense_above),
        largest=float(scanned.top_values[place, 0]),
        view=view,
        near=_with_co_activation(near, scanned, place, where),
        together_by_chance=view.together_by_chance,
        n_active=int((scanned.sample_values[:, place] > 0).sum()),
        split=split,
    )


def _require_thresholds(dead_up_to: float, dense_above: float) -> None:
    if not 0 <= dead_up_to < dense_above < 1:
        raise stepping.DictionaryError(
            f"dead up to {dead_up_to} and dense above {dense_above}: expected shares of the tokens "
            "from 0 to 1, the first below the second"
        )


def _scan(  # noqa: PLR0913, PLR0917 -- one step of both functions
    model: TransformerBridge,
    corpus: Corpus,
    dictionary: Any,
    where: Place,
    seed: int,
    progress: running.Progress | None,
) -> examples.TopExamples:
    return examples.top_examples(
        model,
        corpus,
        where.site,
        layers=[where.layer],
        sample=_SAMPLE,
        dictionary=dictionary,
        seed=seed,
        progress=progress,
    )


def _places(
    fingerprint: str,
    corpus: Corpus,
    scanned: examples.TopExamples,
    dictionary: Any,
    where: Place,
) -> Int[np.ndarray, " latent"]:
    """Where a scan has each latent, after a look at what it is a scan of."""
    asked, found = scanned.provenance.parameters, scanned.provenance.fingerprint
    if asked.get("dictionary") != units.mark_of(dictionary) or asked.get("site") != where.site:
        raise stepping.DictionaryError(
            "the scan is none of this dictionary: scan with top_examples(…, dictionary=…)"
        )
    if scanned.corpus_fingerprint != corpus.fingerprint:
        raise stepping.DictionaryError(
            f"{corpus.name} is not the corpus that was scanned ({scanned.corpus})"
        )
    if found != fingerprint:
        raise stepping.DictionaryError("the model is not the one that was scanned")
    if len(scanned.sample_rows) <= 1:
        raise stepping.DictionaryError(
            "the scan holds no sample of tokens, which neighbours need: scan with sample= above 1"
        )
    first = scanned.of(f"latent {where.layer}.0")
    return first + np.arange(len(dictionary.W_dec))


def _where_active(scanned: examples.TopExamples) -> examples.TopExamples:
    """The same scan, in which places where a latent is silent are no examples of its largest."""
    active = scanned.top_values > 0
    return dataclasses.replace(
        scanned,
        top_rows=np.where(active, scanned.top_rows, -1),
        top_positions=np.where(active, scanned.top_positions, 0),
    )


def _with_co_activation(
    near: latents.Neighbours, scanned: examples.TopExamples, place: int, where: Place
) -> latents.Neighbours:
    """Neighbours with correlations over the tokens that the scan has sampled."""
    first, n = place - near.latent, len(near.cosine)
    correlation = np.full(n, np.nan)
    # What never varies is correlated with nothing.
    if np.ptp(scanned.sample_values[:, place]) > 0:
        fired = scanned.co_firing(scanned.units[place], top=len(scanned.units))
        kind = f"latent {where.layer}."
        for unit, value in zip(fired["unit"], fired["correlation"], strict=True):
            if unit.startswith(kind):
                correlation[int(unit.removeprefix(kind))] = value
        correlation[near.latent] = 1.0
    on = scanned.sample_values[:, first : first + n] > 0
    mine = on[:, near.latent]
    return dataclasses.replace(
        near,
        correlation=correlation,
        together=on[mine].mean(0) if mine.any() else np.full(n, np.nan),
        n_tokens=len(scanned.sample_rows),
    )


def _split(dictionary: Any, larger: Any, latent: int, seed: int) -> tuple[Split, ...]:
    """What a latent becomes in a larger dictionary, if there is one."""
    if larger is None:
        return ()
    found = larger
    if not isinstance(larger, latents.Splitting):
        found = latents.splitting(dictionary, larger, count=min(5, len(larger.W_dec)), seed=seed)
    if found.provenance.parameters["small"] != units.mark_of(dictionary):
        raise stepping.DictionaryError(
            "the splitting is of another dictionary: make it with splitting(dictionary, larger)"
        )
    return (
        Split(
            nearest=tuple(map(int, found.nearest[latent])),
            cosine=tuple(map(float, found.cosine[latent])),
            explained=float(found.explained[latent]),
            children=int(found.children[latent]),
            p_value=float(found.p_value[latent]),
            chance_cosine=found.chance_cosine,
            chance_explained=found.chance_explained,
            n_random=found.n_random,
        ),
    )
