"""min-dalle's decoder: the logits of one code from the code before it and cached keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from textual_vision.export.families.attention import HIDDEN, attend, bias_from_mask
from textual_vision.export.families.min_dalle.layers import BartConfig, GatedNetwork, Projections


class DecoderLayer(nn.Module):
    """Attention to the codes before, attention to the prompt, a gated network; each added to its input."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.pre_self_attn_layer_norm = nn.LayerNorm(config.width)
        self.self_attn = Projections(config.width)
        self.self_attn_layer_norm = nn.LayerNorm(config.width)
        self.pre_encoder_attn_layer_norm = nn.LayerNorm(config.width)
        self.encoder_attn = Projections(config.width)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.width)
        self.glu = GatedNetwork(config.width, config.hidden)

    def forward(
        self, x: Tensor, cache: Tensor, here: Tensor, bias: Tensor, prompt: Tensor, prompt_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features (rows, 1, width) and the cache (rows, 2, positions, width) with the new key and value.

        `here` bool (rows, 1, positions, 1) is the position; `bias` hides those after it.
        """
        part, normalized = self.self_attn, self.pre_self_attn_layer_norm(x)
        new = torch.stack((part.k_proj(normalized), part.v_proj(normalized)), dim=1)
        cache = torch.where(here, new, cache)
        mixed = attend(part.q_proj(normalized), cache[:, 0], cache[:, 1], self.heads, bias)
        x = x + self.self_attn_layer_norm(part.out_proj(mixed))
        part, normalized = self.encoder_attn, self.pre_encoder_attn_layer_norm(x)
        mixed = attend(part.q_proj(normalized), prompt[:, 0], prompt[:, 1], self.heads, prompt_bias)
        x = x + self.encoder_attn_layer_norm(part.out_proj(mixed))
        return x + self.glu(x), cache


class BartDecoder(nn.Module):
    """One step of the decoder; `config.vocabulary` counts all codes that it embeds."""

    def __init__(self, config: BartConfig, logits: int) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.embed_positions = nn.Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.layernorm_embedding = nn.LayerNorm(config.width)
        self.final_ln = nn.LayerNorm(config.width)
        self.lm_head = nn.Linear(config.width, logits, bias=False)

    def prompt_cache(self, features: Tensor) -> Tensor:
        """Keys and values (batch, layers, 2, tokens, width) of the prompt's features, once for all steps."""
        layers: list[Any] = list(self.layers)
        parts = [layer.encoder_attn for layer in layers]
        pairs = [torch.stack((part.k_proj(features), part.v_proj(features)), dim=1) for part in parts]
        return torch.stack(pairs, dim=1)

    def forward(
        self, code: Tensor, position: Tensor, cache: Tensor, prompt: Tensor, prompt_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (rows, logits) and the new cache; code and position int64 (rows,).

        `cache` and `prompt` are (rows, layers, 2, positions or tokens, width).
        """
        place = torch.arange(self.config.positions)[None, :]
        here = (place == position[:, None])[:, None, :, None]
        bias = torch.where(place > position[:, None], HIDDEN, 0.0)[:, None, None, :]
        prompt_bias = bias_from_mask(prompt_mask)
        x = self.layernorm_embedding(self.embed_tokens(code) + self.embed_positions(position))[:, None, :]
        caches = []
        for index, layer in enumerate(self.layers):
            x, new = layer(x, cache[:, index], here, bias, prompt[:, index], prompt_bias)
            caches.append(new)
        logits: Tensor = self.lm_head(self.final_ln(x))[:, 0]
        return logits, torch.stack(caches, dim=1)
