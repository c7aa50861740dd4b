"""Words and noise to a grid of latents, whose nearest codes are the drawing's plan.

The codes of a grid depend on each other: chosen all at once they are each the likeliest by itself, and
together a blur. So they are chosen in steps, a coarse lattice first and each step as many again between
those that are there, every step seeing all before it (cf. Chang et al. 2022, MaskGIT, and the lattice
order of Besnier et al. 2025). A step looks only at the positions chosen so far and at its own: all steps
together cost less than two passes over the whole grid. One step is the one-pass network of the paper.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.attention import GridBlock, KeyValue, score_bias
from textual_vision.training.blocks import Condition
from textual_vision.training.codebook import Codebook
from textual_vision.training.config import ModelConfig

POSITION_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every step is told: computed once for a drawing."""

    start: Tensor  # (B, 1, W): the sentence and the noise
    words: list[KeyValue]  # for each block
    bias: Tensor  # (B, 1, 1, T)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all steps of a drawing go by."""

    told: Context
    speechless: Context  # the same noise, and words that say nothing: what guidance leads away from
    chances: Tensor  # (B, N, D): see `LatentNetwork.chances`


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the network chose; `latents` are those whose nearest rows the codes are."""

    codes: Tensor  # int64 (B, h, w)
    latents: Tensor  # float32 (B, h, w, D)


@dataclass(frozen=True, kw_only=True)
class PlanThrough:
    """`rows` of the codes that were known or chosen; `first`: raw latents of the first step that chose."""

    rows: Tensor  # float32 (B, D, h, w)
    first: Tensor | None  # (B, N, D)


class LatentNetwork(nn.Module):
    """Transformer blocks over the positions of a growing lattice, with attention to the words."""

    order: Tensor
    place: Tensor
    signs: Tensor
    mixing: Tensor

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        config, text_width = model.latent, model.text.width
        self.config = config
        self.condition = Condition(text_width, model.noise, model.generator.condition)
        self.start = nn.Linear(model.generator.condition, config.width)
        self.known = nn.Linear(model.codebook.width, config.width)
        self.unknown = nn.Parameter(torch.randn(config.steps, config.width) * POSITION_STD)
        self.position = nn.Parameter(torch.randn(config.grid**2, config.width) * POSITION_STD)
        self.blocks = nn.ModuleList(
            GridBlock(config.width, config.heads, text_width) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.width)
        self.latents = nn.Linear(config.width, model.codebook.width)
        order = lattice_order(config.grid, config.steps)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("place", order.argsort(), persistent=False)
        self.register_buffer("signs", hashed_signs("position", config.grid**2, model.noise), persistent=False)
        mixing = hashed_signs("latent", model.noise, model.codebook.width) / model.noise**0.5
        self.register_buffer("mixing", mixing, persistent=False)

    def context(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Context:
        """text (B, T, C), attention_mask (B, T), noise (B, Z) -> what the steps share."""
        return Context(
            start=self.start(self.condition(text, attention_mask, noise)).unsqueeze(1),
            words=[block.words.remember(text) for block in cast(Iterable[GridBlock], self.blocks)],
            bias=score_bias(attention_mask),
        )

    def positions(self, step: int) -> tuple[int, int]:
        """How many positions are known before a step, and after it."""
        after = self.config.grid**2 >> (self.config.steps - 1 - step)
        return (after // 2 if step > 0 else 0), after

    def forward(self, context: Context, rows: Tensor, step: int) -> Tensor:
        """Rows of the codes that are known before `step`, (B, M, D) in `order` -> raw latents of the
        next ones, (B, N - M, D)."""
        before, after = self.positions(step)
        # In this order: a sum of constants would be stored for every step.
        told = context.start + self.unknown[step]
        x = told + self.position[before:after]
        if before:
            x = torch.cat([self.known(rows) + told + self.position[:before], x], 1)
        last = len(self.blocks) - 1
        for index, (block, words) in enumerate(zip(self.blocks, context.words, strict=True)):
            x = block(x, words, context.bias, first=before if index == last else 0)
        return self.latents(self.norm(x))  # type: ignore[no-any-return]

    def plan(self, text: Tensor, attention_mask: Tensor, noise: Tensor, book: Codebook) -> Plan:
        """text (B, T, C), attention_mask (B, T), noise (B, Z) -> codes and their latents."""
        setting = self.setting(text, attention_mask, noise)
        rows = text.new_zeros(text.shape[0], 0, book.rows.shape[1])  # none yet
        codes, latents = [], []
        for step in range(self.config.steps):
            raw = self.chosen(setting, rows, step)
            codes.append(book.nearest(raw))
            latents.append(raw)
            rows = torch.cat([F.embedding(chosen, book.rows) for chosen in codes], 1)
        shape = (self.config.grid, self.config.grid)
        return Plan(
            codes=torch.cat(codes, 1)[:, self.place].unflatten(1, shape),
            latents=torch.cat(latents, 1)[:, self.place].unflatten(1, shape),
        )

    def setting(self, text: Tensor, attention_mask: Tensor, noise: Tensor) -> Setting:
        """text (B, T, C), attention_mask (B, T), noise (B, Z) -> what the steps of a drawing go by."""
        # One word that says nothing is what all words are when they say nothing; one for all pictures.
        silence = torch.zeros(1, 1, text.shape[2], dtype=text.dtype, device=text.device)
        alone = torch.ones(1, 1, dtype=attention_mask.dtype, device=text.device)
        return Setting(
            told=self.context(text, attention_mask, noise),
            speechless=self.context(silence, alone, noise),
            chances=self.chances(noise),
        )

    def chosen(self, setting: Setting, rows: Tensor, step: int) -> Tensor:
        """`forward` as a drawing takes it: in the open steps guided, and moved by the drawing's noise."""
        raw: Tensor = self(setting.told, rows, step)
        if step >= self.config.open_steps:
            return raw
        if self.config.guidance != 1:
            # Learned from (`plan_through`) is only what the words say.
            unguided = self(setting.speechless, rows.detach(), step).detach()
            raw = torch.lerp(unguided, raw, self.config.guidance)
        return raw + self.config.temperature * setting.chances[:, slice(*self.positions(step))]

    def plan_through(self, setting: Setting, known: Tensor, book: Codebook, learned: int) -> PlanThrough:
        """As `plan`, after the codes `known` (B, M) of the first steps; gradients pass the last `learned`.

        They pass a choice as if the raw latent at unit length were the row that is nearest to it (Bengio
        et al. 2013, straight through): what judges the picture can move choices that are made at once
        to go together, which the cross-entropy of each by itself can't.
        """
        rows = F.embedding(known, book.rows)
        steps, first = self.config.steps, None
        for step in range(steps):
            if self.positions(step)[1] <= known.shape[1]:
                continue
            through = step >= steps - learned
            with torch.set_grad_enabled(through and torch.is_grad_enabled()):
                raw = self.chosen(setting, rows, step).float()
                first = raw if first is None else first
                row = F.embedding(book.nearest(raw.detach()), book.rows)
                if through:
                    unit = F.normalize(raw, dim=-1)
                    row = unit + (row - unit).detach()
            rows = torch.cat([rows, row], 1)
        grid = self.config.grid
        placed = rows[:, self.place].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        return PlanThrough(rows=placed, first=first)

    def chances(self, noise: Tensor) -> Tensor:
        """noise (B, Z) -> about standard normals for the positions of the open steps, (B, N, D) in `order`.

        Each is a sum of all noise with signs of its own: those of one drawing look independent, and nothing
        but the noise has to be given.
        """
        return (
            noise.unsqueeze(1) * self.signs[: self.positions(self.config.open_steps - 1)[1]]
        ) @ self.mixing

    def told(self, context: Context, codes: Tensor, book: Codebook) -> Tensor:
        """Raw latents (B, h, w, D) of every step, each told a picture's own codes (B, h, w) before it."""
        rows = F.embedding(codes.flatten(1)[:, self.order], book.rows)
        found = [self(context, rows[:, : self.positions(i)[0]], i) for i in range(self.config.steps)]
        shape = (self.config.grid, self.config.grid)
        latents: Tensor = torch.cat(found, 1)[:, self.place].unflatten(1, shape)
        return latents


