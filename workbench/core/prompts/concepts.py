"""Concept: inputs of which it is known whether they have a property.

1. Inputs are texts, rows of tokens, or whatever a network reads (vectors, sequences, images).
2. Labels are one for each input, or one for each token: 1 has the concept, 0 has it not, -1 does
   not count. Instead of labels there may be targets: numbers that a unit might encode, such as the
   cosine and sine of a residue at one frequency.
3. `examples` lists what counts, one after another: that is what a unit's values are compared over.
4. Confounds are what else differs between examples (position, length, frequency, brightness);
   whoever uses a concept can hold them fixed.

Limits: a concept is no better than its labels. Inputs that stand twice are refused, as they are no
independent evidence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int

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


def _is_ragged(labels: Any) -> bool:
    """Whether there is a row of labels for each input: a list of rows, not one array."""
    return (
        not isinstance(labels, np.ndarray)
        and len(labels) > 0
        and isinstance(labels[0], (list, tuple, np.ndarray))
    )
