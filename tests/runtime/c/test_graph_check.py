"""Graphs from strangers: whole in themselves and plain, or refused before ONNX Runtime sees them."""

import random

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper


def external_tensor(name="weight"):
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/hostname")
    return tensor


def model_with(nodes=(), initializers=(), opset=17, domain=""):
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [], [output], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)])


def located_elsewhere():
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "weight")
    tensor.data_location = TensorProto.EXTERNAL
    return model_with(initializers=[tensor])


def branch():
    output = helper.make_tensor_value_info("weight", TensorProto.FLOAT, None)
    graph = helper.make_graph([], "branch", [], [output], [])
    return model_with([helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)])


def function_model():
    model = model_with()
    opsets = [helper.make_opsetid("", 17)]
    node = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("local", "f", ["x"], ["y"], [node], opsets))
    return model


def sparse_model():
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model = model_with()
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    return model


def many_sizes():
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "weight")
    tensor.dims[:] = [1 << 20, 1 << 20]
    return model_with(initializers=[tensor])


def strange_type():
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "weight")
    tensor.data_type = 99
    return model_with(initializers=[tensor])


REFUSED = {
    "weights of another file": (
        lambda: model_with(initializers=[external_tensor()]),
        "x.onnx: the graph keeps weights in another file",
    ),
    "a location alone": (located_elsewhere, "the graph keeps weights in another file"),
    "a constant of another file": (
        lambda: model_with([helper.make_node("Constant", [], ["y"], value=external_tensor())]),
        "the graph keeps weights in another file",
    ),
    "a branch": (branch, "a graph within a node"),
    "a function": (function_model, "functions"),
    "sparse weights": (sparse_model, "sparse tensors"),
    "a node's domain": (
        lambda: model_with([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]),
        "operators of 'com.microsoft'",
    ),
    "a model's domain": (lambda: model_with(domain="evil"), "operators of 'evil'"),
    "an opset of 100,000,000": (lambda: model_with(opset=100_000_000), "opset 100000000"),
    "an opset below zero": (lambda: model_with(opset=-1), "opset 18446744073709551615"),
    "a tensor too large": (many_sizes, "more than 2147483648 elements"),
    "an unknown element type": (strange_type, "elements of type 99"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_tv_export_never_writes_is_refused(driver, name):
    make, message = REFUSED[name]
    (answer,) = driver.lines("graphs", records=[make().SerializeToString()])
    assert answer[0] == "7"
    assert message in answer[1]


def varint(number, length=0):
    data = bytearray()
    while number > 0x7F or len(data) + 1 < length:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def field(number, payload, wire=2, tag_length=0):
    size = varint(len(payload)) if wire == 2 else b""
    return varint(number << 3 | wire, tag_length) + size + payload


def hidden_tag():
    """External data under a tag with bit 32 set: protobuf drops the bit, a careless walker does not."""
    entry = field(1, b"location") + field(2, b"/etc/hostname")
    tag = varint(13 << 3 | 2 | 1 << 32)
    tensor = field(1, varint(4), 0) + tag + varint(len(entry)) + entry + field(14, varint(1), 0)
    return field(7, field(5, tensor))


GRAPH = field(7, b"")
NOT_PLAIN = {
    "empty": b"",
    "text": b"hello",
    "an end in the middle of a tag": b"\x0a",
    "a field longer than the file": b"\x3a\xff\xff\xff\xff\x0f",
    "eighty bytes": b"\x80" * 80,
    "no graph": field(2, b"maker"),
    "a tag with bit 32 set": hidden_tag(),
    "a tag in more bytes than it needs": GRAPH + field(2, b"maker", tag_length=3),
    "a length in more bytes than it needs": GRAPH + b"\x12\x81\x00x",
    "a number of more than 64 bits": GRAPH + b"\x28" + b"\xff" * 9 + b"\x02",
    "field 0": GRAPH + b"\x02\x00",
    "an unknown field": GRAPH + field(30, b"x"),
    "a field number of 29 bits": GRAPH + field((1 << 29) - 1, b"x"),
    "wire type 3": GRAPH + b"\x0b\x0c",
    "wire type 7": GRAPH + b"\x0f",
    "a name as a number": GRAPH + field(2, b"\x01", wire=0),
    "two graphs": GRAPH + GRAPH,
    "an ORT flatbuffer": b"\x20\x00\x00\x00ORTM" + bytes(64),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_bytes_that_two_readers_may_understand_in_two_ways_are_refused(driver, name):
    (answer,) = driver.lines("graphs", records=[NOT_PLAIN[name]])
    assert answer[0] == "7"
    assert answer[1].startswith("x.onnx: ")


def test_graphs_of_a_bundle_pass(driver, tiny_files):
    graphs = [data for name, data in tiny_files.items() if name.endswith(".onnx")]
    assert driver.lines("graphs", records=graphs) == [["0"]] * 3


def damaged(graph, rng):
    data = bytearray(graph)
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randrange(len(data))
        cut = rng.choice((0, 1, 1, 1, 5))
        data[start : start + cut] = rng.choice(
            [bytes([rng.randrange(256)]), b"", b"\xff\xff\xff\x0f", b"\x80"]
        )
    return bytes(data)


@pytest.mark.parametrize("count", [1500, pytest.param(50_000, marks=pytest.mark.slow)])
def test_what_passes_has_nothing_elsewhere_whatever_is_damaged(sanitized_driver, tiny_files, count):
    rng = random.Random(0)
    graph = model_with([helper.make_node("Constant", [], ["y"], value=external_tensor())]).SerializeToString()
    sources = [*(data for name, data in tiny_files.items() if name.endswith(".onnx")), graph]
    records = [damaged(rng.choice(sources), rng) for _ in range(count)]
    answers = sanitized_driver.lines("graphs", records=records)
    passed = [record for record, answer in zip(records, answers, strict=True) if answer[0] == "0"]
    assert passed
    for record in passed:
        model = onnx.ModelProto()
        try:
            model.ParseFromString(record)
        except DecodeError:  # ONNX Runtime refuses it too: a name that is not UTF-8
            continue
        tensors = [*model.graph.initializer, *(a.t for n in model.graph.node for a in n.attribute)]
        assert not any(tensor.external_data or tensor.data_location for tensor in tensors)
