"""Train `mnist1d-mlp` and `mnist1d-cnn` on MNIST-1D, the published data set.

Run: `python -m workbench.core.networks.training.mnist1d` (about a minute on one thread)

Source: Greydanus and Kobak 2024, arXiv 2011.14439, who report a test accuracy of 68 % for an MLP
and 94 % for a CNN. Limits: one seed; equal seeds give equal weights on one machine with one version
of the arithmetic only.
"""

from __future__ import annotations

import logging

from workbench.core.networks import architectures, mnist1d
from workbench.core.networks.training import fitting

_SCRIPT = "python -m workbench.core.networks.training.mnist1d"
_DATA = "MNIST-1D as published (seed 42): 4,000 training and 1,000 held-out sequences of 40 numbers"
_REFERENCES = ("Greydanus and Kobak 2024, Scaling Down Deep Learning with MNIST-1D, 2011.14439",)


def main() -> None:
    """Train both networks and write them into the bundle."""
    data = mnist1d.generate()
    train = fitting.Split(data.train, data.train_labels)
    test = fitting.Split(data.test, data.test_labels)
    fitting.fit(
        architectures.Mlp(d_input=mnist1d.LENGTH, widths=(100, 100), n_classes=10),
        train,
        test,
        fitting.Recipe(epochs=40, batch=100, rate=5e-3, decay=0.5),
        name="mnist1d-mlp",
        title="Two-layer perceptron on MNIST-1D",
        summary="Reads the 40 numbers of a sequence as one vector and names the digit; two hidden "
        "ReLU layers of 100 neurons.",
        script=_SCRIPT,
        data=_DATA,
        classes=mnist1d.CLASSES,
        references=_REFERENCES,
        caveats=("It fits the training set far better than the held-out one.",),
    )
    fitting.fit(
        architectures.Cnn1d(
            length=mnist1d.LENGTH, channels=(25, 25, 25), kernel=3, stride=2, n_classes=10
        ),
        fitting.Split(train.inputs[:, None], train.labels),
        fitting.Split(test.inputs[:, None], test.labels),
        fitting.Recipe(epochs=60, batch=100, rate=4e-3, decay=0.01),
        name="mnist1d-cnn",
        title="Three-layer convolutional network on MNIST-1D",
        summary="Reads a sequence of 40 numbers with three strided convolutions of 25 channels and "
        "kernel size 3, and names the digit from all places of the last one.",
        script=_SCRIPT,
        data=_DATA,
        classes=mnist1d.CLASSES,
        references=_REFERENCES,
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
