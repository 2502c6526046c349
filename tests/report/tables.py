"""A model on the table, as the questions of an audit are given it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench.core import runs
from workbench.report.examining import Examination
from workbench.report.spec import AuditSpec, Circuit, Questions


def on_the_table(
    model: TransformerBridge | str,
    *,
    spec: AuditSpec | None = None,
    folder: Path = Path(),
    store: runs.RunStore | None = None,
) -> Examination:
    bridge = workbench.load_model(model) if isinstance(model, str) else model
    asked = spec or AuditSpec(questions=Questions(circuit=Circuit(random=19)))
    return Examination(bridge, workbench.fingerprint(bridge), asked, folder, store)


def forgetful(name: str) -> TransformerBridge:
    """A bundled model whose words are shuffled at its output: it knows no answer any more."""
    model = workbench.load_model(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = model.unembed.original_component.weight
        weight.copy_(weight[torch.randperm(len(weight), generator=generator)])
    return model
