"""The latent network's memory as a drawing looks it up: two passes over the entries instead of three, and its
pictures' codes in fewer bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.models.latent.retrieval import COVERED, NEVER, RetrievalIndex
from textual_vision.training.models.text_encoder import sentence_from_text

SMALLEST_LENGTH = 1e-12  # as F.normalize has it
HALF_BITS = 12  # of whole numbers that float16 holds exactly, -2,048 to 2,047


class Recall(nn.Module):
    """`RetrievalIndex.forward`, its second and third look as one: both depend on the first alone."""

    def __init__(self, memory: RetrievalIndex) -> None:
        super().__init__()
        half = memory.drafts // 2
        looks = [look for look in zip(COVERED, (memory.drafts - half - 1, half), strict=True) if look[1] > 0]
        self.counts = [count for _, count in looks]
        covered = [share for share, _ in looks]
        self.register_buffer("covered", torch.tensor(covered)[:, None])
        self.codes = PackedCodes(memory.codes.long())
        self.register_buffer("keys", memory.keys)
        self.register_buffer("composed", memory.composed)
        self.register_buffer("behind", memory.behind)
        self.register_buffer("directions", memory.directions)
        self.register_buffer("offset", memory.offset)
        self.register_buffer("wandering", memory.wander * memory.mixing)

    keys: Tensor
    composed: Tensor
    covered: Tensor
    behind: Tensor
    directions: Tensor
    offset: Tensor
    wandering: Tensor

    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `RetrievalIndex.forward` without a lesson."""
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
        codes = self.codes(found.flatten()).unflatten(0, found.shape)
        composed = self.composed.index_select(0, found[:, 0]).float()
        return codes, torch.cat(nearest, 1), composed

    def _scores(self, queries: Tensor) -> Tensor:
        """Queries (..., Q) -> how near each entry is, (..., M)."""
        # Of two axes, which become Gemm: other products would hold the keys a second time, turned.
        scores: Tensor = F.linear(queries.reshape(-1, queries.shape[-1]), self.keys)
        scores = scores.unflatten(0, queries.shape[:-1])
        return scores - self.behind


class PackedCodes(nn.Module):
    """Rows of whole numbers below 2,048 in float16, which holds whole numbers of twelve bits, a sign's too.

    What bits a number leaves of them hold part of another, which so many neighbors share as it takes. Bytes
    would hold more, but TensorRT looks up no int8.
    """

    packed: Tensor
    places: Tensor

    def __init__(self, codes: Tensor) -> None:
        """`codes` int64 (M, N)."""
        super().__init__()
        self.columns = codes.shape[1]
        bits = max(1, int(codes.max()).bit_length())
        spare = HALF_BITS - bits
        group = -(-bits // spare)
        apart = F.pad(codes, (0, -self.columns % (group + 1))).unflatten(1, (-1, group + 1))
        self.size, self.lowest = 1 << bits, -(1 << (spare - 1))
        places = spare * torch.arange(group)
        parts = (apart[:, :, group:] >> places) % (1 << spare) + self.lowest
        packed = apart[:, :, :group] + parts * self.size
        self.register_buffer("packed", packed.flatten(1).half())
        self.register_buffer("places", (1 << places).float()[:, None])

    def forward(self, rows: Tensor) -> Tensor:
        """Numbers of rows int64 (K,) -> the rows, int64 (K, N)."""
        packed = self.packed.index_select(0, rows).float().unflatten(1, (-1, len(self.places)))
        parts = (packed / self.size).floor()
        codes = torch.cat([packed - self.size * parts, (parts - self.lowest) @ self.places], 2)
        return codes.flatten(1)[:, : self.columns].long()


def _unit(x: Tensor) -> Tensor:
    """F.normalize along the last axis, without spelling the lengths out."""
    unit: Tensor = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(SMALLEST_LENGTH)
    return unit
