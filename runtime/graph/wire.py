"""Read protobuf messages strictly: every field is known, and is encoded as protobuf's own writer does it.

Protobuf readers are lenient, and each in its own way: a tag of five bytes loses its upper bits in C++, a
field that occurs twice is merged. A check that reads such bytes otherwise than the backend does checks
another graph. This reader refuses them [1]. It skips over the values of tensors and copies none.

[1] https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT_BYTES = 10
VALUES_LIMIT = 1 << 21  # fields and numbers of a file; raw values of tensors do not count
TEXT_LIMIT_BYTES = 1 << 16

# Kinds of fields. A span is (start, end) in the file.
INT, FLOAT, SPAN, TEXT, INTS, FLOATS, DOUBLES, REFUSED = range(8)
Span = tuple[int, int]
WIRE_OF_KIND = {INT: VARINT, FLOAT: FIXED32, SPAN: LENGTH, TEXT: LENGTH}
ITEM_BYTES = {FLOATS: 4, DOUBLES: 8}
ITEM_WIRES = {INTS: VARINT, FLOATS: FIXED32, DOUBLES: FIXED64}


class WireError(ValueError):
    """The bytes are no message of this kind, or not one that our export writes."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a message; `message` has the fields inside it, where it is a message itself.

    `name` is the key of its value in what `Reader.read` returns. Of a refused field it is the reason.
    """

    name: str
    kind: int = SPAN
    repeated: bool = False
    message: Fields | None = None


Fields = Mapping[int, Field]  # by tag: field number · 8 + wire type


def fields_by_tag(numbered: Iterable[tuple[int, Field]]) -> Fields:
    """The table that `Reader.read` looks tags up in, from pairs of field number and field."""
    table: dict[int, Field] = {}
    for number, field in numbered:
        if field.kind == REFUSED:
            wires: tuple[int, ...] = (VARINT, FIXED64, LENGTH, FIXED32)
        elif field.kind in ITEM_WIRES:
            wires = (ITEM_WIRES[field.kind], LENGTH)  # one by one, or packed
        else:
            wires = (LENGTH if field.message is not None else WIRE_OF_KIND[field.kind],)
        table.update({number << 3 | wire: field for wire in wires})
    return table


class Reader:
    """Reads the messages of one file, at most `VALUES_LIMIT` fields and numbers of them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = VALUES_LIMIT

    def read(self, span: Span, fields: Fields) -> dict[str, Any]:
        """The values of the message in `span` by field name; lists where a field is repeated.

        INT and INTS are signed 64-bit integers; TEXT is str; a SPAN is (start, end) of the bytes; FLOATS and
        DOUBLES are their number. A FLOAT is None: its value is not needed. Raises WireError.
        """
        data, (place, end) = self._data, span
        found: dict[str, Any] = {}
        while place < end:
            tag = data[place]
            place += 1
            if tag >= 0x80:
                tag, place = _long_tag(data, tag, place, end)
            field = fields.get(tag)
            if field is None:
                raise WireError(f"unknown field {tag >> 3} of wire type {tag & 7} at byte {place}")
            if tag & 7 == LENGTH:
                size, place = read_varint(data, place, end)
                after = place + size
                if after > end:
                    raise WireError(f"a field of {size} bytes at byte {place} ends after its message")
                value = self._value_of_bytes((place, after), field)
                place = after
            else:
                value, place = _number(data, place, end, tag & 7, field)
            self._count(1)
            _put(found, field, value)
        return found

    def _value_of_bytes(self, span: Span, field: Field) -> Any:
        if field.message is not None:
            return self.read(span, field.message)
        if field.kind == SPAN:
            return span
        if field.kind == TEXT:
            return _text(self._data, span, field.name)
        if field.kind == INTS:
            return self._packed(span)
        if field.kind == REFUSED:
            raise WireError(field.name)
        count, rest = divmod(span[1] - span[0], ITEM_BYTES[field.kind])
        if rest:
            raise WireError(f"{field.name}: {span[1] - span[0]} bytes are no whole number of values")
        return count

    def _packed(self, span: Span) -> list[int]:
        numbers, (place, end) = [], span
        while place < end:
            number, place = read_varint(self._data, place, end)
            numbers.append(_signed(number))
            self._count(1)
        return numbers

    def _count(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise WireError(f"more than {VALUES_LIMIT} fields")


def _put(found: dict[str, Any], field: Field, value: Any) -> None:
    name = field.name
    if field.kind in ITEM_BYTES:
        found[name] = found.get(name, 0) + value
    elif field.kind == INTS:
        found.setdefault(name, []).extend(value)
    elif field.repeated:
        found.setdefault(name, []).append(value)
    elif name in found:
        raise WireError(f"the field {name} is given twice")
    else:
        found[name] = value


def _text(data: bytes, span: Span, name: str) -> str:
    start, end = span
    if end - start > TEXT_LIMIT_BYTES:
        raise WireError(f"{name}: a text of {end - start} bytes, at most {TEXT_LIMIT_BYTES} are read")
    try:
        return data[start:end].decode("utf-8")
    except UnicodeDecodeError:
        raise WireError(f"{name}: not UTF-8 at byte {start}") from None


def _number(data: bytes, place: int, end: int, wire: int, field: Field) -> tuple[Any, int]:
    if field.kind == REFUSED:
        raise WireError(field.name)
    if wire == VARINT:
        number, place = read_varint(data, place, end)
        return ([_signed(number)] if field.kind == INTS else _signed(number)), place
    after = place + (4 if wire == FIXED32 else 8)
    if after > end:
        raise WireError(f"a number at byte {place} ends after its message")
    return (None if field.kind == FLOAT else 1), after  # 1 counts it


def _long_tag(data: bytes, first: int, place: int, end: int) -> tuple[int, int]:
    """A tag of two bytes; every field of ONNX has one of one or two."""
    if place == end:
        raise WireError(f"a tag at byte {place} ends after its message")
    second = data[place]
    if not 0 < second < 0x80:
        raise WireError(f"the tag at byte {place - 1} is not encoded as protobuf writes it")
    return first & 0x7F | second << 7, place + 1


def read_varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    """An unsigned number of 64 bits in its shortest encoding, and the place after it; raises WireError."""
    value = 0
    for shift in range(0, 7 * LONGEST_VARINT_BYTES, 7):
        if place >= end:
            raise WireError(f"a number at byte {place} ends after its message")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (shift and not byte) or value >> 64:
                raise WireError(f"the number before byte {place} is not encoded as protobuf writes it")
            return value, place
    raise WireError(f"a number of more than {LONGEST_VARINT_BYTES} bytes before byte {place}")


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
