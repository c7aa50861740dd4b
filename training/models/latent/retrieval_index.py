"""The retrieval index: codes of the corpus's pictures, found by the sentences of their captions.

A network of a few million weights needs hundreds of passes over a picture to memorize it. So the latent
network is conditioned on the codes of the pictures whose captions are nearest to the prompt, and learns to
copy from them (cf. Blattmann et al. 2022, retrieval-augmented diffusion).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import ModelConfig, SamplingConfig
from textual_vision.training.models.latent.sign_hash import hashed_signs
from textual_vision.training.models.text_encoder import sentence_from_text

EXCLUDED = 1e4  # subtracted from the score of an excluded entry
SMALLEST_SHARE = 1e-4  # of the largest variance: directions with less are noise
# Pictures with the same caption have the same score but for rounding, which differs between backends. So each
# entry is this much behind the one before it: ten times the rounding error of a float32 score.
TIE_BREAK = 2e-6
# The share of the nearest entry's key that is subtracted from the query for the next entries: for the first
# of them, and for the second half of all. With less, all entries show the same ("dog wearing glasses" for
# "dog wearing sunglasses"); with more, they show anything.
SUBTRACTED_SHARES = (0.5, 0.7)


@dataclass(frozen=True, kw_only=True)
class RetrievalTraining:
    """The changes to retrieval in a training step.

    `masked` bool (B, M) excludes entries. `codes` int64 (B, N) of the pictures themselves replace those of
    the retrieved picture number `slot` int64 (B,); K replaces none.
    """

    masked: Tensor
    codes: Tensor
    slot: Tensor

    def insert_target(self, retrieved: Tensor) -> Tensor:
        """Return the retrieved codes (B, K, N) with the pictures' own in their slots."""
        here = self.slot[:, None] == torch.arange(retrieved.shape[1], device=retrieved.device)
        return torch.where(here[:, :, None], self.codes[:, None], retrieved)

    def select(self, which: Tensor) -> RetrievalTraining:
        """Return the changes for some of the pictures."""
        return RetrievalTraining(masked=self.masked[which], codes=self.codes[which], slot=self.slot[which])


class RetrievalIndex(nn.Module):
    """M pictures: keys (M, Q) of their captions, codes (M, N), and whether each is a composition (M,)."""

    keys: Tensor
    codes: Tensor
    is_composition: Tensor
    directions: Tensor
    offset: Tensor
    tie_break: Tensor
    mixing: Tensor

    def __init__(self, model: ModelConfig, sampling: SamplingConfig) -> None:
        super().__init__()
        entries, key = model.retrieval.entries or 0, model.retrieval.dim
        self.count, self.query_noise = model.retrieval.count, sampling.query_noise
        # The values are random until `fill`.
        self.register_buffer("keys", F.normalize(torch.randn(entries, key), dim=1))
        codes = torch.randint(0, model.codebook.codebook_size, (entries, model.latent.grid**2))
        # Half precision holds whole numbers up to 2,048; TensorRT reads no integers of 16 bits.
        self.register_buffer("codes", codes.half())
        self.register_buffer("is_composition", (torch.arange(entries) % 2).half())
        self.register_buffer("directions", torch.randn(key, model.text.embed_dim) / model.text.embed_dim**0.5)
        self.register_buffer("offset", torch.zeros(key))
        self.register_buffer("tie_break", TIE_BREAK * torch.arange(entries), persistent=False)
        mixing = hashed_signs("memory", model.noise, key) / (model.noise * key) ** 0.5
        self.register_buffer("mixing", mixing, persistent=False)

    def forward(
        self,
        text: Tensor,
        attention_mask: Tensor,
        noise: Tensor,
        training: RetrievalTraining | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the nearest pictures of a prompt.

        text (B, T, C), attention_mask (B, T), noise (B, Z) -> codes int64 (B, K, N), cosines (B, K), and
        whether the nearest picture is a composition, 1 or 0, (B,).

        After the nearest come those nearest to the rest of the query (Mallat & Zhang 1993, matching pursuit),
        so that several together may show all that the prompt names. The noise moves the query by a length of
        about `sampling.query_noise`, so that another seed may retrieve other pictures.
        """
        query = F.linear(sentence_from_text(text, attention_mask), self.directions, self.offset)
        query = F.normalize(F.normalize(query, dim=1) + self.query_noise * noise @ self.mixing, dim=1)
        scores = self._scores(query, training)
        near, found = scores.topk(1, dim=1)
        explained = near * self.keys.index_select(0, found[:, 0])
        taken = scores >= near
        half = self.count // 2
        for share, count in zip(SUBTRACTED_SHARES, (self.count - half - 1, half), strict=True):
            if count == 0:
                continue
            rest = F.normalize(query - share * explained, dim=1)
            scores = self._scores(rest, training) - taken * EXCLUDED
            nearer, which = scores.topk(count, dim=1)
            taken = taken.logical_or(scores >= nearer[:, -1:])
            near, found = torch.cat([near, nearer], 1), torch.cat([found, which], 1)
        codes = self.codes.index_select(0, found.flatten()).long().unflatten(0, found.shape)
        is_composition = self.is_composition.index_select(0, found[:, 0]).float()
        return (codes if training is None else training.insert_target(codes)), near, is_composition

    def _scores(self, query: Tensor, training: RetrievalTraining | None) -> Tensor:
        """Return the score of each entry, (B, M), for queries (B, Q)."""
        scores = query @ self.keys.T - self.tie_break
        return scores if training is None else scores - training.masked * EXCLUDED

    @torch.no_grad()
    def fill(self, styled: Tensor, bare: Tensor, codes: Tensor, is_composition: Tensor) -> None:
        """Write the entries: sentences of captions with and without their style (M, C), codes (M, N) and
        `is_composition` (M,), for as many pictures as there are entries, or fewer.

        Keys are whitened sentences: directions that all captions share would hide those that few have. A key
        is halfway between the caption with its style and without, since a prompt may name none.
        """
        mean, count = styled.mean(0), len(codes)
        directions = _whitening(styled - mean, self.keys.shape[1])
        self.directions.copy_(directions.T)
        self.offset.copy_(-mean @ directions)
        self.keys.zero_()  # an empty entry is near to no query
        keys = [F.normalize((sentences - mean) @ directions, dim=1) for sentences in (styled, bare)]
        self.keys[:count] = F.normalize(keys[0] + keys[1], dim=1)
        self.codes.zero_()
        self.codes[:count] = codes.to(self.codes.dtype)
        self.is_composition.zero_()
        self.is_composition[:count] = is_composition.to(self.is_composition.dtype)

    def similarities(self, entries: Tensor) -> Tensor:
        """Return the cosines of the keys of `entries` (B,) with all keys, (B, M)."""
        return self.keys[entries] @ self.keys.T


def entries_of(pictures: int, entries: int) -> Tensor:
    """Return the numbers of the pictures that the index holds: all, or as many as fit, evenly spread."""
    return torch.linspace(0, pictures - 1, min(pictures, entries)).round().long()


def _whitening(x: Tensor, count: int) -> Tensor:
    """Return the `count` principal directions of centered rows (N, C), as columns, with a variance of one."""
    variance, directions = torch.linalg.eigh(x.T.double() @ x.double() / len(x))
    variance, directions = variance.flip(0)[:count], directions.flip(1)[:, :count]
    found: Tensor = directions * variance.clamp_min(SMALLEST_SHARE * float(variance[0])).rsqrt()
    return found.to(x.dtype)
