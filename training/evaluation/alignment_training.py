"""Training of the alignment model on the real pairs of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textual_vision.runtime.progress import ProgressCallback
from textual_vision.training.data.corpus import Corpus
from textual_vision.training.data.corpus_source import CorpusSource
from textual_vision.training.data.splits import SPLITS, TRAIN
from textual_vision.training.evaluation.alignment import (
    Pairs,
    Sentences,
    recall_at_1,
    save_towers,
    train_towers,
)
from textual_vision.training.evaluation.features import DETAIL, EfficientNetFeatures

PHRASINGS = 4  # captions of each picture; more hardly help
CHUNK = 256  # pictures at once


def build_alignment(corpus: Corpus, out: Path, *, on_progress: ProgressCallback) -> dict[str, Any]:
    """Train on the training split, measure on the others and write to `out`; return the scores."""
    source = CorpusSource(corpus, SPLITS, min(DETAIL, corpus.size))
    on_progress(f"looking at {len(source):,} pictures")
    features = _features(source)
    row_from_caption: dict[str, int] = {}
    rows = [
        [row_from_caption.setdefault(caption, len(row_from_caption)) for caption in _phrasings(source, index)]
        for index in range(len(source))
    ]
    on_progress(f"reading {len(row_from_caption):,} captions")
    sentences = Sentences().vectors(list(row_from_caption))
    train = [index for index, (_, record) in enumerate(source.records) if record.split == TRAIN]
    on_progress(f"training the towers on {len(train):,} pairs")
    towers = train_towers(
        Pairs(
            features=features[train],
            sentences=sentences,
            rows=[rows[index] for index in train],
            concepts=[source.records[index][1].concept for index in train],
        )
    )
    about: dict[str, Any] = {
        "features": "EfficientNet-Lite2",
        "sentences": "all-MiniLM-L6-v2",
        "pairs": len(train),
    }
    held = [index for index in range(len(source)) if source.records[index][1].split != TRAIN]
    if held:
        shown = sorted({rows[index][0] for index in held})
        own = [shown.index(rows[index][0]) for index in held]
        about["real_held_out"] = {
            "pictures": len(held),
            "labels": len(shown),
            "recall_at_1": round(recall_at_1(towers, features[held], sentences[shown], own), 4),
        }
    save_towers(towers, about, out)
    return about


def _features(source: CorpusSource) -> NDArray[np.float32]:
    extractor, found = EfficientNetFeatures(), []
    for start in range(0, len(source), CHUNK):
        part = range(start, min(start + CHUNK, len(source)))
        found.append(extractor.extract(np.stack([source.picture(index) for index in part])).pooled)
    return np.concatenate(found)


def _phrasings(source: CorpusSource, index: int) -> Sequence[str]:
    """Captions of a picture, the plainest first."""
    return source.captions(index)[:PHRASINGS]
