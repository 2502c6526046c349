"""Which site carries a behaviour?

1. Every cell of every kind of site is patched by itself, exactly: the corrupted prompt is run with
   one activation of the clean prompt (`activation_patching.patch`).
2. The strongest cell of a component (a head, an MLP) is the answer. The null is twofold: sign flips
   over prompts, corrected over all cells of the kind, and the effects of the other cells.
3. The same cells are patched the other way round and ablated (`activation_patching.compare`): where
   the directions disagree, that is the caveat.

Source: Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262; Zhang & Nanda 2024,
arXiv 2309.16042.

Units and sign: an effect is the fraction of the difference between clean and corrupted prompts that
comes back: 1 is all of it, 0 nothing, below 0 the cell works against it.

Limits: the strongest of many cells was chosen on the prompts that it is measured on, which flatters
it a little. A patched run mixes two prompts, which the model never saw in training.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses import activation_patching
from workbench.core.engine import running, sites
from workbench.core.evidence import DEFAULT_BOOTSTRAP, SURE, Bootstrap
from workbench.core.prompts.pairs import PairsError
from workbench.report import exhibits, spec
from workbench.report.document import Exhibit, Finding, Measured, Section
from workbench.report.examining import Answer, Examination, NotExamined, worst
from workbench.report.questions import behaviour as behaving
from workbench.report.questions import sentences

if TYPE_CHECKING:
    from workbench.core.engine import cells, preflight
    from workbench.core.prompts.pairs import ContrastPairs

# Where the prompt itself passes through: patched in at the bottom it has all of the effect.
_STREAM = ("resid_pre", "resid_post")
# Each intervention would choose other units, so these are not compared.
_CHOSEN_UNITS = ("neuron", "latent")
# Cells that are put beside each other under every intervention.
_COMPARED = 12
# Columns of a patching result that the report leaves to the stored run: the effects in logits. Of a
# comparison it is what stands besides the effects.
_IN_LOGITS = ("change", "change_low", "change_high")
_BESIDES = ("_low", "_high", "disagreement")
_TITLES = {"effect_low": "low", "effect_high": "high", "adjusted_p": "adjusted p"}
_METHOD = (
    "The corrupted prompt is run with one activation of the clean prompt put in, one cell at a "
    "time and exactly; an effect is the share of the difference between the two prompts that comes "
    "back, with a bootstrap interval over prompts. Sign flips over prompts say what is more than "
    "chance, corrected over all cells of the kind; the strongest cells are also patched the other "
    "way round and ablated."
)
_PAPERS = (
    "Vig et al. 2020, arXiv 2004.12265",
    "Meng et al. 2022, arXiv 2202.05262",
    "Zhang & Nanda 2024, arXiv 2309.16042",
)


def examine(examination: Examination, behaviour: spec.Behaviour) -> Answer:
    """Answer the question for one behaviour.

    Args:
        examination: The model.
        behaviour: What is to be carried.

    Returns:
        The answer.

    Raises:
        NotExamined: If the model does not show the behaviour, clean and corrupted prompts hardly
            differ in it, or the limits do not allow it.
    """
    shown = behaving.require_shown(examination, behaviour)
    kinds = examination.spec.questions.sites.kinds
    found = [_patched(examination, behaviour, kind) for kind in dict.fromkeys(kinds)]
    if not found[0].normalised:
        raise NotExamined(
            "clean and corrupted prompts hardly differ in the model's answers, so there is no "
            "difference that a site could carry"
        )
    strongest = _strongest(found)
    compared = _compared(examination, strongest.result)
    caveats = (*strongest.caveats(compared), *behaving.doubt(shown), *_LASTING)
    id_ = f"sites/{behaviour.title}"
    measured = strongest.measured(examination.spec.questions.sites.effect)
    others = [_Strongest.of(one) for one in found if one is not strongest.result]
    return Answer(
        finding=Finding(
            id=id_,
            question="sites",
            about=behaviour.title,
            verdict=strongest.verdict(examination.spec.questions.sites.effect),
            statement=strongest.statement(behaviour.title),
            evidence=strongest.evidence(),
            caveat=caveats[0],
            measured=measured,
        ),
        section=Section(
            id=id_,
            question="sites",
            title=f"Where it happens: {behaviour.title}",
            asked=f"Which site carries {behaviour.title!r}?",
            summary=" ".join(one.summary() for one in found),
            method=_METHOD,
            papers=_PAPERS,
            exhibits=(*map(_heat_map, found), *_tables(strongest.result, compared)),
            measured=(*measured, *(number for one in others for number in one.measured(None)[:1])),
            caveats=caveats,
        ),
    )


_LASTING = (
    "The strongest cell was chosen out of all on the prompts that it is measured on, which "
    "flatters it a little.",
    "A patched run mixes two prompts, which the model never saw in training; effects are relative "
    "to these corrupted prompts, and what both prompts share cannot show up.",
)


def _patched(
    examination: Examination, behaviour: spec.Behaviour, kind: str
) -> activation_patching.PatchingResult:
    pairs, model = examination.pairs(behaviour), examination.model
    options = activation_patching.Options(
        site=kind,
        metric=behaving.metric_of(pairs),
        direction="denoising",
        positions=_positions(pairs),
        ablation=None,
    )
    level = Bootstrap(
        confidence=examination.spec.confidence,
        n_resamples=DEFAULT_BOOTSTRAP["n_resamples"],
        seed=examination.spec.seed,
    )

    def make(progress: running.Progress) -> activation_patching.PatchingResult:
        checks = activation_patching.check(model, pairs, options)
        examination.require(seconds=checks.seconds)
        return activation_patching.patch(
            model,
            pairs,
            **options,
            **level,
            memory=_memory(examination),
            checks=checks,
            progress=progress,
        )

    return examination.made(
        activation_patching.PatchingResult,
        f"{kind} patched: {pairs.name}",
        activation_patching.parameters(pairs, options, level),
        make,
    )


def _memory(examination: Examination) -> float:
    """Megabytes that batches are sized from: never more than is usual, and than is allowed."""
    from workbench.core.engine import budget

    return min(budget.DEFAULT_MEGABYTES, examination.megabytes)


def _positions(pairs: ContrastPairs) -> cells.Positions:
    """One position at a time where positions mean the same in all pairs, else all at once."""
    try:
        pairs.position_labels()
    except PairsError:
        return "all"
    return "each"


def _compared(
    examination: Examination, result: activation_patching.PatchingResult
) -> activation_patching.Comparison | None:
    """The strongest cells under every intervention; None where that is not defined."""
    if result.site in _CHOSEN_UNITS:
        return None
    arguments = activation_patching.comparison_parameters(result)
    pairs, top = result.pairs, min(_COMPARED, result.effects.size)
    request: dict[str, Any] = {**arguments, "top": top}

    def make(progress: running.Progress) -> activation_patching.Comparison:
        # Five interventions in place of one.
        examination.require(
            seconds=len(activation_patching.INTERVENTIONS) * result.preflight.seconds
        )
        kept = {name: arguments[name] for name in arguments if name != "pairs"}
        return activation_patching.compare(
            examination.model, pairs, **kept, top=top, progress=progress
        )

    return examination.made(
        activation_patching.Comparison,
        f"{result.site} under every intervention: {pairs.name}",
        request,
        make,
    )


def _strongest(found: list[activation_patching.PatchingResult]) -> _Strongest:
    """The strongest cell of a component, or of the stream where nothing else was patched."""
    components = [one for one in found if one.site not in _STREAM]
    cells_found = [_Strongest.of(one) for one in components or found]
    return max(cells_found, key=lambda one: one.effect)


@dataclasses.dataclass(frozen=True)
class _Strongest:
    """The cell of largest effect of one kind of site."""

    result: activation_patching.PatchingResult
    cell: tuple[int, ...]

    @classmethod
    def of(cls, result: activation_patching.PatchingResult) -> _Strongest:
        """Of a result."""
        flat = int(np.argmax(result.shown))
        return cls(result, tuple(int(i) for i in np.unravel_index(flat, result.shown.shape)))

    @property
    def effect(self) -> float:
        return float(self.result.shown[self.cell])

    @property
    def interval(self) -> Float[np.ndarray, " bound"]:
        return self.result.interval[(slice(None), *self.cell)]

    @property
    def p_value(self) -> float:
        return float(self.result.adjusted_p[self.cell])

    @property
    def others(self) -> Float[np.ndarray, " cell"]:
        """Effects of all other cells of the kind."""
        flat = int(np.ravel_multi_index(self.cell, self.result.shown.shape))
        return np.delete(self.result.shown.ravel(), flat)

    @property
    def name(self) -> str:
        kind = self.result.site
        what = _NAMES.get(kind, sites.SITES[kind].title if kind in sites.SITES else kind)
        return f"{what} {self.result.label(self.cell)}"

    @property
    def carries(self) -> bool:
        """Whether it has a sure effect, larger than that of any other cell of its kind."""
        beats = not self.others.size or self.effect > float(np.abs(self.others).max())
        return beats and self.p_value <= SURE and bool(self.interval[0] > 0)

    def verdict(self, threshold: spec.Threshold) -> spec.Verdict:
        """What the threshold makes of it; no pass for what may be chance or another model."""
        low, high = map(float, self.interval)
        doubted = self.p_value > SURE or not self.result.preflight.passed
        return worst(threshold.verdict(low, high), "warn" if doubted else "pass")

    def statement(self, about: str) -> str:
        """What was found, in plain words."""
        sure = sentences.sure(self.interval, self.result.confidence)
        back = f"brings back {sentences.share(self.effect)} of the behaviour ({sure})"
        if self.carries:
            return (
                f"The site that carries {about!r} most is {self.name}: put into the "
                f"corrupted prompt by itself it {back}."
            )
        return f"No single site stands out; the strongest, {self.name}, {back}."

    def evidence(self) -> str:
        """What it is compared with."""
        n = len(self.result.pairs)
        told = f"{sentences.chance(self.p_value)}, corrected over {self.result.effects.size} cells"
        if not self.others.size:
            return f"Each of {n} prompts was run with this one activation replaced ({told})."
        return (
            f"Each of {n} prompts was run with this one activation replaced ({told}); the other "
            f"{self.others.size} cells of its kind bring back "
            f"{sentences.share(self.others.mean())} on average and "
            f"{sentences.share(self.others.max())} at most."
        )

    def measured(self, threshold: spec.Threshold | None) -> tuple[Measured, ...]:
        """The effect, beside that of the other cells."""
        n, site = len(self.result.pairs), self.result.site
        one = exhibits.measured(
            f"effect of the strongest cell of {site}: {self.result.label(self.cell)}",
            self.effect,
            interval=self.interval,
            threshold=threshold,
            n=n,
            p_value=self.p_value,
            null="mean effect of the other cells of its kind",
            null_value=float(self.others.mean()) if self.others.size else None,
        )
        more = exhibits.measured(
            f"cells of {site} that change more than chance",
            int((self.result.adjusted_p <= SURE).sum()),
            unit=f"of {self.result.adjusted_p.size}",
            n=n,
        )
        return (one, more)

    def caveats(self, compared: activation_patching.Comparison | None) -> tuple[str, ...]:
        """What speaks against relying on it, the strongest first."""
        said: list[str] = []
        checks = _failed(self.result.preflight)
        if checks:
            said.append(f"A check before the run failed: {checks}.")
        if self.p_value > SURE:
            said.append(f"Its effect may be chance ({sentences.chance(self.p_value)}).")
        said += self._directions(compared)
        if self._at_the_entry():
            said.append(
                "It stands in the first layer, at a place where the prompts differ: it may be no "
                "more than how the model reads that word in."
            )
        return tuple(said)

    def _directions(self, compared: activation_patching.Comparison | None) -> list[str]:
        """Whether it is needed as well as sufficient, and whether ablation says the same."""
        if compared is None:
            return ["It was patched in one direction only; whether it is needed was not measured."]
        label = self.result.label(self.cell)
        if label not in compared.cells:
            return ["Under other interventions other cells are stronger than this one."]
        row = compared.cells.index(label)
        effects = dict(zip(compared.interventions, compared.effects[row].tolist(), strict=True))
        both = (
            f"brings back {sentences.share(effects['denoising'])} and, corrupted by itself, "
            f"destroys {sentences.share(effects['noising'])}"
        )
        if not compared.reasons[row]:
            return [f"Every intervention agrees on it (it {both}), but on these prompts only."]
        ablated = ", ".join(
            f"{name} {sentences.share(effect)}"
            for name, effect in effects.items()
            if name not in activation_patching.DIRECTIONS
        )
        return [
            f"The interventions disagree on it: it {both}, and ablated it destroys: {ablated}. "
            f"This usually means: {compared.reasons[row]}."
        ]

    def _at_the_entry(self) -> bool:
        """Whether it is in the first layer, where clean and corrupted tokens differ."""
        index = dict(zip(self.result.axes, self.cell, strict=True))
        if self.result.units or "position" not in index or index.get("layer") != 0:
            return False
        differing = self.result.pairs.position_set("differing tokens")
        return self.result.layers[0] == 0 and index["position"] in {
            place for places in differing.clean for place in places
        }


_NAMES = {
    "z": "head",
    "mlp_out": "MLP",
    "attn_out": "attention layer",
    "resid_pre": "the residual stream before layer",
    "resid_post": "the residual stream after layer",
    "neuron": "neuron",
}


def _failed(checks: preflight.Preflight) -> str:
    return "; ".join(
        f"{check.name} ({check.detail})" for check in checks.checks if check.status == "failed"
    )


def _heat_map(result: activation_patching.PatchingResult) -> Exhibit:
    title = sites.SITES[result.site].title if result.site in sites.SITES else result.site
    return exhibits.figure(
        result.figure(),
        f"Effect of patching each cell of the {title}: 1 brings the behaviour back, 0 nothing.",
    )


def _tables(
    result: activation_patching.PatchingResult, compared: activation_patching.Comparison | None
) -> tuple[Exhibit, ...]:
    frame = result.to_frame()
    order = np.argsort(-np.abs(frame["effect"].to_numpy()), kind="stable")
    cells_of = frame.iloc[order].reset_index(drop=True)
    named = [str(name) for name in frame.columns if name not in _IN_LOGITS]
    shown = {name: _TITLES.get(name, name) for name in named}
    first = exhibits.table(
        cells_of, f"Cells of {result.site}, the strongest effect first.", columns=shown
    )
    if compared is None:
        return (first,)
    in_numbers = compared.to_frame()
    apart = [row for row in in_numbers.to_dict("records") if row["disagreement"]]
    return (
        first,
        exhibits.figure(
            compared.figure(), "The strongest cells under every intervention; a flag disagrees."
        ),
        exhibits.table(
            in_numbers,
            "The same in numbers.",
            columns={
                name: name for name in map(str, in_numbers.columns) if not name.endswith(_BESIDES)
            },
        ),
        exhibits.table(
            pd.DataFrame(apart, columns=["cell", "disagreement"]),
            "What disagrees.",
            columns={"cell": "cell", "disagreement": "what that usually means"},
        ),
    )
