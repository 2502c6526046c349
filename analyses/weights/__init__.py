"""What do the weights of this model do, before any text has gone through it?

1. Every matrix: norms, spectrum, effective rank, beside a Gaussian matrix of the same shape and
   size (`matrices`, `spectrum`).
2. Every head: what it does from token to token. The OV circuit, embedding · W_V · W_O ·
   unembedding, says which logits attending to a token changes; the QK circuit, embedding · W_Q ·
   W_Kᵀ · embeddingᵀ, which tokens a token looks at (`head`, `tokens`). Their eigenvalues say
   whether a head copies, and whether tokens look for themselves (`copying`). They are found through
   the head's width: the product of the other factors has the same eigenvalues.
3. Every pair of heads: how far the later one's queries, keys and values can read what the earlier
   one writes (`composition`).
4. Tokens: principal axes and neighbours in the embedding and the unembedding (`embedding`,
   `neighbours`); what a neuron reads and writes in tokens (`neuron`); waves over residues in models
   of modular arithmetic (`fourier`).
5. Two checkpoints: how far each matrix has moved, and whether its largest directions are still
   where they were (`compare`).

Gain and centring of the norms are folded in; their scale is that of the embedding alone ("own",
which is what the first layer sees of a token) or 1 ("one"). Each score stands beside what chance
gives: random matrices, the stream turned at random between two factors, which keeps the spectra of
both, or random directions; p-values over many heads, pairs or matrices are adjusted (Benjamini &
Hochberg).

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (QK and OV circuits,
eigenvalue scores, composition); Roy & Vetterli 2007 (effective rank); Marchenko & Pastur 1967 and
Johnstone 2001 (random spectra); Dar et al. 2023, arXiv 2209.02535, and Gurnee et al. 2024, arXiv
2401.12181 (weights in the space of tokens); Nanda et al. 2023, arXiv 2301.05217 (waves).

Units and sign: logits and q·k are up to the final norm's scale, without biases, and q·k before the
attention's scaling; a positive entry promotes, or attracts attention. Eigenvalue scores run from -1
to 1, composition scores and cosines of angles from 0 to 1; changes are fractions of the matrix.

Limits: positions are left out: of rotary models the QK circuit is that at distance 0. Norms on
queries and keys, and on what attention and MLPs add, have their gain folded in and their scale set
to 1. Beyond the first layer a stream holds what earlier layers wrote, which bare embeddings do not.
Tables from token to token are whole for small vocabularies; of large ones the asked rows with
their largest entries. Spectra of the largest matrices are found by random projection, and then have
no effective rank.
"""

from __future__ import annotations

from analyses.weights.comparing import WeightComparison, compare
from analyses.weights.composing import Composition, composition
from analyses.weights.geometry import EmbeddingGeometry, Neighbours, embedding, neighbours
from analyses.weights.heads import CopyingScores, HeadCircuits, copying, head
from analyses.weights.neurons import NeuronWeights, TokenEnds, neuron
from analyses.weights.spectra import MatrixTable, Spectrum, matrices, spectrum
from analyses.weights.token_tables import TokenTable, tokens
from analyses.weights.waves import FourierWeights, fourier

__all__ = [
    "CopyingScores",
    "Composition",
    "EmbeddingGeometry",
    "FourierWeights",
    "HeadCircuits",
    "MatrixTable",
    "Neighbours",
    "NeuronWeights",
    "Spectrum",
    "TokenEnds",
    "TokenTable",
    "WeightComparison",
    "compare",
    "composition",
    "copying",
    "embedding",
    "fourier",
    "head",
    "matrices",
    "neighbours",
    "neuron",
    "spectrum",
    "tokens",
]
