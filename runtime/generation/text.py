"""Encoded text: what the stages that see only the prompt gave, and a small memory of it."""

from __future__ import annotations

import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from textual_vision.runtime.backends.session import Array
from textual_vision.runtime.errors import TextualVisionWarning
from textual_vision.runtime.generation.conditions import Condition
from textual_vision.runtime.text.tokenizer import PromptNote

CACHE_LIMIT_BYTES = 16 << 20
OURS = "textual_vision.runtime"

Tensors = Mapping[str, Array]
Key = tuple[tuple[str, bytes, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class EncodedText:
    """Prompts, encoded by one bundle in one precision; only that can generate from it.

    `batches` are tensors by name, with one row for each of at most the profile's largest batch of prompts.
    """

    prompts: tuple[str, ...]
    notes: tuple[PromptNote, ...]
    batches: tuple[Tensors, ...]
    source: tuple[str, str]


class TextCache:
    """The latest encoded batches, by their token ids; a prompt that comes again is not encoded again."""

    def __init__(self, entries: int) -> None:
        """Keep at most `entries` batches, and 16 MiB."""
        self._limit = entries
        self._known: OrderedDict[Key, Tensors] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def encoded(self, condition: Condition, encode: Callable[[Condition], Tensors]) -> Tensors:
        """What `encode` gives for the condition, from memory where it is known."""
        key = tuple((name, one.tobytes(), one.shape) for name, one in condition.tensors.items())
        with self._lock:
            if (found := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return found
        tensors = encode(condition)
        self._keep(key, tensors)
        return tensors

    def _keep(self, key: Key, tensors: Tensors) -> None:
        size = _bytes_of(tensors)
        if self._limit == 0 or size > CACHE_LIMIT_BYTES:
            return
        with self._lock:
            if key not in self._known:
                self._known[key] = tensors
                self._bytes += size
            while len(self._known) > self._limit or self._bytes > CACHE_LIMIT_BYTES:
                self._bytes -= _bytes_of(self._known.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()
            self._bytes = 0


def _bytes_of(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def warn_caller(text: str, category: type[TextualVisionWarning]) -> None:
    """Warn of `text` at the first line outside of the runtime.

    Not by `warnings.warn`: it remembers every text for good, and each prompt has its own.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(OURS):
        frame = frame.f_back
    name = frame.f_globals.get("__name__", "<unknown>")
    warnings.warn_explicit(text, category, frame.f_code.co_filename, frame.f_lineno, name)
