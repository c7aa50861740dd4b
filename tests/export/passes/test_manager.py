"""Each rewrite does what it says and changes no result, by ONNX's own reference implementation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.stage import tensor
from textual_vision.export.passes import conv_transpose, folding, fuse_linears, manager, shapes
from textual_vision.export.passes.manager import GraphPass, apply_pass, check_rewrites, rewrite_graph
from textual_vision.export.passes.measurement import RewriteContext
from textual_vision.export.sessions.opening import UnloadableGraphError
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import StageSpec

RANDOM = np.random.default_rng(0)
FLOAT_TOLERANCE = 2e-6


def weights(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    codes: Sequence[str] = (),
) -> bytes:
    """A serialized graph, opset 20; inputs and outputs are float32 but for `codes`, which are int64."""

    def infos(values: dict[str, list[int | str]]) -> list[onnx.ValueInfoProto]:
        kind = {name: TensorProto.INT64 if name in codes else TensorProto.FLOAT for name in values}
        return [helper.make_tensor_value_info(name, kind[name], shape) for name, shape in values.items()]

    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "g", infos(inputs), infos(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    data: bytes = model.SerializeToString()
    return data


def operators(graph: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(graph).graph.node)


def check_same(graph: bytes, change: GraphPass, inputs: dict[str, np.ndarray], tolerance: float) -> bytes:
    """The changed graph, valid and giving the same; it must have changed."""
    after = apply_pass(graph, change)
    assert after is not graph
    onnx.checker.check_model(onnx.load_from_string(after), full_check=True)
    old, new = (ReferenceEvaluator(onnx.load_from_string(g)).run(None, inputs) for g in (graph, after))
    for a, b in zip(old, new, strict=True):
        assert np.abs(a).max() > 0.1, "an output of zeros would prove nothing"
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(a).max())))
    return after


UPSAMPLING = (
    conv_transpose.replace_conv_transpose_by_crop,
    conv_transpose.replace_conv_transpose_by_3x3,
    conv_transpose.replace_conv_transpose_by_phases,
)


def transposed(bias: bool, height: int | str = 6, **attributes: object) -> bytes:
    usual = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    names = ["x", "w", "b"] if bias else ["x", "w"]
    node = helper.make_node("ConvTranspose", names, ["y"], **{**usual, **attributes})
    constants = {"w": weights(5, 3, 4, 4), "b": weights(3)}
    return graph_of(
        [node],
        constants if bias else {"w": constants["w"]},
        {"x": ["batch", 5, height, 7]},
        {"y": ["batch", "c", "h", "w_"]},
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("change", UPSAMPLING)
def test_a_transposed_convolution_is_a_convolution_woven_together(bias: bool, change: GraphPass) -> None:
    after = check_same(transposed(bias), change, {"x": weights(2, 5, 6, 7)}, FLOAT_TOLERANCE)
    assert operators(after)["ConvTranspose"] == 0
    assert operators(after)["DepthToSpace"] == (change is not conv_transpose.replace_conv_transpose_by_phases)


def test_pictures_of_any_size_made_apart_are_woven_by_depth_to_space() -> None:
    change, x = conv_transpose.replace_conv_transpose_by_phases, weights(2, 5, 6, 7)
    after = check_same(transposed(True, height="height"), change, {"x": x}, FLOAT_TOLERANCE)
    assert operators(after) == {"Conv": 4, "Concat": 1, "DepthToSpace": 1}


def depth_to_space(mode: str, height: int | str) -> bytes:
    node = helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode)
    return graph_of([node], {}, {"x": ["batch", 12, height, 5]}, {"y": ["batch", 3, "tall", 10]})


def test_weaving_with_channels_last_is_depth_to_space() -> None:
    graph = depth_to_space("DCR", 3)
    after = conv_transpose.interleave_channels_last(onnx.load_from_string(graph)).SerializeToString()
    assert operators(after) == {"Transpose": 3, "Reshape": 2}
    x = weights(2, 12, 3, 5)
    old, new = (ReferenceEvaluator(onnx.load_from_string(g)).run(None, {"x": x})[0] for g in (graph, after))
    assert np.array_equal(old, new)


@pytest.mark.parametrize(("mode", "height"), [("CRD", 3), ("DCR", "height")])
def test_pictures_woven_otherwise_or_of_any_size_stay_depth_to_space(mode: str, height: int | str) -> None:
    after = conv_transpose.interleave_channels_last(onnx.load_from_string(depth_to_space(mode, height)))
    assert operators(after.SerializeToString()) == {"DepthToSpace": 1}


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [1, 1]},
        {"strides": None},
        {"pads": [0, 0, 0, 0]},
        {"pads": None},
        {"output_padding": [1, 1]},
    ],
)
def test_transposed_convolutions_of_other_kinds_are_left_alone(attributes: dict[str, object]) -> None:
    graph = transposed(True, **attributes)
    assert all(apply_pass(graph, change) is graph for change in UPSAMPLING)


@pytest.mark.parametrize(("operator", "shape"), [("Conv", (4, 3, 3, 3)), ("ConvTranspose", (3, 4, 3, 3))])
def test_batch_norm_goes_into_the_convolution_before_it(operator: str, shape: tuple[int, ...]) -> None:
    constants = {"w": weights(*shape), "scale": weights(4), "shift": weights(4), "mean": weights(4)}
    constants["variance"] = np.abs(weights(4)) + 0.5
    nodes = [
        helper.make_node(operator, ["x", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["y"]),
    ]
    graph = graph_of(nodes, constants, {"x": ["batch", 3, 8, 8]}, {"y": ["batch", 4, "h", "w_"]})
    after = check_same(graph, folding.fold_batch_norm, {"x": weights(2, 3, 8, 8)}, FLOAT_TOLERANCE)
    assert operators(after) == {operator: 1}


def test_film_takes_its_one_into_the_bias() -> None:
    nodes = [
        helper.make_node("Gemm", ["c", "w", "b"], ["film"], transB=1),
        helper.make_node("Unsqueeze", ["film", "axes"], ["film4"]),
        helper.make_node("Split", ["film4"], ["scale", "shift"], axis=1, num_outputs=2),
        helper.make_node("Add", ["scale", "one"], ["more"]),
        helper.make_node("Mul", ["x", "more"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["y"]),
    ]
    constants = {"w": weights(8, 5), "b": weights(8), "axes": np.array([2, 3]), "one": np.float32(1)}
    graph = graph_of(
        nodes,
        {name: np.asarray(value) for name, value in constants.items()},
        {"c": ["batch", 5], "x": ["batch", 4, 3, 3]},
        {"y": ["batch", 4, 3, 3]},
    )
    inputs = {"c": weights(2, 5), "x": weights(2, 4, 3, 3)}
    after = check_same(graph, folding.fold_film, inputs, FLOAT_TOLERANCE)
    assert operators(after)["Add"] == operators(graph)["Add"] - 1


def test_a_distance_to_codes_is_one_product_bit_for_bit() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "codes_"], ["products"]),
        helper.make_node("Mul", ["products", "two"], ["twice"]),
        helper.make_node("Sub", ["squares", "twice"], ["y"]),
    ]
    constants = {"codes_": weights(6, 9), "two": np.array(2, np.float32), "squares": weights(9)}
    graph = graph_of(nodes, constants, {"x": ["batch", 6]}, {"y": ["batch", 9]})
    after = check_same(graph, folding.fold_codebook_distance, {"x": weights(4, 6)}, 0.0)
    assert operators(after) == {"MatMul": 1, "Add": 1}


def test_attentions_scale_goes_into_the_projection() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("Reshape", ["q", "shape"], ["heads"]),
        helper.make_node("Transpose", ["heads"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Mul", ["turned", "scale"], ["y"]),
    ]
    constants = {"w": weights(6, 6), "b": weights(6), "shape": np.array([0, 0, 2, 3])}
    constants["scale"] = np.array(0.37, np.float32)
    graph = graph_of(nodes, constants, {"x": ["batch", 5, 6]}, {"y": ["batch", 2, 5, 3]})
    after = check_same(graph, folding.fold_attention_scale, {"x": weights(2, 5, 6)}, FLOAT_TOLERANCE)
    assert operators(after)["Mul"] == 0


def test_rows_of_all_groups_are_looked_up_at_once() -> None:
    nodes = [
        helper.make_node("Shape", ["chosen"], ["shape"]),
        helper.make_node("Expand", ["groups", "shape"], ["all_groups"]),
        helper.make_node("Unsqueeze", ["all_groups", "last"], ["group_column"]),
        helper.make_node("Unsqueeze", ["chosen", "last"], ["code_column"]),
        helper.make_node("Concat", ["group_column", "code_column"], ["places"], axis=-1),
        helper.make_node("GatherND", ["table", "places"], ["y"]),
    ]
    constants = {"groups": np.arange(3), "last": np.array([-1]), "table": weights(3, 7, 4)}
    graph = graph_of(
        nodes, constants, {"chosen": ["batch", "tokens", 3]}, {"y": ["batch", "tokens", 3, 4]}, ["chosen"]
    )
    chosen = RANDOM.integers(0, 7, (2, 5, 3))
    after = check_same(graph, shapes.fuse_group_gathers, {"chosen": chosen}, 0.0)
    assert operators(after) == {"Add": 1, "Gather": 1}


def three_linears() -> bytes:
    nodes, constants = [], {}
    for name, width in (("q", 4), ("k", 6), ("v", 2)):
        nodes += [
            helper.make_node("MatMul", ["x", f"w{name}"], [f"p{name}"]),
            helper.make_node("Add", [f"p{name}", f"b{name}"], [f"l{name}"]),
            helper.make_node("Relu", [f"l{name}"], [name]),
        ]
        constants |= {f"w{name}": weights(5, width), f"b{name}": weights(width)}
    outputs: dict[str, list[int | str]] = {n: ["batch", 3, w] for n, w in (("q", 4), ("k", 6), ("v", 2))}
    return graph_of(nodes, constants, {"x": ["batch", 3, 5]}, outputs)


def test_products_of_one_input_become_one_product() -> None:
    after = check_same(
        three_linears(), fuse_linears.fuse_parallel_linears, {"x": weights(2, 3, 5)}, FLOAT_TOLERANCE
    )
    assert operators(after) == {"MatMul": 1, "Add": 1, "Split": 1, "Relu": 3}


def test_film_products_of_one_condition_become_one_product() -> None:
    nodes, constants = [], {}
    for name, width in (("a", 4), ("b", 6)):
        nodes.append(helper.make_node("Gemm", ["c", f"w{name}", f"b{name}"], [f"g{name}"], transB=1))
        nodes.append(helper.make_node("Relu", [f"g{name}"], [name]))
        constants |= {f"w{name}": weights(width, 5), f"b{name}": weights(width)}
    graph = graph_of(nodes, constants, {"c": ["batch", 5]}, {"a": ["batch", 4], "b": ["batch", 6]})
    after = check_same(graph, fuse_linears.fuse_film_linears, {"c": weights(2, 5)}, FLOAT_TOLERANCE)
    assert operators(after) == {"Gemm": 1, "Split": 1, "Relu": 2}


def test_a_shape_that_is_computed_becomes_constant() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["first"], start=0, end=1),
        helper.make_node("Concat", ["first", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    graph = graph_of(nodes, {"rest": np.array([2, 3])}, {"x": ["batch", 6]}, {"y": ["batch", 2, 3]})
    after = check_same(graph, shapes.make_reshapes_static, {"x": weights(4, 6)}, 0.0)
    assert operators(after) == {"Reshape": 1}


def test_a_constant_is_kept_once() -> None:
    same = weights(200)
    nodes = [
        helper.make_node("Add", ["x", "a"], ["t"]),
        helper.make_node("Relu", ["t"], ["u"]),
        helper.make_node("Mul", ["u", "b"], ["y"]),
        helper.make_node("Neg", ["x"], ["unused"]),
    ]
    graph = graph_of(nodes, {"a": same, "b": same.copy()}, {"x": ["batch", 200]}, {"y": ["batch", 200]})
    after = check_same(graph, folding.fold_constants, {"x": weights(2, 200)}, 0.0)
    assert len(onnx.load_from_string(after).graph.initializer) == 1
    assert operators(after)["Neg"] == 0


def test_parts_of_a_table_that_is_read_twice_are_not_stored_again() -> None:
    table = weights(16, 200)
    constants = {
        "table": table,
        "bias": weights(1),
        "zero": np.array([0]),
        "eight": np.array([8]),
        "twelve": np.array([12]),
    }
    nodes = [
        helper.make_node("Slice", ["table", "zero", "eight"], ["start"]),
        helper.make_node("Slice", ["table", "zero", "twelve"], ["most"]),
        helper.make_node("MatMul", ["x", "start"], ["t"]),
        helper.make_node("MatMul", ["w", "most"], ["u"]),
        helper.make_node("Neg", ["bias"], ["b"]),
        helper.make_node("Add", ["t", "b"], ["v"]),
        helper.make_node("Add", ["v", "u"], ["y"]),
    ]
    inputs = {"x": ["batch", 8], "w": ["batch", 12]}
    graph = graph_of(nodes, constants, inputs, {"y": ["batch", 200]})
    given = {"x": weights(3, 8), "w": weights(3, 12)}
    after = check_same(graph, folding.fold_constants, given, 0.0)
    stored = [numpy_helper.to_array(value) for value in onnx.load_from_string(after).graph.initializer]
    assert sum(value.nbytes for value in stored if value.dtype == np.float32) == table.nbytes + 4


def test_an_unknown_rewrite_or_target_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match="unknown rewrite 'fold'") as error:
        check_rewrites(["fold"], "cpu")
    assert "fold-batch-norm" in error.value.hint
    with pytest.raises(UsageError, match="unknown target"):
        check_rewrites([], "toaster")


def shared_up(nodes: Sequence[onnx.NodeProto], side: int) -> bytes:
    """A graph with the one ConvTranspose weight `up.weight`, from x to y."""
    constants = {"up.weight": weights(3, 3, 4, 4), "up.bias": weights(3)}
    return graph_of(nodes, constants, {"x": ["batch", 3, 2, 2]}, {"y": ["batch", 3, side, side]})


@pytest.mark.parametrize(
    "change",
    [
        conv_transpose.replace_conv_transpose_by_crop,
        conv_transpose.replace_conv_transpose_by_3x3,
        conv_transpose.replace_conv_transpose_by_phases,
    ],
)
def test_one_transposed_convolution_may_be_applied_twice(change: GraphPass) -> None:
    how = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("ConvTranspose", ["x", "up.weight", "up.bias"], ["a"], **how),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ConvTranspose", ["b", "up.weight", "up.bias"], ["y"], **how),
    ]
    after = check_same(shared_up(nodes, 8), change, {"x": weights(2, 3, 2, 2)}, 1e-4)
    assert not operators(after)["ConvTranspose"]
    names = [tensor.name for tensor in onnx.load_from_string(after).graph.initializer]
    kernels = [name for name in names if name.startswith("up.weight")]
    assert len(kernels) == len(set(kernels)) and len(kernels) in (1, 4)  # shared, in four phases apart


def film_graph() -> bytes:
    """Two FiLM layers with one Gemm's weights: y = x (1 + scale) + shift, twice."""
    nodes = []
    for index, (source, target) in enumerate((("x", "h"), ("h", "y"))):
        name = f"{index}"
        nodes += [
            helper.make_node("ReduceMean", [source, "space"], [f"mean{name}"], keepdims=0),
            helper.make_node("Gemm", [f"mean{name}", "film.weight", "film.bias"], [f"film{name}"]),
            helper.make_node("Unsqueeze", [f"film{name}", "space"], [f"wide{name}"]),
            helper.make_node(
                "Split", [f"wide{name}"], [f"scale{name}", f"shift{name}"], axis=1, num_outputs=2
            ),
            helper.make_node("Add", [f"scale{name}", "one"], [f"gain{name}"]),
            helper.make_node("Mul", [source, f"gain{name}"], [f"product{name}"]),
            helper.make_node("Add", [f"product{name}", f"shift{name}"], [target]),
        ]
    constants = {"film.weight": weights(3, 6), "film.bias": weights(6), "one": np.float32(1)}
    constants["space"] = np.array([2, 3])
    return graph_of(nodes, constants, {"x": [2, 3, 2, 2]}, {"y": [2, 3, 2, 2]})


