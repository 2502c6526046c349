"""Such a network as a model folder, and a whole trajectory packed small enough to bring along.

A trajectory is one safetensors file. A weight matrix of a checkpoint is kept as 12-bit integers
times the largest magnitude of each of its rows over 2047, so that forty checkpoints take the room
of twelve. The rounding error of a weight is at most half of that step: 2.5e-4 of its row's largest.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from jaxtyping import Float, Float32, Int16, UInt8

from workbench.core.models import card, checksums, native
from workbench.core.modular import network
from workbench.core.modular import recipe as recipes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TRAJECTORY = "trajectory.safetensors"
# Integers from -2047 to 2047 are stored from 1 to 4095.
_LARGEST, _MIDDLE = 2047, 2048


def build_tokenizer(p: int) -> PreTrainedTokenizerFast:
    """Word-level tokenizer of sums: "12 + 57 =" becomes [12, 57, p].

    The network's own vocabulary is exactly the residues and `=`; `+` separates and disappears, and
    nothing is prepended. Any other word becomes `<unk>`, whose id p + 1 lies outside of the
    network's vocabulary, so that it is seen, or fails in the embedding, and never passes for a
    residue. `<pad>` (p + 2) also stands for the end of text, since libraries add a token of their
    own to a tokenizer that names none.

    Args:
        p: The modulus.

    Returns:
        The tokenizer; decoding joins words with a space.
    """
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*map(str, range(p)), "=", "<unk>", "<pad>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace("+", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        tokenizers.Regex(r"\d+|=|[^\s\d=]+"), behavior="removed", invert=True
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def write_model(
    folder: Path,
    weights: network.Weights,
    recipe: recipes.Recipe,
    p: int,
    *,
    more: Mapping[str, bytes] | None = None,
) -> None:
    """Write config, weights and tokenizer as a folder that `load_model` opens.

    Args:
        folder: Made if it is missing; files of these names are replaced one by one, whole.
        weights: Of one network.
        recipe: Its sizes.
        p: The modulus.
        more: Content of further files, by name; written last, in their order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "format": native.FORMAT,
        "config": network.bridge_settings(recipe, p) | {"default_prepend_bos": False},
    }
    stored = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        unfinished = Path(name)
        build_tokenizer(p).save_pretrained(unfinished)
        safetensors.torch.save_file(stored, unfinished / "model.safetensors")
        (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        written = sorted(unfinished.iterdir())
        for file, content in (more or {}).items():
            (unfinished / file).write_bytes(content)
            written.append(unfinished / file)
        for file in written:
            file.chmod(0o644)
            os.replace(file, folder / file.name)


def trajectory_folder(name: str) -> Path | None:
    """The folder of a bundled model that brings its trajectory along, None for any other name."""
    folder = card.BUNDLED / name
    known = name in card.list_models() and (folder / TRAJECTORY).is_file()
    return folder if known else None


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """A packed trajectory.

    Attributes:
        task: Fields of its task.
        recipe: Fields of its recipe.
        steps: Of its checkpoints; the last one is the model beside it, unrounded.
        curves: By name.
        folder: Where it lies.
    """

    task: dict[str, Any]
    recipe: dict[str, Any]
    steps: tuple[int, ...]
    curves: dict[str, np.ndarray] = dataclasses.field(repr=False, compare=False)
    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Trajectory:
        """Read everything but the weights.

        Raises:
            ChangedFileError: If it came with the workbench and is damaged.
        """
        checksums.require(folder / TRAJECTORY)
        with safetensors.safe_open(folder / TRAJECTORY, framework="numpy") as file:
            described = json.loads(file.metadata()["described"])
            names = [name for name in file.keys() if name.startswith("curves/")]
            curves = {name.removeprefix("curves/"): file.get_tensor(name) for name in names}
        return cls(
            described["task"], described["recipe"], tuple(described["steps"]), curves, folder
        )

    def weights(self, step: int) -> network.Weights:
        """Weights of a checkpoint."""
        if step == self.steps[-1]:
            checksums.require(self.folder / "model.safetensors")
            return safetensors.torch.load_file(self.folder / "model.safetensors")
        with safetensors.safe_open(self.folder / TRAJECTORY, framework="numpy") as file:
            names = {name.split("/")[2] for name in file.keys() if name.startswith(f"{step}/")}
            unpacked = {
                name: unpack(*(file.get_tensor(f"{step}/{part}/{name}") for part in _PARTS))
                for name in sorted(names)
            }
        return {name: torch.from_numpy(value) for name, value in unpacked.items()}


_PARTS = ("bits", "scale")


def trajectory_bytes(
    task: Mapping[str, Any],
    recipe: Mapping[str, Any],
    curves: Mapping[str, np.ndarray],
    checkpoints: Sequence[tuple[int, network.Weights]],
    last: int,
) -> bytes:
    """Content of a trajectory's file.

    Args:
        task: Fields of its task.
        recipe: Fields of its recipe.
        curves: By name.
        checkpoints: Steps and weights, without those of the model that it is kept beside.
        last: Step of that model.

    Returns:
        What `Trajectory.open` reads.
    """
    steps = [*(step for step, _ in checkpoints), last]
    described = {"task": dict(task), "recipe": dict(recipe), "steps": steps}
    tensors = {f"curves/{name}": values for name, values in curves.items()}
    for step, weights in checkpoints:
        for name, value in weights.items():
            for part, packed in zip(_PARTS, pack(value.numpy()), strict=True):
                tensors[f"{step}/{part}/{name}"] = packed
    return safetensors.numpy.save(tensors, metadata={"described": json.dumps(described)})


def pack(
    values: Float32[np.ndarray, "*rows column"],
) -> tuple[UInt8[np.ndarray, "*rows byte"], Float32[np.ndarray, "*rows 1"]]:
    """Round to 12 bits a value, relative to the largest magnitude of its row.

    Args:
        values: A matrix, or a vector as a single row; an odd row is padded with a zero.

    Returns:
        Three bytes for two values, and the size of one step of each row.
    """
    scale = np.abs(values).max(-1, keepdims=True) / _LARGEST
    safe = np.where(scale == 0, 1, scale)
    rounded = np.rint(values / safe).astype(np.int16) + np.int16(_MIDDLE)
    if odd := values.shape[-1] % 2:
        rounded = np.concatenate([rounded, np.zeros_like(rounded[..., :odd])], -1)
    first, second = rounded[..., 0::2], rounded[..., 1::2]
    trio = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    packed = np.stack(trio, -1).astype(np.uint8)
    # The last byte says whether the row was padded, so that a row unpacks to its own length.
    flag = np.full((*values.shape[:-1], 1), odd, dtype=np.uint8)
    flat = packed.reshape(*values.shape[:-1], -1)
    return np.concatenate([flat, flag], -1), scale.astype(np.float32)


def unpack(
    packed: UInt8[np.ndarray, "*rows byte"], scale: Float32[np.ndarray, "*rows 1"]
) -> Float32[np.ndarray, "*rows column"]:
    """Inverse of `pack`, up to its rounding."""
    odd = int(packed.reshape(-1)[-1])
    trio = packed[..., :-1].reshape(*packed.shape[:-1], -1, 3).astype(np.int16)
    first = trio[..., 0] << 4 | trio[..., 1] >> 4
    second = (trio[..., 1] & 15) << 8 | trio[..., 2]
    both: Int16[np.ndarray, "*rows pair 2"] = np.stack([first, second], -1)
    rounded = both.reshape(*packed.shape[:-1], -1)[..., : -1 if odd else None]
    values: Float[np.ndarray, "*rows column"] = (rounded - np.int16(_MIDDLE)) * scale
    return values.astype(np.float32)
