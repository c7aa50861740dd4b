"""Files written whole or not at all, and digests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from textual_vision.runtime.errors import UsageError

DIGEST_CHUNK_BYTES = 1 << 17


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
    temporary = path.with_name(f".{path.name[:100]}.{os.urandom(8).hex()}.part")
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


def replace_folder(fresh: Path, folder: Path) -> None:
    """Rename the finished folder `fresh` to `folder`, and delete what was there only afterwards.

    Both must have the same parent. On a failure or an interrupt the older folder is put back and the error is
    raised again.
    """
    if not folder.exists():
        fresh.rename(folder)
        return
    import shutil  # not at the top: both take a fifth of the time that reading a bundle does
    import tempfile

    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}.", suffix=".old", dir=folder.parent))
    old = aside / "old"
    try:
        folder.rename(old)
        fresh.rename(folder)
    except BaseException:
        if not folder.exists() and old.exists():
            old.rename(folder)
        raise
    finally:
        if folder.exists():  # else the older folder could not be put back, and is the only copy
            shutil.rmtree(aside, ignore_errors=True)


def cache_folder(name: str) -> Path:
    """Return the user's folder for cached files called `name`; it may not exist yet.

    It lies in XDG_CACHE_HOME, or in ~/.cache where that is not set. UsageError for a user without a home.
    """
    folder = _user_folder("XDG_CACHE_HOME", ".cache")
    if folder is None:
        raise UsageError("this user has no home folder for cached files", "name a folder by XDG_CACHE_HOME")
    return folder / name


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes as 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(DIGEST_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def state_folder() -> Path | None:
    """The user's folder for what is remembered; None for a user without a home."""
    return _user_folder("XDG_STATE_HOME", ".local/state")


def _user_folder(variable: str, below_home: str) -> Path | None:
    if root := os.environ.get(variable):
        return Path(root) / "promptsprite"
    try:
        return Path.home() / below_home / "promptsprite"
    except RuntimeError:  # no HOME, and no entry for the user
        return None
