"""Directions: named vectors of a model's sites, kept beside its runs, and how they were made.

1. A direction is one vector of a site of one layer, with its name, how it was made, and the
   fingerprint of the model that it is of. It is kept as `directions/MODEL/SITE.LAYER-NAME.json` and
   `.safetensors` under the run store's root, each written whole, the JSON last: without it nothing
   is there. A name holds letters, digits, "_" and "-" only, so none leads out of the folder.
2. Made from the unembedding of a token, or of one token less another, as the final norm lets it be
   read (`of_tokens`); the difference of means with and without a concept (`of_concept`), or of two
   prompts (`of_prompts`); a file (`of_file`); or the axis along which a site varies (`of_axis`).
3. `as_units` puts random directions beside one: what is said of it must not hold of these.

Units: vectors are kept as they were made, of any length but zero; whoever reads activations along
one makes it a unit vector. Sign: from what is named second to what is named first.

Limits: that a direction separates two sets, or is read by a logit, does not say that the model uses
it. Of a principal axis the sign is arbitrary: its largest number is made positive.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pydantic
import safetensors
import safetensors.numpy
from jaxtyping import Float

from workbench.core import files, runs
from workbench.core.models import card

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.concepts import Concept
    from workbench.core.prompts.corpus import Corpus
    from workbench.core.prompts.prompt import Prompt

FOLDER = "directions"
SITES = ("resid_pre", "resid_post", "attn_out", "mlp_out", "neuron")
# Numbers of a vector, characters of what is said of it, and bytes of a file that is read.
WIDEST, LONGEST, LARGEST = 1_000_000, 1000, 50_000_000
# Random directions beside one, so that the least p-value is one percent.
CONTROLS = 99
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
_KEPT = re.compile(
    r"(?P<site>[a-z_]+)\.(?P<layer>\d{1,4})-(?P<name>[A-Za-z0-9][A-Za-z0-9_-]{0,59})"
)
_UNPLAIN = re.compile(r"[^A-Za-z0-9_]+")
_MOST_NAME = 60


class DirectionError(ValueError):
    """A direction could not be made, kept or read; the message says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Direction:
    """One vector of a site.

    Attributes:
        name: What it is called; unique among those of its site and layer.
        site: One of `SITES`.
        layer: Which block.
        vector: Of any length but zero.
        made: How it was made, in words.
        fingerprint: Of the model.
    """

    name: str
    site: str
    layer: int
    vector: Float[np.ndarray, " width"]
    made: str
    fingerprint: str

    def __post_init__(self) -> None:
        """Refuse what could not be kept or read.

        Raises:
            DirectionError: If a part of it is wrong.
        """
        if not _NAME.fullmatch(self.name):
            raise DirectionError(
                f"{self.name[:LONGEST]!a} is no name of a direction: write 1 to {_MOST_NAME} "
                "letters, digits, '_' or '-', beginning with a letter or digit"
            )
        if self.site not in SITES:
            raise DirectionError(f"unknown site {self.site!r}; expected one of {', '.join(SITES)}")
        if not 1 <= len(self.vector) <= WIDEST:
            raise DirectionError(f"a vector of {len(self.vector):,} numbers; at most {WIDEST:,}")
        length = float(np.linalg.norm(self.vector))
        if not np.isfinite(length) or length == 0:
            raise DirectionError("the vector is zero or not finite: expected one of some length")
        if not 0 < len(self.made) <= LONGEST:
            raise DirectionError(
                f"what is said of it has {len(self.made):,} characters; expected 1 to {LONGEST:,}"
            )

    @property
    def key(self) -> str:
        """Under which it is kept and found again: "resid_post.2-he-less-she"."""
        return f"{self.site}.{self.layer}-{self.name}"

    def as_units(
        self, *, controls: int = CONTROLS, seed: int = 0
    ) -> Float[torch.Tensor, "direction width"]:
        """The direction and, after it, random ones: what `directions=` of other functions takes.

        Args:
            controls: How many random directions; 0 for none.
            seed: Of these.

        Returns:
            Unit vectors; unit 0 is this direction.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(controls, len(self.vector), generator=generator)
        own = torch.from_numpy(np.array(self.vector, dtype=np.float32))[None]
        every = torch.cat([own, random])
        return every / every.norm(dim=1, keepdim=True)


class _Record(pydantic.BaseModel):
    """What is kept beside the vector."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    format: Literal[1] = 1
    name: str
    site: str
    layer: int
    made: str
    fingerprint: str


def folder(model: TransformerBridge, root: str | os.PathLike[str] | None = None) -> Path:
    """Where the directions of a model are kept.

    Args:
        model: The bridge.
        root: Of the run store; the usual one if not given.

    Returns:
        The folder; it may not be there yet.
    """
    base = runs.default_root() if root is None else Path(root)
    return base / FOLDER / card.fingerprint(model)[:16]


