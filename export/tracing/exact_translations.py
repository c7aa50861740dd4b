"""Translations of operators for which torch's exporter writes what not every backend and opset reads.

Circular padding becomes slices and Concat (Pad's "wrap" needs opset 19, and OpenVINO lacks it). Resizing with
antialiasing becomes products with constant matrices (opset 17 lacks it, and OpenVINO computes another
picture). Shifts of signed integers become products and quotients: ONNX shifts unsigned ones only. Indices of
int32 become int64: GatherND and ScatterND read no other. Distances, cumulative products and hypotenuses have
no operator in ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops import core, nn
from torch import Tensor

END = np.iinfo(np.int64).max
WIDTH = 2
ROWS_BY_DIFFERENCES = 25  # torch.cdist computes more rows by products
NO_PRODUCTS = 2  # cdist's mode "donot_use_mm_for_euclid_dist"


def exact_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The operators in ONNX, for torch's exporter."""
    aten = torch.ops.aten
    return {
        aten.pad.default: _padded,
        aten._upsample_bilinear2d_aa.vec: _resizer(aten._upsample_bilinear2d_aa.vec),
        aten._upsample_bicubic2d_aa.vec: _resizer(aten._upsample_bicubic2d_aa.vec),
        aten.rrelu.default: _rrelu,
        aten.hypot.default: _hypotenuse,
        aten.cumprod.default: _cumulative_product,
        aten.cdist.default: _distances,
        aten.index.Tensor: _indexed,
        aten._unsafe_index.Tensor: _indexed,
        aten.index_put.default: _index_put,
        aten._unsafe_index_put.default: _index_put,
        **dict.fromkeys(
            (
                aten.__lshift__.Scalar,
                aten.__lshift__.Tensor,
                aten.bitwise_left_shift.Tensor,
                aten.bitwise_left_shift.Tensor_Scalar,
            ),
            _shifted_left,
        ),
        **dict.fromkeys(
            (
                aten.__rshift__.Scalar,
                aten.__rshift__.Tensor,
                aten.bitwise_right_shift.Tensor,
                aten.bitwise_right_shift.Tensor_Scalar,
            ),
            _shifted_right,
        ),
    }


def _padded(x: Any, pad: Sequence[Any], mode: str = "constant", value: Any = None) -> Any:
    if mode != "circular":
        return nn.aten_pad(x, pad, mode, value)
    rank = len(x.shape)
    for index in range(0, len(pad), 2):  # from the last axis to the first, as torch counts
        before, after = int(pad[index]), int(pad[index + 1])
        axis = rank - 1 - index // 2
        head = [_slice(x, -before, END, axis)] if before else []
        tail = [_slice(x, 0, after, axis)] if after else []
        if head or tail:
            x = op.Concat(*head, x, *tail, axis=axis)
    return x


def _slice(x: Any, start: int, end: int, axis: int) -> Any:
    return op.Slice(x, *(op.Constant(value_ints=[number]) for number in (start, end, axis)))


def _resizer(operator: Any) -> Callable[..., Any]:
    """The translation of a resize with antialiasing, which is linear and separable: rows, then columns."""

    def translate(
        x: Any, output_size: Sequence[Any] | None, align_corners: bool, scale_factors: Any = None
    ) -> Any:
        sizes = list(x.shape[2:])
        known = [*sizes, *(output_size or ())]
        if not all(isinstance(size, int) for size in known):
            raise RuntimeError("resizing with antialiasing needs known sizes")
        rows, columns = (
            _resize_matrix(operator, axis, sizes, output_size, align_corners, scale_factors)
            for axis in (0, 1)
        )
        product = op.MatMul(op.CastLike(_constant(rows), x), x)
        return op.MatMul(product, op.CastLike(_constant(columns.T), x))

    return translate


