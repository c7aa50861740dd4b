"""Write src/base/unicode_tables.c: what the `tokenizers` library does to each character of Unicode.

The library's tables come from several Unicode versions at once, so they are read out of the library itself:
each code point is normalized and split alone, and pairs of marks show the order that NFD gives them. Which
characters a terminal can print is Python's `str.isprintable`, for messages.

Run it again when the tests say that the tables differ: `python write_unicode_tables.py [OUTPUT]`.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import normalizers, pre_tokenizers

OUTPUT = Path(__file__).parents[1] / "src" / "base" / "unicode_tables.c"
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


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else OUTPUT).write_text(tables(), "utf-8")
