"""Files written whole or not at all, and digests."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

DIGEST_CHUNK_BYTES = 1 << 20


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name beside `path` and rename it; on any failure nothing is left behind.

    Raises OSError as the system gives it (a folder that is not writable, a full disk).
    """
    try:
        _write_and_rename(path, data)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # the user knows nothing of the temporary name
        raise


def _write_and_rename(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes it readable by its owner alone
        Path(temporary).replace(path)
    except BaseException:  # an interrupt leaves no half-written file either; it is raised again
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """The process's umask; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes as 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(DIGEST_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
