"""Refuse ONNX graphs that could read files, hang or crash a backend, or take all memory.

Everything in a bundle may be written by an attacker. A graph passes when it is one flat list of allowed
operators over tensors of the types that our export writes, complete in itself, and its sizes are within
limits. What depends on values at run time is not bounded here; `isolated` runs are for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.graph.model import (
    ELEMENTS,
    FLOAT,
    FLOAT16,
    INT8,
    UINT8,
    GraphModel,
    Node,
    Tensor,
    model_from_bytes,
)
from textual_vision.runtime.graph.operators import ALLOWED, KEEPS_SIZE, MOVES
from textual_vision.runtime.graph.wire import WireError

Values = tuple[float, ...]

GRAPH_LIMIT_BYTES = (1 << 31) - 1  # protobuf reads no larger message
IR_VERSIONS = range(8, 14)
OPSETS = range(17, 24)
NODES_LIMIT = 50_000
PLACES_LIMIT = 1024  # inputs or outputs of one operator
ELEMENTS_LIMIT = 1 << 26  # of a tensor whose size the file gives: 256 MiB of float32
WINDOW_LIMIT = 1 << 10  # a convolution's kernel size, stride, dilation or padding
INT_LIMIT = 1 << 20
LARGE_INTEGERS = ("Constant", "Shape")  # operators with attributes that mean "to the end"
# ONNX Runtime takes a file with these four bytes at byte 4 for its own format, whatever else it is.
ORT_FORMAT = b"ORTM"

WINDOWS = ("dilations", "kernel_shape", "output_padding", "output_shape", "pads", "strides", "blocksize")
# Attributes that name an element type; 0 is "as the input".
TYPE_ATTRIBUTES = ("dtype", "output_dtype", "stash_type", "to")
# Operators with an input that says how large the result is: its place, and whether by a factor.
SIZE_INPUTS = {
    "AffineGrid": {1: False},
    "CenterCropPad": {1: False},
    "Col2Im": {1: False},
    "ConstantOfShape": {0: False},
    "DFT": {1: False},
    "Expand": {1: False},
    "OneHot": {1: False},
    "Pad": {1: False},
    "Range": {},
    "Resize": {2: True, 3: False},
    "Tile": {1: True},
}
AGAIN_HINT = "export the bundle again"


def check_graph(data: bytes, name: str) -> None:
    """Raise IntegrityError, naming the file `name`, unless `data` is a graph as our export writes it."""
    try:
        if len(data) > GRAPH_LIMIT_BYTES:
            raise WireError(f"{len(data)} bytes, at most {GRAPH_LIMIT_BYTES} are read")
        if data[4:8] == ORT_FORMAT:
            raise WireError("it is in ONNX Runtime's own format")
        _check_model(model_from_bytes(data))
    except WireError as error:
        raise IntegrityError(f"{name}: not a graph for a bundle: {error}", AGAIN_HINT) from None


def _check_model(model: GraphModel) -> None:
    if model.ir_version not in IR_VERSIONS:
        raise WireError(f"IR version {model.ir_version}, known are {_span(IR_VERSIONS)}")
    if [domain for domain, _ in model.opsets] != [""]:
        raise WireError("it imports other operators than ONNX's own")
    if (version := model.opsets[0][1]) not in OPSETS:
        raise WireError(f"opset {version}, known are {_span(OPSETS)}")
    if len(model.nodes) > NODES_LIMIT:
        raise WireError(f"{len(model.nodes)} operators, at most {NODES_LIMIT} are read")
    for node in model.nodes:
        _check_node(node)
    _check_order(model)
    _check_declared(model)
    _check_quantization(model)
    _check_growth(model)


def _span(known: range) -> str:
    return f"{known.start} to {known.stop - 1}"


def _check_node(node: Node) -> None:
    if node.domain or node.op_type not in ALLOWED:
        what = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise WireError(f"the operator {what[:100]!a} is not allowed in a bundle")
    if len(node.inputs) > PLACES_LIMIT or len(node.outputs) > PLACES_LIMIT:
        raise WireError(f"{node.op_type}: more than {PLACES_LIMIT} inputs or outputs")
    for name, value in node.attributes.items():
        if name in WINDOWS:
            numbers = value if isinstance(value, list) else [value]
            if not all(isinstance(one, int) and 0 <= one <= WINDOW_LIMIT for one in numbers):
                raise WireError(f"{node.op_type}: {name} not between 0 and {WINDOW_LIMIT}")
        elif name in TYPE_ATTRIBUTES:
            if value != 0 and value not in ELEMENTS:
                raise WireError(f"{node.op_type}: an element type that export never writes")
        elif name == "num_outputs" and value != len(node.outputs):
            raise WireError(f"{node.op_type}: another number of outputs than it says")
        elif isinstance(value, int) and node.op_type not in LARGE_INTEGERS and abs(value) > INT_LIMIT:
            raise WireError(f"{node.op_type}: an attribute of impossible size")


def _check_order(model: GraphModel) -> None:
    """Each operator takes what is known before it, and each name is given once."""
    known = set(model.constants)
    for name in (*model.inputs, *(name for node in model.nodes for name in node.outputs if name)):
        if name in known:
            raise WireError("two tensors have the same name")
        known.add(name)
    known = {*model.constants, *model.inputs, ""}
    for node in model.nodes:
        if not known.issuperset(node.inputs):
            raise WireError(f"an input of {node.op_type} is given by no operator before it")
        known.update(node.outputs)
    if not known.issuperset(model.outputs):
        raise WireError("an output is given by no operator")


def _check_declared(model: GraphModel) -> None:
    for values in (model.inputs, model.outputs, model.declared):
        for value in values.values():
            count = math.prod(max(one, 1) for one in value.dims or () if one is not None)
            if count > ELEMENTS_LIMIT:
                raise WireError(f"a tensor of {count} elements, at most {ELEMENTS_LIMIT} are allowed")


def _check_quantization(model: GraphModel) -> None:
    """Scales and zero points are constants that fit what they scale: backends trust them without a look."""
    types = {name: constant.dtype for name, constant in model.constants.items()}
    for node in model.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _check_scale(node, model.constants, types)
        elif node.op_type in MOVES and node.inputs and node.inputs[0] in types:
            types.update(dict.fromkeys(node.outputs, types[node.inputs[0]]))


def _check_scale(node: Node, constants: dict[str, Tensor], types: dict[str, int]) -> None:
    x, scale_name, zero_name = (*node.inputs, "", "", "")[:3]
    scale, zero = constants.get(scale_name), constants.get(zero_name)
    if scale is None or scale.dtype not in (FLOAT, FLOAT16) or len(scale.dims) > 1:
        raise WireError(f"{node.op_type}: its scale is no constant of floats")
    if zero_name and (zero is None or zero.dims != scale.dims or zero.dtype not in (INT8, UINT8)):
        raise WireError(f"{node.op_type}: its zero point is no constant of integers like its scale")
    if node.attributes.get("block_size", 0):
        raise WireError(f"{node.op_type}: blocks are not allowed")
    given = zero.dtype if zero is not None else INT8
    if node.op_type == "QuantizeLinear":
        if zero is None and node.attributes.get("output_dtype", 0) != INT8:
            raise WireError("QuantizeLinear: without a zero point")
        types.update(dict.fromkeys(node.outputs, given))
    elif types.get(x) != given:
        raise WireError("DequantizeLinear: what it takes is not of its zero point's type")
    if (taken := constants.get(x)) is not None and scale.count != 1:
        axis = node.attributes.get("axis", 1)
        rank = len(taken.dims)
        if not -rank <= axis < rank or taken.dims[axis] != scale.count:
            raise WireError(f"{node.op_type}: {scale.count} scales do not fit what they scale")


def _check_growth(model: GraphModel) -> None:
    """No tensor is larger than the limit, as far as constants tell: a lower bound of each one's elements."""
    short = {name: one.values for name, one in model.constants.items() if one.values is not None}
    least: dict[str, float] = {name: one.count for name, one in model.constants.items()}
    for node in model.nodes:
        if node.op_type == "Constant":
            constant = _constant_values(node)
            if constant is not None:
                short.update(dict.fromkeys(node.outputs, constant))
        count = _least_elements(node, short, least)
        if count > ELEMENTS_LIMIT:
            problem = f"{node.op_type} gives {count:.3g} elements, at most {ELEMENTS_LIMIT} are allowed"
            raise WireError(problem)
        if count > 1:
            least.update(dict.fromkeys(node.outputs, count))


