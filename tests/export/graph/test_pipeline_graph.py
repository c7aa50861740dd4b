"""The graph of all stages in one."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from textual_vision.export.graph.pipeline_graph import merged_from_stages
from textual_vision.runtime.manifest import StageSpec, TensorSpec

WIDTH = 16


def product(given, result, seed):
    """x @ w of int8 weights with scales and zero points, and of x in int8."""
    weight = np.random.default_rng(seed).integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8)
    constants = {
        "w": weight,
        "w.scale": np.full(WIDTH, 0.01 * (seed + 1), np.float32),
        "w.zero_point": np.zeros(WIDTH, np.int8),
        "x.scale": np.array(0.02, np.float32),
        "x.zero_point": np.array(0, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", [given, "x.scale", "x.zero_point"], ["x.int8"]),
        helper.make_node("DequantizeLinear", ["x.int8", "x.scale", "x.zero_point"], ["x.float"]),
        helper.make_node("DequantizeLinear", ["w", "w.scale", "w.zero_point"], ["w.float"], axis=1),
        helper.make_node("MatMul", ["x.float", "w.float"], [result]),
    ]
    for node in nodes:
        node.name = node.output[0]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in (given, result)
    ]
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "product", values[:1], values[1:], held)
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def stage(name, given, result):
    tensors = [(TensorSpec(name=one, dtype="float32", shape=("batch", WIDTH)),) for one in (given, result)]
    return StageSpec(name=name, inputs=tensors[0], outputs=tensors[1])


def test_quantized_weights_of_several_stages_keep_zero_points_of_their_own():
    stages = [stage("first", "noise", "middle"), stage("second", "middle", "image")]
    graphs = {"first": product("noise", "middle", 0), "second": product("middle", "image", 1)}
    merged = merged_from_stages(stages, graphs)
    read = onnx.load_from_string(merged).graph
    constants = {one.name for one in read.initializer}
    weights = [
        node for node in read.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
    ]
    assert len({node.input[2] for node in weights}) == len(weights) == 2
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(merged, settings, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(3).normal(size=(2, WIDTH)).astype(np.float32)
    middle = onnxruntime.InferenceSession(graphs["first"], settings).run(None, {"noise": x})[0]
    (wanted,) = onnxruntime.InferenceSession(graphs["second"], settings).run(None, {"middle": middle})
    assert np.array_equal(session.run(None, {"noise": x})[0], wanted)
