"""Range caches: written, read, and refused when they belong to something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.calibration.cache import (
    SCHEMA_VERSION,
    Calibration,
    TensorRange,
    origin_of,
    read_cache,
    write_cache,
)
from textual_vision.runtime.errors import IntegrityError, TextualVisionError, UsageError

ORIGIN = origin_of(["a dog", "a cat"], [0, 1], b"{}", {"noise": "recipe"}, {"latent": b"graph"})
RANGE = TensorRange(threshold=2.5, method="mse", low=-2.75, high=1.0)
CALIBRATION = Calibration(
    schema_version=SCHEMA_VERSION, origin=ORIGIN, samples=4, ranges={"latent": {"norm.out": RANGE}}
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    write_cache(CALIBRATION, tmp_path / "ranges.json")
    return tmp_path / "ranges.json"


def edit(path: Path, *keys: str, value: object) -> None:
    whole = json.loads(path.read_text("utf-8"))
    place = whole
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(whole), "utf-8")


def test_a_cache_is_read_as_it_was_written(cache: Path) -> None:
    assert read_cache(cache, ORIGIN) == CALIBRATION


def test_scales_for_tensorrt_are_the_thresholds_in_127_steps() -> None:
    assert CALIBRATION.scales("latent") == {"norm.out": pytest.approx(2.5 / 127)}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (origin_of(["a dog"], [0, 1], b"{}", {"noise": "recipe"}, {"latent": b"graph"}), "other prompts"),
        (origin_of(["a dog", "a cat"], [5], b"{}", {"noise": "recipe"}, {"latent": b"graph"}), "or seeds"),
        (
            origin_of(["a dog", "a cat"], [0, 1], b"[]", {"noise": "recipe"}, {"latent": b"graph"}),
            "tokenizer",
        ),
        (origin_of(["a dog", "a cat"], [0, 1], b"{}", {"noise": "x"}, {"latent": b"graph"}), "preprocessing"),
        (
            origin_of(["a dog", "a cat"], [0, 1], b"{}", {"noise": "recipe"}, {"latent": b"x"}),
            "another model",
        ),
    ],
)
def test_a_cache_of_something_else_is_refused_and_says_of_what(cache: Path, changed, words: str) -> None:
    assert changed.digest != ORIGIN.digest
    with pytest.raises(IntegrityError, match=words):
        read_cache(cache, changed)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("schema_version",), 99),
        (("ranges", "latent", "norm.out", "threshold"), 0.0),
        (("ranges", "latent", "norm.out", "threshold"), -1.0),
        (("ranges", "latent", "norm.out", "method"), "guess"),
        (("ranges", "latent", "norm.out", "low"), 9.0),
        (("ranges", "latent", "norm.out"), "wide"),
        (("samples",), "many"),
    ],
)
def test_a_cache_that_says_impossible_things_is_refused(cache: Path, keys: tuple[str, ...], value) -> None:
    edit(cache, *keys, value=value)
    with pytest.raises(IntegrityError):
        read_cache(cache, ORIGIN)


def test_a_missing_cache_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no calibration cache"):
        read_cache(tmp_path / "none.json", ORIGIN)


def test_changing_one_digest_changes_the_name() -> None:
    assert replace(ORIGIN, prompts="0" * 64).digest != ORIGIN.digest


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_hint(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "ranges.json"
    path.write_bytes(data)
    with pytest.raises(TextualVisionError) as caught:
        read_cache(path, ORIGIN)
    assert caught.value.hint
