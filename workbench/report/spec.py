"""What an audit asks: the model, its behaviours, the questions, limits and thresholds.

1. A spec is data. Every field has a default, so that no file at all is a sensible audit of any
   model: the behaviours that the model is known to have or shows, and every question about them.
2. A threshold says where a measured value passes and where it fails. A finding passes only where
   its whole interval does, and fails only where all of it does; anything between is a warning,
   so that a few prompts cannot pass an audit.
3. Unknown fields are errors, as a misspelt threshold would otherwise be ignored in silence.

Limits: files of pairs and texts are named by paths relative to the spec; what they hold is part of
the manifest by its digest, not by its content.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import pydantic

FORMAT = 1
# Of names, paths and descriptions that a report shows.
LONGEST = 500
MOST_ITEMS = 100
Verdict = Literal["pass", "warn", "fail", "not examined"]
VERDICTS: tuple[Verdict, ...] = ("pass", "warn", "fail", "not examined")
# The questions, in the order in which a report answers them.
Question = Literal["behaviour", "sites", "localization", "circuit", "units", "concepts", "training"]
QUESTIONS: tuple[Question, ...] = (
    "behaviour",
    "sites",
    "localization",
    "circuit",
    "units",
    "concepts",
    "training",
)

Name = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=LONGEST)]
Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class Frozen(pydantic.BaseModel):
    """Base of what is read from a file: frozen, and nothing but the fields that it has."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Threshold(Frozen):
    """Where a measured value passes, and where it fails.

    Where `pass` is above `warn`, more is better; where it is below, less is.

    Attributes:
        passes: The whole interval must be at least as good as this to pass (`pass` in a file).
        warns: The whole interval must be worse than this to fail (`warn` in a file).
    """

    passes: Finite = pydantic.Field(
        validation_alias="pass", serialization_alias="pass", description="as good as this passes"
    )
    warns: Finite = pydantic.Field(
        validation_alias="warn", serialization_alias="warn", description="worse than this fails"
    )

    @property
    def more_is_better(self) -> bool:
        """Whether larger values are better."""
        return self.passes >= self.warns

    def verdict(self, low: float, high: float) -> Verdict:
        """Judge a value by its interval.

        Args:
            low: Lower bound, or the value itself where it is exact.
            high: Upper bound, or the same.

        Returns:
            "pass", "warn" or "fail"; "not examined" where the value is not known.
        """
        if math.isnan(low) or math.isnan(high):
            return "not examined"
        worst, best = (low, high) if self.more_is_better else (-high, -low)
        good, bad = (
            (self.passes, self.warns) if self.more_is_better else (-self.passes, -self.warns)
        )
        if worst >= good:
            return "pass"
        return "fail" if best < bad else "warn"

    def __str__(self) -> str:
        """In words: "passes from 0.9, fails below 0.5"."""
        up, down = ("from", "below") if self.more_is_better else ("up to", "above")
        return f"passes {up} {self.passes:g}, fails {down} {self.warns:g}"


class Subject(Frozen):
    """The model that is audited.

    Attributes:
        name: Bundled name, folder or hub name.
        fingerprint: Sha256 that it must have; none for whichever it has.
    """

    name: Name = "grammar-4l"
    fingerprint: Annotated[str, pydantic.StringConstraints(pattern="^[0-9a-f]{64}$")] | None = None


class Behaviour(Frozen):
    """Contrast pairs of one behaviour, and how well the model must do.

    Attributes:
        task: Named task that the pairs are drawn from.
        pairs: File of pairs (CSV, JSON, JSONL) in place of a task.
        n: How many pairs are drawn from a task.
        align: Match the tokens of prompts of a file that differ in length.
        accuracy: Share of clean prompts that are answered right.
        logit_difference: Mean logit difference of right and wrong answer on clean prompts.
    """

    task: Name | None = None
    pairs: Name | None = None
    n: Annotated[int, pydantic.Field(ge=2, le=10_000)] = 64
    align: bool = False
    accuracy: Threshold = Threshold(passes=0.9, warns=0.7)
    logit_difference: Threshold = Threshold(passes=1.0, warns=0.0)

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.task is None) == (self.pairs is None):
            raise ValueError("give either a task or a file of pairs, and not both")
        return self

    @property
    def title(self) -> str:
        """What the report calls it."""
        return self.task or str(self.pairs)


class Sites(Frozen):
    """Which site carries a behaviour.

    Attributes:
        ask: Whether this is examined.
        kinds: Sites that are patched, as `activation_patching.patch` names them.
        effect: Largest normalized effect of one cell of a component (a head, an MLP); of the
            residual stream only where nothing else is patched, because there the prompt itself,
            patched into the first layer, has an effect of 1 in any model.
    """

    ask: bool = True
    kinds: Annotated[tuple[Name, ...], pydantic.Field(min_length=1, max_length=6)] = (
        "resid_pre",
        "z",
        "mlp_out",
    )
    effect: Threshold = Threshold(passes=0.5, warns=0.1)


