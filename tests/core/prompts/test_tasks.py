"""The named tasks: each pair has the property that its task promises."""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
import sys
from typing import Any

import pytest

from workbench.core.prompts import lexicon, sentences, tasks
from workbench.core.prompts.tasks import TextPair

ALL = sorted(tasks.TASKS)
IN_GRAMMAR = sorted(set(ALL) - {"modular-addition"})


def words(text: str) -> list[str]:
    return lexicon.split_words(text)


def changed(pair: TextPair) -> list[tuple[str, str]]:
    # Summands are whole numbers of up to three digits, years are pairs of digits.
    cut = str.split if pair.template == "sum" else words
    both = zip(cut(pair.clean), cut(pair.corrupted), strict=True)
    return [(x, y) for x, y in both if x != y]


def test_the_tasks_are_the_six_of_the_design() -> None:
    assert ALL == [
        "agreement",
        "greater-than",
        "indirect-object",
        "induction",
        "modular-addition",
        "pronoun-gender",
    ]
    for name, task in tasks.TASKS.items():
        assert task.name == name


@pytest.mark.parametrize("name", ALL)
def test_one_word_differs_and_the_answers_are_single_words(name: str) -> None:
    for pair in tasks.get_task(name).pairs(300):
        assert len(changed(pair)) == 1
        for answer in (pair.answer, pair.wrong_answer):
            assert re.fullmatch(r"\d\d" if name == "greater-than" else r" \w+", answer)
        assert pair.answer != pair.wrong_answer
        assert pair.clean == pair.clean.strip()


@pytest.mark.parametrize("name", ALL)
def test_equal_seeds_give_equal_pairs_and_more_pairs_only_add(name: str) -> None:
    task = tasks.get_task(name)
    assert task.pairs(40, seed=3) == task.pairs(40, seed=3) == task.pairs(80, seed=3)[:40]
    assert task.pairs(40, seed=3) != task.pairs(40, seed=4)
    assert len(set(task.pairs(200))) == 200
    first = list(dict.fromkeys(itertools.islice(task.stream(3), 200)))[:40]
    assert first == task.pairs(40, seed=3)


@pytest.mark.parametrize("name", IN_GRAMMAR)
def test_the_split_is_decided_by_the_hash_of_the_combination(name: str) -> None:
    task = tasks.get_task(name)
    assert all(sentences.is_held_out(pair.combination) for pair in task.pairs(300))
    trained = task.pairs(300, split="training")
    assert not any(sentences.is_held_out(pair.combination) for pair in trained)
    mixed = [sentences.is_held_out(pair.combination) for pair in task.pairs(1_000, split="all")]
    assert 0.08 < sum(mixed) / 1_000 < 0.25


@pytest.mark.parametrize("name", IN_GRAMMAR)
def test_the_corrupted_prompt_is_held_out_too(name: str) -> None:
    task = tasks.get_task(name)
    for pair in task.pairs(200):
        ((was, now),) = changed(pair)
        swapped = list(pair.combination)
        if name == "induction":
            swapped[-1] = now
        elif was in swapped and name in ("pronoun-gender", "greater-than"):
            # A year's last two digits may equal its century: the year stands last.
            swapped[len(swapped) - 1 - swapped[::-1].index(was)] = now
        assert sentences.is_held_out(tuple(swapped))


def test_the_hash_is_the_same_on_every_machine() -> None:
    assert sentences.is_held_out(("indirect-object", "friends", "Angela", "Rachel"))
    assert sentences.is_held_out(("induction", "tiger", "dirty"))
    assert not sentences.is_held_out(("indirect-object", "went", "John", "Mary"))
    family = sentences.INDIRECT_OBJECT
    sizes = [len(family.pool(frame, "held-out")) for frame in family.frames]
    assert sizes == [112, 118, 130, 126, 119, 128]


def test_indirect_object_the_answer_is_named_once_and_the_giver_twice() -> None:
    pairs = tasks.get_task("indirect-object").pairs(500)
    for pair in pairs:
        answer, wrong = pair.answer.strip(), pair.wrong_answer.strip()
        assert words(pair.clean).count(answer) == 1
        assert words(pair.clean).count(wrong) == 2
        assert words(pair.corrupted).count(answer) == 2
        assert words(pair.corrupted).count(wrong) == 1
        first_is_answer = pair.clean.index(answer) < pair.clean.index(wrong)
        assert pair.template.endswith("ABBA" if first_is_answer else "BABA")
    abba = sum(pair.template.endswith("ABBA") for pair in pairs)
    assert 200 < abba < 300
    assert len({pair.template for pair in pairs}) == 12


