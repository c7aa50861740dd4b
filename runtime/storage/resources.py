"""A bundle among a package's resources, wherever the package was imported from."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.storage.files import AGAIN_HINT, DEPTH_LIMIT, ENTRY_LIMIT, is_litter


class Resource(Protocol):
    """A file or folder of a package, as `importlib.resources.files` gives it."""

    @property
    def name(self) -> str:
        """Return the last part of its path."""

    def iterdir(self) -> Iterable[Resource]:
        """Return what lies in the folder."""

    def joinpath(self, *parts: str) -> Resource:
        """Return what lies below."""

    def is_dir(self) -> bool:
        """Return whether it is a folder."""

    def is_file(self) -> bool:
        """Return whether it is a file."""

    def read_bytes(self) -> bytes:
        """Return the file's content."""


class ResourceFiles:
    """The files below a resource, each read whole when it is needed."""

    def __init__(self, root: Resource) -> None:
        self.label = f"the resource {root.name!r}"
        self.path: Path | None = None
        self._root = root

    def sizes(self) -> dict[str, int]:
        """Every file with its size, which is read for it."""
        found = {}
        for name, file in _files_below(self._root, ""):
            found[name] = len(file.read_bytes())
            if len(found) > ENTRY_LIMIT:
                raise IntegrityError(f"more than {ENTRY_LIMIT} files", AGAIN_HINT)
        return found

    def open(self, name: str) -> BinaryIO:
        """The file `name` in memory."""
        file = self._root.joinpath(*name.split("/"))
        if not file.is_file():
            raise IntegrityError(f"{name}: missing from the bundle", AGAIN_HINT)
        return io.BytesIO(file.read_bytes())

    def state(self, file: BinaryIO) -> tuple[int, ...]:
        """The size; the digest shows other changes."""
        return (len(file.getbuffer()),) if isinstance(file, io.BytesIO) else ()


def _files_below(folder: Resource, prefix: str) -> Iterator[tuple[str, Resource]]:
    if prefix.count("/") > DEPTH_LIMIT:
        raise IntegrityError(f"{prefix!a}: folders deeper than {DEPTH_LIMIT}", AGAIN_HINT)
    for one in folder.iterdir():
        name = f"{prefix}{one.name}"
        if one.is_dir():
            yield from _files_below(one, f"{name}/")
        elif not is_litter(name):
            yield name, one
