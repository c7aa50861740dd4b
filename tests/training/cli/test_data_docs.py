"""docs/reference/corpus.md says what `tv-train data` takes and what it makes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from textual_vision.training.cli.data import data_command
from textual_vision.training.data import splits
from textual_vision.training.emoji.build import SCENE_LAYOUTS
from textual_vision.training.emoji.scenes import all_scenes
from textual_vision.training.emoji.wearing import ANIMALS

TEXT = (Path(__file__).parents[3] / "docs" / "reference" / "corpus.md").read_text("utf-8")


def test_every_command_of_the_page_is_understood() -> None:
    commands = re.findall(r"^tv-train data (.*)$", TEXT, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        data_command.make_context("data", shlex.split(command))


def test_every_split_is_explained() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) >= set(splits.SPLITS)


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"{len(ANIMALS)} animals" in TEXT
    assert f"{len(all_scenes())} combinations" in TEXT
    assert f"in {SCENE_LAYOUTS} layouts each" in TEXT
    assert f"{splits.PAIR_SHARE:.0%}".replace("%", " %") in TEXT
