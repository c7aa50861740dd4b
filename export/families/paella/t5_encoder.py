"""The encoder of T5 v1.1, of which ByT5 is the variant over bytes.

Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", JMLR 2020;
Xue et al., "ByT5: towards a token-free future with pre-trained byte-to-byte models", TACL 2022. Keys are
those of the transformers library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.families.attention import bias_from_mask
from textual_vision.export.families.weights import size_of

NORM_EPS = 1e-6
FARTHEST = 128  # tokens; farther ones share the last bucket of relative positions


class RootMeanSquareNorm(nn.Module):
    """Scales each vector to a root mean square of 1, then each channel by a weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS))


class SelfAttention(nn.Module):
    """Unscaled attention without biases; the first layer holds the table of relative positions."""

    def __init__(self, width: int, heads: int, head_width: int, buckets: int | None) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.q, self.k, self.v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, width, bias=False)
        self.relative_attention_bias = None if buckets is None else nn.Embedding(buckets, heads)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Features (batch, tokens, width); `bias` is added to scores (batch, heads, tokens, tokens)."""
        query, key, value = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        weights = (query @ key.transpose(2, 3) + bias).softmax(3)
        out: Tensor = self.o((weights @ value).transpose(1, 2).flatten(2))
        return out


class GatedFeedForward(nn.Module):
    """A linear layer gated by another, by the tanh form of GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.wo = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        out: Tensor = self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))
        return out


class AttentionLayer(nn.Module):
    """Normalized attention, added to its input."""

    def __init__(self, width: int, heads: int, head_width: int, buckets: int | None) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(width, heads, head_width, buckets)
        self.layer_norm = RootMeanSquareNorm(width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Features of the same shape."""
        out: Tensor = x + self.SelfAttention(self.layer_norm(x), bias)
        return out


class FeedForwardLayer(nn.Module):
    """Normalized feed-forward network, added to its input."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.DenseReluDense = GatedFeedForward(width, hidden)
        self.layer_norm = RootMeanSquareNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        out: Tensor = x + self.DenseReluDense(self.layer_norm(x))
        return out


class Block(nn.Module):
    """Attention and feed-forward layer."""

    def __init__(self, attention: AttentionLayer, feed_forward: FeedForwardLayer) -> None:
        super().__init__()
        self.layer = nn.ModuleList((attention, feed_forward))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Features of the same shape."""
        out: Tensor = self.layer[1](self.layer[0](x, bias))
        return out


class Stack(nn.Module):
    """The blocks, between token embeddings and the last normalization."""

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        heads: int,
        head_width: int,
        hidden: int,
        blocks: int,
        buckets: int,
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.buckets = buckets
        self.block = nn.ModuleList(
            Block(
                AttentionLayer(width, heads, head_width, buckets if index == 0 else None),
                FeedForwardLayer(width, hidden),
            )
            for index in range(blocks)
        )
        self.final_layer_norm = RootMeanSquareNorm(width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features float32 (batch, tokens, width)."""
        x = self.embed_tokens(input_ids)
        bias = self.position_bias(input_ids.shape[1]) + bias_from_mask(attention_mask)
        for block in self.block:
            x = block(x, bias)
        out: Tensor = self.final_layer_norm(x)
        return out

    def position_bias(self, tokens: int) -> Tensor:
        """Scores of relative positions, float32 (1, heads, tokens, tokens)."""
        first: Any = self.block[0]
        table = first.layer[0].SelfAttention.relative_attention_bias
        place = torch.arange(tokens)
        bias: Tensor = table(bucket_from_distance(place[None, :] - place[:, None], self.buckets))
        return bias.permute(2, 0, 1)[None]


def bucket_from_distance(distance: Tensor, buckets: int) -> Tensor:
    """The bucket of each relative position, int64: half of them for each sign, the far ones logarithmic."""
    half = buckets // 2
    exact = half // 2
    far = distance.abs().clamp(min=1).to(torch.float32) / exact
    scaled = far.log() / math.log(FARTHEST / exact) * (half - exact)
    logarithmic = (exact + scaled.to(torch.int64)).clamp(max=half - 1)
    size = torch.where(distance.abs() < exact, distance.abs(), logarithmic)
    return size + (distance > 0).to(torch.int64) * half


class T5Encoder(nn.Module):
    """Features float32 (batch, tokens, width) from ids and mask, int64 (batch, tokens)."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.encoder = stack

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The features."""
        out: Tensor = self.encoder(input_ids, attention_mask)
        return out


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors; its embedding may be stored as `shared` alone."""
    needed = {key: value for key, value in state.items() if key.startswith("encoder.")}
    if "shared.weight" in state:
        needed.setdefault("encoder.embed_tokens.weight", state["shared.weight"])
    return needed


def t5_from_state(state: Mapping[str, Tensor]) -> T5Encoder:
    """The encoder whose sizes are those of the state's tensors, without its weights."""
    first = "encoder.block.0.layer.0.SelfAttention."
    heads = size_of(state, f"{first}relative_attention_bias.weight", 1)
    stack = Stack(
        vocabulary=size_of(state, "encoder.embed_tokens.weight", 0),
        width=size_of(state, "encoder.embed_tokens.weight", 1),
        heads=heads,
        head_width=size_of(state, f"{first}q.weight", 0) // heads,
        hidden=size_of(state, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0),
        blocks=1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.block.")),
        buckets=size_of(state, f"{first}relative_attention_bias.weight", 0),
    )
    return T5Encoder(stack)
