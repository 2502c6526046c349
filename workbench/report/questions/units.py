"""What makes a unit fire?

1. The corpus is drawn from at random, up to the tokens of the spec; part of it is held out.
2. Scan: all units of its kind and layer, with the largest, the smallest and evenly spread examples
   (`feature_visualization.top_examples`, `view_unit`).
3. A pattern: tokens at its largest activations more often than in the corpus (hypergeometric), or
   the mean activation of each token, learned on the scanned part, that predicts the unit on the
   held-out part, and predicts it better than the other units of its layer (`believe`).
4. Kinds: of how many separated groups its largest activations are, against one Gaussian group
   (`separated_groups`).

Verdict: units have no threshold. "pass" says that a pattern beyond chance was found and that its
largest activations are of one kind; "warn" that no pattern was found or that they are of several.

Limits: a pattern of tokens is the simplest there is. What a unit does besides may depend on what
stands before, and what is not in the corpus is not seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
import scipy.stats

from analyses import activation_patching
from analyses import feature_visualization as features
from analyses.feature_visualization import unit_view
from workbench.core.engine import running, units
from workbench.core.evidence import SURE
from workbench.core.prompts.corpus import Corpus
from workbench.report import exhibits
from workbench.report.document import Exhibit, Finding, Measured, Section
from workbench.report.examining import Answer, Examination, NotExamined, named_file
from workbench.report.spec import AuditSpec, Verdict

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

Told = TypeVar("Told")

# Share of the corpus that is scanned; descriptions are tested on the rest.
SEEN = 0.7
# At so many of the largest activations a token is worth a word.
SEVERAL = 3
# Fewer than on a page: each question of an audit is one of many.
DRAWS, RESAMPLES = 99, 50
_NAMED, _LISTED = 3, 8

_METHOD = (
    "A corpus was read once, and of the unit the largest, the smallest and evenly spread "
    "activations were kept; tokens at the largest ones were counted against the whole corpus, and "
    "the mean activation of each token was tested on text that was held out, and on all other "
    "units of its layer. The places of its largest activations were cut into groups by what the "
    "unit reads there, against draws of one Gaussian group; as units have no threshold, "
    "“pass” says that a pattern beyond chance was found and all is of one kind."
)
_PAPERS = (
    "Bills et al. 2023, Language models can explain neurons in language models",
    "Bolukbasi et al. 2021, arXiv 2104.07143 (why the largest examples alone mislead)",
    "Liu et al. 2008, Statistical significance of clustering (one Gaussian as the null)",
)


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What is known of a unit.

    Attributes:
        view: All of its range.
        groups: Of how many kinds its largest activations are; none where that cannot be told.
        belief: What tokens alone predict on held-out text; none where that cannot be told.
        notes: What could not be told, and why.
    """

    view: features.UnitView
    groups: features.SeparatedGroups | None
    belief: features.Belief | None
    notes: tuple[str, ...]

    @property
    def triggers(self) -> list[unit_view.Trigger]:
        """Tokens at its largest activations beyond chance, the most frequent first."""
        sure = [one for one in self.view.triggers if one.p_value < SURE and one.count >= SEVERAL]
        return sorted(sure, key=lambda one: -one.count)

    @property
    def predicted(self) -> bool:
        """Whether tokens alone predict it on held-out text, and it above the other units."""
        found = self.belief
        if found is None:
            return False
        return found.p_value < SURE and found.interval[0] > float(found.shuffled.max())

    @property
    def kinds(self) -> int:
        """How many kinds its largest activations are of; 1 where that cannot be told."""
        return 1 if self.groups is None else self.groups.number


