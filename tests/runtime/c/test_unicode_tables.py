"""The committed Unicode tables are those of the installed libraries."""

import re
import sys
import unicodedata
from pathlib import Path

import pytest
import tokenizers

from textual_vision.runtime.text.prompt_text import LONGEST_EMOJI, emoji_names

LIBRARY = Path(__file__).parents[3] / "runtime" / "c"
TABLES = LIBRARY / "src" / "base" / "unicode_tables.c"


def test_the_names_of_emoji_are_the_same_in_c_and_python(monkeypatch):
    monkeypatch.syspath_prepend(LIBRARY / "scripts")
    try:
        import write_unicode_tables

        names = write_unicode_tables.names_from_text(write_unicode_tables.NAMES.read_text("utf-8"))
        assert names == emoji_names()
        assert max(map(len, names)) <= LONGEST_EMOJI
        assert write_unicode_tables.emoji_table(names) == (TABLES.parent / "emoji_names.c").read_text("utf-8")
        if unicodedata.unidata_version in (TABLES.parent / "nfkc_tables.c").read_text("utf-8")[:200]:
            tables = (TABLES.parent / "nfkc_tables.c").read_text("utf-8")
            assert write_unicode_tables.nfkc_tables() == tables
    finally:
        for name in ["write_unicode_tables"]:
            sys.modules.pop(name, None)


def test_the_script_writes_the_committed_tables(monkeypatch):
    made_from = re.search(r"tokenizers (\S+) and Python's Unicode (\S+):", TABLES.read_text("utf-8"))
    installed = (tokenizers.__version__, unicodedata.unidata_version)
    if made_from.groups() != installed:
        pytest.skip(f"made from tokenizers and Unicode {made_from.groups()}, here are {installed}")
    monkeypatch.syspath_prepend(LIBRARY / "scripts")
    try:
        import write_unicode_tables

        assert write_unicode_tables.tables() == TABLES.read_text("utf-8")
    finally:
        sys.modules.pop("write_unicode_tables", None)
