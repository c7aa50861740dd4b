"""A bundle's folder on the disk, read without following links."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.storage.files import AGAIN_HINT, DEPTH_LIMIT, ENTRY_LIMIT, is_litter


class FolderFiles:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self.path: Path | None = root
        self.label = str(root)
        self._root = root

    def sizes(self) -> dict[str, int]:
        """Every file below the folder with its size; links and anything that is not a file are refused."""
        found: dict[str, int] = {}
        folders = [""]
        while folders:
            folder = folders.pop()
            with os.scandir(self._root / folder) as entries:
                for entry in entries:
                    _note_entry(entry, folder, found, folders)
                    if len(found) + len(folders) > ENTRY_LIMIT:
                        raise IntegrityError(f"more than {ENTRY_LIMIT} files", AGAIN_HINT)
        return found

    def open(self, name: str) -> BinaryIO:
        """The file `name`; IntegrityError when a link or a pipe took its place since the folder was read."""
        flags = os.O_RDONLY
        for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
            flags |= getattr(os, flag, 0)
        try:
            return os.fdopen(os.open(self._root / name, flags), "rb")
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOENT):
                problem = f"{name}: changed while it was in use ({error.strerror})"
                raise IntegrityError(problem, AGAIN_HINT) from None
            raise

    def state(self, file: BinaryIO) -> tuple[int, ...]:
        """Size and time of change."""
        found = os.fstat(file.fileno())
        return found.st_size, found.st_mtime_ns


def _note_entry(entry: os.DirEntry[str], folder: str, found: dict[str, int], folders: list[str]) -> None:
    name = f"{folder}{entry.name}"
    about = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(about.st_mode):
        if name.count("/") > DEPTH_LIMIT:
            raise IntegrityError(f"{name!a}: folders deeper than {DEPTH_LIMIT}", AGAIN_HINT)
        folders.append(f"{name}/")
    elif not stat.S_ISREG(about.st_mode):
        raise IntegrityError(f"{name!a}: a link or not a plain file", "a bundle has plain files only")
    elif not is_litter(entry.name):
        found[name] = about.st_size
