"""Reading an engine's layer table, in both libraries' spellings."""

import onnx
import pytest
import tiny_graphs as tiny
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.export.tensorrt.layer_table import (
    check_int8,
    count_types,
    layers_from_table,
    node_types,
    product_nodes,
)
from textual_vision.runtime.engines import LayerCount
from textual_vision.runtime.errors import IntegrityError, ToleranceError


def tensor(dtype, dims="[-1,64]", key="Datatype"):
    return f"{{ Name: t, Dimensions: {dims}, Strides: [64,1], {key}: {dtype}, Format: (Linear) Row major }}"


def row(name, kind, inputs, constants=(), nodes=("a",)):
    sides = [", ".join(side) for side in (inputs, constants, [tensor("Float")])]
    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {sides[0]}], Constants: [ {sides[1]}], "
        f"Outputs: [ {sides[2]}], TacticName: x, StreamId: 0, Metadata: {metadata}"
    )


def types_of(*rows, nodes=("a",)):
    return node_types(layers_from_table("Layers:\n" + "\n".join(rows)), nodes)


WEIGHT = "[64,192]"


def test_a_row_is_read_with_its_tensors_types_and_sizes():
    text = row(
        "a_myl0_4", "gemm", [tensor("Int8")], [tensor("Int8", WEIGHT), tensor("Float", "[1]")], ["a", "a_dq"]
    )
    (layer,) = layers_from_table(text)
    assert (layer.name, layer.kind, layer.nodes) == ("a_myl0_4", "gemm", ("a", "a_dq"))
    assert [(t.dtype, t.shape) for t in layer.constants] == [("int8", (64, 192)), ("float32", (1,))]
    assert [t.dtype for t in layer.outputs] == ["float32"]


@pytest.mark.parametrize(
    ("line", "dtype"),
    [
        (row("a", "gemm", [tensor("Int8")], [tensor("Int8", WEIGHT)]), "int8"),
        (row("a", "correlation", [tensor("Half")], [tensor("Half", WEIGHT)]), "fp16"),
        (row("a", "gemm", [tensor("Float")], [tensor("Int8", WEIGHT)]), "float32"),  # weights alone are int8
        (row("a", "correlation", [tensor("Float"), tensor("Int8")], [tensor("Int8", WEIGHT)]), "int8"),
        (row("_gemm_mha_v2_myl0_17", "kgen", [tensor("Int8"), tensor("Int8"), tensor("Float")]), "int8"),
        (row("a", "gemm", [tensor("Int8"), tensor("Half")]), "fp16"),
        (
            row("__myl_FcAddRelu_myl0_5", "runtime_fusion", [tensor("Float")], [tensor("Float", WEIGHT)]),
            "float32",
        ),
        (row("a", "gemm", [tensor("BFloat16")], [tensor("BFloat16", WEIGHT)]), "bf16"),
        (row("a", "gemm", [tensor("Marvel")]), "unknown"),
    ],
)
def test_the_type_of_a_product_is_that_of_its_factors(line, dtype):
    assert types_of(line) == {"a": dtype}


def test_the_inspectors_older_spelling_is_read_too():
    old = tensor("Row major Int8 format", key="Format/Datatype")
    vector = tensor("Thirty-two wide channel vectorized row major Int8 format", key="Format/Datatype")
    half = tensor("Channel major FP16 format where channel % 8 == 0", key="Format/Datatype")
    linear = tensor("Row major linear FP32", key="Format/Datatype")
    for given_tensor, dtype in ((old, "int8"), (vector, "int8"), (half, "fp16"), (linear, "float32")):
        assert types_of(row("conv + relu", "CaskConvolution", [given_tensor])) == {"a": dtype}


def test_where_no_tensor_tells_its_type_the_convolutions_weights_do():
    """As TensorRT 8.6.0 writes it of an engine with open sizes."""
    unsaid = tensor("N/A due to dynamic shapes", key="Format/Datatype")
    line = row("a", "CaskConvolution", [unsaid])
    for word, dtype in (("Int8", "int8"), ("Half", "fp16"), ("Float", "float32")):
        assert types_of(f'{line}, Weights: {{"Type": "{word}", "Count": 36864}}') == {"a": dtype}
    assert types_of(line) == {"a": "unknown"}


