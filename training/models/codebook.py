"""The image codebook: unit rows, nearest by cosine, learned by moving averages.

van den Oord et al. 2017 (VQ-VAE, appendix A.1 for the moving averages); cosine similarity as in
Yu et al. 2022 (ViT-VQGAN). Full usage is no goal: two rows for the same appearance make codes harder to
predict. So few dead rows are replaced, and the predictability of codes is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import CodebookConfig


class Codebook(nn.Module):
    """`codebook_size` unit rows of `codebook_dim` numbers."""

    rows: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        rows = F.normalize(torch.randn(config.codebook_size, config.codebook_dim), dim=1)
        self.register_buffer("rows", rows)
        self.register_buffer("counts", torch.ones(config.codebook_size))
        self.register_buffer("sums", rows.clone())

    def similarity(self, latents: Tensor) -> Tensor:
        """Latents (..., D) of any length -> dot products (..., K), the greatest with the nearest row."""
        return latents @ self.rows.T

    def nearest(self, latents: Tensor) -> Tensor:
        """Latents (..., D) -> codes int64 (...)."""
        return self.similarity(latents).argmax(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes int64 (B, h, w) -> rows (B, D, h, w)."""
        return F.embedding(codes, self.rows).permute(0, 3, 1, 2)

    @torch.no_grad()
    def update(self, latents: Tensor, codes: Tensor) -> None:
        """Move rows towards the mean of the unit latents (N, D) that chose them (N,)."""
        one_hot = F.one_hot(codes, self.config.codebook_size).to(latents.dtype)
        counts, sums = one_hot.sum(0), one_hot.T @ latents
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
            torch.distributed.all_reduce(sums)
        self.counts.lerp_(counts, 1 - self.config.decay)
        self.sums.lerp_(sums, 1 - self.config.decay)
        self.rows.copy_(F.normalize(self.sums, dim=1))

    @torch.no_grad()
    def initialize(self, latents: Tensor, generator: torch.Generator) -> None:
        """Set the rows to randomly chosen unit latents (N, D), so that every row is used at first."""
        chosen = torch.randperm(len(latents), generator=generator)[: self.config.codebook_size]
        self._place(torch.arange(len(chosen)), latents[chosen])

    @torch.no_grad()
    def replace_dead_rows(self, latents: Tensor, generator: torch.Generator) -> int:
        """Replace unused rows by latents (N, D) far from their nearest rows; return the number replaced."""
        dead = torch.nonzero(self.counts < self.config.threshold_ema_dead_code * self.counts.mean()).squeeze(
            1
        )
        if len(dead) == 0:
            return 0
        badness = 1 - self.similarity(latents).amax(1)
        # Sampled, not the farthest: those are the pixels of one odd picture.
        chosen = torch.multinomial(badness.clamp_min(1e-6).cpu(), len(dead), generator=generator)
        self._place(dead, latents[chosen])
        return len(dead)

    def _place(self, index: Tensor, latents: Tensor) -> None:
        self.rows[index] = latents
        self.counts[index] = self.counts.mean().clamp_min(1e-3)
        self.sums[index] = latents * self.counts[index, None]


@dataclass(frozen=True, kw_only=True)
class CodebookUsage:
    """Usage of a codebook by a corpus; entropies in bits."""

    used: int  # rows chosen at least once
    perplexity: float  # 2 ** entropy of the rows
    entropy: float
    entropy_by_position: float  # mean over grid cells: bits that a prediction must supply
    white_codes: int  # distinct codes of a plain white picture; 1 is best
    neighbor_cosine: float  # mean over rows of the cosine to their nearest other row


def codebook_usage(book: Codebook, codes: Tensor, white: Tensor) -> CodebookUsage:
    """Usage from codes int64 (N, h, w) of many pictures and the codes of a white picture, (h, w)."""
    rows = book.config.codebook_size
    flat = codes.flatten(1)
    counts = torch.bincount(flat.flatten(), minlength=rows).double()
    by_position = torch.stack([torch.bincount(cell, minlength=rows).double() for cell in flat.T])
    cosine = (book.rows @ book.rows.T).fill_diagonal_(-1).amax(1)
    entropy = float(_entropy(counts))
    return CodebookUsage(
        used=int((counts > 0).sum()),
        perplexity=2**entropy,
        entropy=entropy,
        entropy_by_position=float(_entropy(by_position).mean()),
        white_codes=len(white.unique()),
        neighbor_cosine=float(cosine.mean()),
    )


def _entropy(counts: Tensor) -> Tensor:
    share = counts / counts.sum(-1, keepdim=True)
    return -(share * share.clamp_min(1e-30).log2()).sum(-1)
