"""A bundle's folder, read safely: only the files that the manifest lists, only as it describes them."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

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


class Bundle:
    """An opened bundle. Names and sizes are checked on opening, a file's digest whenever it is read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the folder `path`.

        Raises UsageError when it is not a bundle's folder, IntegrityError when the manifest is wrong or the
        files are not exactly those it lists (missing, of another size, undeclared, or a link).
        """
        self.root = Path(path)
        self.manifest = _manifest_at(self.root)
        _check_entries(self.root, self.manifest)

    def read(self, name: str) -> bytes:
        """The bytes of the listed file `name`; IntegrityError unless size and digest are as listed."""
        spec = self.manifest.files[name]
        data = _read_exactly(self.root, name, spec)
        if hashlib.sha256(data).hexdigest() != spec.sha256:
            raise IntegrityError(
                f"{name}: its content is not what the manifest promises (SHA-256)", AGAIN_HINT
            )
        return data

    def verify(self) -> None:
        """Check the digest of every file; raises IntegrityError at the first that differs."""
        for name in self.manifest.files:
            self.read(name)


def _manifest_at(root: Path) -> Manifest:
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
    return manifest_from_bytes(path.read_bytes())


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
                elif stat.S_ISREG(mode):
                    found[name] = entry.stat(follow_symlinks=False).st_size
                else:
                    raise IntegrityError(
                        f"{name!a}: a link or not a plain file", "a bundle has plain files only"
                    )
                if len(found) + len(folders) > ENTRY_LIMIT:
                    raise IntegrityError(f"more than {ENTRY_LIMIT} files", AGAIN_HINT)
    return found


def _read_exactly(root: Path, name: str, spec: FileSpec) -> bytes:
    # The folder was checked on opening; the flag covers a link put in place of the file since then.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(root / name, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOENT):
            raise IntegrityError(
                f"{name}: changed while it was in use ({error.strerror})", AGAIN_HINT
            ) from None
        raise
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(spec.bytes + 1)
    if len(data) != spec.bytes:
        raise IntegrityError(f"{name}: not the {spec.bytes} bytes that the manifest says", AGAIN_HINT)
    return data
