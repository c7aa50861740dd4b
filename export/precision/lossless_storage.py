"""Constants that stay float, in a quarter or half of the bytes."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from textual_vision.export.precision.stored_tables import (
    look_up_after_unpacking,
    look_up_before_unpacking,
)

MIN_CONSTANT_VALUES = 4096  # values: below it the node costs more than it saves
SMALLEST_ROW = 16  # values of one step, which takes as much as four of them
PROBE_ROWS = 8
LARGEST_SCALED = 1e30  # beyond it a value divided by a factor may overflow
STEP_BITS = 16  # as training.int8_grid.SCALE_BITS
# Attention's 1/√width is folded into the matrix of queries, or its root into those of queries and of keys;
# widths are mostly powers of two, up to 256.
FACTORS = tuple(np.float32(2.0 ** (-quarter / 4)) for quarter in range(17))
# Factors, and how many steps the largest value is: fewer than 127 where a part of a trained matrix is used.
GRIDS = (*((factor, 127) for factor in FACTORS), *((FACTORS[0], most) for most in range(126, 31, -1)))

Half = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]


def compressed_graph(graph: bytes, *, notes: bool = True) -> bytes:
    """The serialized graph with what `compress_lossless` can store without a loss.

    Without `notes`, shapes of values between nodes and where nodes come from are left out: people read them,
    backends do not.
    """
    model = onnx.load_from_string(graph)
    compress_lossless(model)
    if not notes:
        del model.graph.value_info[:]
        for node in model.graph.node:
            del node.metadata_props[:]
    stored: bytes = model.SerializeToString()
    return stored


def expand_constants(graph: bytes) -> bytes:
    """The serialized graph with stored constants as the float32 that they mean, but for factors of int8.

    TensorRT takes int8 constants before a DequantizeLinear only, and 8.6 none that are looked up: it stops in
    `convertMyelinWeightsToFp32`.
    """
    try:
        model = onnx.load_from_string(graph)
    except DecodeError:
        return graph  # TensorRT's own parser says what is wrong
    look_up_after_unpacking(model.graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    tables, rest = _looked_up(model.graph), []
    for node in model.graph.node:
        stored = [constants[name] for name in node.input if name in constants]
        constant = len(stored) == len(node.input)
        is_table = node.op_type == "DequantizeLinear" and node.output[0] in tables
        if constant and (is_table or _is_unpacking(node, stored)):
            given = {tensor.name: numpy_helper.to_array(tensor) for tensor in stored}
            (value,) = ReferenceEvaluator(node).run(None, given)
            constants[node.output[0]] = numpy_helper.from_array(value, node.output[0])
        else:
            rest.append(node)
    used = {name for node in rest for name in node.input} | {out.name for out in model.graph.output}
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(rest)
    model.graph.initializer.extend(tensor for name, tensor in constants.items() if name in used)
    unfolded: bytes = model.SerializeToString()
    return unfolded


def computes_in_half(graph: bytes) -> bool:
    """Whether an operator reads float16, other than those that look up or cast what is only stored in it."""
    try:
        found = onnx.load_from_string(graph).graph
    except DecodeError:
        return False  # TensorRT's own parser says what is wrong
    half = {value.name for value in found.input if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    half |= {tensor.name for tensor in found.initializer if tensor.data_type == TensorProto.FLOAT16}
    for node in found.node:
        if node.op_type == "Cast":
            to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
            half |= set(node.output if to == TensorProto.FLOAT16 else ())
        elif half.intersection(node.input):
            if node.op_type != "Gather":
                return True
            half |= set(node.output)
    return False


def _is_unpacking(node: onnx.NodeProto, stored: Sequence[TensorProto]) -> bool:
    """Whether a Cast or Mul is one that `compress_lossless` put behind an int8 constant."""
    kinds = {tensor.data_type for tensor in stored}
    return kinds == {{"Cast": TensorProto.INT8, "Mul": TensorProto.FLOAT}.get(node.op_type)}


def _looked_up(graph: onnx.GraphProto) -> set[str]:
    """The tables that Gathers look up and nothing else reads."""
    tables = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    read = {name for node in graph.node for name in node.input[node.op_type == "Gather" :]}
    return tables - read - {output.name for output in graph.output}


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """`values` times every one of `factors`, in their order, is the constant."""

    values: npt.NDArray[np.int8] | Half
    factors: Sequence[Float32]
    suffix: str


def compress_lossless(graph: onnx.ModelProto, names: Set[str] = frozenset()) -> None:
    """Stores large float32 constants as int8 or float16 with a Cast, in place, where that loses nothing.

    int8 are matrices and tables whose rows or columns are whole multiples of one number: training leaves them
    so. Those of `names` become float16 in any case, unless a value is too large for it. Products with
    numbers follow the Cast where that makes it exact. Backends fold these nodes when they load the graph,
    but for those of tables that are only looked up: see `stored_tables`.
    """
    nodes: list[onnx.NodeProto] = []
    # A layer in int8 may have its weights under the name that they get here for those who read them in float.
    taken = {tensor.name for tensor in graph.graph.initializer}
    known: dict[tuple[tuple[int, ...], bytes], str] = {}  # factors by what they are: none is stored twice
    for tensor in list(graph.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < MIN_CONSTANT_VALUES:
            continue
        name = tensor.name
        found = _stored(np.asarray(numpy_helper.to_array(tensor)), inexact=name in names)
        if found is None:
            continue
        stored_as = f"{name}.{found.suffix}"
        stored_as = f"{name}.exact.{found.suffix}" if stored_as in taken else stored_as
        tensor.CopyFrom(numpy_helper.from_array(found.values, stored_as))
        made = [name, *(f"{name}.times{i}" for i in range(len(found.factors)))][::-1]
        nodes.append(
            helper.make_node("Cast", [tensor.name], [made[0]], name=f"{name}.cast", to=TensorProto.FLOAT)
        )
        for i, factors in enumerate(found.factors):
            fresh = f"{name}.factors{i}"
            stored = known.setdefault((factors.shape, factors.tobytes()), fresh)
            if stored == fresh:
                graph.graph.initializer.append(numpy_helper.from_array(factors, fresh))
            nodes.append(helper.make_node("Mul", [made[i], stored], [made[i + 1]], name=f"{name}.scale{i}"))
    rest = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes, *rest])
    look_up_before_unpacking(graph.graph)


def _stored(values: Float32, *, inexact: bool) -> _Stored | None:
    """The smallest way to store a constant without a loss, or as float16 if `inexact` will do."""
    if not (np.abs(values) < LARGEST_SCALED).all():  # masks of attention: infinities are exact in half
        with np.errstate(over="ignore", invalid="ignore"):
            half = values.astype(np.float16)
        return _Stored(values=half, factors=[], suffix="half") if np.array_equal(half, values) else None
    if (whole := _integers(values)) is not None:
        return whole
    half, factors = _halves(values)
    exact = np.array_equal(half.astype(np.float32) * factors, values)
    if not exact and not (inexact and np.isfinite(half).all()):
        return None
    return _Stored(values=half, factors=[factors] if (factors != 1).any() else [], suffix="half")


def _integers(values: Float32) -> _Stored | None:
    """Whole numbers of a step for each row or column, times a factor of FACTORS; None if not."""
    for axis in (-1, -2) if values.ndim > 1 else ():
        if values.shape[axis] < SMALLEST_ROW:
            continue
        if not _first_fits(values, axis):
            continue
        probe = values[..., :PROBE_ROWS, :] if axis == -1 else values[..., :PROBE_ROWS]
        if _whole_numbers(probe, axis) is not None and (found := _whole_numbers(values, axis)) is not None:
            return found
    return None


def _first_fits(values: Float32, axis: int) -> bool:
    """Whether the first slice is whole numbers on one of GRIDS, all tried at once: of most constants that
    are no such numbers, not even that is.
    """
    first = values[..., 0, :] if axis == -1 else values[..., 0]
    shape = (len(GRIDS), *[1] * first.ndim)
    factors, most = (np.array(column, np.float32).reshape(shape) for column in zip(*GRIDS, strict=True))
    scaled = first / factors
    steps = _rounded_up(np.abs(scaled).max(axis=-1, keepdims=True) / most)
    exact = (np.round(scaled / steps) * steps * factors == first).all(axis=-1)
    return bool(exact.any(axis=0).all())


def _whole_numbers(values: Float32, axis: int) -> _Stored | None:
    """Steps are of the slices along `axis`."""
    shape = np.abs(values).max(axis=axis, keepdims=True).shape
    factors, steps = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    whole = np.zeros(values.shape, np.int8)
    for factor, most in GRIDS:
        largest = np.abs(values / factor).max(axis=axis, keepdims=True)
        fitting = _rounded_up(largest / np.float32(most))
        rounded = np.round(values / factor / fitting)
        exact = (rounded * fitting * factor == values).all(axis=axis, keepdims=True) & (factors == 0)
        factors, steps = np.where(exact, factor, factors), np.where(exact, fitting, steps)
        whole = np.where(exact, rounded.astype(np.int8), whole)
        if factors.all():
            scales = [steps] if (factors == 1).all() else [steps, factors]
            return _Stored(values=whole, factors=scales, suffix="int8")
    return None


def _rounded_up(steps: Float32) -> Float32:
    """To as few bits as training rounds the steps of its matrices to; 1 for rows of nothing."""
    mantissa, exponent = np.frexp(steps)
    found = np.ldexp(np.ceil(mantissa * (1 - 2.0**-21) * 2.0**STEP_BITS) / 2.0**STEP_BITS, exponent)
    return np.where(found > 0, found, 1).astype(np.float32)


def _halves(values: Float32) -> tuple[Half, Float32]:
    """What to store, and the factor for each column of a matrix, () 1 for other constants."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if values.ndim != 2 or np.array_equal(half.astype(np.float32), values):
        return half, np.ones((), np.float32)
    factors = np.ones(values.shape[1], np.float32)
    for factor in FACTORS[::-1]:  # ends with 1, which nothing beats
        columns = np.arange(len(factors))
        for rows in (slice(PROBE_ROWS), slice(None)):  # few columns pass the first rows only
            exact = _is_half(values[rows, columns], factor).all(axis=0)
            columns = columns[exact]
        factors[columns] = factor
        with np.errstate(over="ignore"):
            half[:, columns] = (values[:, columns] / factor).astype(np.float16)
    return half, factors


def _is_half(values: Float32, factor: np.float32) -> npt.NDArray[np.bool_]:
    """Which values are one of float16's times the factor, to the last bit."""
    with np.errstate(over="ignore"):
        exact: npt.NDArray[np.bool_] = (values / factor).astype(np.float16).astype(
            np.float32
        ) * factor == values
    return exact
