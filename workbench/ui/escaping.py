"""Text from models and prompts, made safe to show in Streamlit's Markdown.

Streamlit reads the text of messages, labels and captions as Markdown, in which an image makes the
browser ask another host. Whatever comes from a prompt, a tokenizer or a path goes through here.
"""

from __future__ import annotations

import re

from workbench.core import reading

# ASCII punctuation that Markdown, or Streamlit's own directives and formulas, give a meaning to.
# Markdown lets each be written literally with a backslash before it.
_MEANINGFUL = re.compile(r"([\\`*_{}\[\]()#+\-!|<>~$:.])")


def markdown(text: str) -> str:
    """Escape text so that Markdown shows it as it is, on one line.

    Args:
        text: Anything.

    Returns:
        Markdown that reads as the text; line breaks and tabs have become spaces, and what would
        turn or hide text around it is written as its code point.
    """
    return _MEANINGFUL.sub(r"\\\1", reading.visible(" ".join(text.split())))
