"""Protobuf's text format, as config.pbtxt has it: https://protobuf.dev/reference/protobuf/textformat-spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

INDENT = "  "


@dataclass(frozen=True)
class Constant:
    """The name of an enumeration's value, written without quotes."""

    name: str


def text_from_fields(fields: Mapping[str, object]) -> str:
    """The message with these fields, in their order.

    A mapping is a message, a list of numbers one list, and a list of messages a field that is repeated.
    """
    return "\n".join(_lines(fields)) + "\n"


def _lines(fields: Mapping[str, object]) -> Iterator[str]:
    for name, value in fields.items():
        for one in _repeated(value):
            if isinstance(one, Mapping):
                yield f"{name} {{"
                yield from (INDENT + line for line in _lines(one))
                yield "}"
            else:
                yield f"{name}: {_scalar(one)}"


def _repeated(value: object) -> Sequence[object]:
    """The values of a field that is repeated; one value is a list of one."""
    messages = isinstance(value, list | tuple) and all(isinstance(one, Mapping) for one in value)
    return value if messages and isinstance(value, list | tuple) else [value]


def _scalar(value: object) -> str:
    if isinstance(value, Constant):
        return value.name
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_scalar(one) for one in value)}]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert isinstance(value, int), value
    return str(value)


def entries(mapping: Mapping[str, object]) -> list[dict[str, object]]:
    """A map field: one message of key and value for each entry."""
    return [{"key": key, "value": value} for key, value in mapping.items()]
