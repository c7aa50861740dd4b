"""Graphs that read other files are refused before a backend sees them."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.external_data import refuse_external_data
from textual_vision.runtime.pipeline import TextToImage


def external_tensor(name="weight"):
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/hostname")
    return tensor


def model_with(nodes=(), initializers=()):
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(list(nodes), "g", [], [output], list(initializers)))


def branch():
    output = helper.make_tensor_value_info("weight", TensorProto.FLOAT, None)
    graph = helper.make_graph([], "branch", [], [output], [external_tensor()])
    return helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)


def function_model():
    node = helper.make_node("Constant", [], ["y"], value=external_tensor())
    model = model_with()
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "f", [], ["y"], [node], opsets))
    return model


HIDING_PLACES = {
    "an initializer": lambda: model_with(initializers=[external_tensor()]),
    "a constant": lambda: model_with([helper.make_node("Constant", [], ["y"], value=external_tensor())]),
    "a branch": lambda: model_with([branch()]),
    "a function": function_model,
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_weights_in_another_file_are_found_in(place):
    graph = HIDING_PLACES[place]().SerializeToString()
    with pytest.raises(IntegrityError, match="another file"):
        refuse_external_data(graph, "latent.onnx")


def test_a_graph_with_its_weights_inside_passes(tiny_files):
    graphs = {name: data for name, data in tiny_files.items() if name.endswith(".onnx")}
    assert any(onnx.load_from_string(data).graph.initializer for data in graphs.values())
    for name, data in graphs.items():
        refuse_external_data(data, name)


def test_a_bundle_whose_graph_reads_another_file_is_not_loaded(replace_file, tiny_files):
    model = onnx.load_from_string(tiny_files["onnx/fp32/latent.onnx"])
    model.graph.initializer[0].CopyFrom(external_tensor(model.graph.initializer[0].name))
    root = replace_file("onnx/fp32/latent.onnx", model.SerializeToString())
    with pytest.raises(IntegrityError, match="another file"):
        TextToImage.load(root)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x0a", b"\x3a\xff\xff\xff\xff\x0f", b"\x80" * 20])
def test_what_is_no_graph_is_refused(data):
    with pytest.raises(IntegrityError, match="not an ONNX graph"):
        refuse_external_data(data, "latent.onnx")


@given(st.data())
def test_any_damage_is_passed_or_an_integrity_error(tiny_files, data):
    graph = bytearray(tiny_files["onnx/fp32/text_encoder.onnx"])
    for _ in range(3):
        graph[data.draw(st.integers(0, len(graph) - 1))] = data.draw(st.integers(0, 255))
    try:
        refuse_external_data(bytes(graph), "x.onnx")
    except IntegrityError as error:
        assert error.message.startswith("x.onnx: ")
