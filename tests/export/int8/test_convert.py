"""int8 graphs: what is quantized, what is exact, and that integers are really computed with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from textual_vision.calibration.ranges import METHODS
from textual_vision.export.int8.bias_correction import corrected_biases
from textual_vision.export.int8.embeddings import LARGE_TABLE, scale_rows
from textual_vision.export.int8.equalization import equalize
from textual_vision.export.int8.layers import (
    FLOAT,
    HALF,
    INT8,
    WEIGHT_ONLY,
    activations_to_calibrate,
    default_modes,
    quantizable_layers,
    scale_groups,
    uncalibrated,
)
from textual_vision.export.int8.observer import calibrate_ranges
from textual_vision.export.int8.qdq import quantize_graph
from textual_vision.export.int8.weights import quantize_weight, round_to_nearest_weights
from textual_vision.export.precision import lossless_storage as quantize_store
from textual_vision.export.precision.lossless_storage import (
    MIN_CONSTANT_VALUES,
    compress_lossless,
    compressed_graph,
    computes_in_half,
    expand_constants,
)
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.errors import UsageError
from textual_vision.training.int8_grid import round_to_int8_grid

RANDOM = np.random.default_rng(0)
Feeds = dict[str, np.ndarray]


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def model_of(
    nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray], inputs, outputs
) -> onnx.ModelProto:
    values = [[helper.make_tensor_value_info(*one) for one in some] for some in (inputs, outputs)]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", *values, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="module")
def convolutions() -> onnx.ModelProto:
    """A codebook, a convolution upsampled by DepthToSpace, a residual, a last convolution."""
    node = helper.make_node
    nodes = [
        node("Gather", ["book.rows", "codes"], ["rows"]),
        node("Transpose", ["rows"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "up.weight", "up.bias"], ["wide"], pads=[1, 1, 1, 1]),
        node("DepthToSpace", ["wide"], ["large"], blocksize=2),
        node("Relu", ["large"], ["shown"]),
        node("Conv", ["shown", "side.weight", "side.bias"], ["beside"], pads=[1, 1, 1, 1]),
        node("Relu", ["beside"], ["positive"]),
        node("Add", ["shown", "positive"], ["sum"]),
        node("Conv", ["sum", "color.weight", "color.bias"], ["colors"], pads=[1, 1, 1, 1]),
        node("Neg", ["colors"], ["image"]),
    ]
    constants = {"book.rows": normal(64, 8), "up.weight": normal(32, 8, 3, 3), "up.bias": normal(32)}
    constants |= {"side.weight": normal(8, 8, 3, 3), "side.bias": normal(8)}
    constants |= {"color.weight": normal(4, 8, 3, 3), "color.bias": normal(4)}
    image = ("image", TensorProto.FLOAT, ["batch", 4, 8, 8])
    return model_of(nodes, constants, [("codes", TensorProto.INT64, ["batch", 4, 4])], [image])


@pytest.fixture(scope="module")
def products() -> onnx.ModelProto:
    """Words looked up in a large table, a layer norm, two products with a bias, distances and an ArgMin."""
    node = helper.make_node
    nodes = [
        node("Gather", ["words.table", "ids"], ["looked"]),
        node("LayerNormalization", ["looked", "norm.gain", "norm.shift"], ["normed"]),
        node("MatMul", ["normed", "first.weight"], ["first"]),
        node("Add", ["first", "first.bias"], ["moved"]),
        node("Tanh", ["moved"], ["bent"]),
        node("MatMul", ["bent", "second.weight"], ["second"]),
        node("Add", ["second", "second.bias"], ["states"]),
        node("MatMul", ["states", "centers.weight"], ["scores"]),
        node("ArgMin", ["scores"], ["codes"], axis=-1, keepdims=0),
    ]
    table = normal(LARGE_TABLE // 32, 32) * np.exp(normal(LARGE_TABLE // 32, 1))
    constants = {"words.table": table, "norm.gain": np.exp(normal(32)), "norm.shift": normal(32)}
    constants |= {"first.weight": normal(32, 48), "first.bias": normal(48), "second.weight": normal(48, 32)}
    constants |= {"second.bias": normal(32), "centers.weight": normal(32, 64)}
    outputs = [
        ("states", TensorProto.FLOAT, ["batch", "tokens", 32]),
        ("codes", TensorProto.INT64, ["batch", "tokens"]),
    ]
    return model_of(nodes, constants, [("ids", TensorProto.INT64, ["batch", "tokens"])], outputs)


@pytest.fixture(scope="module")
def product_twice() -> onnx.ModelProto:
    """One matrix that two products multiply by, as in a network that takes steps."""
    nodes = [
        helper.make_node("Gather", ["words.table", "ids"], ["looked"]),
        helper.make_node("MatMul", ["looked", "step.weight"], ["first"]),
        helper.make_node("Tanh", ["first"], ["bent"]),
        helper.make_node("MatMul", ["bent", "step.weight"], ["states"]),
    ]
    constants = {"words.table": normal(LARGE_TABLE // 32, 32), "step.weight": normal(32, 32)}
    outputs = [("states", TensorProto.FLOAT, ["batch", "tokens", 32])]
    return model_of(nodes, constants, [("ids", TensorProto.INT64, ["batch", "tokens"])], outputs)


def feeds(model: onnx.ModelProto, count: int = 3) -> list[Feeds]:
    if model.graph.input[0].name == "codes":
        return [{"codes": RANDOM.integers(0, 64, (4, 4, 4))} for _ in range(count)]
    return [{"ids": RANDOM.integers(0, LARGE_TABLE // 32, (4, 7))} for _ in range(count)]


def run(model: onnx.ModelProto, inputs: Feeds, backend: str = "onnxruntime") -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    session = open_session(model.SerializeToString(), SessionOptions(backend=backend, name="tiny.onnx"))
    return list(session.run(inputs).values())


def thresholds_of(model: onnx.ModelProto, method: str = "minmax") -> dict[str, float]:
    return {name: found.threshold for name, found in calibrate_ranges(model, feeds(model), method).items()}


def executed(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators of the graph that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def relative_error(expected: np.ndarray, found: np.ndarray) -> float:
    return float(np.sqrt(np.mean((expected - found) ** 2) / np.mean(expected**2)))


@pytest.fixture(scope="module")
def shared() -> onnx.ModelProto:
    """A matrix that a product multiplies by, and whose rows are looked up."""
    nodes = [
        helper.make_node("Gather", ["words.table", "ids"], ["looked"]),
        helper.make_node("MatMul", ["looked", "both.weight"], ["first"]),
        helper.make_node("Mod", ["ids", "count"], ["places"]),
        helper.make_node("Gather", ["both.weight", "places"], ["rows"]),
        helper.make_node("Add", ["first", "rows"], ["states"]),
    ]
    constants = {"words.table": normal(LARGE_TABLE // 32, 32), "both.weight": normal(32, 32)}
    outputs = [("states", TensorProto.FLOAT, ["batch", "tokens", 32])]
    inputs = [("ids", TensorProto.INT64, ["batch", "tokens"])]
    return model_of(nodes, {**constants, "count": np.array(32)}, inputs, outputs)


def test_layers_are_named_after_the_modules_they_come_from(convolutions, products) -> None:
    assert [layer.name for layer in quantizable_layers(convolutions)] == ["book.rows", "up", "side", "color"]
    assert [layer.name for layer in quantizable_layers(products)] == [
        "words.table",
        "first",
        "second",
        "centers",
    ]


def test_distances_that_an_argmin_compares_stay_in_float_by_default(products) -> None:
    assert [layer.name for layer in quantizable_layers(products) if layer.feeds_argmax] == ["centers"]
    assert "centers" not in default_modes(quantizable_layers(products), INT8)


def test_tables_are_stored_in_int8_but_not_computed_with(products) -> None:
    assert default_modes(quantizable_layers(products), INT8)["words.table"] == WEIGHT_ONLY


def test_rows_of_a_matrix_that_a_product_multiplies_by_are_looked_up_in_float(shared) -> None:
    assert [layer.name for layer in quantizable_layers(shared)] == ["words.table", "both"]
    graph = quantize_graph(shared, default_modes(quantizable_layers(shared), INT8), thresholds_of(shared))
    inputs = feeds(shared)[0]
    assert 0 < relative_error(run(shared, inputs)[0], run(graph, inputs)[0]) < 0.02


def test_a_matrix_in_int8_that_others_read_in_float_is_stored_for_both(shared, monkeypatch) -> None:
    monkeypatch.setattr(quantize_store, "MIN_CONSTANT_VALUES", 1)
    model = onnx.ModelProto()
    model.CopyFrom(shared)
    (matrix,) = [tensor for tensor in model.graph.initializer if tensor.name == "both.weight"]
    matrix.CopyFrom(
        numpy_helper.from_array(round_to_int8_grid(torch.from_numpy(normal(32, 32))).numpy(), "both.weight")
    )
    graph = quantize_graph(model, default_modes(quantizable_layers(model), INT8), thresholds_of(model))
    stored = {tensor.name for tensor in graph.graph.initializer if tensor.data_type == TensorProto.INT8}
    assert {"both.weight.int8", "both.weight.exact.int8"} <= stored
    inputs = feeds(model)[0]
    assert 0 < relative_error(run(model, inputs)[0], run(graph, inputs)[0]) < 0.02


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_int8_stays_near_the_float_graph_with_every_method(convolutions, products, method: str) -> None:
    for model in (convolutions, scale_rows(products)):
        modes = default_modes(quantizable_layers(model), INT8)
        graph = quantize_graph(model, modes, thresholds_of(model, method))
        inputs = feeds(model)[0]
        assert 0 < relative_error(run(model, inputs)[0], run(graph, inputs)[0]) < 0.15


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_integers_compute_what_the_graph_says_also_on_cpus_whose_fast_products_overflow(
    convolutions, products, product_twice, backend: str
) -> None:
    plain = onnxruntime.SessionOptions()  # without optimization, Q/DQ is computed in float as it stands
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for model in (convolutions, scale_rows(products), product_twice):
        graph = quantize_graph(model, default_modes(quantizable_layers(model), INT8), thresholds_of(model))
        inputs = feeds(model)[0]
        session = onnxruntime.InferenceSession(graph.SerializeToString(), plain, ["CPUExecutionProvider"])
        assert relative_error(session.run(None, inputs)[0], run(graph, inputs, backend)[0]) < 0.01


@pytest.mark.parametrize("opset", [20, 21, 23])
def test_what_is_moved_in_int8_loads_and_computes_the_same_in_every_opset(convolutions, opset) -> None:
    model, inputs = onnx.ModelProto(), feeds(convolutions)[0]
    model.CopyFrom(convolutions)
    model.opset_import[0].version = opset
    thresholds = thresholds_of(convolutions)
    for modes in ({"book.rows": WEIGHT_ONLY}, default_modes(quantizable_layers(model), INT8)):
        before = quantize_graph(convolutions, modes, thresholds)
        graph = quantize_graph(model, modes, thresholds)
        onnx.checker.check_model(graph, full_check=True)
        assert np.array_equal(run(graph, inputs)[0], run(before, inputs)[0])


def test_every_convolution_is_really_executed_in_integers(convolutions, tmp_path: Path) -> None:
    modes = default_modes(quantizable_layers(convolutions), INT8)
    assert set(modes.values()) == {INT8, WEIGHT_ONLY}
    found = executed(quantize_graph(convolutions, modes, thresholds_of(convolutions)), tmp_path)
    assert found["QLinearConv"] == 3
    assert found["Conv"] == found["FusedConv"] == 0


def test_every_product_but_the_distances_is_really_executed_in_integers(products, tmp_path: Path) -> None:
    modes = default_modes(quantizable_layers(products), INT8)
    found = executed(quantize_graph(products, modes, thresholds_of(products)), tmp_path)
    assert found["MatMulIntegerToFloat"] == 2
    assert found["MatMul"] + found["FusedMatMul"] == 1


def test_rows_are_looked_up_in_the_int8_table_itself(products, tmp_path: Path) -> None:
    graph = quantize_graph(scale_rows(products), {"words.table": WEIGHT_ONLY}, {})
    executed(graph, tmp_path)
    lookups = [n.input[0] for n in onnx.load(tmp_path / "optimized.onnx").graph.node if n.op_type == "Gather"]
    assert "words.table.int8" in lookups


def test_all_zero_points_are_zero_all_scales_float32_and_no_bias_is_quantized(convolutions, products) -> None:
    for model in (convolutions, products):
        graph = quantize_graph(model, default_modes(quantizable_layers(model), INT8), thresholds_of(model))
        constants = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
        pairs = [n for n in graph.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
        assert pairs
        for node in pairs:
            assert constants[node.input[1]].dtype == np.float32
            assert constants[node.input[2]].dtype == np.int8 and not constants[node.input[2]].any()
        assert {n.op_type for n in graph.graph.node} <= {n.op_type for n in model.graph.node} | {
            "QuantizeLinear", "DequantizeLinear", "Reshape", "Cast",
        }  # fmt: skip
        assert all(constants[name].dtype == np.float32 for name in constants if name.endswith("bias"))


def test_what_depth_to_space_moves_shares_the_scale_of_the_convolution(convolutions) -> None:
    groups = scale_groups(convolutions, default_modes(quantizable_layers(convolutions), INT8))
    assert groups["large"] == groups["wide"] == "wide"
    assert groups["planes"] == "book.rows"
    assert "large" not in activations_to_calibrate(convolutions)


def test_residual_additions_read_float(convolutions) -> None:
    graph = quantize_graph(
        convolutions, default_modes(quantizable_layers(convolutions), INT8), thresholds_of(convolutions)
    )
    (add,) = [node for node in graph.graph.node if node.op_type == "Add"]
    assert list(add.input) == ["shown", "positive"]


def test_layers_that_stay_float_give_the_same_numbers(convolutions, products) -> None:
    for model in (convolutions, products):
        inputs = feeds(model)[0]
        graph = quantize_graph(model, {}, {})
        for expected, found in zip(run(model, inputs), run(graph, inputs), strict=True):
            np.testing.assert_array_equal(expected, found)


def test_stored_weights_cost_less_accuracy_than_integer_arithmetic(products) -> None:
    scaled = scale_rows(products)
    inputs, thresholds = feeds(products)[0], thresholds_of(scaled)
    error = {
        kind: relative_error(
            run(products, inputs)[0],
            run(quantize_graph(scaled, default_modes(quantizable_layers(scaled), kind), thresholds), inputs)[
                0
            ],
        )
        for kind in (WEIGHT_ONLY, INT8)
    }
    assert error[WEIGHT_ONLY] < error[INT8]


def test_int8_weights_take_about_a_quarter_of_the_bytes(products) -> None:
    graph = quantize_graph(products, default_modes(quantizable_layers(products), WEIGHT_ONLY), {})
    assert len(graph.SerializeToString()) < 0.35 * len(products.SerializeToString())


def test_tables_with_a_magnitude_for_every_row_compute_the_same_and_lose_less(products) -> None:
    inputs = feeds(products)[0]
    scaled = scale_rows(products)
    expected = run(products, inputs)[0]
    assert relative_error(expected, run(scaled, inputs)[0]) < 1e-5
    errors = [
        relative_error(expected, run(quantize_graph(model, {"words.table": WEIGHT_ONLY}, {}), inputs)[0])
        for model in (scaled, products)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_equalizing_changes_nothing_in_float_and_helps_in_int8(products) -> None:
    inputs = feeds(products)
    equal = equalize(products, inputs)
    expected = run(products, inputs[0])[0]
    assert relative_error(expected, run(equal, inputs[0])[0]) < 1e-5
    modes = {"first": INT8}
    errors = [
        relative_error(expected, run(quantize_graph(model, modes, thresholds_of(model)), inputs[0])[0])
        for model in (equal, products)
    ]
    assert errors[0] < errors[1]


def test_corrected_biases_take_the_shift_of_the_mean_away(convolutions) -> None:
    inputs, modes = feeds(convolutions, 8), {"color": INT8}
    thresholds = {**thresholds_of(convolutions), "sum": 20.0}  # clips hard, so that the mean shifts
    biases = corrected_biases(
        convolutions,
        modes,
        thresholds,
        inputs,
        round_to_nearest_weights(convolutions, quantizable_layers(convolutions)),
    )
    assert set(biases) == {"color"}
    expected = np.concatenate([run(convolutions, one)[0] for one in inputs])
    shifts = []
    for chosen in ({}, biases):
        graph = quantize_graph(convolutions, modes, thresholds, chosen)
        found = np.concatenate([run(graph, one)[0] for one in inputs])
        shifts.append(np.abs((expected - found).mean(axis=(0, 2, 3))).max())
    assert shifts[1] < 0.5 * shifts[0]


def test_a_bias_is_left_alone_when_its_layer_stays_float(convolutions) -> None:
    inputs = feeds(convolutions)
    biases = corrected_biases(
        convolutions,
        {"side": INT8},
        thresholds_of(convolutions),
        inputs,
        round_to_nearest_weights(convolutions, quantizable_layers(convolutions)),
    )
    graph = quantize_graph(convolutions, {}, {}, biases)
    np.testing.assert_array_equal(run(convolutions, inputs[0])[0], run(graph, inputs[0])[0])


def test_constants_are_stored_in_half_only_where_no_bit_is_lost() -> None:
    exact = normal(MIN_CONSTANT_VALUES, 1).astype(np.float16).astype(np.float32)
    nodes = [helper.make_node("Add", ["x", "exact"], ["y"]), helper.make_node("Mul", ["y", "other"], ["z"])]
    shape = [MIN_CONSTANT_VALUES, 1]
    value = [("x", TensorProto.FLOAT, shape)]
    model = model_of(
        nodes, {"exact": exact, "other": normal(*shape)}, value, [("z", TensorProto.FLOAT, shape)]
    )
    inputs = {"x": normal(*shape)}
    before = run(model, inputs)[0]
    compress_lossless(model)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds == {"exact.half": TensorProto.FLOAT16, "other": TensorProto.FLOAT}
    np.testing.assert_array_equal(run(model, inputs)[0], before)


@pytest.mark.parametrize("columns", [128, 40])
def test_a_part_of_a_trained_matrix_is_stored_in_int8_like_the_whole(columns: int) -> None:
    whole = round_to_int8_grid(torch.from_numpy(normal(256, 128)))[:, :columns].T.numpy()
    shapes = [("x", TensorProto.FLOAT, [2, columns])], [("y", TensorProto.FLOAT, [2, 256])]
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": whole}, *shapes)
    inputs = {"x": normal(2, columns)}
    before = run(model, inputs)[0]
    compress_lossless(model)
    assert TensorProto.INT8 in {tensor.data_type for tensor in model.graph.initializer}
    np.testing.assert_array_equal(run(model, inputs)[0], before)


def test_notes_that_only_people_read_can_be_left_out() -> None:
    model = onnx.load_from_string(tiny_linear_with_notes())
    kept, bare = (
        onnx.load_from_string(compressed_graph(model.SerializeToString(), notes=n)) for n in (True, False)
    )
    assert kept.graph.value_info and kept.graph.node[0].metadata_props
    assert not bare.graph.value_info and not bare.graph.node[0].metadata_props
    inputs = {"x": normal(4, 8)}
    np.testing.assert_array_equal(run(kept, inputs)[0], run(bare, inputs)[0])


def tiny_linear_with_notes() -> bytes:
    shape = [4, 8]
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["y"])]
    model = model_of(nodes, {}, [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, shape)])
    model.graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, shape))
    model.graph.node[0].metadata_props.add(key="scope", value="latent")
    data: bytes = model.SerializeToString()
    return data


def test_factors_that_several_matrices_share_are_stored_once() -> None:
    whole = [RANDOM.integers(-127, 128, (64, 64)).astype(np.float32) for _ in range(2)]
    for one in whole:
        one[0] = 127  # every column reaches the end of the grid, so that all have the same steps
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])]
    shape = [4, 64]
    model = model_of(
        nodes,
        {"a": whole[0] * np.float32(2**-7), "b": whole[1] * np.float32(2**-7)},
        [("x", TensorProto.FLOAT, shape)],
        [("y", TensorProto.FLOAT, shape)],
    )
    inputs = {"x": normal(*shape)}
    before = run(model, inputs)[0]
    compress_lossless(model)
    kinds = sorted(tensor.data_type for tensor in model.graph.initializer)
    assert kinds == [TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT8]
    np.testing.assert_array_equal(run(model, inputs)[0], before)
    plain = onnx.load_from_string(expand_constants(model.SerializeToString()))
    np.testing.assert_array_equal(run(plain, inputs)[0], before)


def test_matrices_in_half_are_exact_where_a_factor_was_folded_into_columns() -> None:
    half = normal(64, 64).astype(np.float16).astype(np.float32)
    half[:, 32:] *= np.float32(32**-0.25)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    value = [("x", TensorProto.FLOAT, [4, 64])]
    model = model_of(nodes, {"w": half}, value, [("y", TensorProto.FLOAT, [4, 64])])
    inputs = {"x": normal(4, 64)}
    before = run(model, inputs)[0]
    compress_lossless(model)
    assert any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    np.testing.assert_array_equal(run(model, inputs)[0], before)


@pytest.mark.parametrize("turned", [False, True])
def test_matrices_on_the_grid_of_training_are_stored_as_int8_to_the_last_bit(turned: bool) -> None:
    matrix = round_to_int8_grid(torch.from_numpy(normal(96, 64))).numpy()
    matrix = np.ascontiguousarray(matrix.T) if turned else matrix
    matrix[..., : 32 if turned else 64] *= np.float32(32**-0.25)  # as attention's scale is folded in
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": matrix},
        [("x", TensorProto.FLOAT, [4, matrix.shape[0]])],
        [("y", TensorProto.FLOAT, [4, matrix.shape[1]])],
    )
    inputs = {"x": normal(4, matrix.shape[0])}
    before = run(model, inputs)[0]
    compress_lossless(model)
    assert [t.name for t in model.graph.initializer if t.data_type == TensorProto.INT8] == ["w.int8"]
    np.testing.assert_array_equal(run(model, inputs)[0], before)
    again = onnx.load_from_string(expand_constants(model.SerializeToString())).graph
    assert [node.op_type for node in again.node] == ["MatMul"]
    (weight,) = again.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(weight), matrix)


@pytest.mark.parametrize("steps_of", ["rows", "columns"])
def test_rows_of_a_stored_table_become_float_after_they_are_looked_up(steps_of: str) -> None:
    shape = (96, 64) if steps_of == "rows" else (64, 96)
    table = round_to_int8_grid(torch.from_numpy(normal(*shape))).numpy()
    table = table if steps_of == "rows" else np.ascontiguousarray(table.T)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["one"]),
        helper.make_node("Gather", ["table", "ids"], ["same"]),
        helper.make_node("Add", ["one", "same"], ["y"]),
    ]
    shapes = [("ids", TensorProto.INT64, ["batch", 3])], [("y", TensorProto.FLOAT, ["batch", 3, None])]
    model = model_of(nodes, {"table": table}, *shapes)
    inputs = {"ids": RANDOM.integers(0, len(table), (4, 3))}
    before = run(model, inputs)[0]
    compress_lossless(model)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    assert looked_up == ({"table.int8", "table.factors0"} if steps_of == "rows" else {"table.int8"})
    assert kinds["table.int8"] == TensorProto.INT8
    np.testing.assert_array_equal(run(model, inputs)[0], before)
    plain = onnx.load_from_string(expand_constants(model.SerializeToString())).graph
    assert [node.op_type for node in plain.node] == ["Gather", "Gather", "Add"]
    (constant,) = plain.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(constant), table)


def test_a_stored_table_that_is_also_multiplied_is_made_float_whole() -> None:
    table = round_to_int8_grid(torch.from_numpy(normal(96, 64))).numpy()
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["row"]),
        helper.make_node("MatMul", ["row", "table"], ["y"]),
    ]
    shapes = [("ids", TensorProto.INT64, ["batch"])], [("y", TensorProto.FLOAT, ["batch", 64])]
    square = np.ascontiguousarray(np.tile(table[:64], (2, 1))[:64])
    model = model_of(nodes, {"table": square}, *shapes)
    inputs = {"ids": np.arange(4)}
    before = run(model, inputs)[0]
    compress_lossless(model)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Mul", "Gather", "MatMul"]
    np.testing.assert_array_equal(run(model, inputs)[0], before)


def test_an_int8_table_that_is_looked_up_is_float_for_tensorrt_while_factors_stay_int8(convolutions) -> None:
    modes = {layer.name: INT8 for layer in quantizable_layers(convolutions)}
    model = quantize_graph(convolutions, modes, thresholds_of(convolutions))
    plain = onnx.load_from_string(expand_constants(model.SerializeToString()))
    kinds = {tensor.name: tensor.data_type for tensor in plain.graph.initializer}
    (lookup,) = [node for node in plain.graph.node if node.op_type == "Gather"]
    assert kinds[lookup.input[0]] == TensorProto.FLOAT
    factors = {f"{name}.weight.int8" for name in ("up", "side", "color")}
    assert {name for name in kinds if name.endswith(".weight.int8")} == factors
    for inputs in feeds(convolutions):
        np.testing.assert_array_equal(run(plain, inputs)[0], run(model, inputs)[0])


@pytest.mark.parametrize(
    ("reader", "computes"), [("Cast", False), ("Add", True)], ids=["stored in half", "computed in half"]
)
def test_a_table_in_half_that_is_cast_once_looked_up_is_only_stored_so(reader: str, computes: bool) -> None:
    half = TensorProto.FLOAT16
    last = {
        "Cast": helper.make_node("Cast", ["found"], ["y"], to=TensorProto.FLOAT),
        "Add": helper.make_node("Add", ["found", "found"], ["y"]),
    }[reader]
    outputs = [("y", half if computes else TensorProto.FLOAT, ["batch", 4])]
    nodes = [helper.make_node("Gather", ["table", "rows"], ["found"]), last]
    table = {"table": normal(5, 4).astype(np.float16)}
    model = model_of(nodes, table, [("rows", TensorProto.INT64, ["batch"])], outputs)
    assert computes_in_half(model.SerializeToString()) is computes


@pytest.mark.parametrize(("largest", "kind"), [(9.0, TensorProto.FLOAT16), (1e6, TensorProto.FLOAT)])
def test_layers_in_half_are_rounded_but_never_overflow(products, largest: float, kind: int) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(products)
    layer = next(one for one in quantizable_layers(model) if one.parameters >= MIN_CONSTANT_VALUES)
    tensor = next(one for one in model.graph.initializer if one.name == layer.weight)
    values = numpy_helper.to_array(tensor) * 1.0
    values.flat[0] = largest
    tensor.CopyFrom(numpy_helper.from_array(values, layer.weight))
    graph = quantize_graph(model, {layer.name: HALF}, {})
    found = {one.name.removesuffix(".half"): one.data_type for one in graph.graph.initializer}
    assert found[layer.weight] == kind


def test_an_unknown_layer_and_a_missing_range_are_errors(convolutions) -> None:
    with pytest.raises(UsageError, match="no layer 'down'"):
        quantize_graph(convolutions, {"down": INT8}, {})
    with pytest.raises(UsageError, match="no range for the activation"):
        quantize_graph(convolutions, {"side": INT8}, {})


def test_nothing_to_calibrate_with_is_an_error(convolutions) -> None:
    with pytest.raises(UsageError, match="nothing to calibrate with"):
        calibrate_ranges(convolutions, [], "mse")


def test_an_activation_that_is_nan_is_named(convolutions) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(convolutions)
    bias = next(tensor for tensor in broken.graph.initializer if tensor.name == "side.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(8, np.nan, np.float32), "side.bias"))
    with pytest.raises(UsageError, match="tensor 'beside'"):
        calibrate_ranges(broken, feeds(broken), "mse")


def test_layers_with_an_activation_that_never_varies_stay_in_float(convolutions) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(convolutions)
    weight = next(tensor for tensor in broken.graph.initializer if tensor.name == "side.weight")
    weight.CopyFrom(numpy_helper.from_array(np.zeros((8, 8, 3, 3), np.float32), "side.weight"))
    bias = next(tensor for tensor in broken.graph.initializer if tensor.name == "side.bias")
    bias.CopyFrom(numpy_helper.from_array(np.ones(8, np.float32), "side.bias"))
    ranges = calibrate_ranges(broken, feeds(broken), "mse")
    assert [name for name, found in ranges.items() if found.is_constant] == ["beside"]
    layers = quantizable_layers(broken)
    assert uncalibrated(broken, layers, {"beside"}) == {"side"}  # its output would be int8
    assert uncalibrated(broken, layers, {"sum"}) == {"color"}  # its input would be int8


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 9), st.sampled_from([0, 1, None]), st.floats(1e-3, 1e3))
def test_rounded_weights_are_within_half_a_step(
    rows: int, columns: int, axis: int | None, size: float
) -> None:
    weight = (np.random.default_rng(rows * columns).standard_normal((rows, columns)) * size).astype(
        np.float32
    )
    found = quantize_weight(weight, axis, search=False)
    largest = np.abs(weight).max() if axis is None else np.abs(weight).max(axis=1 - axis, keepdims=True)
    assert np.all(np.abs(found.dequantized() - weight) <= largest / 127 * 0.501)
    assert found.values.min() >= -127


def test_searching_the_limit_of_a_channel_never_makes_it_worse() -> None:
    weight = RANDOM.standard_t(2, (6, 400)).astype(np.float32)
    errors = [
        np.square(quantize_weight(weight, 0, search=search).dequantized() - weight).sum(axis=1)
        for search in (True, False)
    ]
    assert np.all(errors[0] <= errors[1] * 1.0001)


def test_modes_have_the_names_that_documents_use() -> None:
    assert (INT8, WEIGHT_ONLY, FLOAT) == ("int8", "weight_only", "float")


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_biases_of_convolutions_of_any_rank_are_corrected(rank: int) -> None:
    space = [5] * rank
    nodes = [helper.make_node("Conv", ["x", "some.weight", "some.bias"], ["y"], pads=[1] * 2 * rank)]
    constants = {"some.weight": normal(16, 8, *[3] * rank), "some.bias": normal(16)}
    given = ("x", TensorProto.FLOAT, ["batch", 8, *space])
    found = ("y", TensorProto.FLOAT, ["batch", 16, *space])
    model = model_of(nodes, constants, [given], [found])
    inputs = [{"x": normal(2, 8, *space)}]
    ranges = {name: one.threshold for name, one in calibrate_ranges(model, inputs, "minmax").items()}
    layers = quantizable_layers(model)
    modes, nearest = default_modes(layers, INT8), round_to_nearest_weights(model, layers)
    biases = corrected_biases(model, modes, ranges, inputs, nearest)
    assert biases["some"].values.shape == (16,)
    (exact,) = run(model, inputs[0])
    before, after = (
        run(quantize_graph(model, modes, ranges, chosen), inputs[0])[0] for chosen in ({}, biases)
    )
    axes = tuple(axis for axis in range(rank + 2) if axis != 1)
    shift_before, shift_after = (np.abs((one - exact).mean(axis=axes)).sum() for one in (before, after))
    assert shift_after < shift_before
    assert relative_error(exact, after) < 0.02


def test_a_product_that_reads_a_moved_convolution_may_be_in_int8_alone() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "first.weight"], ["planes"], pads=[1] * 4),
        helper.make_node("Transpose", ["planes"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["last", "second.weight"], ["y"]),
    ]
    constants = {"first.weight": normal(16, 8, 3, 3), "second.weight": normal(16, 16)}
    given = ("x", TensorProto.FLOAT, ["batch", 8, 4, 4])
    model = model_of(nodes, constants, [given], [("y", TensorProto.FLOAT, ["batch", 4, 4, 16])])
    inputs = [{"x": normal(2, 8, 4, 4)}]
    ranges = {name: one.threshold for name, one in calibrate_ranges(model, inputs, "minmax").items()}
    graph = quantize_graph(model, {"second": INT8, "first": WEIGHT_ONLY}, ranges)
    assert relative_error(run(model, inputs[0])[0], run(graph, inputs[0])[0]) < 0.02


def test_masks_of_infinities_are_stored_without_a_loss() -> None:
    mask = np.where(np.arange(4096).reshape(64, 64) % 3, -np.inf, 0).astype(np.float32)
    nodes = [helper.make_node("Add", ["x", "mask"], ["y"])]
    shape = ["batch", 64, 64]
    values = [(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    model = model_of(nodes, {"mask": mask}, values[:1], values[1:])
    stored = onnx.load_from_string(compressed_graph(model.SerializeToString()))
    assert [one.data_type for one in stored.graph.initializer] == [TensorProto.FLOAT16]
    inputs = {"x": normal(1, 64, 64)}
    assert np.array_equal(run(stored, inputs)[0], run(model, inputs)[0])


@pytest.mark.parametrize("bad", [np.nan, np.finfo(np.float32).min])
def test_masks_that_half_cannot_hold_stay_as_they_are(bad: float) -> None:
    mask = np.where(np.arange(4096).reshape(64, 64) % 3, bad, 0).astype(np.float32)
    nodes = [helper.make_node("Add", ["x", "mask"], ["y"])]
    values = [(name, TensorProto.FLOAT, ["batch", 64, 64]) for name in ("x", "y")]
    graph = model_of(nodes, {"mask": mask}, values[:1], values[1:]).SerializeToString()
    (stored,) = onnx.load_from_string(compressed_graph(graph)).graph.initializer
    assert stored.data_type == TensorProto.FLOAT
