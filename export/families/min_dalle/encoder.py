"""min-dalle's text encoder, and the keys and values that the decoder attends to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from textual_vision.export.families.attention import attend, bias_from_mask
from textual_vision.export.families.min_dalle.decoder import BartDecoder
from textual_vision.export.families.min_dalle.layers import BartConfig, GatedNetwork, Projections

PAD_ID = 1


class EncoderLayer(nn.Module):
    """Attention over the tokens and a gated network, each normalized and added to its input."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.pre_self_attn_layer_norm = nn.LayerNorm(config.width)
        self.self_attn = Projections(config.width)
        self.self_attn_layer_norm = nn.LayerNorm(config.width)
        self.glu = GatedNetwork(config.width, config.hidden)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Features (batch, tokens, width)."""
        part, normalized = self.self_attn, self.pre_self_attn_layer_norm(x)
        query, key, value = part.q_proj(normalized), part.k_proj(normalized), part.v_proj(normalized)
        mixed = part.out_proj(attend(query, key, value, self.heads, bias))
        x = x + self.self_attn_layer_norm(mixed)
        out: Tensor = x + self.glu(x)
        return out


class BartEncoder(nn.Module):
    """Features float32 (batch, tokens, width) of ids int64 (batch, tokens), padded with 1."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.embed_positions = nn.Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.layernorm_embedding = nn.LayerNorm(config.width)
        self.final_ln = nn.LayerNorm(config.width)

    def forward(self, input_ids: Tensor) -> Tensor:
        """The features."""
        bias = bias_from_mask(mask_from_ids(input_ids))
        x = self.layernorm_embedding(self.embed_tokens(input_ids) + self.embed_positions.weight)
        for layer in self.layers:
            x = layer(x, bias)
        out: Tensor = self.final_ln(x)
        return out


def mask_from_ids(input_ids: Tensor) -> Tensor:
    """1 for each token, 0 for padding; int64 (batch, tokens)."""
    return (input_ids != PAD_ID).to(torch.int64)


class PromptEncoder(nn.Module):
    """Keys and values of the prompt for every layer of the decoder, and their mask."""

    def __init__(self, encoder: BartEncoder, decoder: BartDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """`prompt_cache` float32 (batch, layers, 2, tokens, width), `prompt_mask` int64 (batch, tokens)."""
        return self.decoder.prompt_cache(self.encoder(input_ids)), mask_from_ids(input_ids)