class Localization(Frozen):
    """Is a behaviour carried by few components, or by all a little?

    Attributes:
        ask: Whether this is examined.
        share: Share of the behaviour that the components must carry together.
        components: Share of all heads and MLPs that is needed for that.
    """

    ask: bool = True
    share: Share = 0.8
    components: Threshold = Threshold(passes=0.5, warns=0.9)


class Circuit(Frozen):
    """How large is the circuit, and how faithful on pairs that it has not seen?

    Attributes:
        ask: Whether this is examined.
        faithfulness: Share of the logit difference that is left with nothing but the circuit.
        size: Share of all connections that are in it.
        random: Random connected circuits of its size that it is compared with.
    """

    ask: bool = True
    faithfulness: Threshold = Threshold(passes=0.8, warns=0.5)
    size: Threshold = Threshold(passes=0.25, warns=0.75)
    random: Annotated[int, pydantic.Field(ge=19, le=10_000)] = 50


class Units(Frozen):
    """What makes given units fire.

    Attributes:
        ask: Whether this is examined.
        units: Names of neurons, heads or stream coordinates, such as "neuron 2.31"; none for the
            neurons with the largest direct effect on the first behaviour.
        most: How many are chosen where none is named.
        corpus: File of texts; none for the corpus that the model brings along.
        tokens: How much of the corpus is read.
    """

    ask: bool = True
    units: Annotated[tuple[Name, ...], pydantic.Field(max_length=MOST_ITEMS)] = ()
    most: Annotated[int, pydantic.Field(ge=0, le=20)] = 2
    corpus: Name | None = None
    tokens: Annotated[int, pydantic.Field(ge=100, le=10_000_000)] = 20_000


class Concepts(Frozen):
    """Does a cluster of neurons in one place hold a concept?

    Attributes:
        ask: Whether this is examined.
        concepts: Named concepts or files of labelled inputs; none for the first that the model has.
        most: How many are chosen where none is named.
        n: Labelled inputs of a concept at the most.
        expect: Verdict that a concept must have to pass; none for no expectation.
    """

    ask: bool = True
    concepts: Annotated[tuple[Name, ...], pydantic.Field(max_length=MOST_ITEMS)] = ()
    most: Annotated[int, pydantic.Field(ge=0, le=20)] = 2
    n: Annotated[int, pydantic.Field(ge=50, le=1_000_000)] = 2_000
    expect: dict[Name, Literal["localized", "spread", "not represented"]] = {}


class Training(Frozen):
    """The training story: when did the loss drop suddenly, and what changed in the circuit then?

    Attributes:
        ask: Whether this is examined; a model without checkpoints is "not examined".
        run: Folder of a training run; none for the one that the model brings along.
        test_loss: Loss on pairs that were not trained on, at the end.
    """

    ask: bool = True
    run: Name | None = None
    test_loss: Threshold = Threshold(passes=0.01, warns=0.5)


class Questions(Frozen):
    """Which questions are asked, and how."""

    sites: Sites = Sites()
    localization: Localization = Localization()
    circuit: Circuit = Circuit()
    units: Units = Units()
    concepts: Concepts = Concepts()
    training: Training = Training()


class Limits(Frozen):
    """What the audit may cost; a question that would cost more is "not examined".

    Attributes:
        minutes: Wall time of the whole audit.
        gigabytes: Memory above that of the model.
    """

    minutes: Annotated[float, pydantic.Field(gt=0, le=10_080, allow_inf_nan=False)] = 60.0
    gigabytes: Annotated[float, pydantic.Field(gt=0, le=4_096, allow_inf_nan=False)] = 8.0


class AuditSpec(Frozen):
    """A whole audit.

    Attributes:
        format: Version of this format.
        title: What the report is called.
        model: Which model, and the fingerprint that it must have.
        behaviours: What the model is meant to do; none for the tasks that it is known for, or, of
            a model that nothing is known of, the named tasks whose answers its tokenizer has.
        questions: What is asked about them.
        limits: What it may cost.
        seed: Of everything random.
        confidence: Of every interval.
    """

    format: Literal[1] = FORMAT
    title: Name = "Audit"
    model: Subject = Subject()
    behaviours: Annotated[tuple[Behaviour, ...], pydantic.Field(max_length=MOST_ITEMS)] = ()
    questions: Questions = Questions()
    limits: Limits = Limits()
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = 0
    confidence: Annotated[float, pydantic.Field(gt=0.5, lt=1)] = 0.95

    def plain(self) -> dict[str, Any]:
        """As JSON types, under the names that a file has."""
        return self.model_dump(mode="json", by_alias=True)
