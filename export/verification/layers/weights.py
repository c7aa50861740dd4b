"""Compare the weights that a graph stores with the checkpoint's, table by table and row by row.

Tables whose shape no constant of the graph has (folded, merged or packed ones) cannot be compared so. They
are counted; stages and tables compare them by their effect.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from textual_vision.export.model.stage import Stage

MIN_VALUES = 256  # smaller tables are compared by their effect alone
MIN_MATCH = 0.5  # share of equal rows that makes a constant the table's
EXACT_ERROR = 1e-6
ROUNDED_ERROR = 2e-3  # of a row in float16, relative
INT8_ERROR = 0.08  # of a row in int8 by channel, after corrections
STORAGE = ("Cast", "Mul", "DequantizeLinear", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity")
# Attention's scale is folded into the matrices of queries and keys: 2 to the power of −quarter / 4. The
# distance to a codebook's rows has their products times −2.
SCALES = (*(2.0 ** (-quarter / 4) for quarter in range(17)), -2.0)

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """The comparison of a stage's weights.

    `wrong` maps tables to the rows that differ. `compared` and `values` count the values that were found in
    the graph and all of them; `error` is the largest relative error of a row that passed.
    """

    wrong: Mapping[str, tuple[int, ...]]
    compared: int
    values: int
    error: float


@dataclass(frozen=True, kw_only=True)
class _Constant:
    values: Float32
    limit: float


def compare_weights(stage: Stage, graph: bytes) -> StoredWeights:
    """Return the comparison of the stage's parameters and buffers with the graph's constants."""
    by_size: dict[int, list[_Constant]] = {}
    for constant in _constants(graph):
        by_size.setdefault(constant.values.size, []).append(constant)
    wrong: dict[str, tuple[int, ...]] = {}
    compared = values = 0
    largest = 0.0
    for name, table in _tables(stage).items():
        values += table.size
        match = _best_match(table, by_size.get(table.size, ()))
        if match is None:
            continue
        compared += table.size
        errors, limit = match
        rows = np.flatnonzero(~(errors <= limit))
        if rows.size:
            wrong[name] = tuple(rows.tolist())
        largest = max(largest, float(errors[errors <= limit].max(initial=0.0)))
    return StoredWeights(wrong=wrong, compared=compared, values=values, error=largest)


def _tables(stage: Stage) -> dict[str, Float32]:
    """The large float tables of the modules, and those of the arranged module that is exported."""
    inference = None if stage.inference_module is None else stage.inference_module()
    found: dict[str, Float32] = {}
    seen: set[bytes] = set()
    for module in filter(None, (stage.module, inference)):
        for name, value in module.state_dict().items():
            if value.dim() >= 2 and value.numel() >= MIN_VALUES and value.is_floating_point():
                table = value.detach().float().cpu().numpy()
                key = table.tobytes()[:4096] + str(table.shape).encode()
                if key not in seen:
                    seen.add(key)
                    found[name] = table
    return found


def _best_match(table: Float32, constants: list[_Constant] | tuple[()]) -> tuple[Float32, float] | None:
    """The errors by row and their limit, of the constant with the most equal rows; None below MIN_MATCH."""
    best: tuple[float, Float32, float] | None = None
    flat = _rows(table)
    filled = np.linalg.norm(flat, axis=1) > 0  # rows of zeros equal those of any other table
    if not filled.any():
        return None
    for constant in constants:
        for candidate in _layouts(constant.values, table.shape):
            errors = _row_errors(flat, _rows(candidate))
            share = float((errors <= constant.limit)[filled].mean())
            if share >= MIN_MATCH and (best is None or share > best[0]):
                best = share, errors, constant.limit
    return None if best is None else best[1:]


def _rows(table: Float32) -> Float32:
    """A table of vectors as (vectors, width); of other tensors, such as kernels, a row for each output."""
    return table.reshape(-1, table.shape[-1]) if table.ndim == 3 else table.reshape(len(table), -1)


def _layouts(values: Float32, shape: tuple[int, ...]) -> Iterator[Float32]:
    """The constant in the table's shape: as it is, or with its two axes swapped."""
    if values.shape == shape or (values.size == np.prod(shape) and values.shape[0] == shape[0]):
        yield values.reshape(shape)
    if values.ndim == 2 and len(shape) == 2 and values.shape == shape[::-1]:
        yield values.T
    if values.ndim == 3 and values.shape == (shape[0], *shape[:0:-1]):
        yield values.transpose(0, 2, 1)


def _row_errors(expected: Float32, found: Float32) -> Float32:
    """Each row's relative error, after one scale of SCALES for the whole table."""
    squares = np.maximum((expected * expected).sum(1), 1e-30)
    products = (expected * found).sum(1) / squares
    factor = float(np.median(products[squares > 1e-30])) if (squares > 1e-30).any() else 1.0
    scale = min(SCALES, key=lambda one: abs(one - factor))
    norms = np.linalg.norm(expected, axis=1)
    errors = np.linalg.norm(found / np.float32(scale) - expected, axis=1)
    relative: Float32 = np.where(norms > 0, errors / np.maximum(norms, 1e-30), errors)
    return relative


def _constants(graph: bytes) -> Iterator[_Constant]:
    """The graph's large float constants, as the float32 that their storage means."""
    model = onnx.load_from_string(graph)
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    limits = {name: _limit(value) for name, value in known.items()}
    for node in model.graph.node:
        if node.op_type in STORAGE and all(name in known for name in node.input if name):
            given = {name: known[name] for name in node.input if name}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                (value,) = ReferenceEvaluator(node).run(None, given)
            known[node.output[0]] = np.asarray(value)
            is_int8 = node.op_type == "DequantizeLinear"
            limits[node.output[0]] = INT8_ERROR if is_int8 else max(limits[name] for name in given)
    for name, value in known.items():
        if value.ndim >= 2 and value.size >= MIN_VALUES and value.dtype in (np.float32, np.float16):
            yield _Constant(values=value.astype(np.float32), limit=limits[name])


def _limit(value: npt.NDArray[np.generic]) -> float:
    return ROUNDED_ERROR if value.dtype == np.float16 else EXACT_ERROR
