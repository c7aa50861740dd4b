"""Write the tables of a prompt's plain text: the names of emoji, for Python and C, and NFKC for C.

`python write_prompt_tables.py EMOJIBASE` writes all of them; EMOJIBASE is en/data.json of the npm package
emojibase-data. Without an argument the names stay as they are in runtime/text/emoji_names.txt.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from write_unicode_tables import CODE_POINTS, HANGUL, class_table, counted, mapping_table

RUNTIME = Path(__file__).parents[2]
NAMES = RUNTIME / "text" / "emoji_names.txt"
BASE = RUNTIME / "c" / "src" / "base"
DROPPED = {0xFE0F, *range(0x1F3FB, 0x1F400)}  # variation selector, skin tones
FIRST_EMOJI = 0xA9
COMPONENTS = 2  # the group of tones and hair


def names_from_emojibase(data: list[dict[str, object]]) -> dict[str, str]:
    """Sequence of characters → name, without variation selectors and skin tones."""
    names: dict[str, str] = {}
    for entry in data:
        sequence = "".join(chr(code) for code in map(ord, str(entry["emoji"])) if code not in DROPPED)
        if sequence and ord(sequence[0]) >= FIRST_EMOJI and entry.get("group") != COMPONENTS:
            names.setdefault(sequence, str(entry["label"]))
    return names


def text_from_names(names: Mapping[str, str]) -> str:
    """emoji_names.txt: code points in hexadecimal, a tab, the name."""
    lines = (f"{'-'.join(f'{ord(one):x}' for one in key)}\t{name}\n" for key, name in sorted(names.items()))
    return "".join(lines)


def names_from_text(text: str) -> dict[str, str]:
    """The names in emoji_names.txt."""
    pairs = (line.split("\t") for line in text.splitlines())
    return {"".join(chr(int(one, 16)) for one in key.split("-")): name for key, name in pairs}


def emoji_table(names: Mapping[str, str]) -> str:
    """The text of emoji_names.c, sorted by bytes."""
    rows = sorted((key.encode(), name.encode()) for key, name in names.items())
    items = "\n".join(f"    {{{quoted(key)}, {quoted(name)}}}," for key, name in rows)
    return (
        "/* Written by scripts/write_prompt_tables.py: do not edit. */\n"
        '#include "base/prompt_tables.h"\n\n'
        f"const tv_emoji_name tv_emoji_names[{len(rows)}] = {{\n{items}\n}};\n"
        f"const size_t tv_emoji_names_count = {len(rows)};\n"
    )


def quoted(data: bytes) -> str:
    """A C string of the bytes; octal escapes end by themselves."""
    plain = set(range(0x20, 0x7F)) - set(b'"\\?')
    return '"' + "".join(chr(one) if one in plain else f"\\{one:03o}" for one in data) + '"'


def nfkc_tables() -> str:
    """The text of nfkc_tables.c, from Python's unicodedata."""
    changed = {}
    for code in CODE_POINTS:
        text = unicodedata.normalize("NFKD", chr(code))
        if text != chr(code) and code not in HANGUL:
            changed[code] = text
    classes = {code: unicodedata.combining(chr(code)) for code in CODE_POINTS}
    parts = [
        "/* Written by scripts/write_prompt_tables.py from Python's Unicode "
        f"{unicodedata.unidata_version}: do not edit. */\n"
        '#include "base/prompt_tables.h"',
        class_table(classes).replace("tv_unicode_class", "tv_nfkc_class"),
        mapping_table("tv_nfkc_decomposition", changed),
        counted("tv_nfkc_pair", "tv_code_pair", pairs()),
    ]
    return "\n\n".join(parts) + "\n"


def pairs() -> list[str]:
    """Two characters and the one that they compose to, sorted."""
    found = []
    for code in CODE_POINTS:
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            first, second = (int(part, 16) for part in parts)
            if unicodedata.normalize("NFC", chr(first) + chr(second)) == chr(code):
                found.append((first, second, code))
    return [f"{{{first:#x}, {second:#x}, {code:#x}}}" for first, second, code in sorted(found)]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        given = json.loads(Path(sys.argv[1]).read_text("utf-8"))
        NAMES.write_text(text_from_names(names_from_emojibase(given)), "utf-8")
    names = names_from_text(NAMES.read_text("utf-8"))
    (BASE / "emoji_names.c").write_text(emoji_table(names), "utf-8")
    (BASE / "nfkc_tables.c").write_text(nfkc_tables(), "utf-8")
