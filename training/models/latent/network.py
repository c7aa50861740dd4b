"""Words and noise to a grid of latents, whose nearest codes are the drawing's plan.

The codes of a grid depend on each other: chosen all at once they are each the likeliest by itself, and
together a blur. So they are chosen in steps, a coarse lattice first and each step as many again between
those that are there, every step seeing all before it (cf. Chang et al. 2022, MaskGIT, and the lattice
order of Besnier et al. 2025). A position of the network is a patch of 2 x 2 codes, and worked out once: it
is told the patches around it, and attends to those of its own step and of all before it, whose keys and
values are remembered with what was chosen there (cf. Tian et al. 2024, VAR). A small head then chooses a
patch's codes in two turns, each seeing the codes beside it (cf. Yu et al. 2023, MEGABYTE). So all steps
together cost one pass over the patches, and learning sees every step of a picture at once. One step is the
one-pass network of the paper.

With a memory there are drafts: the codes of pictures with captions like the prompt. Every patch is told what
the drafts have there, every choice how like the drafts the codes around it came out, and the head may take
its code from them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import ModelConfig, SamplingConfig
from textual_vision.training.models.attention import MASKED_SCORE, CellHead, GridBlock, score_bias
from textual_vision.training.models.blocks import Condition
from textual_vision.training.models.codebook import Codebook
from textual_vision.training.models.latent.drafts import (
    Drafts,
    Hold,
    Seen,
    Sketch,
    beside,
    hold_of,
    known_of,
    seen_of,
)
from textual_vision.training.models.latent.lattice import AROUND, cells_of, lattice_of
from textual_vision.training.models.latent.retrieval import RetrievalIndex, RetrievalTraining
from textual_vision.training.models.latent.sign_hash import hashed_signs

POSITION_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every step is told: computed once for a drawing."""

    start: Tensor  # (B, P, W): what each patch begins with, by the sentence and the noise
    words: list[Tensor]  # their memory, for each block
    bias: Tensor  # (B, 1, 1, T)
    drafts: Tensor | None  # (B, N, K, D): rows of their codes in `order`, the same for all copies
    hold: Hold | None  # (B, 1, 1, 1) each, likewise
    copies: int = 1  # of each drawing

    def drafts_at(self, first: int, last: int) -> Tensor | None:
        """Rows of the drafts' codes from place `first` of `order` on, (B, n, K, D)."""
        return None if self.drafts is None else self.drafts[:, first:last]

    def each(self, x: Tensor) -> Tensor:
        """What is the same for all copies, (B, ...) -> (copies * B, ...)."""
        return _copied(x, self.copies)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all steps of a drawing go by."""

    told: Context
    # The prompts, then the same pictures with words that say nothing, which guidance leads away from:
    # one batch (2B, ...), for a step of a single drawing is too small to keep a machine busy.
    guided: Context | None
    chances: Tensor  # (B, N, D): see `LatentNetwork.chances`

    def context(self, open_step: bool) -> Context:
        """What a step is told."""
        return self.guided if open_step and self.guided is not None else self.told


Past = list[Tensor]  # each block's memory of the patches so far


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


Choose = Callable[[Tensor, slice], Tensor]  # raw latents (B, n, D) of codes in `order` -> their rows


class LatentNetwork(nn.Module):
    """Transformer blocks over the patches of a growing lattice, with attention to the words."""

    order: Tensor
    placed: Tensor
    place: Tensor
    near: Tensor
    content: Tensor
    around: Tensor
    patch: Tensor
    cell: Tensor
    before: Tensor
    reach: Tensor
    signs: Tensor
    mixing: Tensor

    def __init__(self, model: ModelConfig, sampling: SamplingConfig) -> None:
        super().__init__()
        config, text_width, code = model.latent, model.text.embed_dim, model.codebook.codebook_dim
        self.config, self.sampling = config, sampling
        side, cells = config.grid // config.patch, config.patch**2
        self.condition = Condition(text_width, model.noise, model.generator.condition)
        self.start = nn.Linear(model.generator.condition, config.embed_dim)
        drafts = model.retrieval.count if model.retrieval.entries else 0
        self.known = code + drafts  # numbers that tell of a code: its row, and how like each draft's it is
        self.entry = nn.Linear(AROUND * cells * self.known, config.embed_dim, bias=False)
        self.position = nn.Parameter(torch.randn(side**2, config.embed_dim) * POSITION_STD)
        self.memory = RetrievalIndex(model, sampling) if model.retrieval.entries else None
        self.sketch = Sketch(model) if model.retrieval.entries else None
        self.blocks = nn.ModuleList(
            GridBlock(config.embed_dim, config.heads, text_width, cells * self.known)
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.embed_dim)
        near = AROUND * self.known + drafts * (code + 1)
        self.head = CellHead(config.embed_dim, config.head_width, near, cells, code, drafts)
        self._place_patches(side)
        self.register_buffer("signs", hashed_signs("position", config.grid**2, model.noise), persistent=False)
        mixing = hashed_signs("latent", model.noise, code) / model.noise**0.5
        self.register_buffer("mixing", mixing, persistent=False)

    def _place_patches(self, side: int) -> None:
        config = self.config
        lattice = lattice_of(side, config.steps, config.split_doublings)
        cells = cells_of(lattice, side, config.patch)
        self.bounds, self.turns = lattice.bounds, cells.turns
        step = torch.tensor(np.repeat(range(config.steps), np.diff(self.bounds)))
        before = np.concatenate([np.full(end - start, start) for turns in self.turns for start, end in turns])
        chosen, beside = step[:, None] <= step, step[:, None] != step
        found = {
            "placed": torch.tensor(lattice.order),
            "order": torch.tensor(cells.order),
            "place": torch.tensor(cells.order.argsort()),
            "near": torch.tensor(lattice.neighbors + 1),  # 0: none
            "content": torch.tensor(cells.content),
            "around": torch.tensor(cells.around + 1),
            "patch": torch.tensor(cells.patch),
            "cell": torch.tensor(cells.cell),
            "before": torch.tensor(before),
            "reach": torch.cat([chosen, beside], 1)[None, None] * MASKED_SCORE,
        }
        for name, value in found.items():
            self.register_buffer(name, value, persistent=False)

    def drafts(
        self,
        text: Tensor,
        attention_mask: Tensor,
        noise: Tensor,
        book: Codebook,
        lesson: RetrievalTraining | None = None,
    ) -> Drafts | None:
        """text (B, T, C), attention_mask (B, T), noise (B, Z) -> what the memory has for a drawing."""
        if self.memory is None or self.sketch is None:
            return None
        codes, near, composed = self.memory(text, attention_mask, noise, lesson)
        rows = F.embedding(codes, book.rows)
        return Drafts(
            rows=rows.index_select(2, self.order).transpose(1, 2),
            sketch=self.sketch(rows, near).index_select(1, self.placed),
            hold=hold_of(composed, self.sampling),
        )

    def context(
        self,
        text: Tensor,
        attention_mask: Tensor,
        noise: Tensor,
        drafts: Drafts | None,
        copies: int = 1,
    ) -> Context:
        """text (B, T, C), attention_mask (B, T), noise (B, Z) -> what the steps share.

        `copies`: B is so many times that of the drafts.
        """
        start = self.start(self.condition(text, attention_mask, noise)).unsqueeze(1) + self.position
        if drafts is not None:
            start = start + _copied(drafts.sketch, copies)
        return Context(
            start=start,
            words=[block.remember_words(text) for block in self._blocks()],
            bias=score_bias(attention_mask),
            drafts=None if drafts is None else drafts.rows,
            hold=None if drafts is None else drafts.hold,
            copies=copies,
        )

    def positions(self, step: int) -> tuple[int, int]:
        """How many codes are known before a step, and after it."""
        return self.turns[step][0][0], self.turns[step][-1][1]

    @property
    def fine_steps(self) -> int:
        """How many of the last steps make two doublings: they choose three quarters of the codes."""
        coarse = self.bounds[-1] // 4
        return max(1, sum(start >= coarse for start in self.bounds[:-1]))

    def forward(self, context: Context, rows: Tensor) -> Tensor:
        """Rows of a picture's own codes in `order`, (B, N, D) -> raw latents (B, N, D) of every step, each
        told the codes before it. N may be that of the first steps alone."""
        count = rows.shape[1]
        patches = count // self.config.patch**2
        drafts = context.drafts_at(0, count)
        known = known_of(rows, drafts)
        content = _gathered(known, self.content[:patches])
        x = context.start[:, :patches]
        x = x + self.entry(_gathered(_after_none(content), self.near[:patches]))
        reach = torch.cat([half[..., :patches] for half in self.reach[..., :patches, :].chunk(2, 3)], 3)
        for block, words in zip(self._blocks(), context.words, strict=True):
            x = block.all_steps(x, words, context.bias, content, reach)
        states = self.head.state(self.norm(x))[:, self.patch[:count]]
        known = _after_none(known)
        around = _gathered(known, self.around[:count])
        seen = None
        if drafts is not None:
            before = self.before[:count]
            so_far = known.cumsum(1).index_select(1, before) / before.clamp_min(1)[:, None]
            seen = seen_of(drafts, around, so_far)
        raw: Tensor = self.head(states, self.head.near(beside(around, seen)), self.cell[:count], seen)
        return raw

    def _blocks(self) -> Iterable[GridBlock]:
        return cast(Iterable[GridBlock], self.blocks)

    def _through_steps(self, setting: Setting, choose: Choose, learned: int) -> None:
        """Lets `choose` choose all codes, turn by turn; gradients pass the last `learned` steps."""
        batch, cells = setting.told.start.shape[0], self.config.patch**2
        # What is known of none, then of the codes in `order`; likewise of patches.
        known = setting.told.start.new_zeros(batch, 1, self.known)
        content = setting.told.start.new_zeros(batch, 1, cells * self.known)
        seen: Past | None = None
        for step in range(self.config.steps):
            through = step >= self.config.steps - learned
            with contextlib.nullcontext() if through else torch.no_grad():
                context = setting.context(step < self.sampling.stochastic_steps)
                states, own = self._states(context, content, step, seen)
                chosen = []
                for number, turn in enumerate(self.turns[step]):
                    raw = self._raw(context, states, known, step, number)
                    rows = choose(self._opened(setting, raw, context, step, slice(*turn)), slice(*turn))
                    found = known_of(rows, context.drafts_at(*turn))
                    known = torch.cat([known, found], 1)
                    chosen.append(found.unflatten(1, (states.shape[1], -1)).flatten(2))
                here = torch.cat(chosen, 2)
                content = torch.cat([content, here], 1)
                if step + 1 < self.config.steps:
                    closing = step + 1 == self.sampling.stochastic_steps
                    seen = self._remembered(context, seen, own, here, closing=closing)

    def _states(self, context: Context, content: Tensor, step: int, seen: Past | None) -> tuple[Tensor, Past]:
        """What the head is told of each patch of a step, (B, n, H), and their memory."""
        patches = slice(*self.bounds[step : step + 2])
        x = context.start[:, patches]
        if step > 0:
            x = x + context.each(self.entry(_gathered(content, self.near[patches])))
        now: Past = []
        before: Sequence[Tensor | None] = seen or [None] * len(self.blocks)
        for block, words, past in zip(self._blocks(), context.words, before, strict=True):
            x, own = block(x, words, context.bias, past)
            now.append(own)
        return self.head.state(self.norm(x)), now

    def _raw(self, context: Context, states: Tensor, known: Tensor, step: int, number: int) -> Tensor:
        """Raw latents of a turn of a step, (B, n, D)."""
        first, last = self.turns[step][number]
        patches = states.shape[1]
        count = (last - first) // patches
        around = _gathered(known, self.around[first:last])
        drafts, seen = context.drafts_at(first, last), None
        if drafts is not None:
            so_far = known.sum(1, keepdim=True) / max(first, 1)
            seen = seen_of(drafts, around, so_far.expand(-1, last - first, -1))

        def by_patch(x: Tensor) -> Tensor:
            parted: Tensor = context.each(x).unflatten(1, (patches, count))
            return parted

        near = by_patch(self.head.near(beside(around, seen)))
        if seen is not None:
            seen = Seen(
                rows=by_patch(seen.rows),
                around=by_patch(seen.around),
                all=by_patch(seen.all),
                hold=None if context.hold is None else context.hold.each(context.each),
            )
        cells = slice(number * count, (number + 1) * count)
        raw: Tensor = self.head(states.unsqueeze(2), near, cells, seen).flatten(1, 2)
        return raw

    def _opened(self, setting: Setting, raw: Tensor, context: Context, step: int, turn: slice) -> Tensor:
        """Raw latents as a drawing takes them: in the open steps guided, and moved by its noise."""
        if context.copies == 2:
            told, speechless = raw.unflatten(0, (2, -1)).unbind()
            raw = told
            if self.sampling.is_guided(step, self.config.steps):
                # Learned from (`plan_through`) is only what the words say.
                speechless = speechless.detach()
                hold = context.hold
                guidance = self.sampling.guidance_scale if hold is None else hold.guidance.flatten(1, 2)
                raw = speechless + guidance * (told - speechless)
        if step < self.sampling.stochastic_steps:
            raw = raw + self.sampling.temperature * setting.chances[:, turn]
        return raw

    def _remembered(
        self, context: Context, seen: Past | None, own: Past, here: Tensor, *, closing: bool
    ) -> Past:
        """The memory after a step whose patches hold `here`; of the told alone when the open steps close."""
        content = context.each(here)
        now = [block.remembered(one, content) for block, one in zip(self._blocks(), own, strict=True)]
        if seen is not None:
            now = [torch.cat(pair, 3) for pair in zip(seen, now, strict=True)]
        return [_told(one, 1) for one in now] if closing and context.copies == 2 else now

    def plan(self, text: Tensor, attention_mask: Tensor, noise: Tensor, book: Codebook) -> Plan:
        """text (B, T, C), attention_mask (B, T), noise (B, Z) -> codes and their latents."""
        codes: list[Tensor] = []
        latents: list[Tensor] = []

        def choose(raw: Tensor, turn: slice) -> Tensor:
            codes.append(book.nearest(raw))
            latents.append(raw)
            return F.embedding(codes[-1], book.rows)

        drafts = self.drafts(text, attention_mask, noise, book)
        self._through_steps(self.setting(text, attention_mask, noise, drafts), choose, self.config.steps)
        shape = (self.config.grid, self.config.grid)
        return Plan(
            codes=torch.cat(codes, 1).index_select(1, self.place).unflatten(1, shape),
            latents=torch.cat(latents, 1).index_select(1, self.place).unflatten(1, shape),
        )

    def setting(self, text: Tensor, attention_mask: Tensor, noise: Tensor, drafts: Drafts | None) -> Setting:
        """text (B, T, C), attention_mask (B, T), noise (B, Z) -> what the steps of a drawing go by."""
        chances = self.chances(noise)
        if self.sampling.guidance_scale == 1:
            told = self.context(text, attention_mask, noise, drafts)
            return Setting(told=told, guided=None, chances=chances)
        # One word that says nothing is what all words are when they say nothing.
        silence, alone = torch.zeros_like(text), torch.zeros_like(attention_mask)
        alone[:, 0] = 1
        both = torch.cat([text, silence]), torch.cat([attention_mask, alone]), torch.cat([noise, noise])
        guided = self.context(*both, drafts, copies=2)
        words = [_told(memory, 1) for memory in guided.words]
        told = replace(
            guided, start=_told(guided.start, 0), words=words, bias=_told(guided.bias, 0), copies=1
        )
        return Setting(told=told, guided=guided, chances=chances)

    def plan_through(self, setting: Setting, known: Tensor, book: Codebook, learned: int) -> PlanThrough:
        """As `plan`, after the codes `known` (B, M) of the first steps; gradients pass the last `learned`.

        They pass a choice as if the raw latent at unit length were the row that is nearest to it (Bengio
        et al. 2013, straight through): what judges the picture can move choices that are made at once
        to go together, which the cross-entropy of each by itself can't.
        """
        own = F.embedding(known, book.rows)
        chosen: list[Tensor] = []
        first: list[Tensor] = []

        def choose(raw: Tensor, turn: slice) -> Tensor:
            if turn.stop <= known.shape[1]:
                row = own[:, turn]
            else:
                raw = raw.float()
                first.append(raw)
                row = F.embedding(book.nearest(raw.detach()), book.rows)
                if raw.requires_grad:
                    unit = F.normalize(raw, dim=-1)
                    row = unit + (row - unit).detach()
            chosen.append(row)
            return row

        self._through_steps(setting, choose, learned)
        grid = self.config.grid
        placed = torch.cat(chosen, 1)[:, self.place].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        return PlanThrough(rows=placed, first=first[0] if first else None)

    def chances(self, noise: Tensor) -> Tensor:
        """noise (B, Z) -> about standard normals for the positions of the open steps, (B, N, D) in `order`.

        Each is a sum of all noise with signs of its own: those of one drawing look independent, and nothing
        but the noise has to be given.
        """
        return (
            noise.unsqueeze(1) * self.signs[: self.positions(self.sampling.stochastic_steps - 1)[1]]
        ) @ self.mixing

    def told(self, context: Context, codes: Tensor, book: Codebook) -> Tensor:
        """Raw latents (B, h, w, D) of every step, each told a picture's own codes (B, h, w) before it."""
        raw = self(context, F.embedding(codes.flatten(1)[:, self.order], book.rows))
        latents: Tensor = raw[:, self.place].unflatten(1, (self.config.grid, self.config.grid))
        return latents


def _gathered(rows: Tensor, index: Tensor) -> Tensor:
    """Of rows (B, M, D) those at `index` (n, k), side by side: (B, n, k * D)."""
    # Not rows[:, index]: index_select becomes one Gather, indexing a GatherND between two transpositions.
    found: Tensor = rows.index_select(1, index.flatten()).unflatten(1, index.shape).flatten(2)
    return found


def _after_none(rows: Tensor) -> Tensor:
    """Rows (B, M, D) after one of zeros."""
    return torch.cat([torch.zeros_like(rows[:, :1]), rows], 1)


def _told(both: Tensor, axis: int) -> Tensor:
    """The first half of an axis that holds the told and the speechless."""
    told: Tensor = both.unflatten(axis, (2, -1)).select(axis, 0)
    return told


def _copied(x: Tensor, copies: int) -> Tensor:
    return torch.cat([x] * copies) if copies > 1 else x