def choose(
    model: TransformerBridge, spec: AuditSpec, pairs: ContrastPairs | None
) -> tuple[str, ...]:
    """Which units are looked at.

    Args:
        model: The model.
        spec: What is asked.
        pairs: Of the first behaviour; none where there is none.

    Returns:
        Those of the spec; else the neurons with the largest effect on the behaviour, by estimate.

    Raises:
        NotExamined: If effects of neurons cannot be measured in this model.
    """
    asked = spec.questions.units
    if asked.units:
        return tuple(dict.fromkeys(asked.units))
    if pairs is None or not asked.most:
        return ()
    try:
        found = activation_patching.patch(
            model, pairs, site="neuron", positions="all", top=asked.most, seed=spec.seed
        )
    except ValueError as error:
        raise NotExamined(f"the neurons that matter most cannot be told: {error}") from error
    return tuple(str(units.Unit("neuron", layer, index)) for layer, index in found.units)


def examine(examination: Examination, unit: str) -> Answer:
    """Look at one unit from all sides.

    Args:
        examination: The model on the table.
        unit: Its name, such as "neuron 2.31".

    Returns:
        What makes it fire.

    Raises:
        NotExamined: If there is no such unit, no corpus, or nothing to see of it.
    """
    try:
        named = units.Unit.parse(unit)
        units.family_of(examination.model, named)
        seen, held_out = _corpus(examination)
        found = _look(examination, named, seen, held_out)
    except NotExamined:
        raise
    except ValueError as error:
        raise NotExamined(str(error)) from error
    name = str(named)
    numbers = _numbers(found, examination.spec.confidence)
    return Answer(
        Finding(
            id=f"units/{name}",
            question="units",
            about=name,
            verdict=_verdict(found),
            statement=_statement(found),
            evidence=_evidence(found),
            caveat=_caveat(found),
            measured=numbers,
        ),
        Section(
            id=f"units/{name}",
            question="units",
            title=f"Unit: {name}",
            asked=f"What makes {name} fire?",
            summary=_summary(found),
            method=_METHOD,
            papers=_PAPERS,
            exhibits=_exhibits(found),
            measured=numbers,
            caveats=(
                "A unit that fires at something need not be used for it: only an intervention "
                "would show that.",
                "Intervals of shares are those of independent tokens; tokens of one text are not.",
                "p-values of tokens are corrected over all tokens of the corpus, not over the "
                "units that were looked at.",
                *found.notes,
            ),
        ),
    )


def _corpus(examination: Examination) -> tuple[Corpus, Corpus]:
    """Rows drawn at random, up to the tokens of the spec: what is scanned, and what is held out."""
    asked, seed = examination.spec.questions.units, examination.spec.seed
    whole = (
        Corpus.bundled(examination.model)
        if asked.corpus is None
        else Corpus.open(examination.model, named_file(examination.folder, asked.corpus))
    )
    # At random: the rows of a corpus may be in an order that means something.
    order = np.random.default_rng(seed).permutation(len(whole))
    count = int(np.searchsorted(np.cumsum(whole.lengths[order]), asked.tokens, side="right"))
    drawn = whole.take(np.sort(order[: max(2, count)]))
    return drawn.split(SEEN, seed=seed)


