"""The parts of the latent network: a transformer block over patches, and the head that predicts codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.models.attention import attend_in_products, fused_attention
from textual_vision.training.models.latent.retrieved_pictures import CopyHead, CopyInputs

CELL_STD = 0.02


class LatentBlock(nn.Module):
    """Cross-attention to the words, self-attention over patches, and an MLP; pre-norm residuals.

    Attention is scaled dot-product attention (Vaswani et al. 2017, eq. 1). Keys and values of M places are
    one cache (2, B, heads, M, W / heads).
    """

    def __init__(self, width: int, heads: int, text_width: int, content: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_cross = nn.LayerNorm(width)
        self.cross_key_value = nn.Linear(text_width, 2 * width)
        self.cross_query = nn.Linear(width, width)
        self.cross_output = nn.Linear(width, width)
        self.norm_self = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.code_key_value = nn.Linear(content, 2 * width, bias=False)
        self.self_output = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def text_cache(self, text: Tensor) -> Tensor:
        """Return the cache of the words: text (B, T, C) -> (2, B, heads, T, W / heads)."""
        return self._heads(self.cross_key_value(text), 2)

    def with_codes(self, own: Tensor, content: Tensor) -> Tensor:
        """Return the cache `own` of patches with the codes that were chosen there, `content` (B, n, C)."""
        return own + self._heads(self.code_key_value(content), 2)

    def forward(
        self, x: Tensor, text_cache: Tensor, bias: Tensor, cache: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Run the patches of one step.

        x (B, n, W), the cache of the words, bias (B, 1, 1, T) of their scores, the cache of earlier steps ->
        (B, n, W), and the cache of these patches alone.
        """
        x = self._cross_attend(x, text_cache, bias)
        query, own = self._queries(x)
        keys_values = own if cache is None else torch.cat([cache, own], 3)
        return self._mlp(x + self.self_output(self._attend(query, keys_values, None))), own

    def all_steps(
        self, x: Tensor, text_cache: Tensor, bias: Tensor, content: Tensor, step_bias: Tensor
    ) -> Tensor:
        """Run the patches of all steps at once, with the codes chosen there: as `forward`, step by step.

        x (B, P, W), content (B, P, C), `step_bias` (1, 1, P, 2P) as `DecodeSchedule.attention_bias`.
        """
        x = self._cross_attend(x, text_cache, bias)
        query, own = self._queries(x)
        keys_values = torch.cat([self.with_codes(own, content), own], 3)
        return self._mlp(x + self.self_output(self._attend(query, keys_values, step_bias)))

    def _cross_attend(self, x: Tensor, text_cache: Tensor, bias: Tensor) -> Tensor:
        (query,) = self._heads(self.cross_query(self.norm_cross(x)), 1)
        found: Tensor = x + self.cross_output(self._attend(query, text_cache, bias))
        return found

    def _queries(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = self._heads(self.query_key_value(self.norm_self(x)), 3)
        return parts[0], parts[1:]

    def _mlp(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.mlp(self.norm_mlp(x))
        return found

    def _heads(self, x: Tensor, parts: int) -> Tensor:
        """Return (B, n, parts * W) as (parts, B, heads, n, W / heads)."""
        found: Tensor = x.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return found

    def _attend(self, query: Tensor, keys_values: Tensor, bias: Tensor | None) -> Tensor:
        attend = attend_in_products if self.training and query.device.type == "cpu" else fused_attention
        return attend(query, keys_values[0], keys_values[1], bias).transpose(1, 2).flatten(2)


class CodeHead(nn.Module):
    """The raw latent of a code from its patch's state, its neighbors and the retrieved pictures."""

    def __init__(
        self, width: int, hidden: int, inputs: int, cells: int, code_width: int, retrieved: int
    ) -> None:
        super().__init__()
        self.state = nn.Linear(width, hidden)
        self.neighbors = nn.Linear(inputs, hidden, bias=False)
        self.cell_embedding = nn.Parameter(torch.randn(cells, hidden) * CELL_STD)
        self.mix = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.latent = nn.Linear(hidden, code_width)
        self.copy = CopyHead(hidden, retrieved) if retrieved else None

    def forward(
        self, states: Tensor, neighbors: Tensor, cells: slice | Tensor, inputs: CopyInputs | None
    ) -> Tensor:
        """Return raw latents (..., D).

        `states` and `neighbors` are outputs of the layers of these names; with the rows of `cell_embedding`
        at `cells` they broadcast to (..., H).
        """
        x = F.gelu(states + neighbors + self.cell_embedding[cells])
        x = self.norm(x + F.gelu(self.mix(x)))
        latent: Tensor = self.latent(x)
        return latent if self.copy is None or inputs is None else latent + self.copy(x, inputs)
