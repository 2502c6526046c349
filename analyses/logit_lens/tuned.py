"""A tuned lens: before each layer an affine translator into the basis of the final stream.

1. Rows of the corpus go through the model, a batch at a time in random order; one forward pass
   serves every translator. Every real token counts, special ones too, so that the lens is defined
   wherever it is looked through.
2. A translator turns the stream h before its layer into h + h A + b, with A = 0 and b = 0 to begin
   with: the logit lens. The model's final norm and unembedding read it as they read the stream
   after the last layer; the model's weights stay as they are.
3. The loss of each is the mean KL(final output || lens). Adam (decoupled weight decay, which draws
   A and b towards 0, the logit lens) follows its gradient, with a learning rate that falls linearly
   to zero. Rates are relative: a step moves a coordinate of the stream by about that share of the
   stream's size, whatever the width and the size are, so that one rate serves all models.

Source: Belrose et al. 2023, arXiv 2303.08112, who use momentum at a rate set by hand; Loshchilov &
Hutter 2019, arXiv 1711.05101 (decoupled weight decay).
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Float32, Int

from analyses.logit_lens import readout, texts
from workbench.core import plots, results
from workbench.core.engine import running
from workbench.core.models import card

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus

ANALYSIS = "logit_lens.train"
STEPS, TOKENS = 250, 512
_RATE, _DECAY = 0.5, 0.01
_BETAS = (0.9, 0.98)
# Steps whose mean is called the loss at the beginning and at the end.
_NEAR = 10
# What a core of a computer does in a second, roughly; the gradient costs twice the way there.
_PER_SECOND, _PASSES = 2e10, 3
Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class TunedLens(results.Result):
    """An affine translator before each layer.

    Attributes:
        weights: A of each; a stream h, as a row, becomes h + h A + b.
        biases: b of each.
        losses: Mean KL(final output || lens) of each batch, before the step, in nats.
        corpus: Name of the text that it was trained on.
        corpus_fingerprint: Of that text.
        n_tokens: Tokens that were read, those read again included.
        trained_rows: Marks of the rows that were read, by which test text is checked.
    """

    weights: Float32[np.ndarray, "layer d_model d_model"]
    biases: Float32[np.ndarray, "layer d_model"]
    losses: Float32[np.ndarray, "step layer"]
    corpus: str
    corpus_fingerprint: str
    n_tokens: int
    trained_rows: Int[np.ndarray, " row"]

    def require(self, model: TransformerBridge) -> None:
        """Check that this lens is the model's.

        Raises:
            ValueError: If it was trained for another model, or for other weights of it.
        """
        mark = card.fingerprint(model)
        if mark != self.provenance.fingerprint:
            raise ValueError(
                f"the tuned lens was trained for {self.provenance.model} with fingerprint "
                f"{self.provenance.fingerprint[:16]}, not for {model.cfg.model_name!r} with "
                f"{mark[:16]}: train one for this model"
            )

    def translated(
        self, row: int, stream: Float[Tensor, "*rows d_model"]
    ) -> Float[Tensor, "*rows d_model"]:
        """The stream of a row in the basis of the final stream.

        Args:
            row: 0 for the embedding, then one more than the layer that it comes after.
            stream: The stream; after the last layer it stays as it is.

        Returns:
            The translated stream in float32.
        """
        plain = stream.float()
        if row == len(self.weights):
            return plain
        # A copy: arrays of results are read-only, which torch does not know.
        weight, bias = (
            torch.tensor(x[row], device=plain.device) for x in (self.weights, self.biases)
        )
        return plain + plain @ weight + bias

    @property
    def rows(self) -> tuple[str, ...]:
        """After what each translator reads."""
        return ("embedding", *(f"layer {layer}" for layer in range(len(self.weights) - 1)))

    def to_frame(self) -> pd.DataFrame:
        """Loss by step and row."""
        steps, rows = self.losses.shape
        return pd.DataFrame(
            {
                "step": np.repeat(np.arange(steps), rows),
                "row": np.tile(np.array(self.rows), steps),
                "kl": self.losses.ravel(),
            }
        )

    def figure(self) -> go.Figure:
        """The losses over the training."""
        x = np.arange(len(self.losses))
        series = {
            name: self.losses[:, row].astype(np.float64) for row, name in enumerate(self.rows)
        }
        title = "KL to the final output (nats), each batch"
        figure = plots.line(x, series, x_title="step", y_title=title)
        return figure.update_yaxes(rangemode="tozero")

    def summary(self) -> str:
        """What it was trained on, and how far each translator came."""
        near = min(_NEAR, len(self.losses))
        first, last = self.losses[0], self.losses[-near:].mean(0)
        rows = ", ".join(
            f"{name} {begin:.2f} to {end:.2f}"
            for name, begin, end in zip(self.rows, first, last, strict=True)
        )
        return (
            f"Tuned lens of {self.provenance.model}, trained for {len(self.losses):,} steps on "
            f"{self.n_tokens:,} tokens of {self.corpus}. Mean KL divergence of the final output in "
            f"nats, first batch (the logit lens) to mean of the last {near}: {rows}. These are "
            "numbers on the text that it was trained on; held-out text says whether to believe it."
        )


def train(
    model: TransformerBridge,
    corpus: Corpus,
    *,
    steps: int = STEPS,
    tokens: int = TOKENS,
    learning_rate: float | int = _RATE,
    weight_decay: float | int = _DECAY,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> TunedLens:
    """Train a tuned lens.

    Args:
        model: The bridge; its weights stay as they are.
        corpus: What it is trained on; compare the lenses on other text.
        steps: Batches.
        tokens: Tokens of a batch, about.
        learning_rate: Share of the stream's size that a first step moves a coordinate by, about.
        weight_decay: Of AdamW, for rates relative in the same way.
        seed: Of the order of the rows.
        progress: Told how far it is; may raise to stop, which leaves nothing behind.

    Returns:
        The lens.

    Raises:
        ValueError: If a number is out of range, the model's output is not its final norm and
            unembedding, or the training diverges.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    if steps < 1 or tokens < 1 or not learning_rate > 0 or weight_decay < 0:
        raise ValueError(
            f"steps = {steps}, tokens = {tokens}, learning_rate = {learning_rate}, weight_decay = "
            f"{weight_decay}; expected at least 1 step and 1 token, a rate above 0 and no decay "
            "below 0"
        )
    through = readout.Readout(model)
    translators: _Translators | None = None
    losses = np.zeros((steps, int(model.cfg.n_layers)), dtype=np.float32)
    rows, read = set[int](), 0
    batches = texts.shuffled(corpus, tokens, seed)
    for step in range(steps):
        now = f"step {step} of {steps}"
        report(step / steps, now if not step else f"{now}, mean KL {losses[step - 1].mean():.3f}")
        batch = next(batches)
        stream, final = _passed(through, batch)
        if translators is None:
            translators = _Translators(stream, float(learning_rate), float(weight_decay))
        losses[step] = translators.step(through, stream, final, 1 - step / steps)
        _require_finite(losses[step], "loss", step, learning_rate)
        rows.update(batch.rows.tolist())
        read += int(batch.real.sum())
    assert translators is not None
    weights, biases = translators.folded()
    _require_finite(weights, "translator", steps - 1, learning_rate)
    return TunedLens(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "corpus": corpus.fingerprint,
                "steps": steps,
                "tokens": tokens,
                "learning_rate": float(learning_rate),
                "weight_decay": float(weight_decay),
                "seed": seed,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        weights=weights,
        biases=biases,
        losses=losses,
        corpus=corpus.name,
        corpus_fingerprint=corpus.fingerprint,
        n_tokens=read,
        trained_rows=np.unique(texts.marks(corpus, sorted(rows))),
    )