def test_one_film_layer_may_be_applied_twice() -> None:
    after = check_same(film_graph(), folding.fold_film, {"x": weights(2, 3, 2, 2)}, 1e-4)
    assert operators(after)["Add"] == 2  # the shifts


def test_a_constant_made_by_a_rewrite_never_takes_a_name_that_is_taken() -> None:
    how = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("ConvTranspose", ["x", "up.weight"], ["a"], **how),
        helper.make_node("Add", ["a", "up.weight_2x2_kernels"], ["y"]),
    ]
    constants = {"up.weight": weights(3, 3, 4, 4), "up.weight_2x2_kernels": weights(4)}
    graph = graph_of(nodes, constants, {"x": ["batch", 3, 2, 2]}, {"y": ["batch", 3, 4, 4]})
    check_same(graph, conv_transpose.replace_conv_transpose_by_crop, {"x": weights(2, 3, 2, 2)}, 1e-4)


@pytest.mark.parametrize("size", [1, 4])
def test_products_with_biases_of_one_number_are_fused(size: int) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["a"]),
        helper.make_node("Add", ["a", "a.bias"], ["left"]),
        helper.make_node("MatMul", ["x", "b.weight"], ["b"]),
        helper.make_node("Add", ["b.bias", "b"], ["right"]),
        helper.make_node("Mul", ["left", "right"], ["y"]),
    ]
    constants = {"a.weight": weights(3, 4), "b.weight": weights(3, 4)}
    constants |= {"a.bias": weights(1), "b.bias": weights(size)}
    graph = graph_of(nodes, constants, {"x": ["batch", 5, 3]}, {"y": ["batch", 5, 4]})
    after = check_same(graph, fuse_linears.fuse_parallel_linears, {"x": weights(2, 5, 3)}, 1e-5)
    assert operators(after)["MatMul"] == 1


