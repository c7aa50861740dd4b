"""Changes to retrieval during training: an index that contains the picture itself would be copied."""

from __future__ import annotations

import torch
from torch import Tensor

from textual_vision.training.data.batches import StepRandom, TrainingBatch
from textual_vision.training.models.latent.retrieval_index import (
    RetrievalIndex,
    RetrievalTraining,
    entries_of,
)

MASK_SIMILAR_SHARE = 0.3  # share of the pictures that learn without the entries most similar to theirs
MASK_CONCEPT_SHARE = 0.6  # share of the compositions that learn without any other of their concept
INSERT_TARGET_SHARE = 0.5  # share of the rest whose own codes replace those of a retrieved picture
SIMILARITY_THRESHOLD = 0.4  # least cosine of two captions that count as similar


def retrieval_augmentation(
    index: RetrievalIndex, batch: TrainingBatch, codes: Tensor, random: StepRandom
) -> RetrievalTraining:
    """The masked entries and inserted targets of a batch whose pictures have `codes`, int64 (B, h, w).

    The own entry of a picture is always masked. For `MASK_SIMILAR_SHARE` of the pictures similar entries are
    masked too, since a prompt may be similar to nothing in the index. For `MASK_CONCEPT_SHARE` of the
    compositions all of their concept are masked, so that the parts come from other compositions. For
    `INSERT_TARGET_SHARE` of the rest the picture itself is inserted, more often at a near rank, so that the
    network learns to copy a retrieved picture as a whole.
    """
    device = index.keys.device
    entries = entries_of(batch.corpus, len(index.keys)).to(device)
    own = torch.tensor(batch.indices, device=device)[:, None] == entries
    rows, places = torch.nonzero(own).unbind(1)
    masked = torch.zeros(len(batch.indices), len(index.keys), dtype=torch.bool, device=device)
    masked[rows, places] = True
    similar = random.uniform(len(masked)).to(device) < MASK_SIMILAR_SHARE
    masked = _mask_similar(index, masked, rows, places, similar, random)
    concept = _same_concept(batch, entries)
    apart = (concept.sum(1) > 1) & (random.uniform(len(masked)).to(device) < MASK_CONCEPT_SHARE)
    masked[:, : len(entries)] |= concept & apart[:, None]
    chance = random.uniform(len(masked), 2).to(device)
    slot = (index.count * chance[:, 0].square()).long()
    slot = slot.where((chance[:, 1] < INSERT_TARGET_SHARE) & ~similar & ~apart, index.count)
    return RetrievalTraining(masked=masked, codes=codes.flatten(1), slot=slot)


def _mask_similar(
    index: RetrievalIndex, masked: Tensor, rows: Tensor, places: Tensor, chosen: Tensor, random: StepRandom
) -> Tensor:
    """Mask entries above a random similarity: the nearest entry left is then similar or a stranger."""
    bound = SIMILARITY_THRESHOLD + (1 - SIMILARITY_THRESHOLD) * random.uniform(len(masked), 1).to(rows.device)
    similar = index.similarities(places) > bound[rows]
    return masked.index_put((rows,), masked[rows] | (similar & chosen[rows, None]))


def _same_concept(batch: TrainingBatch, entries: Tensor) -> Tensor:
    """Whether each entry is of the same concept as each picture: bool (B, entries)."""
    pictures = (torch.tensor(one, dtype=torch.int64, device=entries.device) for one in batch.same_concept)
    return torch.stack([torch.isin(entries, one) for one in pictures])
