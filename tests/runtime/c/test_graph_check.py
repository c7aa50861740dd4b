"""The C library refuses the graphs that Python refuses, and passes the others."""

import random

import numpy as np
import onnx
import pytest
from hostile_graphs import ALLOWED, REFUSED, identity, node_model
from mutated_graphs import damaged_bytes, damaged_graph
from onnx import helper

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.graph import operators
from textual_vision.runtime.graph.check import check_graph


def by_python(graph):
    """The message, empty for a graph that passes."""
    try:
        check_graph(graph, "x.onnx")
    except IntegrityError as error:
        return error.message
    return ""


def test_what_tv_export_never_writes_is_refused_in_the_words_of_python(driver):
    graphs = [make().SerializeToString() for make, _ in REFUSED.values()]
    for case, graph, answer in zip(REFUSED, graphs, driver.lines("graphs", records=graphs), strict=True):
        assert answer[:2] == ["7", by_python(graph)], case


def test_what_tv_export_writes_passes(driver, tiny_files):
    graphs = [make().SerializeToString() for make in ALLOWED.values()]
    graphs += [data for name, data in tiny_files.items() if name.endswith(".onnx")]
    assert driver.lines("graphs", records=graphs) == [["0"]] * len(graphs)


def test_the_operators_are_those_of_python(driver):
    names = sorted({one.name for one in onnx.defs.get_all_schemas_with_history()} | {"", "add", "Addx"})
    graphs = [node_model(name, inputs=()).SerializeToString() for name in names]
    passed = [
        name
        for name, answer in zip(names, driver.lines("graphs", records=graphs), strict=True)
        if "is not allowed in a bundle" not in " ".join(answer)
    ]
    assert set(passed) == operators.ALLOWED


@pytest.mark.parametrize("field", ["ir_version", "opset"])
def test_the_versions_are_those_of_python(driver, field):
    graphs = []
    for version in (-1, *range(30), 1 << 40):
        model = identity()
        if field == "opset":
            model.opset_import[0].version = version
        else:
            model.ir_version = version
        graphs.append(model.SerializeToString())
    answers = driver.lines("graphs", records=graphs)
    assert [answer[1:2] for answer in answers] == [
        [by_python(graph)] if by_python(graph) else [] for graph in graphs
    ]


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


def verdicts_agree(driver, records):
    """Both pass or both refuse each record; gives the number of those that pass."""
    answers = driver.lines("graphs", records=records)
    for record, answer in zip(records, answers, strict=True):
        assert (answer[0] == "0") is (by_python(record) == ""), (record, answer, by_python(record))
    return sum(answer[0] == "0" for answer in answers)


@pytest.mark.parametrize("count", [1500, pytest.param(50_000, marks=pytest.mark.slow)])
def test_damaged_graphs_are_passed_or_refused_as_in_python(sanitized_driver, tiny_files, count):
    rng = random.Random(0)
    sources = [data for name, data in tiny_files.items() if name.endswith(".onnx")]
    sources += [make().SerializeToString() for make in ALLOWED.values()]
    records = [rng.choice((damaged_bytes, damaged_graph))(rng.choice(sources), rng) for _ in range(count)]
    passed = verdicts_agree(sanitized_driver, records)
    assert count / 20 < passed < count


def test_a_name_of_a_field_that_is_long_or_no_text_is_refused_as_in_python(driver):
    models = []
    for name in ("", "x" * 1024, "x" * 1025, "é" * 1024, "\u0000"):
        model = identity()
        model.graph.node[0].input[0] = model.graph.initializer[0].name = name
        models.append(model)
    for text in ("a" * 65536, "a" * 65537):
        model = identity()
        model.doc_string = text
        models.append(model)
    many = [helper.make_node("Sum", ["x"] * count, ["y"]) for count in (1024, 1025)]
    models += [node_model("Sum", ("x", np.ones(1, np.float32)), inputs=list(node.input)) for node in many]
    records = [model.SerializeToString() for model in models]
    assert 0 < verdicts_agree(driver, records) < len(records)


def test_words_of_a_graph_are_shown_without_control_characters(driver):
    records = [node_model("\x1b[31mDog\u202e" + "x" * 400).SerializeToString()]
    records.append(node_model("a", domain="\n").SerializeToString())
    for answer in driver.lines("graphs", records=records):
        assert answer[0] == "7"
        assert answer[1].isprintable()
        assert len(answer[1]) < 300
    assert "'\\x1b[31mDog\\u202e" in driver.lines("graphs", records=records)[0][1]
