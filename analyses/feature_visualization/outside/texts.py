"""How far outside of a corpus do optimized texts lie?

Steps 1 to 5 of the package. Windows of the corpus are as long as the texts, and are read twice: in
their rows for what the unit reads there, and by themselves for how likely they are.

Source: Mahalanobis 1936; Lee et al. 2018, arXiv 1807.03888 (distance of hidden activations as a
measure of what is outside).

Units: activations as the model has them; cross-entropy in nats a token; Mahalanobis distance in
standard deviations; a quantile is the share of held-out windows that is at most as large.

Limits: a window begins amid a text, which costs it likelihood; the other limits are those of the
package.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.feature_visualization import places
from analyses.feature_visualization.outside import cloud, corpus_windows
from analyses.feature_visualization.text import candidates, vocabulary
from analyses.feature_visualization.text.result import OptimizedText
from workbench.core import evidence, plots, results
from workbench.core.engine import budget, running, scan
from workbench.core.engine import units as families

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus

TEXT_ANALYSIS = "feature_visualization.compare_with_examples"
_RANDOM_TEXTS = 256


@dataclasses.dataclass(frozen=True)
class Texts:
    """Texts of one kind, and how each lies to the corpus.

    Attributes:
        texts: As they are written.
        activation: Of the unit at the last token; of a window, where it stands in the corpus.
        cross_entropy: Nats a token, of the text by itself.
        distance: Mahalanobis distance of what the unit reads at that token.
        cosine: Of the same with the nearest vector of the data.
        unseen: Share of its token pairs that the corpus never has; of a window of the corpus, that
            no other row has.
    """

    texts: tuple[str, ...]
    activation: Float[np.ndarray, " point"]
    cross_entropy: Float[np.ndarray, " point"]
    distance: Float[np.ndarray, " point"]
    cosine: Float[np.ndarray, " point"]
    unseen: Float[np.ndarray, " point"]


@dataclasses.dataclass(frozen=True)
class OptimumAgainstExamples(results.Result):
    """How far outside of a corpus optimized texts lie.

    Attributes:
        unit: Which unit.
        corpus: Name of the corpus.
        reads: Hook point of what the unit reads, where distances are measured.
        maximise: Whether large activations were sought; else small ones.
        length: Tokens of a text.
        n_tokens: Of the corpus that count.
        largest: Most extreme activation in the corpus.
        activation_quantile: Share of the corpus' activations that are no more extreme than the
            optimum's.
        n_fitted: Tokens of the corpus that the distribution is made of.
        shrinkage: Of its covariance.
        optima: The Pareto front; the last one is the optimum.
        examples: Windows that end at the most extreme activations of the corpus.
        windows: Windows that end at the held-out tokens.
        random: Random texts.
    """

    unit: str
    corpus: str
    reads: str
    maximise: bool
    length: int
    n_tokens: int
    largest: float
    activation_quantile: float
    n_fitted: int
    shrinkage: float
    optima: Texts
    examples: Texts
    windows: Texts
    random: Texts

    @property
    def times(self) -> float:
        """The optimum's activation over the corpus' most extreme; NaN if that has another sign."""
        optimum = float(self.optima.activation[-1])
        return optimum / self.largest if optimum * self.largest > 0 else float("nan")

    @property
    def distance_quantile(self) -> float:
        """Share of held-out tokens that lie no farther outside than the optimum."""
        return float(self.quantiles("optima", "distance")[-1])

    @property
    def cross_entropy_quantile(self) -> float:
        """Share of held-out windows that are no less likely than the optimum."""
        return float(self.quantiles("optima", "cross_entropy")[-1])

    @property
    def p_value(self) -> float:
        """Of a distance as large as the optimum's, were it a token of the corpus."""
        return evidence.p_value(float(self.optima.distance[-1]), self.windows.distance)

    def quantiles(self, kind: str, measure: str) -> Float[np.ndarray, " point"]:
        """Share of the held-out windows that are at most as large.

        Args:
            kind: "optima", "examples", "windows" or "random".
            measure: "activation", "cross_entropy", "distance", "cosine" or "unseen".

        Returns:
            One a text.

        Raises:
            ValueError: If there is no such kind or measure.
        """
        cloud.require_known(kind, measure, _KINDS, _MEASURES)
        found, held = getattr(self, kind), self.windows
        return cloud.share_below(getattr(found, measure), getattr(held, measure))

    def to_frame(self) -> pd.DataFrame:
        """One row a text: its kind, and where it lies in each regard."""
        frames: list[pd.DataFrame] = []
        for kind, name in _KINDS.items():
            texts: Texts = getattr(self, kind)
            frames.append(
                pd.DataFrame(
                    {
                        "kind": name,
                        "text": texts.texts,
                        "activation": texts.activation,
                        "cross-entropy": texts.cross_entropy,
                        "cross-entropy quantile": self.quantiles(kind, "cross_entropy"),
                        "distance": texts.distance,
                        "distance quantile": self.quantiles(kind, "distance"),
                        "largest cosine": texts.cosine,
                        "unseen pairs": texts.unseen,
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    def figure(self) -> go.Figure:
        """Activation against distance from the corpus, of all texts."""
        figure = go.Figure()
        shown: list[Texts] = [getattr(self, kind) for kind in _DRAWN]
        trace = plots.scatter(sum(len(texts.texts) for texts in shown))
        for kind, texts, marker in zip(_DRAWN, shown, cloud.MARKERS, strict=True):
            figure.add_trace(
                trace(
                    x=texts.distance,
                    y=texts.activation,
                    mode="markers",
                    name=_KINDS[kind],
                    marker=marker,
                    customdata=[
                        f"{plots.escape(text)}<br>{nats:.2f} nats a token, "
                        f"{unseen:.0%} unseen pairs"
                        for text, nats, unseen in zip(
                            texts.texts, texts.cross_entropy, texts.unseen, strict=True
                        )
                    ],
                    hovertemplate="%{customdata}<br>%{y:.4g} at a distance of %{x:.3g}"
                    "<extra></extra>",
                )
            )
        figure.update_layout(template=plots.TEMPLATE, showlegend=True)
        figure.update_xaxes(title="Mahalanobis distance from the corpus (standard deviations)")
        figure.update_yaxes(title=f"activation of {self.unit} at the last token")
        return figure

    def summary(self) -> str:
        """Where the optimum lies, between held-out text, top examples and random texts."""
        optimum, windows, random = self.optima, self.windows, self.random
        held = f"{len(windows.texts):,} held-out windows of {self.length} tokens"
        most = "largest" if self.maximise else "smallest"
        times = "" if np.isnan(self.times) else f", {self.times:.2f} times it"
        return (
            f"The optimum of {self.unit} of {self.provenance.model} ({optimum.texts[-1]!r}) has an "
            f"activation of {optimum.activation[-1]:.4g}; the {most} at {self.n_tokens:,} tokens "
            f"of {self.corpus} is {self.largest:.4g}{times}. Its cross-entropy of "
            f"{optimum.cross_entropy[-1]:.2f} nats a token is no smaller than that of "
            f"{self.cross_entropy_quantile:.1%} of {held} (their median is "
            f"{np.median(windows.cross_entropy):.2f}, that of {len(random.texts)} random texts "
            f"{np.median(random.cross_entropy):.2f}). What the unit reads at the last token "
            f"({self.reads}) lies {optimum.distance[-1]:.3g} standard deviations from the corpus, "
            f"no nearer than {self.distance_quantile:.1%} of the tokens at their ends (p = "
            f"{self.p_value:.2g}; median {np.median(windows.distance):.3g}). "
            f"The unit's {len(self.examples.texts)} top examples lie at "
            f"{np.median(self.examples.distance):.3g} in the median (quantile "
            f"{np.median(self.quantiles('examples', 'distance')):.2f}), random texts at "
            f"{np.median(random.distance):.3g} "
            f"({np.median(self.quantiles('random', 'distance')):.2f}). "
            f"The largest cosine with one of {self.n_fitted:,} other tokens of the corpus is "
            f"{optimum.cosine[-1]:.2f} (held-out tokens {np.median(windows.cosine):.2f}, random "
            f"texts {np.median(random.cosine):.2f}). "
            f"{optimum.unseen[-1]:.0%} of its token pairs are nowhere in the corpus (windows, "
            f"outside of their own row, {windows.unseen.mean():.0%}; random texts "
            f"{random.unseen.mean():.0%})."
        )


_KINDS = {
    "optima": "optimized",
    "examples": "top example",
    "windows": "held-out window",
    "random": "random text",
}
_MEASURES = ("activation", "cross_entropy", "distance", "cosine", "unseen")
_DRAWN = ("windows", "random", "examples", "optima")


def compare_with_examples(
    model: TransformerBridge,
    corpus: Corpus,
    optimized: OptimizedText,
    *,
    examples: int = 20,
    windows: int = 2048,
    directions: Float[torch.Tensor, "direction width"] | None = None,
    dictionary: Any = None,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> OptimumAgainstExamples:
    """Say how far outside of a corpus optimized texts lie.

    Args:
        model: The bridge that the texts were optimized on.
        corpus: What counts as data.
        optimized: What `optimize_text` gave.
        examples: How many of the unit's top examples are compared.
        windows: How many tokens of the corpus; the covariance is of about half of them.
        directions: Those that the texts were optimized with.
        dictionary: That which the texts were optimized with.
        seed: Of the tokens, their split, and the random texts.
        progress: Told how far it is; may raise to stop.

    Returns:
        The comparison.

    Raises:
        ValueError: If the texts are of another model or other vectors, or the corpus has too few
            windows of their length.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    if examples < 1 or windows < 2 * cloud.FEWEST:
        raise ValueError(
            f"examples = {examples}, windows = {windows}; expected at least 1 and "
            f"{2 * cloud.FEWEST}"
        )
    made = optimized.provenance.parameters
    _require_same(made, families.marks(directions, dictionary))
    family, index = families.family_of(
        model, made["unit"], directions=directions, dictionary=dictionary
    )
    optimized.require_of(model, str(family.unit(index)))
    words = vocabulary.of_model(model, made.get("allowed"))
    target = candidates.Target(family, index, 1 if optimized.maximise else -1, optimized.prefix)
    rng = np.random.default_rng(seed)

    found = _Scanned.of(model, corpus, target, running.part(report, 0.0, 0.6))
    top = found.most(corpus, optimized.length, examples, target.sign)
    drawn = corpus_windows.drawn(corpus, optimized.length, windows, rng)
    fitted = corpus_windows.half(corpus, drawn, top, rng)
    report(0.6, "what the unit reads in the corpus")
    reader = _Reader(model, target, _reads(model, family))
    around = cloud.Cloud.of(reader.in_context(corpus, drawn[fitted]))

    def of_corpus(numbers: Int[np.ndarray, " place"]) -> Texts:
        tokens = corpus_windows.tokens_at(corpus, numbers, optimized.length)
        vectors = reader.in_context(corpus, numbers)
        unseen = corpus_windows.unseen(corpus, tokens, numbers)
        return _texts(reader, around, tokens, vectors, unseen=unseen, activation=found.at(numbers))

    def of_texts(tokens: Int[np.ndarray, "candidate position"]) -> Texts:
        unseen = corpus_windows.unseen(corpus, tokens, None)
        return _texts(reader, around, tokens, reader.alone(tokens), unseen=unseen)

    report(0.7, "measuring windows of the corpus")
    of_examples, of_windows = of_corpus(top), of_corpus(drawn[~fitted])
    report(0.9, "measuring the texts")
    optima = of_texts(optimized.tokens)
    random = of_texts(words.random_texts(rng, _RANDOM_TEXTS, optimized.length))
    extreme = target.sign * found.values
    return OptimumAgainstExamples(
        provenance=results.provenance(
            model,
            analysis=TEXT_ANALYSIS,
            parameters={
                "unit": made["unit"],
                "corpus": corpus.fingerprint,
                "optimized": results.mark(optimized.tokens),
                "examples": examples,
                "windows": windows,
                "directions": made.get("directions"),
                "dictionary": made.get("dictionary"),
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        unit=target.name,
        corpus=corpus.name,
        reads=reader.hook,
        maximise=optimized.maximise,
        length=optimized.length,
        n_tokens=len(found.values),
        largest=float(found.values[extreme.argmax()]),
        activation_quantile=float((extreme <= target.sign * optima.activation[-1]).mean()),
        n_fitted=int(fitted.sum()),
        shrinkage=around.shrinkage,
        optima=optima,
        examples=of_examples,
        windows=of_windows,
        random=random,
    )


def _require_same(made: dict[str, Any], given: dict[str, str]) -> None:
    for name in ("directions", "dictionary"):
        then, now = made.get(name), given.get(name)
        if then != now:
            state = "other" if now and then else "none" if now else "some"
            raise ValueError(
                f"the texts were optimized with {state} {name}: give what optimize_text was given"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class _Scanned:
    """The unit at every token of a corpus, by the token's number."""

    numbers: Int[np.ndarray, " token"]
    values: Float[np.ndarray, " token"]

    @classmethod
    def of(
        cls,
        model: TransformerBridge,
        corpus: Corpus,
        target: candidates.Target,
        report: running.Progress,
    ) -> _Scanned:
        numbers: list[np.ndarray] = []
        values: list[np.ndarray] = []
        for done, (chunk, table) in enumerate(scan.tables(model, corpus, target.family)):
            report(done / corpus.n_chunks, "reading the corpus")
            numbers.append(corpus.numbers(chunk))
            values.append(table[:, target.index].double().cpu().numpy())
        at, seen = np.concatenate(numbers), np.concatenate(values)
        if not len(at) or not np.isfinite(seen).all():
            raise ValueError(
                f"{target.name} is not finite on {corpus.name}, or no token of it counts"
            )
        order = np.argsort(at)
        return cls(at[order], seen[order])

    def most(
        self, corpus: Corpus, length: int, count: int, sign: int
    ) -> Int[np.ndarray, " example"]:
        """Places of the most extreme values that have a whole window before them."""
        order = self.numbers[np.argsort(-sign * self.values, kind="stable")]
        found = np.zeros(0, dtype=np.int64)
        for start in range(0, len(order), 1024):
            some = order[start : start + 1024]
            found = np.concatenate([found, some[corpus_windows.is_whole(corpus, some, length)]])[
                :count
            ]
            if len(found) == count:
                break
        return found

    def at(self, numbers: Int[np.ndarray, " place"]) -> Float[np.ndarray, " place"]:
        return self.values[np.searchsorted(self.numbers, numbers)]


def _reads(model: TransformerBridge, family: families.Family) -> str:
    """Hook point of what a unit reads at its position."""
    block = f"blocks.{family.layer}"
    if family.kind in ("direction", "latent"):
        return family.hook
    if family.site in ("neuron", "mlp_out"):
        # Behind the norm, where the model shows it.
        names = (f"{block}.mlp.hook_in", f"{block}.hook_resid_mid", f"{block}.hook_resid_pre")
    elif family.site in ("z", "attn_out"):
        names = (f"{block}.hook_resid_pre",)
    else:
        names = (family.hook,)
    known = model.hook_dict
    return next((name for name in names if name in known), family.hook)


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
    """Reads what goes into a unit at a token."""

    model: TransformerBridge
    target: candidates.Target
    hook: str

    def alone(
        self, texts: Int[np.ndarray, "candidate position"]
    ) -> Float[np.ndarray, "candidate width"]:
        """At the last token of texts by themselves."""
        ids = candidates.with_prefix(self.model, texts, self.target.prefix)
        megabytes = budget.DEFAULT_MEGABYTES
        rows = budget.prompts(self.model.cfg, ids.shape[1], megabytes, kept_logits=False)
        layer = self.target.family.layer
        read = (
            places.activation(self.model, some, self.hook, layer)[:, -1] for some in ids.split(rows)
        )
        return torch.cat(list(read)).numpy()

    def in_context(
        self, corpus: Corpus, numbers: Int[np.ndarray, " place"]
    ) -> Float[np.ndarray, "place width"]:
        """At tokens of a corpus, in their rows."""
        return places.read(self.model, corpus, self.hook, self.target.family.layer, numbers)


def _texts(
    reader: _Reader,
    around: cloud.Cloud,
    tokens: Int[np.ndarray, "candidate position"],
    vectors: Float[np.ndarray, "candidate width"],
    *,
    unseen: Float[np.ndarray, " candidate"],
    activation: Float[np.ndarray, " candidate"] | None = None,
) -> Texts:
    """Texts with all that is known of them."""
    measured = candidates.Reader(reader.model, reader.target).measure(tokens)
    return Texts(
        texts=tuple(vocabulary.read(reader.model, ids) for ids in tokens),
        activation=measured.activation if activation is None else activation,
        cross_entropy=measured.cross_entropy,
        distance=around.distance(vectors),
        cosine=around.largest_cosine(vectors),
        unseen=unseen,
    )
