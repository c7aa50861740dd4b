"""Protobuf, read strictly: what a lenient reader would read otherwise is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.runtime.graph import wire
from textual_vision.runtime.graph.onnx_fields import MODEL, TENSOR
from textual_vision.runtime.graph.wire import Reader, WireError, read_varint


def varint(number):
    """`number` as protobuf writes it."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def read(data, fields=MODEL):
    return Reader(data).read((0, len(data)), fields)


@given(st.integers(0, 2**64 - 1))
def test_a_number_is_read_as_it_was_written(number):
    data = varint(number)
    assert read_varint(data, 0, len(data)) == (number, len(data))


@pytest.mark.parametrize(
    "data", [b"\x80\x00", b"\xff\x00", b"\x80" * 9 + b"\x02", b"\xff" * 10, b"\x80", b""]
)
def test_a_number_in_another_encoding_is_refused(data):
    with pytest.raises(WireError):
        read_varint(data, 0, len(data))


def test_fields_are_read_by_their_names():
    data = b"\x08\x08" + b"\x12\x02ab" + b"\x42\x02\x10\x11"
    assert read(data) == {"ir_version": 8, "producer_name": "ab", "opset_import": [{"version": 17}]}


def test_lists_of_numbers_are_read_one_by_one_and_packed():
    data = b"\x08\x02" + b"\x0a\x02\x03\x04" + b"\x08" + varint(2**64 - 1)
    assert read(data, TENSOR)["dims"] == [2, 3, 4, -1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x88\x80\x80\x80\x10\x08", "not encoded as protobuf writes it"),  # field 1 with bit 32 set
        (b"\x88\x00\x08", "not encoded as protobuf writes it"),  # field 1 in two bytes
        (b"\x02\x00", "unknown field 0"),
        (b"\x7a\x00", "unknown field 15"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x0a\x00", "unknown field 1 of wire type 2"),
        (b"\x08\x08\x08\x08", "ir_version is given twice"),
        (b"\x12\x05ab", "ends after its message"),
        (b"\x12\x82\x00ab", "not encoded as protobuf writes it"),
        (b"\x12\x01\xff", "not UTF-8"),
        (b"\xca\x01\x00", "functions are not allowed"),
        (b"\xc8", "ends after its message"),
    ],
)
def test_a_field_is_refused_that_is(data, message):
    with pytest.raises(WireError, match=message):
        read(data)


def test_a_file_of_endless_fields_is_refused_in_time(monkeypatch):
    monkeypatch.setattr(wire, "VALUES_LIMIT", 1000)
    with pytest.raises(WireError, match="more than 1000 fields"):
        read(b"\x42\x00" * 1001)
    with pytest.raises(WireError, match="more than 1000 fields"):
        read(b"\x0a" + varint(1001) + b"\x01" * 1001, TENSOR)


@pytest.mark.parametrize("fields", [MODEL, TENSOR])
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(fields, data):
    try:
        read(data, fields)
    except WireError as error:
        assert len(str(error)) < 200
