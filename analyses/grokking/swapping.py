"""Run a model with what one of its components writes taken from another checkpoint of it.

Components are the embedding (positions included), each attention head, each MLP, the unembedding
(with the final norm), and the attention's output biases where they differ. In mode "activations"
the other checkpoint's component has read its own run; in mode "weights" it reads this run's stream.
`changes` says what it is for and where it comes from.

Limits: heads have to sum to the attention's output, which is checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from workbench.core.engine import running
from workbench.core.modular.tasks import Task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

METRICS = ("loss", "answer_logit", "accuracy")
DIRECTIONS = ("denoising", "noising")
MODES = ("activations", "weights")
EMBEDDING, UNEMBEDDING = "embedding", "unembedding"
DENOISING = MODES.index("activations"), DIRECTIONS.index("denoising")
# Tokens in one forward pass.
_TOKENS_AT_ONCE = 4096
# What the heads write has to sum to the attention's output within this share of the largest value.
_TOLERANCE = 1e-4


class ChangesError(ValueError):
    """Two checkpoints cannot be compared; the message says why."""


class Prompts(NamedTuple):
    """What is run; without answers the next token is asked for everywhere."""

    tokens: Int[torch.Tensor, "prompt position"]
    answers: Int[torch.Tensor, " prompt"] | None
    name: str

    def part(self, rows: slice) -> Prompts:
        """Some of the prompts."""
        answers = None if self.answers is None else self.answers[rows]
        return Prompts(self.tokens[rows], answers, self.name)

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Metrics of each prompt, in the order of `METRICS`."""
        if self.answers is None:
            logits, wanted = logits[:, :-1].double(), self.tokens[:, 1:]
        else:
            logits, wanted = logits[:, -1:].double(), self.answers[:, None]
        wanted = wanted.to(logits.device)
        own = logits.gather(2, wanted[:, :, None])[:, :, 0]
        each = (
            logits.logsumexp(2) - own,
            own - logits.mean(2),
            (logits.argmax(2) == wanted).double(),
        )
        return torch.stack([values.mean(1) for values in each], 1)


def prompts_of(
    model: TransformerBridge,
    task: Task | None,
    tokens: Int[torch.Tensor, "prompt position"] | None,
    answers: Int[torch.Tensor, " _"] | None,
    *,
    n: int,
    seed: int,
) -> Prompts:
    """Choose what is run.

    Args:
        model: One of the checkpoints.
        task: A modular task, whose held-out pairs are run.
        tokens: Or prompts of one length.
        answers: Right answer at the last position of each prompt.
        n: How many pairs at the most.
        seed: Which pairs are drawn.

    Returns:
        The prompts.

    Raises:
        ChangesError: If they do not fit the model.
    """
    if (task is None) == (tokens is None):
        raise ChangesError("give either a task or tokens, and not both")
    size = int(model.cfg.d_vocab)
    if task is not None:
        if size != task.p + 1:
            raise ChangesError(
                f"the model has {size} tokens; pairs modulo {task.p} need {task.p + 1}"
            )
        if n < 1:
            raise ChangesError(f"n = {n}; expected 1 pair or more")
        _, test = task.split()
        order = np.random.default_rng(seed).permutation(len(test))[:n]
        chosen = test[torch.from_numpy(np.sort(order))]
        equals = torch.full((len(chosen), 1), task.p)
        pairs = torch.cat([task.pairs()[chosen], equals], 1)
        return Prompts(pairs, task.answers()[chosen], f"held-out pairs of {task.name}")
    assert tokens is not None
    _require_tokens(tokens, answers, size)
    return Prompts(tokens.cpu(), None if answers is None else answers.cpu(), "given prompts")


def _require_tokens(tokens: torch.Tensor, answers: torch.Tensor | None, size: int) -> None:
    least = 2 if answers is None else 1
    if not tokens.numel() or tokens.shape[1] < least:
        raise ChangesError(
            f"tokens of shape {tuple(tokens.shape)}: expected at least one prompt, and two tokens "
            "each where the next token is asked for"
        )
    if answers is not None and len(answers) != len(tokens):
        raise ChangesError(f"{len(answers)} answers for {len(tokens)} prompts: expected one each")
    ids = tokens if answers is None else torch.cat([tokens.flatten(), answers])
    if int(ids.min()) < 0 or int(ids.max()) >= size:
        raise ChangesError(f"token ids have to lie between 0 and {size - 1}")


