"""Dictionaries whose every latent is known, for models whose words and places are ones in a stream.

Before layer 0 of `two_steps` (and of `known_units.detectors`, which is wired into it), the stream
is a one for the word and a one for the place. Latents are written down, not trained:

1. `whole`: a latent for each word, then one for each place, so that it gives the stream back; and
   last one that never fires, whose direction has a cosine of `NEAR` with that of "dog".
2. `divided`: the same for a larger dictionary, in which two latents stand for "dog" that have it in
   their span, each with a cosine of `NEAR`, and none for "elk".
3. `silent`: latents that read nothing at all.

Limits: latents are 0 or 1, and no two of them overlap but those that are said to.
"""

from __future__ import annotations

import torch
from jaxtyping import Float

from workbench.core.planted import known_units, two_steps, word_level

HOOK = "blocks.0.hook_resid_pre"
NEAR = 0.8
_FAR = (1 - NEAR**2) ** 0.5
_WORDS = len(word_level.WORDS)
_PLACES = 3 * _WORDS
_WIDTH = _PLACES + two_steps.N_CTX
# A coordinate of the stream that holds nothing there.
_UNUSED = _WORDS
LATENTS = _WORDS + two_steps.N_CTX + 1
NEVER = LATENTS - 1


class Dictionary(torch.nn.Module):
    """A sparse autoencoder without biases: what a latent reads, and what it writes."""

    W_enc: torch.nn.Parameter
    W_dec: torch.nn.Parameter

    def __init__(
        self,
        reads: Float[torch.Tensor, "latent d_model"],
        writes: Float[torch.Tensor, "latent d_model"],
    ) -> None:
        """Take the directions.

        Args:
            reads: What each latent reads.
            writes: What each latent writes.
        """
        super().__init__()
        self.W_enc = torch.nn.Parameter(reads.T.clone(), requires_grad=False)
        self.W_dec = torch.nn.Parameter(writes.clone(), requires_grad=False)

    def encode(self, x: Float[torch.Tensor, "*row d_model"]) -> Float[torch.Tensor, "*row latent"]:
        """Latents of activations."""
        return (x @ self.W_enc).relu()

    def decode(self, x: Float[torch.Tensor, "*row latent"]) -> Float[torch.Tensor, "*row d_model"]:
        """Activations that latents stand for."""
        return x @ self.W_dec


def whole(device: str = "cpu") -> Dictionary:
    """The first dictionary of the module docstring.

    Args:
        device: A torch device name.

    Returns:
        The dictionary, its latents in the order of words, places, and the one that never fires.
    """
    reads = torch.cat([_ones(range(_WORDS)), _ones(range(_PLACES, _WIDTH)), torch.zeros(1, _WIDTH)])
    writes = reads.clone()
    writes[NEVER] = _near_dog(1)
    return Dictionary(reads, writes).to(device)


def divided(device: str = "cpu") -> Dictionary:
    """The second dictionary of the module docstring.

    Args:
        device: A torch device name.

    Returns:
        The dictionary; the first two latents are those of "dog".
    """
    kept = [i for i in range(_WORDS) if i not in (known_units.DOG, known_units.ELK)]
    halves = torch.stack([_near_dog(1), _near_dog(-1)])
    rows = torch.cat([halves, _ones(kept), _ones(range(_PLACES, _WIDTH))])
    return Dictionary(rows, rows).to(device)


def silent(device: str = "cpu") -> Dictionary:
    """The third dictionary of the module docstring.

    Args:
        device: A torch device name.

    Returns:
        The dictionary, which writes what `whole` does.
    """
    writes = whole().W_dec.detach()
    return Dictionary(torch.zeros_like(writes), writes).to(device)


def _ones(coordinates: range | list[int]) -> Float[torch.Tensor, "latent d_model"]:
    return torch.eye(_WIDTH)[list(coordinates)]


def _near_dog(sign: int) -> Float[torch.Tensor, " d_model"]:
    """A unit vector whose other part is in a coordinate that nothing else uses."""
    ones = torch.eye(_WIDTH)
    return NEAR * ones[known_units.DOG] + sign * _FAR * ones[_UNUSED]
