"""Entries of the cache: folders of files with their digests, written whole or not at all, bounded in size."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.files import sha256_of_file
from textual_vision.runtime.graph_cache.private_folder import private_cache_folder
from textual_vision.runtime.manifest import FileSpec
from textual_vision.runtime.strict_json import dataclass_from_json, json_from_bytes, json_from_dataclass

RECORD_NAME = "entry.json"
RECORD_LIMIT_BYTES = 1 << 16
SCHEMA_VERSION = 1
LIMIT_BYTES = 1 << 30  # of all entries; the least recently used go first
UNFINISHED = ".part-"  # the beginning of a folder's name while it is written
DIGEST_THREADS = 2  # the two largest files of three have nearly all bytes
ABANDONED_SECONDS = 3600.0

LOG = logging.getLogger("textual_vision")


@dataclass(frozen=True, kw_only=True)
class EntryRecord:
    """entry.json: the files of an entry by name."""

    schema_version: int
    files: dict[str, FileSpec]


class GraphCache:
    """The user's cache of optimized graphs. Entries are folders, found by a key."""

    def __init__(self) -> None:
        """Open the folder; UsageError where the user has none that is private."""
        self.folder = private_cache_folder()

    def find(self, key: str) -> Path | None:
        """The entry's folder when every file has the digest that was recorded; a damaged entry is removed."""
        entry = self.folder / key
        try:
            data = _bytes_of_record(entry / RECORD_NAME)
        except FileNotFoundError:
            return None
        except OSError as error:
            LOG.debug("prepared graphs are not readable: %s", error)
            return None
        try:
            _check_files(entry, data)
        except (OSError, IntegrityError) as error:
            LOG.debug("prepared graphs are damaged and are made again: %s", error)
            self.remove(key)
            return None
        except RuntimeError as error:  # no thread can be started: the limit of the user's processes
            LOG.debug("prepared graphs are not checked: %s", error)
            return None
        with suppress(OSError):  # a folder that is read-only keeps its times
            os.utime(entry / RECORD_NAME)
        return entry

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """A new folder to write an entry's files to; it becomes the entry when the block ends.

        Another process's entry of the same key stays. Raises OSError, and leaves nothing, where the folder
        cannot be written.
        """
        fresh = self.folder / f"{UNFINISHED}{os.urandom(8).hex()}"
        fresh.mkdir(mode=0o700)
        try:
            yield fresh
            size = _write_record(fresh)
            if size > LIMIT_BYTES:
                LOG.debug("prepared graphs of %d bytes are not kept: the limit is %d", size, LIMIT_BYTES)
                return
            with suppress(OSError):  # another process was first
                fresh.rename(self.folder / key)
            self._trim()
        finally:
            _delete(fresh)

    def remove(self, key: str) -> None:
        """Delete an entry, as far as the folder can be written."""
        _delete(self.folder / key)

    def _trim(self) -> None:
        """Remove the least recently used entries beyond the limit, and what killed processes left."""
        entries = []
        for one in self.folder.iterdir():
            with suppress(OSError):
                if not one.name.startswith(UNFINISHED):
                    entries.append(((one / RECORD_NAME).stat().st_mtime_ns, one))
                elif one.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                    _delete(one)
        total = 0
        for _, one in sorted(entries, reverse=True):
            with suppress(OSError):
                total += size_of(one)
            if total > LIMIT_BYTES:
                _delete(one)


def size_of(entry: Path) -> int:
    """The bytes of an entry's files."""
    return sum(file.stat().st_size for file in entry.iterdir())


def key_from(about: dict[str, str]) -> str:
    """The key of an entry: a digest of all that its files depend on."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _delete(folder: Path) -> None:
    """Delete a folder, as far as it can be."""
    import shutil  # not at the top: a start that finds its entry does without

    shutil.rmtree(folder, ignore_errors=True)


def _write_record(folder: Path) -> int:
    """Write entry.json; returns the size of all files."""
    files = {
        file.name: FileSpec(sha256=sha256_of_file(file), bytes=file.stat().st_size)
        for file in sorted(folder.iterdir())
    }
    record = EntryRecord(schema_version=SCHEMA_VERSION, files=files)
    (folder / RECORD_NAME).write_text(json.dumps(json_from_dataclass(record)), "utf-8")
    return sum(spec.bytes for spec in files.values())


def _bytes_of_record(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(RECORD_LIMIT_BYTES)


def _check_files(entry: Path, data: bytes) -> None:
    record = dataclass_from_json(EntryRecord, json_from_bytes(data, RECORD_NAME), "entry")
    if {file.name for file in entry.iterdir()} != {RECORD_NAME, *record.files}:
        raise IntegrityError("the entry has other files than it lists")
    for name, spec in record.files.items():
        file = entry / name
        if file.is_symlink() or file.stat().st_size != spec.bytes:
            raise IntegrityError(f"{name} is not as it was written")
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(DIGEST_THREADS) as threads:
        digests = threads.map(sha256_of_file, [entry / name for name in record.files])
        for (name, spec), digest in zip(record.files.items(), digests, strict=True):
            if digest != spec.sha256:
                raise IntegrityError(f"{name} is not as it was written")
