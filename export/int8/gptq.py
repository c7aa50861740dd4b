"""Weights in int8, rounded so that the products of real inputs change least (GPTQ).

An error made in one row of the matrix is compensated in the rows not rounded yet, in proportion to how the
inputs correlate (E. Frantar et al., "GPTQ", ICLR 2023, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from textual_vision.calibration.ranges import LEVELS
from textual_vision.export.graph.constants import array_of
from textual_vision.export.int8.layers import LINEAR, QuantizableLayer
from textual_vision.export.int8.observer import observe
from textual_vision.export.int8.weights import MIN_SCALE, QuantizedWeight
from textual_vision.export.model.batch import Inputs

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int8 = npt.NDArray[np.int8]

DAMPING = 0.01  # share of the mean square of the inputs, added to the diagonal
BLOCK = 128  # rows that are rounded before their errors reach the rest of the matrix


def gptq_weights(
    model: onnx.ModelProto,
    layers: Sequence[QuantizableLayer],
    nearest: Mapping[str, QuantizedWeight],
    inputs: Sequence[Inputs],
) -> dict[str, QuantizedWeight]:
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
        values = _gptq_round(matrix, products[layer.activation], nearest[layer.weight].scales)
        found[layer.weight] = QuantizedWeight(
            values=np.ascontiguousarray(values if layer.axis == 1 else values.T),
            scales=nearest[layer.weight].scales,
            axis=layer.axis,
        )
    return found


def _both(
    model: onnx.ModelProto, nearest: Mapping[str, QuantizedWeight], layer: QuantizableLayer
) -> tuple[Float32, Float32]:
    return array_of(model, layer.weight), nearest[layer.weight].dequantized()


def _products(
    model: onnx.ModelProto, layers: Sequence[QuantizableLayer], inputs: Sequence[Inputs]
) -> dict[str, Float64]:
    """By activation Σ xᵀx over all rows x that the layers read, (inputs, inputs)."""
    names = list(dict.fromkeys(layer.activation for layer in layers if layer.activation is not None))
    sums: dict[str, Float64] = {}
    for values in observe(model, names, inputs):
        for name in names:
            x = values[name].reshape(-1, values[name].shape[-1]).astype(np.float32, copy=False)
            sums[name] = sums.get(name, 0.0) + (x.T @ x).astype(np.float64)
    return sums


def _gptq_round(weight: Float64, products: Float64, scales: Float32) -> Int8:
    """`weight` (inputs, outputs) in steps of `scales` (outputs,); loud inputs first, quiet ones make good."""
    order = np.argsort(-np.diag(products))
    left, known = weight[order], products[np.ix_(order, order)].copy()
    known[np.diag_indices_from(known)] += DAMPING * np.mean(np.diag(known)) + MIN_SCALE
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
