"""Weights in int8: a scale for each output channel, and which way every value is rounded.

To the nearest step is best when nothing is known of what the weights are multiplied with. Where the inputs
are known, an error made in one row of the matrix can be made good in the rows not rounded yet, in proportion
to how the inputs go together (E. Frantar et al., "GPTQ", ICLR 2023, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from textual_vision.calibration.ranges import LEVELS
from textual_vision.calibration.samples import Inputs
from textual_vision.export.int8.layers import LINEAR, Layer, array_of
from textual_vision.export.int8.observer import observed

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int8 = npt.NDArray[np.int8]

SMALLEST_SCALE = 1e-12  # of a channel that is all zeros
SHRINKS = np.linspace(1.0, 0.7, 13)  # of the largest weight, tried as the channel's limit
DAMPING = 0.01  # of the mean square of the inputs, added to every one's
BLOCK = 128  # rows that are rounded before the rest of the matrix hears of it


@dataclass(frozen=True, kw_only=True)
class QuantisedWeight:
    """`values` int8 in the weight's shape; `scales` float32 (channels,) or () for one scale."""

    values: Int8
    scales: Float32
    axis: int | None

    def dequantised(self) -> Float32:
        """What the backends compute with."""
        return self.values.astype(np.float32) * _broadcast(self.scales, self.values.ndim, self.axis)


def quantised_weight(weight: Float32, axis: int | None, *, search: bool = True) -> QuantisedWeight:
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
    return QuantisedWeight(values=_rounded(weight, best_scales, axis), scales=best_scales, axis=axis)


def nearest_weights(model: onnx.ModelProto, layers: Sequence[Layer]) -> dict[str, QuantisedWeight]:
    """By the weight's name, every layer's, each value rounded to the nearest step."""
    by_weight = {layer.weight: layer for layer in layers}
    return {
        name: quantised_weight(np.asarray(array_of(model, name), np.float32), layer.axis)
        for name, layer in by_weight.items()
    }


def weights_for_inputs(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    nearest: Mapping[str, QuantisedWeight],
    inputs: Sequence[Inputs],
) -> dict[str, QuantisedWeight]:
    """The matrices of `nearest` rounded anew so that products of the layers' real inputs err least.

    The scales stay. Left out are those that lose nothing as they are.
    """
    chosen = [layer for layer in layers if layer.kind == LINEAR and layer.axis is not None]
    chosen = [layer for layer in chosen if not np.array_equal(*_both(model, nearest, layer))]
    products = _products(model, chosen, inputs)
    found = {}
    for layer in chosen:
        assert layer.activation is not None and layer.axis is not None
        weight = array_of(model, layer.weight).astype(np.float64)
        matrix = weight if layer.axis == 1 else weight.T  # (inputs, outputs)
        values = _rounded_for(matrix, products[layer.activation], nearest[layer.weight].scales)
        found[layer.weight] = QuantisedWeight(
            values=np.ascontiguousarray(values if layer.axis == 1 else values.T),
            scales=nearest[layer.weight].scales,
            axis=layer.axis,
        )
    return found


def _both(
    model: onnx.ModelProto, nearest: Mapping[str, QuantisedWeight], layer: Layer
) -> tuple[Float32, Float32]:
    return array_of(model, layer.weight), nearest[layer.weight].dequantised()


def _products(
    model: onnx.ModelProto, layers: Sequence[Layer], inputs: Sequence[Inputs]
) -> dict[str, Float64]:
    """By activation Σ xᵀx over all rows x that the layers read, (inputs, inputs)."""
    names = list(dict.fromkeys(layer.activation for layer in layers if layer.activation is not None))
    sums: dict[str, Float64] = {}
    for values in observed(model, names, inputs):
        for name in names:
            x = values[name].reshape(-1, values[name].shape[-1]).astype(np.float32, copy=False)
            sums[name] = sums.get(name, 0.0) + (x.T @ x).astype(np.float64)
    return sums


def _rounded_for(weight: Float64, products: Float64, scales: Float32) -> Int8:
    """`weight` (inputs, outputs) in steps of `scales` (outputs,); loud inputs first, quiet ones make good."""
    order = np.argsort(-np.diag(products))
    left, known = weight[order], products[np.ix_(order, order)].copy()
    known[np.diag_indices_from(known)] += DAMPING * np.mean(np.diag(known)) + SMALLEST_SCALE
    upper = np.linalg.cholesky(np.linalg.inv(known)).T  # its row i: how row i's error spreads to those after
    steps = np.zeros_like(left)
    for start in range(0, len(left), BLOCK):
        block = slice(start, min(start + BLOCK, len(left)))
        spread = upper[block, block]
        errors = _round_block(left[block], spread, scales, steps[block])
        left[block.stop :] -= upper[block, block.stop :].T @ errors
    values = np.empty(steps.shape, np.int8)
    values[order] = steps.astype(np.int8)
    return values


def _round_block(left: Float64, spread: Float64, scales: Float32, steps: Float64) -> Float64:
    """Rounds the block's rows one by one into `steps`; gives their errors for the rows after the block."""
    errors = np.zeros_like(left)
    for row in range(len(left)):
        steps[row] = np.clip(np.rint(left[row] / scales), -LEVELS, LEVELS)
        errors[row] = (left[row] - steps[row] * scales) / spread[row, row]
        left[row + 1 :] -= np.outer(spread[row, row + 1 :], errors[row])
    return errors


def _scales(largest: npt.NDArray[np.floating]) -> Float32:
    return np.maximum(np.asarray(largest, np.float64) / LEVELS, SMALLEST_SCALE).astype(np.float32)


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
