"""Words and noise to a grid of latents, whose nearest codes are the drawing's plan.

The codes of a grid depend on each other: chosen all at once they are each the likeliest by itself, and
together a blur. So they are chosen in steps, a coarse lattice first and each step as many again between
those that are there, every step seeing all before it (cf. Chang et al. 2022, MaskGIT, and the lattice
order of Besnier et al. 2025). Each position is worked out once: it is told the codes around it, and attends
to the positions of its own step and of all before it, whose keys and values are remembered (cf. Tian et al.
2024, VAR). So all steps together cost one pass over the grid, and learning sees every step of a picture at
once. One step is the one-pass network of the paper.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.attention import MASKED_SCORE, GridBlock, KeyValue, score_bias
from textual_vision.training.blocks import Condition
from textual_vision.training.codebook import Codebook
from textual_vision.training.config import ModelConfig
from textual_vision.training.lattice import AROUND, lattice_of

POSITION_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every step is told: computed once for a drawing."""

    start: Tensor  # (B, 1, W): the sentence and the noise
    words: list[KeyValue]  # for each block
    bias: Tensor  # (B, 1, 1, T)
    copies: int = 1  # of each drawing


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all steps of a drawing go by."""

    told: Context
    # After the drawings' words the same drawings with words that say nothing, which guidance leads away from:
    # one batch (2B, ...), for a step of a single drawing is too small to keep a machine busy.
    guided: Context | None
    chances: Tensor  # (B, N, D): see `LatentNetwork.chances`


Seen = list[KeyValue]  # what each block remembers of the positions so far


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
    around: Tensor
    reach: Tensor
    signs: Tensor
    mixing: Tensor

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        config, text_width = model.latent, model.text.width
        self.config = config
        self.condition = Condition(text_width, model.noise, model.generator.condition)
        self.start = nn.Linear(model.generator.condition, config.width)
        self.near = nn.Linear(AROUND * model.codebook.width, config.width, bias=False)
        self.position = nn.Parameter(torch.randn(config.grid**2, config.width) * POSITION_STD)
        self.blocks = nn.ModuleList(
            GridBlock(config.width, config.heads, text_width) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.width)
        self.latents = nn.Linear(config.width, model.codebook.width)
        lattice = lattice_of(config.grid, config.steps, config.halved)
        self.bounds = lattice.bounds
        order, step = (
            torch.tensor(lattice.order),
            torch.tensor(np.repeat(range(config.steps), np.diff(self.bounds))),
        )
        later = step[:, None] < step
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("place", order.argsort(), persistent=False)
        self.register_buffer("around", torch.tensor(lattice.neighbours + 1), persistent=False)  # 0: none
        self.register_buffer("reach", later[None, None] * MASKED_SCORE, persistent=False)
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
        return self.bounds[step], self.bounds[step + 1]

    def forward(self, context: Context, rows: Tensor) -> Tensor:
        """Rows of a picture's own codes in `order`, (B, N, D) -> raw latents (B, N, D) of every step, each
        told the codes before it. N may be that of the first steps alone."""
        count = rows.shape[1]
        reach = self.reach[:, :, :count, :count]
        raw, _ = self._through_blocks(context, self._entry(context, rows, 0, count), None, reach)
        return raw

    def next(self, context: Context, rows: Tensor, step: int, seen: Seen | None) -> tuple[Tensor, Seen]:
        """Rows of the codes known before `step` in `order`, (B, M, D), and what was seen by then -> raw
        latents of the next ones, (B, N - M, D), and what is seen now. All but the rows may be of (2B)."""
        return self._through_blocks(context, self._entry(context, rows, *self.positions(step)), seen, None)

    def _entry(self, context: Context, rows: Tensor, first: int, last: int) -> Tensor:
        """What is known of the positions from `first` to `last`, (B, last - first, W)."""
        x = context.start + self.position[first:last]
        if last == self.bounds[1]:
            return x  # nothing is around the first
        none = rows.new_zeros(rows.shape[0], 1, rows.shape[2])
        around = torch.cat([none, rows], 1)[:, self.around[first:last].flatten()]
        near = self.near(around.unflatten(1, (last - first, AROUND)).flatten(2))
        return x + torch.cat([near] * context.copies)

    def _through_blocks(
        self, context: Context, x: Tensor, seen: Seen | None, reach: Tensor | None
    ) -> tuple[Tensor, Seen]:
        now: Seen = []
        before: Sequence[KeyValue | None] = seen or [None] * len(self.blocks)
        for block, words, past in zip(self.blocks, context.words, before, strict=True):
            x, known = block(x, words, context.bias, past, reach)
            now.append(known)
        return self.latents(self.norm(x)), now

    def plan(self, text: Tensor, attention_mask: Tensor, noise: Tensor, book: Codebook) -> Plan:
        """text (B, T, C), attention_mask (B, T), noise (B, Z) -> codes and their latents."""
        setting = self.setting(text, attention_mask, noise)
        rows = text.new_zeros(text.shape[0], 0, book.rows.shape[1])  # none yet
        codes, latents, seen = [], [], None
        for step in range(self.config.steps):
            raw, seen = self.chosen(setting, rows, step, seen)
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
        chances = self.chances(noise)
        if self.config.guidance == 1:
            return Setting(told=self.context(text, attention_mask, noise), guided=None, chances=chances)
        # One word that says nothing is what all words are when they say nothing.
        silence, alone = torch.zeros_like(text), torch.zeros_like(attention_mask)
        alone[:, 0] = 1
        both = torch.cat([text, silence]), torch.cat([attention_mask, alone]), torch.cat([noise, noise])
        guided = replace(self.context(*both), copies=2)
        words = [(_told(key), _told(value)) for key, value in guided.words]
        told = Context(start=_told(guided.start), words=words, bias=_told(guided.bias))
        return Setting(told=told, guided=guided, chances=chances)

    def chosen(self, setting: Setting, rows: Tensor, step: int, seen: Seen | None) -> tuple[Tensor, Seen]:
        """`next` as a drawing takes it: in the open steps guided, and moved by the drawing's noise."""
        if step >= self.config.open_steps:
            return self.next(setting.told, rows, step, seen)
        if setting.guided is None:
            raw, seen = self.next(setting.told, rows, step, seen)
        else:
            both, seen = self.next(setting.guided, rows, step, seen)
            told, speechless = both.unflatten(0, (2, -1)).unbind()
            # Learned from (`plan_through`) is only what the words say.
            raw = torch.lerp(speechless.detach(), told, self.config.guidance)
            if step == self.config.open_steps - 1:
                seen = [(_told(key), _told(value)) for key, value in seen]
        return raw + self.config.temperature * setting.chances[:, slice(*self.positions(step))], seen

    def plan_through(self, setting: Setting, known: Tensor, book: Codebook, learned: int) -> PlanThrough:
        """As `plan`, after the codes `known` (B, M) of the first steps; gradients pass the last `learned`.

        They pass a choice as if the raw latent at unit length were the row that is nearest to it (Bengio
        et al. 2013, straight through): what judges the picture can move choices that are made at once
        to go together, which the cross-entropy of each by itself can't.
        """
        own = F.embedding(known, book.rows)
        rows, seen, first = own[:, :0], None, None
        for step in range(self.config.steps):
            through = step >= self.config.steps - learned
            with torch.set_grad_enabled(through and torch.is_grad_enabled()):
                raw, seen = self.chosen(setting, rows, step, seen)
                before, after = self.positions(step)
                if after <= known.shape[1]:
                    row = own[:, before:after]
                else:
                    raw = raw.float()
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
        raw = self(context, F.embedding(codes.flatten(1)[:, self.order], book.rows))
        latents: Tensor = raw[:, self.place].unflatten(1, (self.config.grid, self.config.grid))
        return latents


def _told(both: Tensor) -> Tensor:
    """(2B, ...) -> the first half."""
    first: Tensor = both.unflatten(0, (2, -1))[0]
    return first


def hashed_signs(name: str, rows: int, columns: int) -> Tensor:
    """+1 and -1, float32 (rows, columns), the same on every machine: bits of SHAKE-128 of a name."""
    digest = hashlib.shake_128(name.encode()).digest(rows * columns // 8 + 1)
    bits = [byte >> place & 1 for byte in digest for place in range(8)]
    return 2.0 * torch.tensor(bits[: rows * columns], dtype=torch.float32).view(rows, columns) - 1.0
