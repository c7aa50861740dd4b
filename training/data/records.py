"""The record of one picture of a corpus, and its split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from textual_vision.training.data import splits

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Record:
    """The description of one picture.

    `captions[0]` is the plainest caption; `style` is the name of an art style that a prompt may contain.
    `kind` is "emoji" for one thing, "wearing" or "scene" for a composition, "photo" for captioned pictures.
    """

    key: str
    concept: str
    kind: str
    label: str
    captions: tuple[str, ...]
    style: str
    group: str
    subgroup: str
    license: str
    tone: str = ""
    split: str = ""


def with_splits(records: Iterable[Record]) -> list[Record]:
    """Every record with its split; see `splits` for the rule.

    A pair (concept, style) is held out only where the concept stays in training in another style.
    """
    records = list(records)
    concept_split = {record.concept: splits.concept_split(record.concept) for record in records}
    trained_styles: dict[str, set[str]] = {}
    for record in records:
        if not splits.is_heldout_pair(record.concept, record.style):
            trained_styles.setdefault(record.concept, set()).add(record.style)
    return [
        replace(record, split=_split(record, concept_split[record.concept], trained_styles))
        for record in records
    ]


def _split(record: Record, split: str, trained_styles: dict[str, set[str]]) -> str:
    if splits.is_heldout_composition(record.captions):
        return splits.HELDOUT_COMPOSITION
    if split != splits.TRAIN or not splits.is_heldout_pair(record.concept, record.style):
        return split
    if record.concept not in trained_styles:
        return splits.TRAIN
    return splits.pair_split(record.concept, record.style)
