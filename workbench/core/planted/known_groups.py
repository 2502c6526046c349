"""A network of one layer whose neurons fall into groups, each with a class of its own.

1. Neurons of a group share an input, which makes a given part of their variance; the rest of it is
   noise of their own. All inputs are independent and normal.
2. The score of a class is the sum of the neurons of its group.

Limits: groups are of one size, and far above zero, so that the rectifier changes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from workbench.core.models import sources
from workbench.core.networks import architectures

GROUPS, SIZE, INPUTS = 4, 10, 300
UNITS = GROUPS * SIZE
# Group of each neuron.
TRUTH = np.repeat(np.arange(GROUPS), SIZE)


def driven(strength: float, constant: int = 0, device: str = "cpu") -> Any:
    """The network described in the module docstring.

    Args:
        strength: Part of their variance that the neurons of a group share; 0 for no groups.
        constant: How many of the first neurons read nothing.
        device: As for `workbench.load_model`.

    Returns:
        The network.
    """
    network: Any = architectures.build(architectures.Mlp(GROUPS + UNITS, (UNITS,), GROUPS))
    weights = torch.zeros(UNITS, GROUPS + UNITS)
    weights[range(UNITS), TRUTH] = strength**0.5
    weights[range(UNITS), range(GROUPS, GROUPS + UNITS)] = (1 - strength) ** 0.5
    weights[:constant] = 0
    with torch.no_grad():
        network.get_submodule("layer0.linear").weight[:] = weights
        network.get_submodule("layer0.linear").bias[:] = 6.0
        network.get_submodule("logits").weight[:] = torch.eye(GROUPS)[:, TRUTH]
    return network.to(sources.torch_device(device))


def noise(seed: int = 0) -> Float[np.ndarray, "example _"]:
    """Inputs of the network.

    Args:
        seed: Of the inputs.

    Returns:
        `INPUTS` of them.
    """
    rng = np.random.default_rng(seed)
    return rng.normal(size=(INPUTS, GROUPS + UNITS)).astype(np.float32)
