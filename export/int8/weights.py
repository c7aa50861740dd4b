"""Weights rounded to the nearest int8 step, with one scale for each output channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from textual_vision.calibration.ranges import LEVELS
from textual_vision.export.graph.constants import array_of
from textual_vision.export.int8.layers import QuantizableLayer

Float32 = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]

MIN_SCALE = 1e-12  # of a channel that is all zeros
SHRINKS = np.linspace(1.0, 0.7, 13)  # of the largest weight, tried as the channel's limit


@dataclass(frozen=True, kw_only=True)
class QuantizedWeight:
    """`values` int8 in the weight's shape; `scales` float32 (channels,) or () for one scale."""

    values: Int8
    scales: Float32
    axis: int | None

    def dequantized(self) -> Float32:
        """What the backends compute with."""
        return self.values.astype(np.float32) * _broadcast(self.scales, self.values.ndim, self.axis)


def quantize_weight(weight: Float32, axis: int | None, *, search: bool = True) -> QuantizedWeight:
    """Round `weight` to the nearest int8, a scale for each index of `axis` (None: one scale).

    With `search`, each channel's limit is the one of a few below its largest weight with the least squared
    error; without, the largest weight itself.
    """
    axes = tuple(i for i in range(weight.ndim) if i != axis) if axis is not None else None
    largest = np.abs(weight).max(axis=axes)
    best_scales = _scales(largest)
    best_error = _squared_error(weight, best_scales, axis, axes)
    for shrink in SHRINKS[1:] if search else ():
        scales = _scales(largest * shrink)
        error = _squared_error(weight, scales, axis, axes)
        better = error < best_error
        best_scales = np.where(better, scales, best_scales).astype(np.float32)
        best_error = np.where(better, error, best_error)
    return QuantizedWeight(values=_rounded(weight, best_scales, axis), scales=best_scales, axis=axis)


def round_to_nearest_weights(
    model: onnx.ModelProto, layers: Sequence[QuantizableLayer]
) -> dict[str, QuantizedWeight]:
    """By the weight's name, every layer's, each value rounded to the nearest step."""
    by_weight = {layer.weight: layer for layer in layers}
    return {
        name: quantize_weight(np.asarray(array_of(model, name), np.float32), layer.axis)
        for name, layer in by_weight.items()
    }


def _scales(largest: npt.NDArray[np.floating]) -> Float32:
    return np.maximum(np.asarray(largest, np.float64) / LEVELS, MIN_SCALE).astype(np.float32)


def _rounded(weight: Float32, scales: Float32, axis: int | None) -> Int8:
    steps = weight / _broadcast(scales, weight.ndim, axis)
    rounded: Int8 = np.clip(np.rint(steps), -LEVELS, LEVELS).astype(np.int8)
    return rounded


def _squared_error(
    weight: Float32, scales: Float32, axis: int | None, axes: tuple[int, ...] | None
) -> Float32:
    back = _rounded(weight, scales, axis) * _broadcast(scales, weight.ndim, axis)
    error: Float32 = ((weight - back) ** 2).sum(axis=axes)
    return error


def _broadcast(scales: Float32, rank: int, axis: int | None) -> Float32:
    if axis is None:
        return scales
    return scales.reshape([-1 if i == axis else 1 for i in range(rank)])
