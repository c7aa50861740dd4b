"""A folder of pictures with their captions: a .txt for each, or one captions.csv or captions.jsonl.

captions.csv      header with `file` (or file_name, image, path) and `caption` (or text); a file may
                  have several rows
captions.jsonl    objects with the same names; `caption` may be a list
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.data.picture_files import (
    PICTURE_SUFFIXES,
    Entry,
    caption_from_text,
    require_folder,
)
from textual_vision.training.data.splits import concept_split

FILE_COLUMNS = ("file", "file_name", "filename", "image", "path")
CAPTION_COLUMNS = ("caption", "captions", "text")
TABLES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
_WAY_OUT = (
    "put a .txt with one caption per line for each picture, or write captions.csv with the columns "
    "file and caption"
)


def folder_entries(folder: Path) -> Iterator[Entry]:
    """Every captioned picture under `folder`, sorted by path; splits by the hash of the path.

    Pictures whose caption is missing or damaged are damaged entries. Raise UsageError when the folder has no
    captioned picture or several tables, IntegrityError when its table cannot be read.
    """
    require_folder(folder, "pictures")
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        raise UsageError(f"{folder} has {tables[0].name} and {tables[1].name}", "keep one of them")
    entries = _from_table(tables[0], folder) if tables else _from_text_files(folder)
    empty = True
    for entry in entries:
        empty = False
        yield entry
    if empty:
        raise UsageError(f"{folder} has no captioned picture", _WAY_OUT)


def _from_text_files(folder: Path) -> Iterator[Entry]:
    for picture in sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES):
        key = picture.relative_to(folder).as_posix()
        beside = picture.with_suffix(".txt")
        try:
            lines = beside.read_text("utf-8").splitlines()
        except FileNotFoundError:
            yield Entry(key=key, captions=(), damage=f"no caption: {beside.name} is missing")
            continue
        except (OSError, ValueError) as error:
            yield Entry(key=key, captions=(), damage=f"{beside.name}: {error}")
            continue
        captions = tuple(filter(None, map(caption_from_text, lines)))
        yield Entry(key=key, captions=captions, path=picture, split=concept_split(key))


def _from_table(table: Path, folder: Path) -> Iterator[Entry]:
    captions: dict[str, tuple[str, ...]] = {}
    try:
        rows = _csv_rows(table) if table.suffix == ".csv" else _jsonl_rows(table)
        for number, row in enumerate(rows, 1):
            name, found = _named(row)
            captions[name or f"{table.name} row {number}"] = (*captions.get(name, ()), *found)
    except (ValueError, csv.Error) as error:
        raise IntegrityError(f"{table} cannot be read: {error}", _WAY_OUT) from error
    for name in sorted(captions):
        # PurePosixPath: a table must not refer to files outside its folder.
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            yield Entry(key=name, captions=(), damage="the path leads out of the folder")
            continue
        yield Entry(key=name, captions=captions[name], path=folder / name, split=concept_split(name))


def _csv_rows(table: Path) -> Iterator[Mapping[str, object]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        columns = set(reader.fieldnames or ())
        if not columns & set(FILE_COLUMNS) or not columns & set(CAPTION_COLUMNS):
            raise ValueError(f"columns {sorted(columns)}, expected `file` and `caption`")
        yield from reader


def _jsonl_rows(table: Path) -> Iterator[Mapping[str, object]]:
    with table.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not an object")
            yield row


def _named(row: Mapping[str, object]) -> tuple[str, tuple[str, ...]]:
    name = next((row[column] for column in FILE_COLUMNS if row.get(column)), "")
    text = next((row[column] for column in CAPTION_COLUMNS if row.get(column)), "")
    texts: Iterable[object] = text if isinstance(text, list) else (text,)
    return str(name), tuple(filter(None, map(caption_from_text, texts)))
