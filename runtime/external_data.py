"""Refuse ONNX graphs that read other files, without the onnx library.

A graph's tensor may say that its values lie in another file, at a path that the graph chooses. A bundle's
graphs carry their weights themselves, so such a tensor is an error here, before any backend sees it. Only the
parts of the protobuf format [1] that lead to tensors are walked; weights are skipped over, not read.

[1] https://protobuf.dev/programming-guides/encoding/ and the field numbers of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator

from textual_vision.runtime.errors import IntegrityError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
DEPTH_LIMIT = 32

# message → field number → message found there; only what can lead to a tensor
CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 13, 14
MODEL_GRAPH = 7


def refuse_external_data(graph: bytes, name: str) -> None:
    """Raise IntegrityError, naming the file `name`, unless `graph` is an ONNX model whole in itself."""
    try:
        has_graph = any(number == MODEL_GRAPH for number, _, _ in _fields(memoryview(graph)))
        external = _has_external(memoryview(graph), "model", 0)
    except (IndexError, ValueError) as error:
        raise IntegrityError(f"{name}: not an ONNX graph ({error})", "export the bundle again") from None
    if not has_graph:
        raise IntegrityError(f"{name}: not an ONNX graph (it holds none)", "export the bundle again")
    if external:
        hint = "export it with the weights inside the file"
        raise IntegrityError(f"{name}: the graph keeps weights in another file", hint)


def _has_external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > DEPTH_LIMIT:
        raise ValueError(f"nested deeper than {DEPTH_LIMIT}")
    children = CHILDREN[kind]
    for number, wire, value in _fields(message):
        if kind == "tensor" and number in (TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION) and value:
            return True
        if number in children and wire == BYTES:
            assert isinstance(value, memoryview)
            if _has_external(value, children[number], depth + 1):
                return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field number, wire type, value) of each field of one protobuf message."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        wire = key & 7
        if wire == VARINT:
            value, place = _varint(message, place)
            yield key >> 3, wire, value
            continue
        if wire == BYTES:
            size, place = _varint(message, place)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {place}")
        if place + size > len(message):
            raise ValueError(f"a field of {size} bytes ends after the file")
        yield key >> 3, wire, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError(f"a number of more than ten bytes at byte {place}")
