"""The text encoder: a prompt to quantized, attention-weighted token states.

The encoder is the first layers of MiniLM, frozen: its states are still word-like, and unseen words are near
their synonyms. The later stages receive only the quantized states.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import TextConfig
from textual_vision.training.models.attention import MultiHeadAttention, score_bias

LAYER_NORM_EPSILON = 1e-12  # BERT's


class EncoderLayer(nn.Module):
    """One BERT layer (Devlin et al. 2018): post-norm, exact GELU."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config.hidden, config.heads)
        self.norm_attention = nn.LayerNorm(config.hidden, eps=LAYER_NORM_EPSILON)
        self.feed_in = nn.Linear(config.hidden, config.intermediate)
        self.feed_out = nn.Linear(config.intermediate, config.hidden)
        self.norm_feed = nn.LayerNorm(config.hidden, eps=LAYER_NORM_EPSILON)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, T, hidden), bias (B, 1, 1, T) -> (B, T, hidden)."""
        x = self.norm_attention(x + self.attention(x, bias))
        return self.norm_feed(x + self.feed_out(F.gelu(self.feed_in(x))))  # type: ignore[no-any-return]


class WordEncoder(nn.Module):
    """Token ids to contextual token states."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.hidden)
        self.position = nn.Embedding(config.max_tokens, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=LAYER_NORM_EPSILON)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask int64 (B, T) -> states float32 (B, T, hidden)."""
        x = self.norm(self.embedding(input_ids) + self.position.weight[: input_ids.shape[1]])
        bias = score_bias(attention_mask)
        for layer in self.layers:
            x = layer(x, bias)
        return x  # type: ignore[no-any-return]


class ProductQuantizer(nn.Module):
    """The nearest code of each sub-space of a token state (Jegou et al. 2011)."""

    centroids: Tensor

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.groups = config.groups
        shape = (config.groups, config.codebook_size, config.hidden // config.groups)
        self.register_buffer("centroids", torch.randn(shape))

    def distances(self, states: Tensor) -> Tensor:
        """States (B, T, hidden) -> squared distance less the state's own square (B, T, groups, codes)."""
        parts = states.unflatten(2, (self.groups, -1)).permute(2, 0, 1, 3).flatten(1, 2)  # (G, BT, hidden/G)
        squares = self.centroids.square().sum(2)[:, None, :]  # (G, 1, codes)
        scores = squares - 2.0 * torch.bmm(parts, self.centroids.transpose(1, 2))  # (G, BT, codes)
        grouped: Tensor = scores.unflatten(1, (-1, states.shape[1])).permute(1, 2, 0, 3)
        return grouped

    def forward(self, states: Tensor) -> Tensor:
        """States (B, T, hidden) -> codes int64 (B, T, groups)."""
        return self.distances(states).argmin(3)


class WordAttention(nn.Module):
    """Embedded codes, weighted by additive attention over the words (Bahdanau et al. 2015)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        part = config.hidden // config.groups
        self.rows = nn.Parameter(torch.randn(config.groups, config.codebook_size, part))
        self.project = nn.Linear(config.hidden, config.embed_dim)
        self.norm = nn.LayerNorm(config.embed_dim)
        self.score_hidden = nn.Linear(config.embed_dim, config.embed_dim // 2)
        self.score = nn.Linear(config.embed_dim // 2, 1)

    def forward(self, text_codes: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """text_codes int64 (B, T, G), mask (B, T) -> text (B, T, C), attention (B, T).

        `attention` sums to 1 over the words of a prompt. `text` is each word's state times its attention and
        the number of words, so that the mean over the words is the attention-weighted sentence.
        """
        groups = torch.arange(self.rows.shape[0], device=text_codes.device)
        words = self.norm(self.project(self.rows[groups, text_codes].flatten(2)))  # (B, T, C)
        scores = self.score(torch.tanh(self.score_hidden(words))).squeeze(2)
        attention = torch.softmax(scores + score_bias(attention_mask)[:, 0, 0], dim=1)
        count = attention_mask.sum(1, keepdim=True).to(words.dtype)
        return words * (attention * count).unsqueeze(2), attention


class TextEncoder(nn.Module):
    """The stage `text_encoder`."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.encoder = WordEncoder(config)
        self.quantizer = ProductQuantizer(config)
        self.words = WordAttention(config)

    def codes(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask int64 (B, T) -> text_codes int64 (B, T, G)."""
        codes: Tensor = self.quantizer(self.encoder(input_ids, attention_mask))
        return codes

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ids, mask int64 (B, T) -> text_codes (B, T, G), text (B, T, C), attention (B, T)."""
        text_codes = self.codes(input_ids, attention_mask)
        text, attention = self.words(text_codes, attention_mask)
        return text_codes, text, attention


def sentence_from_text(text: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean over the words: text (B, T, C), mask (B, T) -> (B, C)."""
    mask = attention_mask.to(text.dtype)
    return (text * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
