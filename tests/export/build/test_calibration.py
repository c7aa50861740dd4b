"""The calibration of a build: prompts chosen, rows told, ranges as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.calibration.cache import TensorRange, origin_of, read_cache
from textual_vision.calibration.tensorrt_cache import scales_from_cache
from textual_vision.export.build.calibration import (
    calibration_files,
    calibration_notes,
    choose_prompts,
    ranges_from_cache,
    spans_of_rows,
)
from textual_vision.export.model.reference_batches import reference_batches
from textual_vision.export.model.stage import StagedModel
from textual_vision.runtime.errors import UsageError

ORIGIN = origin_of(["a dog"], [0], b"{}", {}, {"latent": b"graph"})
NARROW = TensorRange(threshold=2.0, method="mse", low=-2.0, high=1.0)
WIDE = replace(NARROW, threshold=4.0)
OFFERED = ("a a", "a a a", "a a a a", "dog wearing sunglasses", "green forest with river")


def rows_by_prompt(model: StagedModel, prompts: tuple[str, ...]) -> list[set[tuple[int, int]]]:
    """(table, row) of every prompt alone: a table for each group of the words' codes, and the pictures'."""
    found = []
    for batch in reference_batches(model, prompts, samples=len(prompts), seed=0):
        for mask, words, picture in zip(
            *(batch.tensors[name] for name in ("attention_mask", "text_codes", "codes")), strict=True
        ):
            rows = {(group, int(code)) for word in words[mask == 1] for group, code in enumerate(word)}
            found.append(rows | {(-1, int(code)) for code in picture.ravel()})
    return found


def test_each_prompt_is_chosen_for_the_rows_that_it_adds(tiny_model: StagedModel) -> None:
    rows = rows_by_prompt(tiny_model, OFFERED)
    first, second = choose_prompts(tiny_model, OFFERED, count=2, seed=0)
    assert len(rows[first]) == max(map(len, rows)) > min(map(len, rows))
    assert len(rows[second] - rows[first]) == max(len(one - rows[first]) for one in rows) > 0


def test_rows_visited_and_never_visited_add_up_in_the_notes(tiny_model: StagedModel) -> None:
    batches = reference_batches(tiny_model, OFFERED, samples=5, seed=0)
    found = calibration_notes(tiny_model, batches, offered=9, ranges="auto")
    assert (found["prompts"], found["offered"]) == (5, 9)
    tables = found["tables"]
    assert isinstance(tables, list) and len(tables) == 2
    for table in tables:
        spans = [[int(end) for end in span.split("-")] for span in table["never"].split(",") if span]
        assert sum(span[-1] - span[0] + 1 for span in spans) == table["rows"] - table["visited"]


def test_drawings_without_margins_are_the_same(tiny_model: StagedModel) -> None:
    (told,) = reference_batches(tiny_model, OFFERED, samples=2, seed=0)
    (plain,) = reference_batches(tiny_model, OFFERED, samples=2, seed=0, margins=False)
    assert told.margins and not plain.margins
    assert told.tensors.keys() == plain.tensors.keys()
    assert all((told.tensors[name] == value).all() for name, value in plain.tensors.items())


def test_a_model_that_names_no_codebooks_is_warned_of(tiny_model: StagedModel) -> None:
    batches = reference_batches(tiny_model, OFFERED, samples=2, seed=0)
    found = calibration_notes(replace(tiny_model, tables={}), batches, offered=2, ranges="auto")
    warnings = found["warnings"]
    assert isinstance(warnings, list) and any("declares no codebook sizes" in text for text in warnings)


@given(st.sets(st.integers(0, 60)))
def test_spans_name_every_row_once(rows: set[int]) -> None:
    text = spans_of_rows(sorted(rows))
    named: list[int] = []
    for span in filter(None, text.split(",")):
        ends = [int(end) for end in span.split("-")]
        named += range(ends[0], ends[-1] + 1)
    assert named == sorted(rows)


def test_a_tensor_of_two_stages_has_the_wider_scale_in_tensorrts_cache(tmp_path: Path) -> None:
    ranges = {"latent": {"text": NARROW}, "generator": {"text": WIDE, "x": NARROW}}
    files = calibration_files(ORIGIN, ranges, 3)
    ours, theirs = (f"calibration/{ORIGIN.digest}.{ending}" for ending in ("json", "cache"))
    assert list(files) == [ours, theirs]
    scales = {"text": pytest.approx(4.0 / 127), "x": pytest.approx(2.0 / 127)}
    assert scales_from_cache(files[theirs]) == scales
    (tmp_path / "ranges.json").write_bytes(files[ours])
    assert read_cache(tmp_path / "ranges.json", ORIGIN).ranges == ranges


def test_a_cache_by_another_method_than_asked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    path.write_bytes(
        calibration_files(ORIGIN, {"latent": {"x": NARROW}}, 1)[f"calibration/{ORIGIN.digest}.json"]
    )
    assert ranges_from_cache(path, ORIGIN, "auto") == ranges_from_cache(path, ORIGIN, "mse")
    with pytest.raises(UsageError, match="of the method mse, not entropy"):
        ranges_from_cache(path, ORIGIN, "entropy")


def test_drawing_leaves_torch_with_the_threads_it_had(tiny_model: StagedModel) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        reference_batches(tiny_model, OFFERED, samples=2, seed=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
