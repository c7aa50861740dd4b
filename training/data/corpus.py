"""A corpus on disk: pictures as one memory-mapped array, and their records.

FOLDER/pictures.npy     uint8 (N, S, S, 3)
FOLDER/records.jsonl    one record a line, in the order of the pictures
FOLDER/corpus.json      schema, size, counts, packages with their digests, licenses
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.files import replace_folder
from textual_vision.training.data.records import Pixels, Record

SCHEMA = 2
PICTURES, RECORDS, SUMMARY = "pictures.npy", "records.jsonl", "corpus.json"
_AGAIN = "make the corpus again with `tv-train data`"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """`pictures` uint8 (N, S, S, 3), memory-mapped, read-only; `records[i]` describes `pictures[i]`."""

    pictures: Pixels
    records: Sequence[Record]
    summary: dict[str, Any]

    @property
    def size(self) -> int:
        """Pixels along a side."""
        return int(self.pictures.shape[1])

    def indices(self, split: str) -> list[int]:
        """Numbers of the pictures of a split."""
        return [index for index, record in enumerate(self.records) if record.split == split]


def load_corpus(folder: Path | str) -> Corpus:
    """Open a corpus without reading its pictures.

    Raise UsageError when there is none at `folder`, IntegrityError when its files contradict each other.
    """
    folder = Path(folder)
    if not (folder / SUMMARY).is_file():
        raise UsageError(
            f"no corpus at {folder}: {SUMMARY} is missing", f"run `tv-train data --output {folder}`"
        )
    try:
        summary = json.loads((folder / SUMMARY).read_text("utf-8"))
        _check_schema(folder, summary)
        lines = (folder / RECORDS).read_text("utf-8").splitlines()
        records = [_record_from_json(line) for line in lines]
        pictures = np.load(folder / PICTURES, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"the corpus at {folder} is damaged: {error}", _AGAIN) from error
    size = summary.get("size")
    if pictures.dtype != np.uint8 or pictures.shape != (len(records), size, size, 3):
        raise IntegrityError(
            f"{folder / PICTURES} is {pictures.dtype} {pictures.shape}, "
            f"expected uint8 {(len(records), size, size, 3)}",
            _AGAIN,
        )
    return Corpus(pictures=pictures, records=records, summary=summary)


def _check_schema(folder: Path, summary: Any) -> None:
    found = summary.get("schema") if isinstance(summary, dict) else None
    if found != SCHEMA:
        raise IntegrityError(f"the corpus at {folder} has schema {found}, expected {SCHEMA}", _AGAIN)


def _record_from_json(line: str) -> Record:
    fields = json.loads(line)
    return Record(**{**fields, "captions": tuple(fields["captions"])})


def json_from_record(record: Record) -> str:
    """One line of records.jsonl."""
    return json.dumps(asdict(record), ensure_ascii=False)


def npy_header(count: int, size: int) -> bytes:
    """The first 128 bytes of an .npy file, version 1.0, of uint8 (count, size, size, 3)."""
    fields = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, {size}, {size}, 3), }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + fields.ljust(117).encode() + b"\n"


def refuse_foreign_folder(folder: Path) -> None:
    """Raise UsageError when `folder` has files that writing a corpus would delete."""
    if not folder.exists():
        return
    foreign = not folder.is_dir() or {item.name for item in folder.iterdir()} - {PICTURES, RECORDS, SUMMARY}
    if foreign:
        raise UsageError(
            f"{folder} exists and has files that are not of a corpus",
            "choose another folder, or empty this one",
        )


@contextmanager
def fresh_corpus(folder: Path) -> Iterator[Path]:
    """A context with an empty folder, which replaces `folder` at the end, or is deleted on an error.

    Raise UsageError when `folder` has other files.
    """
    refuse_foreign_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        yield scratch
        scratch.chmod(0o755)  # only its owner may read a temporary folder
        replace_folder(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
