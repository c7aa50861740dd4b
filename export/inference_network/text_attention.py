"""The latent network's blocks for single pictures, which run them once a step on few patches.

Everything that does not depend on the step is computed once. The score of a word is a patch's state times the
query's weights times the word's key. The last two are multiplied first, for all blocks and heads at once, and
so are the values and the output's weights. A step then attends to the words by two thin products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from textual_vision.training.models.attention import score_bias
from textual_vision.training.models.latent.blocks import LatentBlock
from textual_vision.training.models.latent.network import repeated


@dataclass(frozen=True, kw_only=True)
class TextProducts:
    """The words' part of one block's cross-attention, the T words of each head in turn."""

    score: Tensor  # (B, W, heads * T): states to scores
    bias: Tensor  # (B, 1, heads * T)
    output: Tensor  # (B, heads * T, W): weights of attention to outputs

    def with_unconditional(self, output: Tensor) -> TextProducts:
        """Return the products of each prompt and of its unconditional copy.

        The copy's output is `output` (W) / heads for every word of every head: weights of attention add up to
        one, so they need not be known.
        """
        both = torch.cat([self.output, output.expand_as(self.output)])
        return TextProducts(score=repeated(self.score, 2), bias=repeated(self.bias, 2), output=both)


class FusedText(nn.Module):
    """The words for all blocks: cross-attention's queries, keys, values and outputs, multiplied together."""

    def __init__(self, blocks: Sequence[LatentBlock]) -> None:
        super().__init__()
        self.blocks, self.heads = len(blocks), blocks[0].heads
        split = (self.heads, -1)
        width = blocks[0].cross_query.in_features
        self.scale = (width // self.heads) ** -0.5
        halves = [block.cross_key_value.weight.chunk(2) for block in blocks]
        biases = [block.cross_key_value.bias.chunk(2) for block in blocks]
        self.key_value = linear(
            torch.cat([half[side] for side in range(2) for half in halves]),
            torch.cat([half[side] for side in range(2) for half in biases]),
        )
        query = [block.cross_query.weight.unflatten(0, split) for block in blocks]
        output = [block.cross_output.weight.T.unflatten(0, split) for block in blocks]
        # (blocks * heads, W / heads, W) both. Int8 steps are of rows in one and of columns in the other, so
        # int8 stores each without loss, but not both as one.
        self.query, self.output = nn.Parameter(torch.cat(query)), nn.Parameter(torch.cat(output))
        # The bias of a query times a key.
        queries = [(block.cross_query.bias * self.scale).unflatten(0, split) for block in blocks]
        pairs = list(zip(queries, halves, biases, strict=True))
        self.query_bias = linear(
            torch.cat([(q[:, :, None] * keys.unflatten(0, split)).sum(1) for q, (keys, _), _ in pairs]),
            torch.cat([(q * bias.unflatten(0, split)).sum(1) for q, _, (bias, _) in pairs]),
        )
        # A head's weights of attention add up to one, so each word can carry its share of the output's bias.
        output_bias = torch.stack([block.cross_output.bias / self.heads for block in blocks])
        self.output_bias = nn.Parameter(output_bias.unsqueeze(1))
        # For a text of zeros, the values are their bias.
        unconditional = [
            block.cross_output(values) / self.heads for block, (_, values) in zip(blocks, biases, strict=True)
        ]
        self.unconditional = nn.Parameter(torch.stack(unconditional))  # (blocks, W)

    def forward(self, text: Tensor, attention_mask: Tensor) -> list[TextProducts]:
        """text (B, T, C), attention_mask (B, T) -> the products of each block."""
        count, apart = self.blocks * self.heads, (self.blocks, self.heads)
        parts = self.key_value(text).unflatten(2, (2 * count, -1)).transpose(1, 2)
        keys, values = parts.split(count, 1)
        keys, values = keys @ self.query, values @ self.output  # (B, blocks * heads, T, W)
        score = self.scale * keys.unflatten(1, apart).permute(0, 1, 4, 2, 3).flatten(3)
        output = values.unflatten(1, apart).flatten(2, 3) + self.output_bias
        # Multiplied from the left, so that it stays a product of its own: merged with `key_value`, which int8
        # stores without loss, both would be stored in float.
        bias = self.query_bias.weight @ text.transpose(1, 2) + self.query_bias.bias.unsqueeze(1)
        bias = bias + score_bias(attention_mask).squeeze(1)
        bias = bias.unflatten(1, apart).flatten(2).unsqueeze(2)
        # Not unbind, which is exported as twice as many operations.
        return [
            TextProducts(
                score=score.select(1, block), bias=bias.select(1, block), output=output.select(1, block)
            )
            for block in range(self.blocks)
        ]


class FusedBlock(nn.Module):
    """A `LatentBlock` whose keys and values are one cache, its heads before its patches.

    Queries are scaled after their product with keys, where backends fuse the scale; smaller weights could not
    be stored in half precision without loss.
    """

    def __init__(self, block: LatentBlock) -> None:
        super().__init__()
        self.heads, self.scale = block.heads, (block.query_key_value.in_features // block.heads) ** -0.5
        self.norm_cross, self.norm_self, self.norm_mlp = block.norm_cross, block.norm_self, block.norm_mlp
        self.query_key_value, self.self_output, self.mlp = block.query_key_value, block.self_output, block.mlp

    def forward(self, x: Tensor, text: TextProducts, cache: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """x (B, n, W), the words, the cache of each earlier step -> (B, n, W), and these patches' cache.

        A cache holds keys and values, (B, 2 * heads, n, W / heads).
        """
        heads = self.heads
        scores = self.norm_cross(x) @ text.score + text.bias
        shares = scores.unflatten(2, (heads, -1)).softmax(3).flatten(2)
        x = x + shares @ text.output
        parts = self.query_key_value(self.norm_self(x)).unflatten(2, (3 * heads, -1))
        query, own = parts.transpose(1, 2).split([heads, 2 * heads], 1)
        key, value = (torch.cat([*cache, own], 2) if cache else own).split(heads, 1)
        mixed = (query @ key.transpose(2, 3) * self.scale).softmax(3) @ value
        x = x + self.self_output(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_mlp(x)), own


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return a layer with these weights (out, in)."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made