def test_a_row_that_names_no_nodes_is_called_after_them():
    line = row("conv_1 + relu_2", "CaskConvolution", [tensor("Int8")], [tensor("Int8", WEIGHT)], nodes=())
    assert types_of(line, nodes=("conv_1", "relu_2")) == {"conv_1": "int8", "relu_2": "int8"}


def test_the_row_that_multiplies_counts_not_those_that_move_or_add():
    glue = row("__myl_AddReshTran_myl0_3", "kgen", [tensor("Float")])
    product = row("a_myl0_4", "gemm", [tensor("Int8")], [tensor("Int8", WEIGHT)])
    fused = row("__myl_FcAdd_myl0_5", "runtime_fusion", [tensor("Half")], [tensor("Half", WEIGHT)])
    assert types_of(glue, product) == types_of(product, glue) == {"a": "int8"}
    assert types_of(glue, fused) == {"a": "fp16"}


def test_products_that_run_as_one_are_all_counted():
    line = row("c+b+a", "gemm", [tensor("Int8")], [tensor("Int8", WEIGHT)], ["a", "b", "c"])
    types = types_of(line, nodes=("a", "b", "c", "d"))
    assert count_types(types) == LayerCount(int8=3, fp16=0, float32=0, other=0)


def test_types_beyond_the_three_are_counted_as_others():
    assert count_types({"a": "bf16", "b": "fp16"}) == LayerCount(int8=0, fp16=1, float32=0, other=1)


def test_a_table_without_rows_is_an_error():
    with pytest.raises(IntegrityError, match="no rows"):
        layers_from_table("Layers:\n")


@given(st.text(max_size=200))
def test_any_text_after_a_name_is_read_as_some_row(text):
    assert layers_from_table(f"Name: {text}")


def test_only_products_whose_both_factors_are_dequantized_are_meant_for_int8():
    operators, meant = product_nodes(tiny.quantized("MatMul"))
    assert operators == {"product": "MatMul"}
    assert meant == {"product"}
    assert product_nodes(tiny.conv()) == ({"conv_0": "Conv"}, frozenset())


def test_a_weight_that_is_turned_after_dequantization_still_counts():
    model = onnx.load_model_from_string(tiny.quantized("MatMul"))
    nodes = list(model.graph.node)
    nodes[-1].input[1] = "turned"
    turn = onnx.helper.make_node("Transpose", ["w"], ["turned"], name="turn", perm=[0, 1])
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:-1], turn, nodes[-1]])
    assert product_nodes(model.SerializeToString())[1] == {"product"}


@pytest.mark.parametrize("names", [("", "b"), ("b", "b")])
def test_products_without_a_name_of_their_own_are_refused(names):
    model = onnx.load_model_from_string(tiny.lookup())
    model.graph.node.append(onnx.helper.make_node("MatMul", ["x", "rows_t"], ["again"]))
    for node, name in zip([n for n in model.graph.node if n.op_type == "MatMul"], names, strict=True):
        node.name = name
    with pytest.raises(IntegrityError, match="not unique"):
        product_nodes(model.SerializeToString())


def test_the_check_names_the_first_five_layers_that_failed():
    operators = {f"conv{i}": "Conv" for i in range(8)}
    types = {"conv0": "int8", "conv1": "fp16"}
    with pytest.raises(ToleranceError, match=r"g\.onnx: 7 of 8") as caught:
        check_int8(types, operators, frozenset(operators), "g.onnx")
    assert "conv1 (Conv: fp16), conv2 (Conv: not in the engine)" in caught.value.message
    assert "and 2 more" in caught.value.message


def test_nothing_meant_for_int8_is_nothing_to_check():
    check_int8({"a": "float32"}, {"a": "Conv"}, frozenset(), "g.onnx")
