"""Scaled dot-product attention, for the text encoder and the latent network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKED_SCORE = -1e4  # representable in half precision, unlike -inf after a rounding mistake


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) of tokens to each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, N, W), bias (B, 1, 1, N) to add to the scores -> (B, N, W)."""
        attend = attend_in_products if self.training and x.device.type == "cpu" else fused_attention
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        mixed = attend(query, key, value, bias)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        parts: Tensor = x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return parts  # (B, heads, N, W / heads)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attend by one operator: heads (B, heads, N, W), a bias that broadcasts to the scores -> the same."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def attend_in_products(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attend as `fused_attention`, by two products and a softmax.

    The gradient of the fused form does not use the matrix units of CPUs: for 64 queries in bfloat16 it took
    half of a training step.
    """
    scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    mixed: Tensor = scores.softmax(3).to(value.dtype) @ value
    return mixed


def score_bias(attention_mask: Tensor) -> Tensor:
    """(B, T) int64, 1 for a word and 0 for padding -> float32 (B, 1, 1, T) to add to scores."""
    return (attention_mask.to(torch.float32) - 1.0)[:, None, None, :] * -MASKED_SCORE
