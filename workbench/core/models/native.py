"""Models in TransformerLens' own words: a folder with its configuration and safetensors weights.

1. A folder holds `config.json`, `model.safetensors` and, where the model reads text, a tokenizer as
   `tokenizer.save_pretrained` writes it.
2. `config.json` is `{"format": "transformer-lens-native", "config": {...}}` with the fields of
   `Settings`, or simply what `model.cfg.to_dict()` gives, written as JSON (numbers and texts; what
   JSON has no word for, as `dtype`, as text).
3. The weights have the names of a native bridge's network (`tok_embed.weight`,
   `layers.0.attn.q.weight`, ...), or those of a HookedTransformer's state dictionary (`embed.W_E`,
   `blocks.0.attn.W_Q`, ...), which are laid out anew; `head.bias` is optional.
4. Names, shapes and number formats are compared in the file's header before anything is allocated,
   and a setting that the native network would silently ignore is refused.

`save_native` writes such a folder: what it wrote is the same model again, to the bit.

Limits: a HookedTransformer whose rotary positions turn the two halves of a head (the default there)
gets the coordinates of its queries and keys in another order, pair beside pair; nothing else
changes. Tied matrices come back as two equal ones. Weights are read as float32 unless `load_model`
is given a `dtype`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from workbench.core import reading
from workbench.core.models import folders

if TYPE_CHECKING:
    import torch
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

FORMAT = "transformer-lens-native"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
ARCHITECTURE = "TransformerLensNative"
_HEAD_BIAS = "head.bias"

_LARGEST = 1_000_000
_MOST_LAYERS = 1_000
# Each layer has a mask of positions by positions, one byte a cell, which no weight vouches for.
_LARGEST_MASKS = 8_000_000_000
_NAMED = 3
_FLOATING = {"F64", "F32", "F16", "BF16"}

# Fields of TransformerLens' configurations that leave what the weights compute as it is, or that do
# so as long as the field that switches them on has its default.
_INERT = frozenset(
    "NTK_by_parts_factor NTK_by_parts_high_freq_factor NTK_by_parts_low_freq_factor "
    "NTK_original_ctx_len architecture attn_implementation attn_types checkpoint_index "
    "checkpoint_label_type checkpoint_value decoder_start_token_id default_padding_side device "
    "dtype from_checkpoint init_mode init_weights initializer_range layer_norm_folding model_name "
    "n_devices n_params original_architecture rotary_adjacent_pairs seed split_attention_weights "
    "tokenizer_appends_eos tokenizer_name tokenizer_prepends_bos train_seq_length "
    "trust_remote_code ungroup_grouped_query_attention use_attn_in use_attn_result "
    "use_hook_mlp_in use_hook_tokens use_split_qkv_input uses_rms_norm window_size "
    "yarn_attention_factor yarn_beta_fast yarn_beta_slow yarn_factor yarn_global_attn_only "
    "yarn_original_max_position_embeddings yarn_truncate".split()
)


class Settings(pydantic.BaseModel):
    """Every setting on which a native network's function depends; see TransformerBridgeConfig.

    Attributes:
        d_model: Width of the residual stream.
        d_head: Width of a head.
        n_heads: Query heads a layer.
        n_layers: Layers.
        n_ctx: Tokens that it reads at the most.
        d_vocab: Tokens that it knows.
        d_vocab_out: Tokens that it says; -1 for as many.
        d_mlp: Neurons a layer; None for four times `d_model`.
        act_fn: Of the neurons.
        eps: Added to the variance in each normalization.
        attn_scale: What attention scores are divided by; -1 for the root of `d_head`.
        normalization_type: Of the stream before each layer; None for none.
        positional_embedding_type: Learned vectors, or turned queries and keys.
        rotary_dim: Coordinates of a head that are turned; None for all.
        rotary_base: Of the wavelengths.
        attn_only: Whether there are no MLPs.
        final_rms: Whether the last normalization is RMS, whatever the others are.
        gated_mlp: Whether neurons are gated.
        n_key_value_heads: Key and value heads a layer; None for one a query head.
        attn_scores_soft_cap: Of attention scores; -1 for none.
        output_logits_soft_cap: Of logits; -1 for none.
        default_prepend_bos: Whether a text gets the tokenizer's BOS token in front.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )

    d_model: int = pydantic.Field(ge=1, le=_LARGEST)
    d_head: int = pydantic.Field(ge=1, le=_LARGEST)
    n_heads: int = pydantic.Field(ge=1, le=_LARGEST)
    n_layers: int = pydantic.Field(ge=1, le=_MOST_LAYERS)
    n_ctx: int = pydantic.Field(ge=1, le=_LARGEST)
    d_vocab: int = pydantic.Field(ge=1, le=100 * _LARGEST)
    d_vocab_out: int = pydantic.Field(default=-1, ge=-1, le=100 * _LARGEST)
    d_mlp: int | None = pydantic.Field(default=None, ge=1, le=_LARGEST)
    act_fn: Literal["gelu", "gelu_new", "relu", "silu", "swish"] = "relu"
    eps: float = pydantic.Field(default=1e-5, ge=0)
    attn_scale: float = -1.0
    normalization_type: Literal["LN", "LNPre", "RMS", "RMSPre"] | None = "LN"
    positional_embedding_type: Literal["standard", "rotary"] = "standard"
    rotary_dim: int | None = pydantic.Field(default=None, ge=2, le=_LARGEST, multiple_of=2)
    rotary_base: int = pydantic.Field(default=10_000, ge=1)
    attn_only: bool = False
    final_rms: bool = False
    gated_mlp: bool = False
    n_key_value_heads: int | None = pydantic.Field(default=None, ge=1, le=_LARGEST)
    attn_scores_soft_cap: float = -1.0
    output_logits_soft_cap: float = -1.0
    default_prepend_bos: bool = False

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if self.n_heads % (self.n_key_value_heads or self.n_heads):
            raise ValueError(
                f"{self.n_heads} query heads cannot share {self.n_key_value_heads} key heads"
            )
        if self.rotary_dim is not None and self.rotary_dim > self.d_head:
            raise ValueError(f"rotary_dim {self.rotary_dim} is more than d_head {self.d_head}")
        if self.normalization_type is None and self.final_rms:
            raise ValueError("final_rms needs a normalization_type")
        masks = self.n_layers * self.n_ctx**2
        if masks > _LARGEST_MASKS:
            raise ValueError(
                f"n_ctx {self.n_ctx} takes {masks / 1e9:,.0f} GB of attention masks in "
                f"{self.n_layers} layers, more than {_LARGEST_MASKS / 1e9:.0f} GB"
            )
        return self

    @property
    def key_heads(self) -> int:
        """Key and value heads a layer."""
        return self.n_key_value_heads or self.n_heads

    def bridge_config(self) -> TransformerBridgeConfig:
        """The same as TransformerLens' own configuration."""
        from transformer_lens.config import TransformerBridgeConfig

        fields = self.model_dump(exclude={"default_prepend_bos"})
        config = TransformerBridgeConfig(**fields, init_weights=False, architecture=ARCHITECTURE)
        config.default_prepend_bos = self.default_prepend_bos
        return config


