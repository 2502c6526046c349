"""Strings of tokenizers, which a model's files may hold anything in, wherever they are shown."""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from analyses import activation_patching, attention, direct_attribution, logit_lens
from tests.fuzz import drawing, effort, watching
from workbench import ContrastPairs
from workbench.commands import terminal
from workbench.core import plots, reading
from workbench.core.planted import word_level
from workbench.ui import escaping

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# Words of a vocabulary: no tokenizer of words has one with a space in it.
WORDS = tuple(
    dict.fromkeys(
        (
            "<img/src=x/onerror=alert(1)>",
            "</script><script>alert(1)</script>",
            "<a/href='javascript:alert(1)'>x</a>",
            "![](http://example.com/x.png)",
            "[x](javascript:alert(1))",
            "$x$`y`*z*:red[hot]",
            "\x00",
            "\x1b[2J",
            "\u202egnp.exe\u202c",
            "\u200b",
            "a\u0301\u0301\u0301\u0301\u0301\u0301",
            "{{7*7}}",
            "\ue000",
            *word_level.WORDS,
        )
    )
)
_UNESCAPED = re.compile(r"(?<!\\)(?:\\\\)*[`*_{}\[\]()#+!|<>~$:]")
_TAG = re.compile(r"<(?:img|script|a)[\s/>]")
tokens = st.sampled_from((*WORDS, *drawing.TEXTS)) | st.text(max_size=8)


@functools.cache
def model() -> TransformerBridge:
    bridge, _ = word_level.blank(
        WORDS, bos=False, n_layers=1, d_model=8, d_head=8, n_heads=1, n_ctx=8
    )
    return word_level.randomise(bridge, 0)


@effort.inputs(100)
@given(text=tokens)
@example("\ud800")
@example("a\x00b")
@example("\u202eabc")
def test_escaped_markdown_means_nothing_and_hides_nothing(text: str) -> None:
    made = escaping.markdown(text)
    assert not _UNESCAPED.search(made), made
    watching.require_plain(made)
    made.encode()


@effort.inputs(60)
@given(every=st.lists(tokens, min_size=1, max_size=5))
def test_labels_of_tokens_are_unique_and_hold_no_markup(every: list[str]) -> None:
    for numbered in (True, False):
        labels = plots.token_labels(every, numbered=numbered)
        assert len(set(labels)) == len(every)
        for label in labels:
            assert "<" not in label and label.strip()
            watching.require_plain(label)
            label.encode()


@effort.inputs(60)
@given(value=tokens | drawing.values)
def test_what_is_said_of_a_value_is_short_and_plain(value: Any) -> None:
    for made in (reading.quoted(value), reading.plain(str(value)), reading.listed([value] * 99)):
        watching.require_sentence(f"found {made}")
        assert len(made.splitlines()) <= 1
        made.encode()


@effort.inputs(60)
@given(text=tokens)
def test_a_terminal_is_told_no_controls(text: str) -> None:
    for tell in (terminal.say, terminal.complain, terminal.remark):
        with terminal_of_text() as said:
            tell(f"a {text} b")
        watching.require_plain("".join(said))


def terminal_of_text() -> Any:
    """What the consoles of commands write, as they would write it."""
    import contextlib

    @contextlib.contextmanager
    def captured() -> Any:
        said: list[str] = []
        with terminal._out.capture() as out, terminal._err.capture() as err:
            yield said
        said += [out.get(), err.get()]

    return captured()


def results_of_hostile_tokens() -> list[Any]:
    """Results of a model whose every token is hostile, made once."""
    bridge = model()
    words = list(WORDS)
    prompts = [f"{words[0]} {words[i]} {words[i + 1]}" for i in range(1, 7)]
    others = [f"{words[0]} {words[i + 1]} {words[i + 1]}" for i in range(1, 7)]
    pairs = ContrastPairs.from_text(bridge, prompts, others, [words[2]] * 6, [words[3]] * 6)
    return [
        activation_patching.patch(bridge, pairs),
        logit_lens.read(bridge, prompts[0]),
        attention.look(bridge, prompts[0]),
        direct_attribution.attribute(bridge, prompts[0], words[2]),
    ]


def test_figures_of_hostile_tokens_hold_no_markup() -> None:
    for result in results_of_hostile_tokens():
        drawn = json.loads(result.figure().to_json())
        for text in strings(drawn):
            assert not _TAG.search(text), (type(result), text)
            watching.require_plain(text.replace("<br>", ""))


def test_heat_maps_of_hostile_tokens_hold_no_markup() -> None:
    figure = plots.heatmap(
        np.eye(len(WORDS), dtype=np.float32),
        row_labels=plots.token_labels(WORDS),
        column_labels=plots.token_labels(WORDS, numbered=False),
        row_title="",
        column_title="",
        colour_title="",
    )
    assert not any(_TAG.search(text) for text in strings(json.loads(figure.to_json())))


def strings(value: Any) -> list[str]:
    """Every text in a figure that plotly draws."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in strings(one)]
