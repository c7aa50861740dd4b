"""What a build prints of its int8 graphs: what they were calibrated on, and the choices that were weighed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textual_vision.export.int8.budget import table_lines

NEVER_SHOWN = 60  # characters of the list of rows; all of it is in the bundle's report


def lines_of_notes(notes: Mapping[str, Any]) -> list[str]:
    """The calibration and the Pareto table of int8's notes (see `int8_from_float`), a line each."""
    lines = _lines_of_calibration(notes["calibration"]) if "calibration" in notes else []
    lines += [f"  warning: {text}" for text in notes["warnings"]]
    return [*lines, f"int8 within {notes['budget']}: choices that no other beats", *_table(notes)]


def _table(notes: Mapping[str, Any]) -> list[str]:
    return [f"  {line}" for line in table_lines(notes["table"])]


def _lines_of_calibration(found: Mapping[str, Any]) -> list[str]:
    lines = [f"calibrated on {found['prompts']} of {found['offered']} prompts, ranges by {found['ranges']}"]
    for table in found["tables"]:
        never = table["never"]
        shown = never if len(never) <= NEVER_SHOWN else f"{never[:NEVER_SHOWN].rpartition(',')[0]},…"
        visited = f"  {table['tensor']}: {table['visited']} of {table['rows']} rows visited"
        lines.append(f"{visited}, never {shown}" if never else visited)
    return [*lines, *(f"  warning: {text}" for text in found["warnings"])]
