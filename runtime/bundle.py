"""A bundle's folder, read safely: only the files that the manifest lists, only as it describes them."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
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

AGAIN_HINT = "copy the bundle again, or export it again"
ENTRY_LIMIT = 100_000
CHUNK_BYTES = 1 << 20
# Files that macOS and Windows put into any folder that is looked at.
LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")


class Bundle:
    """An opened bundle. Names and sizes are checked on opening, a file's digest whenever it is read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the folder `path`.

        Raises UsageError when it is not a bundle's folder, IntegrityError when the manifest is wrong or the
        files are not exactly those it lists (missing, of another size, undeclared, or a link).
        """
        self.root = Path(path)
        data = _manifest_bytes(self.root)
        self.manifest = manifest_from_bytes(data)
        self.digest = hashlib.sha256(data).hexdigest()  # of the manifest, which has the digests of all files
        _check_entries(self.root, self.manifest)

    def read(self, name: str) -> bytes:
        """The bytes of the listed file `name`; IntegrityError unless size and digest are as listed.

        The digest is computed in pieces before the file is read whole.
        """
        spec = self.manifest.files[name]
        with _opened(self.root, name) as file:
            before = _check_digest(file, name, spec)
            file.seek(0)
            data = file.read(spec.bytes)
            if len(data) != spec.bytes or _state(file) != before:
                raise IntegrityError(f"{name}: changed while it was read", AGAIN_HINT)
        return data

    def verify(self) -> None:
        """Check the digest of every file; raises IntegrityError at the first that differs."""
        for name, spec in self.manifest.files.items():
            with _opened(self.root, name) as file:
                _check_digest(file, name, spec)


def _manifest_bytes(root: Path) -> bytes:
    path = root / MANIFEST_NAME
    if not root.is_dir():
        problem = "is a file, not a bundle's folder" if root.exists() else "does not exist"
        raise UsageError(f"{root} {problem}", "give the folder that `tv-export build` wrote")
    if path.is_symlink():
        raise IntegrityError(f"{MANIFEST_NAME}: a link; a bundle has none", AGAIN_HINT)
    if not path.is_file():
        raise UsageError(
            f"{root} is not a bundle: it has no {MANIFEST_NAME}", "make one by `tv-export build`"
        )
    if path.stat().st_size > MANIFEST_LIMIT_BYTES:
        raise IntegrityError(f"{MANIFEST_NAME}: larger than {MANIFEST_LIMIT_BYTES} bytes", AGAIN_HINT)
    return path.read_bytes()


def _check_entries(root: Path, manifest: Manifest) -> None:
    found = _sizes(root)
    for name, spec in manifest.files.items():
        if name not in found:
            raise IntegrityError(f"{name}: missing from the bundle", AGAIN_HINT)
        if found[name] != spec.bytes:
            raise IntegrityError(f"{name}: {found[name]} bytes, the manifest says {spec.bytes}", AGAIN_HINT)
    if extra := sorted(set(found) - set(manifest.files) - {MANIFEST_NAME}):
        raise IntegrityError(
            f"{extra[0]!a}: not in the manifest", "remove it: a bundle holds only what it lists"
        )


def _sizes(root: Path) -> dict[str, int]:
    """Every file below `root` with its size; links and anything that is not a plain file are refused."""
    found: dict[str, int] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    folders.append(f"{name}/")
                elif stat.S_ISREG(mode) and _is_litter(entry.name):
                    continue
                elif stat.S_ISREG(mode):
                    found[name] = entry.stat(follow_symlinks=False).st_size
                else:
                    raise IntegrityError(
                        f"{name!a}: a link or not a plain file", "a bundle has plain files only"
                    )
                if len(found) + len(folders) > ENTRY_LIMIT:
                    raise IntegrityError(f"more than {ENTRY_LIMIT} files", AGAIN_HINT)
    return found


def _is_litter(name: str) -> bool:
    """Whether it is a file that the system's file manager puts into folders."""
    return name in LITTER or name.startswith("._")


def _opened(root: Path, name: str) -> BinaryIO:
    # The folder was checked on opening; the flags cover a link or a pipe put in place of the file since then.
    flags = os.O_RDONLY
    for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, flag, 0)
    try:
        return os.fdopen(os.open(root / name, flags), "rb")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOENT):
            raise IntegrityError(
                f"{name}: changed while it was in use ({error.strerror})", AGAIN_HINT
            ) from None
        raise


def _check_digest(file: BinaryIO, name: str, spec: FileSpec) -> tuple[int, int]:
    """Returns the file's size and time; raises IntegrityError unless size and digest are those of `spec`."""
    before = _state(file)
    if before[0] != spec.bytes:
        raise IntegrityError(f"{name}: {before[0]} bytes, the manifest says {spec.bytes}", AGAIN_HINT)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    if digest.hexdigest() != spec.sha256:
        raise IntegrityError(f"{name}: its content is not what the manifest promises (SHA-256)", AGAIN_HINT)
    return before


def _state(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns
