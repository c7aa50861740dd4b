"""A bundle, read safely: only the files that the manifest lists, only as it describes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.manifest import (
    MANIFEST_LIMIT_BYTES,
    MANIFEST_NAME,
    FileSpec,
    Manifest,
    manifest_from_bytes,
)
from textual_vision.runtime.storage.files import AGAIN_HINT, SIGNATURE_NAME, Files
from textual_vision.runtime.storage.folder import FolderFiles
from textual_vision.runtime.storage.resources import Resource, ResourceFiles

CHUNK_BYTES = 1 << 20
ZIP_START = b"PK"
PLACE_HINT = "give the folder that `tv-export build` wrote, or a zip archive of it"

Source = str | os.PathLike[str] | bytes | Resource


class Bundle:
    """An opened bundle. Names and sizes are checked on opening, a file's digest whenever it is read."""

    def __init__(self, source: Source) -> None:
        """Open a folder, a zip archive (its path or its bytes), or a package's resource.

        Raises UsageError when it is not a bundle, IntegrityError when the manifest is wrong or the files are
        not exactly those it lists (missing, of another size, undeclared, or a link).
        """
        self._files = _files_from(source)
        sizes = self._files.sizes()
        data = _manifest_bytes(self._files, sizes)
        self.manifest = manifest_from_bytes(data)
        self.manifest_data = data
        self.digest = hashlib.sha256(data).hexdigest()  # of the manifest, which has the digests of all files
        _check_entries(sizes, self.manifest)

    @property
    def label(self) -> str:
        """Where the bundle lies, for messages."""
        return self._files.label

    @property
    def root(self) -> Path:
        """The folder or the archive's file; UsageError for a bundle in memory or among resources."""
        if self._files.path is None:
            raise UsageError(f"{self.label} is no folder", "save the bundle to a folder, and open that")
        return self._files.path

    def read(self, name: str) -> bytes:
        """The bytes of the listed file `name`; IntegrityError unless size and digest are as listed.

        The digest is computed in pieces before the file is read whole.
        """
        spec = self.manifest.files[name]
        with self._files.open(name) as file:
            before = self._check_digest(file, name, spec)
            file.seek(0)
            data = file.read(spec.bytes)
            if len(data) != spec.bytes or self._files.state(file) != before:
                raise IntegrityError(f"{name}: changed while it was read", AGAIN_HINT)
        return data

    def check_signature(self, key: Path) -> None:
        """Raise IntegrityError unless the bundle is signed by the Ed25519 key in the PEM file `key`.

        UsageError when that is no public key, BackendMissingError without the package cryptography.
        """
        from textual_vision.runtime.storage.signature import SIGNATURE_LIMIT_BYTES, check_signature

        found = None
        if SIGNATURE_NAME in self._files.sizes():
            with self._files.open(SIGNATURE_NAME) as file:
                found = file.read(SIGNATURE_LIMIT_BYTES)
        check_signature(self.manifest_data, found, key)

    def verify(self) -> None:
        """Check the digest of every file; raises IntegrityError at the first that differs."""
        for name, spec in self.manifest.files.items():
            with self._files.open(name) as file:
                self._check_digest(file, name, spec)

    def _check_digest(self, file: BinaryIO, name: str, spec: FileSpec) -> tuple[int, ...]:
        """The file's state before it was read; IntegrityError unless size and digest are those of `spec`."""
        before = self._files.state(file)
        if before[0] != spec.bytes:
            raise IntegrityError(f"{name}: {before[0]} bytes, the manifest says {spec.bytes}", AGAIN_HINT)
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        if digest.hexdigest() != spec.sha256:
            problem = f"{name}: its content is not what the manifest promises (SHA-256)"
            raise IntegrityError(problem, AGAIN_HINT)
        return before


def _files_from(source: Source) -> Files:
    if isinstance(source, bytes):
        return _archive_files(source)
    if not isinstance(source, str | os.PathLike):
        return ResourceFiles(source)
    path = Path(source)
    if path.is_dir():
        return FolderFiles(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist", PLACE_HINT)
    if not path.is_file() or not _begins_as_zip(path):
        raise UsageError(f"{path} is a file, not a bundle's folder", PLACE_HINT)
    return _archive_files(path)


def _archive_files(source: Path | bytes) -> Files:
    from textual_vision.runtime.storage.archive import ArchiveFiles

    return ArchiveFiles(source)


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(ZIP_START)) == ZIP_START


def _manifest_bytes(files: Files, sizes: Mapping[str, int]) -> bytes:
    size = sizes.get(MANIFEST_NAME)
    if size is None:
        hint = "make one by `tv-export build`"
        raise UsageError(f"{files.label} is not a bundle: it has no {MANIFEST_NAME}", hint)
    if size > MANIFEST_LIMIT_BYTES:
        raise IntegrityError(f"{MANIFEST_NAME}: larger than {MANIFEST_LIMIT_BYTES} bytes", AGAIN_HINT)
    with files.open(MANIFEST_NAME) as file:
        return file.read(MANIFEST_LIMIT_BYTES)


def _check_entries(found: Mapping[str, int], manifest: Manifest) -> None:
    for name, spec in manifest.files.items():
        if name not in found:
            raise IntegrityError(f"{name}: missing from the bundle", AGAIN_HINT)
        if found[name] != spec.bytes:
            raise IntegrityError(f"{name}: {found[name]} bytes, the manifest says {spec.bytes}", AGAIN_HINT)
    if extra := sorted(set(found) - set(manifest.files) - {MANIFEST_NAME, SIGNATURE_NAME}):
        raise IntegrityError(
            f"{extra[0]!a}: not in the manifest", "remove it: a bundle holds only what it lists"
        )
