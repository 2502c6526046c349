"""Measuring: patch the cells that are asked for, and put evidence around every effect."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Float

from analyses.activation_patching import units as choosing
from analyses.activation_patching.result import PatchingResult, write_positions
from workbench.core import evidence, results
from workbench.core.engine import (
    budget,
    cells,
    interventions,
    metrics,
    patching,
    preflight,
    running,
    sites,
)
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SITES = (*sites.SITES, "latent")
DIRECTIONS = ("denoising", "noising")
ABLATIONS = interventions.ABLATIONS
POSITIONS = ("each", "all", "pairs")
ANALYSIS = "activation_patching.patch"
# Neurons or latents that are measured where none are named.
TOP = 20
_UNIT_SITES = ("neuron", "latent")


class Options(TypedDict):
    """What is patched and measured, as `patch` takes it; the choices of a page or a command."""

    site: str
    metric: str
    direction: str
    positions: cells.Positions
    ablation: str | None
    layers: NotRequired[Sequence[int] | None]
    units: NotRequired[Sequence[tuple[int, int]] | Sequence[int] | None]
    top: NotRequired[int | None]
    directions: NotRequired[torch.Tensor | None]
    dictionary: NotRequired[cells.Dictionary | None]
    at: NotRequired[str | None]


Bootstrap = evidence.Bootstrap
DEFAULT_BOOTSTRAP = evidence.DEFAULT_BOOTSTRAP


def patch(  # noqa: PLR0913 -- one call covers every kind of patch; all have defaults
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    site: str = "resid_pre",
    metric: str | metrics.Function = "logit_difference",
    direction: str = "denoising",
    ablation: str | None = None,
    reference: Sequence[str] = (),
    positions: cells.Positions = "each",
    layers: Sequence[int] | None = None,
    units: Sequence[tuple[int, int]] | Sequence[int] | None = None,
    top: int | None = None,
    directions: Float[torch.Tensor, "direction width"] | None = None,
    dictionary: cells.Dictionary | None = None,
    at: str | None = None,
    confidence: float = DEFAULT_BOOTSTRAP["confidence"],
    n_resamples: int = DEFAULT_BOOTSTRAP["n_resamples"],
    seed: int = DEFAULT_BOOTSTRAP["seed"],
    memory: float = budget.DEFAULT_MEGABYTES,
    batch_size: int | None = None,
    engine: str = "auto",
    checks: preflight.Preflight | None = None,
    progress: running.Progress | None = None,
) -> PatchingResult:
    """Patch every cell of a site, one at a time, exactly.

    Args:
        model: Any bridge; it is not changed, and may be in use by other threads.
        pairs: Clean and corrupted prompts with answers.
        site: "resid_pre", "resid_post", "attn_out", "mlp_out"; per head "z", "q", "pattern"; per
            key/value head "k", "v"; "neuron" for MLP activations after the nonlinearity; "latent"
            for latents of a `dictionary`, whose error and other latents stay as they are.
        metric: "logit_difference", "probability", "kl_divergence", "cross_entropy", "rank", or a
            function of (logits [batch, d_vocab], `metrics.Targets`) that gives one number a
            prompt. All but the logit difference need the logits of the whole vocabulary for every
            patched run, which takes longer where the vocabulary is large.
        direction: "denoising" or "noising".
        ablation: With "noising": "zero", "mean" or "resample" (another prompt's corrupted
            activation) in place of the prompt's own corrupted activation.
        reference: Texts whose tokens a mean ablation averages over; without any it averages over
            the pairs themselves, position by position.
        positions: "each" patches one position at a time (with patterns: one query); "all" patches
            all at once, and the position axis goes; "pairs", with patterns, one attention weight
            at a time, by query and key; or a list of position sets, each patched at once: a name
            of `pairs.position_names()`, an index, or a tuple of indices.
        layers: Which layers; None for all.
        units: Neurons as (layer, neuron), or indices of latents, instead of the strongest.
        top: How many neurons or latents are measured: those with the largest estimated effect
            (attribution patching); 20 where nothing is said.
        directions: Directions in the site's space, patched one at a time: what is orthogonal to
            them stays as it is.
        dictionary: A sparse autoencoder with `encode` and `W_dec`, for example of sae-lens.
        at: Hook point at which the dictionary reads, where it does not know it.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.
        memory: Most megabytes beside the model; batches are sized from it.
        batch_size: Most prompts in one forward pass; None for what the memory allows.
        engine: "auto" recomputes only what a patch changes where the model can be taken apart;
            "fast" insists on it; "plain" makes one forward pass a cell.
        checks: Outcome of `check` for the same arguments, if it was made already.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The effects with their intervals.

    Raises:
        ValueError: If an argument is unknown, positions do not line up, or the model's logits are
            not finite.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    measure = metrics.find(metric)
    options = Options(
        site=site,
        metric=measure.name,
        direction=direction,
        positions=positions,
        ablation=ablation,
        layers=layers,
        units=units,
        top=top,
        directions=directions,
        dictionary=dictionary,
        at=at,
    )
    bootstrap = Bootstrap(confidence=confidence, n_resamples=n_resamples, seed=seed)
    _require_arguments(pairs, options, metric, confidence)
    intervention = interventions.Intervention(
        direction == "denoising", ablation, tuple(reference), seed
    )
    question = _Question.of(options)
    kind = question.kind
    checks = checks or preflight.check(
        model,
        pairs,
        site=kind,
        metric=metric,
        positions=positions,
        ablation=ablation,
        layers=question.layers_in(),
        units=question.count,
        memory=memory,
        progress=running.part(report, 0.0, 0.1),
    )
    columns = cells.columns(pairs, positions)
    chosen: choosing.Units = ()
    if site in _UNIT_SITES:
        report(0.1, "choosing units by their estimated effect")
        chosen = question.chosen(model, pairs, columns, measure, intervention)
    place, slots = question.slots(model, chosen)
    measured = patching.measure(
        model,
        pairs,
        place=place,
        slots=slots,
        columns=columns,
        metric=measure,
        intervention=intervention,
        memory=memory,
        batch_size=batch_size,
        engine=engine,
        progress=running.part(report, 0.15, 0.95),
    )
    report(0.95, "bootstrap intervals")
    axes, per_prompt = _arranged(measured.patched, question, place, slots, positions)
    clean, corrupted = measured.clean, measured.corrupted
    moved = evidence.changes(per_prompt, clean, corrupted, direction)
    normalised = not preflight.too_close(clean, corrupted)
    effects, interval = evidence.effects(moved, clean - corrupted, normalised, bootstrap)
    flat = moved.reshape(len(pairs), -1)
    change_interval = evidence.mean_interval(flat, **bootstrap).reshape(interval.shape)
    return PatchingResult(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters=parameters(pairs, options, bootstrap, reference),
            seed=seed,
            wall_time=time.perf_counter() - started,
            notes=(measured.engine,),
        ),
        site=site,
        axes=axes,
        metric=measure.name,
        direction=direction,
        ablation=ablation,
        normalised=normalised,
        effects=effects,
        interval=interval,
        changes=moved.mean(0),
        change_interval=change_interval,
        adjusted_p=evidence.adjusted_for_discoveries(
            evidence.sign_flip_p_values(flat, seed=seed).reshape(moved.shape[1:])
        ),
        per_prompt=per_prompt,
        clean=clean,
        corrupted=corrupted,
        confidence=confidence,
        layers=tuple(sorted({layer for layer, _ in slots})),
        columns=_labels(pairs, positions),
        units=chosen,
        directions=question.unit_directions(place),
        pairs=pairs,
        preflight=checks,
    )


