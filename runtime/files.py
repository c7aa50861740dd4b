"""Files written whole or not at all, and digests."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

DIGEST_CHUNK_BYTES = 1 << 20


def write_atomic(path: Path, *parts: bytes, fsync: bool = True) -> None:
    """Write `parts` under a temporary name beside `path` and rename it; on a failure nothing is left behind.

    Not `fsync` is quicker: should the machine stop soon, the file may be there with something else in it.
    Raises OSError as the system gives it (a folder that is not writable, a full disk).
    """
    try:
        _write_and_rename(path, parts, fsync=fsync)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # the user knows nothing of the temporary name
        raise


def _write_and_rename(path: Path, parts: Sequence[bytes], *, fsync: bool) -> None:
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    # Not by tempfile: only its owner could read it, and to ask for the umask others' files would get another.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
            file.flush()
            if fsync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # an interrupt leaves no half-written file either; it is raised again
        temporary.unlink(missing_ok=True)
        raise


def cache_folder(name: str) -> Path:
    """Return the user's folder for cached files called `name`; it may not exist yet.

    It lies in XDG_CACHE_HOME, or in ~/.cache where that is not set.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "textual-vision" / name


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes as 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(DIGEST_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
