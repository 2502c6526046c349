"""Alignment: worked by hand on small cases, and what must hold for every pair of sequences."""

from __future__ import annotations

import itertools
import random

import pytest

from workbench.core.prompts import alignment

Matching = tuple[tuple[int, int], ...]


def spelled(text: str) -> list[int]:
    """One token a letter, so that a case can be read."""
    return [ord(letter) for letter in text]


@pytest.mark.parametrize(
    ("clean", "corrupted", "expected"),
    [
        ("abcd", "abcd", ((0, 0), (1, 1), (2, 2), (3, 3))),
        ("abcd", "abxcd", ((0, 0), (1, 1), (2, 3), (3, 4))),
        ("abxcd", "abcd", ((0, 0), (1, 1), (3, 2), (4, 3))),
        ("abc", "axc", ((0, 0), (1, 1), (2, 2))),
        ("abc", "axyc", ((0, 0), (1, 2), (2, 3))),
        ("axyc", "abc", ((0, 0), (2, 1), (3, 2))),
        ("abcdz", "axydz", ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4))),
        ("a", "xyz", ((0, 2),)),
        ("ab", "b", ((1, 0),)),
        ("abq", "abr", ((0, 0), (1, 1), (2, 2))),
        ("aaaa", "aa", ((0, 0), (3, 1))),
    ],
    ids=[
        "equal",
        "insertion",
        "deletion",
        "substitution",
        "one token by two",
        "two tokens by one",
        "two by two",
        "nothing in common",
        "only the end in common",
        "last tokens differ",
        "repeated token",
    ],
)
def test_alignments_worked_by_hand(clean: str, corrupted: str, expected: Matching) -> None:
    assert alignment.align(spelled(clean), spelled(corrupted)) == expected


def test_a_name_of_two_tokens_is_matched_at_its_last_token_where_it_is_an_anchor() -> None:
    # The name n becomes s x, and s stands again after the name.
    clean, corrupted = spelled("ansz"), spelled("asxsz")
    assert alignment.align(clean, corrupted) == ((0, 0), (2, 1), (3, 4))
    named = alignment.align(clean, corrupted, [((1,), (1, 2))])
    assert named == ((0, 0), (1, 2), (2, 3), (3, 4))


def test_an_anchor_of_as_many_tokens_is_matched_one_to_one() -> None:
    # A diff would match the two x's with each other.
    clean, corrupted = spelled("abxz"), spelled("axbqz")
    assert alignment.align(clean, corrupted, [((1, 2), (1, 2))]) == ((0, 0), (1, 1), (2, 2), (3, 4))


def test_what_stands_before_an_anchor_is_not_matched_with_what_stands_behind_it() -> None:
    # The b stands before the anchor n in the one prompt and behind it in the other.
    clean, corrupted = spelled("abnz"), spelled("anbqz")
    assert (1, 2) in alignment.align(clean, corrupted)
    assert alignment.align(clean, corrupted, [((2,), (1,))]) == ((0, 0), (2, 1), (3, 4))


def test_the_words_that_swap_places_keep_one_order() -> None:
    clean, corrupted = spelled("1m5b9"), spelled("1b56m9")
    matching = alignment.align(clean, corrupted)
    assert matching == ((0, 0), (1, 4), (4, 5))
    with pytest.raises(
        alignment.AlignmentError, match="anchors 1 and 2 stand in another order"
    ) as caught:
        alignment.align(clean, corrupted, [((1,), (4,)), ((3,), (1,))])
    assert caught.value.anchors == (0, 1)


def test_the_last_tokens_are_matched_where_an_anchor_ends_one_prompt_only() -> None:
    anchor = ((2,), (2,))
    assert alignment.align([1, 2, 3], [1, 2, 3, 4], [anchor]) == ((0, 0), (1, 1), (2, 3))
    assert alignment.align([1, 2, 3, 4], [1, 2, 3], [anchor]) == ((0, 0), (1, 1), (3, 2))


def test_an_anchor_may_lie_in_another_one() -> None:
    # The phrase b c d becomes x c y d, and c in it is named too.
    clean, corrupted = spelled("abcdz"), spelled("axcydz")
    matching = alignment.align(clean, corrupted, [((1, 2, 3), (1, 2, 3, 4)), ((2,), (2,))])
    assert matching == ((0, 0), (1, 1), (2, 2), (3, 4), (4, 5))


