"""The committed Unicode tables are those of the installed libraries."""

import re
import sys
import unicodedata
from pathlib import Path

import pytest
import tokenizers

LIBRARY = Path(__file__).parents[3] / "runtime" / "c"
TABLES = LIBRARY / "src" / "base" / "unicode_tables.c"


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
