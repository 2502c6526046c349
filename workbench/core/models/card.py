"""What is known of a model: the card of a bundled one, the fingerprint of any.

Cards are read from JSON alone, so that a page can show one before torch is imported.
The fingerprint is a sha256 over the configuration and every weight, so a result can say exactly
which model it belongs to; it depends on values, names, shapes and dtypes, not on the device.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

BUNDLED = Path(__file__).parent / "bundled"


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Training(_Frozen):
    """How a bundled model was made.

    Attributes:
        script: Command that makes it again.
        data: The training data, in a sentence.
        seed: Seed of everything random in it.
        steps: Optimizer steps.
        tokens: Tokens seen, all epochs counted.
        seconds: Wall time of the training.
        optimizer: Name and settings.
        hardware: What it ran on.
    """

    script: str
    data: str
    seed: int
    steps: int
    tokens: int
    seconds: float
    optimizer: str
    hardware: str


class Measure(_Frozen):
    """One measured figure, with its unit and the number of things it is a mean over."""

    name: str
    value: float
    unit: str
    n: int
    note: str = ""


class Behaviour(_Frozen):
    """Accuracy on a named task, on the stated split of its combinations."""

    task: str
    accuracy: float
    n: int
    chance: float
    split: str


class ModelCard(_Frozen):
    """Everything worth knowing about a bundled model before using it."""

    name: str
    title: str
    summary: str
    tasks: tuple[str, ...]
    default_prompt: str
    training: Training
    measures: tuple[Measure, ...]
    behaviours: tuple[Behaviour, ...]
    references: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


def list_models() -> list[str]:
    """Names of the bundled models, in alphabetical order."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/card.json"))


def model_card(name: str) -> ModelCard:
    """Card of a bundled model.

    Args:
        name: One of `list_models()`.

    Returns:
        The validated card.

    Raises:
        ValueError: If there is no bundled model of that name.
    """
    if name not in list_models():
        names = ", ".join(list_models())
        raise ValueError(f"no bundled model is called {name!r}; the bundled models are {names}")
    return ModelCard.model_validate_json((BUNDLED / name / "card.json").read_text())


_fingerprints: weakref.WeakKeyDictionary[Any, tuple[tuple[int, ...], str]] = (
    weakref.WeakKeyDictionary()
)


def fingerprint(model: TransformerBridge) -> str:
    """Sha256 over a model's configuration and every parameter and buffer that it stores.

    Two loads of the same checkpoint agree; changing one weight in place changes it. The result is
    remembered until a parameter is written to.

    Args:
        model: Any bridge.

    Returns:
        64 hexadecimal digits.
    """
    named = _weights(model)
    state = tuple(number for _, value in named for number in (value.data_ptr(), _version(value)))
    known = _fingerprints.get(model)
    if known is not None and known[0] == state:
        return known[1]
    made = digest(json.dumps(_configuration(model), sort_keys=True), named)
    _fingerprints[model] = (state, made)
    return made


def forget_fingerprint(model: TransformerBridge) -> None:
    """Read every weight again for the next fingerprint, also where a write left no trace.

    Args:
        model: Any bridge; PyTorch does not count what is written through `weight.data`.
    """
    _fingerprints.pop(model, None)


def digest(configuration: str, named: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Sha256 over a configuration and named tensors; devices do not matter.

    Args:
        configuration: Whatever the function that the tensors compute depends on besides them.
        named: Name and values, in an order that does not change.

    Returns:
        64 hexadecimal digits.
    """
    made = hashlib.sha256(configuration.encode())
    for name, value in named:
        array = value.detach().cpu().contiguous()
        made.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        made.update(array.flatten().view(_bytes_dtype()).numpy().data)
    return made.hexdigest()


def _weights(model: TransformerBridge) -> list[tuple[str, torch.Tensor]]:
    """Every stored tensor once, by its name in the plain model, in alphabetical order.

    The bridge wraps modules and shows some of them under several names.
    """
    network = model.original_model
    first: dict[int, tuple[str, torch.Tensor]] = {}
    for name, value in (*network.named_parameters(), *network.state_dict(keep_vars=True).items()):
        first.setdefault(id(value), (name.replace("._original_component", ""), value))
    return sorted(first.values(), key=lambda pair: pair[0])


def _bytes_dtype() -> torch.dtype:
    import torch

    return torch.uint8


def _version(value: torch.Tensor) -> int:
    # Inference tensors keep no version counter and cannot be written to outside inference mode.
    return 0 if value.is_inference() else value._version


_CONFIGURATION = (
    "act_fn architecture attn_only attn_scores_soft_cap d_head d_mlp d_model d_vocab d_vocab_out "
    "eps final_rms gated_mlp n_ctx n_heads n_key_value_heads n_layers normalization_type "
    "output_logits_soft_cap parallel_attn_mlp positional_embedding_type rotary_base rotary_dim"
).split()


def _configuration(model: TransformerBridge) -> dict[str, str]:
    # Only what changes the function that the weights compute: paths and devices stay out of it.
    return {key: str(getattr(model.cfg, key, None)) for key in _CONFIGURATION}
