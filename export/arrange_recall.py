"""The latent network's memory as a drawing looks it up: two passes over the entries instead of three, and its
pictures' codes in as few bytes as they need.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.memory import COVERED, NEVER, Memory
from textual_vision.training.text_encoder import sentence_from_text

SMALLEST_LENGTH = 1e-12  # as F.normalize has it
BYTE = 8  # bits
SHIFT = 128  # int8 begins so much below 0


class Recall(nn.Module):
    """`Memory.forward`: the second and the third look both depend on the first alone, so they are one."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        half = memory.drafts // 2
        looks = [look for look in zip(COVERED, (memory.drafts - half - 1, half), strict=True) if look[1] > 0]
        self.counts = [count for _, count in looks]
        covered = [share for share, _ in looks]
        self.register_buffer("covered", torch.tensor(covered)[:, None])
        self.codes = PackedCodes(memory.codes.long())
        # One table to multiply by and to look up in: the entries are its columns.
        self.register_buffer("keys", memory.keys.T.contiguous())
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
        """As `Memory.forward` without a lesson."""
        query = F.linear(sentence_from_text(text, attention_mask), self.directions, self.offset)
        query = _unit(_unit(query) + noise @ self.wandering)
        scores = self._scores(query)
        near, found = scores.topk(1, dim=1)
        nearest, which = [near], [found]
        if self.counts:
            # Not index_select: OpenVINO takes other columns of a table that int8 holds.
            said = near * self.keys.gather(1, found.T.expand(len(self.keys), -1)).T
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
        return queries @ self.keys - self.behind


class PackedCodes(nn.Module):
    """Rows of whole numbers: eight bits of each in a byte, those above packed with their neighbours'.

    The bytes are int8, which every backend can look up; `tv-export engine` makes them float32 for TensorRT.
    """

    low: Tensor
    high: Tensor
    meant: Tensor

    def __init__(self, codes: Tensor) -> None:
        """`codes` int64 (M, N), of 0 to 65,535; the memory holds none above 2,048."""
        super().__init__()
        self.bits = max(0, int(codes.max()).bit_length() - BYTE)
        self.columns = codes.shape[1]
        self.register_buffer("low", (codes % (1 << BYTE) - SHIFT).to(torch.int8))
        if self.bits == 0:
            return
        together = BYTE // self.bits
        high = F.pad(codes >> BYTE, (0, -self.columns % together)).unflatten(1, (-1, together))
        places = self.bits * torch.arange(together)
        self.register_buffer("high", ((high << places).sum(2) - SHIFT).to(torch.int8))
        # What each byte means for its columns.
        bytes_ = torch.arange(1 << BYTE)[:, None]
        self.register_buffer("meant", ((bytes_ >> places) % (1 << self.bits) << BYTE) + SHIFT)

    def forward(self, rows: Tensor) -> Tensor:
        """Numbers of rows int64 (K,) -> the rows, int64 (K, N)."""
        low = self.low.index_select(0, rows).long()
        if self.bits == 0:
            return low + SHIFT
        packed = self.high.index_select(0, rows).long() + SHIFT
        high = F.embedding(packed, self.meant).flatten(1)
        return low + high[:, : self.columns]


def _unit(x: Tensor) -> Tensor:
    """F.normalize along the last axis, without spelling the lengths out."""
    unit: Tensor = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(SMALLEST_LENGTH)
    return unit
