"""The latent network arranged for drawing: the same sums, fewer of them, in larger operations.

The network that is trained sees all steps of many pictures at once; a drawing takes one step after the other,
of a few patches each, and reads all weights from memory in every one. So its weights are put together as a
drawing uses them. Rewrites of its graph could not do so: what makes both forms equal (shares that add up to
one, neighbors that no patch has) can no longer be seen there. What is exported is compared with the network
itself, as ever.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.inference_network.head import ArrangedHead, Told
from textual_vision.export.inference_network.retrieval import Recall
from textual_vision.export.inference_network.steps import Step, steps_of
from textual_vision.export.inference_network.text_attention import (
    ArrangedBlock,
    Words,
    WordsFirst,
    copied,
    first_half,
    linear,
)
from textual_vision.training.models.attention import GridBlock
from textual_vision.training.models.latent.drafts import hold_of
from textual_vision.training.models.latent.network import LatentNetwork
from textual_vision.training.models.text_to_image import LatentStage

SPECIALIZE_LATENT = "specialize-latent"  # the name that leaves it out, among those of rewrites


def inference_latent_network(stage: LatentStage) -> nn.Module | None:
    """A module that does what `stage` does; None for a network without a memory, which has no drafts."""
    if stage.latent.memory is None:
        return None
    with torch.no_grad():
        return ArrangedLatent(stage.latent, stage.codebook.rows).eval()


class ArrangedLatent(nn.Module):
    """`LatentStage`."""

    place: Tensor
    order: Tensor
    placed: Tensor
    rows: Tensor

    def __init__(self, network: LatentNetwork, rows: Tensor) -> None:
        super().__init__()
        assert network.memory is not None and network.sketch is not None
        blocks = cast(list[GridBlock], list(network.blocks))
        self.sampling = network.sampling
        self.config, self.known, self.heads = network.config, network.known, blocks[0].heads
        self.sizes = [last - first for turns in network.turns for first, last in turns]
        self.recall, self.sketch = Recall(network.memory), network.sketch
        self.condition, self.start, self.position = network.condition, network.start, network.position
        self.words = WordsFirst(blocks)
        self.blocks = nn.ModuleList(ArrangedBlock(block) for block in blocks)
        self.norm, self.state = network.norm, network.head.state
        self.head = ArrangedHead(network, rows)
        self.choice = linear(torch.cat([block.choice.weight for block in blocks]))
        self.steps = nn.ModuleList(steps_of(network))
        for name in ("place", "order", "placed"):
            self.register_buffer(name, getattr(network, name))
        self.register_buffer("rows", rows)

    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Tensor:
        """text (B, T, C), attention_mask int64 (B, T), noise (B, Z) -> codes int64 (B, h, w)."""
        codes, near, composed = self.recall(text, attention_mask, noise)
        rows = F.embedding(codes, self.rows)
        hold = hold_of(composed, self.sampling)
        told = self.head.told(rows.index_select(2, self.order), noise, hold).by_turn(self.sizes)
        sketch = self.sketch(rows, near).index_select(1, self.placed)
        words = self.words(text, attention_mask)
        if self._copies(0) > 1:
            # See `LatentNetwork.setting`; of zeros, the mean is the same whatever the mask.
            text, noise = torch.cat([text, torch.zeros_like(text)]), copied(noise, 2)
            attention_mask = copied(attention_mask, 2)
        start = self.start(self.condition(text, attention_mask, noise)).unsqueeze(1) + self.position
        starts = (start + copied(sketch, self._copies(0))).split([step.patches for step in self._steps()], 1)
        found = self._through_steps(list(starts), words, told)
        grid = self.config.grid
        return torch.cat(found, 1).index_select(1, self.place).reshape(-1, grid, grid)

    def _through_steps(self, starts: list[Tensor], words: list[Words], told: list[Told]) -> list[Tensor]:
        """Codes of each turn, (B, n, 1)."""
        drafts = told[0].drafts
        known = drafts.new_zeros(drafts.shape[0], 1, self.known)  # of none
        past: list[list[Tensor]] = [[] for _ in self.blocks]
        found: list[Tensor] = []
        spoken = words
        if self._copies(0) > 1:
            said = self.words.said.unbind()
            words = [one.and_speechless(rest) for one, rest in zip(spoken, said, strict=True)]
        for number, step in enumerate(self._steps()):
            copies = self._copies(number)
            x = first_half(starts[number]) if copies < self._copies(0) else starts[number]
            if step.entry is not None:
                x = x + copied(step.entered(known), copies)
            own = []
            for place, block in enumerate(self.blocks):
                x, memory = block(x, words[place], past[place])
                own.append(memory)
            states = self.state(self.norm(x)).index_select(1, step.patch).unsqueeze(2)
            led = (
                2 if self.sampling.is_guided(number, self.config.steps) else 1
            )  # copies that choose the codes
            states = first_half(states) if led < copies else states
            for turn in range(len(step.turns)):
                codes, fresh = self.head(states, step.around(turn, known), told[len(found)], led)
                found.append(codes)
                known = torch.cat([known, fresh.squeeze(2)], 1)
            if number + 1 < len(self.steps):
                left = self._copies(number + 1)
                if left < copies:  # no later step needs the others
                    words = spoken
                    own = [first_half(memory) for memory in own]
                    past = [[first_half(memory) for memory in memories] for memories in past]
                past = self._remembered(past, own, copied(step.chosen(known), left))
        return found

    def _remembered(self, past: list[list[Tensor]], own: list[Tensor], content: Tensor) -> list[list[Tensor]]:
        """Each block's memory with that of a step whose patches hold `content`."""
        chosen = self.choice(content).unflatten(2, (2 * self.heads * len(own), -1)).transpose(1, 2)
        parts = chosen.split(2 * self.heads, 1)
        return [[*before, one + part] for before, one, part in zip(past, own, parts, strict=True)]

    def _copies(self, number: int) -> int:
        """Of each drawing in a step: beside it may go one whose words say nothing, to lead away from."""
        return 2 if self.sampling.guidance_scale != 1 and number < self.sampling.stochastic_steps else 1

    def _steps(self) -> list[Step]:
        return cast(list[Step], list(self.steps))
