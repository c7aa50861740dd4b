"""An ONNX file as the few dataclasses that checks need: operators, constants without values, types.

All of the file is read strictly (see `wire`); large constants are skipped over.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import Any

from textual_vision.runtime.graph.onnx_fields import MODEL, TYPE
from textual_vision.runtime.graph.wire import Reader, Span, WireError

# ONNX's number of each element type that our export writes; the field that holds its values where `raw_data`
# does not; their size in bytes; their letter for `struct`.
FLOAT, UINT8, INT8, INT32, INT64, BOOL, FLOAT16, DOUBLE = 1, 2, 3, 6, 7, 9, 10, 11
ELEMENTS = {
    FLOAT: ("float_data", 4, "f"),
    UINT8: ("int32_data", 1, "B"),
    INT8: ("int32_data", 1, "b"),
    INT32: ("int32_data", 4, "i"),
    INT64: ("int64_data", 8, "q"),
    BOOL: ("int32_data", 1, "?"),
    FLOAT16: ("int32_data", 2, "e"),
    DOUBLE: ("double_data", 8, "d"),
}
DATA_FIELDS = {"raw_data", *(one for one, _, _ in ELEMENTS.values())}
RANK_LIMIT = 16
DIMENSION_LIMIT = 1 << 31
SHORT = 64  # values: longer constants are no shape, and are not read
NAME_LIMIT = 1024  # characters

# ONNX's number of an attribute's type → the field that holds its value
ATTRIBUTE_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A constant: `dtype` is ONNX's number; `values` are None where there are more than `SHORT`."""

    dtype: int
    dims: tuple[int, ...]
    values: tuple[float, ...] | None

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An operator. `attributes` are int, str, lists of int or str, a Tensor, or None for floats."""

    op_type: str
    domain: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueType:
    """The type of an input, output or intermediate tensor; None in `dims` is a size that varies."""

    dtype: int
    dims: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphModel:
    """A model. `opsets` are (domain, version); `declared` has the types that are given for intermediates."""

    ir_version: int
    opsets: list[tuple[str, int]]
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, ValueType] = field(default_factory=dict)
    outputs: dict[str, ValueType] = field(default_factory=dict)
    declared: dict[str, ValueType] = field(default_factory=dict)


def model_from_bytes(data: bytes) -> GraphModel:
    """Read a whole .onnx file; raises WireError for anything that our export never writes."""
    reader = Reader(data)
    model = reader.read((0, len(data)), MODEL)
    if "graph" not in model:
        raise WireError("it holds no graph")
    graph = model["graph"]
    types: dict[bytes, ValueType] = {}
    inputs, outputs, declared = (
        _values(data, reader, graph.get(name, []), types) for name in ("input", "output", "value_info")
    )
    return GraphModel(
        ir_version=model.get("ir_version", 0),
        opsets=[(one.get("domain", ""), one.get("version", 0)) for one in model.get("opset_import", [])],
        nodes=[_node(data, one) for one in graph.get("node", [])],
        constants=_constants(data, graph.get("initializer", [])),
        inputs=inputs,
        outputs=outputs,
        declared=declared,
    )


def _node(data: bytes, node: dict[str, Any]) -> Node:
    attributes: dict[str, Any] = {}
    for one in node.get("attribute", []):
        name = one.get("name", "")
        if name in attributes:
            raise WireError("an operator has an attribute twice")
        attributes[name] = _attribute(data, one)
    return Node(
        op_type=node.get("op_type", ""),
        domain=node.get("domain", ""),
        inputs=node.get("input", []),
        outputs=node.get("output", []),
        attributes=attributes,
    )


def _attribute(data: bytes, attribute: dict[str, Any]) -> Any:
    name = ATTRIBUTE_FIELDS.get(attribute.get("type", 0))
    given = [key for key in ATTRIBUTE_FIELDS.values() if key in attribute]
    if name is None or given not in ([], [name]):
        raise WireError("an attribute's value is not of its type")
    if name == "t":
        if not given:
            raise WireError("an attribute's tensor is missing")
        return tensor_from_fields(data, attribute["t"])
    empty: dict[str, Any] = {"i": 0, "s": "", "ints": [], "strings": []}
    return None if name in ("f", "floats") else attribute.get(name, empty[name])


def _constants(data: bytes, tensors: list[dict[str, Any]]) -> dict[str, Tensor]:
    constants: dict[str, Tensor] = {}
    for one in tensors:
        name = _checked_name(one.get("name", ""))
        if name in constants:
            raise WireError("two constants have the same name")
        constants[name] = tensor_from_fields(data, one)
    return constants


def tensor_from_fields(data: bytes, fields: dict[str, Any]) -> Tensor:
    """A tensor whose type, sizes and number of values agree; raises WireError."""
    dtype, dims = fields.get("data_type", 0), tuple(fields.get("dims", ()))
    if dtype not in ELEMENTS:
        raise WireError(f"a constant of element type {dtype}, which export never writes")
    _check_sizes(dims)
    own, size, letter = ELEMENTS[dtype]
    given = [name for name in DATA_FIELDS if name in fields]
    if not set(given) <= {"raw_data", own} or len(given) > 1:
        raise WireError("a constant's values are not of its type, or are given twice")
    count = math.prod(dims)
    raw: Span | None = fields.get("raw_data")
    if raw is not None:
        found = (raw[1] - raw[0]) / size
    else:
        found = fields.get(own, 0) if own in ("float_data", "double_data") else len(fields.get(own, ()))
    if found != count:
        raise WireError(f"a constant of {count} elements has the values of {found:g}")
    values: tuple[float, ...] | None = None
    if raw is not None and count <= SHORT:
        values = struct.unpack(f"<{count}{letter}", data[raw[0] : raw[1]])
    elif own == "int64_data" and count <= SHORT:
        values = tuple(fields.get(own, ()))
    return Tensor(dtype=dtype, dims=dims, values=values)


def _values(
    data: bytes, reader: Reader, values: list[dict[str, Any]], types: dict[bytes, ValueType]
) -> dict[str, ValueType]:
    found: dict[str, ValueType] = {}
    for one in values:
        name = _checked_name(one.get("name", ""))
        if name in found:
            raise WireError("two values have the same name")
        start, end = one.get("type", (0, 0))
        encoded = data[start:end]
        if encoded not in types:
            types[encoded] = _value_type(reader.read((start, end), TYPE))
        found[name] = types[encoded]
    return found


def _value_type(fields: dict[str, Any]) -> ValueType:
    if "tensor_type" not in fields:
        raise WireError("a value without a tensor's type")
    tensor = fields["tensor_type"]
    dtype = tensor.get("elem_type", 0)
    if dtype not in ELEMENTS:
        raise WireError(f"a tensor of element type {dtype}, which export never writes")
    if "shape" not in tensor:
        return ValueType(dtype=dtype, dims=None)
    dims = tuple(one.get("dim_value") for one in tensor["shape"].get("dim", []))
    _check_sizes([one for one in dims if one is not None])
    return ValueType(dtype=dtype, dims=dims)


def _check_sizes(dims: tuple[int, ...] | list[int]) -> None:
    if len(dims) > RANK_LIMIT or not all(0 <= one < DIMENSION_LIMIT for one in dims):
        raise WireError("a tensor of impossible sizes")


def _checked_name(name: str) -> str:
    if not name or len(name) > NAME_LIMIT:
        raise WireError(f"a name of {len(name)} characters, not between 1 and {NAME_LIMIT}")
    return name