@pytest.mark.parametrize(
    ("anchor", "message"),
    [
        (((), (1,)), r"anchor 1 has the clean positions \(\); expected at least one, from 0 to 2"),
        (((1,), (4,)), r"anchor 1 has the corrupted positions \(4,\); .* from 0 to 3"),
        (((-1,), (1,)), r"clean positions \(-1,\)"),
    ],
)
def test_an_anchor_outside_of_its_prompt_is_refused(anchor: alignment.Anchor, message: str) -> None:
    with pytest.raises(alignment.AlignmentError, match=message):
        alignment.align([1, 2, 3], [1, 2, 3, 4], [anchor])


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(alignment.AlignmentError, match="a prompt without tokens"):
        alignment.align([], [1])


def common_subsequence(x: list[int], y: list[int]) -> int:
    """Length of the longest common subsequence: no order-keeping match can have more equals."""
    best = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i, j in itertools.product(range(len(x)), range(len(y))):
        longer = max(best[i][j + 1], best[i + 1][j])
        best[i + 1][j + 1] = best[i][j] + 1 if x[i] == y[j] else longer
    return best[-1][-1]


def test_every_alignment_keeps_the_order_and_ends_with_both_last_tokens() -> None:
    rng = random.Random(0)
    for _ in range(2_000):
        x, y = ([rng.randrange(5) for _ in range(rng.randint(1, 12))] for _ in range(2))
        matching = alignment.align(x, y)
        for (i, j), (i_next, j_next) in itertools.pairwise(matching):
            assert i < i_next and j < j_next
        assert matching[0][0] >= 0 and matching[0][1] >= 0
        assert matching[-1] == (len(x) - 1, len(y) - 1)
        assert sum(x[i] == y[j] for i, j in matching) <= common_subsequence(x, y)
        prefix = 0
        while prefix < min(len(x), len(y)) - 1 and x[prefix] == y[prefix]:
            assert matching[prefix] == (prefix, prefix)
            prefix += 1
        assert alignment.align(x, x) == tuple((i, i) for i in range(len(x)))


def test_every_anchor_is_matched_with_itself_only() -> None:
    rng = random.Random(1)
    for _ in range(2_000):
        x, y = ([rng.randrange(5) for _ in range(rng.randint(4, 12))] for _ in range(2))
        starts = [rng.randrange(len(tokens) - 2) for tokens in (x, y)]
        stops = [start + rng.randint(1, 2) for start in starts]
        inside = [range(a, b) for a, b in zip(starts, stops, strict=True)]
        matching = alignment.align(x, y, [(inside[0], inside[1])])
        for (i, j), (i_next, j_next) in itertools.pairwise(matching):
            assert i < i_next and j < j_next
        last = (len(x) - 1, len(y) - 1)
        assert matching[-1] == last
        assert all((i in inside[0]) == (j in inside[1]) for i, j in matching[:-1])
        # The anchors end before the last tokens, so each has its own last token matched.
        assert (stops[0] - 1, stops[1] - 1) in matching


WORDS = dict(enumerate(("Mary", " and", " Ann", " Lee", " went", " to")))


def rows(tokens: list[int]) -> list[tuple[int, str]]:
    return [(token, WORDS[token]) for token in tokens]


def test_the_table_is_in_reading_order_with_the_clean_tokens_before_the_corrupted_ones() -> None:
    clean, corrupted = rows([0, 1, 2, 4]), rows([0, 3, 5, 4])
    assert alignment.table(clean, corrupted, ((0, 0), (3, 3))) == [
        ("Mary", "Mary", "same"),
        (" and", "", "only in clean"),
        (" Ann", "", "only in clean"),
        ("", " Lee", "only in corrupted"),
        ("", " to", "only in corrupted"),
        (" went", " went", "same"),
    ]
    assert alignment.table(clean[:1], corrupted[1:2], ((0, 0),)) == [
        ("Mary", " Lee", "substituted")
    ]


def test_the_picture_has_matched_tokens_above_each_other() -> None:
    clean, corrupted = rows([0, 1, 2, 4]), rows([0, 2, 3, 4])
    picture = alignment.picture(alignment.table(clean, corrupted, ((0, 0), (2, 2), (3, 3))))
    assert picture.splitlines() == [
        "clean:     [Mary] [ and]        [ Ann] [ went]",
        "corrupted: [Mary]        [ Ann] [ Lee] [ went]",
    ]


def test_a_line_break_in_a_token_does_not_break_the_picture() -> None:
    picture = alignment.picture([alignment.Row("a\nb", "c", "substituted")])
    assert picture.splitlines() == [r"clean:     [a\nb]", "corrupted: [c]"]
