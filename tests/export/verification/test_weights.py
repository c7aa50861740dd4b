"""Weights that a graph stores are found by shape, in the forms that an export stores them in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from textual_vision.export.model.stage import Stage, tensor
from textual_vision.export.verification.layers.weights import compare_weights
from textual_vision.runtime.manifest import StageSpec

SHAPE = (40, 16)


def stage_of(table: np.ndarray) -> Stage:
    module = torch.nn.Module()
    module.register_buffer("table", torch.from_numpy(table))
    x = tensor("x", "float32", "batch", 16)
    return Stage(spec=StageSpec(name="one", inputs=(x,), outputs=(x,)), module=module)


def graph_of(*constants: np.ndarray) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])
    tensors = [numpy_helper.from_array(one, f"constant_{index}") for index, one in enumerate(constants)]
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph(
        [node], "one", [value], [helper.make_tensor_value_info("y", 1, None)], initializer=tensors
    )
    return helper.make_model(graph).SerializeToString()


@pytest.fixture
def table() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize("form", ["plain", "transposed", "half", "scaled"])
def test_a_table_is_found_in_each_form(table: np.ndarray, form: str) -> None:
    stored = {
        "plain": table,
        "transposed": np.ascontiguousarray(table.T),
        "half": table.astype(np.float16),
        "scaled": table * np.float32(0.5),
    }[form]
    found = compare_weights(stage_of(table), graph_of(stored))
    assert not found.wrong and found.compared == table.size and found.error < 1e-3


def test_rows_that_differ_are_named(table: np.ndarray) -> None:
    stored = table.copy()
    stored[[3, 7]] *= -1
    assert compare_weights(stage_of(table), graph_of(stored)).wrong == {"table": (3, 7)}


def test_another_table_of_the_same_shape_is_not_taken_for_it(table: np.ndarray) -> None:
    other = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    found = compare_weights(stage_of(table), graph_of(other))
    assert not found.wrong and found.compared == 0


def test_rows_of_zeros_do_not_make_two_tables_equal(table: np.ndarray) -> None:
    other = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    table[10:] = other[10:] = 0
    found = compare_weights(stage_of(table), graph_of(other))
    assert not found.wrong and found.compared == 0
