"""Tiny ONNX graphs, one for each thing that a builder of engines must get right."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF, INT8, INT32, INT64, UINT8 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT8,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
)
CHANNELS, SIDE = 8, 8
OPSET = 20


def weights(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graph(nodes, inputs, outputs, constants, opset=OPSET) -> bytes:
    """`inputs` and `outputs` are name → (type, shape), `constants` name → array. Nodes get names."""
    for index, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type.lower()}_{index}"
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9).SerializeToString()


IMAGE = ["batch", CHANNELS, SIDE, SIDE]


def conv(kind=FLOAT, operator="Conv", **attributes) -> bytes:
    dtype = np.float32 if kind == FLOAT else np.float16
    nodes = [helper.make_node(operator, ["x", "w"], ["y"], **{"pads": [1, 1, 1, 1], **attributes})]
    constants = {"w": weights(0, CHANNELS, CHANNELS, 3, 3).astype(dtype)}
    return graph(nodes, {"x": (kind, IMAGE)}, {"y": (kind, IMAGE)}, constants)


def quantized(operator="Conv", *, per_channel_activation=False, zero_point=0, int32_bias=False) -> bytes:
    """x → Q/DQ → operator with int8 weights, a scale for each channel → y."""
    is_conv = operator != "MatMul"
    shape = (CHANNELS, CHANNELS, 3, 3) if is_conv else (CHANNELS, CHANNELS)
    axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}[operator]
    x_shape = IMAGE if is_conv else ["batch", 4, CHANNELS]
    count = CHANNELS if per_channel_activation else 1
    scale = np.full(count, 0.05, np.float32) if per_channel_activation else np.float32(0.05)
    zero = np.full(count, zero_point, np.int8) if per_channel_activation else np.int8(zero_point)
    constants = {
        "x_scale": np.asarray(scale),
        "x_zero": np.asarray(zero),
        "w_int8": np.clip(weights(1, *shape) * 40, -127, 127).astype(np.int8),
        "w_scale": np.full(CHANNELS, 0.02, np.float32),
        "w_zero": np.zeros(CHANNELS, np.int8),
    }
    across = {"axis": 1} if per_channel_activation else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_q"], **across),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x_dq"], **across),
        helper.make_node("DequantizeLinear", ["w_int8", "w_scale", "w_zero"], ["w"], axis=axis),
    ]
    inputs = ["x_dq", "w"]
    if int32_bias:
        constants |= {
            "b_int32": np.arange(CHANNELS, dtype=np.int32),
            "b_scale": np.full(CHANNELS, 0.001, np.float32),
            "b_zero": np.zeros(CHANNELS, np.int32),
        }
        nodes.append(
            helper.make_node("DequantizeLinear", ["b_int32", "b_scale", "b_zero"], ["DQ_bias"], axis=0)
        )
        inputs.append("DQ_bias")
    attributes = {"pads": [1, 1, 1, 1]} if is_conv else {}
    nodes.append(helper.make_node(operator, inputs, ["y"], name="product", **attributes))
    return graph(nodes, {"x": (FLOAT, x_shape)}, {"y": (FLOAT, x_shape)}, constants)


def lookup() -> bytes:
    """The nearest row of a codebook, and that row: MatMul, ArgMin, Gather; int64 out."""
    nodes = [
        helper.make_node("MatMul", ["x", "rows_t"], ["scores"]),
        helper.make_node("ArgMin", ["scores"], ["codes"], axis=-1, keepdims=0),
        helper.make_node("Gather", ["rows", "codes"], ["found"]),
    ]
    rows = weights(2, 16, CHANNELS)
    return graph(
        nodes,
        {"x": (FLOAT, ["batch", 4, CHANNELS])},
        {"codes": (INT64, ["batch", 4]), "found": (FLOAT, ["batch", 4, CHANNELS])},
        {"rows": rows, "rows_t": np.ascontiguousarray(rows.T)},
    )


def upsample() -> bytes:
    """Conv and DepthToSpace in place of ConvTranspose."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["wide"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["wide"], ["y"], blocksize=2, mode="CRD"),
    ]
    constants = {"w": weights(3, 4 * CHANNELS, CHANNELS, 3, 3)}
    twice = ["batch", CHANNELS, 2 * SIDE, 2 * SIDE]
    return graph(nodes, {"x": (FLOAT, IMAGE)}, {"y": (FLOAT, twice)}, constants)


def pixels(*, cast_last: bool) -> bytes:
    """uint8 pixels (batch, height, width, channels), the cast last or before the transposition."""
    cast = helper.make_node("Cast", ["nhwc" if cast_last else "x"], ["image" if cast_last else "u"], to=UINT8)
    turn = helper.make_node(
        "Transpose", ["x" if cast_last else "u"], ["nhwc" if cast_last else "image"], perm=[0, 2, 3, 1]
    )
    shape = ["batch", SIDE, SIDE, CHANNELS]
    nodes = [turn, cast] if cast_last else [cast, turn]
    return graph(nodes, {"x": (FLOAT, IMAGE)}, {"image": (UINT8, shape)}, {})


def integer_operator(name: str) -> bytes:
    """A graph with one of the integer operators that TensorRT does not know."""
    shape = ["batch", 4, CHANNELS]
    if name == "DynamicQuantizeLinear":
        nodes = [
            helper.make_node(name, ["x"], ["q", "s", "z"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ]
        return graph(nodes, {"x": (FLOAT, shape)}, {"y": (FLOAT, shape)}, {})
    assert name == "MatMulInteger"
    nodes = [helper.make_node(name, ["x", "w"], ["y"])]
    constants = {"w": np.ones((CHANNELS, CHANNELS), np.int8)}
    return graph(nodes, {"x": (INT8, shape)}, {"y": (INT32, shape)}, constants)


def checked(model: bytes) -> bytes:
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    return model
