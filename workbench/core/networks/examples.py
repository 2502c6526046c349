"""The examples that a bundled network was tested on, made again: nothing of them is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.core.networks import mnist1d, shapes, sources

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32, Int64

# As the network's card says.
_SHAPES, _SHAPES_SEED = 3000, 1


def held_out(
    name: str, n: int | None = None
) -> tuple[Float32[np.ndarray, "example *shape"], Int64[np.ndarray, " example"]]:
    """Inputs that a bundled network was not trained on, and their classes.

    Args:
        name: One of `sources.list_networks()`.
        n: How many; all that its card counts if not given.

    Returns:
        Both, in the order in which they are made.

    Raises:
        sources.NetworkError: If there is no bundled network of that name.
        ValueError: If n is not at least 1.
    """
    card = sources.network_card(name)
    if n is not None and n < 1:
        raise ValueError(f"n = {n}; expected at least 1 example")
    if name.startswith("shapes"):
        rendered = shapes.render(min(n or _SHAPES, card.n_test), seed=_SHAPES_SEED)
        return rendered.images, rendered.labels
    data = mnist1d.generate()
    # A convolutional network reads a sequence of one channel.
    inputs = data.test[:, None] if name.endswith("cnn") else data.test
    return inputs[:n], data.test_labels[:n]
