"""The latent network's head as a drawing runs it: twice a step.

What the drafts have somewhere is known before the first step: their part of what the head is told is worked
out for the whole grid at once, and so is what the noise adds. Weights of one input are one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.inference_network.text_attention import copied, linear
from textual_vision.training.models.attention import CellHead
from textual_vision.training.models.latent.drafts import Hold
from textual_vision.training.models.latent.lattice import AROUND
from textual_vision.training.models.latent.network import LatentNetwork


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the head knows of cells (in `order`, or of a turn) before anything is chosen."""

    near: Tensor  # (B, n, 1, H): besides the patch's state and what is around
    added: Tensor  # (B, n, 1, D + K + 1): to what it gives, its biases, the noise's part, the nearest's lead
    drafts: Tensor  # (B, n, K, D): rows of the drafts' codes, as they are followed
    turned: Tensor  # (B, n, D, K)
    guidance: Tensor  # (B or 1, 1, 1, 1)

    def by_turn(self, sizes: Sequence[int]) -> list[Told]:
        """Cut into turns of so many cells."""
        parts = [x.split(list(sizes), 1) for x in (self.near, self.added, self.drafts, self.turned)]
        return [
            Told(near=near, added=added, drafts=drafts, turned=turned, guidance=self.guidance)
            for near, added, drafts, turned in zip(*parts, strict=True)
        ]


def around_of(head: CellHead, slots: Sequence[int], width: int) -> nn.Linear:
    """What the codes around a cell, (B, n, 1, slots * (D + K)), add to what is near, H. `slots`: which of the
    eight around; after them comes the mean of all codes so far.
    """
    assert head.follow is not None
    drafts, hidden = head.follow.draft.out_features, head.mix.in_features
    code = width + drafts
    weight = torch.zeros(hidden, AROUND + 1, code)
    around, rest = head.near.weight.detach().split([AROUND * code, head.near.in_features - AROUND * code], 1)
    weight[:, :AROUND] = around.unflatten(1, (AROUND, code))
    weight[:, AROUND, width:] = rest[:, drafts * width :]
    return linear(weight[:, [*slots, AROUND]].flatten(1))


class ArrangedHead(nn.Module):
    """A `CellHead` with its `Follow`, and the choice of codes."""

    rows: Tensor
    nearest: Tensor
    signs: Tensor

    def __init__(self, network: LatentNetwork, rows: Tensor) -> None:
        super().__init__()
        head, width, first = network.head, rows.shape[1], AROUND * network.known
        follow = head.follow
        assert follow is not None
        drafts = follow.draft.out_features
        self.sizes = [width, drafts, 1]
        self.mix, self.norm = head.mix, head.norm
        layers = (head.latent, follow.draft, follow.strength)
        biases = torch.cat([layer.bias for layer in layers])
        self.out = linear(torch.cat([layer.weight for layer in layers]))
        self.before = linear(head.near.weight[:, first : first + drafts * width])
        self.cells = nn.Parameter(head.cell[network.cell].detach())
        self.register_buffer("rows", rows)
        self.register_buffer("nearest", F.pad(follow.nearest, (width, 1)))
        # The noise is felt by the cells of the open steps alone.
        steps = network.sampling.stochastic_steps
        signs = network.sampling.temperature * network.signs
        signs[network.positions(steps - 1)[1] if steps > 0 else 0 :] = 0
        self.register_buffer("signs", signs)
        mixing = F.pad(network.mixing, (0, drafts + 1))
        self.chances = linear(mixing.T, biases)

    def told(self, drafts: Tensor, noise: Tensor, hold: Hold | None) -> Told:
        """Rows of the drafts' codes, (B, K, N, D) in `order`, noise (B, Z), and a drawing's hold."""
        by_cell = drafts.transpose(1, 2)
        near = self.before(by_cell.flatten(2)) + self.cells
        added = self.chances(noise.unsqueeze(1) * self.signs)
        guidance = drafts.new_ones(1, 1, 1, 1)
        if hold is not None:
            added = added + hold.lead.squeeze(3) * self.nearest
            by_cell, guidance = by_cell * hold.follow, hold.guidance
        return Told(
            near=near.unsqueeze(2),
            added=added.unsqueeze(2),
            drafts=by_cell,
            turned=drafts.permute(0, 2, 3, 1),
            guidance=guidance,
        )

    def forward(
        self, states: Tensor, around: tuple[Tensor, Tensor] | None, told: Told, copies: int
    ) -> tuple[Tensor, Tensor]:
        """States (copies * B, n, 1, H), what `Turn` gives -> codes int64 (B, n, 1), and what is known of
        them, (B, n, 1, D + K)."""
        near = told.near if around is None else told.near + around[0]
        x = F.gelu(copied(near, copies) + states)
        x = self.norm(x + F.gelu(self.mix(x)))
        latent, score, strength = (self.out(x) + copied(told.added, copies)).split(self.sizes, 3)
        if around is not None:
            score = score + copied(around[1], copies)
        raw = latent + (score.softmax(3) * strength) @ copied(told.drafts, copies)
        if copies == 2:
            meant, speechless = raw.unflatten(0, (2, -1)).unbind()
            raw = speechless + told.guidance * (meant - speechless)
        codes = (raw @ self.rows.T).argmax(3)
        row = F.embedding(codes, self.rows)
        return codes, torch.cat([row, row @ told.turned], 3)
