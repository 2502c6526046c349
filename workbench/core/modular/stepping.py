"""Networks that take their training steps in the same calls: weights, optimizer and pairs.

Full batches, AdamW, cross-entropy in float64 (`loss`). Several networks are one with a leading axis
of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from workbench.core.modular import loss, network, run, tasks
from workbench.core.modular import recipe as recipes


class Networks:
    """Networks of one recipe on a device, one of them or several side by side."""

    def __init__(
        self,
        every: Sequence[tasks.Task],
        states: Sequence[run.State],
        recipe: recipes.Recipe,
        step: int,
        device: torch.device,
    ) -> None:
        """Put the networks' states side by side on the device.

        Args:
            every: Their tasks, of one modulus and with equally many training pairs.
            states: Where each stands.
            recipe: How they are trained.
            step: Steps that they have taken.
            device: Where.
        """
        self._recipe, self._device = recipe, device

        def side_by_side(kind: str) -> network.Weights:
            made = network.stacked([getattr(state, kind) for state in states])
            return {name: value.to(device) for name, value in made.items()}

        self._weights = side_by_side("weights")
        self._trained = sorted(name for name in self._weights if name not in network.FROZEN)
        for name in self._trained:
            self._weights[name].requires_grad_(True)
        parameters = [self._weights[name] for name in self._trained]
        self._optimizer = torch.optim.AdamW(
            parameters,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            betas=(recipe.beta1, recipe.beta2),
            fused=True,
        )
        first, second = side_by_side("first_moments"), side_by_side("second_moments")
        for name, parameter in zip(self._trained, parameters, strict=True):
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=device),
                "exp_avg": first[name],
                "exp_avg_sq": second[name],
            }
        self._slow = side_by_side("slow_gradients")
        self._norms = [math.sqrt(state.initial_squared_weights) for state in states]
        self._dtype = torch.float32 if recipe.precision == "float32" else torch.bfloat16
        self._batch, self._tests = self._pairs(every)

    def _pairs(self, every: Sequence[tasks.Task]) -> tuple[loss.Batch, tuple[Tensor, Tensor]]:
        """The training batch of all seeds, and the pairs and answers to test with."""
        taught: list[tuple[Tensor, Tensor]] = []
        held_out: list[tuple[Tensor, Tensor]] = []
        for task in every:
            # In their natural order, so that pairs next to each other look up the same rows.
            pairs, (train, test) = task.pairs(), (part.sort().values for part in task.split())
            taught.append((pairs[train], task.labels()[train]))
            held_out.append((pairs[test], task.answers()[test]))
        pairs, labels = (torch.stack(kind).to(self._device) for kind in zip(*taught, strict=True))
        tests = tuple(torch.stack(kind).to(self._device) for kind in zip(*held_out, strict=True))
        recipe = self._recipe
        batch = loss.batch(
            pairs, labels, every[0].p, n_heads=recipe.n_heads, n_neurons=recipe.d_mlp
        )
        return batch, (tests[0], tests[1])

    def take_step(self, step: int) -> list[float]:
        """Take the step after `step`.

        Args:
            step: Steps taken so far.

        Returns:
            Each network's training loss before it, in nats a pair.
        """
        recipe = self._recipe
        rate = recipe.learning_rate
        if step < recipe.warm_up:
            rate *= step / recipe.warm_up
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.zero_grad()
        made = network.tables(self._weights, recipe.n_heads)
        losses, gradients = loss.losses_and_gradients(made, self._batch, self._dtype)
        torch.autograd.backward(made, gradients)
        if recipe.grokfast_lambda:
            self._amplify_slow_gradients()
        self._optimizer.step()
        if recipe.constrain_norm:
            self._restore_norms()
        return losses.tolist()

    def _amplify_slow_gradients(self) -> None:
        alpha = self._recipe.grokfast_alpha
        for name in self._trained:
            gradient = self._weights[name].grad
            assert gradient is not None
            slow = self._slow[name].mul_(alpha).add_(gradient, alpha=1 - alpha)
            gradient.add_(slow, alpha=self._recipe.grokfast_lambda)

    @torch.no_grad()
    def _restore_norms(self) -> None:
        squares = sum(self._weights[name].square().flatten(1).sum(1) for name in self._trained)
        target = torch.tensor(self._norms, device=self._device)
        factors = target / torch.as_tensor(squares).sqrt()
        for name in self._trained:
            weight = self._weights[name]
            weight.mul_(factors.view(-1, *[1] * (weight.dim() - 1)))

    @torch.inference_mode()
    def test(self) -> list[tuple[float, float]]:
        """Loss and accuracy of each network on the pairs that it is not trained on."""
        pairs, answers = self._tests
        losses = torch.zeros(len(pairs), dtype=torch.float64, device=self._device)
        correct = torch.zeros_like(losses)
        start = 0
        for logits, _, _ in network.forward(self._weights, pairs, self._recipe.n_heads):
            wanted = answers[:, start : start + logits.shape[1]]
            start += logits.shape[1]
            flat = functional.cross_entropy(
                logits.double().flatten(0, 1), wanted.flatten(), reduction="none"
            )
            losses += flat.view(wanted.shape).sum(1)
            correct += (logits.argmax(2) == wanted).sum(1)
        tested = torch.stack([losses, correct], 1) / pairs.shape[1]
        return [(loss, accuracy) for loss, accuracy in tested.tolist()]

    def weights(self, i: int) -> network.Weights:
        """The weights of one network, on the CPU."""
        return _of_seed(self._weights, i)

    def store(self, i: int, state: run.State) -> None:
        """Write where one network stands to its state.

        Args:
            i: Which.
            state: Its weights, moments and slow gradients are replaced.
        """
        moments = {name: self._optimizer.state[self._weights[name]] for name in self._trained}
        state.weights = self.weights(i)
        state.first_moments = _of_seed({n: found["exp_avg"] for n, found in moments.items()}, i)
        state.second_moments = _of_seed({n: found["exp_avg_sq"] for n, found in moments.items()}, i)
        state.slow_gradients = _of_seed(self._slow, i)


def _of_seed(every: network.Weights, i: int) -> network.Weights:
    return {name: value[i].detach().cpu().contiguous() for name, value in every.items()}
