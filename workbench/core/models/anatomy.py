"""What a model is made of: its architecture, its parameters, and every hook point with its shape.

Shapes of hook points are read off real forward passes of two sizes: an axis that grows with the
batch is `batch`, one that grows with the prompt is `position`, every other is a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from workbench.core.engine import running

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_FACTS = {
    "architecture": "architecture",
    "layers": "n_layers",
    "d_model": "d_model",
    "query heads": "n_heads",
    "key/value heads": "n_key_value_heads",
    "d_head": "d_head",
    "d_mlp": "d_mlp",
    "activation": "act_fn",
    "normalization": "normalization_type",
    "positions": "positional_embedding_type",
    "context (tokens)": "n_ctx",
    "vocabulary": "d_vocab",
    "number format": "dtype",
    "device": "device",
}


def architecture(model: TransformerBridge) -> pd.DataFrame:
    """The facts of a model's configuration, one row each.

    Args:
        model: Any bridge.

    Returns:
        Columns `fact` and `value`, both text; facts that the model does not have are left out.
    """
    facts = {name: getattr(model.cfg, field, None) for name, field in _FACTS.items()}
    facts["key/value heads"] = facts["key/value heads"] or facts["query heads"]
    facts["parameters"] = f"{sum(p.numel() for p in stored_parameters(model).values()):,}"
    rows = [(name, str(value)) for name, value in facts.items() if value is not None]
    return pd.DataFrame(rows, columns=["fact", "value"])


def parameters(model: TransformerBridge) -> pd.DataFrame:
    """Every parameter: name, shape, count, mean, standard deviation and largest absolute value.

    Args:
        model: Any bridge.

    Returns:
        One row a parameter tensor, in the model's order.
    """
    rows = []
    for name, value in stored_parameters(model).items():
        flat = value.detach().float()
        rows.append(
            {
                "parameter": name,
                "shape": " × ".join(map(str, value.shape)),
                "count": value.numel(),
                "mean": float(flat.mean()),
                "standard deviation": float(flat.std(correction=0)),
                "largest": float(flat.abs().max()),
            }
        )
    return pd.DataFrame(rows)


def hook_points(model: TransformerBridge) -> pd.DataFrame:
    """Every hook point with the shape of its activation.

    Args:
        model: Any bridge with token inputs.

    Returns:
        Columns `hook point`, `shape` (batch × position × …; empty where the hook does not fire in
        a plain forward pass), `fires`, and `same as`: the first name of the same hook point.
    """
    n_ctx = int(model.cfg.n_ctx)
    sizes = (2, min(3, n_ctx)), (4, min(5, n_ctx))
    small, large = (_shapes(model, *size) for size in sizes)
    first: dict[int, str] = {}
    rows = []
    for name, point in model.hook_dict.items():
        shape = _symbolic(small[name], large[name], sizes) if name in small else ""
        original = first.setdefault(id(point), name)
        rows.append((name, shape, name in small, "" if original == name else original))
    return pd.DataFrame(rows, columns=["hook point", "shape", "fires", "same as"])


def stored_parameters(model: TransformerBridge) -> dict[str, torch.nn.Parameter]:
    """Parameters of the model that the bridge wraps, under the names of its checkpoint.

    Args:
        model: Any bridge.

    Returns:
        The parameters, in the model's order.
    """
    # The bridge wraps each module and shows that in its parameters' names; the checkpoint does not.
    named = model.original_model.named_parameters()
    return {name.replace("._original_component", ""): value for name, value in named}


def _shapes(model: TransformerBridge, batch: int, length: int) -> dict[str, tuple[int, ...]]:
    # Several names may lead to one hook point, so shapes are kept by the hook point's identity.
    seen: dict[int, tuple[int, ...]] = {}

    def record(point: int) -> running.HookFunction:
        def look(activation: torch.Tensor) -> torch.Tensor:
            seen[point] = tuple(activation.shape)
            return activation

        return look

    points = {name: id(point) for name, point in model.hook_dict.items()}
    tokens = torch.zeros(batch, length, dtype=torch.long)
    with running.observing(model, {name: record(point) for name, point in points.items()}):
        model(tokens.to(model.cfg.device), return_type="logits")
    return {name: seen[point] for name, point in points.items() if point in seen}


def _symbolic(
    small: tuple[int, ...], large: tuple[int, ...], sizes: tuple[tuple[int, int], tuple[int, int]]
) -> str:
    batches, lengths = zip(*sizes, strict=True)
    axes = {batches: "batch", lengths: "position"}
    return " × ".join(axes.get(pair, str(pair[0])) for pair in zip(small, large, strict=True))
