"""Hooks go on by validated names, come off again, and never mix between threads."""

from __future__ import annotations

import threading

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from workbench.core.engine import running
from workbench.core.planted import unplanted

TOKENS = torch.tensor([[6, 0, 1, 2]])
NAME = "blocks.0.hook_mlp_out"


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return unplanted.randomised()


def hooks_left(model: TransformerBridge) -> int:
    # Several names may lead to one hook point.
    points = {id(point): point for point in model.hook_dict.values()}
    return sum(len(point.fwd_hooks) for point in points.values())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("blocks.0.hook_mlp_ou", "blocks.0.hook_mlp_out"), ("blocks.7.hook_resid_pre", "blocks.1.")],
)
def test_an_unknown_hook_name_is_an_error_that_names_the_nearest(
    model: TransformerBridge, name: str, nearest: str
) -> None:
    with pytest.raises(ValueError, match=rf"has no hook point '{name}' \(nearest: .*{nearest}"):
        running.run(model, TOKENS, {name: lambda value: value})
    with pytest.raises(ValueError, match="has no hook point"):
        running.run_and_keep(model, TOKENS, [name])
    assert hooks_left(model) == 0


def test_a_replacement_changes_the_logits_and_is_gone_afterwards(model: TransformerBridge) -> None:
    plain = running.run(model, TOKENS)
    patched = running.run(model, TOKENS, {NAME: torch.zeros_like})
    assert float((plain - patched).abs().max()) > 0.01
    assert torch.equal(running.run(model, TOKENS), plain)
    assert plain.is_inference()


def test_kept_activations_are_those_of_the_bridges_own_cache(model: TransformerBridge) -> None:
    names = [NAME, "blocks.1.attn.hook_z", "blocks.1.hook_resid_pre"]
    logits, kept = running.run_and_keep(model, TOKENS, names)
    with torch.no_grad():
        expected, cache = model.run_with_cache(TOKENS)
    assert torch.equal(logits, expected)
    for name in names:
        assert torch.equal(kept[name], cache[name])


def test_hooks_come_off_after_an_exception_and_the_lock_is_free(model: TransformerBridge) -> None:
    def fail(value: torch.Tensor) -> torch.Tensor:
        raise KeyError("stop")

    with pytest.raises(KeyError):
        running.run(model, TOKENS, {NAME: fail})
    assert hooks_left(model) == 0
    free = threading.Thread(target=running.run, args=(model, TOKENS))
    free.start()
    free.join(timeout=30)
    assert not free.is_alive()


def test_a_hook_that_does_not_fire_is_an_error(model: TransformerBridge) -> None:
    with (
        pytest.raises(RuntimeError, match=r"did not fire in this forward pass: \['blocks.0.hook_m"),
        running.hooked(model, {NAME: lambda value: value}),
    ):
        pass


def test_somebody_elses_hooks_stay(model: TransformerBridge) -> None:
    seen: list[int] = []

    def count(tensor: torch.Tensor, *, hook: object) -> None:
        seen.append(1)

    model.hook_dict[NAME].add_hook(count)
    try:
        running.run(model, TOKENS, {NAME: lambda value: value})
        with running.observing(model, {NAME: lambda value: value}):
            model(TOKENS)
        running.run(model, TOKENS)
        assert len(seen) == 3
        assert hooks_left(model) == 1
    finally:
        model.reset_hooks()


def test_observing_passes_over_hooks_that_stay_silent(model: TransformerBridge) -> None:
    seen: list[str] = []
    silent = "blocks.0.attn.hook_result"

    def note(name: str) -> running.HookFunction:
        def look(value: torch.Tensor) -> torch.Tensor:
            seen.append(name)
            return value * 0

        return look

    plain = running.run(model, TOKENS)
    with running.observing(model, {NAME: note(NAME), silent: note(silent)}):
        looked_at = model(TOKENS)
    assert seen == [NAME]
    torch.testing.assert_close(looked_at, plain, atol=0, rtol=0)
    assert hooks_left(model) == 0


def test_threads_that_hook_one_model_never_see_each_others_hooks(model: TransformerBridge) -> None:
    """Without the lock nearly all of these are wrong, without an error."""
    scales = [0.0, 0.5, 2.0, -1.0]
    serial = [running.run(model, TOKENS, {NAME: lambda v, s=s: v * s}) for s in scales]
    wrong: list[int] = []

    def work(which: int) -> None:
        for _ in range(25):
            found = running.run(model, TOKENS, {NAME: lambda v: v * scales[which]})
            if not torch.equal(found, serial[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(scales))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert hooks_left(model) == 0


def test_each_model_has_a_lock_of_its_own(model: TransformerBridge) -> None:
    other = unplanted.randomised()
    assert running.lock_of(model) is running.lock_of(model)
    assert running.lock_of(model) is not running.lock_of(other)
