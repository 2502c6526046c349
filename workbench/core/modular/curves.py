"""The curves of a training: the loss of each step, and what is tested every so often."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int64


@dataclasses.dataclass
class Curves:
    """Grows while a network is trained.

    Attributes:
        train_loss: Before each step, in nats a pair.
        test_steps: Steps taken when it was tested.
        test_loss: Then, over all pairs that are not trained on.
        test_accuracy: Share of them with the right answer on top.
        squared_weights: Sum of squares of all trained weights.
    """

    train_loss: list[float] = dataclasses.field(default_factory=list)
    test_steps: list[int] = dataclasses.field(default_factory=list)
    test_loss: list[float] = dataclasses.field(default_factory=list)
    test_accuracy: list[float] = dataclasses.field(default_factory=list)
    squared_weights: list[float] = dataclasses.field(default_factory=list)

    def add_train(self, loss: float) -> None:
        """Note the loss of the next step."""
        self.train_loss.append(loss)

    def add_test(self, step: int, loss: float, accuracy: float, squared_weights: float) -> None:
        """Note what was tested after a number of steps."""
        self.test_steps.append(step)
        self.test_loss.append(loss)
        self.test_accuracy.append(accuracy)
        self.squared_weights.append(squared_weights)

    def arrays(self) -> dict[str, np.ndarray]:
        """The curves as arrays, by their names."""
        return {
            field.name: np.array(
                getattr(self, field.name),
                dtype=np.int64 if field.name == "test_steps" else np.float64,
            )
            for field in dataclasses.fields(self)
        }

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> Curves:
        """The curves that `arrays` gave."""
        return cls(**{field.name: arrays[field.name].tolist() for field in dataclasses.fields(cls)})

    def at(self, steps: Int64[np.ndarray, " checkpoint"]) -> Float[np.ndarray, "checkpoint 4"]:
        """Where the training stood, in quantities that move about equally.

        Args:
            steps: Numbers of steps taken.

        Returns:
            Decades of train loss and of test loss, test accuracy, and the logarithm of the squared
            weights; each as it was last known at that step.
        """
        made = self.arrays()
        test = np.searchsorted(made["test_steps"], steps, side="right") - 1
        train = np.clip(steps, 0, max(0, len(self.train_loss) - 1))
        losses = made["train_loss"][train] if self.train_loss else made["test_loss"][test]
        tiny = np.finfo(float).tiny
        return np.stack(
            [
                np.log10(np.maximum(losses, tiny)),
                np.log10(np.maximum(made["test_loss"][test], tiny)),
                made["test_accuracy"][test],
                np.log(np.maximum(made["squared_weights"][test], tiny)),
            ],
            1,
        )

    def note(self) -> str:
        """Where the training stands, in a few words."""
        tested = f", test {self.test_loss[-1]:.2g}" if self.test_loss else ""
        trained = f": train {self.train_loss[-1]:.2g}{tested}" if self.train_loss else ""
        return f"step {len(self.train_loss):,}{trained}"

    def last(self) -> Float[np.ndarray, " 4"]:
        """Where the training stands, in the quantities of `at`."""
        tiny = np.finfo(float).tiny
        train = self.train_loss[-1] if self.train_loss else self.test_loss[-1]
        return np.array(
            [
                np.log10(max(train, tiny)),
                np.log10(max(self.test_loss[-1], tiny)),
                self.test_accuracy[-1],
                np.log(max(self.squared_weights[-1], tiny)),
            ]
        )
