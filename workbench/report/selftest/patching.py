"""Do patching and attribution find the shares that were planted, and nothing besides?

Limits: paths of a few heads without norms, so that every effect is known exactly.
"""

from __future__ import annotations

import numpy as np

from analyses import activation_patching, attribution, path_patching
from workbench.core.planted import known_circuits, two_steps, word_level
from workbench.core.planted.two_steps import DIRECT, INDIRECT
from workbench.report.selftest.checking import Check, Models, Outcome, same, within

_LAST = -1
# Of scores whose truth is exactly zero, as a share of the largest.
_NOTHING = 1e-4


def _each_head(direction: str, models: Models) -> Outcome:
    found = activation_patching.patch(
        models.two_steps, models.pairs, site="z", direction=direction, seed=models.seed
    )
    truth = np.zeros(found.effects.shape)
    truth[0, _LAST, 0], truth[1, _LAST, 1] = 1, INDIRECT
    first, second = found.effects[0, _LAST, 0], found.effects[1, _LAST, 1]
    said = f"L0H0 {first:.4f}, L1H1 {second:.4f} at the last position"
    return within(found.effects, truth, said=said)


def _denoised(models: Models) -> Outcome:
    return _each_head("denoising", models)


def _noised(models: Models) -> Outcome:
    return _each_head("noising", models)


def _stream(models: Models) -> Outcome:
    found = activation_patching.patch(models.two_steps, models.pairs, seed=models.seed)
    truth = np.zeros(found.effects.shape)
    truth[0, 1] = truth[1, _LAST] = 1
    said = f"{found.effects[0, 1]:.4f} at position 1, then {found.effects[1, _LAST]:.4f} at the end"
    return within(found.effects, truth, said=said)


def _zeroed(models: Models) -> Outcome:
    found = activation_patching.patch(
        models.two_steps,
        models.pairs,
        site="z",
        direction="noising",
        ablation="zero",
        seed=models.seed,
    )
    truth = np.zeros(found.effects.shape)
    # The logit difference falls from 1 to 0, or to what the first head writes by itself.
    truth[0, _LAST, 0], truth[1, _LAST, 1] = 1 / 2, (1 - DIRECT) / 2
    said = f"L0H0 {found.effects[0, _LAST, 0]:.4f}, L1H1 {found.effects[1, _LAST, 1]:.4f}"
    return within(found.effects, truth, said=said)


def _unread(models: Models) -> Outcome:
    case = models.induction
    found = activation_patching.patch(case.model, case.pairs, site="z", seed=models.seed)
    unread = found.effects[:, :, 1]
    said = f"largest effect of L0H1 and L1H1 {np.abs(unread).max():.1e}"
    return within(unread, np.zeros(unread.shape), said=said)


def _compared(models: Models) -> Outcome:
    found = activation_patching.compare(
        models.two_steps, models.pairs, site="z", top=2, seed=models.seed
    )
    return same(found.cells, ("L0H0", "L1H1"))


def _compared_like(models: Models) -> Outcome:
    patched = activation_patching.patch(models.two_steps, models.pairs, site="z", seed=models.seed)
    found = activation_patching.compare_like(models.two_steps, patched)
    named = [found.interventions.index(name) for name in ("denoising", "noising", "zero")]
    effects = found.effects[:, named]
    truth = np.zeros(effects.shape)
    truth[:2] = [[1, 1, 1 / 2], [INDIRECT, INDIRECT, (1 - DIRECT) / 2]]
    shown = ", ".join(f"{one:.4g}" for one in effects[:2].ravel())
    return within(effects, truth, said=f"{shown}, then {np.abs(effects[2:]).max():.1e} at most")


def _answer_direction(models: Models) -> Outcome:
    model, pairs = models.two_steps, models.pairs
    found = activation_patching.answer_direction(model, pairs)[0].cpu().numpy()
    words = len(word_level.WORDS)
    gap = np.zeros(words)
    for right, wrong in zip(pairs.answers, pairs.wrong_answers, strict=True):
        gap[list(right)] += 1 / len(pairs)
        gap[list(wrong)] -= 1 / len(pairs)
    truth = np.zeros(len(found))
    truth[words : 2 * words], truth[2 * words : 3 * words] = DIRECT * gap, INDIRECT * gap
    return within(found, truth, said=f"of length {np.linalg.norm(found):.4f}")


def _inspected(cell: tuple[int, ...], models: Models) -> dict[str, tuple[float, float]]:
    """Probability of each token before and after a patch of the first pair."""
    patched = activation_patching.patch(models.two_steps, models.pairs, site="z", seed=models.seed)
    found = activation_patching.inspect_cell(models.two_steps, patched, cell)
    numbers = zip(found.before.tolist(), found.after.tolist(), strict=True)
    return dict(zip(found.tokens, numbers, strict=True))