def _resize_matrix(
    operator: Any,
    axis: int,
    sizes: Sequence[int],
    output_size: Sequence[int] | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None,
) -> Any:
    """Float32 (new size, size): each unit vector, resized along its axis, is a column."""
    size = sizes[axis]
    # torch 2.13 resizes pictures of one column wrongly.
    units = torch.eye(size)[None, :, :, None].expand(1, size, size, WIDTH).contiguous()
    wanted = None if output_size is None else [output_size[axis], WIDTH]
    factors = None if scale_factors is None else [scale_factors[axis], 1.0]
    found: Tensor = operator(units, wanted, align_corners, factors)
    return found[0, :, :, 0].T.contiguous().numpy()


def _constant(array: np.ndarray[Any, Any]) -> Any:
    return op.Constant(value=ir.tensor(np.ascontiguousarray(array)))


def _rrelu(
    x: Any, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Any:
    return op.LeakyRelu(x, alpha=(lower + upper) / 2)  # in eval mode


def _shifted_left(x: Any, places: Any) -> Any:
    return op.Mul(x, _power_of_two(x, places))


def _shifted_right(x: Any, places: Any) -> Any:
    power = _power_of_two(x, places)
    return op.Div(op.Sub(x, op.Mod(x, power)), power)  # Mod has the sign of `power`: rounded down


def _power_of_two(x: Any, places: Any) -> Any:
    if isinstance(places, int):
        return op.CastLike(op.Constant(value_int=2**places), x)
    return op.CastLike(op.Pow(op.Constant(value_int=2), op.Cast(places, to=int(ir.DataType.INT64))), x)


def _hypotenuse(x: Any, y: Any) -> Any:
    return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(y, y)))


def _indexed(x: Any, indices: Sequence[Any]) -> Any:
    return core.aten_index(x, _int64_indices(indices))


def _index_put(x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    return core.aten_index_put(x, _int64_indices(indices), values, accumulate)


def _int64_indices(indices: Sequence[Any]) -> list[Any]:
    return [
        _int64(index) if index is not None and index.dtype == ir.DataType.INT32 else index
        for index in indices
    ]


def _int64(index: Any) -> Any:
    found = op.Cast(index, to=int(ir.DataType.INT64))
    found.shape, found.dtype = index.shape, ir.DataType.INT64
    return found


def _cumulative_product(x: Any, dim: int, dtype: Any = None) -> Any:
    """Return products of doubling lengths: after k steps each value is the product of the last 2^k."""
    size = x.shape[dim]
    if not isinstance(size, int) or dtype is not None:
        raise RuntimeError("cumprod needs an axis of known size and its input's dtype")
    axis = dim % len(x.shape)
    shift = 1
    while shift < size:
        one = op.CastLike(op.Constant(value_float=1.0), x)
        ones = op.Expand(one, op.Shape(_slice(x, 0, shift, axis)))
        x = op.Mul(x, op.Concat(ones, _slice(x, 0, -shift, axis), axis=axis))
        shift *= 2
    return x


def _distances(x: Any, y: Any, p: float = 2.0, compute_mode: int | None = None) -> Any:
    """Return Euclidean distances (..., rows of x, rows of y) by products for many rows, as torch does."""
    if p != 2.0:
        raise RuntimeError("cdist needs p=2")
    last = op.Constant(value_ints=[-1])
    if compute_mode != NO_PRODUCTS and any(
        not isinstance(rows, int) or rows > ROWS_BY_DIFFERENCES for rows in (x.shape[-2], y.shape[-2])
    ):
        rank = len(y.shape)
        turned = op.Transpose(y, perm=[*range(rank - 2), rank - 1, rank - 2])
        squares = op.Unsqueeze(op.ReduceSumSquare(y, last, keepdims=0), op.Constant(value_ints=[-2]))
        products = op.Mul(op.CastLike(op.Constant(value_float=-2.0), x), op.MatMul(x, turned))
        total = op.Add(op.Add(products, op.ReduceSumSquare(x, last, keepdims=1)), squares)
        return op.Sqrt(op.Max(total, op.CastLike(op.Constant(value_float=0.0), x)))
    rows, columns = (op.Constant(value_ints=[place]) for place in (-2, -3))
    return op.ReduceL2(op.Sub(op.Unsqueeze(x, rows), op.Unsqueeze(y, columns)), last, keepdims=0)
