"""A bundle in a zip archive: a file, or bytes. Nothing is unpacked to the disk."""

from __future__ import annotations

import io
import stat
import threading
import weakref
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.storage.files import AGAIN_HINT, DEPTH_LIMIT, ENTRY_LIMIT, is_litter

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1  # bit of an entry's flags
MANIFEST_NAME = "manifest.json"
MAC_FOLDER = "__MACOSX/"  # what the archiver of macOS adds
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError)


class ArchiveFiles:
    """The files of a zip archive, at its root or all of them in one folder."""

    def __init__(self, source: Path | bytes) -> None:
        """Read the archive's directory; raises IntegrityError when it is no sound archive."""
        self.path = source if isinstance(source, Path) else None
        self.label = "a zip archive in memory" if isinstance(source, bytes) else str(source)
        self._lock = threading.Lock()
        file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        try:
            self._archive = zipfile.ZipFile(file)
        except ZIP_ERRORS as error:
            file.close()
            raise IntegrityError(f"{self.label}: not a zip archive ({error})", AGAIN_HINT) from None
        weakref.finalize(self, _close, self._archive, file)
        self._entries = _entries(self._archive.infolist(), self.label)

    def sizes(self) -> dict[str, int]:
        """Every file with the size that the archive's directory says."""
        return {name: entry.file_size for name, entry in self._entries.items()}

    def open(self, name: str) -> BinaryIO:
        """The file `name`, unpacked as it is read: never more than its size in the archive's directory."""
        if name not in self._entries:
            raise IntegrityError(f"{name}: missing from the bundle", AGAIN_HINT)
        try:
            with self._lock:
                return cast(BinaryIO, _ArchiveFile(self._archive.open(self._entries[name]), name))
        except ZIP_ERRORS as error:
            raise IntegrityError(f"{name}: damaged in the archive ({error})", AGAIN_HINT) from None

    def state(self, file: BinaryIO) -> tuple[int, ...]:
        """The size; the digest shows other changes."""
        return (self._entries[cast(_ArchiveFile, file).name].file_size,)


def _close(archive: zipfile.ZipFile, file: BinaryIO) -> None:
    archive.close()
    file.close()


class _ArchiveFile:
    """An entry of an archive whose damage is an IntegrityError."""

    def __init__(self, file: object, name: str) -> None:
        self._file, self.name = cast(BinaryIO, file), name

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except ZIP_ERRORS as error:
            raise IntegrityError(f"{self.name}: damaged in the archive ({error})", AGAIN_HINT) from None

    def seek(self, place: int) -> int:
        return self._file.seek(place)

    def __enter__(self) -> _ArchiveFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _entries(found: list[zipfile.ZipInfo], label: str) -> dict[str, zipfile.ZipInfo]:
    """Files by their name in the bundle."""
    if len(found) > ENTRY_LIMIT:
        raise IntegrityError(f"{label}: more than {ENTRY_LIMIT} files", AGAIN_HINT)
    files = [
        one
        for one in found
        if not (one.is_dir() or is_litter(one.filename) or one.filename.startswith(MAC_FOLDER))
    ]
    prefix = _prefix([one.filename for one in files])
    entries: dict[str, zipfile.ZipInfo] = {}
    for one in files:
        name = one.filename.removeprefix(prefix)
        if problem := _problem(one, name) or ("twice in the archive" if name in entries else ""):
            raise IntegrityError(f"{name[:200]!a}: {problem}", "a bundle's archive has plain files only")
        entries[name] = one
    return entries


def _prefix(names: list[str]) -> str:
    """The folder that all files lie in when the manifest does, else nothing."""
    if MANIFEST_NAME in names or not names or "/" not in names[0]:
        return ""
    first = names[0].split("/", 1)[0] + "/"
    return first if all(name.startswith(first) for name in names) else ""


def _problem(entry: zipfile.ZipInfo, name: str) -> str:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "a link or not a plain file"
    if entry.flag_bits & ENCRYPTED:
        return "encrypted"
    if entry.compress_type not in METHODS:
        return "compressed by another method than deflate"
    return "folders too deep" if name.count("/") > DEPTH_LIMIT else ""
