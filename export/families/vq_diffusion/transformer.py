"""VQ-Diffusion's transformer: logits of all codes from noisy ones, timestep and text.

Gu et al., "Vector quantized diffusion model for text-to-image synthesis", CVPR 2022. Keys are those of its
checkpoints under `transformer.transformer`: `content_emb`, `blocks.N`, `to_logits`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from textual_vision.export.families.attention import attend
from textual_vision.export.families.clip.blocks import QuickGelu
from textual_vision.export.families.weights import size_of

TIME_RANGE, LONGEST_PERIOD = 4000.0, 10_000.0  # of sinusoidal timesteps
POSITION_KEYS = ("height_emb", "width_emb")


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of the transformer; `steps` is None where timesteps are sinusoids and not a table.

    `tables` says whether positions are embeddings or plain parameters.
    """

    codes: int
    width: int
    condition: int
    hidden: int
    blocks: int
    heads: int
    grid: tuple[int, int]
    steps: int | None
    tables: bool


class Attention(nn.Module):
    """Queries attend to keys with a projection each."""

    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.key, self.value = nn.Linear(source, width), nn.Linear(source, width)
        self.query, self.proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """Features (batch, positions, width)."""
        out: Tensor = self.proj(attend(self.query(x), self.key(source), self.value(source), self.heads))
        return out


class TimedLayerNorm(nn.Module):
    """A layer normalization whose scale and shift come from the timestep."""

    def __init__(self, width: int, steps: int | None, timesteps: int) -> None:
        super().__init__()
        self.width, self.timesteps = width, timesteps
        self.emb = None if steps is None else nn.Embedding(steps, width)
        self.silu = nn.SiLU()
        self.linear = nn.Linear(width, 2 * width)
        self.layernorm = nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Features of the same shape; timestep int64 (batch,)."""
        features = self.sinusoids(timestep) if self.emb is None else self.emb(timestep)
        scale, shift = self.linear(self.silu(features))[:, None, :].chunk(2, dim=2)
        out: Tensor = self.layernorm(x) * (1 + scale) + shift
        return out

    def sinusoids(self, timestep: Tensor) -> Tensor:
        """Sines and cosines of the timestep, float32 (batch, width)."""
        half = self.width // 2
        rates = torch.exp(torch.arange(half) * -(math.log(LONGEST_PERIOD) / (half - 1)))
        place = timestep.to(torch.float32) / self.timesteps * TIME_RANGE
        angles = place[:, None] * rates[None, :]
        return torch.cat((angles.sin(), angles.cos()), dim=1)


class Block(nn.Module):
    """Attention over positions, attention to the text, two linear layers; each added to its input."""

    def __init__(self, config: TransformerConfig, timesteps: int) -> None:
        super().__init__()
        width = config.width
        self.ln1 = TimedLayerNorm(width, config.steps, timesteps)
        self.attn1 = Attention(width, width, config.heads)
        self.ln1_1 = TimedLayerNorm(width, config.steps, timesteps)
        self.attn2 = Attention(width, config.condition, config.heads)
        self.ln2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden), QuickGelu(), nn.Linear(config.hidden, width)
        )

    def forward(self, x: Tensor, condition: Tensor, timestep: Tensor) -> Tensor:
        """Features (batch, positions, width)."""
        normalized = self.ln1(x, timestep)
        x = x + self.attn1(normalized, normalized)
        x = x + self.attn2(self.ln1_1(x, timestep), condition)
        out: Tensor = x + self.mlp(self.ln2(x))
        return out


class CodeEmbedding(nn.Module):
    """Embeddings of codes, rows and columns; the last code is the mask."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.emb = nn.Embedding(config.codes + 1, config.width)
        for name, size in zip(POSITION_KEYS, config.grid, strict=True):
            table = nn.Embedding(size, config.width)
            setattr(self, name, table if config.tables else nn.Parameter(table.weight[None].detach()))

    def forward(self, codes: Tensor) -> Tensor:
        """Features float32 (batch, positions, width) from codes int64 (batch, h, w)."""
        rows, columns = (self._positions(name) for name in POSITION_KEYS)
        out: Tensor = self.emb(codes) + (rows[:, None, :] + columns[None, :, :])
        return out.flatten(1, 2)

    def _positions(self, name: str) -> Tensor:
        part = getattr(self, name)
        table: Tensor = part.weight if isinstance(part, nn.Embedding) else part[0]
        return table


class CodeTransformer(nn.Module):
    """Logits float32 (batch, codes, positions) from codes int64 (batch, h, w)."""

    def __init__(self, config: TransformerConfig, timesteps: int) -> None:
        super().__init__()
        self.config = config
        self.content_emb = CodeEmbedding(config)
        self.blocks = nn.ModuleList(Block(config, timesteps) for _ in range(config.blocks))
        self.to_logits = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.codes))

    def forward(self, codes: Tensor, condition: Tensor, timestep: Tensor) -> Tensor:
        """The logits; condition float32 (batch, tokens, condition), timestep int64 (batch,)."""
        x = self.content_emb(codes)
        for block in self.blocks:
            x = block(x, condition, timestep)
        logits: Tensor = self.to_logits(x)
        return logits.transpose(1, 2)


def config_from_state(state: Mapping[str, Tensor], prefix: str, heads: int) -> TransformerConfig:
    """The sizes, read off the shapes under `prefix`; `heads` is not among them."""
    first = f"{prefix}blocks.0."
    blocks = {
        int(key.removeprefix(f"{prefix}blocks.").split(".")[0])
        for key in state
        if key.startswith(f"{prefix}blocks.")
    }
    tables = f"{prefix}content_emb.height_emb.weight" in state
    ending, axis = (".weight", 0) if tables else ("", 1)
    rows, columns = (size_of(state, f"{prefix}content_emb.{name}{ending}", axis) for name in POSITION_KEYS)
    timed = f"{first}ln1.emb.weight"
    return TransformerConfig(
        codes=size_of(state, f"{prefix}to_logits.1.weight", 0),
        width=size_of(state, f"{prefix}content_emb.emb.weight", 1),
        condition=size_of(state, f"{first}attn2.key.weight", 1),
        hidden=size_of(state, f"{first}mlp.0.weight", 0),
        blocks=len(blocks),
        heads=heads,
        grid=(rows, columns),
        steps=size_of(state, timed, 0) if timed in state else None,
        tables=tables,
    )
