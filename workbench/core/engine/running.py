"""How a model is run: one lock per model, inference mode, hooks by validated names that come off.

Hooks on one model are not thread-safe: two threads that hook the same model silently get each
other's interventions. Every hooked forward pass therefore runs under the model's one lock, and each
pass takes it anew, so that two long analyses of one model take turns instead of waiting for a
whole run.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int

from workbench.core import reading

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge import TransformerBridge

HookFunction = Callable[[torch.Tensor], torch.Tensor]
Progress = Callable[[float, str], None]

_locks: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()
# TransformerLens counts the levels of its own contexts upward from 1.
_levels = itertools.count(1_000_000)


def lock_of(model: TransformerBridge) -> threading.RLock:
    """The one lock of a model; hold it for as long as hooks are on the model."""
    with _locks_guard:
        return _locks.setdefault(model, threading.RLock())


def require_hooks(model: TransformerBridge, names: Iterable[str]) -> dict[str, HookPoint]:
    """Look up hook points, since the bridge itself ignores unknown names without a word.

    Args:
        model: The bridge.
        names: Hook points that are about to be used.

    Returns:
        Name to hook point.

    Raises:
        ValueError: If the model has no hook point of a given name; names the nearest ones.
    """
    # The bridge gathers this anew at each access, which takes longer than a small model's layer.
    known = model.hook_dict
    for name in names:
        if name not in known:
            near = reading.nearest(name, known)
            raise ValueError(f"{model.cfg.model_name!r} has no hook point {name!r} {near}")
    return {name: known[name] for name in names}


@contextlib.contextmanager
def hooked(model: TransformerBridge, hooks: Mapping[str, HookFunction]) -> Generator[None]:
    """Put functions on hook points for the duration of the block, under the model's lock.

    Args:
        model: The bridge; hooks that somebody else put on it stay.
        hooks: Hook point name to a function of the activation that returns its replacement.

    Yields:
        Nothing; run the model inside of the block.

    Raises:
        ValueError: If a hook point does not exist.
        RuntimeError: If the block ended without an error and a hook had not fired.
    """
    points = require_hooks(model, hooks)
    fired: set[str] = set()

    def watched(name: str) -> Callable[..., torch.Tensor]:
        def replace(activation: torch.Tensor, hook: object = None) -> torch.Tensor:
            fired.add(name)
            return hooks[name](activation)

        return replace

    with _attached(model, [(point, watched(name)) for name, point in points.items()]):
        yield
    silent = sorted(set(hooks) - fired)
    if silent:
        raise RuntimeError(f"hook points that exist did not fire in this forward pass: {silent}")


@contextlib.contextmanager
def observing(model: TransformerBridge, hooks: Mapping[str, HookFunction]) -> Generator[None]:
    """Like `hooked` for looking only: hook points that stay silent are no error.

    Some hook points of a model fire only after a setting (`set_use_attn_result`); they are passed
    over. Aliases of one hook point are hooked once.
    """
    points = require_hooks(model, hooks)
    once = {id(point): (point, hooks[name]) for name, point in points.items()}

    def watched(function: HookFunction) -> Callable[..., None]:
        def look(activation: torch.Tensor, hook: object = None) -> None:
            function(activation)

        return look

    with _attached(model, [(point, watched(function)) for point, function in once.values()]):
        yield


@contextlib.contextmanager
def _attached(
    model: TransformerBridge, functions: Sequence[tuple[HookPoint, Callable[..., Any]]]
) -> Generator[None]:
    """Functions on hook points, under the lock, without gradients; off again whatever happens.

    They go on the hook points themselves: the bridge's own context looks every name up again, which
    doubles the time of a small model's forward pass.
    """
    # Hooks carry a level and come off by it; one of its own for each block keeps blocks apart.
    level = next(_levels)
    with lock_of(model), torch.inference_mode():
        try:
            for point, function in functions:
                point.add_hook(function, level=level)
            yield
        finally:
            for point, _ in functions:
                point.remove_hooks(dir="fwd", level=level)


def run(
    model: TransformerBridge,
    tokens: Int[torch.Tensor, "batch position"],
    hooks: Mapping[str, HookFunction] | None = None,
) -> Float[torch.Tensor, "batch position d_vocab"]:
    """Logits of one forward pass, with hooks if any are given.

    Args:
        model: The bridge.
        tokens: Prompts of one length; nothing is ever padded.
        hooks: Hook point name to a function of the activation that returns its replacement.

    Returns:
        The logits.
    """
    with hooked(model, hooks or {}):
        return model(tokens.to(model.cfg.device), return_type="logits")


def run_and_keep(
    model: TransformerBridge,
    tokens: Int[torch.Tensor, "batch position"],
    names: Sequence[str],
) -> tuple[Float[torch.Tensor, "batch position d_vocab"], dict[str, torch.Tensor]]:
    """Logits of one forward pass together with the activations at the named hook points.

    Args:
        model: The bridge.
        tokens: Prompts of one length.
        names: Hook points to keep, and no others: a full cache takes ten times the memory.

    Returns:
        The logits, and hook point name to activation.
    """
    kept: dict[str, torch.Tensor] = {}

    def keeper(name: str) -> HookFunction:
        def keep(activation: torch.Tensor) -> torch.Tensor:
            kept[name] = activation.clone()
            return activation

        return keep

    logits = run(model, tokens, {name: keeper(name) for name in names})
    return logits, kept


def no_progress(fraction: float, note: str) -> None:
    """Ignore progress; the default of every long function."""


def part(progress: Progress, start: float, end: float) -> Progress:
    """Progress of a part of a run, which takes the fractions from start to end."""
    return lambda fraction, note: progress(start + (end - start) * fraction, note)
