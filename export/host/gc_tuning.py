"""Less of Python's search for cycles, which goes through all objects that there are, again and again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def gc_disabled() -> Iterator[None]:
    """Without any: for what makes much and leaves little behind. A fifth of an export's time went into it,
    and it found 50 MB.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def refreeze_gc() -> None:
    """In `gc_frozen`: nor through what was made so far. A program that was traced leaves as many as
    the libraries.
    """
    if gc.get_freeze_count():
        gc.freeze()


@contextlib.contextmanager
def gc_frozen() -> Iterator[None]:
    """Only through what is made from here on, not the million objects of the libraries: a graph is read in
    three quarters of the time.
    """
    if gc.get_freeze_count():  # whoever did that goes on with it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