def test_a_bias_that_repeats_a_product_of_one_column_keeps_it_apart() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["a"]),
        helper.make_node("Add", ["a", "a.bias"], ["left"]),
        helper.make_node("MatMul", ["x", "b.weight"], ["b"]),
        helper.make_node("Add", ["b", "a.bias"], ["right"]),
        helper.make_node("Mul", ["left", "right"], ["y"]),
    ]
    constants = {"a.weight": weights(3, 1), "b.weight": weights(3, 1), "a.bias": weights(4)}
    graph = graph_of(nodes, constants, {"x": ["batch", 5, 3]}, {"y": ["batch", 5, 4]})
    assert apply_pass(graph, fuse_linears.fuse_parallel_linears) is graph


def test_conditions_with_a_bias_of_one_number_are_fused() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight", "a.bias"], ["a"], transB=1),
        helper.make_node("Gemm", ["x", "b.weight", "b.bias"], ["b"], transB=1),
        helper.make_node("Mul", ["a", "b"], ["y"]),
    ]
    constants = {"a.weight": weights(4, 3), "b.weight": weights(4, 3)}
    constants |= {"a.bias": weights(1), "b.bias": weights(4)}
    graph = graph_of(nodes, constants, {"x": ["batch", 3]}, {"y": ["batch", 4]})
    after = check_same(graph, fuse_linears.fuse_film_linears, {"x": weights(2, 3)}, 1e-5)
    assert operators(after)["Gemm"] == 1


