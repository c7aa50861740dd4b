"""Phase 0: the text codes, fitted by k-means to the token states of the captions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from textual_vision.runtime.errors import UsageError
from textual_vision.training.int8_grid import round_to_int8_grid
from textual_vision.training.models.caption_encoder import ids_from_captions
from textual_vision.training.models.text_encoder import TextEncoder

CHUNK = 512  # captions encoded at once
DUPLICATE_SHARE = 0.01  # of the mean squared error; closer centers are duplicates
OUT_OF_REACH = 4.0  # each number of a retired center; states stay below about 1.5, and int8 can hold it


@torch.no_grad()
def token_states(encoder: TextEncoder, tokenizer: Tokenizer, captions: Sequence[str]) -> Tensor:
    """The states of every token of the captions, (N, hidden)."""
    found = []
    ordered = sorted(captions, key=len)
    for start in range(0, len(ordered), CHUNK):
        ids, mask = ids_from_captions(tokenizer, ordered[start : start + CHUNK])
        found.append(encoder.encoder(ids, mask)[mask.bool()])
    return torch.cat(found)


@torch.no_grad()
def fit_text_codes(encoder: TextEncoder, states: Tensor, *, iterations: int, seed: int) -> float:
    """Fit the centroids by k-means in each sub-space of `states` (N, hidden); return the mean squared error.

    The embedding rows of the text codes start as copies of the centroids. A centroid without points moves to
    a state far from its centroid. Raise UsageError with fewer states than codes.
    """
    generator = torch.Generator().manual_seed(seed)
    quantizer = encoder.quantizer
    parts = states.unflatten(1, (quantizer.groups, -1)).transpose(0, 1).contiguous()  # (G, N, hidden / G)
    codes = quantizer.centroids.shape[1]
    if parts.shape[1] < codes:
        raise UsageError(
            f"{parts.shape[1]} words in all captions can't fill {codes} text codes",
            "use more captions, or a config with fewer model.text.codebook_size",
        )
    error = 0.0
    for group, points in enumerate(parts):
        centers = points[torch.randperm(len(points), generator=generator)[:codes]].clone()
        for iteration in range(iterations):
            worst, nearest = _assign(points, centers)
            sums = torch.zeros_like(centers).index_add_(0, nearest, points)
            counts = torch.bincount(nearest, minlength=codes)
            alive = counts > 0
            centers[alive] = sums[alive] / counts[alive, None]
            empty = int((~alive).sum())
            if empty and iteration < iterations - 1:
                # Sampled, not the farthest: those may be many copies of one frequent state.
                drawn = torch.multinomial(worst.clamp_min(1e-9), empty, generator=generator)
                centers[~alive] = points[drawn]
        left = float(_assign(points, centers)[0].mean())
        quantizer.centroids[group] = round_to_int8_grid(
            merge_duplicate_centroids(centers, DUPLICATE_SHARE * left)
        )
        error += float(_assign(points, quantizer.centroids[group])[0].mean()) / len(parts)
    encoder.words.rows.copy_(quantizer.centroids)
    return error


def merge_duplicate_centroids(centers: Tensor, closer_than: float) -> Tensor:
    """Centers (K, D) with all but the first of nearly equal ones moved out of reach.

    `closer_than` is a squared distance. Rounding would choose between two nearer ones, so that each precision
    could give another code.
    """
    distance = torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist").square()
    earlier_twin = (distance < closer_than).tril(-1).any(1)
    return torch.where(earlier_twin[:, None], torch.full_like(centers, OUT_OF_REACH), centers)


def _assign(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest center, and which it is, both (N,)."""
    distance, nearest = [], []
    for part in points.split(16384):
        squares = centers.square().sum(1) - 2 * part @ centers.T
        best = squares.min(1)
        distance.append(best.values + part.square().sum(1))
        nearest.append(best.indices)
    return torch.cat(distance), torch.cat(nearest)
