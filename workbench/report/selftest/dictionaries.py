"""Are dictionaries of latents trained, measured and read as what they are?

Limits: but for the one that is trained, latents that are ones for a word or a place.
"""

from __future__ import annotations

import numpy as np
import torch

from analyses import feature_visualization as features
from analyses.feature_visualization.dictionaries import labels
from workbench.core.planted import (
    known_dictionary,
    known_features,
    known_units,
    two_steps,
    word_level,
)
from workbench.core.prompts.corpus import Corpus
from workbench.report.selftest.checking import (
    Check,
    Models,
    Outcome,
    at_least,
    both,
    same,
    within,
)

# Rows of the corpus on which a dictionary is trained, and its steps.
_ROWS, _STEPS = 2_000, 400
# A latent is a feature from this cosine on; share of the features that is to be found. By chance it
# is less than a tenth.
_ALIKE, _MOST = 0.9, 0.75
# A word is at a sixth of all tokens, a place at a fourth.
_DENSE = 0.2
# Resamples.
_FEW = 39
_WORDS = len(word_level.WORDS)
# A token is a word and a place.
_L0 = 2


def _trained(models: Models) -> Outcome:
    model = word_level.on(known_features.words(models.seed), models.device)
    rng = np.random.default_rng(models.seed)
    rows = rng.integers(0, known_features.N_WORDS, (_ROWS, 8))
    made = features.train_dictionary(
        model,
        Corpus.from_tokens(model, rows),
        "resid_pre",
        layer=0,
        latents=48,
        k=3,
        steps=_STEPS,
        batch_tokens=256,
        lr=0.02,
        seed=models.seed,
    )
    decoder = torch.nn.functional.normalize(made.dictionary.W_dec.detach().float().cpu(), dim=1)
    nearest = (known_features.directions(models.seed) @ decoder.T).amax(1)
    share = float((nearest >= _ALIKE).double().mean())
    said = f"{share:.0%} of {known_features.FEATURES} features have a latent"
    return at_least(share, _MOST, said)


def _shares(models: Models) -> np.ndarray:
    """Share of the tokens at which each latent of the whole dictionary is active."""
    words = np.bincount(models.words.tokens, minlength=_WORDS) / models.words.n_tokens
    places = np.full(two_steps.N_CTX, 1 / two_steps.N_CTX)
    return np.concatenate([words, places, [0]])


def _quality(dictionary: known_dictionary.Dictionary, models: Models) -> features.DictionaryQuality:
    return features.dictionary_quality(
        models.detectors,
        models.words,
        dictionary,
        at=known_dictionary.HOOK,
        n_resamples=_FEW,
        seed=models.seed,
    )


def _exact(models: Models) -> Outcome:
    found = _quality(known_dictionary.whole(models.device), models)
    costs = found.spliced.value - found.clean.value
    said = f"explains {found.explained.value:.4f} with {found.l0.value:.4g} latents a token"
    return within(
        [found.explained.value, found.l0.value, costs, found.dead, *found.frequency],
        [1, _L0, 0, 1 / known_dictionary.LATENTS, *_shares(models)],
        said=said,
    )


def _silent(models: Models) -> Outcome:
    found = _quality(known_dictionary.silent(models.device), models)
    # Squared lengths are 2, of which the squared length of the mean does not vary.
    varies = _L0 - (_shares(models) ** 2).sum()
    return within([found.explained.value, found.l0.value, found.dead], [1 - _L0 / varies, 0, 1])


def _overview(models: Models) -> Outcome:
    found = features.latent_overview(
        models.detectors,
        models.words,
        known_dictionary.whole(models.device),
        at=known_dictionary.HOOK,
        seed=models.seed,
    )
    largest = np.ones(known_dictionary.LATENTS)
    largest[known_dictionary.NEVER] = 0
    dead = np.flatnonzero(found.dead)
    return both(
        same(dead, [known_dictionary.NEVER]),
        within(
            [found.density, found.largest], [_shares(models), largest], said="as often as it is"
        ),
    )


def _board(latent: int, models: Models) -> features.LatentDashboard:
    return features.latent_dashboard(
        models.detectors,
        models.words,
        known_dictionary.whole(models.device),
        latent,
        larger=known_dictionary.divided(models.device),
        at=known_dictionary.HOOK,
        dense_above=_DENSE,
        seed=models.seed,
    )


def _dashboard(models: Models) -> Outcome:
    found = _board(known_units.DOG, models)
    first = found.view.triggers[0]
    nearest = found.near.nearest()[0]
    return both(
        same(
            [found.status, " ".join(first.text), f"latent {nearest}"],
            ["sparse", "dog", f"latent {known_dictionary.NEVER}"],
        ),
        within(
            [found.view.density, first.count / first.places, first.lift, found.split[0].explained],
            [_shares(models)[known_units.DOG], 1, 1 / _shares(models)[known_units.DOG], 1],
        ),
    )