def context_of(graph: bytes) -> RewriteContext:
    """x float32 (batch, 3) → y float32 (batch, 4), with one sample."""
    spec = StageSpec(
        name="tiny",
        inputs=(tensor("x", "float32", "batch", 3),),
        outputs=(tensor("y", "float32", "batch", 4),),
    )
    x, mask = weights(1, 3), np.ones((1, 1), np.int64)
    batch = ReferenceBatch(
        prompts=("",), seeds=(0,), tensors={"x": x, "attention_mask": mask}, margins={}, fixed_length=True
    )
    return RewriteContext(stage=spec, batch=batch, backend="onnxruntime", target="cpu")


def lose_a_constant(model: ir.Model) -> bool:
    """A rewrite with a fault: the graph reads a constant that it no longer has."""
    model.graph.initializers.pop("a.weight")
    return True


def linear_graph() -> bytes:
    nodes = [helper.make_node("Gemm", ["x", "a.weight"], ["y"], transB=1)]
    return graph_of(nodes, {"a.weight": weights(4, 3)}, {"x": ["batch", 3]}, {"y": ["batch", 4]})


def test_a_rewrite_whose_graph_does_not_load_is_left_out_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "REWRITES", {"lose-a-constant": lose_a_constant, **manager.REWRITES})
    graph = linear_graph()
    found = rewrite_graph(graph, context_of(graph))
    (result,) = [one for one in found.results if one.rewrite == "lose-a-constant"]
    assert not result.applied
    assert "does not load: tiny.onnx: " in result.reason
    x = {"x": weights(2, 3)}
    old, new = (ReferenceEvaluator(onnx.load_from_string(g)).run(None, x)[0] for g in (graph, found.graph))
    np.testing.assert_allclose(old, new, atol=1e-6)


def test_a_graph_that_loads_before_no_rewrite_is_our_bug_and_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = onnx.load_from_string(linear_graph())
    del model.graph.initializer[:]
    graph = model.SerializeToString()
    monkeypatch.setattr(manager, "REWRITES", {"touch": lambda model: True})
    with pytest.raises(UnloadableGraphError, match=r"tiny\.onnx") as error:
        rewrite_graph(graph, context_of(graph))
    assert error.value.exit_code == 1
    assert "tv-export doctor --json" in error.value.hint
