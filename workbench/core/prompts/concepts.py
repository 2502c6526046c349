"""Concept: inputs of which it is known whether they have a property.

1. Inputs are texts, rows of tokens, or whatever a network reads (vectors, sequences, images).
2. Labels are one for each input, or one for each token: 1 has the concept, 0 has it not, -1 does
   not count. Instead of labels there may be targets: numbers that a unit might encode, such as the
   cosine and sine of a residue at one frequency.
3. `examples` lists what counts, one after another: that is what a unit's values are compared over.
4. Ways in: files, corpora, named tasks, the grammar's variables, residues and frequencies of
   modular models, images. Each is a module of its own beside this one.
5. Confounds are what else differs between examples (position, length, frequency, brightness);
   whoever uses a concept can hold them fixed, or ask for classes that are `balanced` in them.

Limits: a concept is no better than its labels. Inputs that stand twice are refused, as they are no
independent evidence.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.concept_tasks import At
    from workbench.core.prompts.corpus import Corpus
    from workbench.core.prompts.grammar_variables import LabelledTokens

Reading = Literal["token", "last", "mean", "max"]
READINGS: tuple[Reading, ...] = ("token", "last", "mean", "max")
_LABELS = (-1, 0, 1)
# Of each class; one example says nothing about the others of its class.
_FEWEST = 2
_VECTORS = 2
_SHOWN = 40


class ConceptError(ValueError):
    """A concept that says nothing; the message says what is wrong with it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """What of a concept's inputs counts, one after another.

    Attributes:
        row: Which input each example is of, or is.
        position: Which token of it; -1 where the whole input is the example.
        labels: Whether it has the concept; all false where there are targets.
        targets: Numbers that a unit might encode; no columns where there are labels.
        confounds: What else is known of each example, by name.
    """

    row: Int[np.ndarray, " example"]
    position: Int[np.ndarray, " example"]
    labels: Bool[np.ndarray, " example"]
    targets: Float64[np.ndarray, "example target"]
    confounds: Mapping[str, Float64[np.ndarray, " example"]]

    def __len__(self) -> int:
        """How many."""
        return len(self.row)


