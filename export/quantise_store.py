"""Constants that stay float, in half the bytes."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST_CONSTANT = 4096  # values: below it the node costs more than it saves
PROBE_ROWS = 8
# Attention's 1/√width is folded into the matrix of queries, or its root into those of queries and of keys;
# widths are mostly powers of two, up to 256.
FACTORS = tuple(np.float32(2.0 ** (-quarter / 4)) for quarter in range(17))

Half = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]


def store_in_half(graph: onnx.ModelProto, names: Set[str] = frozenset()) -> None:
    """Stores large float32 constants as float16 with a Cast, in place, where every value is one of float16's.

    Those of `names` are rounded to that, unless a value is too large for float16; a factor for each column
    follows where that makes it exact. Checkpoints keep matrices in half precision, so what no rewrite has
    touched still is. Backends fold these nodes when they load the graph.
    """
    nodes: list[onnx.NodeProto] = []
    for tensor in list(graph.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST_CONSTANT:
            continue
        name, values = tensor.name, np.asarray(numpy_helper.to_array(tensor))
        half, factors = _halves(values)
        exact = np.array_equal(half.astype(np.float32) * factors, values)
        if not exact and not (name in names and np.isfinite(half).all()):
            continue
        scaled = bool((factors != 1).any())
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        cast = f"{name}.cast" if scaled else name
        nodes.append(
            helper.make_node("Cast", [tensor.name], [cast], name=f"{name}.cast", to=TensorProto.FLOAT)
        )
        if scaled:
            graph.graph.initializer.append(numpy_helper.from_array(factors, f"{name}.factors"))
            nodes.append(helper.make_node("Mul", [cast, f"{name}.factors"], [name], name=f"{name}.scale"))
    rest = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes, *rest])


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