def hashed_signs(name: str, rows: int, columns: int) -> Tensor:
    """+1 and -1, float32 (rows, columns), the same on every machine: bits of SHAKE-128 of a name."""
    digest = hashlib.shake_128(name.encode()).digest(rows * columns // 8 + 1)
    bits = [byte >> place & 1 for byte in digest for place in range(8)]
    return 2.0 * torch.tensor(bits[: rows * columns], dtype=torch.float32).view(rows, columns) - 1.0


def lattice_order(grid: int, steps: int) -> Tensor:
    """Row-major positions of a grid, coarse lattice first: int64 (grid * grid,).

    Each of `steps - 1` halvings leaves a square or a quincunx lattice, in turn, centred on the grid.
    """
    halvings = steps - 1
    shift = 2 ** ((halvings + 1) // 2) // 2
    row, column = torch.meshgrid(torch.arange(grid) + shift, torch.arange(grid) + shift, indexing="ij")
    survived = torch.zeros(grid, grid, dtype=torch.int64)
    for halving in range(1, halvings + 1):
        stride = 2 ** (halving // 2)
        on_lattice = (row % stride == 0) & (column % stride == 0)
        if halving % 2 == 1:
            on_lattice &= (row // stride + column // stride) % 2 == 0
        survived[on_lattice] = halving
    return survived.flatten().argsort(descending=True, stable=True)
