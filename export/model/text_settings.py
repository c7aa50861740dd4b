"""A tokenizer's file and settings, as a bundle holds them, from a tokenizer of the `tokenizers` library."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import TextSpec
from textual_vision.runtime.text import tokenizer as reader

PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>")
HINT = "see docs/how-to/custom-model.md"


def text_from_tokenizer(
    tokenizer: Tokenizer | bytes | None, max_tokens: int | None, text: TextSpec | None
) -> tuple[bytes | None, TextSpec | None]:
    """Return the text of tokenizer.json and its settings; (None, None) without a tokenizer.

    `max_tokens`, which includes special tokens, is the tokenizer's truncation where it is None. The id of the
    padding is the tokenizer's own, or that of a token which is called like one. `text` replaces what is read.
    Raises UsageError when a setting cannot be read.
    """
    if tokenizer is None:
        return None, None
    data = tokenizer if isinstance(tokenizer, bytes) else tokenizer.to_str().encode()
    if text is not None:
        return data, text
    described = _described(data)
    length = max_tokens or (described.get("truncation") or {}).get("max_length")
    if not length:
        problem = "the number of tokens that a prompt may have is not known"
        raise UsageError(problem, f"say max_tokens=…, with the special tokens; {HINT}")
    vocabulary = _vocabulary(data)
    pad = _pad_id(described, vocabulary)
    unknown = _unknown_id(described, vocabulary)
    return data, TextSpec(tokenizer="tokenizer.json", max_tokens=length, pad_id=pad, unknown_id=unknown)


def largest_id(data: bytes, text: TextSpec) -> int:
    """Return the largest id that a prompt can have; the unknown token is none where it is left out."""
    largest = reader.Tokenizer(data, text).largest_id
    if text.drop_unknown and text.unknown_id is not None:
        return min(largest, text.unknown_id - 1)
    return largest


def _described(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        problem = "tokenizer is not the text of a tokenizer.json"
        raise UsageError(problem, f"give a tokenizers.Tokenizer, or the bytes of its file; {HINT}")
    return found


def _vocabulary(data: bytes) -> dict[str, int]:
    return dict(Tokenizer.from_buffer(data).get_vocab(with_added_tokens=True))


def _pad_id(described: dict[str, Any], vocabulary: dict[str, int]) -> int:
    padding = described.get("padding")
    if padding is not None:
        return int(padding["pad_id"])
    for token in PAD_TOKENS:
        if token in vocabulary:
            return vocabulary[token]
    problem = f"the tokenizer has no padding, and no token called {', '.join(PAD_TOKENS)}"
    raise UsageError(problem, f"call tokenizer.enable_padding(pad_id=…, pad_token=…); {HINT}")


def _unknown_id(described: dict[str, Any], vocabulary: dict[str, int]) -> int | None:
    model = described.get("model") or {}
    token = model.get("unk_token")
    if isinstance(token, str):
        return vocabulary.get(token)
    number = model.get("unk_id")
    return number if isinstance(number, int) else None
