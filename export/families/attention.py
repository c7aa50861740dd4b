"""Attention with several heads, under the keys of torch.nn.MultiheadAttention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HIDDEN = -1e4  # score of a key that is masked: its weight is exactly 0 in float32 and in float16


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Mixed values (batch, queries, width); query, key and value (batch, …, width), scaled by head width.

    `bias` is added to the scores (batch, heads, queries, keys) and may be broadcast to them.
    """
    parts = [one.unflatten(2, (heads, -1)).transpose(1, 2) for one in (query, key, value)]
    scores = (parts[0] * parts[0].shape[3] ** -0.5) @ parts[1].transpose(2, 3)
    if bias is not None:
        scores = scores + bias
    mixed: Tensor = scores.softmax(3) @ parts[2]
    return mixed.transpose(1, 2).flatten(2)


def bias_from_mask(mask: Tensor) -> Tensor:
    """Float32 (batch, 1, 1, keys) to add to scores: 0 where the mask (batch, keys) is 1, else HIDDEN."""
    return ((1 - mask.to(torch.float32)) * HIDDEN)[:, None, None, :]


def causal_bias(length: int) -> Tensor:
    """Float32 (length, length) to add to scores, so that each position attends to itself and those before."""
    return torch.full((length, length), HIDDEN).triu(1)


class MultiheadAttention(nn.Module):
    """Queries attend to keys; one input projection holds those of queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
        """Features (batch, queries, width) from queries and keys (batch, …, width)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        sources = (queries, keys, keys)
        parts = [nn.functional.linear(x, *pair) for x, *pair in zip(sources, weights, biases, strict=True)]
        out: Tensor = self.out_proj(attend(parts[0], parts[1], parts[2], self.heads, bias))
        return out
