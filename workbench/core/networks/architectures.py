"""From a few numbers to a network with hook points.

1. A frozen config says what to build: `Mlp` on vectors, `Cnn1d` on sequences, `BranchCnn` on
   images.
2. `build` makes a TransformerLens `HookedRootModule` of it, whose stages run one after the other.
3. Each nonlinearity is followed by a hook point, and so are the class scores (`hook_logits`). In a
   `BranchCnn` every branch has one of its own (`mixed0.branch5.hook_out` for the branch of kernel
   size 5 in the first mixed stage), and so has their concatenation (`mixed0.hook_out`).

All of them are ReLU networks with average pooling: piecewise linear, and exactly so.

Source: Szegedy et al. 2014, arXiv 1409.4842 (branches of different kernel size side by side).

Limits: no normalisation layers and no dropout, so training and evaluation are the same function.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import nn

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule

BRANCHES = (1, 3, 5)


@dataclasses.dataclass(frozen=True)
class Mlp:
    """A multilayer perceptron; hook points `layer0.hook_out` … and `hook_logits`.

    Attributes:
        d_input: Length of the input vector.
        widths: Neurons of each hidden layer.
        n_classes: Class scores.
    """

    name: ClassVar[str] = "mlp"
    d_input: int
    widths: tuple[int, ...]
    n_classes: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (self.d_input,)


@dataclasses.dataclass(frozen=True)
class Cnn1d:
    """Strided convolutions over a sequence; hook points `conv0.hook_out` … and `hook_logits`.

    Attributes:
        length: Places of the input sequence, which has one channel.
        channels: Channels of each convolution.
        kernel: Size of every kernel, an odd number.
        stride: Step of every convolution.
        n_classes: Class scores, read from all places of the last convolution.
    """

    name: ClassVar[str] = "cnn1d"
    length: int
    channels: tuple[int, ...]
    kernel: int
    stride: int
    n_classes: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (1, self.length)


@dataclasses.dataclass(frozen=True)
class BranchCnn:
    """A stem, then mixed stages of three branches with kernels 1, 3 and 5, then class scores.

    Attributes:
        size: Height and width of the input image, which has three channels.
        stem: Channels of the first convolution (kernel 3), at full resolution.
        mixed: Channels of each branch, one number a mixed stage; each stage halves the resolution
            before it looks.
        n_classes: Class scores, read from the mean over all places of the last stage.
    """

    name: ClassVar[str] = "branch_cnn"
    size: int
    stem: int
    mixed: tuple[int, ...]
    n_classes: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (3, self.size, self.size)


Config = Mlp | Cnn1d | BranchCnn
KINDS: dict[str, type[Mlp] | type[Cnn1d] | type[BranchCnn]] = {
    kind.name: kind for kind in (Mlp, Cnn1d, BranchCnn)
}


def build(config: Config) -> HookedRootModule:
    """Make the network that a config describes, with random weights (He et al. 2015, biases zero).

    Args:
        config: What to build; it is kept as the network's `cfg`.

    Returns:
        The network, in evaluation mode; `torch.manual_seed` before the call decides its weights.
    """
    stages = {Mlp: _mlp, Cnn1d: _cnn1d, BranchCnn: _branch_cnn}[type(config)](config)
    for layer in itertools.chain.from_iterable(stage.modules() for stage in stages.values()):
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return _network_class()(config, stages).eval()


def _mlp(config: Any) -> OrderedDict[str, nn.Module]:
    sizes = [config.d_input, *config.widths]
    stages = OrderedDict[str, nn.Module]()
    for i, (before, after) in enumerate(itertools.pairwise(sizes)):
        stages[f"layer{i}"] = _rectified(linear=nn.Linear(before, after))
    stages["logits"] = nn.Linear(sizes[-1], config.n_classes)
    return stages


def _cnn1d(config: Any) -> OrderedDict[str, nn.Module]:
    stages = OrderedDict[str, nn.Module]()
    before, length, half = 1, config.length, config.kernel // 2
    for i, after in enumerate(config.channels):
        stages[f"conv{i}"] = _rectified(
            conv=nn.Conv1d(before, after, config.kernel, stride=config.stride, padding=half)
        )
        before, length = after, (length - 1) // config.stride + 1
    stages["flatten"] = nn.Flatten()
    stages["logits"] = nn.Linear(before * length, config.n_classes)
    return stages


def _branch_cnn(config: Any) -> OrderedDict[str, nn.Module]:
    stages = OrderedDict[str, nn.Module]()
    stages["stem"] = _rectified(conv=nn.Conv2d(3, config.stem, 3, padding=1))
    before = config.stem
    for i, after in enumerate(config.mixed):
        stages[f"pool{i}"] = nn.AvgPool2d(2)
        stages[f"mixed{i}"] = _Mixed(before, after)
        before = after * len(BRANCHES)
    stages["gather"] = _MeanOverPlaces()
    stages["logits"] = nn.Linear(before, config.n_classes)
    return stages


class _Mixed(nn.Module):
    """Branches of different kernel size beside each other, their channels concatenated."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        for size in BRANCHES:
            conv = nn.Conv2d(before, after, size, padding=size // 2)
            self.add_module(f"branch{size}", _rectified(conv=conv))
        self.hook_out = _hook_point()

    def forward(
        self, image: Float[torch.Tensor, "batch channel row column"]
    ) -> Float[torch.Tensor, "batch wider row column"]:
        branches = [self.get_submodule(f"branch{size}")(image) for size in BRANCHES]
        return self.hook_out(torch.cat(branches, dim=1))


class _MeanOverPlaces(nn.Module):
    def forward(
        self, image: Float[torch.Tensor, "batch channel row column"]
    ) -> Float[torch.Tensor, "batch channel"]:
        return image.mean((2, 3))


def _rectified(**layer: nn.Module) -> nn.Sequential:
    """A linear layer, a ReLU and a hook point on what comes out."""
    return nn.Sequential(OrderedDict([*layer.items(), ("relu", nn.ReLU()), *_hook_named_out()]))


def _hook_named_out() -> list[tuple[str, nn.Module]]:
    return [("hook_out", _hook_point())]


def _hook_point() -> nn.Module:
    from transformer_lens.hook_points import HookPoint

    return HookPoint()


@functools.cache
def _network_class() -> Any:
    """The class of every network here, made on first use: TransformerLens takes long to import."""
    from transformer_lens.HookedRootModule import HookedRootModule

    class Network(HookedRootModule):
        """Stages that run one after the other."""

        def __init__(self, cfg: Config, stages: OrderedDict[str, nn.Module]) -> None:
            super().__init__()
            self.cfg = cfg
            self._order = tuple(stages)
            for name, stage in stages.items():
                self.add_module(name, stage)
            self.hook_logits = _hook_point()
            self.setup()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            for name in self._order:
                inputs = self.get_submodule(name)(inputs)
            return self.hook_logits(inputs)

    return Network