def _require_finite(values: np.ndarray, what: str, step: int, learning_rate: float | int) -> None:
    if not np.isfinite(values).all():
        raise ValueError(
            f"the {what} of {int((~np.isfinite(values)).reshape(len(values), -1).any(1).sum())} "
            f"layers is no longer a number at step {step}: training has diverged; lower the "
            f"learning rate (now {learning_rate:g})"
        )


def training_seconds(
    model: TransformerBridge, *, steps: int = STEPS, tokens: int = TOKENS
) -> float:
    """How long a training takes on one core of a computer, very roughly.

    Args:
        model: The bridge.
        steps: Batches.
        tokens: Tokens of a batch.

    Returns:
        Seconds.
    """
    layers, d_model = int(model.cfg.n_layers), int(model.cfg.d_model)
    a_token = layers * d_model * (int(model.cfg.d_vocab) + d_model) * 2 * _PASSES
    return 1 + steps * (0.01 + tokens * a_token / _PER_SECOND)


def _passed(
    through: readout.Readout, batch: texts.Batch
) -> tuple[Float[Tensor, "layer token d_model"], Float[Tensor, "token d_vocab"]]:
    """The stream before every layer, and the model's log-probabilities, at every real token."""
    logits, rows, final = readout.run(through.model, batch.tokens)
    real = batch.real.to(logits.device)
    with torch.inference_mode():
        # One row of text is enough: how the model ends does not change with the text.
        through.require_output(final[0][real[0]], logits[0][real[0]])
        said = logits[real].log_softmax(-1)
    # Copies can take part in what has gradients; what was made in inference mode cannot.
    return torch.stack([row[real].float().clone() for row in rows[:-1]]).clone(), said.clone()


