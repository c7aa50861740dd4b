"""The prompts of a command: arguments, or lines of a file that is read as pictures are generated."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import UsageError

STANDARD_INPUT = "-"


class Source:
    """Where prompts come from: `arguments`, or the lines of `file`."""

    def __init__(self, arguments: tuple[str, ...], file: Path | None) -> None:
        if arguments and file is not None:
            raise UsageError("prompts as arguments and in a file", "give either")
        self.arguments, self.file = arguments, file

    @property
    def given(self) -> bool:
        """Whether there are any."""
        return bool(self.arguments) or self.file is not None


@contextlib.contextmanager
def opened(source: Source, bundle: Bundle, *, needed: bool) -> Iterator[Iterator[str]]:
    """The prompts or labels, one by one; an empty one for a model that takes none.

    Raises UsageError where none is given and one is `needed`, or the file cannot be read as UTF-8.
    """
    if source.file is None:
        yield iter(_arguments(source.arguments, bundle) if needed else ())
        return
    name = str(source.file)
    with contextlib.ExitStack() as stack:
        if name == STANDARD_INPUT:
            sys.stdin.reconfigure(encoding="utf-8", errors="strict")  # type: ignore[union-attr]
            file: TextIO = sys.stdin
        else:
            file = stack.enter_context(source.file.open(encoding="utf-8-sig"))
        yield _lines(file, "the standard input" if name == STANDARD_INPUT else name)


def _lines(file: TextIO, name: str) -> Iterator[str]:
    found = False
    try:
        for line in file:
            if text := line.strip():
                found = True
                yield text
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8 text", "save it as UTF-8") from None
    if not found:
        raise UsageError(f"{name} has no prompt", "write one prompt a line")


def _arguments(prompts: tuple[str, ...], bundle: Bundle) -> tuple[str, ...]:
    manifest = bundle.manifest
    if prompts or (manifest.text is None and manifest.labels is None):
        return prompts or ("",)
    if manifest.labels is not None:
        names = ", ".join(manifest.labels.names[:8])
        raise UsageError("no label", f"give one by its name or number: {names}"[:200])
    raise UsageError("no prompt", 'for example: tv-generate emoji.tv "dog wearing sunglasses"')
