"""Where is text like an optimum, so that the unit will fire there, too?

1. An optimized text's tokens weigh as much as the unit loses without them.
2. Text is scored by how much of that it lacks at the same distance from its last token.

Source: Foote et al. 2023, arXiv 2305.19911 (tokens weigh what the activation loses without them).
The score is this project's own.

Units: predictions from 0 to 1, 1 for the optimum itself.

Limits: those of the class; each prediction is of one row of text, and of what stands up to the
token, never after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from analyses.feature_visualization import places
from analyses.feature_visualization.descriptions import FIRES
from analyses.feature_visualization.text import candidates, vocabulary
from analyses.feature_visualization.text.result import OptimizedText
from workbench.core.engine import running
from workbench.core.engine import units as families

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Chunk, Corpus

Tensor = torch.Tensor
# Tokens of a corpus that replacements are drawn from.
_POOL = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The unit fires where text is like an optimized text, token by token up to the last one.

    1. The optimum's activation is at its last token. Its height is how far that is above the mean
       of random texts. Each of its tokens weighs the share of the height that is lost when this
       token alone is replaced by one drawn at random, on average over the draws; nothing if nothing
       is lost. Where the weights of a text add up to less than 1 they are scaled to that.
    2. A token of a text that is read stands where a token of the optimum stands, counted from the
       last one. They are alike by 1 if they are the same, else by the cosine of their centred
       embeddings, at least 0.
    3. Prediction: 1, less the sum of weight times (1 − likeness), at least 0. If each token by
       itself adds to the activation, that is the sum of weight times likeness; if all are needed,
       their weights are 1 each, and what lacks one of them is predicted 0.
    4. Of several texts (the front of an optimization) the largest prediction, each times the text's
       height as a share of the optimum's. So the optimum itself is predicted 1.

    Limits: tokens are replaced one at a time, so what either one of two tokens suffices for weighs
    nothing; a token counts at its own distance only, though the unit may not care where it stands;
    likeness of embeddings is likeness for the model as a whole and not for this unit.

    Attributes:
        name: As a reader writes it.
        texts: The texts that it is made of, the most active last, without those that lose nothing.
        weights: Of each of their tokens; those of a text add up to 1 or more.
        heights: Of each text; 1 for the optimum.
        alike: Likeness of every token of the vocabulary to each token of `listed`.
        listed: Each token of the texts once, rising.
        threshold: From which prediction on it says that the unit fires.
    """

    name: str
    texts: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    heights: tuple[float, ...]
    alike: Float[torch.Tensor, "listed d_vocab"]
    listed: Int[torch.Tensor, " listed"]
    threshold: float = FIRES

    @classmethod
    def of(  # noqa: PLR0913 -- one call from an optimization, or from any tokens; all have defaults
        cls,
        model: TransformerBridge,
        unit: families.Unit | str,
        tokens: OptimizedText | Sequence[int] | Sequence[Sequence[int]] | np.ndarray,
        *,
        corpus: Corpus | None = None,
        draws: int = 32,
        directions: Float[torch.Tensor, "direction width"] | None = None,
        dictionary: Any = None,
        seed: int = 0,
        progress: running.Progress | None = None,
    ) -> Neighbourhood:
        """Weigh the tokens of one or several texts.

        Args:
            model: The bridge.
            unit: Which unit; with directions or a dictionary its kind is the site that they read.
            tokens: What `optimize_text` gave for it, or token ids of one text or of several;
                without what the model puts in front of a text.
            corpus: Replacements are drawn from its tokens, as often as they stand there; None draws
                alike from the whole vocabulary.
            draws: Replacements of each token.
            directions: One vector a unit, instead of the coordinates.
            dictionary: A sparse autoencoder whose latents are the units.
            seed: Of the draws.
            progress: Told how far it is; may raise to stop.

        Returns:
            The description.

        Raises:
            ValueError: If the texts are of another unit or model, are those of a minimum, are
                empty, too long or outside of the vocabulary, or no token of them matters.
        """
        if draws < 1:
            raise ValueError(f"draws = {draws}; expected at least 1")
        family, index = families.family_of(
            model, unit, directions=directions, dictionary=dictionary
        )
        words = vocabulary.of_model(model, None)
        texts = _texts(model, str(family.unit(index)), tokens, words)
        target = candidates.Target(family, index, 1, words.prefix)
        rng = np.random.default_rng(seed)
        pool = words.allowed if corpus is None else _pool(corpus, rng)
        reader = candidates.Reader(model, target)
        report = progress or running.no_progress
        weighed: list[_Weighed] = []
        for done, text in enumerate(texts):
            report(done / len(texts), "replacing one token after the other")
            weighed.append(_weigh(reader, text, pool, draws, rng))
        best = max(range(len(texts)), key=lambda i: (weighed[i].activation, i))
        above = weighed[best].activation - weighed[best].chance
        # A text that is no higher than random ones, or loses nothing, has no neighbourhood.
        kept = [i for i, one in enumerate(weighed) if one.losses.any() and one.height(above) > 0]
        if best not in kept:
            written = vocabulary.read(model, texts[best])
            raise ValueError(
                f"{target.name} loses nothing when a token of {written!r} is replaced: give a text "
                "that makes it fire"
            )
        order = [i for i in kept if i != best] + [best]
        listed = np.unique(np.concatenate([texts[i] for i in order]))
        several = f"{len(order)} texts, the most active " if len(order) > 1 else ""
        return cls(
            name=f"like {several}{vocabulary.read(model, texts[best])!r}",
            texts=tuple(tuple(texts[i].tolist()) for i in order),
            weights=tuple(tuple(weighed[i].shares.tolist()) for i in order),
            heights=tuple(weighed[i].height(above) for i in order),
            alike=_alike(model, listed),
            listed=torch.from_numpy(listed),
        )

    def predict(
        self, model: TransformerBridge, chunk: Chunk
    ) -> Float[torch.Tensor, "row position"]:
        """How much of the optimum's weight stands up to each token."""
        del model
        out = torch.zeros(chunk.tokens.shape)
        for text, weights, height in zip(self.texts, self.weights, self.heights, strict=True):
            # All is lacking that does not stand there, as before the row's first token.
            score = torch.full(chunk.tokens.shape, 1 - sum(weights))
            listed = torch.searchsorted(self.listed, torch.tensor(text)).tolist()
            ends = zip(reversed(listed), reversed(weights), strict=True)
            for by, (place, weight) in enumerate(ends):
                if weight and by < score.shape[1]:
                    alike = self.alike[place][chunk.tokens[:, : score.shape[1] - by]]
                    score[:, by:] += weight * alike
            out = torch.maximum(out, height * score)
        return out


