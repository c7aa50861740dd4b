"""Half graphs: what would overflow or decide a code stays in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.stage import tensor
from textual_vision.export.precision import fp16 as half
from textual_vision.export.precision import lossless_storage as quantize_store
from textual_vision.export.precision.fp16 import fp16_from_float
from textual_vision.export.precision.fp16_cast import fp16_graph_from_float
from textual_vision.export.precision.registry import FloatGraphs, convert_stage
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.generation.program import Program
from textual_vision.runtime.manifest import StageSpec

RANDOM = np.random.default_rng(1)
SPEC = StageSpec(
    name="latent",
    inputs=(tensor("x", "float32", "batch", 6),),
    outputs=(tensor("codes", "int64", "batch"), tensor("y", "float32", "batch", 6)),
)


def graph() -> bytes:
    """x → squares up to 1e6, brought back to 1; and the nearest of four codes."""
    random = np.random.default_rng(1)
    constants = {
        "big": np.array(1e6, np.float32),
        "book": random.standard_normal((6, 4)).astype(np.float32),
        "w": random.standard_normal((6, 6)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["x", "big"], ["huge"], name="grow/Mul"),
        helper.make_node("Div", ["huge", "big"], ["back"], name="shrink/Div"),
        helper.make_node("MatMul", ["back", "w"], ["y"], name="linear/MatMul"),
        helper.make_node("MatMul", ["y", "book"], ["scores"], name="book/MatMul"),
        helper.make_node("ArgMax", ["scores"], ["codes"], name="book/ArgMax", axis=1, keepdims=0),
    ]
    infos = {
        side: [
            helper.make_tensor_value_info(
                t.name, TensorProto.INT64 if t.dtype == "int64" else TensorProto.FLOAT, list(t.shape)
            )
            for t in getattr(SPEC, side)
        ]
        for side in ("inputs", "outputs")
    }
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "g", infos["inputs"], infos["outputs"], initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = onnx.shape_inference.infer_shapes(model).SerializeToString()
    return data


def batch() -> ReferenceBatch:
    x = RANDOM.standard_normal((32, 6)).astype(np.float32)
    session = open_session(graph(), SessionOptions(backend="onnxruntime", name="g"))
    tensors = {"x": x, **session.run({"x": x})}
    return ReferenceBatch(prompts=("",) * 32, seeds=(0,) * 32, tensors=tensors, margins={})


def test_what_overflows_on_real_inputs_stays_in_float32_and_what_decides_a_code_too() -> None:
    source = FloatGraphs(
        program=Program(stages=(SPEC,)), fp32={"latent": graph()}, batches=[batch()], target="cpu"
    )
    made = fp16_from_float(source)
    notes = made.notes["latent"]
    assert isinstance(notes, dict)
    fp32_nodes = notes["float32"]
    assert fp32_nodes["book/ArgMax"] == fp32_nodes["book/MatMul"] == "decides a code"
    assert fp32_nodes["grow/Mul"].startswith("values up to") and "shrink/Div" in fp32_nodes
    assert "linear/MatMul" not in fp32_nodes
    model = onnx.load_from_string(made.graphs["latent"])
    onnx.checker.check_model(model, full_check=True)
    kinds = {t.name.partition(":")[0]: t.data_type for t in model.graph.initializer}
    assert kinds["w"] == TensorProto.FLOAT16 and kinds["book"] == TensorProto.FLOAT


def test_without_its_islands_the_same_graph_overflows() -> None:
    session = open_session(
        fp16_graph_from_float(graph(), ()), SessionOptions(backend="onnxruntime", name="g")
    )
    x = np.full((1, 6), 2, np.float32)
    assert not np.isfinite(session.run({"x": x})["y"]).all()


def test_inputs_and_outputs_keep_names_and_types() -> None:
    model = onnx.load_from_string(fp16_graph_from_float(graph(), ()))
    before = onnx.load_from_string(graph())
    for side in ("input", "output"):
        assert [(v.name, v.type.tensor_type.elem_type) for v in getattr(model.graph, side)] == [
            (v.name, v.type.tensor_type.elem_type) for v in getattr(before.graph, side)
        ]


def test_what_says_its_own_type_keeps_it() -> None:
    one = numpy_helper.from_array(np.array([1.5], np.float32))
    nodes = [
        helper.make_node("Constant", [], ["bias"], name="bias/Constant", value=one),
        helper.make_node("Shape", ["x"], ["shape"], name="ones/Shape"),
        helper.make_node("ConstantOfShape", ["shape"], ["filled"], name="ones/ConstantOfShape", value=one),
        helper.make_node("Add", ["x", "bias"], ["sum"], name="bias/Add"),
        helper.make_node("Mul", ["sum", "filled"], ["y"], name="ones/Mul"),
    ]
    info = helper.make_tensor_value_info
    x, y = info("x", TensorProto.FLOAT, ["batch", 6]), info("y", TensorProto.FLOAT, ["batch", 6])
    made = helper.make_graph(nodes, "g", [x], [y])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    half = fp16_graph_from_float(model.SerializeToString(), set())
    session = open_session(half, SessionOptions(backend="onnxruntime", name="g"))
    given = np.array([[0.5, 1, 2, 3, 4, 5]], np.float32)  # exact in half
    assert np.array_equal(session.run({"x": given})["y"], (given + 1.5) * 1.5)


def test_a_stage_whose_codes_half_would_change_is_computed_in_float32(monkeypatch) -> None:
    monkeypatch.setattr(half, "MIN_CODE_AGREEMENT", 1.1)
    monkeypatch.setattr(quantize_store, "MIN_CONSTANT_VALUES", 1)
    source = FloatGraphs(
        program=Program(stages=(SPEC,)), fp32={"latent": graph()}, batches=[batch()], target="cpu"
    )
    made = fp16_from_float(source)
    assert "codes were others" in made.notes["latent"]["float32"]["all"]
    types = {node.op_type for node in onnx.load_from_string(made.graphs["latent"]).graph.node}
    assert types == {
        "Mul",
        "Div",
        "MatMul",
        "ArgMax",
    }  # these constants are none of float16's: nothing to store
    session = open_session(made.graphs["latent"], SessionOptions(backend="onnxruntime", name="g"))
    tensors = source.batches[0].tensors
    assert np.array_equal(session.run({"x": tensors["x"]})["codes"], tensors["codes"])


def test_the_fewest_last_modules_that_mend_the_codes_are_float32_too(monkeypatch) -> None:
    """The middle adds fractions to 2,048, by which codes are chosen and which a half doesn't hold."""
    large = numpy_helper.from_array(2048 + np.arange(6, dtype=np.float32) / 8, "large")
    turn = numpy_helper.from_array(np.eye(6, dtype=np.float32)[::-1].copy(), "turn")
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    nodes = [
        helper.make_node("MatMul", ["x", "turn"], ["turned"], name="head/MatMul"),
        helper.make_node("Add", ["turned", "large"], ["raised"], name="middle/Add"),
        helper.make_node("Relu", ["raised"], ["kept"], name="gap/Relu"),
        helper.make_node("Sub", ["kept", "one"], ["scores"], name="book/Sub"),
        helper.make_node("ArgMax", ["scores"], ["codes"], name="book/ArgMax", axis=1, keepdims=0),
    ]
    info = helper.make_tensor_value_info
    x, codes = info("x", TensorProto.FLOAT, ["batch", 6]), info("codes", TensorProto.INT64, ["batch"])
    made = helper.make_graph(nodes, "g", [x], [codes], [large, turn, one])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    given = np.eye(6, dtype=np.float32)[np.random.default_rng(0).integers(0, 6, 32)] / 4
    tensors = {"x": given, "codes": (given[:, ::-1] + np.arange(6) / 8).argmax(1)}
    batches = [ReferenceBatch(prompts=("",) * 32, seeds=(0,) * 32, tensors=tensors, margins={})]
    stage = StageSpec(name="latent", inputs=SPEC.inputs, outputs=SPEC.outputs[:1])
    source = FloatGraphs(
        program=Program(stages=(stage,)),
        fp32={"latent": model.SerializeToString()},
        batches=batches,
        target="cpu",
    )
    # So small a graph is smaller in float32 than with casts.
    assert fp16_from_float(source).notes["latent"]["float32"].keys() == {"all"}
    monkeypatch.setattr(half, "compressed_graph", lambda graph: graph + bytes(10_000))
    fp32_nodes = fp16_from_float(source).notes["latent"]["float32"]
    assert {name for name, why in fp32_nodes.items() if why == "accuracy"} == {"middle/Add", "gap/Relu"}
    assert "head/MatMul" not in fp32_nodes


