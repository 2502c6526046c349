"""Published dictionaries: what is said where they cannot be had."""

from __future__ import annotations

from typing import Any

import pytest
import sae_lens

from workbench.core.models import dictionaries


@pytest.mark.parametrize(
    ("release", "sae_id", "message"),
    [
        ("gpt2-small-res-jb", "blocks.0.hook_resid_pre", "is not on this machine and cannot be"),
        ("someone/something", "x", "is not on this machine and cannot be fetched"),
        ("no-such-release", "x", "cannot be loaded: Release no-such-release not found"),
        ("gpt2-small-res-jb", "x", "cannot be loaded: ID x not found in release"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(release: str, sae_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        dictionaries.load_release(release, sae_id)
    assert "\n" not in str(error.value)


def test_what_is_there_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fetched(release: str, sae_id: str, device: str) -> sae_lens.SAE[Any]:
        asked.append((release, sae_id, device))
        return sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=4, d_sae=8))

    monkeypatch.setattr(sae_lens.SAE, "from_pretrained", fetched)
    made = dictionaries.load_release("some-release", "blocks.0.hook_resid_pre")
    assert asked == [("some-release", "blocks.0.hook_resid_pre", "cpu")]
    assert not any(parameter.requires_grad for parameter in made.parameters())
