"""A small set-up with every weight random, and TransformerLens' own network of the same weights."""

from __future__ import annotations

import torch

from workbench.core.modular import network, recipe

TINY = recipe.recipe(d_model=8, n_heads=2, d_head=4, d_mlp=12, warm_up=1, steps=120)


def random_weights(p: int, seed: int, made: recipe.Recipe = TINY) -> network.Weights:
    """Float32 weights, all random, the biases of the MLP included."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in network.initial_weights(made, p, seed).items():
        drawn = torch.randn(value.shape, generator=generator) / 3
        weights[name] = torch.zeros_like(drawn) if name in network.FROZEN else drawn
    return weights


def native(p: int, weights: network.Weights, made: recipe.Recipe = TINY) -> torch.nn.Module:
    """TransformerLens' native network, in float64."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.native.model import NativeModel

    found = NativeModel(TransformerBridgeConfig(**network.bridge_settings(made, p))).double()
    found.load_state_dict({name: value.double() for name, value in weights.items()})
    for name, value in found.named_parameters():
        value.requires_grad_(name not in network.FROZEN)
    return found


def prompts(pairs: torch.Tensor, p: int) -> torch.Tensor:
    return torch.cat([pairs, torch.full((len(pairs), 1), p)], dim=1)