def test_a_stage_made_early_is_what_the_whole_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    source = FloatGraphs(
        program=Program(stages=(SPEC,)), fp32={"latent": graph()}, batches=[batch()], target="cpu"
    )
    whole = fp16_from_float(source)
    early = convert_stage("fp16", source, SPEC)
    monkeypatch.setattr(half, "fp16_stage_from_float", lambda *_: pytest.fail("made again"))
    assert fp16_from_float(replace(source, stage_results={"latent": early})) == whole


def attention_input(perm: list[int]) -> bytes:
    """x → transposed → times a matrix, as torch's own attention of batch_first begins."""
    shape = [*["a", "b", "c", "d"][: len(perm) - 1], 8]
    turned = [shape[axis] for axis in perm]
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"], name="some/Sigmoid"),
        helper.make_node("Transpose", ["s"], ["t"], perm=perm, name="some/Transpose"),
        helper.make_node("MatMul", ["t", "w"], ["y"], name="some/MatMul"),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [*turned[:-1], 8])
    weights = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    made = helper.make_graph(nodes, "g", [given], [result], [weights])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = onnx.shape_inference.infer_shapes(model).SerializeToString()
    return data


@pytest.mark.parametrize("perm", [[1, 0, 2], [1, 2, 0, 3], [2, 0, 1, 3], [0, 2, 1, 3]])
def test_a_transposition_before_a_product_loads_in_half(perm: list[int]) -> None:
    graph = attention_input(perm)
    kept = half._unsupported_transpositions(onnx.load_from_string(graph))
    assert set(kept) == ({"some/Transpose"} if perm[:2] == [1, 0] or perm[:2] == [1, 2] else set())
    made = fp16_graph_from_float(graph, kept)
    x = RANDOM.standard_normal([*[2, 3, 4, 5][: len(perm) - 1], 8]).astype(np.float32)
    session = open_session(made, SessionOptions(backend="onnxruntime", name="g"))
    expected = (1 / (1 + np.exp(-x))).transpose(perm)
    assert np.abs(session.run({"x": x})["y"] - expected).max() < 1e-3


