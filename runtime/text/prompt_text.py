"""A prompt as plain text: what keyboards send beside letters, in the words that a vocabulary has.

Emoji become their English names in CLDR, which a corpus of captions has, and NFKC turns full-width and other
compatibility forms into usual letters. Every client does the same (runtime/c/src/text/prompt_text.c).
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

NAMES = Path(__file__).with_name("emoji_names.txt")
DROPPED = dict.fromkeys([0xFE0F, *range(0x1F3FB, 0x1F400)])  # variation selector, skin tones
FIRST_EMOJI = "\u00a9"
LONGEST_EMOJI = 10  # characters


def plain_prompt(prompt: str, is_token: Callable[[str], bool]) -> str:
    """`prompt` with names for emoji, in NFKC; emoji that are tokens of the vocabulary stay."""
    if prompt.isascii():
        return prompt
    return unicodedata.normalize("NFKC", _named(prompt.translate(DROPPED), is_token))


@functools.cache
def emoji_names() -> Mapping[str, str]:
    """Sequence of characters, without variation selectors and skin tones → name."""
    pairs = (line.split("\t") for line in NAMES.read_text("utf-8").splitlines())
    return {"".join(chr(int(code, 16)) for code in key.split("-")): name for key, name in pairs}


def _named(text: str, is_token: Callable[[str], bool]) -> str:
    """A space stands between a name and what is beside it."""
    parts: list[str] = []
    place, after_name = 0, False
    while place < len(text):
        sequence = _emoji_at(text, place, is_token)
        part = emoji_names()[sequence] if sequence else text[place]
        if parts and (sequence or after_name) and part != " " and parts[-1] != " ":
            parts.append(" ")
        parts.append(part)
        place += len(sequence) or 1
        after_name = bool(sequence)
    return "".join(parts)


def _emoji_at(text: str, place: int, is_token: Callable[[str], bool]) -> str:
    """The longest emoji that begins there; empty when there is none, or the vocabulary has it."""
    if text[place] < FIRST_EMOJI:
        return ""
    names = emoji_names()
    for length in range(min(LONGEST_EMOJI, len(text) - place), 0, -1):
        if (found := text[place : place + length]) in names:
            return "" if is_token(found) else found
    return ""