def _constant_values(node: Node) -> tuple[float, ...] | None:
    value = next(iter(node.attributes.values()), None)
    if isinstance(value, Tensor):
        return value.values
    if isinstance(value, int):
        return (value,)
    return tuple(value) if isinstance(value, list) and all(isinstance(one, int) for one in value) else None


def _least_elements(node: Node, short: Mapping[str, Values], least: Mapping[str, float]) -> float:
    """A lower bound of the elements that `node` gives, by the values and the elements of its inputs."""
    sizes = [least.get(name, 1) for name in node.inputs] or [1]
    op, count = node.op_type, 1.0
    if op in KEEPS_SIZE:
        count = sum(sizes) if op == "Concat" else max(sizes)
    if op not in SIZE_INPUTS:
        return count
    for place, grows in SIZE_INPUTS[op].items():
        values = short.get(node.inputs[place]) if place < len(node.inputs) else None
        if values:
            given = math.prod(max(one, 1) for one in values) if op != "Pad" else _padded(values)
            count = max(count, given * (sizes[0] if grows else 1))
    return _range_length(node, short) if op == "Range" else count


def _padded(pads: Values) -> float:
    half = len(pads) // 2
    return math.prod(1 + max(a, 0) + max(b, 0) for a, b in zip(pads[:half], pads[half:], strict=False))


def _range_length(node: Node, short: Mapping[str, Values]) -> float:
    given = [short.get(name) for name in node.inputs]
    start, limit, delta = (one[0] if one else None for one in (*given, None, None, None)[:3])
    if start is None or limit is None or delta is None:
        return 1.0
    return (limit - start) / delta if delta else math.inf
