"""The weights of a network over residues as waves."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int

from analyses.weights import circuits
from workbench.core import evidence, plots, results
from workbench.core.evidence import SURE
from workbench.core.modular import fourier as spectrum
from workbench.core.modular import theory
from workbench.core.modular.tasks import Task, TaskError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "weights.fourier"
_NULLS = 99


@dataclasses.dataclass(frozen=True)
class FourierWeights(results.Result):
    """Share of each frequency in the power of a network's weights over the residues.

    Attributes:
        p: The modulus.
        operation: What the residues were ordered for.
        embedding: Shares in W_E.
        unembedding: Shares in W_U.
        neurons: Shares in the neuron-logit map W_out W_U, summed over layers.
        embedding_largest: Largest share of any frequency in random matrices with W_E's
            singular values.
        unembedding_largest: The same for W_U.
        neurons_largest: The same for the neuron-logit map.
        neuron_frequency: Frequency with the largest share in each neuron's row of that map.
        neuron_share: Its share.
        neuron_chance: Share that random rows exceed in one of twenty cases.
        keys: Frequencies that hold at least a declared share of the neuron-logit map.
        note: What the elements are.
    """

    p: int
    operation: str
    embedding: Float[np.ndarray, " frequency"]
    unembedding: Float[np.ndarray, " frequency"]
    neurons: Float[np.ndarray, " frequency"]
    embedding_largest: Float[np.ndarray, " sample"]
    unembedding_largest: Float[np.ndarray, " sample"]
    neurons_largest: Float[np.ndarray, " sample"]
    neuron_frequency: Int[np.ndarray, " neuron"]
    neuron_share: Float[np.ndarray, " neuron"]
    neuron_chance: float
    keys: tuple[int, ...]
    note: str

    def _each(self) -> tuple[tuple[str, np.ndarray, np.ndarray], ...]:
        return (
            ("embedding", self.embedding, self.embedding_largest),
            ("unembedding", self.unembedding, self.unembedding_largest),
            ("neuron-logit map", self.neurons, self.neurons_largest),
        )

    def beyond(self, name: str) -> tuple[int, ...]:
        """Frequencies of a matrix with a larger share than any has in random ones (p ≤ .05).

        Raises:
            ValueError: If there is no such matrix.
        """
        for known, shares, null in self._each():
            if known == name:
                p_values = [evidence.p_value(float(share), null) for share in shares]
                return tuple(i + 1 for i, p in enumerate(p_values) if p <= SURE)
        raise ValueError(f"{name!r} is not known: use {', '.join(k for k, _, _ in self._each())}")

    def to_frame(self) -> pd.DataFrame:
        """One row a frequency and matrix."""
        frames = [
            pd.DataFrame(
                {
                    "matrix": name,
                    "frequency": np.arange(1, len(shares) + 1),
                    "share": shares,
                    "family_wise_p": [evidence.p_value(float(share), null) for share in shares],
                }
            )
            for name, shares, null in self._each()
        ]
        return pd.concat(frames, ignore_index=True)

    def figure(self) -> go.Figure:
        """Shares of each frequency in the three matrices, and what random ones reach."""
        figure = go.Figure()
        for i, (name, shares, null) in enumerate(self._each()):
            every = np.arange(1, len(shares) + 1)
            colour = plots.COLOURS[i]
            figure.add_trace(go.Bar(x=every, y=shares, name=name, marker={"color": colour}))
            line: dict[str, Any] = {"dash": "dot", "color": colour}
            figure.add_hline(y=float(np.quantile(null, 1 - SURE)), line=line)  # pyright: ignore[reportArgumentType]
        figure.update_layout(template=plots.TEMPLATE, barmode="group")
        figure.update_xaxes(title="frequency")
        return figure.update_yaxes(title="share of the power")

    def summary(self) -> str:
        """Which frequencies stand out in which matrix."""
        said = "; ".join(
            f"{name}: {', '.join(map(str, self.beyond(name))) or 'none'}"
            for name, _, _ in self._each()
        )
        held = sum(float(self.neurons[key - 1]) for key in self.keys)
        single = int((self.neuron_share > self.neuron_chance).sum())
        return (
            f"{self.provenance.model}, {self.operation} modulo {self.p}. Frequencies with a larger "
            f"share of the power than any has in 19 of 20 random matrices: {said}. Those with at "
            f"least {spectrum.KEY_SHARE:.0%} of the neuron-logit map ("
            f"{', '.join(map(str, self.keys)) or 'none'}) hold {held:.1%} of it. {single} of "
            f"{len(self.neuron_share)} neurons write one frequency more purely than random rows do "
            f"in 19 of 20 cases. Elements: {self.note}. That the network computes with these waves "
            "is for interventions to show (analyses.grokking.fourier)."
        )


def fourier(model: TransformerBridge, *, task: Task | None = None, seed: int = 0) -> FourierWeights:
    """Look at a network's weights as waves over the residues.

    Args:
        model: A bridge over residues and one more token, `=`.
        task: What it computes; addition modulo the number of tokens less one if not given.
        seed: Of the random matrices.

    Returns:
        Shares of every frequency, beside those in random matrices.

    Raises:
        ValueError: If the tokens are no residues and `=`, or the task is no addition in a group.
    """
    started = time.perf_counter()
    taken = task or _implied(model)
    group = theory.cyclic(taken)
    if group is None:
        raise ValueError(theory.why_not(taken))
    of = circuits.Circuits(model)
    rows, columns = of.embedding(), of.unembedding()
    if min(len(rows), len(columns)) < taken.p:
        raise ValueError(f"the model has {len(rows)} tokens; expected at least {taken.p} residues")
    written = [of.neurons(layer).write for layer in range(of.n_layers)]
    maps = np.concatenate([(columns @ each.T).cpu().numpy() for each in written], axis=1)
    ordered = (
        rows.cpu().numpy()[group.first],
        columns.cpu().numpy()[group.answer],
        maps[group.answer],
    )
    rng = np.random.default_rng(seed)
    nulls_ = [_largest_by_chance(values, rng) for values in ordered]
    neuron_shares = _by_column(ordered[2])
    random = _by_column(rng.normal(size=(group.n, 1000))).max(0)
    shares = [spectrum.frequency_shares(values) for values in ordered]
    return FourierWeights(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={"task": dataclasses.asdict(taken)},
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        p=taken.p,
        operation=taken.operation,
        embedding=shares[0],
        unembedding=shares[1],
        neurons=shares[2],
        embedding_largest=nulls_[0],
        unembedding_largest=nulls_[1],
        neurons_largest=nulls_[2],
        neuron_frequency=neuron_shares.argmax(0) + 1,
        neuron_share=neuron_shares.max(0),
        neuron_chance=float(np.quantile(random, 1 - SURE)),
        keys=spectrum.key_frequencies(shares[2]),
        note=group.note,
    )


def _implied(model: TransformerBridge) -> Task:
    p = int(model.cfg.d_vocab) - 1
    try:
        return Task(p=p)
    except TaskError as error:
        raise ValueError(
            f"{model.cfg.model_name!r} has {p + 1} tokens, which is no prime and `=`: waves over "
            "residues are for models of modular arithmetic (give the task if this is one)"
        ) from error


def _largest_by_chance(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Largest share of any frequency with the residues' space turned, the spectrum kept."""
    sizes = np.linalg.svd(values - values.mean(0), compute_uv=False)
    # The mean over residues is off: one dimension fewer is left.
    sizes = sizes[: len(values) - 1]
    largest: list[float] = []
    for _ in range(_NULLS):
        gaussian = rng.normal(size=(len(values), len(sizes)))
        turned, _ = np.linalg.qr(gaussian - gaussian.mean(0))
        largest.append(float(spectrum.frequency_shares(turned * sizes).max()))
    return np.array(largest)


def _by_column(values: np.ndarray) -> np.ndarray:
    """Share of each frequency in each column's power, the constant left out."""
    power = np.square(np.abs(np.fft.rfft(values, axis=0)[1:]))
    power = power * spectrum.multiplicity(len(values))[:, None]
    total = power.sum(0)
    return np.divide(power, total, out=np.zeros_like(power), where=total > 0)
