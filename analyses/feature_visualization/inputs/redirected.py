"""Gradients through ReLUs that are dead.

A ReLU passes no gradient where its input is negative, so an optimization that starts where a unit
is silent never begins. While an example gets no gradient at all through a ReLU, the gradient is let
through where it would wake neurons up (lucid's redirected ReLU); as soon as it gets some, the true
gradient is used.

Source: lucid's `misc/redirected_relu_grad`. It stops redirecting after 16 steps; here it goes on
for as long as an example gets no gradient, since otherwise such an example would never move again.

Limits: calls of torch's `relu` are seen, however they are made; a ReLU written as a comparison and
a product is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_RELUS = {functional.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_}


class _Redirected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(values)
        return values.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        """Of a loss, so that a negative gradient wants a larger activation."""
        (values,) = ctx.saved_tensors
        gradient = grad_outputs[0]
        true = torch.where(values > 0, gradient, 0)
        redirected = torch.where((values <= 0) & (gradient > 0), 0, gradient)
        shape = (-1, *[1] * (values.ndim - 1))
        alive = true.flatten(1).abs().sum(1).reshape(shape) > 0
        return torch.where(alive, true, redirected)


class Redirected(TorchFunctionMode):
    """Within this context every ReLU has redirected gradients; values stay as they are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace a ReLU, and pass everything else on."""
        if func in _RELUS:
            values = args[0] if args else (kwargs or {})["input"]
            return _Redirected.apply(values)
        return func(*args, **(kwargs or {}))
