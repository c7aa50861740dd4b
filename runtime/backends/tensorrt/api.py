"""Access to the APIs of TensorRT 8.6, 10, 11 and TensorRT-RTX, which differ.

The library's module is passed as `trt`. Code checks with `has_api` for every API that not all versions have,
and never compares version numbers.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from textual_vision.runtime.backends.session import backend_by_name
from textual_vision.runtime.engines import check_kind
from textual_vision.runtime.errors import BackendMissingError


def load_library(kind: str) -> ModuleType:
    """Return the Python module of `kind`; importing it uses no GPU. Raises BackendMissingError."""
    check_kind(kind)
    backend = backend_by_name(kind)
    try:
        return importlib.import_module(backend.library)
    except (ImportError, OSError) as error:  # OSError: the bindings are installed without their library
        raise BackendMissingError(f"{kind} cannot be loaded: {error}", backend.install) from None


def has_api(trt: Any, path: str) -> bool:
    """Return whether this version has the attribute `path`, such as "BuilderFlag.FP16"."""
    found = trt
    for name in path.split("."):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


@contextmanager
def released_on_error() -> Iterator[None]:
    """Decorates a function that makes objects of the library: an error that leaves it keeps none of them.

    An error's traceback holds the variables of every function that it passed through, and errors end up in
    reference cycles. The objects in them would be destroyed whenever Python collects its garbage: at worst
    while the library holds a lock of its own and calls the logger, which is a process that hangs.
    """
    try:
        yield
    except BaseException as error:  # an interrupt holds the variables just as well; it is raised again
        traceback.clear_frames(error.__traceback__)
        raise


def new_logger(trt: Any) -> Any:
    """Return a logger for the library that keeps all messages in `messages`: [(severity, text), …]."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.messages.append((severity.name, text))

    return Log()


def errors_in(logger: Any) -> list[str]:
    """Return the logged errors in order."""
    return [text for severity, text in logger.messages if severity in ("ERROR", "INTERNAL_ERROR")]


def last_message(logger: Any) -> str:
    """Return the last logged message of any severity, in one line."""
    return " ".join(logger.messages[-1][1].split())[:300] if logger.messages else ""


def last_error(logger: Any) -> str:
    """Return the last logged error in one line."""
    errors = errors_in(logger)
    return " ".join(errors[-1].split())[:300] if errors else "the library does not say why"
