"""Tolerances: how they are written, when they are met, and what a search finds under them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.export.int8.score import Score
from textual_vision.export.int8.tolerance import (
    AT_LEAST,
    DEFAULT_TOLERANCE,
    METRICS,
    Trial,
    lines_of_table,
    pareto,
    parse_tolerance,
    tolerance_gap,
)
from textual_vision.runtime.errors import UsageError

PERFECT = Score(
    text_code_agreement=1.0,
    code_agreement=1.0,
    generator_psnr=math.inf,
    psnr=math.inf,
    megabytes=54.0,
    milliseconds=9.0,
)
METRIC = st.sampled_from(sorted(METRICS))


def term(metric: str, number: float) -> str:
    return f"{metric}{METRICS[metric]}{number:f}"


@given(st.dictionaries(METRIC, st.floats(0, 1), min_size=1))
def test_what_is_written_is_what_is_read(bounds: dict[str, float]) -> None:
    read = parse_tolerance(" , ".join(term(metric, number) for metric, number in bounds.items()))
    assert read == pytest.approx(bounds, abs=1e-6)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_hint(text: str) -> None:
    try:
        tolerance = parse_tolerance(text)
    except UsageError as error:
        assert "METRIC" in error.message or error.hint
    else:
        assert set(tolerance) <= set(METRICS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("psnr", "'psnr' is not METRIC>=NUMBER"),
        ("psnr>32", "'psnr>32' is not"),
        ("psnr>=32,", "'' is not"),
        ("psnr>=high", "is not METRIC"),
        ("psnr>=-3", "is not METRIC"),
        ("psnr>=nan", "is not METRIC"),
        ("ssim>=0.9", "unknown metric 'ssim'"),
        ("psnr<=32", "psnr can only be bounded by >="),
        ("megabytes>=3", "megabytes can only be bounded by <="),
        ("code_agreement>=97", "a share, at most 1, not 97"),
        ("psnr>=32,psnr>=33", "bounded twice"),
        ("psnr>=1," * 500, "too long"),
    ],
)
def test_what_does_not_parse_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_tolerance(text)
    assert words in caught.value.message
    assert caught.value.hint


def test_a_percentage_where_a_share_belongs_gets_the_share_as_a_hint() -> None:
    with pytest.raises(UsageError) as caught:
        parse_tolerance("code_agreement>=97")
    assert "0.97" in caught.value.hint


def test_the_default_tolerance_parses() -> None:
    assert parse_tolerance(DEFAULT_TOLERANCE)["code_agreement"] == 0.995


def test_identical_pictures_meet_any_picture_tolerance() -> None:
    assert tolerance_gap(PERFECT, parse_tolerance("psnr>=99,generator_psnr>=99,code_agreement>=1")) == 0.0


@given(METRIC, st.floats(0.1, 1), st.floats(0.05, 2))
def test_a_tolerance_is_met_on_its_own_side_of_the_bound(metric: str, bound: float, factor: float) -> None:
    score = replace(PERFECT, **{metric: bound * factor})
    met = factor >= 1 if METRICS[metric] == AT_LEAST else factor <= 1
    assert (tolerance_gap(score, {metric: bound}) == 0.0) == met


def test_the_pareto_table_leaves_out_what_another_choice_beats() -> None:
    small = replace(PERFECT, code_agreement=0.98, psnr=33.0, megabytes=15.0, milliseconds=4.0)
    worse = replace(small, psnr=31.0)
    trials = [
        Trial(label=name, modes={}, score=s) for name, s in zip("abc", (small, worse, PERFECT), strict=True)
    ]
    assert [trial.label for trial in pareto(trials)] == ["c", "a"]
    lines = lines_of_table(trials)
    assert len(lines) == 3 and lines[1].endswith("c") and "33.0" in lines[2]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 60), st.floats(1, 50)), min_size=1, max_size=12))
def test_nothing_in_the_pareto_table_is_beaten_and_everything_else_is(rows) -> None:
    trials = [
        Trial(label="", modes={}, score=replace(PERFECT, code_agreement=a, psnr=p, megabytes=m))
        for a, p, m in rows
    ]

    def beaten(one: tuple[float, ...]) -> bool:
        return any(
            other != one and other[0] >= one[0] and other[1] >= one[1] and other[2] <= one[2]
            for other in rows
        )

    table = {(t.score.code_agreement, t.score.psnr, t.score.megabytes) for t in pareto(trials)}
    assert table == {row for row in rows if not beaten(row)}
