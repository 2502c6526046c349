"""A one-layer network that adds in a cyclic group by rotation, with frequencies of one's choice.

- Each operand's embedding is (cos, sin) of its angle w_k i, for each chosen frequency k.
- Attention at `=` is uniform, so that the residual stream there holds cos(w i) + cos(w j), and the
  same for the sines.
- Neuron φ of frequency k computes relu(cos(w i + φ) + cos(w j + φ)), which is
  |2 cos(w (i - j) / 2)| times relu(±cos(w (i + j) / 2 + φ)). The second harmonic of relu(cos θ) is
  2 / (3π) cos 2θ, whatever the sign.
- The unembedding reads Σ_φ cos(w c + 2φ) times the neuron, in which other harmonics cancel.

The logit of c is therefore, up to aliases of the 14th harmonic, GAIN · Σ_k |2 cos(w (i - j) / 2)|
cos(w (i + j - c)): largest at c = i + j whenever the chosen waves tell the elements apart.

Limits: a task has to be addition in a cyclic group.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from workbench.core.models import anatomy
from workbench.core.modular import tasks, theory
from workbench.core.planted import word_level

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

PHASES = 16
GAIN = 8.0
ADDITION = tasks.Task(p=13, fraction=0.5)
KEYS = (2, 5)


def expected_logits(task: tasks.Task, keys: tuple[int, ...] = KEYS) -> np.ndarray:
    """Logits over elements (i, j, c), by the formula of the module docstring.

    Args:
        task: Addition, or what is addition of logarithms.
        keys: The frequencies.

    Returns:
        The logits.

    Raises:
        ValueError: If the task is no addition in a cyclic group.
    """
    group = _group(task)
    i, j, c = np.ogrid[: group.n, : group.n, : group.n]
    waves = [2 * np.pi * k / group.n for k in keys]
    terms = [np.abs(2 * np.cos(w * (i - j) / 2)) * np.cos(w * (i + j - c)) for w in waves]
    return GAIN * np.sum(terms, axis=0)


def adder(task: tasks.Task = ADDITION, keys: tuple[int, ...] = KEYS) -> TransformerBridge:
    """The network described in the module docstring.

    Args:
        task: Addition, or what is addition of logarithms.
        keys: The frequencies.

    Returns:
        The network.

    Raises:
        ValueError: If the task is no addition in a cyclic group.
    """
    group = _group(task)
    angles = 2 * np.pi * np.outer(np.arange(group.n), keys) / group.n
    waves = torch.tensor(np.hstack([np.cos(angles), np.sin(angles)]), dtype=torch.float32)
    width = 2 * len(keys)
    model = _network(task.p, width, PHASES * len(keys))
    plain = anatomy.stored_parameters(model)
    reads, writes = slice(0, width), slice(width, 2 * width)
    phases = 2 * math.pi * torch.arange(PHASES) / PHASES
    with torch.no_grad():
        for parameter in plain.values():
            parameter.zero_()
        plain["tok_embed.weight"][torch.from_numpy(group.first), reads] = waves
        plain["head.weight"][torch.from_numpy(group.answer), writes] = waves
        plain["layers.0.attn.v.weight"][:, reads] = torch.eye(width)
        plain["layers.0.attn.o.weight"][reads] = 3 * torch.eye(width)
        for i in range(len(keys)):
            rows = slice(i * PHASES, (i + 1) * PHASES)
            cosine, sine = i, len(keys) + i
            plain["layers.0.mlp.fc_in.weight"][rows, cosine] = phases.cos()
            plain["layers.0.mlp.fc_in.weight"][rows, sine] = -phases.sin()
            # Sixteen neurons give a second harmonic of 8 · 2 / (3π).
            scale = GAIN * 3 * math.pi / PHASES
            plain["layers.0.mlp.fc_out.weight"][width + cosine, rows] = scale * (2 * phases).cos()
            plain["layers.0.mlp.fc_out.weight"][width + sine, rows] = -scale * (2 * phases).sin()
    return model


def randomised(p: int, *, seed: int = 0) -> TransformerBridge:
    """A network of the same kind whose every parameter, biases included, is random.

    Args:
        p: The modulus.
        seed: Of the parameters.

    Returns:
        The network.
    """
    return word_level.randomise(_network(p, 8, 32), seed)


def _network(p: int, width: int, neurons: int) -> TransformerBridge:
    """A native network with a head of that width, reading and writing as many directions each."""
    return word_level.bridge(
        (*map(str, range(p)), "="),
        bos=False,
        d_model=2 * width,
        d_head=width,
        n_heads=1,
        n_layers=1,
        n_ctx=3,
        d_mlp=neurons,
    )


def _group(task: tasks.Task) -> theory.Cyclic:
    group = theory.cyclic(task)
    if group is None:
        raise ValueError(f"{task} is no addition in a cyclic group: waves do not solve it")
    return group
