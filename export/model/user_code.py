"""Errors of a user's own code, as errors that name its file and line."""

from __future__ import annotations

import contextlib
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from textual_vision.export.host.step_cache import PACKAGES
from textual_vision.runtime.errors import TextualVisionError, UsageError

HINT = "see docs/how-to/custom-model.md"
OURS = tuple(Path(__file__).resolve().parents[2] / name for name in PACKAGES)
TORCH = str(Path(torch.__file__).parent)
_PLACE = re.compile(r'File "([^"]+)", line (\d+), in (\w+)\n\s*(.*)')
LIBRARIES = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib"))


@contextlib.contextmanager
def user_errors(what: str, file: Path | None = None, *, hint: str = "") -> Iterator[None]:
    """Whatever a user's code raises becomes a UsageError with the last line of it, outside of libraries.

    Lines of `file` are preferred, if given. `hint` replaces the usual one. Our own errors pass through.
    """
    try:
        yield
    except (TextualVisionError, KeyboardInterrupt, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        problem = f"{what} failed: {reason}{_place(error, file)}"
        raise UsageError(problem, hint or _hint(error)) from error


def _hint(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"install {error.name!r}, or put it beside the file; {HINT}"
    return f"run the file with python to see the whole traceback; {HINT}"


def _place(error: BaseException, file: Path | None) -> str:
    """` at FILE:LINE: code` of the innermost line of a user's own code."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {Path(error.filename).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    for wanted in (lambda name: file is not None and Path(name).parent == file.parent, is_user_file):
        for frame in reversed(frames):
            if wanted(frame.filename):
                return f" at {Path(frame.filename).name}:{frame.lineno}: {(frame.line or '').strip()}"
    return ""


def is_user_file(name: str) -> bool:
    """Whether a source file is neither a library's, nor Python's, nor ours."""
    if name.startswith("<"):
        return False
    path = Path(name).resolve()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in (*LIBRARIES, *OURS))


def place_in_trace(text: str) -> str:
    """Return ` at FILE:LINE: code` of a stack trace's last place outside torch, "" without one."""
    places = [one for one in _PLACE.findall(text) if not is_torch(one[0]) and not one[0].startswith("<")]
    if not places:
        return ""
    file, line, _, code = places[-1]
    return f" at {Path(file).name}:{line}: {code.strip()}"


def is_torch(file: str) -> bool:
    """Whether a source file is one of PyTorch's."""
    return TORCH in file