def describes(config: Mapping[str, Any]) -> bool:
    """Whether the content of a config.json is TransformerLens' own, and not Hugging Face's."""
    if config.get("format") == FORMAT:
        return True
    return {"d_model", "d_head", "n_layers"} <= set(config) and "model_type" not in config


def read_settings(folder: Path) -> Settings:
    """The settings of a folder.

    Args:
        folder: That of the model.

    Returns:
        What its network is built by.

    Raises:
        ModelSourceError: If they do not describe a network that can be built exactly.
    """
    path = folder / CONFIG
    return _settings(_fields(path), f"{path} does not describe a model")


def _fields(path: Path) -> dict[str, Any]:
    content = folders.read_json(path)
    if content.get("format") != FORMAT:
        return content
    fields = content.get("config")
    if not isinstance(fields, dict) or set(content) != {"format", "config"}:
        raise folders.ModelSourceError(
            f'{path} does not describe a model: expected "format" and "config", an object of '
            "settings, and nothing else"
        )
    return fields


def _settings(fields: Mapping[str, Any], complaint: str) -> Settings:
    """Settings out of any of TransformerLens' configurations, refused where one would be lost."""
    known = dict(fields)
    asked = {name: known.pop(name) for name in Settings.model_fields if name in known}
    usual = _usual_values()
    for name, value in known.items():
        if name not in usual:
            some = ", ".join(list(Settings.model_fields)[:4])
            raise folders.ModelSourceError(
                f"{complaint}: there is no setting {reading.quoted(name)}; expected those of "
                f"TransformerLens' configuration, such as {some}"
            )
        if name not in _INERT and value != usual[name]:
            raise folders.ModelSourceError(
                f"{complaint}: {name} = {reading.quoted(value)} is not what a native network can "
                f"do; expected {usual[name]!r}"
            )
    d_head, scale = asked.get("d_head"), asked.get("attn_scale")
    if isinstance(d_head, int) and d_head > 0 and isinstance(scale, float | int):
        if math.isclose(scale, math.sqrt(d_head)):
            asked["attn_scale"] = -1.0
        elif scale == 1:
            raise folders.ModelSourceError(
                f"{complaint}: attn_scale = 1 leaves scores undivided, which a native network "
                "cannot do; scale the queries' weights instead"
            )
    try:
        return Settings(**asked)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise folders.ModelSourceError(
            f"{complaint}: {where + ': ' if where else ''}{said}"
        ) from error