def test_indirect_object_holds_the_pair_of_names_out_in_both_orders() -> None:
    family = sentences.INDIRECT_OBJECT
    for frame in family.frames:
        for first, second in family.pool(frame, "held-out"):
            assert (second, first) not in family.pool(frame, "training")


def test_pronoun_gender_follows_the_person() -> None:
    female = {"Mary", "Emily", "queen", "aunt"}
    male = {"John", "Paul", "uncle", "boy"}
    seen: set[str] = set()
    for pair in tasks.get_task("pronoun-gender").pairs(1_000):
        ((was, now),) = changed(pair)
        assert {pair.answer, pair.wrong_answer} == {" she", " he"}
        assert pair.clean.endswith(" because")
        for person, answer in ((was, pair.answer), (now, pair.wrong_answer)):
            if person in female | male:
                assert answer == (" she" if person in female else " he")
                seen.add(person)
    assert seen == female | male


def test_agreement_goes_with_the_subject_and_not_with_the_distractor() -> None:
    pairs = tasks.get_task("agreement").pairs(500)
    singular, plural = set(lexicon.NOUNS), set(lexicon.NOUNS.values())
    disagreeing = 0
    for pair in pairs:
        subject, distractor = words(pair.clean)[1], words(pair.clean)[-1]
        assert pair.answer == (" are" if subject in plural else " is")
        assert pair.wrong_answer == (" are" if words(pair.corrupted)[1] in plural else " is")
        assert words(pair.corrupted)[2:] == words(pair.clean)[2:]
        disagreeing += (subject in singular) != (distractor in singular)
    assert 200 < disagreeing < 300


def test_induction_the_answer_followed_the_last_word_before() -> None:
    for pair in tasks.get_task("induction").pairs(500):
        for text, answer in ((pair.clean, pair.answer), (pair.corrupted, pair.wrong_answer)):
            sequence = words(text)
            earlier = sequence.index(sequence[-1])
            assert earlier < len(sequence) - 1
            assert sequence[earlier + 1] == answer.strip()
            assert sequence.count(answer.strip()) == 1
            assert pair.combination[1] == sequence[-1]


def test_greater_than_separates_the_answers_only_in_the_clean_prompt() -> None:
    for pair in tasks.get_task("greater-than").pairs(500):
        clean = re.search(r"(\d\d)(\d\d).*?(\d\d)$", pair.clean)
        corrupted = re.search(r"(\d\d)(\d\d).*?(\d\d)$", pair.corrupted)
        assert clean is not None and corrupted is not None
        assert clean[1] == clean[3] == corrupted[1] == corrupted[3]
        assert int(corrupted[2]) < int(pair.wrong_answer) <= int(clean[2]) < int(pair.answer)


def test_modular_addition_is_right_and_split_like_the_bundled_training() -> None:
    from workbench.core.models.training import modadd_113

    table = modadd_113.TASK.pairs()
    trained, held_out = (table[part] for part in modadd_113.TASK.split())
    splits: list[tuple[sentences.Split, Any]] = [("training", trained), ("held-out", held_out)]
    for split, members in splits:
        known = set(map(tuple, members.tolist()))
        for pair in tasks.get_task("modular-addition").pairs(200, split=split):
            for text, answer in ((pair.clean, pair.answer), (pair.corrupted, pair.wrong_answer)):
                a, b = (int(number) for number in re.findall(r"\d+", text))
                assert (a, b) in known
                assert int(answer) == (a + b) % 113
    assert tasks.get_task("modular-addition").pairs(1)[0].clean.endswith(" =")


def test_an_exhausted_task_says_how_many_pairs_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_PATIENCE", 1)
    task = tasks.get_task("indirect-object")
    only = task.pairs(1)[0]
    single = dataclasses.replace(task, draw=lambda rng, split: only)
    with pytest.raises(ValueError, match="has no 3 different held-out pairs; found 1"):
        single.pairs(3)


