"""The transformer blocks of CLIP, under its own keys: `resblocks.N.{attn,ln_1,mlp,ln_2}`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from textual_vision.export.families.attention import MultiheadAttention
from textual_vision.export.families.weights import size_of

EXPANSION = 4
HEAD_WIDTH = 64  # CLIP's own code has as many heads as there are 64 channels
SIGMOID_SLOPE = 1.702


class QuickGelu(nn.Module):
    """The sigmoid approximation of GELU: x · σ(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        out: Tensor = x * (SIGMOID_SLOPE * x).sigmoid()
        return out


class ResidualBlock(nn.Module):
    """Attention and two linear layers, each normalized before and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        hidden = EXPANSION * width
        layers = OrderedDict(c_fc=nn.Linear(width, hidden), gelu=QuickGelu(), c_proj=nn.Linear(hidden, width))
        self.mlp = nn.Sequential(layers)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Features (batch, tokens, width); `bias` is added to the attention's scores."""
        normalized = self.ln_1(x)
        x = x + self.attn(normalized, normalized, bias)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """The blocks one after the other."""

    def __init__(self, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.resblocks = nn.ModuleList(ResidualBlock(width, heads) for _ in range(blocks))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Features of the same shape."""
        for block in self.resblocks:
            x = block(x, bias)
        return x


def transformer_from_state(state: Mapping[str, Tensor], prefix: str) -> Transformer:
    """The blocks whose sizes are those of the tensors under `prefix`, without their weights."""
    width = size_of(state, f"{prefix}resblocks.0.ln_1.weight", 0)
    start = f"{prefix}resblocks."
    blocks = {int(key.removeprefix(start).split(".")[0]) for key in state if key.startswith(start)}
    return Transformer(width, len(blocks), max(1, width // HEAD_WIDTH))
