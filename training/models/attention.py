"""Attention of words, and the blocks of the latent network: patches look at words and at each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.models.latent.drafts import Follow, Seen

MASKED_SCORE = -1e4  # representable in half precision, unlike -inf after a rounding mistake
CELL_STD = 0.02


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
    """Heads (B, heads, N, W), what broadcasts to (B, heads, N, M) to add to scores -> (B, heads, N, W)."""
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
    """Words, then what is on the grid, then each position by itself; pre-norm residuals.

    Attention is scaled dot-product attention (Vaswani et al. 2017, eq. 1). What it looks at is a memory: keys
    and values of M places, (2, B, heads, M, W / heads).
    """

    def __init__(self, width: int, heads: int, text_width: int, content: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_words = nn.LayerNorm(width)
        self.words = nn.Linear(text_width, 2 * width)  # keys, values
        self.asked = nn.Linear(width, width)  # queries
        self.heard = nn.Linear(width, width)
        self.norm_grid = nn.LayerNorm(width)
        self.grid = nn.Linear(width, 3 * width)  # queries, keys, values
        self.choice = nn.Linear(content, 2 * width, bias=False)
        self.seen = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def remember_words(self, text: Tensor) -> Tensor:
        """Words (B, T, C) -> their memory."""
        return self._heads(self.words(text), 2)

    def remembered(self, own: Tensor, content: Tensor) -> Tensor:
        """The memory of positions, and of what was chosen there, (B, N, C)."""
        return own + self._heads(self.choice(content), 2)

    def forward(self, x: Tensor, words: Tensor, bias: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (B, N, W), the memory of the words, bias (B, 1, 1, T) to add to their scores, the memory of the
        steps before -> (B, N, W), and the memory of these positions alone."""
        x = self._listened(x, words, bias)
        query, own = self._looking(x)
        memory = own if past is None else torch.cat([past, own], 3)
        return self._fed(x + self.seen(self._mixed(query, memory, None))), own

    def all_steps(self, x: Tensor, words: Tensor, bias: Tensor, content: Tensor, reach: Tensor) -> Tensor:
        """As `forward` of one step after the other: positions (B, N, W) of all steps with what is chosen
        there, (B, N, C); reach (1, 1, N, 2N) to add to their scores of what was chosen and of each other."""
        x = self._listened(x, words, bias)
        query, own = self._looking(x)
        memory = torch.cat([self.remembered(own, content), own], 3)
        return self._fed(x + self.seen(self._mixed(query, memory, reach)))

    def _listened(self, x: Tensor, words: Tensor, bias: Tensor) -> Tensor:
        (query,) = self._heads(self.asked(self.norm_words(x)), 1)
        heard: Tensor = x + self.heard(self._mixed(query, words, bias))
        return heard

    def _looking(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = self._heads(self.grid(self.norm_grid(x)), 3)
        return parts[0], parts[1:]

    def _fed(self, x: Tensor) -> Tensor:
        fed: Tensor = x + self.feed(self.norm_feed(x))
        return fed

    def _heads(self, x: Tensor, parts: int) -> Tensor:
        """(B, N, parts * W) -> (parts, B, heads, N, W / heads)."""
        found: Tensor = x.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return found

    def _mixed(self, query: Tensor, memory: Tensor, bias: Tensor | None) -> Tensor:
        attend = attend_in_products if self.training and query.device.type == "cpu" else fused_attention
        return attend(query, memory[0], memory[1], bias).transpose(1, 2).flatten(2)


class CellHead(nn.Module):
    """From a patch's state and what is around a cell of it to the cell's raw latent."""

    def __init__(self, width: int, hidden: int, near: int, cells: int, latent: int, drafts: int) -> None:
        super().__init__()
        self.state = nn.Linear(width, hidden)
        self.near = nn.Linear(near, hidden, bias=False)
        self.cell = nn.Parameter(torch.randn(cells, hidden) * CELL_STD)
        self.mix = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.latent = nn.Linear(hidden, latent)
        self.follow = Follow(hidden, drafts) if drafts else None

    def forward(self, states: Tensor, near: Tensor, cells: slice | Tensor, seen: Seen | None) -> Tensor:
        """States and what is around as `state` and `near` give them, with the rows of `cell` that `cells`
        chooses broadcast to (..., H) -> raw latents (..., D)."""
        x = F.gelu(states + near + self.cell[cells])
        x = self.norm(x + F.gelu(self.mix(x)))
        latent: Tensor = self.latent(x)
        return latent if self.follow is None or seen is None else latent + self.follow(x, seen)


def score_bias(attention_mask: Tensor) -> Tensor:
    """(B, T) int64, 1 for a word and 0 for padding -> float32 (B, 1, 1, T) to add to scores."""
    return (attention_mask.to(torch.float32) - 1.0)[:, None, None, :] * -MASKED_SCORE
