"""The latent network and its sampler, fused for single pictures: the same sums in fewer, larger operations.

Training computes all steps of many pictures at once. A picture takes one step after the other, of a few
patches each, and every step reads all weights from memory. So weights are multiplied together where the steps
allow it. Rewrites of the exported graph could not do so: they cannot see the reasons, such as weights of
attention that add up to one, or neighbors that no patch has. A test and every build compare the codes with
the network's own.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.inference_network.head import FusedHead, HeadInputs
from textual_vision.export.inference_network.retrieval import FusedRetrieval
from textual_vision.export.inference_network.steps import Step, steps_of
from textual_vision.export.inference_network.text_attention import FusedBlock, FusedText, TextProducts, linear
from textual_vision.training.models.latent.blocks import LatentBlock
from textual_vision.training.models.latent.network import repeated
from textual_vision.training.models.latent.retrieved_pictures import copy_control
from textual_vision.training.models.latent.sampler import Sampler, conditional_half
from textual_vision.training.models.text_to_image import LatentStage

SPECIALIZE_LATENT = "specialize-latent"  # the name that leaves it out, among those of rewrites


def inference_latent_network(stage: LatentStage) -> nn.Module | None:
    """Return a module with the codes of `stage`; None for a network without retrieval."""
    if stage.latent.retrieval is None:
        return None
    with torch.no_grad():
        return FusedLatentStage(stage.sampler, stage.codebook.rows).eval()


class FusedLatentStage(nn.Module):
    """A `LatentStage` with retrieval."""

    rank: Tensor
    order: Tensor
    patch_order: Tensor
    vectors: Tensor

    def __init__(self, sampler: Sampler, vectors: Tensor) -> None:
        super().__init__()
        network = sampler.network
        assert network.retrieval is not None and network.retrieved_encoder is not None
        blocks = cast(list[LatentBlock], list(network.blocks))
        self.sampling = sampler.sampling
        self.config, self.features, self.heads = network.config, network.features, blocks[0].heads
        self.sizes = [last - first for turns in network.schedule.turns for first, last in turns]
        self.retrieval, self.encoder = FusedRetrieval(network.retrieval), network.retrieved_encoder
        self.condition, self.initial, self.position = network.condition, network.initial, network.position
        self.text = FusedText(blocks)
        self.blocks = nn.ModuleList(FusedBlock(block) for block in blocks)
        self.norm, self.state = network.norm, network.head.state
        self.head = FusedHead(sampler, vectors)
        self.code_key_value = linear(torch.cat([block.code_key_value.weight for block in blocks]))
        self.steps = nn.ModuleList(steps_of(network))
        for name in ("rank", "order", "patch_order"):
            self.register_buffer(name, getattr(network.schedule, name))
        self.register_buffer("vectors", vectors)

    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        """text (B, T, C), attention_mask int64 (B, T), noise (B, Z) -> codes int64 (B, h, w)."""
        codes, near, is_composition = self.retrieval(text, attention_mask, noise)
        vectors = F.embedding(codes, self.vectors)
        control = copy_control(is_composition, self.sampling)
        known = self.head.inputs(vectors.index_select(2, self.order), noise, control).by_turn(self.sizes)
        features = self.encoder(vectors, near).index_select(1, self.patch_order)
        products = self.text(text, attention_mask)
        copies = self._copies(0)
        if copies > 1:
            # See `Sampler.inputs`; the mean of zeros is the same for every mask.
            text, noise = torch.cat([text, torch.zeros_like(text)]), repeated(noise, 2)
            attention_mask = repeated(attention_mask, 2)
        initial = self.initial(self.condition(text, attention_mask, noise)).unsqueeze(1) + self.position
        initial = initial + repeated(features, copies)
        by_step = initial.split([step.patches for step in self._steps()], 1)
        found = self._run_steps(list(by_step), products, known)
        grid = self.config.grid
        return torch.cat(found, 1).index_select(1, self.rank).reshape(-1, grid, grid)

    def _run_steps(
        self, initial: list[Tensor], conditional: list[TextProducts], known: list[HeadInputs]
    ) -> list[Tensor]:
        """Return the codes of each turn, (B, n, 1)."""
        retrieved = known[0].retrieved
        features = retrieved.new_zeros(
            retrieved.shape[0], 1, self.features
        )  # of a neighbor that is not chosen
        cache: list[list[Tensor]] = [[] for _ in self.blocks]
        found: list[Tensor] = []
        products = conditional
        if self._copies(0) > 1:
            outputs = self.text.unconditional.unbind()
            products = [one.with_unconditional(out) for one, out in zip(conditional, outputs, strict=True)]
        for number, step in enumerate(self._steps()):
            copies = self._copies(number)
            x = conditional_half(initial[number], 0) if copies < self._copies(0) else initial[number]
            if step.neighbors is not None:
                x = x + repeated(step.neighbor_states(features), copies)
            own = []
            for place, block in enumerate(self.blocks):
                x, block_cache = block(x, products[place], cache[place])
                own.append(block_cache)
            states = self.state(self.norm(x)).index_select(1, step.patch).unsqueeze(2)
            guided = 2 if self.sampling.is_guided(number, self.config.steps) else 1  # copies in the head
            states = conditional_half(states, 0) if guided < copies else states
            for turn in range(len(step.turns)):
                addends = step.head_addends(turn, features)
                codes, fresh = self.head(states, addends, known[len(found)], guided)
                found.append(codes)
                features = torch.cat([features, fresh.squeeze(2)], 1)
            if number + 1 < len(self.steps):
                left = self._copies(number + 1)
                if left < copies:  # no later step needs the unconditional copies
                    products = conditional
                    own = [conditional_half(one, 0) for one in own]
                    cache = [[conditional_half(one, 0) for one in caches] for caches in cache]
                cache = self._extended(cache, own, repeated(step.patch_features(features), left))
        return found

    def _extended(self, cache: list[list[Tensor]], own: list[Tensor], content: Tensor) -> list[list[Tensor]]:
        """Return each block's caches with that of a step, whose codes have the features `content`."""
        chosen = self.code_key_value(content).unflatten(2, (2 * self.heads * len(own), -1)).transpose(1, 2)
        parts = chosen.split(2 * self.heads, 1)
        return [[*before, one + part] for before, one, part in zip(cache, own, parts, strict=True)]

    def _copies(self, number: int) -> int:
        """Return 2 in a step that also runs unconditional copies, else 1."""
        return 2 if self.sampling.guidance_scale != 1 and number < self.sampling.stochastic_steps else 1

    def _steps(self) -> list[Step]:
        return cast(list[Step], list(self.steps))