def _usual_values() -> dict[str, Any]:
    """Every field of TransformerLens' two configurations with its default value."""
    from transformer_lens.config import HookedTransformerConfig, TransformerBridgeConfig

    usual: dict[str, Any] = {"split_attention_weights": False}
    for kind in (TransformerBridgeConfig, HookedTransformerConfig):
        for name, parameter in inspect.signature(kind).parameters.items():
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                usual[name] = parameter.default
    return usual


def read_network(folder: Path) -> torch.nn.Module:
    """The network of a folder, with its weights, on the CPU.

    Args:
        folder: That of the model.

    Returns:
        A `NativeModel` in evaluation mode.

    Raises:
        ModelSourceError: If the weights are not those that the settings describe.
    """
    import torch
    from transformer_lens.model_bridge.sources.native.model import NativeModel

    settings = read_settings(folder)
    path = folder / WEIGHTS
    complaint = f"{path} does not hold the weights that its {CONFIG} describes"
    wanted = _shapes(settings)
    weights = _read_weights(path, settings, wanted, complaint)
    network = NativeModel(settings.bridge_config())
    if _HEAD_BIAS in weights:
        network.head.bias = torch.nn.Parameter(torch.empty_like(weights[_HEAD_BIAS]))
    network.load_state_dict(weights)
    return network.eval()