def _shapes(model: TransformerBridge) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.original_model.named_parameters()}


def require_one_shape(before: TransformerBridge, after: TransformerBridge) -> None:
    """Check that two checkpoints are of one architecture.

    Raises:
        ChangesError: If some weight differs in shape.
    """
    one, other = _shapes(before), _shapes(after)
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            plain = name.replace("._original_component", "")
            raise ChangesError(
                f"the checkpoints differ in architecture: {plain} is "
                f"{one.get(name, 'missing')} before and {other.get(name, 'missing')} after"
            )


def components_of(before: TransformerBridge, after: TransformerBridge) -> tuple[str, ...]:
    """Names of the components, in the order in which they write."""
    known = before.hook_dict
    names = [EMBEDDING]
    for layer in range(int(before.cfg.n_layers)):
        names += [f"a{layer}.h{head}" for head in range(int(before.cfg.n_heads))]
        biases = [_output_bias(model, layer) for model in (before, after)]
        if any(b is not None and b.any() for b in biases) and not _same(*biases):
            names.append(f"a{layer}.bias")
        if f"blocks.{layer}.hook_mlp_out" in known:
            names.append(f"m{layer}")
    return (*names, UNEMBEDDING)


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one.cpu(), other.cpu())


def _output_bias(model: TransformerBridge, layer: int) -> torch.Tensor | None:
    bias = getattr(model.blocks[layer].attn, "b_O", None)
    return None if bias is None else bias.detach()


class Measured(NamedTuple):
    """Metrics of every run.

    Attributes:
        baselines: Of both checkpoints, before and after.
        per_prompt: Of each patched run.
        random: Mean change of the loss when the component's change was shuffled among prompts.
    """

    baselines: Float[np.ndarray, "prompt _ 2"]
    per_prompt: Float[np.ndarray, "prompt *cell"]
    random: Float[np.ndarray, "sample node"]


