"""The latent network: text and noise to a grid of raw latents, whose nearest codebook vectors are the codes.

The codes of a grid depend on each other: chosen all at once, each is the likeliest by itself, and together
they are a blur. So they are chosen in steps, a coarse lattice first, each step conditioned on all earlier
ones (cf. Chang et al. 2022, MaskGIT; Besnier et al. 2025, for the order). A position of the network is a
patch of codes, computed in one step. Keys and values of earlier patches, with the codes chosen there, are a
cache (cf. Tian et al. 2024, VAR). A small head then chooses the codes of a patch in two turns, each
conditioned on the neighbors (cf. Yu et al. 2023, MEGABYTE). All steps together cost one pass over the
patches, and training computes all steps of a picture at once. With one step it is the one-pass network of
the paper.

With a retrieval index, the network is also conditioned on the codes of retrieved pictures, and its head may
copy from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import ModelConfig, SamplingConfig
from textual_vision.training.models.attention import score_bias
from textual_vision.training.models.blocks import ConditionProjection
from textual_vision.training.models.codebook import Codebook
from textual_vision.training.models.latent.blocks import CodeHead, LatentBlock
from textual_vision.training.models.latent.lattice import NEIGHBORS
from textual_vision.training.models.latent.retrieval_index import RetrievalIndex, RetrievalTraining
from textual_vision.training.models.latent.retrieved_pictures import (
    CopyControl,
    CopyInputs,
    RetrievedEncoder,
    RetrievedPictures,
    code_features,
    copy_inputs,
    head_inputs,
)
from textual_vision.training.models.latent.schedule import DecodeSchedule

POSITION_STD = 0.02

Cache = list[Tensor]  # of each block: (2, B, heads, M, W / heads)


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """The conditions that all steps share.

    With `copies` 2 the batch holds each prompt and then each unconditional copy (2B, ...), in one batch,
    since a step of one picture is too small to use a processor. `retrieved` and `control` stay (B, ...).
    """

    initial: Tensor  # (B, P, W): initial state of each patch, from sentence, noise and position
    text_cache: Cache
    text_bias: Tensor  # (B, 1, 1, T)
    retrieved: Tensor | None  # (B, N, K, D): codebook vectors by rank
    control: CopyControl | None = None  # (B, 1, 1, 1) each
    copies: int = 1

    def retrieved_at(self, first: int, last: int) -> Tensor | None:
        """Return the retrieved vectors of the ranks `first` to `last`, (B, n, K, D)."""
        return None if self.retrieved is None else self.retrieved[:, first:last]

    def repeat(self, x: Tensor) -> Tensor:
        """Return x (B, ...) for all copies, (copies * B, ...)."""
        return repeated(x, self.copies)


@dataclass(frozen=True, kw_only=True)
class StepState:
    """The codes chosen so far. Row 0 of both tensors stands for a neighbor that is not chosen."""

    codes: Tensor  # (B, 1 + n, D + K): features of each chosen code, by rank
    patches: Tensor  # (B, 1 + p, patch² * (D + K)): of each patch
    cache: Cache | None


class LatentNetwork(nn.Module):
    """Transformer blocks over the patches of a growing lattice, with cross-attention to the words."""

    def __init__(self, model: ModelConfig, sampling: SamplingConfig) -> None:
        super().__init__()
        config, text_width, code = model.latent, model.text.embed_dim, model.codebook.codebook_dim
        self.config = config
        side, cells = config.grid // config.patch, config.patch**2
        retrieved = model.retrieval.count if model.retrieval.entries else 0
        self.features = code + retrieved  # width of the features of a chosen code
        self.condition = ConditionProjection(text_width, model.noise, model.generator.condition)
        self.initial = nn.Linear(model.generator.condition, config.embed_dim)
        self.neighbors = nn.Linear(NEIGHBORS * cells * self.features, config.embed_dim, bias=False)
        self.position = nn.Parameter(torch.randn(side**2, config.embed_dim) * POSITION_STD)
        self.retrieval = RetrievalIndex(model, sampling) if retrieved else None
        self.retrieved_encoder = RetrievedEncoder(model) if retrieved else None
        self.blocks = nn.ModuleList(
            LatentBlock(config.embed_dim, config.heads, text_width, cells * self.features)
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.embed_dim)
        inputs = NEIGHBORS * self.features + retrieved * (code + 1)
        self.head = CodeHead(config.embed_dim, config.head_width, inputs, cells, code, retrieved)
        self.schedule = DecodeSchedule(config)

    def retrieve(
        self,
        text: Tensor,
        attention_mask: Tensor,
        noise: Tensor,
        book: Codebook,
        training: RetrievalTraining | None = None,
    ) -> RetrievedPictures | None:
        """Return the retrieved pictures of text (B, T, C), attention_mask (B, T) and noise (B, Z)."""
        if self.retrieval is None or self.retrieved_encoder is None:
            return None
        codes, near, is_composition = self.retrieval(text, attention_mask, noise, training)
        vectors = F.embedding(codes, book.rows)
        features = self.retrieved_encoder(vectors, near)
        return RetrievedPictures(
            vectors=vectors.index_select(2, self.schedule.order).transpose(1, 2),
            features=features.index_select(1, self.schedule.patch_order),
            is_composition=is_composition,
        )

    def context(
        self,
        text: Tensor,
        attention_mask: Tensor,
        noise: Tensor,
        retrieved: RetrievedPictures | None,
        control: CopyControl | None = None,
        copies: int = 1,
    ) -> StepContext:
        """Return the context of text (B, T, C), attention_mask (B, T) and noise (B, Z).

        B is `copies` times the batch of `retrieved` and `control`.
        """
        initial = self.initial(self.condition(text, attention_mask, noise)).unsqueeze(1) + self.position
        if retrieved is not None:
            initial = initial + repeated(retrieved.features, copies)
        return StepContext(
            initial=initial,
            text_cache=[block.text_cache(text) for block in self._blocks()],
            text_bias=score_bias(attention_mask),
            retrieved=None if retrieved is None else retrieved.vectors,
            control=control,
            copies=copies,
        )

    def forward(self, context: StepContext, vectors: Tensor) -> Tensor:
        """Return raw latents (B, n, D) of all steps at once, each conditioned on the codes before it.

        `vectors` (B, n, D) are the codebook vectors of a picture's own codes by rank (teacher forcing); n is
        N, or the number of codes of the first steps.
        """
        schedule, count = self.schedule, vectors.shape[1]
        patches = count // self.config.patch**2
        retrieved = context.retrieved_at(0, count)
        features = code_features(vectors, retrieved)
        content = _gather(features, schedule.patch_codes[:patches])
        x = context.initial[:, :patches]
        x = x + self.neighbors(_gather(_after_zeros(content), schedule.patch_neighbors[:patches]))
        halves = schedule.attention_bias[..., :patches, :].chunk(2, 3)
        bias = torch.cat([half[..., :patches] for half in halves], 3)
        for block, text_cache in zip(self._blocks(), context.text_cache, strict=True):
            x = block.all_steps(x, text_cache, context.text_bias, content, bias)
        states = self.head.state(self.norm(x))[:, schedule.patch_of_code[:count]]
        features = _after_zeros(features)
        neighbors = _gather(features, schedule.code_neighbors[:count])
        inputs = None
        if retrieved is not None:
            first = schedule.first_of_turn[:count]
            mean = features.cumsum(1).index_select(1, first) / first.clamp_min(1)[:, None]
            inputs = copy_inputs(retrieved, neighbors, mean)
        cells = schedule.cell_of_code[:count]
        raw: Tensor = self.head(states, self.head.neighbors(head_inputs(neighbors, inputs)), cells, inputs)
        return raw

    def start(self, context: StepContext) -> StepState:
        """Return the state before the first step."""
        batch = context.initial.shape[0] // context.copies
        zeros = context.initial.new_zeros
        content = self.config.patch**2 * self.features
        return StepState(codes=zeros(batch, 1, self.features), patches=zeros(batch, 1, content), cache=None)

    def step(self, context: StepContext, state: StepState, step: int) -> tuple[Tensor, Cache]:
        """Run the blocks on the patches of one step.

        Returns the head's states of its patches (copies * B, n, H), and their cache alone.
        """
        patches = slice(*self.schedule.patch_bounds[step : step + 2])
        x = context.initial[:, patches]
        if step > 0:
            neighbors = _gather(state.patches, self.schedule.patch_neighbors[patches])
            x = x + context.repeat(self.neighbors(neighbors))
        own: Cache = []
        caches: Sequence[Tensor | None] = state.cache or [None] * len(self.blocks)
        for block, text_cache, cache in zip(self._blocks(), context.text_cache, caches, strict=True):
            x, block_cache = block(x, text_cache, context.text_bias, cache)
            own.append(block_cache)
        return self.head.state(self.norm(x)), own

    def turn(self, context: StepContext, states: Tensor, codes: Tensor, step: int, number: int) -> Tensor:
        """Return the raw latents (copies * B, n, D) of one turn of a step.

        `states` are those of `step`, `codes` (B, 1 + first, D + K) the features of all codes before the turn.
        """
        first, last = self.schedule.turns[step][number]
        patches = states.shape[1]
        count = (last - first) // patches
        neighbors = _gather(codes, self.schedule.code_neighbors[first:last])
        retrieved, inputs = context.retrieved_at(first, last), None
        if retrieved is not None:
            mean = codes.sum(1, keepdim=True) / max(first, 1)
            inputs = copy_inputs(retrieved, neighbors, mean.expand(-1, last - first, -1))

        def by_patch(x: Tensor) -> Tensor:
            parted: Tensor = context.repeat(x).unflatten(1, (patches, count))
            return parted

        projected = by_patch(self.head.neighbors(head_inputs(neighbors, inputs)))
        if inputs is not None:
            inputs = CopyInputs(
                vectors=by_patch(inputs.vectors),
                neighbor_similarity=by_patch(inputs.neighbor_similarity),
                mean_similarity=by_patch(inputs.mean_similarity),
                control=None if context.control is None else context.control.map(context.repeat),
            )
        cells = slice(number * count, (number + 1) * count)
        raw: Tensor = self.head(states.unsqueeze(2), projected, cells, inputs).flatten(1, 2)
        return raw

    def extend_cache(self, context: StepContext, cache: Cache | None, own: Cache, content: Tensor) -> Cache:
        """Return the cache with a step's patches, whose codes have the features `content` (B, n, C)."""
        content = context.repeat(content)
        now = [block.with_codes(one, content) for block, one in zip(self._blocks(), own, strict=True)]
        return now if cache is None else [torch.cat(pair, 3) for pair in zip(cache, now, strict=True)]

    def teacher_forced(self, context: StepContext, codes: Tensor, book: Codebook) -> Tensor:
        """Return raw latents (B, h, w, D), each conditioned on a picture's own codes (B, h, w) before it."""
        raw = self(context, F.embedding(codes.flatten(1)[:, self.schedule.order], book.rows))
        latents: Tensor = raw[:, self.schedule.rank].unflatten(1, (self.config.grid, self.config.grid))
        return latents

    def _blocks(self) -> Iterable[LatentBlock]:
        return cast(Iterable[LatentBlock], self.blocks)


def repeated(x: Tensor, copies: int) -> Tensor:
    """Return x (B, ...) `copies` times, (copies * B, ...)."""
    return torch.cat([x] * copies) if copies > 1 else x


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """Return the rows (B, M, D) at `index` (n, k), side by side: (B, n, k * D)."""
    # Not rows[:, index]: index_select becomes one Gather, indexing a GatherND between two transpositions.
    found: Tensor = rows.index_select(1, index.flatten()).unflatten(1, index.shape).flatten(2)
    return found


def _after_zeros(rows: Tensor) -> Tensor:
    """Return rows (B, M, D) after one row of zeros."""
    return torch.cat([torch.zeros_like(rows[:, :1]), rows], 1)
