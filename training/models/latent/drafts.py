"""Pictures with captions like the prompt, and how a drawing follows them.

Every patch is told what the drafts have there; every choice, how like each draft the codes came out that are
chosen already. So a drawing that has begun like one draft can go on like it, and one that follows none can
tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import ModelConfig, SamplingConfig

SKETCH_WIDTH = 64
FIRST_SHARPNESS = 6.0


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Whether a drawing holds on to its drafts or combines them; see `SamplingConfig`."""

    follow: Tensor  # (B, ...): how much more than learned is taken from them
    lead: Tensor  # (B, ...): head start of the nearest, in nats
    guidance: Tensor  # (B, ...)

    def each(self, change: Callable[[Tensor], Tensor]) -> Hold:
        """All three changed."""
        return Hold(follow=change(self.follow), lead=change(self.lead), guidance=change(self.guidance))


@dataclass(frozen=True, kw_only=True)
class Drafts:
    """Pictures with captions like the prompt."""

    rows: Tensor  # (B, N, K, D): of their codes, in `order`
    sketch: Tensor  # (B, P, W): what each patch is told of them
    hold: Hold | None  # (B, 1, 1, 1) each; None: as learned


class Sketch(nn.Module):
    """What the drafts show at each patch: their codes there and one around."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        latent = model.latent
        self.grid = latent.grid
        self.look = nn.Conv2d(
            model.codebook.codebook_dim, SKETCH_WIDTH, latent.patch + 2, stride=latent.patch, padding=1
        )
        self.mix = nn.Linear(model.retrieval.count * SKETCH_WIDTH, latent.embed_dim)
        self.near = nn.Linear(model.retrieval.count, latent.embed_dim, bias=False)

    def forward(self, rows: Tensor, near: Tensor) -> Tensor:
        """Rows (B, K, N, D) of drafts' codes, row by row, and how near they are, (B, K) -> (B, P, W)."""
        drafts = rows.shape[1]
        grids = rows.flatten(0, 1).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        seen = F.gelu(self.look(grids)).flatten(2)  # (BK, S, P)
        by_patch = seen.reshape(-1, drafts * seen.shape[1], seen.shape[2]).transpose(1, 2)  # (B, P, KS)
        sketch: Tensor = self.mix(by_patch) + self.near(near).unsqueeze(1)
        return sketch


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the drafts have where a code is chosen, and how like each the codes are that are chosen already:
    those around it (none counting as unlike), and all."""

    rows: Tensor  # (..., K, D)
    around: Tensor  # (..., K): mean cosines
    all: Tensor  # (..., K)
    hold: Hold | None = None  # (..., 1) each


class Follow(nn.Module):
    """Takes part of a raw latent from that of the drafts which the drawing follows."""

    nearest: Tensor

    def __init__(self, hidden: int, drafts: int) -> None:
        super().__init__()
        # Multiplied with, for OpenVINO pads a number in int8 graphs as if it were quantized.
        self.register_buffer("nearest", torch.eye(drafts)[0], persistent=False)
        self.draft = nn.Linear(hidden, drafts)
        self.strength = nn.Linear(hidden, 1)
        # A draft that all codes so far were taken from is what most likely is followed.
        self.sharpness = nn.Parameter(torch.full((2,), FIRST_SHARPNESS))
        nn.init.constant_(self.strength.bias, 1.0)

    def forward(self, x: Tensor, seen: Seen) -> Tensor:
        """States (..., H) -> (..., D)."""
        score = self.draft(x) + self.sharpness[0] * seen.around + self.sharpness[1] * seen.all
        strength = self.strength(x)
        if seen.hold is not None:
            score = score + seen.hold.lead * self.nearest
            strength = seen.hold.follow * strength
        share = torch.softmax(score, -1) * strength
        followed: Tensor = (share.unsqueeze(-1) * seen.rows).sum(-2)
        return followed


def hold_of(composed: Tensor, config: SamplingConfig) -> Hold | None:
    """By whether the nearest draft shows several things, (B,): (B, 1, 1, 1) each; None: all as learned."""
    multipliers = (config.copy_strength, config.copy_strength_composition, config.guidance_scale)
    if all(multiplier == 1 for multiplier in multipliers) and config.nearest_bonus == 0:
        return None
    combining = composed[:, None, None, None]
    return Hold(
        follow=config.copy_strength + (config.copy_strength_composition - config.copy_strength) * combining,
        lead=combining * -config.nearest_bonus + config.nearest_bonus,
        guidance=1 + (config.guidance_scale - 1) * combining,
    )


def known_of(rows: Tensor, drafts: Tensor | None) -> Tensor:
    """What is known of chosen codes: their rows (B, n, D), and their cosines with those that the drafts have
    there, (B, n, K, D): (B, n, D + K)."""
    if drafts is None:
        return rows
    return torch.cat([rows, (drafts * rows.unsqueeze(2)).sum(3)], 2)


def seen_of(drafts: Tensor, around: Tensor, so_far: Tensor) -> Seen:
    """Drafts (B, n, K, D), what is known of E codes around each, (B, n, E * (D + K)), and the sum of what is
    known of those before, (B, n, D + K), by their number."""
    count, width = drafts.shape[2:]
    cosines = around.unflatten(2, (-1, width + count))[..., width:]
    return Seen(rows=drafts, around=cosines.mean(2), all=so_far[..., width:])


def beside(around: Tensor, seen: Seen | None) -> Tensor:
    """What the head is told besides a patch's state."""
    return around if seen is None else torch.cat([around, seen.rows.flatten(2), seen.all], 2)
