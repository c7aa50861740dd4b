"""Graphs that a bundle must not hold, and some that it may."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def value(name, dtype=FLOAT, shape=(2,)):
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(nodes, constants=(), inputs=(), outputs=None, **changed):
    """A model of opset 17 with one output "y", and fields of it changed."""
    tensors = [
        one if isinstance(one, TensorProto) else numpy_helper.from_array(one[1], one[0]) for one in constants
    ]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs or [value("y")]), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for name, new in changed.items():
        setattr(model, name, new)
    return model


def identity(constant=None):
    constant = constant if constant is not None else ("x", np.ones(2, np.float32))
    return model_of([helper.make_node("Identity", ["x"], ["y"])], [constant])


def external_tensor(name="x"):
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/hostname")
    return tensor


def branch():
    graph = helper.make_graph([], "branch", [], [value("y")], [numpy_helper.from_array(np.ones(2), "y")])
    return model_of([helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)])


def function_model():
    model = identity()
    opsets = [helper.make_opsetid("", 17)]
    node = helper.make_node("Constant", [], ["y"], value=external_tensor())
    model.functions.append(helper.make_function("local", "f", [], ["y"], [node], opsets))
    return model


def sparse_model():
    model = identity()
    values, indices = (numpy_helper.from_array(np.ones(1, t), "s") for t in (np.float32, np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    return model


def two_opsets():
    model = identity()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def with_opset(version):
    model = identity()
    model.opset_import[0].version = version
    return model


def node_model(op_type, *constants, inputs=("x",), **attributes):
    return model_of([helper.make_node(op_type, list(inputs), ["y"], **attributes)], constants)


def ints(name, *values):
    return name, np.array(values, np.int64)


def tensor_with(**fields):
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "x")
    for name, new in fields.items():
        if name == "dims":
            del tensor.dims[:]
            tensor.dims.extend(new)
        else:
            setattr(tensor, name, new)
    return tensor


def quantized(x, scale, zero, **attributes):
    constants = [("x", x), ("scale", scale)] + ([("zero", zero)] if zero is not None else [])
    names = [name for name, _ in constants]
    return node_model("DequantizeLinear", *constants, inputs=names, **attributes)


ONE, THREE = np.float32(1), np.ones(3, np.float32)
INT8_MATRIX = np.ones((3, 2), np.int8)
CHAIN = [
    helper.make_node("Tile", ["x", "n"], ["a"]),
    helper.make_node("Cast", ["a"], ["b"], to=INT64),
    helper.make_node("Tile", ["b", "n"], ["y"]),
]

REFUSED = {
    "weights in another file": (lambda: identity(external_tensor()), "another file"),
    "a constant operator's weights in another file": (
        lambda: model_of([helper.make_node("Constant", [], ["y"], value=external_tensor())]),
        "another file",
    ),
    "control flow": (branch, "control flow"),
    "functions": (function_model, "functions"),
    "sparse tensors": (sparse_model, "sparse"),
    "operators of another maker": (two_opsets, "other operators"),
    "an operator's own domain": (
        lambda: model_of([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]),
        "com.microsoft.Gelu",
    ),
    "random numbers": (lambda: node_model("RandomNormal", inputs=(), shape=[1 << 40]), "RandomNormal"),
    "an opset of 100 million": (lambda: with_opset(100_000_000), "opset 100000000"),
    "an old opset": (lambda: with_opset(9), "opset 9"),
    "an unknown IR version": (lambda: model_of([], ir_version=99), "IR version 99"),
    "strings": (lambda: identity(("x", np.array(["a", "b"], object))), "strings"),
    "complex numbers": (lambda: identity(("x", np.ones(2, np.complex64))), "element type 14"),
    "a cast to strings": (
        lambda: node_model("Cast", ("x", THREE), to=TensorProto.STRING),
        "element type that export never writes",
    ),
    "fewer values than elements": (lambda: identity(tensor_with(dims=[1 << 30])), "has the values of 2"),
    "more values than elements": (lambda: identity(tensor_with(dims=[1])), "has the values of 2"),
    "a negative size": (lambda: identity(tensor_with(dims=[-1])), "impossible sizes"),
    "values of another type": (lambda: identity(tensor_with(data_type=TensorProto.INT64)), "values of 1"),
    "an input that nothing gives": (lambda: node_model("Identity"), "no operator before it"),
    "a circle": (
        lambda: model_of([helper.make_node("Neg", ["y"], ["a"]), helper.make_node("Neg", ["a"], ["y"])]),
        "no operator before it",
    ),
    "an output that nothing gives": (lambda: model_of([]), "an output"),
    "a name given twice": (
        lambda: node_model("Identity", ("x", THREE), ("y", THREE)),
        "two tensors have the same name",
    ),
    "a huge constant": (
        lambda: node_model("ConstantOfShape", ints("x", 1 << 20, 1 << 20)),
        r"ConstantOfShape gives 1.1e\+12 elements",
    ),
    "a huge tile": (
        lambda: node_model("Tile", ("x", THREE), ints("n", 1 << 40), inputs=("x", "n")),
        "Tile gives",
    ),
    "tiles of tiles": (lambda: model_of(CHAIN, [("x", ONE.reshape(1)), ints("n", 1 << 20)]), "Tile gives"),
    "a huge expansion": (
        lambda: node_model("Expand", ("x", THREE), ints("n", 1 << 26, 3), inputs=("x", "n")),
        "Expand gives",
    ),
    "huge padding": (
        lambda: node_model("Pad", ("x", THREE), ints("n", 0, 1 << 40), inputs=("x", "n")),
        "Pad gives",
    ),
    "a huge resize": (
        lambda: node_model(
            "Resize", ("x", ONE.reshape(1, 1)), ("n", np.float32([1e6, 1e6])), inputs=("x", "", "n")
        ),
        "Resize gives",
    ),
    "a huge range": (
        lambda: range_of(0, 1 << 50, 1),
        "Range gives",
    ),
    "a range without end": (
        lambda: range_of(0, 1, 0),
        "Range gives inf",
    ),
    "a declared tensor that is huge": (
        lambda: model_of([], [("y", THREE)], [value("z", FLOAT, (1 << 20, 1 << 20))]),
        "elements",
    ),
    "a window of a billion": (
        lambda: node_model("MaxPool", ("x", THREE), kernel_shape=[1 << 30]),
        "kernel_shape not between",
    ),
    "a negative padding of a window": (
        lambda: node_model("MaxPool", ("x", THREE), kernel_shape=[2], pads=[-1, -1]),
        "pads not between",
    ),
    "a billion outputs": (
        lambda: node_model("Split", ("x", THREE), num_outputs=1 << 30),
        "another number of outputs",
    ),
    "an axis of a billion": (lambda: node_model("Softmax", ("x", THREE), axis=1 << 30), "impossible size"),
    "a huge transform": (
        lambda: node_model("DFT", ("x", THREE), ("n", np.int64(1 << 40)), inputs=("x", "n")),
        "DFT gives",
    ),
    "an attribute of another type than it says": (lambda: mistyped(), "not of its type"),
    "a zero point of another type": (lambda: quantized(INT8_MATRIX, ONE, np.uint8(0)), "zero point's type"),
    "a zero point of 64 bits": (
        lambda: quantized(INT8_MATRIX, ONE, np.int64(0)),
        "zero point is no constant of integers",
    ),
    "a zero point of another size": (
        lambda: quantized(INT8_MATRIX, ONE, np.zeros(7, np.int8)),
        "zero point is no constant of integers",
    ),
    "scales that do not fit": (
        lambda: quantized(INT8_MATRIX, THREE, np.zeros(3, np.int8), axis=1),
        "3 scales do not fit",
    ),
    "an axis that is none": (
        lambda: quantized(INT8_MATRIX, THREE, np.zeros(3, np.int8), axis=9),
        "do not fit",
    ),
    "a scale of integers": (lambda: quantized(INT8_MATRIX, np.int64(1), np.int8(0)), "no constant of floats"),
}


def range_of(*values):
    constants = [(name, np.int64(one)) for name, one in zip("abc", values, strict=True)]
    return node_model("Range", *constants, inputs="abc")


def mistyped():
    model = node_model("Softmax", ("x", THREE), axis=0)
    model.graph.node[0].attribute[0].type = onnx.AttributeProto.TENSOR
    return model


ALLOWED = {
    "a plain constant": identity,
    "scales along an axis": lambda: quantized(INT8_MATRIX, THREE, np.zeros(3, np.int8), axis=0),
    "a scale without a zero point": lambda: quantized(INT8_MATRIX, ONE, None),
    "values in a typed field": lambda: identity(helper.make_tensor("x", INT64, [3], [1, 2, -3])),
    "floats in a typed field": lambda: identity(helper.make_tensor("x", FLOAT, [2], [1, 2])),
    "an empty constant": lambda: identity(("x", np.ones((0, 4), np.float32))),
    "halves": lambda: identity(("x", np.ones(3, np.float16))),
    "a sensible expansion": lambda: node_model(
        "Expand", ("x", THREE), ints("n", -1, 1, 3), inputs=("x", "n")
    ),
}
