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
from textual_vision.training.config import LossConfig, ModelConfig, PhaseConfig, TrainConfig, config_from_dict

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
    assert config_from_dict(TrainConfig, json.loads(block)).corpus == "folder"


def test_every_switch_of_the_page_is_a_field_of_a_config() -> None:
    (section,) = re.findall(r"## Switches\n(.*?)\n## ", TEXT, re.DOTALL)
    known = {
        field.name for kind in (TrainConfig, LossConfig, PhaseConfig) for field in dataclasses.fields(kind)
    }
    for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        for name in re.findall(r"`([\w.]+)`", cell):
            group, _, field = name.rpartition(".")
            if group.startswith("model"):
                holder: object = ModelConfig()
                for part in group.split(".")[1:]:
                    holder = getattr(holder, part)
                assert hasattr(holder, field), name
            else:
                assert field in known, name


def test_every_loss_is_explained() -> None:
    told = re.findall(r"`(?:losses\.)?(\w+)`", TEXT)
    unexplained = {field.name for field in dataclasses.fields(LossConfig)} - set(told)
    assert not unexplained
