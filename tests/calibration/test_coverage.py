"""The rows of a codebook that samples visit, and a warning when they are few."""

from __future__ import annotations

import numpy as np
import pytest

from textual_vision.calibration.coverage import coverage_of, rows_visited, warning_about_few_rows
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import StageSpec, TensorSpec

STAGE = StageSpec(
    name="latent",
    inputs=(),
    outputs=(
        TensorSpec(name="codes", dtype="int64", shape=("batch", 2, 2)),
        TensorSpec(name="text_codes", dtype="int64", shape=("batch", "tokens", 2)),
    ),
)
SAMPLE = {
    "codes": np.array([[[0, 3], [3, 9]]]),
    "text_codes": np.array([[[0, 1], [3, 3]]]),
    "attention_mask": np.array([[1, 0]]),
}


def test_visited_and_unvisited_rows_add_up() -> None:
    other = {**SAMPLE, "codes": np.array([[[1, 1], [1, 15]]])}
    (table,) = coverage_of([STAGE], {"codes": 16}, [SAMPLE, other])
    assert (table.rows, table.visited, table.share) == (16, 5, 5 / 16)
    assert set(table.never) == set(range(16)) - {0, 1, 3, 9, 15}


def test_codes_of_words_are_counted_by_group_and_without_padding() -> None:
    (table,) = coverage_of([STAGE], {"text_codes": 4}, [SAMPLE])
    assert table.rows == 8
    assert set(table.never) == set(range(8)) - {0, 4 + 1}


def test_tables_are_numbered_apart() -> None:
    rows = rows_visited([STAGE], {"codes": 16, "text_codes": 4}, SAMPLE)
    assert rows.tolist() == [0, 3, 9, 16 + 0, 16 + 4 + 1]


def test_a_table_that_is_hardly_visited_is_warned_of() -> None:
    few, many = (coverage_of([STAGE], {"codes": rows}, [SAMPLE])[0] for rows in (1000, 10))
    assert warning_about_few_rows(few).startswith("calibration visits 3 of the 1000 rows behind 'codes'")
    enough = coverage_of([STAGE], {"codes": 10}, [{**SAMPLE, "codes": np.arange(8).reshape(2, 2, 2)}])[0]
    assert warning_about_few_rows(many) and not warning_about_few_rows(enough)


def test_a_codebook_of_a_tensor_that_no_stage_gives_is_refused() -> None:
    with pytest.raises(UsageError, match="'kodes', which no stage gives"):
        coverage_of([STAGE], {"kodes": 16}, [SAMPLE])