class _Translators:
    """All translators in training, in units of the size of the stream that each reads."""

    def __init__(
        self, stream: Float[Tensor, "layer token d_model"], rate: float, decay: float
    ) -> None:
        layers, _, d_model = stream.shape
        # The median: a few positions of some models are hundreds of times as large as the others.
        sizes = stream.square().mean(-1).sqrt().median(-1).values
        self._sizes = sizes.clamp(min=1e-6)[:, None, None]
        self._weights = torch.zeros(layers, d_model, d_model, device=stream.device)
        self._biases = torch.zeros(layers, 1, d_model, device=stream.device)
        self._rate = rate
        for parameter in self._parameters:
            parameter.requires_grad_()
        # As many weights add up to a coordinate as the stream is wide.
        self._groups = (1 / d_model, 1.0)
        self._optimizer = torch.optim.AdamW(
            [{"params": [parameter]} for parameter in self._parameters],
            lr=rate,
            betas=_BETAS,
            weight_decay=decay,
        )

    @property
    def _parameters(self) -> tuple[Tensor, Tensor]:
        return self._weights, self._biases

    def step(
        self,
        through: readout.Readout,
        stream: Float[Tensor, "layer token d_model"],
        final: Float[Tensor, "token d_vocab"],
        share: float,
    ) -> Float32[np.ndarray, " layer"]:
        """Move every translator once; gives the mean KL of each before that."""
        tokens, vocabulary = final.shape
        at_once = max(1, readout.AT_ONCE // (len(stream) * vocabulary))
        total = torch.zeros(len(stream), device=stream.device)
        gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        for start in range(0, tokens, at_once):
            here = slice(start, start + at_once)
            with torch.enable_grad():
                moved = self._moved(stream[:, here])
                said = through.logits(moved).log_softmax(-1)
                target = final[here]
                each = (target.exp() * (target - said)).sum((-2, -1)) / tokens
                # For the translators alone: nothing is left on the model's own parameters.
                new = torch.autograd.grad(each.sum(), self._parameters)
                gradients = [mine.add_(more) for mine, more in zip(gradients, new, strict=True)]
            total += each.detach()
        for parameter, gradient, group, scale in zip(
            self._parameters, gradients, self._optimizer.param_groups, self._groups, strict=True
        ):
            parameter.grad, group["lr"] = gradient, self._rate * scale * share
        self._optimizer.step()
        return total.cpu().numpy()

    def _moved(self, stream: Tensor) -> Tensor:
        return torch.baddbmm(stream + self._sizes * self._biases, stream, self._weights)

    def folded(
        self,
    ) -> tuple[Float32[np.ndarray, "layer d_model d_model"], Float32[np.ndarray, "layer d_model"]]:
        """A and b in the units of the stream."""
        biases = (self._sizes * self._biases)[:, 0]
        return self._weights.detach().cpu().numpy(), biases.detach().cpu().numpy()
