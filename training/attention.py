"""Attention blocks of the latent network: queries on a grid look at each other and at the words."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKED_SCORE = -1e4  # representable in half precision, unlike -inf after a rounding mistake

KeyValue = tuple[Tensor, Tensor]  # of a memory, each (B, heads, M, W / heads)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) with separate projections."""

    def __init__(self, width: int, heads: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width or width, width)
        self.value = nn.Linear(memory_width or width, width)
        self.output = nn.Linear(width, width)

    def remember(self, memory: Tensor) -> KeyValue:
        """memory (B, M, V) -> its keys and values."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def forward(self, x: Tensor, memory: KeyValue, bias: Tensor | None = None) -> Tensor:
        """x (B, N, W), what `remember` gave, bias (B, 1, 1, M) added to the scores -> (B, N, W)."""
        attend = attend_in_products if self.training and x.device.type == "cpu" else fused_attention
        mixed = attend(self._split(self.query(x)), *memory, bias)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        parts: Tensor = x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return parts  # (B, heads, N, W / heads)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Heads (B, heads, N, W), bias (B, 1, 1, M) -> (B, heads, N, W)."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def attend_in_products(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """The same as two products and a softmax.

    On CPUs the fused form's gradient doesn't use the matrix units: for 64 queries in bfloat16 it took
    half of a training step.
    """
    scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    mixed: Tensor = scores.softmax(3).to(value.dtype) @ value
    return mixed


class GridBlock(nn.Module):
    """Words, then neighbours, then each position by itself; pre-norm residuals."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.norm_words = nn.LayerNorm(width)
        self.words = MultiHeadAttention(width, heads, text_width)
        self.norm_grid = nn.LayerNorm(width)
        self.grid = MultiHeadAttention(width, heads)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, x: Tensor, words: KeyValue, bias: Tensor, past: KeyValue | None, reach: Tensor | None
    ) -> tuple[Tensor, KeyValue]:
        """x (B, N, W), the words as `self.words` remembers them, bias (B, 1, 1, T) to add to their scores,
        what is remembered of positions before these, reach (1, 1, N, N) to add to these positions' scores
        -> (B, N, W), and what is remembered now."""
        x = x + self.words(self.norm_words(x), words, bias)
        normed = self.norm_grid(x)
        key, value = self.grid.remember(normed)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        x = x + self.grid(normed, (key, value), reach)
        return x + self.feed(self.norm_feed(x)), (key, value)


def score_bias(attention_mask: Tensor) -> Tensor:
    """(B, T) int64, 1 for a word and 0 for padding -> float32 (B, 1, 1, T) to add to scores."""
    return (1.0 - attention_mask.to(torch.float32))[:, None, None, :] * MASKED_SCORE
