from __future__ import annotations

from workbench.ui import escaping


def test_markup_is_escaped_and_words_are_not() -> None:
    assert escaping.markdown("the cat, 2 dogs") == "the cat, 2 dogs"
    assert escaping.markdown("![x](http://a)") == r"\!\[x\]\(http\://a\)"
    assert escaping.markdown(":red[hot] $x$") == r"\:red\[hot\] \$x\$"


def test_it_stays_on_one_line() -> None:
    assert escaping.markdown("a\n\n# b\tc") == r"a \# b c"
