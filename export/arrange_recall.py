"""The latent network's memory as a drawing looks it up: two passes over the entries instead of three."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.memory import COVERED, NEVER, Memory
from textual_vision.training.text_encoder import sentence_from_text

SMALLEST_LENGTH = 1e-12  # as F.normalize has it


class Recall(nn.Module):
    """`Memory.forward`: the second and the third look both depend on the first alone, so they are one."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        half = memory.drafts // 2
        looks = [look for look in zip(COVERED, (memory.drafts - half - 1, half), strict=True) if look[1] > 0]
        self.counts = [count for _, count in looks]
        covered = [share for share, _ in looks]
        self.register_buffer("covered", torch.tensor(covered)[:, None])
        self.register_buffer("keys", memory.keys)
        self.register_buffer("codes", memory.codes)
        self.register_buffer("composed", memory.composed)
        self.register_buffer("behind", memory.behind)
        self.register_buffer("directions", memory.directions)
        self.register_buffer("offset", memory.offset)
        self.register_buffer("wandering", memory.wander * memory.mixing)

    keys: Tensor
    codes: Tensor
    composed: Tensor
    covered: Tensor
    behind: Tensor
    directions: Tensor
    offset: Tensor
    wandering: Tensor

    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Memory.forward` without a lesson."""
        query = F.linear(sentence_from_text(text, attention_mask), self.directions, self.offset)
        query = _unit(_unit(query) + noise @ self.wandering)
        scores = self._scores(query)
        near, found = scores.topk(1, dim=1)
        nearest, which = [near], [found]
        if self.counts:
            said = near * self.keys.index_select(0, found[:, 0])
            left = _unit(query.unsqueeze(1) - self.covered * said.unsqueeze(1))  # (B, looks, Q)
            taken = scores >= near
            for count, look in zip(self.counts, self._scores(left).unbind(1), strict=True):
                scores = torch.where(taken, -NEVER, look)
                near, found = scores.topk(count, dim=1)
                taken = taken.logical_or(scores >= near[:, -1:])
                nearest.append(near)
                which.append(found)
        found = torch.cat(which, 1)
        codes = self.codes.index_select(0, found.flatten()).long().unflatten(0, found.shape)
        composed = self.composed.index_select(0, found[:, 0]).float()
        return codes, torch.cat(nearest, 1), composed

    def _scores(self, queries: Tensor) -> Tensor:
        """Queries (..., Q) -> how near each entry is, (..., M)."""
        # Not F.linear: the product would share its table with the lookup, and int8 asks each for another.
        return queries @ self.keys.T - self.behind


def _unit(x: Tensor) -> Tensor:
    """F.normalize along the last axis, without spelling the lengths out."""
    unit: Tensor = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(SMALLEST_LENGTH)
    return unit
