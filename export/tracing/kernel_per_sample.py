"""Convolutions with one kernel per sample, written in torch with the batch as their groups, as products.

The groups of ONNX's Conv and ConvTranspose are a constant, so the batch cannot be their number. A convolution
becomes windows times a matrix of each sample. A transposed one becomes a matrix of each sample times the
pixels, whose products a ConvTranspose with a constant kernel adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops import core


def kernel_per_sample_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return translations of convolutions whose groups may depend on the batch, for torch's exporter."""
    aten = torch.ops.aten
    return {
        aten.conv1d.default: _translation(core.aten_conv1d),
        aten.conv2d.default: _translation(core.aten_conv2d),
        aten.conv3d.default: _translation(core.aten_conv3d),
        aten.convolution.default: _any_convolution,
    }


def _translation(of_torch: Callable[..., Any]) -> Callable[..., Any]:
    def translate(
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Sequence[int] = (1,),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        groups: Any = 1,
    ) -> Any:
        axes = x.shape[2:]
        stride, padding, dilation = (_each_axis(value, axes) for value in (stride, padding, dilation))
        if isinstance(groups, int):
            return of_torch(x, weight, bias, stride, padding, dilation, groups)
        return _convolution(x, weight, bias, stride, padding, dilation, groups)

    return translate


def _any_convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: Any,
) -> Any:
    if isinstance(groups, int):
        return core.aten_convolution(
            x, weight, bias, stride, padding, dilation, transposed, output_padding, groups
        )
    if transposed:
        return _transposed(x, weight, bias, stride, padding, dilation, output_padding, groups)
    return _convolution(x, weight, bias, stride, padding, dilation, groups)


def _convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: Any,
) -> Any:
    channels, *kernel = weight.shape[1:]
    stride, padding, dilation = (_each_axis(value, kernel) for value in (stride, padding, dilation))
    sizes = [
        (size + 2 * pad - step * (length - 1) - 1) // jump + 1
        for size, pad, step, length, jump in zip(x.shape[2:], padding, dilation, kernel, stride, strict=True)
    ]
    samples = op.Reshape(x, op.Constant(value_ints=[-1, channels, *x.shape[2:]]))
    windows = op.Conv(
        samples,
        op.CastLike(_one_place_each(channels, kernel), x),
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        group=channels,
    )
    places = channels * prod(kernel)
    matrix = op.Reshape(weight, _shape(groups, -1, places))
    columns = op.Reshape(windows, op.Constant(value_ints=[0, places, -1]))
    return _with_bias(op.MatMul(matrix, columns), bias, sizes)


def _transposed(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: Any,
) -> Any:
    channels, *kernel = weight.shape[1:]
    stride, padding, dilation, output_padding = (
        _each_axis(value, kernel) for value in (stride, padding, dilation, output_padding)
    )
    pixels = list(x.shape[2:])
    sizes = [
        (size - 1) * jump - 2 * pad + step * (length - 1) + more + 1
        for size, jump, pad, step, length, more in zip(
            pixels, stride, padding, dilation, kernel, output_padding, strict=True
        )
    ]
    places = channels * prod(kernel)
    matrix = op.Transpose(op.Reshape(weight, _shape(groups, -1, places)), perm=[0, 2, 1])
    products = op.MatMul(matrix, op.Reshape(x, _shape(groups, -1, prod(pixels))))
    found = op.ConvTranspose(
        op.Reshape(products, op.Constant(value_ints=[0, places, *pixels])),
        op.CastLike(_one_place_each(channels, kernel), x),
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        output_padding=output_padding,
        group=channels,
    )
    return _with_bias(found, bias, sizes)


def _with_bias(found: Any, bias: Any, sizes: Sequence[int]) -> Any:
    """Return (1, groups × channels, *sizes), as torch lays it out; `bias` has one value for each channel."""
    found = op.Reshape(found, op.Constant(value_ints=[1, -1, *sizes]))
    if bias is None:
        return found
    return op.Add(found, op.Reshape(bias, op.Constant(value_ints=[1, -1, *[1] * len(sizes)])))


def _one_place_each(channels: int, kernel: Sequence[int]) -> Any:
    """Float32 (channels × places, 1, *kernel): for each channel one kernel per place, which is 1 there."""
    places = prod(kernel)
    kernels = np.eye(places, dtype=np.float32).reshape(places, 1, *kernel)
    return op.Constant(value=ir.tensor(np.tile(kernels, (channels, *[1] * (len(kernel) + 1)))))


def _shape(groups: Any, *sizes: int) -> Any:
    count = op.Reshape(groups, op.Constant(value_ints=[1]))
    return op.Concat(count, op.Constant(value_ints=list(sizes)), axis=0)


def _each_axis(value: Any, axes: Sequence[Any]) -> list[int]:
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * len(axes) if len(numbers) == 1 else numbers
