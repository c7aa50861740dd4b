"""Fourier transforms of known sizes as products with constant matrices.

ONNX's DFT is not in TensorRT, and OpenVINO computes another result for some of its forms. A product runs
everywhere. A complex tensor has one more axis in ONNX: its real and its imaginary part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch.onnx._internal.exporter._registration import ONNXRegistry

BY_ROOT, BY_SIZE = 1, 2  # how torch scales a transform of n values: by 1 / sqrt(n), by 1 / n
Matrix = np.ndarray[Any, Any]


def fourier_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translations of the transforms of real tensors, for torch's exporter."""
    return {torch.ops.aten._fft_r2c.default: _from_real, torch.ops.aten.stft.default: _short_time}


@contextlib.contextmanager
def exportable_fourier() -> Iterator[None]:
    """Transforms of complex tensors, which torch's table of translations excludes, are exported inside."""
    of_torch = ONNXRegistry.from_torchlib

    def registry(*arguments: Any, **options: Any) -> ONNXRegistry:
        found = of_torch(*arguments, **options)
        found.register_op(torch.ops.aten._fft_c2r.default, _to_real, is_complex=True)
        found.register_op(torch.ops.aten._fft_c2c.default, _between_complex, is_complex=True)
        return found

    with mock.patch.object(ONNXRegistry, "from_torchlib", staticmethod(registry)):
        yield


def _from_real(x: Any, dim: Sequence[int], normalization: int, onesided: bool) -> Any:
    last, rank = dim[-1] % len(x.shape), len(x.shape)
    size = _known(x.shape[last])
    count = size // 2 + 1 if onesided else size
    turned = _turns(size, count)
    matrix = np.stack([turned.real, turned.imag], -1).reshape(size, 2 * count) * _scale(size, normalization)
    order = [*(axis for axis in range(rank) if axis != last), last]
    product = op.MatMul(_transposed(x, order), op.CastLike(_constant(matrix), x))
    parts = op.Reshape(product, op.Constant(value_ints=[*[0] * (rank - 1), count, 2]))
    found = _transposed(parts, [*np.argsort(order).tolist(), rank])
    sizes = [*x.shape]
    sizes[last] = count
    for axis in dim[:-1]:
        found = _along(found, sizes, axis % rank, -1, normalization)
    return found


def _short_time(
    x: Any,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    normalized: bool = False,
    onesided: bool | None = True,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Any:
    """Return (batch, frequencies, frames, 2) of `x` (batch, samples): a convolution, one kernel per part."""
    if len(x.shape) != 2 or win_length not in (None, n_fft) or align_to_window:
        raise RuntimeError("stft needs (batch, samples) and a window as long as n_fft")
    count = n_fft if onesided is False else n_fft // 2 + 1
    turned = _turns(n_fft, count).T * _scale(n_fft, BY_ROOT if normalized else 0)
    kernels = op.CastLike(_constant(np.stack([turned.real, turned.imag], 1).reshape(2 * count, 1, n_fft)), x)
    if window is not None:
        kernels = op.Mul(kernels, window)
    signal = op.Unsqueeze(x, op.Constant(value_ints=[1]))
    parts = op.Conv(signal, kernels, strides=[hop_length or n_fft // 4])
    return op.Transpose(op.Reshape(parts, op.Constant(value_ints=[0, count, 2, -1])), perm=[0, 1, 3, 2])


def _to_real(x: Any, dim: Sequence[int], normalization: int, last_dim_size: int) -> Any:
    sizes = _complex_sizes(x)
    rank = len(sizes)
    for axis in dim[:-1]:
        x = _along(x, sizes, axis % rank, 1, normalization)
    last, size = dim[-1] % rank, _known(last_dim_size)
    count = _known(sizes[last])
    turned = _turns(size, count).conj().T * _scale(size, normalization)  # (count, size)
    # Each frequency but 0 and the middle one stands for itself and for its negative.
    weights = np.where((np.arange(count) == 0) | (2 * np.arange(count) == size), 1.0, 2.0)
    weights[size // 2 + 1 :] = 0
    turned *= weights[:, None]
    matrix = np.stack([turned.real, -turned.imag], 1).reshape(2 * count, size)
    order = [*(axis for axis in range(rank) if axis != last), last]
    product = op.MatMul(_joined(x, order, count), op.CastLike(_constant(matrix), x))
    return _transposed(product, np.argsort(order).tolist())


def _between_complex(x: Any, dim: Sequence[int], normalization: int, forward: bool) -> Any:
    sizes = _complex_sizes(x)
    for axis in dim:
        x = _along(x, sizes, axis % len(sizes), -1 if forward else 1, normalization)
    return x


def _along(x: Any, sizes: Sequence[Any], axis: int, sign: int, normalization: int) -> Any:
    """Return the transform of complex `x` along one axis; `sign` is that of the exponent."""
    size, rank = _known(sizes[axis]), len(sizes)
    turned = _turns(size, size) * _scale(size, normalization)
    if sign > 0:
        turned = turned.conj()
    of_real = np.stack([turned.real, turned.imag], -1)
    of_imaginary = np.stack([-turned.imag, turned.real], -1)
    matrix = np.stack([of_real, of_imaginary], 1).reshape(2 * size, 2 * size)
    order = [*(other for other in range(rank) if other != axis), axis]
    product = op.MatMul(_joined(x, order, size), op.CastLike(_constant(matrix), x))
    parts = op.Reshape(product, op.Constant(value_ints=[*[0] * (rank - 1), size, 2]))
    return _transposed(parts, [*np.argsort(order).tolist(), rank])


def _joined(x: Any, order: Sequence[int], size: int) -> Any:
    """Return complex `x` with its axes in `order`, the last one joined with the axis of the two parts."""
    rank = len(order)
    return op.Reshape(_transposed(x, [*order, rank]), op.Constant(value_ints=[*[0] * (rank - 1), 2 * size]))


def _turns(size: int, count: int) -> Matrix:
    """Complex128 (size, count): exp(-2 pi i j k / size)."""
    found: Matrix = np.exp(-2j * np.pi * (np.outer(np.arange(size), np.arange(count)) % size) / size)
    return found


def _scale(size: int, normalization: int) -> float:
    return float({BY_ROOT: size**-0.5, BY_SIZE: 1 / size}.get(normalization, 1.0))


def _transposed(x: Any, order: Sequence[int]) -> Any:
    return x if list(order) == sorted(order) else op.Transpose(x, perm=list(order))


def _complex_sizes(x: Any) -> list[Any]:
    return list(x.shape)[:-1]


def _known(size: Any) -> int:
    if not isinstance(size, int):
        raise RuntimeError("a Fourier transform needs an axis of known size")
    return size


def _constant(array: Matrix) -> Any:
    return op.Constant(value=ir.tensor(np.ascontiguousarray(array, dtype=np.float32)))
