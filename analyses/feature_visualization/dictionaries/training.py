"""Training: a sparse autoencoder on the activations of a site, or on any stream of vectors.

1. `train_dictionary` reads a site over a corpus (`activations`), `train_on` takes whatever batches
   it is given; both train with the trainer of sae-lens (`stepping`).
2. Loss, explained variance, L0 and the share of dead latents are measured some 200 times; they are
   said as progress and kept as the result's curve.
3. With a folder, a training that was stopped goes on from its checkpoint and ends with the same
   bits as one that was not. At the end the folder is one that sae-lens reads, and holds the result
   beside it, in `training`.

Source: Cunningham et al. 2023, arXiv 2309.08600; Bricken et al. 2023, "Towards Monosemanticity";
Gao et al. 2024, arXiv 2406.04093; Bussmann et al. 2024, arXiv 2412.06410; Rajamanoharan et al.
2024, arXiv 2407.14435; trained by sae-lens.

Units and sign: explained variance is 1 − squared error over squared distance from the batch's mean,
1 at best; L0 is the number of active latents a token; dead is the share of latents that were active
at no token for a tenth of the steps (1,000 at the most).

Limits: measures are of single training batches: `dictionary_quality` measures on a whole corpus.
Two processes that train in one folder overwrite each other's checkpoint.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.feature_visualization.dictionaries import activations, stepping
from workbench.core import plots, results
from workbench.core.engine import running
from workbench.core.models import card, sources
from workbench.core.prompts import corpus as corpora

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "feature_visualization.train_dictionary"
_RESULT = "training"
_WEIGHTS = ("sae_weights.safetensors", "cfg.json")


@dataclasses.dataclass(frozen=True)
class TrainedDictionary(results.Result):
    """A sparse autoencoder with the curve of its training.

    Attributes:
        kind: "topk", "jumprelu" or "batchtopk".
        k: Active latents a token that were asked for.
        hook: Hook point that it reads; empty if it was trained on something else than a model.
        steps: At which the measures were taken.
        loss: Of the scaled activations.
        explained: Explained variance.
        l0: Active latents a token.
        dead: Share of dead latents.
        frequency: Share of the last quarter's tokens at which each latent was active.
        weights: Arrays under the names of sae-lens.
        config: Configuration of sae-lens.
    """

    kind: str
    k: int
    hook: str
    steps: Int[np.ndarray, " point"]
    loss: Float[np.ndarray, " point"]
    explained: Float[np.ndarray, " point"]
    l0: Float[np.ndarray, " point"]
    dead: Float[np.ndarray, " point"]
    frequency: Float[np.ndarray, " latent"]
    weights: dict[str, Any]
    config: dict[str, Any]

    @functools.cached_property
    def dictionary(self) -> Any:
        """The sparse autoencoder: a `sae_lens.SAE` with frozen parameters, on the CPU."""
        import sae_lens

        # Loading takes the configuration as its own.
        made = sae_lens.SAE.from_dict(json.loads(json.dumps(self.config)))
        made.load_state_dict({n: torch.tensor(value) for n, value in self.weights.items()})
        return made.eval().requires_grad_(False)

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder that `load_dictionary` and sae-lens read.

        Args:
            folder: Where to; made if it is missing.

        Returns:
            The folder.

        Raises:
            ValueError: If it cannot be written.
        """
        place = Path(folder)
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".writing.", dir=place) as scratch:
                self.dictionary.save_model(scratch)
                for name in _WEIGHTS:
                    (Path(scratch) / name).chmod(0o644)
                    os.replace(Path(scratch) / name, place / name)
        except OSError as error:
            raise stepping.DictionaryError(
                f"cannot write {place}: {error.strerror or error}"
            ) from error
        return place

    def to_frame(self) -> pd.DataFrame:
        """One row a point of the curve."""
        return pd.DataFrame(
            {
                "step": self.steps,
                **{name: getattr(self, name) for name in stepping.MEASURES},
            }
        )

    def figure(self) -> go.Figure:
        """Explained variance and dead share over the steps."""
        series = {"explained variance": self.explained, "dead latents": self.dead}
        return plots.line(self.steps, series, x_title="step", y_title="share")

    def summary(self) -> str:
        """What was trained, and what the last batch and the last quarter say of it."""
        latents, width = self.weights["W_dec"].shape
        never = int((self.frequency == 0).sum())
        return (
            f"A {self.kind} dictionary of {latents:,} latents for vectors of {width} numbers "
            f"{f'at {self.hook} ' if self.hook else ''}after {self.steps[-1]:,} steps. The last "
            f"batch: explained variance {self.explained[-1]:.3f}, L0 {self.l0[-1]:.1f}. "
            f"{never:,} latents ({never / latents:.1%}) were active at no token of the last "
            "quarter of the training. Measured on training batches (n = 1 batch): see "
            "dictionary_quality for a corpus."
        )


