"""Configs as JSON files."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.strict_json import (
    UnknownFieldError,
    dataclass_from_json,
    json_from_bytes,
    json_from_dataclass,
)
from textual_vision.training.config import SCHEMA_VERSION, TrainConfig
from textual_vision.training.config_rules import check_consistent

CONFIG_FOLDER = Path(__file__).parent / "configs"


def config_from_json(value: object, where: str = "config") -> TrainConfig:
    """A checked config from a parsed JSON object; `where` names it in errors.

    Raise UsageError for an unknown, missing or wrongly typed field, another schema, or fields that
    contradict each other.
    """
    version = value.get("schema_version", SCHEMA_VERSION) if isinstance(value, dict) else SCHEMA_VERSION
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{where}: schema_version is {version}, this version reads {SCHEMA_VERSION}",
            "write the config anew; docs/how-to/train-on-your-pictures.md lists the fields",
        )
    try:
        config = dataclass_from_json(TrainConfig, value, where)
    except UnknownFieldError as error:
        near = difflib.get_close_matches(error.name, error.known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(error.known)}"
        raise UsageError(error.message, hint) from None
    except IntegrityError as error:
        raise UsageError(error.message, "change this field of the config") from None
    check_consistent(config)
    return config


def load_config(name_or_path: str) -> TrainConfig:
    """A shipped config by its name, or a JSON file by its path; UsageError when it can't be read."""
    path = Path(name_or_path)
    if path.suffix != ".json":
        path = CONFIG_FOLDER / f"{name_or_path}.json"
    if not path.is_file():
        shipped = sorted(p.stem for p in CONFIG_FOLDER.glob("*.json"))
        near = difflib.get_close_matches(name_or_path, shipped, n=1)
        raise UsageError(
            f"no config {name_or_path!r}",
            f"did you mean {near[0]!r}?" if near else f"shipped: {', '.join(shipped)}; or a .json file",
        )
    try:
        value = json_from_bytes(path.read_bytes(), f"config {path}")
    except IntegrityError as error:
        raise UsageError(error.message, "write the file as JSON in UTF-8") from None
    return config_from_json(value, f"config {path.stem}")


def bytes_from_config(config: TrainConfig) -> bytes:
    """The JSON file of a config, with every field."""
    return (json.dumps(json_from_dataclass(config), indent=2) + "\n").encode()
