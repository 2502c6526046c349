"""Stepping: the trainer of sae-lens, a step at a time, stopped and gone on with at any step.

1. Before the first step, some batches are looked at: their mean becomes the decoder's bias, and
   what makes their mean length the square root of the width scales all activations. The same
   learning rate then suits every site; at the end the scale is folded into the weights.
2. A step is `SAETrainer.step` of sae-lens: reconstruction error plus the kind's own loss, gradient
   norm clipped at 1, Adam, warm-up over a twentieth of the steps and decay to 0 over the last
   fifth. The norms of the decoder's rows, by which sae-lens scales every latent of TopK and
   BatchTopK at every token, are multiplied into the weights instead: the same numbers, but for
   rounding, at the price of a bare loop.
3. Everything that the rest depends on (weights, Adam's moments, schedulers, counters of dead
   latents, the curve) is one safetensors file, written under another name and renamed.

Sources: Gao et al. 2024, arXiv 2406.04093 (TopK, auxiliary loss of dead latents); Bussmann et al.
2024, arXiv 2412.06410 (BatchTopK); Rajamanoharan et al. 2024, arXiv 2407.14435 (JumpReLU); the
training itself is sae-lens'.

Units: losses of scaled activations, a sum over the width and a mean over the batch. Limits: equal
bits on one machine with one number of threads.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float

from analyses.feature_visualization.dictionaries import activations
from workbench.core import files
from workbench.core.engine import running

KINDS = ("topk", "jumprelu", "batchtopk")
# Names of what is measured, in the order of the curve's rows after the step.
MEASURES = ("loss", "explained", "l0", "dead")
CHECKPOINT = "checkpoint.safetensors"
# Batches that scale and mean are estimated from, and points of the curve.
_LOOKED_AT, _POINTS = 8, 200
# Wall time between two checkpoints, and between two reports.
_SAVE_SECONDS, _REPORT_SECONDS = 60.0, 0.5
_COUNTERS = ("act_freq_scores", "n_forward_passes_since_fired")
_NUMBERS = ("n_training_steps", "n_training_samples", "n_frac_active_samples")


class DictionaryError(ValueError):
    """A dictionary that cannot be trained or read; the message says why."""


@dataclasses.dataclass(frozen=True)
class SetUp:
    """Everything that decides the trained weights.

    Attributes:
        kind: One of `KINDS`.
        width: Numbers of an activation.
        latents: How many latents.
        k: How many are active at a token: exactly (topk), on average over a batch (batchtopk), or
            as the target of the penalty (jumprelu).
        steps: Optimizer steps.
        batch: Tokens of a step.
        learning_rate: The highest.
        seed: Of the initial weights.
        source: What the activations are, so that a checkpoint of others is not taken for its own.
    """

    kind: str
    width: int
    latents: int
    k: int
    steps: int
    batch: int
    learning_rate: float
    seed: int
    source: str

    def __post_init__(self) -> None:
        """Check what sae-lens would fail on in the middle.

        Raises:
            DictionaryError: If a number is out of its range, or the kind is unknown.
        """
        if self.kind not in KINDS:
            raise DictionaryError(f"unknown kind {self.kind!r}; expected one of {', '.join(KINDS)}")
        if not 1 <= self.k <= self.latents:
            raise DictionaryError(
                f"k = {self.k}: expected 1 to {self.latents}, the number of latents"
            )
        if self.steps < 1 or self.batch < 1 or not self.learning_rate > 0:
            raise DictionaryError(
                f"steps = {self.steps}, a batch of {self.batch} and a learning rate of "
                f"{self.learning_rate}: expected each to be above 0"
            )


def untrained(setup: SetUp, metadata: dict[str, Any]) -> Any:
    """A new sparse autoencoder of sae-lens, the same for equal seeds.

    Args:
        setup: What to make.
        metadata: What its folder will say about where it reads.

    Returns:
        A `sae_lens.TrainingSAE` on the CPU.
    """
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    common: dict[str, Any] = {
        "d_in": setup.width,
        "d_sae": setup.latents,
        "normalize_activations": "expected_average_only_in",
        "metadata": SAEMetadata(**metadata),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.seed)
        if setup.kind == "topk":
            config = sae_lens.TopKTrainingSAEConfig(k=setup.k, **common)
            return _norms_in_weights(sae_lens.TopKTrainingSAE)(config)
        if setup.kind == "batchtopk":
            config = sae_lens.BatchTopKTrainingSAEConfig(k=float(setup.k), **common)
            return _norms_in_weights(sae_lens.BatchTopKTrainingSAE)(config)
        config = sae_lens.JumpReLUTrainingSAEConfig(
            jumprelu_sparsity_loss_mode="quadratic",
            target_l0=float(setup.k),
            l0_warm_up_steps=setup.steps // 5,
            **common,
        )
        return sae_lens.JumpReLUTrainingSAE(config)


@functools.cache
def _norms_in_weights(base: Any) -> Any:
    """A class of sae-lens that scales weights instead of activations by the decoder's norms."""

    class NormsInWeights(base):
        def encode_with_hidden_pre(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            norms = self.W_dec.norm(dim=-1)
            given = self.process_sae_in(x)
            before = torch.addmm(self.b_enc * norms, given, self.W_enc * norms)
            before = self.hook_sae_acts_pre(before)
            return self.hook_sae_acts_post(self.activation_fn(before)), before

        def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
            directions = self.W_dec / self.W_dec.norm(dim=-1, keepdim=True)
            return self.hook_sae_recons(torch.addmm(self.b_dec, feature_acts, directions))

    return NormsInWeights


class Training:
    """A sparse autoencoder while it is trained."""

    def __init__(
        self, setup: SetUp, metadata: dict[str, Any], device: torch.device, folder: Path | None
    ) -> None:
        """Make it, or read where it stood.

        Args:
            setup: How it is trained.
            metadata: What its folder will say about where it reads.
            device: Where it is trained.
            folder: Where its checkpoint is kept; None to keep none.

        Raises:
            DictionaryError: If the checkpoint is damaged or belongs to another training.
        """
        import sae_lens
        from sae_lens.config import SAETrainerConfig

        self._setup, self._device = setup, device
        self._file = None if folder is None else folder / CHECKPOINT
        steps = setup.steps
        warm_up = steps // 20
        config = SAETrainerConfig(
            total_training_samples=steps * setup.batch,
            train_batch_size_samples=setup.batch,
            lr=setup.learning_rate,
            lr_end=setup.learning_rate / 10,
            # A warm-up of one step would divide by its length less one.
            lr_warm_up_steps=warm_up if warm_up > 1 else 0,
            lr_decay_steps=steps // 5,
            device=str(device),
            dead_feature_window=max(1, min(1_000, steps // 10)),
            feature_sampling_window=math.ceil(steps / 4),
        )
        self.trainer = sae_lens.SAETrainer(
            config, untrained(setup, metadata).to(device), data_provider=iter(())
        )
        self.curve: list[tuple[float, ...]] = []
        if self._file is not None and self._file.is_file():
            self._load(self._file)

    @property
    def step(self) -> int:
        """Steps that were taken."""
        return self.trainer.n_training_steps

    def go(self, source: Iterator[torch.Tensor], progress: running.Progress) -> None:
        """Train until the last step.

        Whatever `progress` raises ends the training with everything up to there kept. What ends it
        in the middle of a step leaves the checkpoint that was last written.

        Args:
            source: Batches, from the first one on.
            progress: Told the fraction done and the last measures.

        Raises:
            DictionaryError: If the loss is no longer a number, or the batches end or do not fit.
        """
        steps = self._setup.steps
        batches = self._from_here(source)
        saved = reported = time.monotonic()
        whole = self.step > 0
        try:
            while self.step < steps:
                batch = self._next(batches)
                whole = False
                measured = self.take(batch)
                whole = True
                now = time.monotonic()
                if now - saved >= _SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
                if measured or now - reported >= _REPORT_SECONDS:
                    reported = now
                    progress(self.step / steps, self._note())
        finally:
            if whole:
                self.save()

    def take(self, batch: Float[torch.Tensor, "token width"]) -> bool:
        """Take a step, and measure where it is time.

        Args:
            batch: Activations as they are; they are scaled here.

        Returns:
            Whether it was measured.

        Raises:
            DictionaryError: If the loss is no longer a number.
        """
        # A caller may have switched gradients off, as everything else here wants it.
        with torch.inference_mode(False), torch.enable_grad():
            self.trainer.maybe_reset_sparsity()
            output = self.trainer.step(batch)
        self.trainer.n_training_steps += 1
        self._require_finite(float(output.loss.detach()), "loss")
        every = max(1, self._setup.steps // _POINTS)
        if self.step % every and self.step != self._setup.steps:
            return False
        self._measure(output)
        return True

    @torch.no_grad()
    def _measure(self, output: Any) -> None:
        given, made = output.sae_in, output.sae_out
        spread = (given - given.mean(0)).square().sum()
        self.curve.append(
            (
                float(self.step),
                float(output.loss),
                1 - float((given - made).square().sum() / spread),
                float(output.feature_acts.bool().float().sum()) / len(given),
                float(self.trainer.dead_neurons.float().mean()),
            )
        )

    def _require_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise DictionaryError(
                f"the {what} is {value} at step {self.step}: training has diverged; lower the "
                "learning rate (the checkpoint that was last written is whole)"
            )

    def _note(self) -> str:
        if not self.curve:
            return f"step {self.step:,} of {self._setup.steps:,}"
        step, loss, explained, l0, dead = self.curve[-1]
        return (
            f"step {int(step):,} of {self._setup.steps:,}: loss {loss:.4g}, explained variance "
            f"{explained:.3f}, L0 {l0:.1f}, dead {dead:.1%}"
        )

    def _from_here(self, source: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Batches that were not trained on yet, after a look at the first ones at the beginning."""
        if not self.step:
            first = list(itertools.islice(source, min(_LOOKED_AT, self._setup.steps)))
            self.look(first)
            return itertools.chain(first, source)
        if isinstance(source, activations.Stream):
            source.pass_over(self.step)
        else:
            for _ in itertools.islice(source, self.step):
                pass
        return source

    @torch.no_grad()
    def look(self, first: list[torch.Tensor]) -> None:
        """Take scale and mean from the first batches.

        Args:
            first: Some batches, in their order.

        Raises:
            DictionaryError: If there is none, one does not fit, or all are zero.
        """
        for batch in first:
            self._check(batch)
        every = torch.cat(first).to(self._device) if first else torch.zeros(1)
        length = float(every.float().norm(dim=-1).mean())
        if not length or not math.isfinite(length):
            raise DictionaryError(
                "the first activations are all zero, not finite, or there are none: there is "
                "nothing to learn"
            )
        scale = math.sqrt(self._setup.width) / length
        self.trainer.activation_scaler.scaling_factor = scale
        self.trainer.sae.b_dec.copy_(every.mean(0) * scale)

    def _next(self, batches: Iterator[torch.Tensor]) -> torch.Tensor:
        batch = next(batches, None)
        if batch is None:
            raise DictionaryError(
                f"the activations ended after {self.step} batches; {self._setup.steps} steps need "
                "as many"
            )
        self._check(batch)
        return batch

    def _check(self, batch: torch.Tensor) -> None:
        expected = (self._setup.batch, self._setup.width)
        if tuple(batch.shape) != expected:
            raise DictionaryError(
                f"a batch of activations has shape {tuple(batch.shape)}; expected {expected}"
            )

    def finish(self) -> tuple[dict[str, np.ndarray], dict[str, Any], Float[np.ndarray, " latent"]]:
        """Fold the scale into the weights and take them out; the training is over.

        Returns:
            Weights under the names of sae-lens, its configuration, and the share of the last
            quarter's tokens at which each latent was active.
        """
        trainer, sae = self.trainer, self.trainer.sae
        frequency = trainer.feature_sparsity.detach().cpu().double().numpy()
        sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
        trainer.set_final_sae_metadata()
        # Folding norms changes these in place; a state of torch shares memory with the module.
        state = {name: value.detach().clone() for name, value in sae.state_dict().items()}
        sae.process_state_dict_for_saving_inference(state)
        config = sae.cfg.get_inference_sae_cfg_dict() | {"device": "cpu"}
        return {name: value.cpu().numpy() for name, value in state.items()}, config, frequency

    def save(self) -> None:
        """Write everything that going on depends on, if there is a place for it.

        Raises:
            DictionaryError: If it cannot be written, or is no longer made of numbers; what was
                written before stays as it is.
        """
        if self._file is None:
            return
        trainer = self.trainer
        # A step whose loss was a number may have led to weights that are none.
        squares = [value.double().square().sum() for value in trainer.sae.state_dict().values()]
        self._require_finite(float(sum(squares)), "sum of squared weights")
        optimizer = trainer.optimizer.state_dict()
        tensors = {f"sae/{name}": value for name, value in trainer.sae.state_dict().items()}
        for index, moments in optimizer["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in moments.items()}
        tensors |= {f"trainer/{name}": getattr(trainer, name) for name in _COUNTERS}
        tensors["curve"] = torch.tensor(self.curve, dtype=torch.float64)
        described = {
            "setup": dataclasses.asdict(self._setup),
            "numbers": {name: getattr(trainer, name) for name in _NUMBERS},
            "scale": trainer.activation_scaler.scaling_factor,
            "groups": optimizer["param_groups"],
            "schedule": trainer.lr_scheduler.state_dict(),
            "coefficients": {
                name: one.state_dict() for name, one in trainer.coefficient_schedulers.items()
            },
        }
        on_disk = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        content = safetensors.torch.save(on_disk, {"described": json.dumps(described)})
        try:
            files.write_whole(self._file, content)
        except OSError as error:
            raise DictionaryError(
                f"the training could not be kept as {self._file}: {files.reason(error)}"
            ) from error

    def _load(self, file: Path) -> None:
        """Go back to where a checkpoint stood."""
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                described = json.loads(opened.metadata()["described"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}
            require_same(described["setup"], self._setup, file.parent)
            self._restore(described, tensors)
        except DictionaryError:
            raise
        # What is wrong in such a file comes as any kind of error.
        except Exception as error:
            raise DictionaryError(f"{file} is damaged: {error}; delete it to begin anew") from error

    def _restore(self, described: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        trainer = self.trainer

        def part(prefix: str) -> dict[str, torch.Tensor]:
            begins = f"{prefix}/"
            return {
                name.removeprefix(begins): value.clone()
                for name, value in tensors.items()
                if name.startswith(begins)
            }

        trainer.sae.load_state_dict(part("sae"))
        groups = described["groups"]
        moments = {index: part(f"optimizer/{index}") for index in groups[0]["params"]}
        trainer.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        trainer.lr_scheduler.load_state_dict(described["schedule"])
        for name, state in described["coefficients"].items():
            trainer.coefficient_schedulers[name].load_state_dict(state)
        for name, value in part("trainer").items():
            setattr(trainer, name, value.to(self._device))
        for name in _NUMBERS:
            setattr(trainer, name, int(described["numbers"][name]))
        trainer.activation_scaler.scaling_factor = float(described["scale"])
        self.curve = [tuple(point) for point in tensors["curve"].tolist()]


def require_same(found: dict[str, Any], setup: SetUp, folder: Path) -> None:
    """Check that a folder belongs to this training.

    Args:
        found: What it was trained with.
        setup: What is asked for now.
        folder: Its name.

    Raises:
        DictionaryError: If they differ; names in what.
    """
    for name, value in dataclasses.asdict(setup).items():
        if found.get(name) != value:
            raise DictionaryError(
                f"{folder} holds another training: its {name} is {found.get(name)!r}, not "
                f"{value!r}; choose another folder"
            )
