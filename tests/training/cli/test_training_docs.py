"""docs/how-to/train-on-your-pictures.md says what is true of commands, configs and scores."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import click
import pytest

from textual_vision.training.cli.main import command
from textual_vision.training.config import TrainConfig
from textual_vision.training.config_file import CONFIG_FOLDER, config_from_json

TEXT = (Path(__file__).parents[3] / "docs" / "how-to" / "train-on-your-pictures.md").read_text("utf-8")
COMMANDS = re.findall(r"^tv-train (\w+) ?(.*)$", TEXT, re.MULTILINE)
INLINE = re.findall(r"`tv-train (\w+)([^`]*)`", TEXT)


@pytest.mark.parametrize(("name", "arguments"), COMMANDS + INLINE)
def test_every_command_of_the_page_is_understood(name: str, arguments: str) -> None:
    known = command.get_command(click.Context(command), name)
    assert known is not None
    if arguments.strip():
        known.make_context(name, shlex.split(arguments))


def test_every_command_is_on_the_page() -> None:
    assert set(command.commands) == {name for name, _ in COMMANDS + INLINE}


def test_the_config_of_the_page_is_valid() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert config_from_json(json.loads(block)).corpus == "folder"


def fields_of(config: object, prefix: str = "") -> set[str]:
    """The dotted names of all fields that hold values."""
    found = set()
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        inner = dataclasses.is_dataclass(value)
        found |= fields_of(value, f"{prefix}{field.name}.") if inner else {prefix + field.name}
    return found


def switches() -> list[str]:
    """The fields in the first column of the page's tables of switches."""
    (section,) = re.findall(r"## Switches\n(.*?)\n## ", TEXT, re.DOTALL)
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)]


def test_every_switch_of_the_page_is_a_field_of_a_config() -> None:
    assert set(switches()) <= fields_of(TrainConfig(name="x"))


def test_every_loss_and_every_field_of_sampling_is_explained() -> None:
    explained = {
        name for name in fields_of(TrainConfig(name="x")) if name.startswith(("losses.", "sampling."))
    }
    assert explained <= set(switches())


def test_every_shipped_config_is_on_the_page() -> None:
    for path in CONFIG_FOLDER.glob("*.json"):
        assert f"`{path.stem}`" in TEXT
