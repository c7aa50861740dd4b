"""The characters that stand for bytes in byte-level vocabularies, as GPT-2 introduced them."""

from __future__ import annotations

PRINTABLE = (range(33, 127), range(161, 173), range(174, 256))  # bytes that stand for themselves
_PLAIN = [byte for one in PRINTABLE for byte in one]
_OTHERS = [byte for byte in range(256) if byte not in _PLAIN]
_CHARACTER = {byte: chr(byte) for byte in _PLAIN} | {
    byte: chr(256 + index) for index, byte in enumerate(_OTHERS)
}

BY_BYTE = tuple(_CHARACTER[byte] for byte in range(256))
PRINTABLE_FIRST = tuple(_CHARACTER[byte] for byte in (*_PLAIN, *_OTHERS))
