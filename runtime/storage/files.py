"""Files of a bundle by name, wherever they lie."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol

AGAIN_HINT = "copy the bundle again, or export it again"
SIGNATURE_NAME = "signature.json"  # beside the manifest, which does not list it
ENTRY_LIMIT = 100_000
DEPTH_LIMIT = 10
# Files that macOS and Windows put into any folder that is looked at.
LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")


class Files(Protocol):
    """The plain files of a bundle. `label` names the place in messages; `path` is None off the disk."""

    label: str
    path: Path | None

    def sizes(self) -> dict[str, int]:
        """Every file with its size in bytes; raises IntegrityError for links and what is no plain file."""

    def open(self, name: str) -> BinaryIO:
        """The file `name`, which can be read from its start twice; IntegrityError when it is gone."""

    def state(self, file: BinaryIO) -> tuple[int, ...]:
        """What changes when somebody writes to a file that is open, its size first."""


def is_litter(name: str) -> bool:
    """Whether a path's last part is a file that the system's file manager puts into folders."""
    last = name.rsplit("/", 1)[-1]
    return last in LITTER or last.startswith("._")
