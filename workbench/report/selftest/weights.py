"""Do weights alone tell what was put into them?

Limits: weights that are zero but for what was planted.
"""

from __future__ import annotations

import numpy as np

from analyses import weights
from workbench.core.planted import (
    known_circuits,
    known_units,
    modular_adder,
    unplanted,
    word_level,
)
from workbench.core.planted.two_steps import DIRECT
from workbench.report.selftest.checking import (
    Check,
    Models,
    Outcome,
    at_least,
    both,
    same,
    within,
)

_RANDOM = 39
_LEVEL = 0.05
# Layer and number of the head that is drawn anew.
_HEAD = (1, 2)


def _copying(models: Models) -> Outcome:
    found = weights.copying(models.induction.model, n_random=_RANDOM, seed=models.seed)
    return within(found.copying, [[0, 0], [1, 0]])


def _composition(models: Models) -> Outcome:
    found = weights.composition(models.induction.model)
    beyond = found.strongest(n=int((found.p_value <= _LEVEL).sum()))
    named = [
        "{kind} of {receiver_layer}.{receiver_head} reads {sender_layer}.{sender_head}".format(
            **{str(key): value for key, value in one.items()}
        )
        for one in beyond.to_dict("records")
    ]
    return same(named, ["K of 1.0 reads 0.0"])


def _table(models: Models) -> Outcome:
    table = weights.tokens(models.induction.model, 1, 0, seed=models.seed)
    words = len(word_level.WORDS)
    found = table.whole[0][:words, :words]
    said = f"{np.diag(found).mean():.4f} to itself"
    return within(found, known_circuits.GAIN * np.eye(words), said=said)


def _spectrum(models: Models) -> Outcome:
    found = weights.spectrum(models.induction.model, "head 1.0 W_V").found.values
    words = len(word_level.WORDS)
    truth = np.r_[np.ones(words), np.zeros(len(found) - words)]
    return within(found, truth)


def _head(models: Models) -> Outcome:
    found = weights.head(models.induction.model, 1, 0, n_random=_RANDOM, seed=models.seed)
    return within([found.copying, found.matching], [1, 0])


def _matrices(models: Models) -> Outcome:
    table = weights.matrices(models.induction.model)
    rank = dict(zip(table.names, table.stable_rank, strict=True))
    return within(rank["head 1.0 W_V"], len(word_level.WORDS))


def _neuron(models: Models) -> Outcome:
    found = weights.neuron(models.detectors, 0, 0, k=1, seed=models.seed)
    ends = [int(found.of(name).most_ids[0]) for name in ("reads", "writes")]
    named = [word_level.WORDS[one] for one in ends]
    written = float(found.of("writes").most_values[0])
    return both(
        same(named, [word_level.WORDS[one] for one in (known_units.DOG, known_units.ELK)]),
        within(written, DIRECT),
    )


def _silent(models: Models) -> Outcome:
    found = weights.neuron(models.detectors, 0, 3, seed=models.seed)
    p_value = float(found.of("writes").p_value)
    return at_least(p_value, 1, f"p = {p_value:.3f}")


def _neighbours(models: Models) -> Outcome:
    found = weights.neighbours(models.two_steps, "dog", k=3, centred=False, seed=models.seed)
    return within(found.cosines, np.zeros(len(found.cosines)))


def _axes(models: Models) -> Outcome:
    found = weights.embedding(models.two_steps, seed=models.seed)
    # Six vectors at right angles to each other span five directions around their mean, alike.
    axes = len(word_level.WORDS) - 1
    return within(found.explained[:axes], np.full(axes, 1 / axes))


def _waves(models: Models) -> Outcome:
    model = word_level.on(modular_adder.adder(), models.device)
    found = weights.fourier(model, task=modular_adder.ADDITION, seed=models.seed)
    return same(found.keys, modular_adder.KEYS)


def _equal(models: Models) -> Outcome:
    found = weights.compare(models.two_steps, models.two_steps)
    return within(found.change, np.zeros(len(found.change)))


def _moved(models: Models) -> Outcome:
    after = unplanted.randomised(seed=models.seed)
    unplanted.redraw_head(after, *_HEAD, seed=models.seed)
    found = weights.compare(models.unplanted, word_level.on(after, models.device))
    moved = [name for name, change in zip(found.names, found.change, strict=True) if change]
    return same(moved, [f"layers.{_HEAD[0]}.attn.{part}.weight" for part in "qkvo"])


CHECKS = (
    Check("weights.copying", "one head copies (score 1), the three others do not (0)", _copying),
    Check("weights.composition", "the second head's keys read the first head", _composition),
    Check("weights.tokens", "the copying head raises each word's own logit by 3", _table),
    Check("weights.head", "the copying head copies (1) and does not look for itself (0)", _head),
    Check("weights.spectrum", "its value matrix has six singular values of 1", _spectrum),
    Check("weights.matrices", "its value matrix has rank 6", _matrices),
    Check("weights.neuron", "a neuron reads dog and writes 0.25 of elk's logit", _neuron),
    Check("weights.neuron", "nothing: a neuron without weights writes no token", _silent),
    Check("weights.neighbours", "nothing: tokens at right angles have no neighbours", _neighbours),
    Check("weights.embedding", "six tokens at right angles span five axes alike", _axes),
    Check("weights.fourier", "the waves of frequencies 2 and 5", _waves),
    Check("weights.compare", "of all matrices, the four of layer 1's heads have moved", _moved),
    Check("weights.compare", "nothing: a model has not moved from itself", _equal),
)