def _turned(models: Models) -> Outcome:
    found = _inspected((0, two_steps.N_CTX - 1, 0), models)
    # One logit is 1, five are 0.
    top = np.e / (np.e + len(word_level.WORDS) - 1)
    other = (1 - top) / (len(word_level.WORDS) - 1)
    return within([*found["cat"], *found["bee"]], [top, other, other, top])


def _not_turned(models: Models) -> Outcome:
    found = np.array([*_inspected((0, two_steps.N_CTX - 1, 1), models).values()])
    off = float(np.abs(found[:, 1] - found[:, 0]).max())
    return within(off, 0, said=f"largest change of a probability {off:.1e}")


def _paths(receivers: tuple[str, ...], truth: dict[str, float], models: Models) -> Outcome:
    found = path_patching.path_patch(
        models.two_steps, models.pairs, receivers=receivers, seed=models.seed
    )
    expected = [truth.get(name, 0.0) for name in found.senders]
    effects = dict(zip(found.senders, found.effects, strict=True))
    said = ", ".join(f"{name} {effects[name]:.4f}" for name in truth)
    return within(found.effects, expected, said=said)


def _direct_paths(models: Models) -> Outcome:
    return _paths(("logits",), {"a0.h0": DIRECT, "a1.h1": INDIRECT}, models)


def _path_by_values(models: Models) -> Outcome:
    return _paths(("a1.h1<v>",), {"a0.h0": INDIRECT}, models)


def _nodes(models: Models) -> Outcome:
    found = attribution.attribute_nodes(
        models.two_steps, models.pairs, sites=("z",), seed=models.seed
    )
    effects = found.scores("z").effects
    truth = np.zeros(effects.shape)
    truth[0, _LAST, 0], truth[1, _LAST, 1] = 1, INDIRECT
    said = f"L0H0 {effects[0, _LAST, 0]:.4f}, L1H1 {effects[1, _LAST, 1]:.4f}"
    return within(effects, truth, said=said)


def _edges(case: known_circuits.Case, method: str, seed: int) -> Outcome:
    found = attribution.attribute_edges(case.model, case.pairs, method=method, seed=seed)
    frame = found.to_frame()
    large = frame["score"].abs() > _NOTHING * np.abs(found.scores).max()
    return same(frame["edge"][large], case.edges)


def _induction_edges(models: Models) -> Outcome:
    return _edges(models.induction, "eap", models.seed)


def _name_mover_edges(models: Models) -> Outcome:
    return _edges(models.name_mover, "eap_ig", models.seed)


_TWO_HEADS = "head 0 of layer 0 carries all of the answer, head 1 of layer 1 0.75 of it, and no "

CHECKS = (
    Check("activation_patching.patch", _TWO_HEADS + "other head any (denoising)", _denoised),
    Check("activation_patching.patch", _TWO_HEADS + "other head any (noising)", _noised),
    Check(
        "activation_patching.patch",
        "the answer is at position 1 before layer 0, at the last position before layer 1, and "
        "nowhere else in the stream",
        _stream,
    ),
    Check(
        "activation_patching.patch",
        "without layer 0's head half of the way to the corrupted answer is gone, without layer "
        "1's 0.375 of it (zero ablation)",
        _zeroed,
    ),
    Check(
        "activation_patching.patch",
        "nothing: two heads whose output nobody reads have no effect",
        _unread,
    ),
    Check(
        "activation_patching.compare",
        "the two heads that carry the answer are those to be compared",
        _compared,
    ),
    Check(
        "activation_patching.compare_like",
        "the first head's effect is 1 by denoising, 1 by noising, and 0.5 by zero ablation, the "
        "second's 0.75, 0.75 and 0.375, and no other head has any",
        _compared_like,
    ),
    Check(
        "activation_patching.answer_direction",
        "the logit difference reads one subspace by 0.25 and another by 0.75",
        _answer_direction,
    ),
    Check(
        "activation_patching.inspect_cell",
        "patching the first head turns the answer from cat to bee",
        _turned,
    ),
    Check(
        "activation_patching.inspect_cell",
        "nothing: patching a head that does nothing changes no probability",
        _not_turned,
    ),
    Check(
        "path_patching.path_patch",
        "directly to the logits, one head sends 0.25 of the answer, another 0.75, no other "
        "component anything",
        _direct_paths,
    ),
    Check(
        "path_patching.path_patch",
        "into the second head's value, the first head sends 0.75 of the answer, no other "
        "component anything",
        _path_by_values,
    ),
    Check("attribution.attribute_nodes", _TWO_HEADS + "other head any (estimated)", _nodes),
    Check(
        "attribution.attribute_edges",
        "five edges of an induction pair matter, and no other",
        _induction_edges,
    ),
    Check(
        "attribution.attribute_edges",
        "five edges of a name mover matter, and no other (integrated gradients)",
        _name_mover_edges,
    ),
)