@dataclasses.dataclass(frozen=True, eq=False)
class _Weighed:
    """A text: its activation, that of random texts, and what it loses without each token."""

    activation: float
    chance: float
    losses: Float[np.ndarray, " position"]

    @property
    def shares(self) -> Float[np.ndarray, " position"]:
        return self.losses / min(self.losses.sum(), self.activation - self.chance)

    def height(self, above: float) -> float:
        """As a share of the optimum's."""
        own = self.activation - self.chance
        return float(np.clip(own / above, 0, 1)) if above > 0 else 0.0


def _weigh(
    reader: candidates.Reader,
    text: Int[np.ndarray, " position"],
    pool: Int[np.ndarray, " token"],
    draws: int,
    rng: np.random.Generator,
) -> _Weighed:
    several = np.tile(text, (len(text), draws, 1))
    for place, token in enumerate(text):
        others = pool[pool != token]
        several[place, :, place] = rng.choice(others if len(others) else pool, draws)
    random = rng.choice(pool, (draws, len(text)))
    every = np.concatenate([text[None], random, several.reshape(-1, len(text))])
    whole, *found = reader.measure(every, fluency=False).activation.tolist()
    left = np.reshape(found[draws:], (len(text), draws)).mean(1)
    return _Weighed(whole, float(np.mean(found[:draws])), (whole - left).clip(min=0))


def _texts(
    model: TransformerBridge,
    unit: str,
    tokens: OptimizedText | Sequence[int] | Sequence[Sequence[int]] | np.ndarray,
    words: vocabulary.Vocabulary,
) -> list[Int[np.ndarray, " position"]]:
    """Token ids of each text, checked."""
    if isinstance(tokens, OptimizedText):
        tokens.require_of(model, unit)
        if not tokens.maximise:
            raise ValueError(
                f"these texts make {unit} small, and a description says where it fires: give texts "
                "that were maximised"
            )
        given: list[Any] = list(tokens.tokens)
    else:
        given = list(tokens)
        given = [given] if not given or isinstance(given[0], (int, np.integer)) else given
    texts = [np.array([int(token) for token in text], dtype=np.int64) for text in given]
    size, room = int(model.cfg.d_vocab), int(model.cfg.n_ctx) - len(words.prefix)
    for text in texts:
        if not 1 <= len(text) <= room:
            raise ValueError(f"a text of {len(text)} tokens; expected 1 to {room}")
        if text.min() < 0 or text.max() >= size:
            raise ValueError(
                f"tokens from {text.min()} to {text.max()}: the vocabulary has 0 to {size - 1}"
            )
    return texts


def _pool(corpus: Corpus, rng: np.random.Generator) -> Int[np.ndarray, " token"]:
    """Tokens of a corpus that are not special, as often as they stand there."""
    numbers = places.sample(corpus, _POOL, rng)
    numbers = numbers[places.counted(corpus, numbers)]
    if not len(numbers):
        raise ValueError(f"{corpus.name} holds special tokens only: nothing can be drawn from it")
    return corpus.at(*corpus.locate(numbers))


def _alike(
    model: TransformerBridge, listed: Int[np.ndarray, " listed"]
) -> Float[Tensor, "listed d_vocab"]:
    """Cosine of centred embeddings, at least 0; 1 for the token itself."""
    embedded = model.W_E.detach().float().cpu()
    centred = torch.nn.functional.normalize(embedded - embedded.mean(0), dim=1)
    alike = (centred[listed] @ centred.T).clamp(0, 1)
    alike[torch.arange(len(listed)), torch.from_numpy(listed)] = 1
    return alike
