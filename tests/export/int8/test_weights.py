"""Weights rounded for the inputs that they are multiplied with."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from textual_vision.export.int8.gptq import gptq_weights
from textual_vision.export.int8.layers import quantizable_layers
from textual_vision.export.int8.weights import round_to_nearest_weights

RANDOM = np.random.default_rng(0)
WIDTH, OUTPUTS = 160, 24  # wider than one block of rows


def product(weight: np.ndarray, op: str) -> onnx.ModelProto:
    options = {"transB": 1} if op == "Gemm" else {}
    nodes = [helper.make_node(op, ["x", "w"], ["y"], **options)]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", OUTPUTS])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def correlated(rows: int) -> np.ndarray:
    """Inputs that lie near a space of few dimensions, always the same one."""
    basis = np.random.default_rng(1).standard_normal((12, WIDTH))
    values = RANDOM.standard_normal((rows, 12)) @ basis + 0.05 * RANDOM.standard_normal((rows, WIDTH))
    return values.astype(np.float32)


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_products_of_other_inputs_of_the_same_kind_err_less_than_with_the_nearest(op: str) -> None:
    weight = RANDOM.standard_normal((OUTPUTS, WIDTH) if op == "Gemm" else (WIDTH, OUTPUTS)).astype(np.float32)
    model = product(weight, op)
    nearest = round_to_nearest_weights(model, quantizable_layers(model))
    rounded = gptq_weights(model, quantizable_layers(model), nearest, [{"x": correlated(64)}])
    x = correlated(200)

    def error(found: np.ndarray) -> float:
        difference = found - weight
        return float(np.square(x @ (difference.T if op == "Gemm" else difference)).sum())

    assert error(rounded["w"].dequantized()) < 0.5 * error(nearest["w"].dequantized())
    np.testing.assert_array_equal(rounded["w"].scales, nearest["w"].scales)
    assert rounded["w"].values.dtype == np.int8 and abs(rounded["w"].values.astype(int)).max() <= 127


def test_weights_that_int8_holds_exactly_are_left_alone() -> None:
    steps = RANDOM.integers(-127, 128, (WIDTH, OUTPUTS))
    steps[0] = 127
    model = product((steps * np.float32(0.25)).astype(np.float32), "MatMul")
    nearest = round_to_nearest_weights(model, quantizable_layers(model))
    np.testing.assert_array_equal(nearest["w"].values, steps)
    assert not gptq_weights(model, quantizable_layers(model), nearest, [{"x": correlated(8)}])


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    model = product(RANDOM.standard_normal((WIDTH, OUTPUTS)).astype(np.float32), "MatMul")
    nearest = round_to_nearest_weights(model, quantizable_layers(model))
    x = correlated(64)
    x[:, :40] = 0
    rounded = gptq_weights(model, quantizable_layers(model), nearest, [{"x": x}])
    assert np.isfinite(rounded["w"].dequantized()).all()