def names(model: TransformerBridge, *, root: str | os.PathLike[str] | None = None) -> list[str]:
    """Keys of all directions of a model that are kept, in order.

    Args:
        model: The bridge.
        root: Of the run store; the usual one if not given.

    Returns:
        Such as "resid_post.2-he-less-she".
    """
    found = sorted(file.stem for file in folder(model, root).glob("*.json"))
    return [key for key in found if _KEPT.fullmatch(key)]


def keep(
    model: TransformerBridge, direction: Direction, *, root: str | os.PathLike[str] | None = None
) -> str:
    """Keep a direction; one of the same name, site and layer is replaced.

    Args:
        model: The bridge that it is of.
        direction: The direction.
        root: Of the run store; the usual one if not given.

    Returns:
        Its key.

    Raises:
        DirectionError: If it is of another model or does not fit its site, or cannot be written.
    """
    _require_fit(model, direction)
    place = folder(model, root)
    record = _Record(
        name=direction.name,
        site=direction.site,
        layer=direction.layer,
        made=direction.made,
        fingerprint=direction.fingerprint,
    )
    vector = np.ascontiguousarray(direction.vector, dtype=np.float32)
    try:
        place.mkdir(parents=True, exist_ok=True)
        content = safetensors.numpy.save({"vector": vector})
        files.write_whole(place / f"{direction.key}.safetensors", content)
        files.write_whole(place / f"{direction.key}.json", record.model_dump_json().encode())
    except OSError as error:
        raise DirectionError(f"cannot write to {place}: {error.strerror or error}") from error
    return direction.key


def load(
    model: TransformerBridge, key: str, *, root: str | os.PathLike[str] | None = None
) -> Direction:
    """Read a direction that is kept.

    Args:
        model: The bridge that it is of.
        key: As `names` lists it; anything else is simply not there.
        root: Of the run store; the usual one if not given.

    Returns:
        The direction.

    Raises:
        DirectionError: If there is none of that key, or it is damaged, or of another model.
    """
    place = folder(model, root)
    if not _KEPT.fullmatch(key) or not (place / f"{key}.json").is_file():
        raise DirectionError(f"there is no direction {key[:LONGEST]!a} of this model")
    try:
        record = _Record.model_validate_json(_small(place / f"{key}.json"))
        arrays = safetensors.numpy.load(_small(place / f"{key}.safetensors"))
        found = Direction(
            record.name,
            record.site,
            record.layer,
            arrays["vector"].astype(np.float32).reshape(-1),
            record.made,
            record.fingerprint,
        )
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise DirectionError(f"the direction {key} is damaged: make it anew") from error
    if found.key != key:
        raise DirectionError(f"the file of {key} holds {found.key}: it was renamed by hand")
    _require_fit(model, found)
    return found


def forget(
    model: TransformerBridge, key: str, *, root: str | os.PathLike[str] | None = None
) -> None:
    """Delete a direction.

    Args:
        model: The bridge that it is of.
        key: As `names` lists it.
        root: Of the run store; the usual one if not given.

    Raises:
        DirectionError: If there is none of that key.
    """
    if key not in names(model, root=root):
        raise DirectionError(f"there is no direction {key[:LONGEST]!a} of this model")
    for ending in ("json", "safetensors"):
        (folder(model, root) / f"{key}.{ending}").unlink(missing_ok=True)


def plain_name(text: str) -> str:
    """A name that can be kept, of any text.

    Args:
        text: What a reader would call it.

    Returns:
        Its letters and digits with "-" for what is between them; "direction" where none are left.
    """
    return _UNPLAIN.sub("-", text).strip("-_")[:_MOST_NAME].rstrip("-") or "direction"


