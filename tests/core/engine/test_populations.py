"""Populations: values against a plain hook cache, edits against hooks made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.HookedRootModule import HookedRootModule
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench.core.engine import populations
from workbench.core.networks.sources import load_network
from workbench.core.planted import known_clusters
from workbench.core.prompts import tokenization
from workbench.core.prompts.concepts import Concept

TEXTS = [
    "The king likes the park.",
    "When Mary and John went to the store, John gave a drink to",
    "The queen saw John at the beach.",
    "The keys near the cabinet",
    "Mary likes the bridge.",
]
LABELS = [1, 0, 1, 0, 1]


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return workbench.load_model("grammar-4l", device="cpu")


@pytest.fixture(scope="module")
def network() -> HookedRootModule:
    return load_network("shapes-branch")


@pytest.fixture(scope="module")
def images() -> Concept:
    return Concept.shapes("3D curvature", n=24)


@pytest.fixture(scope="module")
def by_token(model: TransformerBridge) -> Concept:
    labels = [
        [-1 if at == 1 else at % 2 for at in range(len(tokenization.bare(model, text)))]
        for text in TEXTS
    ]
    return Concept(TEXTS, labels, "odd places")


def naive(model: TransformerBridge, texts: list[str], hook: str) -> list[torch.Tensor]:
    """What a hook point sees of each text by itself."""
    found: list[torch.Tensor] = []
    for text in texts:
        tokens = torch.tensor([tokenization.encode(model, text)])
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens, names_filter=lambda name: name == hook)
        found.append(cache[hook][0])
    return found


class Toy:
    """A dictionary of random directions."""

    def __init__(self, width: int, latents: int = 7) -> None:
        random = torch.Generator().manual_seed(0)
        self.W_dec = torch.randn(latents, width, generator=random)
        self.b_enc = torch.randn(latents, generator=random)

    def encode(self, activation: torch.Tensor) -> torch.Tensor:
        return (activation @ self.W_dec.T + self.b_enc).relu()


class TestReading:
    def test_neurons_at_every_labelled_token(
        self, model: TransformerBridge, by_token: Concept
    ) -> None:
        population = populations.of_model(model, layers=[3, 1])
        assert [place.name for place in population.places] == ["neuron 1", "neuron 3"]
        bench = population.bench(by_token)
        front = len(tokenization.front(model))
        kept = [np.flatnonzero(np.array(row) >= 0) + front for row in by_token.labels]
        for number, layer in enumerate((1, 3)):
            seen = naive(model, TEXTS, f"blocks.{layer}.mlp.hook_post")
            expected = torch.cat([s[torch.from_numpy(k)] for s, k in zip(seen, kept, strict=True)])
            columns = bench.values[:, number * 512 : (number + 1) * 512]
            assert np.abs(columns - expected.numpy()).max() < 1e-5

    @pytest.mark.parametrize("reading", ["last", "mean", "max"])
    def test_whole_texts(self, model: TransformerBridge, reading: Any) -> None:
        concept = Concept(TEXTS, LABELS, "c", reading=reading)
        values = populations.of_model(model, layers=[2]).bench(concept).values
        front = len(tokenization.front(model))
        how = {"last": lambda s: s[-1], "mean": lambda s: s.mean(0), "max": lambda s: s.amax(0)}
        seen = naive(model, TEXTS, "blocks.2.mlp.hook_post")
        expected = torch.stack([how[reading](each[front:]) for each in seen])
        assert np.abs(values - expected.numpy()).max() < 1e-5

    def test_a_token_that_has_no_label_is_left_out(self, model: TransformerBridge) -> None:
        rows = [[1, 5, 6, 7], [1, 8, 9, 10]]
        concept = Concept(rows, [[-1, 1, 0, -1], [-1, -1, 1, 0]], "c")
        bench = populations.of_model(model, layers=[0]).bench(concept)
        assert bench.examples.position.tolist() == [1, 2, 2, 3]
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor(rows))
        seen = cache["blocks.0.mlp.hook_post"]
        expected = seen[[0, 0, 1, 1], [1, 2, 2, 3]].numpy()
        assert np.abs(bench.values - expected).max() < 1e-5

    def test_heads_streams_and_latents(self, model: TransformerBridge) -> None:
        concept = Concept(TEXTS, LABELS, "c")
        population = populations.of_model(model, ("head", "resid_post"), layers=[1])
        assert [place.name for place in population.places] == ["head 1", "resid_post 1"]
        values = population.bench(concept).values
        z = torch.stack([each[-1] for each in naive(model, TEXTS, "blocks.1.attn.hook_z")])
        heads = int(model.cfg.n_heads)
        added = torch.einsum("bhd,hdm->bhm", z.reshape(5, heads, -1), model.blocks[1].attn.W_O)
        assert np.abs(values[:, :heads] - added.norm(dim=-1).detach().numpy()).max() < 1e-5
        stream = torch.stack([e[-1] for e in naive(model, TEXTS, "blocks.1.hook_out")])
        assert np.abs(values[:, heads:] - stream.numpy()).max() < 1e-5
        toy = Toy(int(model.cfg.d_model))
        latents = populations.of_model(model, "resid_post", layers=[1], dictionary=toy)
        assert latents.names[0] == "latent 1.0"
        assert np.abs(latents.bench(concept).values - toy.encode(stream).numpy()).max() < 1e-4

    def test_channels_are_means_over_the_image(
        self, network: HookedRootModule, images: Concept
    ) -> None:
        population = populations.of_network(network)
        values = population.bench(images).values
        seen: dict[str, torch.Tensor] = {}
        hooks: list[Any] = [
            (p.hook, lambda value, hook, name=p.hook: seen.update({name: value}))
            for p in population.places
        ]
        with torch.no_grad():
            network.run_with_hooks(torch.from_numpy(images.inputs), fwd_hooks=hooks)
        expected = torch.cat([seen[p.hook].mean((2, 3)) for p in population.places], 1)
        assert np.abs(values - expected.numpy()).max() < 1e-5
        largest = population.bench(images.replaced(reading="max")).values
        expected = torch.cat([seen[p.hook].amax((2, 3)) for p in population.places], 1)
        assert np.abs(largest - expected.numpy()).max() < 1e-5

    def test_planted_neurons_are_those_of_a_plain_forward(self) -> None:
        wired = known_clusters.planted({"layer1.branch2": 5})
        concept = known_clusters.concept(100)
        population = populations.population_of(wired)
        part = wired.layer1.branch2
        with torch.no_grad():
            expected = part.linear(torch.tensor(concept.inputs)).relu().numpy()
        number = [place.name for place in population.places].index("layer1.branch2")
        values = population.bench(concept).values[:, population.place == number]
        assert np.abs(values - expected).max() < 1e-5

    def test_values_that_are_not_finite_are_refused(self) -> None:
        wired = known_clusters.planted({})
        with torch.no_grad():
            wired.layer0.branch1.linear.bias[3] = float("nan")
        bench = populations.of_network(wired).bench(known_clusters.concept(50))
        with pytest.raises(ValueError, match=r"layer0\.branch1\.3 is not a finite number"):
            _ = bench.values


class TestEditing:
    def scores(self, logits: torch.Tensor, examples: np.ndarray) -> torch.Tensor:
        del examples
        return logits[:, :5]

    def test_without_an_edit_the_logits_are_the_models(
        self, model: TransformerBridge, by_token: Concept
    ) -> None:
        bench = populations.of_model(model, layers=[0]).bench(by_token)
        found = bench.scores(self.scores)
        for number in (0, len(bench.examples) - 1):
            row, position = bench.examples.row[number], bench.examples.position[number]
            tokens = torch.tensor([tokenization.encode(model, TEXTS[row])])
            with torch.no_grad():
                expected = model(tokens)[0, position, :5].numpy()
            assert np.abs(found[number] - expected).max() < 1e-4

    @pytest.mark.parametrize("kind", ["neuron", "head"])
    def test_the_mean_stands_at_every_token(self, model: TransformerBridge, kind: str) -> None:
        concept = Concept(TEXTS, LABELS, "c")
        population = populations.of_model(model, kind, layers=[1, 2])
        chosen = np.array([0, 2, len(population) - 1])
        found = population.bench(concept).scores(self.scores, populations.Edit(chosen))
        hook = "blocks.{}.mlp.hook_post" if kind == "neuron" else "blocks.{}.attn.hook_z"
        heads = int(model.cfg.n_heads)

        def write(value: torch.Tensor, mean: torch.Tensor, index: list[int]) -> torch.Tensor:
            changed = value.clone()
            if kind == "head":
                by_head = changed.reshape(*value.shape[:2], heads, -1)
                by_head[:, :, index] = mean.reshape(heads, -1)[index]
                return by_head.reshape(value.shape)
            changed[:, :, index] = mean[index]
            return changed

        last = population.places[1].size - 1
        hooks: list[Any] = []
        for layer, index in ((1, [0, 2]), (2, [last])):
            name = hook.format(layer)
            mean = torch.stack([each[-1] for each in naive(model, TEXTS, name)]).mean(0)
            hooks.append(
                (name, lambda value, hook, mean=mean, index=index: write(value, mean, index))
            )
        for text, row in zip(TEXTS, found, strict=True):
            tokens = torch.tensor([tokenization.encode(model, text)])
            with torch.no_grad():
                expected = model.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1, :5].numpy()
            assert np.abs(row - expected).max() < 1e-4
        plain = population.bench(concept).scores(self.scores)
        assert np.abs(found - plain).max() > 1e-3

    @pytest.mark.parametrize("whole", [True, False])
    def test_donors_are_given_at_the_examples_alone(
        self, model: TransformerBridge, by_token: Concept, whole: bool
    ) -> None:
        concept = Concept(TEXTS, LABELS, "c") if whole else by_token
        bench = populations.of_model(model, layers=[1]).bench(concept)
        rows, positions = bench.examples.row, bench.examples.position
        chosen = np.arange(0, 512, 2)
        donors = np.roll(np.arange(len(rows)), 3)
        found = bench.scores(self.scores, populations.Edit(chosen, donors))
        name = "blocks.1.mlp.hook_post"
        seen = naive(model, TEXTS, name)
        given = torch.stack([seen[row][at] for row, at in zip(rows, positions, strict=True)])
        for row, text in enumerate(TEXTS):
            here = np.flatnonzero(rows == row)

            def write(value: torch.Tensor, hook: Any, here: np.ndarray = here) -> torch.Tensor:
                changed = value.clone()
                # All examples of a row get theirs in one run.
                for example in here:
                    changed[0, positions[example], chosen] = given[donors[example], chosen]
                return changed

            tokens = torch.tensor([tokenization.encode(model, text)])
            with torch.no_grad():
                logits = model.run_with_hooks(tokens, fwd_hooks=[(name, write)])
            expected = logits[0, positions[here], :5].numpy()
            assert np.abs(found[here] - expected).max() < 1e-4

    def test_a_latent_moves_the_stream_along_what_it_writes(self, model: TransformerBridge) -> None:
        concept = Concept(TEXTS, LABELS, "c")
        toy = Toy(int(model.cfg.d_model))
        population = populations.of_model(model, "resid_post", layers=[2], dictionary=toy)
        found = population.bench(concept).scores(self.scores, populations.Edit(np.array([1, 4])))
        name = "blocks.2.hook_out"
        ends = torch.stack([each[-1] for each in naive(model, TEXTS, name)])
        mean = toy.encode(ends).mean(0)

        def write(value: torch.Tensor, hook: Any) -> torch.Tensor:
            moved = (mean - toy.encode(value))[..., [1, 4]]
            return value + moved @ toy.W_dec[[1, 4]]

        for text, row in zip(TEXTS, found, strict=True):
            tokens = torch.tensor([tokenization.encode(model, text)])
            with torch.no_grad():
                logits = model.run_with_hooks(tokens, fwd_hooks=[(name, write)])
            assert np.abs(row - logits[0, -1, :5].numpy()).max() < 1e-3

    def test_channels_get_their_mean_or_another_images_map(
        self, network: HookedRootModule, images: Concept
    ) -> None:
        population = populations.of_network(network)
        bench = population.bench(images)
        place = len(population.places) - 2
        hook = population.places[place].hook
        index = [0, 1]
        chosen = np.flatnonzero(population.place == place)[index]
        inputs = torch.from_numpy(images.inputs)
        seen: list[torch.Tensor] = []
        with torch.no_grad():
            network.run_with_hooks(
                inputs, fwd_hooks=[(hook, lambda value, hook: seen.append(value.clone()))]
            )
        donors = np.roll(np.arange(len(images.labels)), 5)
        means = seen[0].mean((0, 2, 3))[index][None, :, None, None]
        for given, edit in (
            (means, populations.Edit(chosen)),
            (seen[0][donors][:, index], populations.Edit(chosen, donors)),
        ):

            def write(value: torch.Tensor, hook: Any, given: Any = given) -> torch.Tensor:
                changed = value.clone()
                changed[:, index] = given
                return changed

            with torch.no_grad():
                expected = network.run_with_hooks(inputs, fwd_hooks=[(hook, write)])
            found = bench.scores(self.scores, edit)
            assert np.abs(found - expected[:, :5].numpy()).max() < 1e-4

    def test_ablating_the_planted_neurons_takes_the_concept_away(self) -> None:
        wired = known_clusters.planted({"layer0.branch1": 8}, effect=3)
        concept = known_clusters.concept(400)
        population = populations.of_network(wired)
        bench = population.bench(concept)

        def right(logits: torch.Tensor, examples: np.ndarray) -> torch.Tensor:
            labels = torch.from_numpy(concept.labels[examples])
            return ((logits[:, 1] > logits[:, 0]) == (labels == 1)).float()

        chosen = population.numbers(wired.planted)
        assert bench.scores(right).mean() > 0.95
        assert bench.scores(right, populations.Edit(chosen)).mean() == pytest.approx(0.5, abs=0.02)

    def test_a_run_leaves_the_subject_as_it_was(
        self, network: HookedRootModule, images: Concept
    ) -> None:
        before = {name: value.clone() for name, value in network.state_dict().items()}
        population = populations.of_network(network)
        population.bench(images).scores(self.scores, populations.Edit(np.arange(4)))
        assert all(torch.equal(value, before[n]) for n, value in network.state_dict().items())
        assert all(not hook.fwd_hooks for hook in network.hook_dict.values())


class TestWhatDoesNotFit:
    def test_gets_a_sentence(self, model: TransformerBridge, network: HookedRootModule) -> None:
        population = populations.of_model(model, layers=[0])
        with pytest.raises(ValueError, match="a language model reads texts or rows of tokens"):
            population.bench(Concept.shapes("edge", n=12))
        with pytest.raises(ValueError, match=r"holds texts: this network reads arrays of shape"):
            populations.of_network(network).bench(Concept(TEXTS, LABELS, "c"))
        labels = [[1, 0], *([0] * len(tokenization.bare(model, text)) for text in TEXTS[1:])]
        labels[1][0] = 1
        with pytest.raises(ValueError, match="has 2 labels, and the model makes 6 tokens of it"):
            population.bench(Concept(TEXTS, labels, "c"))
        with pytest.raises(ValueError, match="the model reads up to 64 tokens from 0 to 439"):
            population.bench(Concept([[1, 2], [1, 3], [1, 9999], [1, 4]], [1, 1, 0, 0], "c"))
        with pytest.raises(ValueError, match="there is no unit 'neuron 9.1' among the 512"):
            population.numbers(["neuron 9.1"])
        with pytest.raises(ValueError, match="give at least one kind and one layer"):
            populations.of_model(model, layers=[])
        with pytest.raises(ValueError, match="has no hook point 'nowhere'"):
            populations.of_network(network, ["nowhere"])
        with pytest.raises(ValueError, match="a str has no units"):
            populations.population_of("grammar-4l")
        pooled = Concept(TEXTS, LABELS, "c", reading="mean")
        with pytest.raises(ValueError, match="fits no token: read it at the last one"):
            edit = populations.Edit(np.array([0]), np.arange(5))
            population.bench(pooled).scores(lambda logits, _: logits[:, 0], edit)
