"""The latent network's head for single pictures, which run it twice a step.

The retrieved pictures are known before the first step. So their part of the head's inputs is computed for the
whole grid at once, and so is the noise. Layers with the same input are one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.inference_network.text_attention import linear
from textual_vision.training.models.latent.blocks import CodeHead
from textual_vision.training.models.latent.lattice import NEIGHBORS
from textual_vision.training.models.latent.network import repeated
from textual_vision.training.models.latent.retrieved_pictures import CopyControl
from textual_vision.training.models.latent.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """The inputs of n codes that are known before any code is chosen, by rank or of one turn."""

    inputs: Tensor  # (B, n, 1, H): all but the patch's state and the neighbors
    added: Tensor  # (B, n, 1, D + K + 1): to the outputs: biases, noise, the bonus of the nearest picture
    retrieved: Tensor  # (B, n, K, D): codebook vectors times the strength of copying
    transposed: Tensor  # (B, n, D, K): codebook vectors
    guidance_scale: Tensor  # (B or 1, 1, 1, 1)

    def by_turn(self, sizes: Sequence[int]) -> list[HeadInputs]:
        """Return the inputs of turns with so many codes each."""
        fields = (self.inputs, self.added, self.retrieved, self.transposed)
        parts = [x.split(list(sizes), 1) for x in fields]
        return [
            HeadInputs(
                inputs=inputs,
                added=added,
                retrieved=retrieved,
                transposed=transposed,
                guidance_scale=self.guidance_scale,
            )
            for inputs, added, retrieved, transposed in zip(*parts, strict=True)
        ]


def neighbor_layer(head: CodeHead, slots: Sequence[int], width: int) -> nn.Linear:
    """Return the part of `head.neighbors` for features (B, n, 1, slots * (D + K)) of some neighbors.

    `slots` are numbers of the eight neighbors. The mean features of all codes so far come after them.
    """
    assert head.copy is not None
    retrieved, hidden = head.copy.score.out_features, head.mix.in_features
    code = width + retrieved
    weight = torch.zeros(hidden, NEIGHBORS + 1, code)
    sizes = [NEIGHBORS * code, head.neighbors.in_features - NEIGHBORS * code]
    neighbors, rest = head.neighbors.weight.detach().split(sizes, 1)
    weight[:, :NEIGHBORS] = neighbors.unflatten(1, (NEIGHBORS, code))
    weight[:, NEIGHBORS, width:] = rest[:, retrieved * width :]
    return linear(weight[:, [*slots, NEIGHBORS]].flatten(1))


class FusedHead(nn.Module):
    """A `CodeHead` with its `CopyHead`, guidance, noise, and the choice of codes."""

    vectors: Tensor
    is_nearest: Tensor
    signs: Tensor

    def __init__(self, sampler: Sampler, vectors: Tensor) -> None:
        super().__init__()
        network = sampler.network
        head, width, first = network.head, vectors.shape[1], NEIGHBORS * network.features
        copy = head.copy
        assert copy is not None
        retrieved = copy.score.out_features
        self.sizes = [width, retrieved, 1]
        self.mix, self.norm = head.mix, head.norm
        layers = (head.latent, copy.score, copy.strength)
        biases = torch.cat([layer.bias for layer in layers])
        self.out = linear(torch.cat([layer.weight for layer in layers]))
        self.retrieved = linear(head.neighbors.weight[:, first : first + retrieved * width])
        self.cells = nn.Parameter(head.cell_embedding[network.schedule.cell_of_code].detach())
        self.register_buffer("vectors", vectors)
        self.register_buffer("is_nearest", F.pad(copy.is_nearest, (width, 1)))
        # Only the codes of the stochastic steps get noise.
        steps = sampler.sampling.stochastic_steps
        signs = sampler.sampling.temperature * sampler.signs
        signs[network.schedule.codes_of_step(steps - 1)[1] if steps > 0 else 0 :] = 0
        self.register_buffer("signs", signs)
        mixing = F.pad(sampler.mixing, (0, retrieved + 1))
        self.code_noise = linear(mixing.T, biases)

    def inputs(self, retrieved: Tensor, noise: Tensor, control: CopyControl | None) -> HeadInputs:
        """Return the inputs for retrieved vectors (B, K, N, D) by rank, noise (B, Z), and the control."""
        by_code = retrieved.transpose(1, 2)
        inputs = self.retrieved(by_code.flatten(2)) + self.cells
        added = self.code_noise(noise.unsqueeze(1) * self.signs)
        guidance_scale = retrieved.new_ones(1, 1, 1, 1)
        if control is not None:
            added = added + control.nearest_bonus.squeeze(3) * self.is_nearest
            by_code, guidance_scale = by_code * control.strength, control.guidance_scale
        return HeadInputs(
            inputs=inputs.unsqueeze(2),
            added=added.unsqueeze(2),
            retrieved=by_code,
            transposed=retrieved.permute(0, 2, 3, 1),
            guidance_scale=guidance_scale,
        )

    def forward(
        self, states: Tensor, neighbors: tuple[Tensor, Tensor] | None, known: HeadInputs, copies: int
    ) -> tuple[Tensor, Tensor]:
        """Return codes int64 (B, n, 1) and their features (B, n, 1, D + K).

        `states` (copies * B, n, 1, H), `neighbors` as `Turn` returns them.
        """
        inputs = known.inputs if neighbors is None else known.inputs + neighbors[0]
        x = F.gelu(repeated(inputs, copies) + states)
        x = self.norm(x + F.gelu(self.mix(x)))
        latent, score, strength = (self.out(x) + repeated(known.added, copies)).split(self.sizes, 3)
        if neighbors is not None:
            score = score + repeated(neighbors[1], copies)
        raw = latent + (score.softmax(3) * strength) @ repeated(known.retrieved, copies)
        if copies == 2:
            conditional, unconditional = raw.unflatten(0, (2, -1)).unbind()
            raw = unconditional + known.guidance_scale * (conditional - unconditional)
        codes = (raw @ self.vectors.T).argmax(3)
        vectors = F.embedding(codes, self.vectors)
        return codes, torch.cat([vectors, vectors @ known.transposed], 3)
