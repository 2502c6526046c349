"""Audit reports: a spec is examined question by question, and anyone can compute the answers again.

1. `spec` says what is asked of which model, and which thresholds make a finding pass, warn or fail.
2. `auditing.audit` puts the model through the questions, one module each in `questions/`, with the
   analyses that pages use; what is not examined is said, with its reason.
3. `document.Report` is what was found: every number, with interval, null and n. JSON is the report;
   `html` and `pdf` draw it.
4. `reproducing` computes a report again from its manifest and says which numbers differ;
   `comparing` puts two models under one spec; `selftest` puts models whose answer is known by
   construction through every analysis.

The names below are offered lazily (PEP 562): importing `workbench.report` loads no model library.
`selftest` is a package of that name, whose function is `selftest.selftest`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.report.auditing import audit
    from workbench.report.comparing import compare
    from workbench.report.document import Report
    from workbench.report.reproducing import reproduce
    from workbench.report.spec import AuditSpec

__all__ = ["AuditSpec", "Report", "audit", "compare", "reproduce"]

_HOMES = {
    "AuditSpec": "workbench.report.spec",
    "Report": "workbench.report.document",
    "audit": "workbench.report.auditing",
    "compare": "workbench.report.comparing",
    "reproduce": "workbench.report.reproducing",
}


def __getattr__(name: str) -> Any:
    """Import the module behind a public name the first time that the name is used."""
    if name not in _HOMES:
        raise AttributeError(
            f"module 'workbench.report' has no attribute {name!r}; it has {__all__}"
        )
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
