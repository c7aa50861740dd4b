"""Operators in words that every backend and opset knows, where torch's own translation is not portable.

Circular padding becomes slices and Concat (Pad's "wrap" needs opset 19, and OpenVINO lacks it). Resizing with
antialiasing becomes products with constant matrices (opset 17 lacks it, and OpenVINO computes another
picture). A convolution with one kernel per sample, written with the batch as its groups, becomes a product,
since the groups of ONNX's Conv are a constant. Shifts of signed integers become products and quotients, since
ONNX shifts unsigned ones only.
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


def exact_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The operators in ONNX, for torch's exporter."""
    aten = torch.ops.aten
    return {
        aten.pad.default: _padded,
        aten._upsample_bilinear2d_aa.vec: _resizer(aten._upsample_bilinear2d_aa.vec),
        aten._upsample_bicubic2d_aa.vec: _resizer(aten._upsample_bicubic2d_aa.vec),
        aten.conv2d.default: _convolution,
        aten.rrelu.default: _rrelu,
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


def _convolution(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: Any = 1,
) -> Any:
    if isinstance(groups, int):
        return core.aten_conv2d(x, weight, bias, stride, padding, dilation, groups)
    channels, *kernel = weight.shape[1:]
    stride, padding, dilation = (_pair(value) for value in (stride, padding, dilation))
    sizes = [
        (size + 2 * pad - step * (length - 1) - 1) // jump + 1
        for size, pad, step, length, jump in zip(x.shape[2:], padding, dilation, kernel, stride, strict=True)
    ]
    places = channels * kernel[0] * kernel[1]
    # Channels of all samples lie side by side: (1, groups × channels, H, W).
    samples = op.Reshape(x, op.Constant(value_ints=[-1, channels, *x.shape[2:]]))
    one_place = np.eye(kernel[0] * kernel[1], dtype=np.float32).reshape(-1, 1, *kernel)
    windows = op.Conv(
        samples,
        op.CastLike(_constant(np.tile(one_place, (channels, 1, 1, 1))), x),
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        group=channels,
    )
    count = op.Reshape(groups, op.Constant(value_ints=[1]))
    matrix = op.Reshape(weight, op.Concat(count, op.Constant(value_ints=[-1, places]), axis=0))
    columns = op.Reshape(windows, op.Constant(value_ints=[0, places, -1]))
    found = op.Reshape(op.MatMul(matrix, columns), op.Constant(value_ints=[1, -1, *sizes]))
    if bias is None:
        return found
    return op.Add(found, op.Reshape(bias, op.Constant(value_ints=[1, -1, 1, 1])))


def _pair(value: Any) -> list[int]:
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * 2 if len(numbers) == 1 else numbers


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
