"""A folder that nobody but this user can write to, so that its files need no further trust."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.files import cache_folder

FOLDER_NAME = "graphs"
HINT = "name a folder that only you can write to by XDG_CACHE_HOME"


def private_cache_folder() -> Path:
    """The user's folder for optimized graphs, mode 0700; it is made where it does not exist.

    Raises UsageError where there is no such folder: no home, no permission, or others may write to it or to a
    folder above it.
    """
    if not hasattr(os, "geteuid"):
        raise UsageError("this system has no owners of files to check", "generate without prepared graphs")
    folder = cache_folder(FOLDER_NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = folder.resolve(strict=True)
        _check_private(folder)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}", HINT) from None
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(f"{folder} cannot be read", HINT)
    return folder


def _check_private(folder: Path) -> None:
    about = folder.lstat()
    if about.st_uid != os.geteuid() or about.st_mode & 0o077:
        raise UsageError(f"{folder} is not yours alone (it needs mode 0700)", HINT)
    for above in folder.parents:
        about = above.lstat()
        sticky = about.st_mode & stat.S_ISVTX
        if about.st_uid not in (0, os.geteuid()) or (about.st_mode & 0o022 and not sticky):
            raise UsageError(f"others may write to {above}, where prepared graphs would lie", HINT)
