"""Attention blocks of the latent network: queries on a grid look at each other and at the words."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKED_SCORE = -1e4  # representable in half precision, unlike -inf after a rounding mistake


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) with separate projections."""

    def __init__(self, width: int, heads: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width or width, width)
        self.value = nn.Linear(memory_width or width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (B, N, W), memory (B, M, V), bias (B, 1, 1, M) added to the scores -> (B, N, W)."""
        query, key, value = self.query(x), self.key(memory), self.value(memory)
        mixed = F.scaled_dot_product_attention(
            self._split(query), self._split(key), self._split(value), attn_mask=bias
        )
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        parts: Tensor = x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return parts  # (B, heads, N, W / heads)


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

    def forward(self, x: Tensor, text: Tensor, bias: Tensor) -> Tensor:
        """x (B, N, W), text (B, T, C), bias (B, 1, 1, T) -> (B, N, W)."""
        x = x + self.words(self.norm_words(x), text, bias)
        normed = self.norm_grid(x)
        x = x + self.grid(normed, normed)
        return x + self.feed(self.norm_feed(x))  # type: ignore[no-any-return]


def score_bias(attention_mask: Tensor) -> Tensor:
    """(B, T) int64, 1 for a word and 0 for padding -> float32 (B, 1, 1, T) to add to scores."""
    return (1.0 - attention_mask.to(torch.float32))[:, None, None, :] * MASKED_SCORE
