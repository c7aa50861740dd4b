"""The layers that min-dalle's encoder and decoder share: BART's, normalized twice, with a gated network.

Dayma et al., "DALL·E mini", 2021; Lewis et al., "BART", ACL 2020; Shleifer et al., "NormFormer", 2021. Keys
are those of min-dalle's encoder.pt and decoder.pt. No linear layer has a bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.export.families.weights import State, load_state, size_of

HEAD_WIDTH = 64  # of both published sizes


@dataclass(frozen=True, kw_only=True)
class BartConfig:
    """Sizes of an encoder or a decoder."""

    vocabulary: int
    positions: int
    width: int
    hidden: int
    layers: int
    heads: int


class GatedNetwork(nn.Module):
    """A linear layer gated by GELU of another, normalized before and after."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.ln0, self.ln1 = nn.LayerNorm(width), nn.LayerNorm(hidden)
        self.fc0, self.fc1 = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.fc2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        x = self.ln0(x)
        out: Tensor = self.fc2(self.ln1(F.gelu(self.fc0(x)) * self.fc1(x)))
        return out


class Projections(nn.Module):
    """The four linear layers of an attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )


def config_from_state(state: Mapping[str, Tensor], heads: int | None) -> BartConfig:
    """The sizes, read off the shapes; `heads` None takes heads of 64 channels."""
    width = size_of(state, "embed_tokens.weight", 1)
    return BartConfig(
        vocabulary=size_of(state, "embed_tokens.weight", 0),
        positions=size_of(state, "embed_positions.weight", 0),
        width=width,
        hidden=size_of(state, "layers.0.glu.fc0.weight", 0),
        layers=1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers.")),
        heads=heads or max(1, width // HEAD_WIDTH),
    )


def load_bart(module: nn.Module, state: State, name: str) -> None:
    """Load the state; where it lacks the scale or the shift of a normalization, that is 1 or 0.

    The published files come from a model whose normalizations before a linear layer have no scale.
    """
    filled = dict(state)
    for path, part in module.named_modules():
        if isinstance(part, nn.LayerNorm):
            filled.setdefault(f"{path}.weight", torch.ones_like(part.weight))
            filled.setdefault(f"{path}.bias", torch.zeros_like(part.bias))
    load_state(module, filled, name)
