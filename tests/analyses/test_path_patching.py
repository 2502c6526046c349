"""Path patching against known paths, plain freezing by hooks, and bad input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses import path_patching
from tests import families
from workbench import ContrastPairs
from workbench.core import results
from workbench.core.engine import metrics, running
from workbench.core.planted import known_circuits, two_steps, unplanted
from workbench.core.prompts import pairs as pairs_module

# Same computation on the same machine, so float32 rounding only.
EXACT = 1e-5
DIRECT, INDIRECT = two_steps.DIRECT, two_steps.INDIRECT


@pytest.fixture(scope="module")
def two_layer() -> TransformerBridge:
    return two_steps.two_layer()


@pytest.fixture(scope="module")
def pairs(two_layer: TransformerBridge) -> ContrastPairs:
    return two_steps.pairs(two_layer)


@pytest.fixture(scope="module")
def random_model() -> TransformerBridge:
    return unplanted.randomised()


@pytest.fixture(scope="module")
def random_pairs(random_model: TransformerBridge) -> ContrastPairs:
    return pairs_for(random_model, " ")


def pairs_for(model: TransformerBridge, space: str) -> ContrastPairs:
    answers, wrong = ("bee", "bee", "cat"), ("cat", "fox", "dog")
    return ContrastPairs.from_text(
        model,
        ["ape bee cat dog fox", "elk bee fox dog ape", "cat cat bee ape ape"],
        ["ape cat cat dog ape", "elk fox fox dog fox", "cat dog dog ape ape"],
        [space + word for word in answers],
        [space + word for word in wrong],
    )


def effects(result: path_patching.PathPatchingResult) -> dict[str, float]:
    """Effects that are not zero, by sender."""
    return {
        name: float(effect)
        for name, effect in zip(result.senders, result.effects, strict=True)
        if effect != 0
    }


class Frozen:
    """Path patching as in Wang et al.: freeze every head and MLP by hooks, then run again."""

    def __init__(self, model: TransformerBridge, tokens: Any, metric_of: Any) -> None:
        self._model, (self._base, source) = model, tokens
        self._metric_of = metric_of
        layers = range(model.cfg.n_layers)
        self._z = [f"blocks.{layer}.attn.hook_z" for layer in layers]
        self._mlp = [f"blocks.{layer}.hook_mlp_out" for layer in layers]
        names = [*self._z, *self._mlp]
        _, self._kept = running.run_and_keep(model, self._base, names)
        _, self._other = running.run_and_keep(model, source, names)

    def measure(
        self, sender: str, receiver: str = "logits", through: tuple[str, ...] = ()
    ) -> np.ndarray:
        hooks = {name: self._freeze(name, sender, through) for name in (*self._z, *self._mlp)}
        if receiver == "logits":
            return self._metric_of(running.run(self._model, self._base, hooks)[:, -1])
        point, index = self._point(receiver)
        seen: list[torch.Tensor] = []

        def look(value: torch.Tensor) -> torch.Tensor:
            seen.append(value.clone())
            return value

        # An output that is frozen stands behind what it was computed from, so this is still read.
        running.run(self._model, self._base, {**hooks, point: look})

        def hold(value: torch.Tensor) -> torch.Tensor:
            held = value.clone()
            held[:, :, index] = seen[0][:, :, index]
            return held

        return self._metric_of(running.run(self._model, self._base, {point: hold})[:, -1])

    def _point(self, receiver: str) -> tuple[str, int]:
        layer, _, rest = receiver[1:].partition(".")
        return f"blocks.{layer}.attn.hook_{rest[-2]}", int(rest[1:].partition("<")[0])

    def _freeze(self, name: str, sender: str, through: tuple[str, ...]) -> Any:
        layer = name.split(".")[1]

        def freeze(value: torch.Tensor) -> torch.Tensor:
            fixed = self._kept[name].clone()
            if name in self._mlp:
                if sender == f"m{layer}":
                    return self._other[name].clone()
                return value if f"m{layer}" in through else fixed
            for head in range(value.shape[2]):
                if f"a{layer}.h{head}" in through:
                    fixed[:, :, head] = value[:, :, head]
                if f"a{layer}.h{head}" == sender:
                    fixed[:, :, head] = self._other[name][:, :, head]
            return fixed

        return freeze


def frozen(model: TransformerBridge, pairs: ContrastPairs, *, noising: bool = True) -> Frozen:
    indices = np.arange(len(pairs))
    tokens = pairs.batch(indices)
    goal = metrics.targets(pairs, indices, running.run(model, tokens[0])[:, -1])
    sides = tokens if noising else tokens[::-1]
    return Frozen(model, sides, lambda logits: metrics.logit_difference(logits, goal).numpy())


def assert_as_frozen(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    receiver: str = "logits",
    through: tuple[str, ...] = (),
    direction: str = "noising",
) -> None:
    found = path_patching.path_patch(
        model, pairs, receivers=(receiver,), through=through, direction=direction
    )
    reference = frozen(model, pairs, noising=direction == "noising")
    for i, sender in enumerate(found.senders):
        expected = reference.measure(sender, receiver, through)
        np.testing.assert_allclose(found.per_prompt[:, i], expected, atol=EXACT, rtol=EXACT)
    base = found.clean if direction == "noising" else found.corrupted
    assert np.abs(found.per_prompt - base[:, None]).max() > 10 * EXACT


# Known paths


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_the_direct_path_has_its_wired_share(
    two_layer: TransformerBridge, pairs: ContrastPairs, direction: str
) -> None:
    found = path_patching.path_patch(two_layer, pairs, direction=direction)
    assert found.senders == ("a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1")
    assert effects(found) == {"a0.h0": pytest.approx(DIRECT), "a1.h1": pytest.approx(INDIRECT)}


def test_the_path_through_the_value_of_the_second_head_has_the_rest(
    two_layer: TransformerBridge, pairs: ContrastPairs
) -> None:
    into = path_patching.path_patch(two_layer, pairs, receivers=("a1.h1<v>",))
    assert effects(into) == {"a0.h0": pytest.approx(INDIRECT)}
    for reader in ("a1.h1<q>", "a1.h1<k>", "a1.h0", "m0"):
        assert effects(path_patching.path_patch(two_layer, pairs, receivers=(reader,))) == {}
    both = path_patching.path_patch(two_layer, pairs, through=("a1.h1<v>",))
    assert effects(both)["a0.h0"] == pytest.approx(1.0)
    other = path_patching.path_patch(two_layer, pairs, through=("a1.h0", "m0", "m1"))
    assert effects(other)["a0.h0"] == pytest.approx(DIRECT)


def test_only_the_position_that_the_head_writes_at_matters(
    two_layer: TransformerBridge, pairs: ContrastPairs
) -> None:
    last = path_patching.path_patch(two_layer, pairs, senders=["a0.h0"], positions=[-1])
    assert effects(last) == {"a0.h0": pytest.approx(DIRECT)}
    before = path_patching.path_patch(two_layer, pairs, senders=["a0.h0"], positions=[0, 1, 2])
    assert effects(before) == {}


def test_a_named_set_is_where_each_prompt_has_it(
    random_model: TransformerBridge, random_pairs: ContrastPairs
) -> None:
    found = path_patching.path_patch(random_model, random_pairs, positions=["differing tokens"])
    assert found.positions == ("differing tokens",)
    sets = ((2, 5), (2, 5), (2, 3))
    for i, where in enumerate(sets):
        one = random_pairs.subset([i])
        assert one.position_set("differing tokens").clean == (where,)
        alone = path_patching.path_patch(random_model, one, positions=[where])
        np.testing.assert_allclose(found.per_prompt[i], alone.per_prompt[0], atol=EXACT)


def test_several_position_sets_are_patched_at_once(
    random_model: TransformerBridge, random_pairs: ContrastPairs
) -> None:
    expected = path_patching.path_patch(random_model, random_pairs, positions=[1, 2, 5])
    for sets in (["last token", (1, 2)], [(2, -1), 1, 2], [-1, "first difference", 1]):
        found = path_patching.path_patch(random_model, random_pairs, positions=sets)
        np.testing.assert_array_equal(found.per_prompt, expected.per_prompt)


def test_every_set_of_positions_together_is_no_choice_at_all(
    random_model: TransformerBridge, random_pairs: ContrastPairs
) -> None:
    everywhere = path_patching.path_patch(random_model, random_pairs, receivers=["a1.h1"])
    found = path_patching.path_patch(
        random_model, random_pairs, receivers=["a1.h1"], positions=[(0, 1, 2, 3, 4, 5)]
    )
    np.testing.assert_array_equal(found.per_prompt, everywhere.per_prompt)
    assert "patched at 0, 1, 2, 3, 4, 5 only" in found.summary()


def test_a_set_that_lies_elsewhere_in_the_other_prompt_is_taken_from_there(
    two_layer: TransformerBridge,
) -> None:
    pairs = ContrastPairs.from_text(
        two_layer,
        ["ape bee cat dog"],
        ["ape cat cat dog"],
        ["bee"],
        ["cat"],
        spans={"end": [("dog", slice(8, 11))]},
    )
    (span,) = pairs.spans
    assert (span.clean, span.corrupted) == (((3,),), ((2,),))
    how: dict[str, Any] = {"senders": ["a0.h0"], "positions": ["end"]}
    # The head looks at "ape cat cat" alike from there and writes two thirds of "cat"; at the end of
    # the clean prompt it would have written all of "bee".
    found = path_patching.path_patch(two_layer, pairs, **how)
    assert found.effects[0] == pytest.approx(DIRECT * (1 + 2 / 3) / 2)
    # The other way around it writes over a position that the logits do not read.
    back = path_patching.path_patch(two_layer, pairs, **how, direction="denoising")
    assert back.effects[0] == 0


def test_equal_pairs_with_other_sets_of_one_name_are_other_runs(
    random_pairs: ContrastPairs,
) -> None:
    def made(where: int) -> dict[str, Any]:
        place = ((where,),) * 3
        spans = (pairs_module.Span("name", place, place),)
        named = dataclasses.replace(random_pairs, spans=spans)
        return path_patching.parameters(named, positions=["name"])

    assert made(1) == made(1)
    assert made(1) != made(2)
    whole = path_patching.parameters(random_pairs)
    assert path_patching.parameters(random_pairs, positions=[(0, 1)]) != whole


def test_the_embedding_reaches_the_answer_only_by_the_first_head(
    two_layer: TransformerBridge, pairs: ContrastPairs
) -> None:
    directly = path_patching.path_patch(two_layer, pairs, senders=["input"])
    assert effects(directly) == {}
    found = path_patching.path_patch(two_layer, pairs, senders=["input"], receivers=["a0.h0<v>"])
    assert effects(found) == {"input": pytest.approx(1.0)}


def test_the_previous_token_head_reaches_the_induction_head_by_its_key() -> None:
    case = known_circuits.induction()
    pairs = ContrastPairs.from_text(case.model, *case[1:5])
    match = np.exp(known_circuits.MATCH)
    # Found, a token has match / (match + 5) of the attention; not found, one sixth.
    found_share = match / (match + 5)
    lost = (found_share - 1 / 6) / (2 * found_share)
    for reader, expected in (("<k>", lost), ("<q>", 0.0), ("<v>", 0.0)):
        found = path_patching.path_patch(
            case.model, pairs, senders=["a0.h0"], receivers=[f"a1.h0{reader}"]
        )
        assert found.effects[0] == pytest.approx(expected)


# Against a plain implementation


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("receiver", ["logits", "a1.h2<q>", "a1.h0<k>", "a1.h3<v>"])
def test_effects_are_those_of_freezing_everything_else(
    random_model: TransformerBridge, random_pairs: ContrastPairs, receiver: str, direction: str
) -> None:
    assert_as_frozen(random_model, random_pairs, receiver=receiver, direction=direction)


@pytest.mark.parametrize("through", [("m0",), ("m0", "a1.h2", "m1"), ("a1.h0", "a1.h1")])
def test_what_paths_go_through_is_computed_again(
    random_model: TransformerBridge, random_pairs: ContrastPairs, through: tuple[str, ...]
) -> None:
    assert_as_frozen(random_model, random_pairs, through=through)


def test_paths_go_through_before_they_reach_a_receiver(
    random_model: TransformerBridge, random_pairs: ContrastPairs
) -> None:
    assert_as_frozen(random_model, random_pairs, receiver="a1.h1<v>", through=("m0",))


@pytest.mark.parametrize("name", ["llama", "pythia"])
@pytest.mark.parametrize("receiver", ["logits", "a1.h2<q>"])
def test_other_architectures_agree_too(name: str, receiver: str) -> None:
    model = families.bridge(name)
    assert_as_frozen(model, pairs_for(model, ""), receiver=receiver)
    assert_as_frozen(model, pairs_for(model, ""), receiver=receiver, through=("m0", "a0.h3"))


def test_shared_keys_are_received_by_their_group() -> None:
    model = families.bridge("llama")
    pairs = pairs_for(model, "")
    assert_as_frozen(model, pairs, receiver="a1.g1<k>")
    whole = path_patching.path_patch(model, pairs, receivers=("a1.h2",))
    named = path_patching.path_patch(model, pairs, receivers=("a1.h2<q>", "a1.g1<k>", "a1.g1<v>"))
    np.testing.assert_array_equal(whole.per_prompt, named.per_prompt)
    through = path_patching.path_patch(model, pairs, through=("a1.g1",))
    heads = path_patching.path_patch(model, pairs, through=("a1.g1<k>", "a1.g1<v>"))
    np.testing.assert_array_equal(through.per_prompt, heads.per_prompt)


def test_batches_do_not_change_the_effects(
    random_model: TransformerBridge, random_pairs: ContrastPairs
) -> None:
    whole = path_patching.path_patch(random_model, random_pairs)
    single = path_patching.path_patch(random_model, random_pairs, batch_size=1)
    np.testing.assert_allclose(single.per_prompt, whole.per_prompt, atol=EXACT, rtol=EXACT)


@pytest.mark.real_model
def test_a_real_model_agrees_with_freezing(stories: Path) -> None:
    model = workbench.load_model(str(stories))
    pairs = ContrastPairs.from_text(
        model,
        ["Once there was a little girl named Lily."],
        ["Once there was a little boy named Lily."],
        [" She"],
        [" He"],
    )
    senders = ["a0.h0", "a2.h3", "m1", "a4.h7"]
    found = path_patching.path_patch(model, pairs, senders=senders, receivers=["a4.h2<q>"])
    reference = frozen(model, pairs)
    for i, sender in enumerate(found.senders):
        expected = reference.measure(sender, "a4.h2<q>")
        np.testing.assert_allclose(found.per_prompt[:, i], expected, atol=EXACT, rtol=EXACT)


# Results


def test_the_result_tells_its_numbers_and_is_saved_whole(
    two_layer: TransformerBridge, pairs: ContrastPairs, tmp_path: Path
) -> None:
    found = path_patching.path_patch(two_layer, pairs)
    assert found.strongest(2) == ("a1.h1", "a0.h0")
    assert "directly to logits" in found.summary()
    assert "a1.h1 0.750 [0.750, 0.750]" in found.summary()
    frame = found.to_frame().set_index("sender")
    assert frame.loc["a0.h0", "effect"] == pytest.approx(DIRECT)
    assert set(frame["n"]) == {3}
    np.testing.assert_allclose(found.changes, found.effects * 2.0, atol=1e-6)
    again = results.Result.load(found.save(tmp_path / "result"))
    assert isinstance(again, path_patching.PathPatchingResult)
    assert again.summary() == found.summary()
    np.testing.assert_array_equal(again.per_prompt, found.per_prompt)
    assert found.provenance.parameters == path_patching.parameters(pairs)


def test_a_result_with_positions_is_saved_whole(
    two_layer: TransformerBridge, pairs: ContrastPairs, tmp_path: Path
) -> None:
    sets = ["last token", (0, 1), -2]
    found = path_patching.path_patch(two_layer, pairs, positions=sets)
    again = results.Result.load(found.save(tmp_path / "result"))
    assert isinstance(again, path_patching.PathPatchingResult)
    assert again.positions == ("last token", "0, 1", "-2")
    assert again.position_sets() == sets
    assert found.provenance.parameters == path_patching.parameters(pairs, positions=sets)


def test_the_figure_shows_layers_heads_and_mlps(
    two_layer: TransformerBridge, pairs: ContrastPairs
) -> None:
    found = path_patching.path_patch(two_layer, pairs, senders=["a0.h0", "m0", "a1.h1"])
    figure = found.figure("a1.h1", discoveries=0.05)
    grid = next(trace for trace in figure.data if isinstance(trace, go.Heatmap))
    expected = [[DIRECT, np.nan, 0.0], [np.nan, INDIRECT, np.nan]]
    np.testing.assert_allclose(np.array(grid.z, dtype=float), expected)
    bars = path_patching.path_patch(two_layer, pairs, senders=["input", "a1.h1"]).figure()
    assert isinstance(bars.data[0], go.Bar)
    assert found.cells == {"a0.h0": (0, 0), "m0": (0, 2), "a1.h1": (1, 1)}
    assert path_patching.path_patch(two_layer, pairs, senders=["input"]).cells == {}


def test_the_script_computes_the_same(
    random_model: TransformerBridge, random_pairs: ContrastPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = path_patching.path_patch(
        random_model, random_pairs, receivers=["a1.h0<q>"], through=["m0"], positions=[(1, 2), -1]
    )
    monkeypatch.setattr(workbench, "load_model", lambda name: random_model)
    scope: dict[str, Any] = {}
    exec(found.script().replace("print(", "str("), scope)
    np.testing.assert_array_equal(scope["result"].per_prompt, found.per_prompt)


def test_one_prompt_has_no_interval(two_layer: TransformerBridge, pairs: ContrastPairs) -> None:
    one = path_patching.path_patch(two_layer, pairs.subset([0]))
    assert np.isnan(one.interval).all()
    assert "one prompt says nothing" in one.summary()


def test_baselines_that_are_equal_give_changes_instead_of_effects(
    two_layer: TransformerBridge, pairs: ContrastPairs
) -> None:
    same = dataclasses.replace(pairs, corrupted_tokens=pairs.clean_tokens, corrupted=pairs.clean)
    found = path_patching.path_patch(two_layer, same)
    assert np.isnan(found.effects).all()
    assert "not normalised" in found.unit
    assert "No sender changes anything" in found.summary()


def test_progress_rises_to_the_end_and_can_cancel(
    two_layer: TransformerBridge, pairs: ContrastPairs
) -> None:
    seen: list[float] = []
    path_patching.path_patch(two_layer, pairs, progress=lambda done, _: seen.append(done))
    assert seen == sorted(seen) and seen[-1] == 0.95

    def cancel(done: float, note: str) -> None:
        raise InterruptedError(note)

    with pytest.raises(InterruptedError):
        path_patching.path_patch(two_layer, pairs, progress=cancel)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"senders": ["a0.h9"]}, "no sender a0.h9"),
        ({"senders": []}, "no sender in an empty list"),
        ({"receivers": ["a0.h9"]}, "no receiver 'a0.h9'"),
        ({"receivers": []}, "there are no receivers"),
        ({"receivers": ["logits", "m1"]}, "would hide the others"),
        ({"through": ["logits"]}, "no path goes through them"),
        ({"through": ["a7.h0"]}, "no receiver 'a7.h0'"),
        ({"metric": "loss"}, "unknown metric 'loss'"),
        ({"direction": "sideways"}, "expected one of noising, denoising"),
        ({"confidence": 2.0}, "expected a level between 0 and 1"),
        ({"positions": [4]}, "position 4 is not in every prompt; expected indices from -4 to 3"),
        ({"positions": [(0, -5)]}, "expected indices from -4 to 3"),
        ({"positions": ["the verb"]}, "no position set is called 'the verb'"),
        ({"positions": "last token"}, "expected a list of position sets: 'last token'"),
        ({"positions": []}, "expected a list of position sets"),
    ],
)
def test_bad_arguments_are_refused(
    two_layer: TransformerBridge, pairs: ContrastPairs, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        path_patching.path_patch(two_layer, pairs, **options)
