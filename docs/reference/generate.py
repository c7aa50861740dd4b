"""Write reference pages from the code: `cli.md` from click, `training-config.md` from the dataclasses.

Usage: `make reference`, or `python docs/reference/generate.py`. With `--check` nothing is written, and the
exit code is 1 if a page is out of date.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from textual_vision.export.cli.main import command as export_command
from textual_vision.runtime.cli.main import command as generate_command
from textual_vision.training.cli.main import command as train_command
from textual_vision.training.config import TrainConfig
from textual_vision.training.config_file import CONFIG_FOLDER

FOLDER = Path(__file__).parent
COMMAND = "make reference"
COMMANDS = {"tv-generate": generate_command, "tv-export": export_command, "tv-train": train_command}
FIELD = re.compile(r"    (\w+): ")
NAME = "(a name)"  # of the config whose other fields have their defaults
HIDDEN = {"schema_version"}  # fields that no user sets


def cli_page() -> str:
    """The page with every command's usage, arguments and options."""
    lines = ["# Commands", "", _origin("the commands' own help texts"), ""]
    for name, command in COMMANDS.items():
        lines += _command_lines(name, command)
    return "\n".join(lines).rstrip() + "\n"


def _command_lines(name: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## {name}", "", "```", f"{name} {usage}", "```", "", *_help_lines(command), ""]
    options = [
        row
        for option in command.get_params(context)
        if isinstance(option, click.Option) and (row := option.get_help_record(context))
    ]
    lines += ["| option | meaning |", "|---|---|"]
    lines += [f"| `{_cell(given)}` | {_cell(meaning)} |" for given, meaning in options]
    lines.append("")
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            assert found is not None
            lines += _command_lines(f"{name} {sub}", found)
    return lines


def _help_lines(command: click.Command) -> Iterator[str]:
    """The help's paragraphs; those that click must not wrap (examples) as blocks of code."""
    for number, part in enumerate(inspect.cleandoc(command.help or "").split("\n\n")):
        if number:
            yield ""
        if part.startswith("\b\n"):
            yield from ("```", *part.splitlines()[1:], "```")
        else:
            yield " ".join(part.split())


def config_page() -> str:
    """The page with every field of a training config, its type, its default and its meaning."""
    lines = [
        "# Training configuration",
        "",
        _origin("the dataclasses of `training/config.py`"),
        "",
        "A config is a JSON object. A field that it leaves out has its default from the table.",
        "`tv-train run` takes the path of a config, or the name of a shipped one:",
        "",
        *(f"- `{path.stem}`" for path in sorted(CONFIG_FOLDER.glob("*.json"))),
        "",
    ]
    for prefix, config in _groups(TrainConfig(name=NAME), ""):
        title = f"`{prefix.rstrip('.')}`" if prefix else "The whole config"
        lines += [f"## {title}", "", _summary(type(config)), ""]
        lines += ["| field | type | default | meaning |", "|---|---|---|---|", *_rows(config, prefix), ""]
    return "\n".join(lines).rstrip() + "\n"


def _groups(config: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """A config and those in its fields, each with what the names of its fields begin with."""
    yield prefix, config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _groups(value, f"{prefix}{field.name}.")


def _rows(config: Any, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(type(config))
    meanings = meaning_by_field(type(config))
    for field in dataclasses.fields(config):
        if field.name in HIDDEN:
            continue
        name, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            shown, default = "object", f"[fields](#{name.replace('.', '').lower()})"
            meanings[field.name] = meanings.get(field.name) or _summary(type(value))
        else:
            shown, default = _type_name(hints[field.name]), _default(field, value)
        yield f"| `{name}` | {shown} | {default} | {_cell(meanings.get(field.name, ''))} |"


def _summary(kind: type[Any]) -> str:
    """The first paragraph of a class's docstring."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"list of {_type_name(typing.get_args(hint)[0])}s"
    names = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
    parts = typing.get_args(hint) or (hint,)
    return " or ".join(names[part] for part in parts)


def _default(field: dataclasses.Field[Any], value: object) -> str:
    if value == NAME:
        return "required"
    optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    return f"`{json.dumps(value)}`" + ("" if optional else "; required if the object is given")


def meaning_by_field(kind: type[Any]) -> dict[str, str]:
    """The comment of every field of a dataclass: at the end of its line, else the lines above it."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(kind).splitlines():
        code, _, comment = line.partition("  # ")
        match = FIELD.match(line)
        if line.strip().startswith("# "):
            above.append(line.strip()[2:])
        elif match:
            found[match[1]] = comment.strip() or " ".join(above)
            above = []
        elif comment and found and code.strip():
            last = list(found)[-1]
            found[last] = found[last] or comment.strip()
        elif not line.strip():
            above = []
    return found


def _origin(source: str) -> str:
    return f"This page is generated from {source} by `{COMMAND}`. Do not edit it."


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Write the pages, or check them; the exit code."""
    pages = {"cli.md": cli_page(), "training-config.md": config_page()}
    if "--check" not in sys.argv[1:]:
        for name, text in pages.items():
            (FOLDER / name).write_text(text, "utf-8")
        return 0
    stale = [name for name, text in pages.items() if (FOLDER / name).read_text("utf-8") != text]
    if stale:
        print(f"out of date: {', '.join(stale)}; run `{COMMAND}` and commit the result", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