def model_of(nodes: list[onnx.NodeProto]) -> bytes:
    """A graph from x to y, float32 (4,)."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    made = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(np.float32([2]), "two")])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = onnx.shape_inference.infer_shapes(model).SerializeToString()
    return data


def branches() -> list[onnx.NodeProto]:
    """2x, then its double where the first value is positive, else its half."""
    inside = [
        helper.make_graph(
            [helper.make_node(operator, ["d", "two"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])],
        )
        for operator, name in (("Mul", "double"), ("Div", "quotient"))
    ]
    return [
        helper.make_node("Mul", ["x", "two"], ["d"], name="a/Mul"),
        helper.make_node("Constant", [], ["first"], name="a/Constant", value_ints=[0]),
        helper.make_node("Gather", ["d", "first"], ["value"], name="a/Gather"),
        helper.make_node("Sub", ["two", "two"], ["zero"], name="a/Sub"),
        helper.make_node("Greater", ["value", "zero"], ["flag"], name="a/Greater"),
        helper.make_node("If", ["flag"], ["z"], name="a/If", then_branch=inside[0], else_branch=inside[1]),
        helper.make_node("Mul", ["z", "two"], ["y"], name="b/Mul"),
    ]


@pytest.mark.parametrize("nodes", [[helper.make_node("Celu", ["x"], ["y"], name="celu")], branches()])
def test_operators_that_onnx_lacks_in_half_and_graphs_inside_stay_in_float32(nodes) -> None:
    graph = model_of(nodes)
    made = fp16_graph_from_float(graph, ())
    options = SessionOptions(backend="onnxruntime", name="g", trusted=True)
    for sign in (1, -1):
        x = sign * np.linspace(0.1, 2, 4, dtype=np.float32)
        found, wanted = (open_session(one, options).run({"x": x})["y"] for one in (made, graph))
        np.testing.assert_allclose(found, wanted, rtol=2e-3)