def _look(examination: Examination, unit: units.Unit, seen: Corpus, held_out: Corpus) -> _Seen:
    model, seed = examination.model, examination.spec.seed
    name, about = str(unit), {"corpus": seen.fingerprint, "seed": seed}
    scanned = examination.made(
        features.TopExamples,
        f"scan of every {unit.kind} of layer {unit.layer}",
        {**about, "kind": unit.kind, "layer": unit.layer},
        lambda report: features.top_examples(
            model, seen, unit.kind, layers=[unit.layer], seed=seed, progress=report
        ),
    )
    view = examination.made(
        features.UnitView,
        f"range of {name}",
        {**about, "unit": name},
        lambda report: features.view_unit(model, seen, scanned, name, progress=report),
    )
    notes: list[str] = []

    def groups(report: running.Progress) -> features.SeparatedGroups:
        return features.separated_groups(
            model,
            seen,
            name,
            draws=DRAWS,
            resamples=RESAMPLES,
            confidence=examination.spec.confidence,
            seed=seed,
            progress=report,
        )

    def belief(report: running.Progress) -> features.Belief:
        return features.believe(
            model,
            held_out,
            name,
            features.token_means(model, seen, name),
            confidence=examination.spec.confidence,
            seed=seed,
            progress=report,
        )

    asked = {**about, "unit": name, "confidence": examination.spec.confidence}
    return _Seen(
        view,
        _told(
            lambda: examination.made(
                features.SeparatedGroups,
                f"groups of {name}",
                {**asked, "draws": DRAWS, "resamples": RESAMPLES},
                groups,
            ),
            "Of how many kinds its largest activations are cannot be told",
            notes,
        ),
        _told(
            lambda: examination.made(
                features.Belief,
                f"tokens as a description of {name}",
                {**asked, "held_out": held_out.fingerprint},
                belief,
            ),
            "Whether tokens alone predict it cannot be told",
            notes,
        ),
        tuple(notes),
    )


def _told(make: Callable[[], Told], what: str, notes: list[str]) -> Told | None:
    """What is made, or None with a note why it cannot be."""
    try:
        return make()
    except NotExamined:
        # The time is over, which is said of the whole question.
        raise
    except ValueError as error:
        notes.append(f"{what}: {error}.")
        return None


def _verdict(found: _Seen) -> Verdict:
    return "pass" if (found.triggers or found.predicted) and found.kinds == 1 else "warn"


def _statement(found: _Seen) -> str:
    unit, named = found.view.unit, _spoken(found)
    if named:
        said = f"{unit} fires most at {named}"
    elif found.predicted:
        said = f"How strongly {unit} fires can be told from the token alone"
    else:
        said = f"No pattern of tokens beyond chance says when {unit} fires"
    if found.kinds > 1:
        joint = ", but" if named or found.predicted else ", and"
        said += f"{joint} its largest activations are of {found.kinds} separated kinds"
    return f"{said}."


def _spoken(found: _Seen) -> str:
    """The tokens at its largest activations in words; empty where there are none."""
    return ", ".join(" then ".join(map(repr, one.text)) for one in found.triggers[:_NAMED])


def _evidence(found: _Seen) -> str:
    said: list[str] = []
    if found.triggers:
        best = found.triggers[0]
        said.append(
            f"{' then '.join(map(repr, best.text))} stands at {best.count} of its {best.places} "
            f"largest activations, {best.lift:.3g} times as often as in the corpus (p = "
            f"{best.p_value:.2g})."
        )
    if found.belief is not None:
        low, high = found.belief.interval
        said.append(
            f"The mean of each token predicts it on {found.belief.n_tokens:,} held-out tokens with "
            f"a correlation of {found.belief.correlation:.2f} ({low:.2f} to {high:.2f}; p = "
            f"{found.belief.p_value:.2g} against the other units of its layer)."
        )
    if not said:
        said.append(f"{found.view.n_tokens:,} tokens of {found.view.corpus} were read.")
    return " ".join(said)


def _caveat(found: _Seen) -> str:
    if found.kinds > 1:
        return (
            f"It responds to {found.kinds} separated kinds of places, so one description of it is "
            "not the whole truth."
        )
    if found.groups is None:
        return "Whether its largest activations are of one kind could not be told."
    if not found.triggers and not found.predicted:
        return "It may respond to something that no single token or pair of tokens shows."
    return (
        f"Seen on {found.view.n_tokens:,} tokens of {found.view.corpus}; what these do not hold is "
        "not known, and nothing was intervened on."
    )


def _summary(found: _Seen) -> str:
    parts = (found.view, found.belief, found.groups)
    return " ".join(one.summary() for one in parts if one is not None)