def of_tokens(  # noqa: PLR0913 -- all but two have names, most have defaults
    model: TransformerBridge,
    token: str | int,
    less: str | int | None = None,
    *,
    layer: int,
    site: str = "resid_post",
    name: str | None = None,
) -> Direction:
    """The direction of the stream that a token's logit reads, or its difference to another one's.

    The final norm's gain is in it, and its centring; its scale, which differs from position to
    position, is not, and the vector is made one of length 1.

    Args:
        model: The bridge.
        token: A single token as text, with its leading space where it has one, or its id.
        less: The one whose logit is taken off, if any.
        layer: At which it is to be read.
        site: At which, one that is a stream.
        name: What to call it; made of the tokens if not given.

    Returns:
        The direction.

    Raises:
        DirectionError: If one is no single token, both are the same, or the site is no stream.
        NotTakenApart: If the model's final norm is not known.
    """
    import torch

    from workbench.core.engine import sums
    from workbench.core.prompts.prompt import Prompt, token_texts

    if site == "neuron":
        raise DirectionError("a logit reads the stream, and neurons are no stream: choose a stream")
    first = Prompt.of(model, [0])
    try:
        ids = [first.answer(model, one) for one in (token, less) if one is not None]
    except ValueError as error:
        raise DirectionError(str(error)) from error
    if len(set(ids)) < len(ids):
        raise DirectionError("both tokens are the same: their difference is no direction")
    stream = sums.StreamSum.of(model, first.batch)
    weights = stream.decoder.unembedding()[0]
    with torch.no_grad():
        column = weights[ids[0]] - (weights[ids[1]] if len(ids) > 1 else 0)
        norm = dataclasses.replace(stream.final, scale=torch.ones_like(stream.final.scale[0, 0]))
        # A frozen norm knows its gain up to a factor, so only where this points means something.
        vector = norm.pulled(column).cpu().double().numpy()
        vector = vector / max(np.linalg.norm(vector), 1e-30)
    texts = token_texts(model, ids)
    said = f"logit of {texts[0]!r}" + (f" less {texts[1]!r}" if len(ids) > 1 else "")
    return _made(
        model,
        name or plain_name(" less ".join(text.strip() for text in texts)),
        (site, layer),
        vector,
        f"{said}, as the final norm lets it be read",
    )


def of_concept(
    model: TransformerBridge,
    concept: Concept,
    *,
    layer: int,
    site: str = "resid_post",
    name: str | None = None,
) -> Direction:
    """The difference of means between examples with a concept and without.

    Args:
        model: The bridge.
        concept: Labelled texts or tokens.
        layer: Where it is read.
        site: Where it is read.
        name: What to call it; the concept's name if not given.

    Returns:
        The direction, from "without" to "with".

    Raises:
        DirectionError: If the concept has targets instead of labels, or the means are the same.
        ValueError: If the site does not exist, or the concept cannot be read there.
    """
    from workbench.core.engine import populations

    if concept.graded:
        raise DirectionError(f"{concept.name} has targets, not labels: there are no two means")
    _require_site(model, site, layer)
    population = populations.of_model(model, site, layers=[layer])
    table = population.bench(concept).values.astype(np.float64)
    labels = concept.examples().labels
    return _made(
        model,
        name or plain_name(concept.name),
        (site, layer),
        table[labels].mean(0) - table[~labels].mean(0),
        f"difference of means: {int(labels.sum()):,} examples with {concept.name[:200]!r} less "
        f"{int((~labels).sum()):,} without",
    )


def of_prompts(  # noqa: PLR0913 -- all but three have names, most have defaults
    model: TransformerBridge,
    prompt: Prompt | str | Sequence[int],
    less: Prompt | str | Sequence[int],
    *,
    layer: int,
    site: str = "resid_post",
    position: int = -1,
    name: str | None = None,
) -> Direction:
    """The difference between two prompts' activations at a position.

    Args:
        model: The bridge.
        prompt: What it goes to.
        less: What it comes from.
        layer: Where it is read.
        site: Where it is read.
        position: In each of them, which may count from the end.
        name: What to call it; "prompts" if not given.

    Returns:
        The direction.

    Raises:
        DirectionError: If both are the same there.
        ValueError: If a prompt cannot be read or has no such position.
    """
    from workbench.core.engine import running
    from workbench.core.prompts.prompt import Prompt

    hook = _require_site(model, site, layer)
    seen: list[np.ndarray] = []
    asked = [Prompt.of(model, one) for one in (prompt, less)]
    for one in asked:
        _, kept = running.run_and_keep(model, one.batch, [hook])
        seen.append(kept[hook][0, one.position(position)].double().cpu().numpy())
    said = " less ".join(repr("".join(one.tokens)[:200]) for one in asked)
    return _made(
        model,
        name or "prompts",
        (site, layer),
        seen[0] - seen[1],
        f"activation at position {position} of {said}",
    )


