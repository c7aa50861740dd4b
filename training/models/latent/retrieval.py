"""Which pictures of the corpus have captions like the prompt: looked up, not learned.

A network of a few million weights takes hundreds of looks at a picture to know it by heart. So the latent
network is given the codes of the pictures whose captions are nearest to the prompt, as drafts, and learns
what to take of each (cf. Blattmann et al. 2022, retrieval-augmented diffusion).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import ModelConfig, SamplingConfig
from textual_vision.training.models.latent.sign_hash import hashed_signs
from textual_vision.training.models.text_encoder import sentence_from_text

NEVER = 1e4  # taken off a score
SMALLEST_SHARE = 1e-4  # of the largest variance: directions with less are noise
# Pictures with the same caption are equally near, but for rounding, which is another in every backend. So
# each is put this much behind the one before it: ten times what a score of float32 is rounded by.
BEHIND = 2e-6
# So much of what the nearest caption says is taken off the query for the drafts after it: for the first of
# them, and for the second half of all. Less, and all show the same ("dog wearing glasses" for "dog wearing
# sunglasses"); more, and they show anything.
COVERED = (0.5, 0.7)


@dataclass(frozen=True, kw_only=True)
class RetrievalTraining:
    """How what is looked up differs while pictures are learned: `hidden` bool (B, M), entries not to look at;
    `own` int64 (B, N), the pictures' codes; `place` int64 (B,), the draft that they take the place of, K for
    none."""

    hidden: Tensor
    own: Tensor
    place: Tensor

    def planted(self, codes: Tensor) -> Tensor:
        """Codes (B, K, N) of the drafts with the pictures' own in their places."""
        here = self.place[:, None] == torch.arange(codes.shape[1], device=codes.device)
        return torch.where(here[:, :, None], self.own[:, None], codes)

    def of(self, which: Tensor) -> RetrievalTraining:
        """The same for some of the pictures."""
        return RetrievalTraining(hidden=self.hidden[which], own=self.own[which], place=self.place[which])


class RetrievalIndex(nn.Module):
    """Codes of pictures by the sentences of their captions."""

    keys: Tensor
    codes: Tensor
    composed: Tensor
    directions: Tensor
    offset: Tensor
    behind: Tensor
    mixing: Tensor

    def __init__(self, model: ModelConfig, sampling: SamplingConfig) -> None:
        super().__init__()
        entries, key = model.retrieval.entries or 0, model.retrieval.dim
        self.drafts, self.wander = model.retrieval.count, sampling.query_noise
        # Until `fill`, anything.
        self.register_buffer("keys", F.normalize(torch.randn(entries, key), dim=1))
        codes = torch.randint(0, model.codebook.codebook_size, (entries, model.latent.grid**2))
        # Half precision holds whole numbers up to 2,048; TensorRT reads no integers of 16 bits.
        self.register_buffer("codes", codes.half())
        self.register_buffer("composed", (torch.arange(entries) % 2).half())
        self.register_buffer("directions", torch.randn(key, model.text.embed_dim) / model.text.embed_dim**0.5)
        self.register_buffer("offset", torch.zeros(key))
        self.register_buffer("behind", BEHIND * torch.arange(entries), persistent=False)
        mixing = hashed_signs("memory", model.noise, key) / (model.noise * key) ** 0.5
        self.register_buffer("mixing", mixing, persistent=False)

    def forward(
        self, text: Tensor, attention_mask: Tensor, noise: Tensor, lesson: RetrievalTraining | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """text (B, T, C), attention_mask (B, T), noise (B, Z) -> codes of the nearest pictures, row by row,
        int64 (B, K, N), how near they are, a cosine, (B, K), and whether the nearest shows several things
        that its caption names, 1 or 0, (B,).

        After the nearest come those nearest to what it leaves of the query (Mallat & Zhang 1993, matching
        pursuit), so that several may show together what none shows alone. The noise moves the query by a
        length of about `sampling.query_noise`, so that another seed may follow other pictures.
        """
        query = F.linear(sentence_from_text(text, attention_mask), self.directions, self.offset)
        query = F.normalize(F.normalize(query, dim=1) + self.wander * noise @ self.mixing, dim=1)
        scores = self._scores(query, lesson)
        near, found = scores.topk(1, dim=1)
        said = near * self.keys.index_select(0, found[:, 0])
        taken = scores >= near
        half = self.drafts // 2
        for covered, count in zip(COVERED, (self.drafts - half - 1, half), strict=True):
            if count == 0:
                continue
            scores = self._scores(F.normalize(query - covered * said, dim=1), lesson) - taken * NEVER
            nearer, which = scores.topk(count, dim=1)
            taken = taken.logical_or(scores >= nearer[:, -1:])
            near, found = torch.cat([near, nearer], 1), torch.cat([found, which], 1)
        codes = self.codes.index_select(0, found.flatten()).long().unflatten(0, found.shape)
        composed = self.composed.index_select(0, found[:, 0]).float()
        return (codes if lesson is None else lesson.planted(codes)), near, composed

    def _scores(self, query: Tensor, lesson: RetrievalTraining | None) -> Tensor:
        """Queries (B, Q) -> how near each entry is that may be looked at, (B, M)."""
        scores = query @ self.keys.T - self.behind
        return scores if lesson is None else scores - lesson.hidden * NEVER

    @torch.no_grad()
    def fill(self, styled: Tensor, bare: Tensor, codes: Tensor, composed: Tensor) -> None:
        """Sentences of captions with and without their style (M, C), codes (M, N), and whether they show
        several things (M,), of as many pictures as there are entries, or fewer.

        Keys are whitened sentences: directions that all captions share would hide those that few have. Each
        is halfway between that of the caption with its style and without, for a prompt may name none.
        """
        mean, count = styled.mean(0), len(codes)
        directions = _whitening(styled - mean, self.keys.shape[1])
        self.directions.copy_(directions.T)
        self.offset.copy_(-mean @ directions)
        self.keys.zero_()  # near to nothing
        keys = [F.normalize((sentences - mean) @ directions, dim=1) for sentences in (styled, bare)]
        self.keys[:count] = F.normalize(keys[0] + keys[1], dim=1)
        self.codes.zero_()
        self.codes[:count] = codes.to(self.codes.dtype)
        self.composed.zero_()
        self.composed[:count] = composed.to(self.composed.dtype)

    def like(self, entries: Tensor) -> Tensor:
        """Cosines of the keys of `entries` (B,) with all, (B, M)."""
        return self.keys[entries] @ self.keys.T


def entries_of(pictures: int, entries: int) -> Tensor:
    """Which of so many pictures are remembered, by their numbers: all, or as many as fit, evenly."""
    return torch.linspace(0, pictures - 1, min(pictures, entries)).round().long()


def _whitening(x: Tensor, count: int) -> Tensor:
    """The `count` principal directions of centered rows (N, C), as columns, along which their variance is
    one."""
    variance, directions = torch.linalg.eigh(x.T.double() @ x.double() / len(x))
    variance, directions = variance.flip(0)[:count], directions.flip(1)[:, :count]
    found: Tensor = directions * variance.clamp_min(SMALLEST_SHARE * float(variance[0])).rsqrt()
    return found.to(x.dtype)
