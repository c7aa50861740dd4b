"""The latent network's blocks as a drawing runs them: eight times, with few patches at a time.

What does not change from step to step is worked out once. A score of a word is a patch's state times the
weights of its query times the word's key: the last two are multiplied first, for all blocks and heads at
once, and so are values and the weights that follow them. A step then attends to words by two thin products,
without the weights of queries and outputs, without turning anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from textual_vision.training.models.attention import GridBlock, score_bias


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a block's patches score and hear of the words, the T words of each head in turn."""

    score: Tensor  # (B, W, heads * T): states to scores
    bias: Tensor  # (B, 1, heads * T)
    heard: Tensor  # (B, heads * T, W): shares to what is heard

    def and_speechless(self, said: Tensor) -> Words:
        """The same, and for each drawing its copy with words that say nothing, which hears `said` (W) / heads
        of every word of every head: shares add up to one, so they need not be known."""
        heard = torch.cat([self.heard, said.expand_as(self.heard)])
        return Words(score=copied(self.score, 2), bias=copied(self.bias, 2), heard=heard)


class WordsFirst(nn.Module):
    """Words for all blocks: `GridBlock.asked`, `words` and `heard`, multiplied with each other."""

    def __init__(self, blocks: Sequence[GridBlock]) -> None:
        super().__init__()
        self.blocks, self.heads = len(blocks), blocks[0].heads
        split = (self.heads, -1)
        width = blocks[0].asked.in_features
        self.scale = (width // self.heads) ** -0.5
        halves = [block.words.weight.chunk(2) for block in blocks]  # keys, values
        biases = [block.words.bias.chunk(2) for block in blocks]
        self.parts = linear(
            torch.cat([half[side] for side in range(2) for half in halves]),
            torch.cat([half[side] for side in range(2) for half in biases]),
        )
        asked = [block.asked.weight.unflatten(0, split) for block in blocks]
        heard = [block.heard.weight.T.unflatten(0, split) for block in blocks]
        # (blocks * heads, W / heads, W) both; trained steps are of rows in one and of columns in the other,
        # so that int8 holds each without a loss, but not both as one.
        self.asked, self.heard = nn.Parameter(torch.cat(asked)), nn.Parameter(torch.cat(heard))
        # The bias of a query times a key.
        queries = [(block.asked.bias * self.scale).unflatten(0, split) for block in blocks]
        pairs = list(zip(queries, halves, biases, strict=True))
        self.lean = linear(
            torch.cat(
                [(query[:, :, None] * keys.unflatten(0, split)).sum(1) for query, (keys, _), _ in pairs]
            ),
            torch.cat([(query * bias.unflatten(0, split)).sum(1) for query, _, (bias, _) in pairs]),
        )
        # A head's shares are one together, so each word can bring the heads' part of the bias along.
        brought = torch.stack([block.heard.bias / self.heads for block in blocks])
        self.brought = nn.Parameter(brought.unsqueeze(1))
        # Of a text of zeros, the values are their bias.
        said = [block.heard(values) / self.heads for block, (_, values) in zip(blocks, biases, strict=True)]
        self.said = nn.Parameter(torch.stack(said))  # (blocks, W); see `Words.and_speechless`

    def forward(self, text: Tensor, attention_mask: Tensor) -> list[Words]:
        """text (B, T, C), attention_mask (B, T) -> for each block."""
        count, apart = self.blocks * self.heads, (self.blocks, self.heads)
        parts = self.parts(text).unflatten(2, (2 * count, -1)).transpose(1, 2)
        keys, values = parts.split(count, 1)
        keys, values = keys @ self.asked, values @ self.heard  # (B, blocks * heads, T, W)
        score = self.scale * keys.unflatten(1, apart).permute(0, 1, 4, 2, 3).flatten(3)
        heard = values.unflatten(1, apart).flatten(2, 3) + self.brought
        # By the words' side, so that it stays a product of its own: merged with `parts`, which int8 holds
        # without a loss, both would be stored in float.
        lean = self.lean.weight @ text.transpose(1, 2) + self.lean.bias.unsqueeze(1)
        lean = lean + score_bias(attention_mask).squeeze(1)
        bias = lean.unflatten(1, apart).flatten(2).unsqueeze(2)
        # Not unbind, which is exported as twice as many operations.
        return [
            Words(score=score.select(1, block), bias=bias.select(1, block), heard=heard.select(1, block))
            for block in range(self.blocks)
        ]


class ArrangedBlock(nn.Module):
    """A `GridBlock` whose keys and values are one memory, its heads before its patches.

    Queries are scaled after their product with keys, where backends do it on the way; smaller weights could
    not be stored in half without a loss.
    """

    def __init__(self, block: GridBlock) -> None:
        super().__init__()
        self.heads, self.scale = block.heads, (block.grid.in_features // block.heads) ** -0.5
        self.norm_words, self.norm_grid, self.norm_feed = block.norm_words, block.norm_grid, block.norm_feed
        self.grid, self.seen, self.feed = block.grid, block.seen, block.feed

    def forward(self, x: Tensor, words: Words, past: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """x (B, n, W), the words, the memory of each step before -> (B, n, W), and the memory of these
        patches: their keys and values, (B, 2 * heads, n, W / heads)."""
        heads = self.heads
        scores = self.norm_words(x) @ words.score + words.bias
        shares = scores.unflatten(2, (heads, -1)).softmax(3).flatten(2)
        x = x + shares @ words.heard
        parts = self.grid(self.norm_grid(x)).unflatten(2, (3 * heads, -1))
        query, own = parts.transpose(1, 2).split([heads, 2 * heads], 1)
        key, value = (torch.cat([*past, own], 2) if past else own).split(heads, 1)
        mixed = (query @ key.transpose(2, 3) * self.scale).softmax(3) @ value
        x = x + self.seen(mixed.transpose(1, 2).flatten(2))
        return x + self.feed(self.norm_feed(x)), own


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A layer with these weights (out, in)."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def copied(x: Tensor, copies: int) -> Tensor:
    """(B, ...) -> (copies * B, ...)."""
    return torch.cat([x] * copies) if copies > 1 else x


def first_half(both: Tensor) -> Tensor:
    """The first half of the drawings."""
    told: Tensor = both.unflatten(0, (2, -1)).select(0, 0)
    return told
