"""Retrieved pictures as conditions of the latent network, and the head that copies codes from them.

Each patch is conditioned on the retrieved codes at its place. Each choice of a code is conditioned on the
similarity of the codes chosen so far to each retrieved picture. So a picture that began like a retrieved one
can continue like it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textual_vision.training.config import ModelConfig, SamplingConfig

FEATURES = 64
FIRST_SIMILARITY_SCALE = 6.0


@dataclass(frozen=True, kw_only=True)
class CopyControl:
    """The strength of copying, by whether the nearest picture is a composition; see `SamplingConfig`."""

    strength: Tensor  # (B, ...): multiplier of the copy head
    nearest_bonus: Tensor  # (B, ...): nats added to the score of the nearest picture
    guidance_scale: Tensor  # (B, ...)

    def map(self, change: Callable[[Tensor], Tensor]) -> CopyControl:
        """Return the control with all three tensors changed."""
        return CopyControl(
            strength=change(self.strength),
            nearest_bonus=change(self.nearest_bonus),
            guidance_scale=change(self.guidance_scale),
        )


@dataclass(frozen=True, kw_only=True)
class RetrievedPictures:
    """The K retrieved pictures of each prompt, as the network is conditioned on them."""

    vectors: Tensor  # (B, N, K, D): codebook vectors of their codes, by rank
    features: Tensor  # (B, P, W): added to the initial state of each patch
    is_composition: Tensor  # (B,): 1 where the nearest picture is a composition, else 0


class RetrievedEncoder(nn.Module):
    """Features of each patch from the retrieved codes there and one code around it."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        latent = model.latent
        self.grid = latent.grid
        self.conv = nn.Conv2d(
            model.codebook.codebook_dim, FEATURES, latent.patch + 2, stride=latent.patch, padding=1
        )
        self.projection = nn.Linear(model.retrieval.count * FEATURES, latent.embed_dim)
        self.similarity = nn.Linear(model.retrieval.count, latent.embed_dim, bias=False)

    def forward(self, vectors: Tensor, cosines: Tensor) -> Tensor:
        """Codebook vectors (B, K, N, D), row-major, and cosines with the query (B, K) -> (B, P, W)."""
        count = vectors.shape[1]
        grids = vectors.flatten(0, 1).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        features = F.gelu(self.conv(grids)).flatten(2)  # (B * K, F, P)
        by_patch = features.reshape(-1, count * features.shape[1], features.shape[2]).transpose(1, 2)
        found: Tensor = self.projection(by_patch) + self.similarity(cosines).unsqueeze(1)
        return found


@dataclass(frozen=True, kw_only=True)
class CopyInputs:
    """The inputs of the copy head for one code."""

    vectors: Tensor  # (..., K, D): of the retrieved codes at its place
    neighbor_similarity: Tensor  # (..., K): mean cosine of its neighbors, 0 for one that is not chosen
    mean_similarity: Tensor  # (..., K): mean cosine of all codes chosen so far
    control: CopyControl | None = None  # (..., 1) each


class CopyHead(nn.Module):
    """A part of a raw latent as a mean of the retrieved codebook vectors, weighted by a softmax."""

    is_nearest: Tensor

    def __init__(self, hidden: int, count: int) -> None:
        super().__init__()
        # A product, since OpenVINO pads a number in INT8 graphs as if it were quantized.
        self.register_buffer("is_nearest", torch.eye(count)[0], persistent=False)
        self.score = nn.Linear(hidden, count)
        self.strength = nn.Linear(hidden, 1)
        # A picture that all codes so far equal is most likely copied on.
        self.similarity_scale = nn.Parameter(torch.full((2,), FIRST_SIMILARITY_SCALE))
        nn.init.constant_(self.strength.bias, 1.0)

    def forward(self, x: Tensor, inputs: CopyInputs) -> Tensor:
        """States (..., H) -> (..., D)."""
        scale = self.similarity_scale
        score = self.score(x) + scale[0] * inputs.neighbor_similarity + scale[1] * inputs.mean_similarity
        strength = self.strength(x)
        if inputs.control is not None:
            score = score + inputs.control.nearest_bonus * self.is_nearest
            strength = inputs.control.strength * strength
        share = torch.softmax(score, -1) * strength
        copied: Tensor = (share.unsqueeze(-1) * inputs.vectors).sum(-2)
        return copied


def copy_control(is_composition: Tensor, config: SamplingConfig) -> CopyControl | None:
    """Return the control for `is_composition` (B,), (B, 1, 1, 1) each; None where all is as trained."""
    multipliers = (config.copy_strength, config.copy_strength_composition, config.guidance_scale)
    if all(multiplier == 1 for multiplier in multipliers) and config.nearest_bonus == 0:
        return None
    composed = is_composition[:, None, None, None]
    return CopyControl(
        strength=config.copy_strength + (config.copy_strength_composition - config.copy_strength) * composed,
        nearest_bonus=composed * -config.nearest_bonus + config.nearest_bonus,
        guidance_scale=1 + (config.guidance_scale - 1) * composed,
    )


def code_features(vectors: Tensor, retrieved: Tensor | None) -> Tensor:
    """Return chosen codebook vectors (B, n, D) with their cosines with the retrieved ones at their places.

    `retrieved` (B, n, K, D) -> (B, n, D + K).
    """
    if retrieved is None:
        return vectors
    return torch.cat([vectors, (retrieved * vectors.unsqueeze(2)).sum(3)], 2)


def copy_inputs(retrieved: Tensor, neighbors: Tensor, mean: Tensor) -> CopyInputs:
    """Return the copy head's inputs for n codes.

    `retrieved` (B, n, K, D), features of their E neighbors (B, n, E * (D + K)), and the mean features of all
    codes chosen before (B, n, D + K).
    """
    count, width = retrieved.shape[2:]
    cosines = neighbors.unflatten(2, (-1, width + count))[..., width:]
    return CopyInputs(
        vectors=retrieved, neighbor_similarity=cosines.mean(2), mean_similarity=mean[..., width:]
    )


def head_inputs(neighbors: Tensor, inputs: CopyInputs | None) -> Tensor:
    """Return the inputs of the head besides a patch's state: features of neighbors and retrieved vectors."""
    if inputs is None:
        return neighbors
    return torch.cat([neighbors, inputs.vectors.flatten(2), inputs.mean_similarity], 2)
