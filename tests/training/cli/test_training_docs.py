"""The training how-tos say what is true of commands and configs."""

from __future__ import annotations

import json
import re
from pathlib import Path

from doc_pages import DOCS, blocks, inline_code, shell_lines

from textual_vision.training.cli.main import command
from textual_vision.training.config_file import CONFIG_FOLDER, config_from_json

PAGE = DOCS / "how-to" / "train-on-your-pictures.md"
TRAINING_PAGES: tuple[Path, ...] = (
    PAGE,
    DOCS / "how-to" / "resume.md",
    DOCS / "how-to" / "multi-process.md",
    DOCS / "reference" / "metrics.md",
)


def test_every_command_is_on_a_page() -> None:
    lines = [line for page in TRAINING_PAGES for line in (*shell_lines(page), *inline_code(page))]
    found = {match[1] for line in lines if (match := re.match(r"tv-train (\w+)", line))}
    assert found == set(command.commands)


def test_the_config_of_the_page_is_valid() -> None:
    (block,) = blocks(PAGE, "json")
    assert config_from_json(json.loads(block)).corpus == "folder"


def test_every_shipped_config_is_on_the_page() -> None:
    for path in CONFIG_FOLDER.glob("*.json"):
        assert f"`{path.stem}`" in PAGE.read_text("utf-8")
