"""Write a corpus to disk from captioned pictures, as any reader of `picture_files` yields them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from textual_vision.runtime.errors import IntegrityError
from textual_vision.training.data.corpus import (
    PICTURES,
    RECORDS,
    SCHEMA,
    SUMMARY,
    fresh_corpus,
    json_from_record,
    npy_header,
)
from textual_vision.training.data.picture_files import DamageLog, Entry, samples
from textual_vision.training.data.records import Record
from textual_vision.training.data.splits import TRAIN

KIND = "photo"


def build_captioned_corpus(
    folder: Path,
    entries: Iterable[Entry],
    *,
    size: int,
    source: str,
    threads: int = 1,
    damage: DamageLog | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Decode every entry and write the corpus to `folder`, whole or not at all; return its summary.

    Pictures are written one by one, so memory does not grow with their number. Raise IntegrityError when too
    many are damaged or none is left, UsageError when `folder` has other files.
    """
    damage = damage or DamageLog()
    with fresh_corpus(folder) as scratch:
        splits = _write_pictures(scratch, entries, size, threads, damage, progress)
        damage.check()
        if not splits:
            raise IntegrityError(f"{source} has no undamaged captioned picture", "check its layout")
        summary = {
            "schema": SCHEMA,
            "size": size,
            "pictures": sum(splits.values()),
            "splits": dict(splits),
            "source": source,
            "damaged": damage.damaged,
            "damaged_names": dict(damage.names),
            "credits": [],
        }
        (scratch / SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return summary


def _write_pictures(
    scratch: Path,
    entries: Iterable[Entry],
    size: int,
    threads: int,
    damage: DamageLog,
    progress: Callable[[int], None],
) -> Counter[str]:
    splits: Counter[str] = Counter()
    with (
        (scratch / PICTURES).open("wb") as pictures,
        (scratch / RECORDS).open("w", encoding="utf-8") as lines,
    ):
        pictures.write(npy_header(0, size))
        for entry, picture in samples(entries, size, damage, threads=threads):
            pictures.write(np.ascontiguousarray(picture).data)
            record = _record(entry)
            lines.write(json_from_record(record) + "\n")
            splits[record.split] += 1
            progress(damage.seen)
        # The number of undamaged pictures is known only now; the length of the header does not depend on it.
        pictures.seek(0)
        pictures.write(npy_header(sum(splits.values()), size))
    return splits


def _record(entry: Entry) -> Record:
    return Record(
        key=entry.key,
        concept=entry.key,
        kind=KIND,
        label=entry.captions[0],
        captions=entry.captions,
        style="",
        group="",
        subgroup="",
        license=entry.license,
        split=entry.split or TRAIN,
    )
