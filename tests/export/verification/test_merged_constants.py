"""A constant of pipeline.onnx that is nearly one of a stage's is found, with its rows."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from textual_vision.export.verification.layers.merged_constants import changed_constants

TABLE = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)


def graph_of(**constants: np.ndarray) -> bytes:
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_model(helper.make_graph([], "one", [], [], initializer=tensors)).SerializeToString()


def test_changed_rows_are_found_by_their_values() -> None:
    changed = TABLE.copy()
    changed[[3, 30]] *= 1.001
    stages = [graph_of(other=TABLE * 2), graph_of(table=TABLE, bias=TABLE[0])]
    assert changed_constants(graph_of(renamed=changed), stages) == {"renamed": (3, 30)}
    bias = TABLE[0].copy()
    bias[5] = 0
    assert changed_constants(graph_of(bias=bias), stages) == {"bias": (5,)}


def test_equal_transposed_and_small_constants_pass() -> None:
    stages = [graph_of(table=TABLE)]
    pipeline = graph_of(
        a=TABLE, b=np.ascontiguousarray(TABLE.T), c=np.arange(3.0), d=TABLE.astype(np.float16)
    )
    assert changed_constants(pipeline, stages) == {}