def measure(
    models: tuple[TransformerBridge, TransformerBridge],
    prompts: Prompts,
    components: tuple[str, ...],
    *,
    n_random: int,
    seed: int,
    report: running.Progress,
) -> Measured:
    """Every patched run of every prompt, a few prompts at a time."""
    count, length = prompts.tokens.shape
    baselines = torch.zeros(count, len(METRICS), 2, dtype=torch.float64)
    cells = (len(METRICS), len(MODES), len(DIRECTIONS), len(components))
    patched = torch.zeros(count, *cells, dtype=torch.float64)
    random = torch.zeros(n_random, len(components), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _TOKENS_AT_ONCE // length)
    pieces = range(0, count, rows)
    with torch.inference_mode():
        for done, start in enumerate(pieces):
            piece = slice(start, start + rows)
            some = prompts.part(piece)
            kept = [_keep(model, some) for model in models]
            for model in (0, 1):
                baselines[piece, :, model] = some.scores(kept[model].logits).cpu()
            for direction in range(len(DIRECTIONS)):
                # Denoising runs the earlier checkpoint, noising the later one.
                host, donor = direction, 1 - direction
                swaps = _swaps(models[host], kept[host], models[donor], kept[donor], some)
                for number, swap in enumerate(swaps):
                    share = (direction + number / (2 * len(components))) / len(DIRECTIONS)
                    report((done + share) / len(pieces), f"patching {swap.component}")
                    cell = swap.mode, direction, components.index(swap.component)
                    scores = some.scores(swap.run(models[host], kept[host], some)).cpu()
                    patched[piece, :, *cell] = scores
                    if cell[:2] != DENOISING:
                        continue
                    own = baselines[piece, 0, host]
                    for sample in range(n_random):
                        order = torch.randperm(len(own), generator=generator)
                        logits = swap.shuffled(order).run(models[host], kept[host], some)
                        moved = some.scores(logits)[:, 0].cpu() - own
                        random[sample, cell[2]] += moved.sum() / count
    return Measured(baselines.numpy(), patched.numpy(), random.numpy())


class _Kept(NamedTuple):
    """What one ordinary run leaves behind."""

    logits: torch.Tensor
    activations: dict[str, torch.Tensor]

    def __getitem__(self, name: Any) -> Any:
        """An activation by its hook point."""
        return self.activations[name]


def _keep(model: TransformerBridge, prompts: Prompts) -> _Kept:
    names = _embeddings(model)
    known = model.hook_dict
    layers = range(int(model.cfg.n_layers))
    for layer in layers:
        names += [_resid(layer), _z(layer), _attention(layer)]
        names += [_mlp(layer)] if _mlp(layer) in known else []
    names.append(_last(model))
    return _Kept(*running.run_and_keep(model, prompts.tokens, names))


def _embeddings(model: TransformerBridge) -> list[str]:
    """Where tokens and positions enter the stream; rotary models have the first only."""
    fixed = model.cfg.positional_embedding_type == "standard"
    names = ["hook_embed", *(["hook_pos_embed"] if fixed else [])]
    return [name for name in names if name in model.hook_dict]


def _resid(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_pre"


def _z(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_z"


def _attention(layer: int) -> str:
    return f"blocks.{layer}.hook_attn_out"


def _mlp(layer: int) -> str:
    return f"blocks.{layer}.hook_mlp_out"


def _last(model: TransformerBridge) -> str:
    return f"blocks.{int(model.cfg.n_layers) - 1}.hook_resid_post"


class _Swap(NamedTuple):
    """What has to be added to a run so that one component writes what another one writes.

    Attributes:
        component: Its name.
        mode: Where in `MODES`.
        added: By hook point; nothing for the unembedding, whose own is added to the logits.
    """

    component: str
    mode: int
    added: Mapping[str, torch.Tensor]

    def run(self, host: TransformerBridge, kept: _Kept, prompts: Prompts) -> torch.Tensor:
        """Logits of the patched run."""
        if self.component == UNEMBEDDING:
            return kept.logits + self.added["logits"]

        def adder(change: torch.Tensor) -> running.HookFunction:
            return lambda activation: activation + change

        hooks = {name: adder(change) for name, change in self.added.items()}
        return running.run(host, prompts.tokens, hooks)

    def shuffled(self, order: torch.Tensor) -> _Swap:
        """The same change in another prompt's place."""
        moved = {name: change[order.to(change.device)] for name, change in self.added.items()}
        return self._replace(added=moved)


def _swaps(
    host: TransformerBridge,
    own: _Kept,
    donor: TransformerBridge,
    other: _Kept,
    prompts: Prompts,
) -> Iterator[_Swap]:
    """Every component's swap in every mode."""
    device = own.logits.device
    for mode in range(len(MODES)):
        names = _embeddings(host)
        yield _Swap(EMBEDDING, mode, {name: other[name].to(device) - own[name] for name in names})
        for layer in range(int(host.cfg.n_layers)):
            theirs = other if mode == 0 else _on_input_of(donor, own, layer, prompts)
            yield from _layer_swaps(host, own, donor, theirs, layer=layer, mode=mode)
        final = {_last(donor): own[_last(host)]}
        logits = running.run(donor, prompts.tokens, _replacing(final, donor)).to(device)
        yield _Swap(UNEMBEDDING, mode, {"logits": logits - own.logits})


def _replacing(
    values: Mapping[str, torch.Tensor], model: TransformerBridge
) -> dict[str, running.HookFunction]:
    def replacer(value: torch.Tensor) -> running.HookFunction:
        there = value.to(model.cfg.device)
        return lambda _activation: there

    return {name: replacer(value) for name, value in values.items()}


def _on_input_of(donor: TransformerBridge, own: _Kept, layer: int, prompts: Prompts) -> _Kept:
    """A layer's components in one model, reading the stream of another.

    The attention's output is replaced after its heads have been read, so that the MLP reads the
    other model's stream, too.
    """
    hooks = _replacing({_resid(layer): own[_resid(layer)]}, donor)
    attention = _replacing({_attention(layer): own[_attention(layer)]}, donor)[_attention(layer)]
    kept: dict[str, torch.Tensor] = {}

    def keeper(name: str) -> running.HookFunction:
        def keep(activation: torch.Tensor) -> torch.Tensor:
            kept[name] = activation.clone()
            return activation

        return keep

    def keep_and_replace(activation: torch.Tensor) -> torch.Tensor:
        kept[_attention(layer)] = activation.clone()
        return attention(activation)

    hooks |= {_z(layer): keeper(_z(layer)), _attention(layer): keep_and_replace}
    if _mlp(layer) in own.activations:
        hooks[_mlp(layer)] = keeper(_mlp(layer))
    return _Kept(running.run(donor, prompts.tokens, hooks), kept)


def _layer_swaps(
    host: TransformerBridge,
    own: _Kept,
    donor: TransformerBridge,
    theirs: _Kept,
    *,
    layer: int,
    mode: int,
) -> Iterator[_Swap]:
    device = own.logits.device
    mine, my_rest = _heads(host, own, layer)
    new, new_rest = (part.to(device) for part in _heads(donor, theirs, layer))
    for head in range(mine.shape[2]):
        change = new[:, :, head] - mine[:, :, head]
        yield _Swap(f"a{layer}.h{head}", mode, {_attention(layer): change})
    if not torch.equal(my_rest, new_rest):
        shape = own[_attention(layer)].shape
        yield _Swap(f"a{layer}.bias", mode, {_attention(layer): (new_rest - my_rest).expand(shape)})
    if _mlp(layer) in own.activations:
        change = theirs[_mlp(layer)].to(device) - own[_mlp(layer)]
        yield _Swap(f"m{layer}", mode, {_mlp(layer): change})


def _heads(
    model: TransformerBridge, kept: _Kept, layer: int
) -> tuple[Float[torch.Tensor, "batch position head d_model"], Float[torch.Tensor, " d_model"]]:
    """What each head writes, and the bias that the attention adds."""
    written = torch.einsum("bphd,hdm->bphm", kept[_z(layer)], model.blocks[layer].attn.W_O.detach())
    bias = _output_bias(model, layer)
    if bias is None:
        bias = torch.zeros(written.shape[-1], device=written.device, dtype=written.dtype)
    out = kept[_attention(layer)]
    if float((written.sum(2) + bias - out).abs().max()) > _TOLERANCE * (float(out.abs().max()) + 1):
        raise ChangesError(
            f"the attention of layer {layer} is not the sum of its heads in this architecture, so "
            "that heads cannot be patched one by one"
        )
    return written, bias


def weight_changes(
    before: TransformerBridge, after: TransformerBridge, components: Sequence[str]
) -> Float[np.ndarray, " node"]:
    """Norm of the difference of each component's weights over their norm before."""
    found: list[float] = []
    for name in components:
        pairs = zip(_weights(before, name), _weights(after, name), strict=True)
        squares = [
            (float((b.to(a.device) - a).square().sum()), float(a.square().sum())) for a, b in pairs
        ]
        moved, size = (math.sqrt(sum(part)) for part in zip(*squares, strict=True))
        found.append(moved / size if size else (math.inf if moved else 0.0))
    return np.array(found)


def _weights(model: TransformerBridge, component: str) -> list[torch.Tensor]:
    """A component's weights in double precision."""
    owner: Any
    if component in (EMBEDDING, UNEMBEDDING):
        owners = [model.unembed] if component == UNEMBEDDING else [model.embed]
        if component == EMBEDDING and "hook_pos_embed" in _embeddings(model):
            owners.append(model.pos_embed)
        every = [
            getattr(owner, name, None)
            for owner in owners
            for name in ("W_E", "W_pos", "W_U", "b_U")
        ]
    elif component.startswith("m"):
        owner = model.blocks[int(component[1:])].mlp
        names = ("W_gate", "b_gate", "W_in", "b_in", "W_out", "b_out")
        every = [getattr(owner, name, None) for name in names]
    else:
        layer, _, part = component[1:].partition(".")
        owner = model.blocks[int(layer)].attn
        if part == "bias":
            every = [owner.b_O]
        else:
            every = [
                _of_head(owner, name, int(part[1:]), int(model.cfg.n_heads)) for name in "QKVO"
            ]
            every += [
                _of_head(owner, name, int(part[1:]), int(model.cfg.n_heads), kind="b")
                for name in "QKV"
            ]
    return [value.detach().double() for value in every if value is not None]


def _of_head(
    attention: Any, name: str, head: int, n_heads: int, *, kind: str = "W"
) -> torch.Tensor | None:
    """One head's part of a weight; several heads may share a key or value."""
    value = getattr(attention, f"{kind}_{name}", None)
    return None if value is None else value[head * len(value) // n_heads]