@dataclasses.dataclass(frozen=True, eq=False)
class Concept:
    """A property with inputs that have it and inputs that have it not.

    Attributes:
        inputs: Texts, rows of tokens (as they are: nothing is put in front), or one array of
            vectors, sequences or images.
        labels: One for each input, or a row of them for each input, one a token (of a text: without
            what the model puts in front); 1, 0, or -1 where it does not count. An array of numbers
            [input, target] is targets.
        name: What a reader calls it.
        reading: Where in an input a unit is read: at each labelled "token", at the "last" one,
            or the "mean" or "max" over all tokens or places.
        confounds: What else differs, by name, in the shape of the labels.
        caveats: What a reader must know, such as a confound that could not be balanced.
    """

    inputs: Any
    labels: Any
    name: str
    reading: Reading = "token"
    confounds: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that labels fit the inputs and tell them apart.

        Raises:
            ConceptError: If they do not.
        """
        if not isinstance(self.inputs, np.ndarray):
            object.__setattr__(self, "inputs", tuple(self.inputs))
        per_token = _is_ragged(self.labels)
        if not per_token:
            object.__setattr__(self, "labels", np.asarray(self.labels))
        else:
            object.__setattr__(self, "labels", tuple(np.asarray(row) for row in self.labels))
        if self.reading == "token" and not per_token:
            # One label an input: a text is read where it ends, anything else over all its places.
            object.__setattr__(self, "reading", "last" if self.is_text else "mean")
        self._check()

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        model: TransformerBridge | None = None,
        name: str | None = None,
        value: str | None = None,
    ) -> Concept:
        """Read labelled texts or tokens from a CSV or JSONL file (`concept_files` says how).

        Args:
            path: The file; its ending says which format.
            model: Whose tokenizer to use, for marked characters and for confounds of texts.
            name: What a reader calls it; the file's name if not given.
            value: Which value of the labels is the concept; without it they are 1, 0 or -1, or
                true or false.

        Returns:
            The concept, with the confounds that can be known.

        Raises:
            ConceptError: If the file is missing, too large, or a line is not as expected.
        """
        from workbench.core.prompts import concept_files

        return concept_files.from_file(path, model=model, name=name, value=value)

    @classmethod
    def from_tokens(
        cls,
        model: TransformerBridge,
        corpus: Corpus,
        tokens: Sequence[str | int],
        *,
        name: str | None = None,
        most: int = 4000,
        seed: int = 0,
    ) -> Concept:
        """Which tokens of a corpus are in a set.

        Args:
            model: Whose vocabulary they are of.
            corpus: Where from; whole rows are drawn.
            tokens: Each a text that is one token, or its number.
            name: What a reader calls it.
            most: Examples, at most.
            seed: Of the draw.

        Returns:
            The concept, one example a token that is not special.

        Raises:
            ConceptError: If there are no tokens, one is not known or several, or none is drawn.
        """
        from workbench.core.prompts import concept_corpora

        return concept_corpora.from_tokens(model, corpus, tokens, name=name, most=most, seed=seed)

    @classmethod
    def from_pattern(
        cls,
        model: TransformerBridge,
        corpus: Corpus,
        pattern: str,
        *,
        name: str | None = None,
        most: int = 4000,
        seed: int = 0,
    ) -> Concept:
        """Which tokens of a corpus are in a match of a regular expression.

        Args:
            model: Whose tokenizer to use.
            corpus: Where from; whole rows are drawn.
            pattern: The expression, over the text of a row.
            name: What a reader calls it.
            most: Examples, at most.
            seed: Of the draw.

        Returns:
            The concept, one example a token that is not special.

        Raises:
            ConceptError: If it is no expression, takes too long, or matches nothing.
        """
        from workbench.core.prompts import concept_corpora

        return concept_corpora.from_pattern(model, corpus, pattern, name=name, most=most, seed=seed)

    @classmethod
    def from_variable(
        cls,
        labelled: LabelledTokens,
        variable: str,
        value: str,
        *,
        name: str | None = None,
        most: int = 4000,
        seed: int = 0,
    ) -> Concept:
        """Where a variable of a labelled corpus has a value.

        Args:
            labelled: The corpus, for example `grammar_variables.grammar_labels(model)`.
            variable: Name of one of its variables.
            value: One of its values; all other values are without the concept.
            name: What a reader calls it.
            most: Examples, at most.
            seed: Of the draw.

        Returns:
            The concept, one example a token at which the variable is defined.

        Raises:
            ConceptError: If there is no such variable or value, or it is not drawn.
        """
        from workbench.core.prompts import concept_corpora

        return concept_corpora.from_variable(
            labelled, variable, value, name=name, most=most, seed=seed
        )

    @classmethod
    def from_task(
        cls,
        model: TransformerBridge,
        variable: str,
        *,
        n: int = 400,
        seed: int = 0,
        at: At = "answer",
    ) -> Concept:
        """A variable of a named task: "gender", "number", "role" or "digit".

        Args:
            model: Any English model; prompts that it cannot read are passed over.
            variable: One of `concept_tasks.VARIABLES`.
            n: Prompts, half of them with each value.
            seed: Of the draw.
            at: Where a unit is read: at the "word" that carries the variable, or before the
                "answer" that it decides.

        Returns:
            The concept.

        Raises:
            ConceptError: If there is no such variable, or too few prompts that the model can read.
        """
        from workbench.core.prompts import concept_tasks

        return concept_tasks.from_task(model, variable, n=n, seed=seed, at=at)

    @classmethod
    def residue(
        cls, model: TransformerBridge, r: int, *, n: int | None = None, seed: int = 0
    ) -> Concept:
        """Is the answer of a sum modulo p this number?

        Args:
            model: A model that reads a, b and =.
            r: The answer.
            n: Pairs, at most half of them with the answer; all pairs if not given.
            seed: Of the draw.

        Returns:
            The concept, read at the last token.

        Raises:
            ConceptError: If there is no such answer, the model is another, or n does not fit.
        """
        from workbench.core.prompts import concept_modular

        return concept_modular.residue(model, r, n=n, seed=seed)

    @classmethod
    def frequency(
        cls, model: TransformerBridge, k: int, *, n: int | None = None, seed: int = 0
    ) -> Concept:
        """Waves of one frequency in a and b: eight targets instead of labels.

        Args:
            model: A model that reads a, b and =.
            k: The frequency, from 1 on.
            n: Pairs; all if not given, over which the targets are orthonormal.
            seed: Of the draw.

        Returns:
            The concept, read at the last token.

        Raises:
            ConceptError: If there is no such frequency, the model is another, or n does not fit.
        """
        from workbench.core.prompts import concept_modular

        return concept_modular.frequency(model, k, n=n, seed=seed)

    @classmethod
    def of_images(cls, images: np.ndarray, labels: Any, name: str) -> Concept:
        """Labelled inputs of a network: images, sequences or vectors.

        Args:
            images: The inputs, one after another.
            labels: 1, 0 or -1 for each.
            name: What a reader calls it.

        Returns:
            The concept; confounds of images are brightness, contrast and whether they are coloured.

        Raises:
            ConceptError: If labels do not fit.
        """
        from workbench.core.prompts import concept_images

        return concept_images.of_images(images, labels, name)

    @classmethod
    def shapes(cls, name: str, *, n: int = 1200, seed: int = 1) -> Concept:
        """What the rendered shapes have: a class, "3D curvature", or "coloured".

        Args:
            name: Which.
            n: Images.
            seed: Of the images; `shapes-branch` was trained on those of another one.

        Returns:
            The concept.

        Raises:
            ConceptError: If there is none of that name, or n is too small.
        """
        from workbench.core.prompts import concept_images

        return concept_images.of_shapes(name, n=n, seed=seed)

    @classmethod
    def mnist1d(
        cls, digit: int, *, n: int | None = None, seed: int = 0, channels: bool = False
    ) -> Concept:
        """Which held-out sequences of MNIST-1D are a digit.

        Args:
            digit: From 0 to 9.
            n: Sequences; all 1,000 if not given.
            seed: Of the draw.
            channels: Whether the network reads sequences of one channel (`mnist1d-cnn`).

        Returns:
            The concept.

        Raises:
            ConceptError: If there is no such digit, or n does not fit.
        """
        from workbench.core.prompts import concept_images

        return concept_images.of_mnist1d(digit, n=n, seed=seed, channels=channels)

    @property
    def is_text(self) -> bool:
        """Whether a language model reads the inputs, and not a network."""
        return not isinstance(self.inputs, np.ndarray)

    @property
    def per_token(self) -> bool:
        """Whether each token has a label."""
        return isinstance(self.labels, tuple)

    @property
    def graded(self) -> bool:
        """Whether there are targets instead of labels."""
        return not self.per_token and self.labels.ndim == _VECTORS

    def examples(self) -> Examples:
        """What counts, in the order of the inputs.

        Returns:
            The examples; positions count the tokens that have labels.
        """
        if self.per_token:
            lengths = [len(row) for row in self.labels]
            row = np.repeat(np.arange(len(lengths)), lengths)
            position = np.concatenate([np.arange(length) for length in lengths])
            flat = np.concatenate(self.labels)
            confounds = {name: np.concatenate(list(v)) for name, v in self.confounds.items()}
        else:
            row, flat = np.arange(len(self.labels)), self.labels
            position = np.full(len(row), -1)
            confounds = {name: np.asarray(v) for name, v in self.confounds.items()}
        targets = flat.astype(np.float64) if self.graded else np.zeros((len(row), 0))
        labels = np.zeros(len(row), dtype=np.int64) if self.graded else flat.astype(np.int64)
        here = np.flatnonzero(labels >= 0)
        return Examples(
            row[here].astype(np.int64),
            position[here].astype(np.int64),
            labels[here] == 1,
            targets[here],
            {name: v[here].astype(np.float64) for name, v in confounds.items()},
        )

    def replaced(self, **changes: Any) -> Concept:
        """The same with other inputs, labels, name or confounds."""
        return dataclasses.replace(self, **changes)

    def with_confounds(self, model: TransformerBridge | None = None) -> Concept:
        """Add what else is known of texts and tokens: position, length, frequency.

        Args:
            model: Whose tokenizer to use for texts.

        Returns:
            The concept with those confounds that differ between examples.
        """
        from workbench.core.prompts import concept_confounds

        return concept_confounds.with_known(self, model)

    def balanced(
        self, confounds: Sequence[str] | None = None, *, bins: int = 5, seed: int = 0
    ) -> Concept:
        """Keep examples that make the classes alike in their confounds.

        Args:
            confounds: Which; all if not given.
            bins: How finely each is cut.
            seed: Of the draw.

        Returns:
            The smaller concept, with a caveat for each confound that could not be balanced.

        Raises:
            ConceptError: If it has targets and no labels, no such confound, or less than two bins.
        """
        from workbench.core.prompts import concept_balance

        return concept_balance.balanced(self, confounds, bins=bins, seed=seed)

    def fake(self, seed: int = 0) -> Concept:
        """The negative control: the same inputs, with the labels dealt out anew (`fake`)."""
        return fake(self, seed)

    def _check(self) -> None:
        if self.reading not in READINGS:
            raise ConceptError(f"reading = {self.reading!r}; expected one of {', '.join(READINGS)}")
        if len(self.inputs) != len(self.labels):
            raise ConceptError(
                f"{self.name!r} has {len(self.inputs):,} inputs and {len(self.labels):,} labels: "
                "give one label, or one row of labels, for each input"
            )
        self._check_inputs()
        for name, values in (("labels", self.labels), *self.confounds.items()):
            self._check_shape(name, values)
        if self.per_token and self.reading != "token":
            raise ConceptError(
                f"{self.name!r} has a label for each token, so units are read at each token, not "
                f"{self.reading!r}"
            )
        if self.graded:
            if not np.isfinite(self.labels).all() or (np.ptp(self.labels, axis=0) == 0).any():
                raise ConceptError(
                    f"a target of {self.name!r} is not finite, or the same for every input"
                )
            return
        examples = self.examples()
        has = int(examples.labels.sum())
        has_not = len(examples) - has
        if min(has, has_not) < _FEWEST:
            raise ConceptError(
                f"{self.name!r} has {has:,} examples with the concept and {has_not:,} without: "
                f"expected at least {_FEWEST} of each"
            )

    def _check_inputs(self) -> None:
        if isinstance(self.inputs, np.ndarray):
            if self.inputs.ndim < _VECTORS or not np.isfinite(self.inputs).all():
                raise ConceptError(
                    f"inputs of {self.name!r} of shape {self.inputs.shape}: expected finite "
                    "numbers [input, …]"
                )
            marks = [row.tobytes() for row in self.inputs]
        elif all(isinstance(each, str) for each in self.inputs):
            marks = [each.strip() for each in self.inputs]
            if not all(marks):
                raise ConceptError(f"a text of {self.name!r} is empty: leave it out")
        else:
            rows = [np.asarray(each) for each in self.inputs]
            if any(row.ndim != 1 or not len(row) or row.dtype.kind not in "iu" for row in rows):
                raise ConceptError(
                    f"inputs of {self.name!r} are neither texts nor rows of whole numbers (tokens)"
                )
            marks = [row.astype(np.int64).tobytes() for row in rows]
        twice = len(marks) - len(set(marks))
        if twice:
            raise ConceptError(
                f"{twice:,} of the {len(marks):,} inputs of {self.name!r} stand there twice, which "
                "would count as evidence twice: leave them out"
            )

    def _check_shape(self, name: str, values: Any) -> None:
        if self.per_token:
            fits = len(values) == len(self.labels) and all(
                len(row) == len(own) for row, own in zip(values, self.labels, strict=True)
            )
            tokens = not (self.inputs and isinstance(self.inputs[0], str))
            if name == "labels" and tokens:
                fits = all(len(r) == len(t) for r, t in zip(values, self.inputs, strict=True))
            flat = np.concatenate([np.asarray(row) for row in values])
        else:
            fits = len(values) == len(self.labels)
            flat = np.asarray(values)
        if not fits:
            raise ConceptError(
                f"{name} of {self.name!r} do not fit: expected one for each "
                f"{'token' if self.per_token else 'input'}"
            )
        if name == "labels" and not self.graded:
            wrong = flat[~np.isin(flat, _LABELS)]
            if len(wrong):
                raise ConceptError(
                    f"label {wrong[0]!s:.{_SHOWN}} of {self.name!r}: expected 1 (has it), 0 (has "
                    "it not) or -1 (does not count)"
                )
        elif not np.isfinite(flat.astype(np.float64)).all():
            raise ConceptError(f"{name} of {self.name!r} holds a value that is not finite")


def fake(concept: Concept, seed: int = 0) -> Concept:
    """A concept that is none: the same inputs, with the labels dealt out anew.

    What counts stays what counts, and as many examples have the label. Where all tokens of a row
    have one label, rows swap theirs as a whole; else each token is dealt one.

    Args:
        concept: Any concept.
        seed: Of the shuffle.

    Returns:
        The negative control, named "fake: …".
    """
    random = np.random.default_rng(seed)
    name = f"fake: {concept.name}"
    if concept.graded:
        return concept.replaced(labels=random.permutation(concept.labels, axis=0), name=name)
    if not concept.per_token:
        return concept.replaced(labels=_dealt(concept.labels, random), name=name)
    own = [np.unique(row[row >= 0]) for row in concept.labels]
    if all(len(values) <= 1 for values in own):
        first = np.array([values[0] if len(values) else -1 for values in own])
        pairs = zip(concept.labels, _dealt(first, random), strict=True)
        return concept.replaced(
            labels=[np.where(row >= 0, value, -1) for row, value in pairs], name=name
        )
    flat = _dealt(np.concatenate(concept.labels), random)
    cuts = np.cumsum([len(row) for row in concept.labels])[:-1]
    return concept.replaced(labels=list(np.split(flat, cuts)), name=name)


def _dealt(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Labels in another order; what does not count stays where it is."""
    out = labels.copy()
    out[labels >= 0] = random.permutation(labels[labels >= 0])
    return out


def _is_ragged(labels: Any) -> bool:
    """Whether there is a row of labels for each input: a list of rows, not one array."""
    return (
        not isinstance(labels, np.ndarray)
        and len(labels) > 0
        and isinstance(labels[0], (list, tuple, np.ndarray))
    )