def test_an_unknown_task_is_named_with_the_nearest_and_all() -> None:
    with pytest.raises(ValueError, match="did you mean 'indirect-object'.*modular-addition"):
        tasks.get_task("indirect_object")
    with pytest.raises(ValueError, match="no task is called 'zzz'; the tasks are indirect-object"):
        tasks.get_task("zzz")


def test_a_word_without_gender_is_an_error() -> None:
    with pytest.raises(ValueError, match="'table' is neither a name nor a person"):
        lexicon.is_female("table")


def test_importing_tasks_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\n"
        "from workbench.core.prompts import tasks\n"
        "tasks.get_task('induction').pairs(2)\n"
        "print([m for m in ('torch', 'transformers', 'transformer_lens') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def named(pair: TextPair) -> dict[str, tuple[str, str]]:
    """What stands at each named place of a pair, in the clean and in the corrupted prompt."""
    return {
        span.name: (pair.clean[slice(*span.clean)], pair.corrupted[slice(*span.corrupted)])
        for span in pair.spans
    }


def test_indirect_object_names_both_people_and_who_gives() -> None:
    for pair in tasks.get_task("indirect-object").pairs(300):
        answer, wrong = pair.answer.strip(), pair.wrong_answer.strip()
        people = sorted((answer, wrong), key=pair.clean.index)
        assert named(pair) == {
            "first name": (people[0], people[0]),
            "second name": (people[1], people[1]),
            "giver again": (wrong, answer),
        }
        places = {span.name: span for span in pair.spans}
        assert places["first name"].clean[0] == pair.clean.index(people[0])
        assert places["second name"].clean[0] == pair.clean.index(people[1])
        assert places["giver again"].clean[0] == pair.clean.rindex(wrong)
        assert places["giver again"].corrupted[0] == pair.corrupted.rindex(answer)


@pytest.mark.parametrize(
    ("name", "part"), [("pronoun-gender", "person"), ("agreement", "the subject")]
)
def test_what_differs_has_a_name(name: str, part: str) -> None:
    for pair in tasks.get_task(name).pairs(300):
        (difference,) = changed(pair)
        assert named(pair)[part] == difference


def test_agreement_names_the_nearer_noun() -> None:
    for pair in tasks.get_task("agreement").pairs(300):
        assert named(pair)["nearer noun"] == (words(pair.clean)[-1],) * 2
        assert pair.spans[1].clean[1] == len(pair.clean)


def test_induction_names_the_first_occurrence_of_the_last_word_and_what_followed_it() -> None:
    for pair in tasks.get_task("induction").pairs(300):
        last = words(pair.clean)[-1]
        assert named(pair) == {
            "prefix before": (last, last),
            "answer before": (pair.answer.strip(), pair.wrong_answer.strip()),
        }
        prefix, answer = pair.spans
        # Spaces around, since a word may be part of another one.
        assert prefix.clean[0] == f" {pair.clean} ".index(f" {last} ")
        assert answer.clean[0] == prefix.clean[1] + 1


def test_greater_than_names_the_year_it_began() -> None:
    for pair in tasks.get_task("greater-than").pairs(300):
        years = tuple(
            match[0]
            for match in (re.search(r"\d{4}", t) for t in (pair.clean, pair.corrupted))
            if match
        )
        assert named(pair) == {
            "start year": years,
            "last two digits": (years[0][2:], years[1][2:]),
        }


def test_modular_addition_names_both_numbers() -> None:
    for pair in tasks.get_task("modular-addition").pairs(300):
        (a, b), (c, d) = (re.findall(r"\d+", text) for text in (pair.clean, pair.corrupted))
        assert named(pair) == {"first number": (a, c), "second number": (b, d)}
        assert pair.spans[1].clean == (pair.clean.rindex(b), pair.clean.index(" ="))


def test_places_of_a_sentence_are_where_its_words_stand() -> None:
    family = sentences.INDIRECT_OBJECT
    frame = family.frames[0]
    options = {
        "first": "John", "giver_is": "second", "place": "park", "gift": "book"
    }  # fmt: skip
    sentence = family.sentence(frame, ("John", "Mary"), options)
    assert sentence.prompt == "When John and Mary went to the park, Mary gave a book to"
    assert family.places(sentence) == {
        "first": (5, 9), "second": (14, 18), "place": (31, 35), "giver": (37, 41), "gift": (49, 53)
    }  # fmt: skip
