"""The retrieval index with two passes over the entries instead of three, and its codes in fewer bytes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.models.latent.retrieval_index import EXCLUDED, SUBTRACTED_SHARES, RetrievalIndex
from textual_vision.training.models.text_encoder import sentence_from_text

SMALLEST_LENGTH = 1e-12  # that of F.normalize
HALF_BITS = 12  # of whole numbers that float16 holds exactly, -2,048 to 2,047


class FusedRetrieval(nn.Module):
    """`RetrievalIndex.forward`, its second and third pass as one: both depend on the first alone."""

    def __init__(self, index: RetrievalIndex) -> None:
        super().__init__()
        half = index.count // 2
        passes = [
            one for one in zip(SUBTRACTED_SHARES, (index.count - half - 1, half), strict=True) if one[1] > 0
        ]
        self.counts = [count for _, count in passes]
        shares = torch.tensor([share for share, _ in passes])
        self.register_buffer("shares", shares[:, None])
        self.codes = PackedCodes(index.codes.long())
        self.register_buffer("keys", index.keys)
        self.register_buffer("is_composition", index.is_composition)
        self.register_buffer("tie_break", index.tie_break)
        self.register_buffer("directions", index.directions)
        self.register_buffer("offset", index.offset)
        self.register_buffer("query_noise", index.query_noise * index.mixing)

    keys: Tensor
    is_composition: Tensor
    shares: Tensor
    tie_break: Tensor
    directions: Tensor
    offset: Tensor
    query_noise: Tensor

    def forward(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `RetrievalIndex.forward` returns outside of training."""
        query = F.linear(sentence_from_text(text, attention_mask), self.directions, self.offset)
        query = _unit(_unit(query) + noise @ self.query_noise)
        scores = self._scores(query)
        near, found = scores.topk(1, dim=1)
        nearest, which = [near], [found]
        if self.counts:
            explained = near * self.keys.index_select(0, found[:, 0])
            rest = _unit(query.unsqueeze(1) - self.shares * explained.unsqueeze(1))  # (B, passes, Q)
            taken = scores >= near
            for count, scored in zip(self.counts, self._scores(rest).unbind(1), strict=True):
                scores = torch.where(taken, -EXCLUDED, scored)
                near, found = scores.topk(count, dim=1)
                taken = taken.logical_or(scores >= near[:, -1:])
                nearest.append(near)
                which.append(found)
        found = torch.cat(which, 1)
        codes = self.codes(found.flatten()).unflatten(0, found.shape)
        is_composition = self.is_composition.index_select(0, found[:, 0]).float()
        return codes, torch.cat(nearest, 1), is_composition

    def _scores(self, queries: Tensor) -> Tensor:
        """Return the score of each entry, (..., M), for queries (..., Q)."""
        # Two axes become Gemm: other products would store the keys a second time, transposed.
        scores: Tensor = F.linear(queries.reshape(-1, queries.shape[-1]), self.keys)
        scores = scores.unflatten(0, queries.shape[:-1])
        return scores - self.tie_break


class PackedCodes(nn.Module):
    """Rows of whole numbers below 2,048, packed in float16, which holds signed whole numbers of twelve bits.

    The bits that a number leaves hold a part of another number, spread over several neighbors. Bytes would
    hold more, but TensorRT gathers no int8.
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
    """Return F.normalize along the last axis, without an Expand of the lengths."""
    unit: Tensor = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(SMALLEST_LENGTH)
    return unit
