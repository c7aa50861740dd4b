"""The type of functions that long work calls with one line of text about its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

ProgressCallback: TypeAlias = Callable[[str], None]


def ignore_progress(line: str) -> None:
    """Do nothing with `line`: the default callback."""