def check(
    model: TransformerBridge,
    pairs: ContrastPairs,
    options: Options,
    *,
    progress: running.Progress = running.no_progress,
) -> preflight.Preflight:
    """What is checked before a run of these options, with its estimated time.

    Args:
        model: The bridge.
        pairs: What will be run.
        options: What is patched and measured.
        progress: Told what is being checked.

    Returns:
        The outcome, to be given to `patch`.

    Raises:
        ValueError: As for `patch`.
    """
    question = _Question.of(options)
    return preflight.check(
        model,
        pairs,
        site=question.kind,
        metric=options["metric"],
        positions=options["positions"],
        ablation=options["ablation"],
        layers=question.layers_in(),
        units=question.count,
        progress=progress,
    )


def parameters(
    pairs: ContrastPairs,
    options: Options,
    bootstrap: Bootstrap | None = None,
    reference: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything that determines a result apart from the model, to find a stored run by.

    Args:
        pairs: What is run.
        options: What is patched and measured.
        bootstrap: How the intervals are made; None for the defaults of `patch`.
        reference: Texts of a mean ablation.

    Returns:
        JSON types only.
    """
    layers = options.get("layers")
    return {
        **{name: options[name] for name in ("site", "metric", "direction", "ablation")},
        **(bootstrap or DEFAULT_BOOTSTRAP),
        "positions": write_positions(options["positions"]),
        "layers": None if layers is None else sorted(set(layers)),
        "reference": list(reference),
        "pairs": pairs.digest(),
        # Named sets may stand elsewhere in equal pairs.
        "spans": [] if isinstance(options["positions"], str) else _spans_mark(pairs),
        **_Question.of(options).parameters(),
    }


def _spans_mark(pairs: ContrastPairs) -> list[str]:
    return [
        hashlib.sha256(repr((span.name, span.clean, span.corrupted)).encode()).hexdigest()[:16]
        for span in pairs.spans
    ]


@dataclasses.dataclass(frozen=True)
class _Question:
    """Which parts of which layers are patched."""

    site: str
    layers: Sequence[int] | None
    units: Sequence[tuple[int, int]] | Sequence[int] | None
    top: int | None
    directions: torch.Tensor | None
    dictionary: cells.Dictionary | None
    at: str | None

    @classmethod
    def of(cls, options: Options) -> _Question:
        """Of some options, if they belong together."""
        given: dict[str, Any] = dict(options)
        values: list[Any] = [given.get(field.name) for field in dataclasses.fields(cls)]
        question = cls(*values)
        question._require()
        return question

    def _require(self) -> None:
        if self.site not in SITES:
            raise ValueError(f"unknown site {self.site!r}; expected one of {', '.join(SITES)}")
        if (self.site == "latent") != (self.dictionary is not None):
            raise ValueError(
                "site='latent' and dictionary= (a sparse autoencoder) belong together; one of them "
                "is missing"
            )
        if self.site not in _UNIT_SITES and (self.units is not None or self.top is not None):
            raise ValueError(
                f"units and top choose neurons or latents; {self.site} has neither: use "
                "site='neuron' or site='latent'"
            )
        if self.directions is not None and self.site in _UNIT_SITES:
            raise ValueError(
                "directions are patched in resid_pre, resid_post, attn_out or mlp_out; single "
                "neurons and latents have no other directions"
            )
        if self.top is not None and self.top < 1:
            raise ValueError(f"top = {self.top}; expected at least 1")
        if self.units is not None and not len(self.units):
            raise ValueError("units is empty; name at least one, or leave it out")

    @property
    def kind(self) -> str:
        """Site whose hook points are used."""
        if self.dictionary is None:
            return self.site if self.site != "latent" else "resid_pre"
        return choosing.site_of(self.dictionary, self.at)[0]

    @property
    def count(self) -> int | None:
        """How many parts in all, if not every part of every layer."""
        if self.site in _UNIT_SITES:
            return len(self.units) if self.units is not None else self.top or TOP
        return None

    def layers_in(self) -> list[int] | None:
        """Layers that are patched."""
        if self.dictionary is not None:
            return [choosing.site_of(self.dictionary, self.at)[1]]
        return None if self.layers is None else list(self.layers)

    def chosen(
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        columns: Sequence[cells.Column],
        metric: metrics.Measure,
        intervention: interventions.Intervention,
    ) -> choosing.Units:
        """Neurons or latents, by name or by their estimated effect."""
        layers = self.layers_in() or list(range(int(model.cfg.n_layers)))
        cells.slots(model, cells.place(model, self.kind), layers)
        if self.units is None:
            return choosing.strongest(
                model,
                pairs,
                kind=self.kind,
                layers=layers,
                columns=columns,
                metric=metric,
                intervention=intervention,
                top=self.top or TOP,
                dictionary=self.dictionary,
            )
        named = [
            (layers[0], u) if isinstance(u, int) else (int(u[0]), int(u[1])) for u in self.units
        ]
        width = int(model.cfg.d_mlp or 0) if self.dictionary is None else len(self.dictionary.W_dec)
        for layer, unit in named:
            if layer not in layers or not 0 <= unit < width:
                what = "neuron" if self.dictionary is None else "latent"
                raise ValueError(
                    f"layer {layer} has no {what} {unit}; expected 0 to {width - 1} in layer "
                    f"{', '.join(map(str, layers))}"
                )
        return tuple(named)

    def slots(
        self, model: TransformerBridge, chosen: choosing.Units
    ) -> tuple[cells.Place, tuple[cells.Slot, ...]]:
        """What is patched, and the rows of the result."""
        if self.dictionary is not None:
            latents = [unit for _, unit in chosen]
            place = cells.place(model, self.kind, dictionary=self.dictionary, latents=latents)
            return place, tuple((layer, i) for i, (layer, _) in enumerate(chosen))
        place = cells.place(model, self.kind, directions=self.directions)
        if self.site == "neuron":
            return place, chosen
        return place, cells.slots(model, place, self.layers)

    def unit_directions(self, place: cells.Place) -> Float[np.ndarray, "direction width"]:
        """The directions as they were patched, of length one."""
        if self.directions is None or place.vectors is None:
            return np.zeros((0, 0), dtype=np.float32)
        return place.vectors.cpu().numpy()

    def parameters(self) -> dict[str, Any]:
        """What of it determines a result, as JSON types."""
        found: dict[str, Any] = {}
        if self.site in _UNIT_SITES and self.units is None:
            found["top"] = self.top or TOP
        if self.units is not None:
            found["units"] = [u if isinstance(u, int) else list(u) for u in self.units]
        if self.directions is not None:
            vectors = self.directions.detach().cpu().double().numpy()
            found["directions"] = hashlib.sha256(vectors.tobytes()).hexdigest()[:16]
        if self.dictionary is not None:
            found |= {"dictionary": choosing.mark_of(self.dictionary), "at": self.at}
        return found


def _arranged(
    patched: Float[np.ndarray, "prompt slot column"],
    question: _Question,
    place: cells.Place,
    slots: Sequence[cells.Slot],
    positions: cells.Positions,
) -> tuple[tuple[str, ...], Float[np.ndarray, "prompt *cell"]]:
    """The cells on their axes: neurons and latents over all layers, other parts layer by layer."""
    if question.site not in _UNIT_SITES:
        layers = len({layer for layer, _ in slots})
        return patching.arranged(patched, place, positions, layers)
    if positions == "all":
        return (question.site,), patched[:, :, 0]
    return ("position", question.site), patched.swapaxes(1, 2)


def _labels(pairs: ContrastPairs, positions: cells.Positions) -> tuple[str, ...]:
    """What each position, query, or set of positions is called."""
    if positions == "all":
        return ()
    if isinstance(positions, str):
        return tuple(pairs.position_labels())
    return tuple(column.label for column in cells.columns(pairs, positions))


def _require_arguments(
    pairs: ContrastPairs,
    options: Options,
    metric: str | metrics.Function,
    confidence: float,
) -> None:
    direction, positions = options["direction"], options["positions"]
    preflight.require_metric(pairs, metric)
    if direction not in DIRECTIONS:
        raise ValueError(f"direction = {direction!r}; expected one of {', '.join(DIRECTIONS)}")
    if isinstance(positions, str) and positions not in POSITIONS:
        raise ValueError(
            f"positions = {positions!r}; expected one of {', '.join(POSITIONS)}, or a list of "
            "position sets"
        )
    if positions == "pairs" and options["site"] != "pattern":
        raise ValueError(
            "positions='pairs' (of a query and a key) is for attention: use site='pattern' with it"
        )
    ablation = options["ablation"]
    if ablation is not None and ablation not in ABLATIONS:
        known = ", ".join(ABLATIONS)
        raise ValueError(f"ablation = {ablation!r}; expected None or one of {known}")
    if ablation is not None and direction != "noising":
        raise ValueError(
            f"a {ablation} ablation takes something away from the clean run: use "
            "direction='noising' with it"
        )
    evidence.require_confidence(confidence)