def _place_and_nothing(models: Models) -> Outcome:
    boards = [_board(latent, models) for latent in (_WORDS, known_dictionary.NEVER)]
    return both(
        same([one.status for one in boards], ["dense", "dead"]),
        within([one.view.density for one in boards], [1 / two_steps.N_CTX, 0]),
    )


def _labelled(at: np.ndarray, values: tuple[str, ...], models: Models) -> features.VariableMatches:
    variable = labels.Variable("variable", values, at, np.arange(len(at)))
    return features.match_variables(
        models.detectors,
        labels.LabelledTokens(models.words, (variable,)),
        known_dictionary.whole(models.device),
        at=known_dictionary.HOOK,
        n_resamples=_FEW,
        seed=models.seed,
    )


def _matched(models: Models) -> Outcome:
    found = _labelled(models.words.tokens.astype(np.int64), word_level.WORDS, models)
    named = zip(found.value, found.latents.chosen, strict=True)
    return both(
        same(
            [f"{value} {latent}" for value, latent in named],
            [f"{word} {latent}" for latent, word in enumerate(word_level.WORDS)],
        ),
        within(found.latents.auc, np.ones(_WORDS)),
    )


def _coin(models: Models) -> Outcome:
    coin = np.random.default_rng(models.seed).integers(0, 2, models.words.n_tokens)
    found = _labelled(coin, ("heads", "tails"), models)
    recovered = zip(found.value, found.recovered, strict=True)
    return same([value for value, yes in recovered if yes], [])


def _near(models: Models) -> Outcome:
    whole = known_dictionary.whole(models.device)
    found = features.neighbours(whole, known_units.DOG, seed=models.seed)
    truth = np.zeros(known_dictionary.LATENTS)
    truth[known_units.DOG], truth[known_dictionary.NEVER] = 1, known_dictionary.NEAR
    never = found.cosine[known_dictionary.NEVER]
    return within(found.cosine, truth, said=f"a cosine of {never:.4f}")


def _alone(models: Models) -> Outcome:
    whole = known_dictionary.whole(models.device)
    found = features.neighbours(whole, known_units.ELK, seed=models.seed)
    others = np.delete(found.cosine, known_units.ELK)
    largest = float(np.abs(others).max())
    return within(others, np.zeros(len(others)), said=f"largest cosine {largest:.1e}")


def _split(models: Models) -> Outcome:
    whole, divided = (
        made(models.device) for made in (known_dictionary.whole, known_dictionary.divided)
    )
    found = features.splitting(whole, divided, count=2, seed=models.seed)
    dog, elk = known_units.DOG, known_units.ELK
    return both(
        same(found.nearest[dog], [0, 1]),
        within(
            [*found.cosine[dog], found.explained[dog], *found.cosine[elk], found.explained[elk]],
            [known_dictionary.NEAR, known_dictionary.NEAR, 1, 0, 0, 0],
        ),
    )


CHECKS = (
    Check(
        "feature_visualization.train_dictionary",
        "32 features in superposition in 16 dimensions",
        _trained,
    ),
    Check(
        "feature_visualization.dictionary_quality",
        "a dictionary that gives the stream back, two latents a token, and one of 11 is dead",
        _exact,
    ),
    Check(
        "feature_visualization.dictionary_quality",
        "nothing: a dictionary that never fires explains less than nothing",
        _silent,
    ),
    Check(
        "feature_visualization.latent_overview",
        "each latent is active where its word or place is, and one never",
        _overview,
    ),
    Check(
        "feature_visualization.latent_dashboard",
        "a latent fires at dog alone, has one neighbour, and is two in a larger dictionary",
        _dashboard,
    ),
    Check(
        "feature_visualization.latent_dashboard",
        "a latent for a place is dense, and one that never fires dead",
        _place_and_nothing,
    ),
    Check(
        "feature_visualization.match_variables", "each of six words has its own latent", _matched
    ),
    Check("feature_visualization.match_variables", "nothing: a coin has no latent", _coin),
    Check(
        "feature_visualization.neighbours",
        "one latent has 0.8 of the direction of dog's, all others nothing",
        _near,
    ),
    Check(
        "feature_visualization.neighbours",
        "nothing: a latent at right angles to all others has no neighbour",
        _alone,
    ),
    Check(
        "feature_visualization.splitting",
        "in a larger dictionary dog's latent is two, and elk's is not there at all",
        _split,
    ),
)
