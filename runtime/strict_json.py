"""JSON into frozen dataclasses, strictly: what is not as declared is an IntegrityError naming the field."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from textual_vision.runtime.errors import IntegrityError

T = TypeVar("T")
SHOWN_CHARACTERS = 40
DAMAGED_HINT = "the file is damaged or was not written by tv-export: export the bundle again"


class UnknownFieldError(IntegrityError):
    """An object has a field that its dataclass does not have; `known` are the fields that it has."""

    def __init__(self, where: str, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"{where}: unknown field {_shown(name)}", DAMAGED_HINT)
        self.name = name
        self.known = known


def json_from_bytes(data: bytes, name: str) -> object:
    """The JSON value in UTF-8 `data`; `name` is the file, for the error.

    NaN, infinities, a key given twice and anything that Python cannot parse are IntegrityErrors.
    """
    try:
        value: object = json.loads(
            data.decode("utf-8"),
            parse_constant=_refuse_number,
            parse_float=_finite,
            object_pairs_hook=_object,
        )
        if b"\\u" in data:  # escapes can spell half a surrogate pair, which no text can hold
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:  # the decoding errors are ValueErrors
        raise IntegrityError(f"{name}: not valid JSON: {error}", DAMAGED_HINT) from None
    return value


def _refuse_number(text: str) -> object:
    raise ValueError(f"{text[:SHOWN_CHARACTERS]} is not a finite number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse_number(text)
    return number


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def dataclass_from_json(kind: type[T], value: object, where: str) -> T:
    """An instance of the dataclass `kind` from a parsed JSON object; `where` names it in errors.

    Every field of the dataclass is known to the JSON and every key of the JSON to the dataclass; only fields
    with a default may be missing. Types are exact: true is not an int, 3 is not a string; an int is a float.
    """
    decoded = _decode(kind, value, where)
    assert isinstance(decoded, kind)
    return decoded


def json_from_dataclass(value: object) -> object:
    """The plain lists and dicts of a dataclass, in the order of its fields, for `json.dumps`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_from_dataclass(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: json_from_dataclass(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [json_from_dataclass(item) for item in value]
    return value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(kind: Any, value: object, where: str) -> object:
    if kind is object:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    origin = get_origin(kind)
    if origin is tuple:
        return _decode_tuple(get_args(kind)[0], value, where)
    if origin is dict:
        return _decode_dict(get_args(kind)[1], value, where)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), value, where)
    return _decode_plain(kind, value, where)


def _decode_dataclass(kind: Any, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(value) - set(fields)):
        raise UnknownFieldError(where, unknown[0], tuple(fields))
    for name, field in fields.items():
        optional = (
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        )
        if name not in value and not optional:
            raise IntegrityError(f"{where}: field {name!r} is missing", DAMAGED_HINT)
    hints = _hints(kind)
    decoded: object = kind(
        **{name: _decode(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    )
    return decoded


def _decode_tuple(item_kind: Any, value: object, where: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    return tuple(_decode(item_kind, item, f"{where}[{index}]") for index, item in enumerate(value))


def _decode_dict(item_kind: Any, value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    return {key: _decode(item_kind, item, f"{where}.{_bare(key)}") for key, item in value.items()}


def _decode_union(kinds: tuple[Any, ...], value: object, where: str) -> object:
    for kind in kinds:
        if kind is type(None):
            if value is None:
                return None
        elif _is_plain(kind) and type(value) is kind:
            return value
    if float in kinds and type(value) is int:
        return _decode_plain(float, value, where)
    rest = [kind for kind in kinds if kind is not type(None) and not _is_plain(kind)]
    if rest and value is not None:
        return _decode(rest[0], value, where)
    names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
    raise _wrong(where, names, value)


def _is_plain(kind: Any) -> bool:
    return kind in (str, int, float, bool)


def _decode_plain(kind: Any, value: object, where: str) -> object:
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:
        raise _wrong(
            where, {str: "a string", int: "an integer", float: "a number", bool: "a boolean"}[kind], value
        )
    return value


def _wrong(where: str, expected: str, value: object) -> IntegrityError:
    return IntegrityError(f"{where}: expected {expected}, found {_shown(value)}", DAMAGED_HINT)


def _shown(value: object) -> str:
    """`value` in one short line of ASCII, whatever it is: it comes from an untrusted file."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = ascii(value) if not isinstance(value, int) or abs(value) < 2**64 else "a huge integer"
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _bare(key: str) -> str:
    return _shown(key)[1:-1] if key.isprintable() else _shown(key)
