"""CUDA graphs of ONNX Runtime on a real GPU: replays in any order give what the CPU does."""

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from tiny_graphs import CHANNELS, FLOAT, INT64, graph, weights

from textual_vision.runtime.backends.cuda_graphs import GRAPH_LIMIT
from textual_vision.runtime.backends.session import SessionOptions, open_session

pytestmark = pytest.mark.gpu


def uneven() -> bytes:
    """Parts of several sizes taken apart and put together, a product, an argmax.

    For such parts CUDA's kernels read tables from the host's memory.
    """
    nodes = [
        helper.make_node("Split", ["x", "sizes"], ["a", "b", "c"], axis=2),
        helper.make_node("Concat", ["c", "x", "a", "b"], ["wide"], axis=2),
        helper.make_node("Concat", ["wide", "first"], ["longer"], axis=1),
        helper.make_node("MatMul", ["longer", "w"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["codes"], axis=-1, keepdims=0),
    ]
    nodes.insert(2, helper.make_node("Slice", ["wide", "zero", "one", "one"], ["first"]))
    constants = {
        "sizes": np.array([1, 2, CHANNELS - 3]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "w": weights(4, 2 * CHANNELS, CHANNELS),
    }
    outputs = {
        "y": (FLOAT, ["batch", "longer", CHANNELS]),
        "codes": (INT64, ["batch", "longer"]),
    }
    return graph(nodes, {"x": (FLOAT, ["batch", "tokens", CHANNELS])}, outputs, constants)


def test_replays_give_what_the_cpu_does_whatever_ran_between():
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider")
    cpu, gpu = (
        open_session(uneven(), SessionOptions(backend=backend, name="uneven.onnx"))
        for backend in ("onnxruntime", "onnxruntime-cuda")
    )
    order = np.random.default_rng(0)
    shapes = [(batch, tokens) for batch in (1, 4) for tokens in range(3, 4 + GRAPH_LIMIT // 2)]
    for number in range(20 * len(shapes)):
        x = weights(number, *shapes[order.integers(len(shapes))], CHANNELS)
        expected, found = cpu.run({"x": x}), gpu.run({"x": x})
        assert np.array_equal(found["codes"], expected["codes"]), f"run {number}, {x.shape}"
        np.testing.assert_allclose(found["y"], expected["y"], atol=1e-4)
