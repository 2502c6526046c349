"""Sparse autoencoders from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from sae_lens.saes.sae import SAEMetadata

from workbench.core.engine import cells
from workbench.core.models import dictionaries


def test_what_sae_lens_wrote_is_read_again(tmp_path: Path) -> None:
    config = sae_lens.StandardSAEConfig(
        d_in=8, d_sae=12, metadata=SAEMetadata(hook_name="blocks.1.hook_mlp_out")
    )
    made = sae_lens.StandardSAE(config)
    made.save_model(tmp_path / "sae")
    opened = dictionaries.load_dictionary(tmp_path / "sae")
    assert isinstance(opened, sae_lens.SAE) and isinstance(opened, cells.Dictionary)
    again: Any = opened
    assert again.cfg.metadata.hook_name == "blocks.1.hook_mlp_out"
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again.encode(x), made.encode(x), atol=0, rtol=0)
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cfg\.json and sae_weights\.safetensors of sae-lens are"):
        dictionaries.load_dictionary(tmp_path)


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text("{}")
    (tmp_path / "sae_weights.safetensors").write_bytes(b"not it")
    with pytest.raises(ValueError, match="cannot be read as a sparse autoencoder"):
        dictionaries.load_dictionary(tmp_path)
