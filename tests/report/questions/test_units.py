"""What makes a unit fire, against activations that are read off the model directly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import workbench
from workbench import ContrastPairs
from workbench.core import runs
from workbench.report.examining import Answer, Examination, NotExamined
from workbench.report.questions import units
from workbench.report.spec import AuditSpec, Questions, Units

TOKENS = 3_000


def on_the_table(folder: Path, name: str = "grammar-4l", **asked: object) -> Examination:
    model = workbench.load_model(name)
    given = Units.model_validate({"tokens": TOKENS, **asked})
    spec = AuditSpec(questions=Questions(units=given))
    return Examination(
        model, workbench.fingerprint(model), spec, folder, store=runs.RunStore(folder / "runs")
    )


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """Fewer draws than an audit makes: how many groups there are is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "DRAWS", 19)
        patch.setattr(units, "RESAMPLES", 10)
        yield


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    return units.examine(on_the_table(tmp_path_factory.mktemp("audit")), "neuron 0.200")


def test_the_token_that_it_is_said_to_fire_at_drives_it(looked: Answer) -> None:
    assert looked.finding.id == "units/neuron 0.200"
    assert "'After'" in looked.finding.statement
    model = workbench.load_model("grammar-4l")
    vocabulary = torch.arange(int(model.cfg.d_vocab))[:, None]
    # Each token alone after the one that begins every text.
    begin = torch.full_like(vocabulary, int(model.tokenizer.bos_token_id))
    with torch.inference_mode():
        _, cache = model.run_with_cache(torch.hstack([begin, vocabulary]))
    best = int(cache["blocks.0.mlp.hook_post"][:, 1, 200].argmax())
    assert model.tokenizer.decode([best]).strip() == "After"


def test_numbers_have_interval_null_and_n(looked: Answer) -> None:
    numbers = {one.name: one for one in looked.section.measured}
    trigger = next(one for name, one in numbers.items() if name.endswith("at 'After'"))
    assert trigger.value is not None and trigger.null_value is not None
    assert trigger.n is not None and trigger.low is not None and trigger.high is not None
    assert trigger.low <= trigger.value <= trigger.high
    assert trigger.null_value < trigger.low
    assert trigger.p_value is not None and trigger.p_value < 0.05
    held_out = next(one for name, one in numbers.items() if "held-out" in name)
    assert held_out.n is not None and 0 < held_out.n < TOKENS / 2
    kinds = numbers["separated kinds of its largest activations"]
    assert kinds.low is not None and kinds.high is not None
    # A finding of several kinds warns, whatever the pattern.
    assert kinds.value is not None
    assert looked.finding.verdict == ("pass" if kinds.value == 1 else "warn")
    assert looked.finding.verdict != "fail"


def test_no_more_is_read_than_the_spec_allows(looked: Answer) -> None:
    above = looked.section.measured[0]
    assert above.name == "share of tokens at which it is above zero"
    assert above.n is not None and 0.5 * TOKENS < above.n <= TOKENS
    assert len(looked.section.exhibits) == 5


def test_what_cannot_be_told_of_a_few_texts_is_said(tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("\n\n".join(["near", "tiger", "the boxes are", "the box is"]))
    answer = units.examine(on_the_table(tmp_path, corpus="few.txt"), "neuron 1.199")
    assert answer.finding.verdict == "warn"
    assert answer.finding.statement.startswith("No pattern of tokens beyond chance")
    assert any("Of how many kinds" in one for one in answer.section.caveats)
    assert "few.txt" in answer.section.summary


def test_an_equal_request_is_answered_from_the_store(tmp_path: Path) -> None:
    table = on_the_table(tmp_path, tokens=600)
    first = units.examine(table, "neuron 1.3")
    made = list(table.run_ids)
    assert len(made) >= 3
    table.run_ids.clear()
    assert units.examine(table, "neuron 1.3") == first
    assert table.run_ids == made
    assert len(runs.RunStore(tmp_path / "runs").runs()) == len(made)


@pytest.mark.parametrize(
    ("unit", "sentence"),
    [
        ("x", "'x' is no unit: write kind layer.index"),
        ("neuron 9.0", "the model has layers 0 to 3, not 9"),
        ("neuron 0.512", "512"),
        ("latent 0.1", "unknown units 'latent'"),
    ],
)
def test_what_is_no_unit_is_not_examined(tmp_path: Path, unit: str, sentence: str) -> None:
    with pytest.raises(NotExamined, match=sentence):
        units.examine(on_the_table(tmp_path), unit)


def test_a_corpus_that_is_not_there_is_not_examined(tmp_path: Path) -> None:
    with pytest.raises(NotExamined, match="no file 'none.txt' beside the spec"):
        units.examine(on_the_table(tmp_path, corpus="none.txt"), "neuron 0.0")


class TestChoose:
    def test_those_of_the_spec_come_first_and_once(self, tmp_path: Path) -> None:
        table = on_the_table(tmp_path, units=["head 1.0", "neuron 0.1", "head 1.0"])
        assert units.choose(table.model, table.spec, None) == ("head 1.0", "neuron 0.1")

    def test_without_pairs_there_are_none(self, tmp_path: Path) -> None:
        table = on_the_table(tmp_path)
        assert units.choose(table.model, table.spec, None) == ()

    def test_else_the_neurons_that_move_the_behaviour_most(self, tmp_path: Path) -> None:
        table = on_the_table(tmp_path, "modadd-113", most=3)
        pairs = ContrastPairs.from_task(table.model, "modular-addition", n=8)
        chosen = units.choose(table.model, table.spec, pairs)
        assert len(chosen) == 3
        # Corrupting the one that was chosen first moves the answer's logit.
        index = int(chosen[0].split(".")[1])
        clean, corrupted = pairs.batch(pairs.groups()[0])[:2]
        hook = "blocks.0.mlp.hook_post"
        with torch.inference_mode():
            plain, _ = table.model.run_with_cache(corrupted)

            def mend(value: torch.Tensor, hook: object) -> torch.Tensor:
                mended = value.clone()
                mended[..., index] = cache_clean[..., index]
                return mended

            cache_clean = table.model.run_with_cache(clean)[1][hook]
            moved = table.model.run_with_hooks(corrupted, fwd_hooks=[(hook, mend)])
        assert not torch.allclose(plain[:, -1], moved[:, -1], atol=1e-2)
