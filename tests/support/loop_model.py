"""A model with loops: carried tensors, tables, noise at each step, a parameter; one loop reads the words."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SIZE = 8
DTYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8}
DTYPES["float16"] = TensorProto.FLOAT16
STEPS = 5

Tensor = tuple[str, str, tuple[int | str, ...]]


def graph(
    inputs: list[Tensor], outputs: list[Tensor], nodes: list, constants: dict[str, np.ndarray]
) -> bytes:
    made = helper.make_graph(
        nodes,
        "stage",
        [helper.make_tensor_value_info(name, DTYPES[dtype], shape) for name, dtype, shape in inputs],
        [helper.make_tensor_value_info(name, DTYPES[dtype], shape) for name, dtype, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opset, ir_version=8).SerializeToString()


IDS: Tensor = ("input_ids", "int64", ("batch", "tokens"))
STATE: Tensor = ("state", "float32", ("batch", 4))
NEXT_STATE: Tensor = ("next_state", "float32", ("batch", 4))
TURN: Tensor = ("turn", "int64", ("batch",))
START: Tensor = ("noise", "float32", ("batch", SIZE, SIZE, 3))
X: Tensor = ("x", "float32", ("batch", SIZE, SIZE, 3))
OLD: Tensor = ("old", "float32", ("batch", SIZE, SIZE, 3))
TIME: Tensor = ("time", "float32", ("batch",))
HALF: Tensor = ("half", "float16", ("batch", 1))
FRESH: Tensor = ("fresh", "float32", ("batch", 3))
GUIDANCE: Tensor = ("guidance", "float32", ("batch",))
COUNT: Tensor = ("count", "int64", ("batch",))
ESTIMATE: Tensor = ("estimate", "float32", ("batch", SIZE, SIZE, 3))
NEXT_X: Tensor = ("next_x", "float32", ("batch", SIZE, SIZE, 3))
NEXT_COUNT: Tensor = ("next_count", "int64", ("batch",))
IMAGE: Tensor = ("image", "uint8", ("batch", SIZE, SIZE, 3))

STAGES: dict[str, tuple[list[Tensor], list[Tensor]]] = {
    "reader": ([IDS, STATE, TURN], [NEXT_STATE]),
    "guess": ([X, NEXT_STATE, TIME, HALF], [ESTIMATE]),
    "step": ([X, OLD, ESTIMATE, FRESH, GUIDANCE, COUNT], [NEXT_X, NEXT_COUNT]),
    "painter": ([NEXT_X, START, NEXT_COUNT], [IMAGE]),
}
LOOPS = [
    {
        "name": "reading",
        "stages": ["reader"],
        "steps": 3,
        "carry": {"state": "next_state"},
        "start": {"state": {"fill": 0.3}},
        "tables": {"turn": [1, 2.0, 3.9]},
    },
    {
        "name": "sampling",
        "stages": ["guess", "step"],
        "steps": STEPS,
        # `old` takes what `x` had: both change at once
        "carry": {"x": "next_x", "old": "estimate", "count": "next_count"},
        "start": {"x": {"tensor": "noise"}, "old": {"tensor": "noise"}, "count": {"fill": 7}},
        "tables": {
            "time": [0.9, 0.7000000000000001, 1 / 3, 0.1, -1e-3],
            "half": [0.1, 6.1e-5, 3e-6, -65519.99, 0.33325195],
        },
    },
]
NOISE = [
    {"name": "noise", "shape": [SIZE, SIZE, 3]},
    {"name": "fresh", "shape": [3], "per_step": True, "law": "gumbel", "scale": 0.25},
]
PARAMETERS = [{"name": "guidance", "default": 1.7, "minimum": 0.0, "maximum": 9.0}]


def loop_graphs() -> dict[str, bytes]:
    """The graph of each stage."""
    node, rng = helper.make_node, np.random.default_rng(0)
    axes = {"spatial": np.array([1, 2, 3]), "last": np.array([1]), "middle": np.array([1, 2])}
    reader = [
        node("Cast", ["input_ids"], ["numbers"], to=1),
        node("ReduceMean", ["numbers"], ["mean"], axes=[1], keepdims=1),
        node("Cast", ["turn"], ["turn_float"], to=1),
        node("Unsqueeze", ["turn_float", "last"], ["turns"]),
        node("Mul", ["mean", "turns"], ["product"]),
        node("MatMul", ["state", "mix"], ["mixed"]),
        node("Add", ["mixed", "product"], ["sum"]),
        node("Tanh", ["sum"], ["next_state"]),
    ]
    guess = [
        node("MatMul", ["next_state", "words"], ["flat"]),
        node("Reshape", ["flat", "picture"], ["wanted"]),
        node("Unsqueeze", ["time", "spatial"], ["times"]),
        node("Cast", ["half"], ["half_float"], to=1),
        node("Unsqueeze", ["half_float", "middle"], ["halves"]),
        node("Mul", ["x", "times"], ["faded"]),
        node("Add", ["faded", "wanted"], ["both"]),
        node("Mul", ["halves", "tiny"], ["small"]),
        node("Add", ["both", "small"], ["estimate"]),
    ]
    step = [
        node("Unsqueeze", ["guidance", "spatial"], ["guide"]),
        node("Sub", ["estimate", "old"], ["change"]),
        node("Mul", ["change", "guide"], ["guided"]),
        node("Add", ["x", "guided"], ["moved"]),
        node("Unsqueeze", ["fresh", "middle"], ["colors"]),
        node("Add", ["moved", "colors"], ["noisy"]),
        node("Mul", ["noisy", "shrink"], ["next_x"]),
        node("Add", ["count", "one"], ["next_count"]),
    ]
    painter = [
        node("Cast", ["next_count"], ["counted"], to=1),
        node("Unsqueeze", ["counted", "spatial"], ["counts"]),
        node("Mul", ["next_x", "gain"], ["scaled"]),
        node("Add", ["scaled", "noise"], ["with_noise"]),
        node("Sigmoid", ["with_noise"], ["part"]),
        node("Mul", ["part", "white"], ["levels"]),
        node("Add", ["levels", "counts"], ["shifted"]),
        node("Cast", ["shifted"], ["image"], to=2),
    ]
    weights = {
        "mix": rng.standard_normal((4, 4)).astype(np.float32),
        "words": rng.standard_normal((4, SIZE * SIZE * 3)).astype(np.float32),
        "picture": np.array([-1, SIZE, SIZE, 3]),
        "tiny": np.float32(1e-3),
        "shrink": np.float32(0.5),
        "one": np.array(1),
        "gain": np.float32(0.05),
        "white": np.float32(230),
        **axes,
    }
    nodes = {"reader": reader, "guess": guess, "step": step, "painter": painter}
    return {name: graph(*STAGES[name], nodes[name], _used(nodes[name], weights)) for name in STAGES}


def _used(nodes: list, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = {name for one in nodes for name in one.input}
    return {name: value for name, value in weights.items() if name in names}


def declare_loops(manifest: dict) -> None:
    """Make the tiny bundle's manifest that of this model."""

    def tensors(found: list[Tensor]) -> list[dict]:
        return [{"name": name, "dtype": dtype, "shape": list(shape)} for name, dtype, shape in found]

    stages = [
        {"name": name, "inputs": tensors(inputs), "outputs": tensors(outputs)}
        for name, (inputs, outputs) in STAGES.items()
    ]
    manifest.update(stages=stages, loops=LOOPS, noise=NOISE, parameters=PARAMETERS, merged=None, golden=None)
    manifest["precisions"]["fp32"]["files"] = {name: f"onnx/fp32/{name}.onnx" for name in STAGES}
