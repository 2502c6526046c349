"""Which three findings matter most to somebody who reads nothing else?

1. What fails comes before what carries a warning, that before what passes; what was not examined
   comes last.
2. Of equal verdict, each question is heard once before one is heard twice, and the questions are
   heard in the order in which a reader cares: does it do what it is meant to, then how.
"""

from __future__ import annotations

from collections.abc import Sequence

from workbench.report.document import Finding
from workbench.report.spec import Question, Verdict

MOST = 3
URGENCY: tuple[Verdict, ...] = ("fail", "warn", "pass", "not examined")
INTEREST: tuple[Question, ...] = (
    "behaviour",
    "training",
    "circuit",
    "localization",
    "concepts",
    "sites",
    "units",
)


def headlines(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Choose the most important findings.

    Args:
        findings: All of them, in the order of the report.

    Returns:
        Ids of three, or of all where there are fewer.
    """
    chosen: list[str] = []
    for verdict in URGENCY:
        chosen += _turns([one for one in findings if one.verdict == verdict])
    return tuple(chosen[:MOST])


def _turns(findings: Sequence[Finding]) -> list[str]:
    """Ids in rounds: the first finding of every question, then the second of every question."""
    by_question = {
        question: [one.id for one in findings if one.question == question] for question in INTEREST
    }
    rounds = max(map(len, by_question.values()))
    return [ids[i] for i in range(rounds) for ids in by_question.values() if i < len(ids)]
