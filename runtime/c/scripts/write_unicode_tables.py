"""Write src/base/unicode_tables.c, nfkc_tables.c and emoji_names.c: what characters of a prompt become.

unicode_tables.c is what the `tokenizers` library does to each character of Unicode.

The library's tables come from several Unicode versions at once, so they are read out of the library itself:
each code point is normalized and split alone, and pairs of marks show the order that NFD gives them. Which
characters a terminal can print is Python's `str.isprintable`, for messages.

Before that, emoji become their names and the text NFKC, by Python's Unicode. The names are CLDR's, from
en/data.json of the npm package emojibase-data; they are kept in runtime/text/emoji_names.txt.

Run it again when the tests say that the tables differ: `python write_unicode_tables.py [EMOJIBASE]`, with
EMOJIBASE a newer en/data.json.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import normalizers, pre_tokenizers

RUNTIME = Path(__file__).parents[2]
NAMES = RUNTIME / "text" / "emoji_names.txt"
BASE = RUNTIME / "c" / "src" / "base"
DROPPED = {0xFE0F, *range(0x1F3FB, 0x1F400)}  # variation selector, skin tones
FIRST_EMOJI = 0xA9
COMPONENTS = 2  # the group of tones and hair
CODE_POINTS = [code for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
HANGUL = range(0xAC00, 0xD7A4)  # composed by arithmetic
COLUMNS = 108
FIRST_MARK, LAST_MARK = "\u0334", "\u0345"  # of the lowest and the highest combining class

Normalize = Callable[[str], str]


def tables() -> str:
    """The text of unicode_tables.c."""
    clean = bert(clean_text=True)
    accents = bert(strip_accents=True)
    lower = bert(lowercase=True)
    nfd = normalizers.NFD().normalize_str
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    pieces = {code: len(split(f"a{chr(code)}a")) for code in CODE_POINTS}
    changed = {code: nfd(chr(code)) for code in CODE_POINTS if nfd(chr(code)) != chr(code)}
    samples = class_samples(nfd)
    classes = {code: order_class(nfd, chr(code), samples) for code in CODE_POINTS if code not in changed}
    lowered = {code: lower(chr(code)) for code in CODE_POINTS if lower(chr(code)) != chr(code)}
    parts = [
        range_table("tv_unicode_removed", (c for c in CODE_POINTS if clean(chr(c)) == "")),
        range_table("tv_unicode_space", (c for c in CODE_POINTS if clean(chr(c)) == " ")),
        range_table("tv_unicode_delimiter", (c for c in CODE_POINTS if pieces[c] == 2)),
        range_table("tv_unicode_punctuation", (c for c in CODE_POINTS if pieces[c] == 3)),
        range_table("tv_unicode_mark", (c for c in classes if accents(chr(c)) == "")),
        range_table("tv_unicode_python_space", (c for c in CODE_POINTS if chr(c).isspace())),
        range_table("tv_unicode_unprintable", (c for c in range(0x110000) if not chr(c).isprintable())),
        class_table(classes),
        mapping_table("tv_unicode_lower", lowered),
        mapping_table("tv_unicode_decomposition", {c: s for c, s in changed.items() if c not in HANGUL}),
    ]
    return "\n\n".join([header(), *parts]) + "\n"


def bert(
    *, clean_text: bool = False, strip_accents: bool = False, lowercase: bool = False
) -> Callable[[str], str]:
    """One step of the BERT normalizer alone."""
    normalizer = normalizers.BertNormalizer(
        clean_text=clean_text,
        handle_chinese_chars=False,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    normalize: Normalize = normalizer.normalize_str
    return normalize


def class_samples(nfd: Normalize) -> dict[int, str]:
    """One mark of each combining class; the library is too old for some of the marks that Python knows."""
    marks = [chr(code) for code in reversed(CODE_POINTS) if unicodedata.combining(chr(code))]
    return {unicodedata.combining(mark): mark for mark in marks if nfd(mark) == mark and moves(nfd, mark)}


def moves(nfd: Normalize, mark: str) -> bool:
    """Whether NFD exchanges `mark` with any other mark: whether its combining class is not 0."""
    return nfd(LAST_MARK + mark) != LAST_MARK + mark or nfd(mark + FIRST_MARK) != mark + FIRST_MARK


def order_class(nfd: Normalize, mark: str, samples: dict[int, str]) -> int:
    """The combining class by which NFD sorts `mark`: the one whose sample stays on either side of it."""
    if not moves(nfd, mark):
        return 0
    (order,) = (
        order
        for order, sample in samples.items()
        if nfd(mark + sample) == mark + sample and nfd(sample + mark) == sample + mark
    )
    return order


def header() -> str:
    """Return the comment and the include that each file begins with."""
    return (
        "/* Written by scripts/write_unicode_tables.py from tokenizers "
        f"{tokenizers.__version__} and Python's Unicode {unicodedata.unidata_version}: do not edit. */\n"
        '#include "base/unicode_tables.h"'
    )


def range_table(name: str, codes: Iterable[int]) -> str:
    """Return a table of the first and last code point of each run in `codes`."""
    runs: list[list[int]] = []
    for code in codes:
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    items = [f"{{{first:#x}, {last:#x}}}" for first, last in runs]
    return counted(name, "tv_code_range", items)


def class_table(classes: dict[int, int]) -> str:
    """Return a table of the first and last code point of each run with one combining class."""
    runs: list[list[int]] = []
    for code, order in classes.items():
        if order and runs and runs[-1][1:] == [code - 1, order]:
            runs[-1][1] = code
        elif order:
            runs.append([code, code, order])
    items = [f"{{{first:#x}, {last:#x}, {order}}}" for first, last, order in runs]
    return counted("tv_unicode_class", "tv_code_class", items)


def mapping_table(name: str, texts: dict[int, str]) -> str:
    """Return a table of code point, place and length in a second table of the characters."""
    places, characters = [], list[str]()
    for code, text in texts.items():
        places.append(f"{{{code:#x}, {len(characters)}, {len(text)}}}")
        characters += [f"{ord(character):#x}" for character in text]
    head = f"const uint32_t {name}_characters[{len(characters)}] = {{\n{wrapped(characters)}\n}};"
    return f"{head}\n\n{counted(name, 'tv_code_mapping', places)}"


def counted(name: str, kind: str, items: Sequence[str]) -> str:
    """Return the definition of a table of `items` and of its length."""
    return (
        f"const {kind} {name}[{len(items)}] = {{\n{wrapped(items)}\n}};\n"
        f"const size_t {name}_count = {len(items)};"
    )


def wrapped(items: Sequence[str]) -> str:
    """Return `items`, separated by commas, in lines of at most COLUMNS characters."""
    lines = [""]
    for item in items:
        if len(lines[-1]) + len(item) + 2 > COLUMNS:
            lines.append("")
        lines[-1] += f" {item}," if lines[-1] else f"    {item},"
    return "\n".join(lines)


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
        "/* Written by scripts/write_unicode_tables.py: do not edit. */\n"
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
        "/* Written by scripts/write_unicode_tables.py from Python's Unicode "
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
    (BASE / "unicode_tables.c").write_text(tables(), "utf-8")
    (BASE / "nfkc_tables.c").write_text(nfkc_tables(), "utf-8")
    known = names_from_text(NAMES.read_text("utf-8"))
    (BASE / "emoji_names.c").write_text(emoji_table(known), "utf-8")
