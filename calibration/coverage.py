"""Coverage: which rows of its codebooks a model's samples visit.

INT8 ranges are read from samples. A codebook row that no sample visits may lead to values outside of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.backends.session import Array
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import StageSpec

TOKENS = "tokens"  # the axis of tokens in a stage's spec
FEW_ROWS = 0.5  # share of a table's visited rows below which a calibration warns


@dataclass(frozen=True, kw_only=True)
class TableCoverage:
    """The rows of a table that samples visit; a table with groups counts the rows of all groups."""

    tensor: str
    rows: int
    visited: int
    never: tuple[int, ...]  # group * rows per group + row

    @property
    def share(self) -> float:
        """Visited rows, 0 … 1."""
        return self.visited / self.rows


def rows_visited(
    stages: Sequence[StageSpec], tables: Mapping[str, int], tensors: Mapping[str, Array]
) -> npt.NDArray[np.int64]:
    """Return the distinct rows that one sample's `tensors` visit, tables numbered apart, int64 (rows,).

    `tables` maps the tensor of codes to the rows of one group. See `prompts.choose_for_coverage`.
    """
    found, offset = [], 0
    for name, rows in tables.items():
        visited, size = _visited(stages, tensors, name, rows)
        found.append(visited + offset)
        offset += size
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def coverage_of(
    stages: Sequence[StageSpec], tables: Mapping[str, int], samples: Sequence[Mapping[str, Array]]
) -> tuple[TableCoverage, ...]:
    """Return each table's coverage by the `samples`, each given by all its tensors."""
    return tuple(_coverage(stages, name, rows, samples) for name, rows in tables.items())


def warning_about_few_rows(table: TableCoverage) -> str:
    """Return a warning when little of the table was visited, "" otherwise."""
    if table.share >= FEW_ROWS:
        return ""
    text = f"calibration visits {table.visited} of the {table.rows} rows behind {table.tensor!r}"
    return f"{text}; more or more varied prompts are better"


def _coverage(
    stages: Sequence[StageSpec], name: str, rows: int, samples: Sequence[Mapping[str, Array]]
) -> TableCoverage:
    parts = [_visited(stages, tensors, name, rows) for tensors in samples]
    visited = np.unique(np.concatenate([part for part, _ in parts]))
    size = parts[0][1]
    never = np.setdiff1d(np.arange(size), visited)
    return TableCoverage(tensor=name, rows=size, visited=len(visited), never=tuple(never.tolist()))


def _visited(
    stages: Sequence[StageSpec], tensors: Mapping[str, Array], name: str, rows: int
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the distinct rows in one batch, and the number of rows of the table.

    Codes of words, (batch, tokens, groups), are counted where the mask is 1, a table for every group; codes
    of pictures, (batch, height, width), have one table.
    """
    shapes = {spec.name: spec.shape for stage in stages for spec in stage.outputs}
    if name not in shapes:
        raise UsageError(
            f"a codebook is named for {name!r}, which no stage gives", "name the tensor of codes"
        )
    codes = tensors[name].astype(np.int64)
    if shapes[name][1] != TOKENS:
        return np.unique(codes), rows
    groups = codes.shape[2]
    words = codes[tensors["attention_mask"] == 1] + np.arange(groups) * rows
    return np.unique(words), rows * groups