def _shapes(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Every tensor of a native network, without its optional bias; nothing is allocated."""
    import torch
    from transformer_lens.model_bridge.sources.native.model import NativeModel

    with torch.device("meta"):
        network = NativeModel(settings.bridge_config())
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def _read_weights(
    path: Path, settings: Settings, wanted: Mapping[str, tuple[int, ...]], complaint: str
) -> dict[str, torch.Tensor]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = set(file.keys())
            parts = _hooked_parts(settings) if "embed.W_E" in names else None
            shapes = (
                {**wanted, _HEAD_BIAS: (wanted["head.weight"][0],)}
                if parts is None
                else {part.name: part.shape for part in parts}
            )
            optional = {_HEAD_BIAS} if parts is None else set[str]()
            buffers = set[str]() if parts is None else _hooked_buffers(names)
            _compare_names(names - buffers, set(shapes), optional, complaint)
            for name in sorted(names - buffers):
                _compare(file.get_slice(name), name, shapes[name], complaint)
            read = {name: file.get_tensor(name) for name in sorted(names - buffers)}
    except FileNotFoundError as error:
        raise folders.ModelSourceError(
            f"there is no {WEIGHTS} beside {path.parent / CONFIG}"
        ) from error
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise folders.ModelSourceError(f"{complaint}: {folders.first_line(error)}") from error
    return read if parts is None else _laid_out_anew(parts, read, settings, path)


def _compare_names(names: set[str], wanted: set[str], optional: set[str], complaint: str) -> None:
    for missing, what in ((wanted - names - optional, "lacks"), (names - wanted, "has besides")):
        if missing:
            few = sorted(missing)[:_NAMED]
            more = f" and {len(missing) - len(few)} more" if len(missing) > len(few) else ""
            raise folders.ModelSourceError(f"{complaint}: it {what} {', '.join(few)}{more}")


def _compare(stored: Any, name: str, shape: tuple[int, ...], complaint: str) -> None:
    found = tuple(stored.get_shape())
    if found != shape:
        raise folders.ModelSourceError(
            f"{complaint}: {name} has the shape {found}, expected {shape}"
        )
    if stored.get_dtype() not in _FLOATING:
        raise folders.ModelSourceError(
            f"{complaint}: {name} holds {stored.get_dtype()}, expected floating-point numbers "
            f"({', '.join(sorted(_FLOATING))})"
        )


@dataclasses.dataclass(frozen=True)
class _Part:
    """One tensor of a HookedTransformer: its shape, and where it belongs in a native network."""

    name: str
    shape: tuple[int, ...]
    native: str
    lay_out: Callable[[torch.Tensor], torch.Tensor]


def _hooked_buffers(names: Iterable[str]) -> set[str]:
    # Masks and tables, which a native network makes for itself.
    kinds = (".attn.mask", ".attn.IGNORE", ".attn.rotary_sin", ".attn.rotary_cos")
    return {name for name in names if name.endswith(kinds)}


def _hooked_parts(settings: Settings) -> list[_Part]:
    """Every parameter of a HookedTransformer of these settings."""
    d_model, d_head = settings.d_model, settings.d_head
    d_mlp = settings.d_mlp or 4 * d_model
    out = settings.d_vocab_out if settings.d_vocab_out > 0 else settings.d_vocab
    parts = [_Part("embed.W_E", (settings.d_vocab, d_model), "tok_embed.weight", _same)]
    if settings.positional_embedding_type == "standard":
        parts.append(_Part("pos_embed.W_pos", (settings.n_ctx, d_model), "pos.weight", _same))
    for layer in range(settings.n_layers):
        hooked, native = f"blocks.{layer}", f"layers.{layer}"
        parts += _norm(settings, f"{hooked}.ln1", f"{native}.ln1")
        for letter, heads in (("Q", settings.n_heads), ("K", 0), ("V", 0)):
            grouped = "_" if not heads and settings.n_key_value_heads else ""
            count, to = heads or settings.key_heads, f"{native}.attn.{letter.lower()}"
            weight, bias = (f"{hooked}.attn.{grouped}{kind}_{letter}" for kind in "Wb")
            parts.append(_Part(weight, (count, d_model, d_head), f"{to}.weight", _into_heads))
            parts.append(_Part(bias, (count, d_head), f"{to}.bias", _flat))
        o = f"{native}.attn.o"
        shape = (settings.n_heads, d_head, d_model)
        parts.append(_Part(f"{hooked}.attn.W_O", shape, f"{o}.weight", _out_of_heads))
        parts.append(_Part(f"{hooked}.attn.b_O", (d_model,), f"{o}.bias", _same))
        if settings.attn_only:
            continue
        parts += _norm(settings, f"{hooked}.ln2", f"{native}.ln2")
        into, back = ("in", "out") if settings.gated_mlp else ("fc_in", "fc_out")
        matrices = {"W_in": (into, (d_model, d_mlp)), "W_out": (back, (d_mlp, d_model))}
        if settings.gated_mlp:
            matrices["W_gate"] = ("gate", (d_model, d_mlp))
        for name, (to, shape) in matrices.items():
            weight = f"{native}.mlp.{to}.weight"
            parts.append(_Part(f"{hooked}.mlp.{name}", shape, weight, _transposed))
        for name, to, width in (("b_in", into, d_mlp), ("b_out", back, d_model)):
            parts.append(_Part(f"{hooked}.mlp.{name}", (width,), f"{native}.mlp.{to}.bias", _same))
    parts += _norm(settings, "ln_final", "ln_out", rms=settings.final_rms)
    parts.append(_Part("unembed.W_U", (d_model, out), "head.weight", _transposed))
    parts.append(_Part("unembed.b_U", (out,), _HEAD_BIAS, _same))
    return parts


def _norm(settings: Settings, hooked: str, native: str, *, rms: bool = False) -> list[_Part]:
    """Scale and shift of a normalization, which some kinds do not have."""
    if settings.normalization_type not in ("LN", "RMS"):
        return []
    shape = (settings.d_model,)
    scale = _Part(f"{hooked}.w", shape, f"{native}.weight", _same)
    shift = _Part(f"{hooked}.b", shape, f"{native}.bias", _same)
    return [scale] if rms or settings.normalization_type == "RMS" else [scale, shift]


def _same(value: torch.Tensor) -> torch.Tensor:
    return value


def _flat(value: torch.Tensor) -> torch.Tensor:
    return value.flatten()


def _transposed(value: torch.Tensor) -> torch.Tensor:
    return value.T


def _into_heads(value: torch.Tensor) -> torch.Tensor:
    return value.transpose(1, 2).flatten(0, 1)


def _out_of_heads(value: torch.Tensor) -> torch.Tensor:
    return value.flatten(0, 1).T


def _laid_out_anew(
    parts: list[_Part], read: Mapping[str, torch.Tensor], settings: Settings, path: Path
) -> dict[str, torch.Tensor]:
    """A HookedTransformer's weights under a native network's names."""
    import torch

    halves = settings.positional_embedding_type == "rotary" and not _fields(
        path.parent / CONFIG
    ).get("rotary_adjacent_pairs", False)
    made: dict[str, torch.Tensor] = {}
    for part in parts:
        value = read[part.name]
        if halves and part.name.rpartition("_")[2] in ("Q", "K"):
            width = settings.rotary_dim or settings.d_head
            paired = torch.arange(width).reshape(2, -1).T.flatten()
            value = value[..., torch.cat([paired, torch.arange(width, settings.d_head)])]
        value = part.lay_out(value).contiguous()
        gated = settings.gated_mlp and part.name.endswith(("b_in", "b_out"))
        if gated and bool(value.any()):
            raise folders.ModelSourceError(
                f"{path}: {part.name} is not zero, and a native gated MLP has no such bias"
            )
        if gated or (part.native == _HEAD_BIAS and not bool(value.any())):
            continue
        made[part.native] = value
    return made


def save_native(model: TransformerBridge, folder: str | os.PathLike[str]) -> Path:
    """Write a native bridge as a folder that `load_model` opens as the same model.

    The folder appears once all of it is written.

    Args:
        model: A bridge of `TransformerBridge.boot_native`, or one that `load_model` opened from
            such a folder; its weights may have been edited.
        folder: Where to; a folder that is not there yet, or an empty one.

    Returns:
        The folder.

    Raises:
        ValueError: If the model is no native bridge, was folded, has settings that the format
            cannot say, or the folder is in use.
    """
    import safetensors.torch

    place = Path(folder).expanduser()
    settings = _settings_of(model)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"{place} is there already: name a folder that is not, or an empty one")
    place.parent.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, "config": settings.model_dump()}
    weights = _stored(model, settings)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as name:
        made = Path(name) / "model"
        made.mkdir()
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(made)
        safetensors.torch.save_file(weights, made / WEIGHTS)
        (made / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for file in made.iterdir():
            file.chmod(0o644)
        os.replace(made, place)
    return place


def _settings_of(model: TransformerBridge) -> Settings:
    if getattr(model.cfg, "architecture", None) != ARCHITECTURE:
        raise ValueError(
            "only a native bridge can be written this way; a Hugging Face model is kept with its "
            "own save_pretrained(folder), called before a bridge is made of it"
        )
    if getattr(model, "compatibility_mode", False):
        raise ValueError(
            "this bridge's weights were folded by enable_compatibility_mode(): write the model "
            "before that is called"
        )
    return _settings(model.cfg.to_dict(), "this bridge cannot be written")


def _stored(model: TransformerBridge, settings: Settings) -> dict[str, torch.Tensor]:
    """The network's tensors under the names of a network that no bridge was built around."""
    # A bridge shows some tensors under further names of its own, which are left out.
    every = {
        name.replace("._original_component", ""): value
        for name, value in model.original_model.state_dict().items()
    }
    names = [*_shapes(settings), *([_HEAD_BIAS] if bool(every[_HEAD_BIAS].any()) else [])]
    return {name: every[name].detach().cpu().clone().contiguous() for name in names}