def train_dictionary(
    model: TransformerBridge,
    corpus: corpora.Corpus,
    site: str,
    *,
    layer: int,
    latents: int,
    kind: str = "topk",
    k: int = 32,
    steps: int = 5_000,
    batch_tokens: int = 2048,
    lr: float = 1e-3,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    progress: running.Progress | None = None,
) -> TrainedDictionary:
    """Train a sparse autoencoder on a site, or go on with a training that was stopped.

    Args:
        model: The bridge; its device trains the dictionary, too.
        corpus: What it reads; again and again where there are fewer tokens than needed.
        site: One of `sites.SITES` but patterns; heads are read together, as one vector.
        layer: Which block.
        latents: How many.
        kind: "topk" (k latents at each token), "batchtopk" (k on average) or "jumprelu" (a
            threshold a latent, and a penalty that draws their number towards k).
        k: How many latents are active at a token.
        steps: Optimizer steps.
        batch_tokens: Tokens of a step.
        lr: The highest learning rate, for activations scaled to a length of √width.
        seed: Of the initial weights and of the order of the tokens.
        folder: Where the training and its outcome are kept; nowhere if not given.
        progress: Told the fraction done and the measures; may raise to stop, after which the same
            call with the same folder goes on.

    Returns:
        The dictionary and the curve of its training.

    Raises:
        ValueError: If the site, the layer, the kind or a number does not exist or fit, the folder
            belongs to another training or is damaged, or the loss is no longer a number.
    """
    where = activations.place(model, corpus, site, layer)
    described = (
        f"{card.fingerprint(model)} {corpus.fingerprint} {list(corpus.special)} {where.hook} "
        f"block={activations.BLOCK}"
    )
    setup = stepping.SetUp(
        kind=kind,
        width=where.width,
        latents=latents,
        k=k,
        steps=steps,
        batch=batch_tokens,
        learning_rate=float(lr),
        seed=seed,
        source=hashlib.sha256(described.encode()).hexdigest(),
    )
    stream = activations.Stream(model, corpus, where, batch=batch_tokens, seed=seed)
    metadata: dict[str, Any] = {
        "model_name": sources.source_of(model).name,
        "hook_name": where.hook,
        "dataset_path": corpus.name,
        "context_size": int(corpus.lengths.max()),
    }
    started = time.perf_counter()

    def provenance() -> results.Provenance:
        return results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                **_said(setup),
                "site": site,
                "layer": layer,
                "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        )

    device = torch.device(str(model.cfg.device))
    return _train(setup, stream, metadata, device, provenance, folder, progress)


def train_on(
    batches: Iterable[Float[torch.Tensor, "token width"]],
    width: int,
    *,
    latents: int,
    batch: int,
    kind: str = "topk",
    k: int = 32,
    steps: int = 5_000,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
    name: str = "activations",
    folder: str | os.PathLike[str] | None = None,
    progress: running.Progress | None = None,
) -> TrainedDictionary:
    """Train a sparse autoencoder on vectors of any kind, with no model.

    Args:
        batches: At least as many as there are steps. To go on with a training that was stopped,
            give the same ones again, from the first one on.
        width: Numbers of a vector.
        latents: How many.
        batch: Vectors of a step.
        kind: As for `train_dictionary`.
        k: How many latents are active at a vector.
        steps: Optimizer steps.
        lr: The highest learning rate, for vectors scaled to a length of √width.
        seed: Of the initial weights.
        device: Where it is trained.
        name: What the vectors are; a folder trained on others of another name is refused.
        folder: Where the training and its outcome are kept; nowhere if not given.
        progress: Told the fraction done and the measures; may raise to stop.

    Returns:
        The dictionary and the curve of its training.

    Raises:
        ValueError: If the kind or a number does not fit, a batch has another shape or there are
            too few, the folder belongs to another training or is damaged, or the loss is no longer
            a number.
    """
    setup = stepping.SetUp(
        kind=kind,
        width=width,
        latents=latents,
        k=k,
        steps=steps,
        batch=batch,
        learning_rate=float(lr),
        seed=seed,
        source=name,
    )
    started = time.perf_counter()

    def provenance() -> results.Provenance:
        return results.described(
            name,
            hashlib.sha256(name.encode()).hexdigest(),
            analysis="feature_visualization.train_on",
            parameters=_said(setup),
            seed=seed,
            wall_time=time.perf_counter() - started,
            device=device,
        )

    metadata = {"model_name": name}
    return _train(
        setup, iter(batches), metadata, torch.device(device), provenance, folder, progress
    )


def _said(setup: stepping.SetUp) -> dict[str, Any]:
    """A set-up as parameters of a provenance."""
    return dataclasses.asdict(setup)


def _train(  # noqa: PLR0913, PLR0917 -- what both ways of training share
    setup: stepping.SetUp,
    source: Iterator[torch.Tensor],
    metadata: dict[str, Any],
    device: torch.device,
    provenance: Any,
    folder: str | os.PathLike[str] | None,
    progress: running.Progress | None,
) -> TrainedDictionary:
    place = None if folder is None else _opened(folder)
    if place is not None and (place / _RESULT / "result.json").is_file():
        return _finished(place, setup)
    training = stepping.Training(setup, metadata, device, place)
    training.go(source, progress or running.no_progress)
    weights, config, frequency = training.finish()
    steps, *measures = np.array(training.curve).T
    made = TrainedDictionary(
        provenance=provenance(),
        kind=setup.kind,
        k=setup.k,
        hook=str(metadata.get("hook_name", "")),
        steps=steps.astype(np.int64),
        **dict(zip(stepping.MEASURES, measures, strict=True)),
        frequency=frequency,
        weights=weights,
        config=config,
    )
    if place is not None:
        made.write(place)
        # The result comes last: with it the folder is finished.
        made.save(place / _RESULT)
        (place / stepping.CHECKPOINT).unlink(missing_ok=True)
    return made


def _opened(folder: str | os.PathLike[str]) -> Path:
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise stepping.DictionaryError(f"cannot write to {place}: {error.strerror}") from error
    return place


def _finished(place: Path, setup: stepping.SetUp) -> TrainedDictionary:
    """The outcome of a training that has ended, if it was this one."""
    made = TrainedDictionary.load(place / _RESULT)
    stepping.require_same(made.provenance.parameters, setup, place)
    return made
