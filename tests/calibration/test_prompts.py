"""Prompt files: what is read, what is refused, and which prompts are taken."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.calibration.prompts import (
    FEW_PROMPTS,
    CalibrationWarning,
    choose_for_coverage,
    distinct_prompts,
    random_prompts,
    read_prompts,
)
from textual_vision.runtime.errors import IntegrityError, UsageError

MANY = [f"dog number {index}" for index in range(FEW_PROMPTS)]


def write(folder: Path, data: bytes) -> Path:
    path = folder / "prompts.txt"
    path.write_bytes(data)
    return path


def test_prompts_are_lines_without_comments_blanks_and_extra_spaces(tmp_path: Path) -> None:
    lines = ["# ours", "", *MANY, "  red   apple \r"]
    read = read_prompts(write(tmp_path, "\n".join(lines).encode()))
    assert read.texts == (*MANY, "red apple")
    assert read.repeated == 0


def test_a_byte_order_mark_is_not_part_of_the_first_prompt(tmp_path: Path) -> None:
    assert read_prompts(write(tmp_path, b"\xef\xbb\xbf" + "\n".join(MANY).encode())).texts[0] == MANY[0]


@pytest.mark.parametrize("data", [b"", b"\n\n  \n", b"# nothing but comments\n"])
def test_a_file_without_a_prompt_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UsageError, match="no prompt"):
        read_prompts(write(tmp_path, data))


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="line 2 is not UTF-8"):
        read_prompts(write(tmp_path, b"dog\ncaf\xe9\n"))


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="zero byte"):
        read_prompts(write(tmp_path, b"dog\0cat\n"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(UsageError, match="is a folder"):
        read_prompts(tmp_path)


def test_prompts_that_all_say_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all 3 prompts say 'a dog'"):
        read_prompts(write(tmp_path, b"a dog\na  dog\na dog\n"))


def test_repeated_prompts_count_once_and_are_warned_of() -> None:
    with pytest.warns(CalibrationWarning, match="1 of 33 prompts repeat another"):
        found = distinct_prompts([*MANY, MANY[0].upper()], "here")
    assert found.texts == tuple(MANY)
    assert found.repeated == 1


def test_few_prompts_are_warned_of() -> None:
    with pytest.warns(CalibrationWarning, match="only 2 different prompts"):
        found = distinct_prompts(["a dog", "a cat"], "here")
    assert found.texts == ("a dog", "a cat")


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=40))
def test_every_prompt_is_kept_exactly_once_up_to_case(texts: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        try:
            kept = distinct_prompts(texts, "here").texts
        except UsageError:
            assert len({text.casefold() for text in texts}) == 1 < len(texts)
            return
    assert {text.casefold() for text in kept} == {text.casefold() for text in texts}
    assert len({text.casefold() for text in kept}) == len(kept)
    assert set(kept) <= set(texts)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_a_hint(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("any"), data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        try:
            assert all(text.strip() == text and text for text in read_prompts(path).texts)
        except UsageError as error:
            assert error.hint


def test_coverage_takes_the_prompt_with_the_most_new_rows_first() -> None:
    rows = [np.array([1, 2]), np.array([1, 2, 3]), np.array([9]), np.array([3, 4])]
    assert choose_for_coverage(rows, 3) == [1, 2, 3]


def test_when_all_rows_are_visited_the_choice_starts_a_new_round() -> None:
    rows = [np.array([1]), np.array([1, 2]), np.array([2])]
    assert choose_for_coverage(rows, 3) == [1, 0, 2]


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=12), st.integers(0, 15))
def test_a_choice_never_repeats_and_is_as_long_as_it_can_be(rows: list[list[int]], count: int) -> None:
    chosen = choose_for_coverage([np.array(row, np.int64) for row in rows], count)
    assert len(chosen) == len(set(chosen)) == min(count, len(rows))


def test_random_words_are_of_the_vocabulary_and_only_with_a_warning() -> None:
    words = ("dog", "cat", "##s", "[PAD]", "9")
    tokenizer = json.dumps({"model": {"vocab": {word: i for i, word in enumerate(words)}}}).encode()
    with pytest.warns(CalibrationWarning, match="random words"):
        prompts = random_prompts(tokenizer, 10)
    assert len(prompts) == 10 and set(" ".join(prompts).split()) == {"dog", "cat"}


@pytest.mark.parametrize("text", [b"{}", b'{"model": {"vocab": {"##s": 1}}}'])
@pytest.mark.filterwarnings("ignore::textual_vision.calibration.prompts.CalibrationWarning")
def test_a_tokenizer_without_words_has_no_random_prompts(text: bytes) -> None:
    with pytest.raises(IntegrityError, match="no words"):
        random_prompts(text, 1)