def _numbers(found: _Seen, confidence: float) -> tuple[Measured, ...]:
    view, made = found.view, []
    above = round(view.density * view.n_tokens)
    made.append(
        exhibits.measured(
            "share of tokens at which it is above zero",
            view.density,
            interval=_binomial(above, view.n_tokens, confidence),
            n=view.n_tokens,
        )
    )
    for one in found.triggers[:_NAMED]:
        share = one.count / one.places
        made.append(
            exhibits.measured(
                f"share of its largest activations at {' then '.join(map(repr, one.text))}",
                share,
                interval=_binomial(one.count, one.places, confidence),
                n=one.places,
                p_value=one.p_value,
                null="its share of the whole corpus",
                null_value=share / one.lift,
            )
        )
    if found.belief is not None:
        believed = found.belief
        made.append(
            exhibits.measured(
                "correlation of each token's mean with it, on held-out text",
                believed.correlation,
                interval=believed.interval,
                n=believed.n_tokens,
                p_value=believed.p_value,
                null=f"the largest of {len(believed.others)} other units of its layer",
                null_value=float(believed.others.max()),
            )
        )
    if found.groups is not None:
        made.append(
            exhibits.measured(
                "separated kinds of its largest activations",
                found.groups.number,
                interval=found.groups.interval,
                n=len(found.groups.activations),
                p_value=found.groups.grouping.p_value,
                null="one Gaussian group",
                null_value=1,
            )
        )
    if view.promoted:
        token, logit = view.promoted[0]
        made.append(
            exhibits.measured(
                f"direct effect on the logit of {token!r}, the largest",
                logit,
                unit="logits up to the final norm's scale",
                p_value=view.output_p_value,
                null="random vectors of its length",
            )
        )
    if view.together:
        other, correlation = view.together[0]
        made.append(
            exhibits.measured(
                f"correlation with {other}, the largest of its layer",
                correlation,
                n=len(view.sample),
                null="the largest with its tokens shuffled",
                null_value=view.together_by_chance,
            )
        )
    return tuple(made)


def _binomial(count: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share."""
    found = scipy.stats.binomtest(count, n).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def _exhibits(found: _Seen) -> tuple[Exhibit, ...]:
    view = found.view
    made = [
        exhibits.figure(
            view.figure(),
            f"How large {view.unit} is at random tokens of {view.corpus}, on a logarithmic axis, "
            "with the examples marked below.",
        ),
        exhibits.table(
            pd.DataFrame(
                [
                    {
                        "example": one.kind,
                        "activation": one.activation,
                        "share of tokens below": one.quantile,
                        "text": one.marked,
                    }
                    for kind in ("largest", "quantile", "smallest")
                    for one in [each for each in view.examples if each.kind == kind][:_LISTED]
                ]
            ),
            "Examples from its whole range, the token in double brackets.",
            rows=3 * _LISTED,
        ),
    ]
    if view.triggers:
        made.append(
            exhibits.table(
                pd.DataFrame(
                    [
                        {
                            "tokens": " then ".join(one.text),
                            "at its largest": one.count,
                            "of": one.places,
                            "times as often as in the corpus": one.lift,
                            "p": one.p_value,
                        }
                        for one in view.triggers
                    ]
                ),
                "Tokens and pairs of tokens at its largest activations.",
                rows=_LISTED,
            )
        )
    if view.promoted:
        pairs = zip(view.promoted, view.suppressed, strict=True)
        made.append(
            exhibits.table(
                pd.DataFrame(
                    [
                        {"promoted": high, "by": up, "suppressed": low, "by this": down}
                        for (high, up), (low, down) in pairs
                    ]
                ),
                "Tokens whose logits it raises and lowers directly, p = "
                f"{view.output_p_value:.2g} against random vectors.",
                rows=_LISTED,
            )
        )
    if found.groups is not None:
        made.append(
            exhibits.figure(
                found.groups.figure(),
                f"Its largest activations by what it reads there, in {found.kinds} "
                f"{'group' if found.kinds == 1 else 'separated groups'}.",
            )
        )
    return tuple(made)