def of_file(  # noqa: PLR0913 -- all but two have names, most have defaults
    model: TransformerBridge,
    path: str | os.PathLike[str],
    *,
    layer: int,
    site: str = "resid_post",
    tensor: str | None = None,
    row: int | None = None,
    name: str | None = None,
) -> Direction:
    """A vector of a file: an array (.npy, never unpickled) or one tensor of a safetensors file.

    Args:
        model: The bridge.
        path: The file.
        layer: What it is a direction of.
        site: What it is a direction of.
        tensor: Which tensor, where there are several.
        row: Which row, where the array has rows.
        name: What to call it; the file's name if not given.

    Returns:
        The direction.

    Raises:
        DirectionError: If the file is missing, too large or something else, or does not fit.
    """
    file = Path(path)
    try:
        content = _small(file)
        if file.suffix == ".safetensors":
            arrays = safetensors.numpy.load(content)
            if tensor is None and len(arrays) != 1:
                raise DirectionError(f"{file.name} holds {', '.join(sorted(arrays))}: name one")
            array = arrays[tensor] if tensor is not None else next(iter(arrays.values()))
        elif file.suffix == ".npy":
            array = np.load(file, allow_pickle=False)
        else:
            raise DirectionError(f"{file.name} is no vector: expected .npy or .safetensors")
    except KeyError as error:
        raise DirectionError(f"{file.name} holds no tensor {tensor!r}") from error
    except DirectionError:
        raise
    except (OSError, ValueError, EOFError, safetensors.SafetensorError) as error:
        raise DirectionError(f"{file.name} cannot be read: {error}") from error
    rows: Any = np.atleast_2d(array)
    is_table = array.dtype.kind in "fiu" and rows.ndim == len(("row", "coordinate"))
    if not is_table or (row is None and len(rows) > 1):
        raise DirectionError(
            f"{file.name} holds {array.dtype} of shape {array.shape}: expected a vector of "
            "numbers, or the number of a row"
        )
    if row is not None and not 0 <= row < len(rows):
        raise DirectionError(f"{file.name} has rows 0 to {len(rows) - 1}, not {row}")
    return _made(
        model, name or plain_name(file.stem), (site, layer), rows[row or 0], f"read of {file.name}"
    )


def of_axis(
    model: TransformerBridge,
    corpus: Corpus,
    *,
    layer: int,
    site: str = "resid_post",
    number: int = 0,
    name: str | None = None,
) -> Direction:
    """A principal axis: along which a site varies most over a corpus.

    Args:
        model: The bridge.
        corpus: What is read.
        layer: Where it is read.
        site: Where it is read.
        number: Which axis, 0 for the one along which it varies most.
        name: What to call it; "axis-0" and so on if not given.

    Returns:
        The direction, which says how much of the variance it has.

    Raises:
        DirectionError: If there is no axis of that number, or the site does not vary.
        ValueError: If the site does not exist.
    """
    import torch

    from workbench.core.engine import scan, units

    _require_site(model, site, layer)
    family = units.family(model, site, layer)
    if not 0 <= number < family.size:
        raise DirectionError(f"there are axes 0 to {family.size - 1}, not {number}")
    count, sums = 0, torch.zeros(family.size, dtype=torch.float64)
    products = torch.zeros(family.size, family.size, dtype=torch.float64)
    for _, table in scan.tables(model, corpus, family):
        wide = table.double().cpu()
        count += len(wide)
        sums += wide.sum(0)
        products += wide.T @ wide
    if not count:
        raise DirectionError(f"{corpus.name} holds special tokens only: nothing counts")
    mean = sums / count
    values, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    vector = vectors[:, -1 - number].numpy()
    vector = vector * np.sign(vector[np.abs(vector).argmax()])
    share = float(values[-1 - number] / values.clamp(min=0).sum().clamp(min=1e-30))
    return _made(
        model,
        name or f"axis-{number}",
        (site, layer),
        vector,
        f"principal axis {number} over {count:,} tokens of {corpus.name[:200]}: {share:.1%} of "
        "the variance",
    )


def _made(
    model: TransformerBridge, name: str, place: tuple[str, int], vector: np.ndarray, said: str
) -> Direction:
    site, layer = place
    plain = np.asarray(vector, dtype=np.float32).reshape(-1)
    found = Direction(name, site, layer, plain, said, card.fingerprint(model))
    _require_fit(model, found)
    return found


def _require_fit(model: TransformerBridge, direction: Direction) -> None:
    """Refuse a direction of another model, or of a place that this model has not."""
    if direction.fingerprint != card.fingerprint(model):
        raise DirectionError(f"the direction {direction.key} is of another model")
    _require_site(model, direction.site, direction.layer)
    width = int(model.cfg.d_mlp or 0) if direction.site == "neuron" else int(model.cfg.d_model)
    if len(direction.vector) != width:
        raise DirectionError(
            f"the vector has {len(direction.vector):,} numbers; {direction.site} has {width:,}"
        )


def _require_site(model: TransformerBridge, site: str, layer: int) -> str:
    """Hook point of a site that a direction can be of."""
    from workbench.core.engine import units

    if site not in SITES:
        raise DirectionError(f"unknown site {site!r}; expected one of {', '.join(SITES)}")
    try:
        return units.family(model, site, layer).hook
    except ValueError as error:
        raise DirectionError(str(error)) from error


def _small(file: Path) -> bytes:
    """Content of a file that is not too large."""
    size = file.stat().st_size
    if size > LARGEST:
        raise DirectionError(f"{file.name} has {size:,} bytes; at most {LARGEST:,} are read")
    return file.read_bytes()
