"""Train `shapes-branch`: an Inception-like network on images that this project renders.

Run: `python -m workbench.core.networks.training.shapes` (about two minutes on one thread), and with
`retrain` behind it for four more trainings, from other weights and with other batches: what is said
of one training can be looked for in all five.

Source: Szegedy et al. 2014, arXiv 1409.4842 (branches); the images are those of
`workbench.core.networks.shapes`. Limits: equal seeds give equal weights on one machine
with one version of the arithmetic only.
"""

from __future__ import annotations

import logging
import sys

from workbench.core.networks import architectures, shapes, sources
from workbench.core.networks.training import fitting

N_TRAIN, N_TEST = 12_000, 3_000
TRAIN_SEED, TEST_SEED = 0, 1
RETRAINED = (1, 2, 3, 4)


def main(seed: int = 0) -> None:
    """Render the images, train the network and write it into the bundle.

    Args:
        seed: Of weights and batches; the images are always the same. 0 is the network itself,
            others are kept beside it.
    """
    train, test = shapes.render(N_TRAIN, seed=TRAIN_SEED), shapes.render(N_TEST, seed=TEST_SEED)
    fitting.fit(
        architectures.BranchCnn(
            size=shapes.SIZE, stem=12, mixed=(12, 16, 24), n_classes=len(shapes.CLASSES)
        ),
        fitting.Split(train.images, train.labels),
        fitting.Split(test.images, test.labels),
        fitting.Recipe(epochs=12, batch=50, rate=2e-3, decay=0.02, seed=seed),
        folder=sources.BUNDLED / "shapes-branch" / (f"retrained/{seed}" if seed else ""),
        name="shapes-branch",
        title="Inception-like network on rendered shapes",
        summary="Names the shape in a 32 × 32 image: a stem, then three mixed stages of three "
        "branches each, with kernels of size 1, 3 and 5, then the mean over all places. Each "
        "branch has a hook point of its own.",
        script="python -m workbench.core.networks.training.shapes" + (" retrain" if seed else ""),
        data=f"images of {', '.join(shapes.CLASSES)}, half of them grey, half coloured; "
        f"{N_TRAIN:,} for training (seed {TRAIN_SEED}), {N_TEST:,} held out (seed {TEST_SEED})",
        classes=shapes.CLASSES,
        references=("Szegedy et al. 2014, Going Deeper with Convolutions, arXiv 1409.4842",),
        caveats=("It knows rendered shapes only; photographs mean nothing to it.",),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for number in RETRAINED if "retrain" in sys.argv[1:] else (0,):
        main(number)
