"""What a bundle's graph may hold, and what is refused before a backend sees it."""

import onnx
import pytest
from hostile_graphs import ALLOWED, REFUSED, external_tensor
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.export.graph.opset import MIN_OPSET, opset_newest
from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.graph import check, operators
from textual_vision.runtime.graph.check import check_graph
from textual_vision.runtime.pipeline import TextToImage


@pytest.mark.parametrize("case", REFUSED)
def test_a_graph_is_refused_for(case):
    make, message = REFUSED[case]
    with pytest.raises(IntegrityError, match=message) as caught:
        check_graph(make().SerializeToString(), "latent.onnx")
    assert caught.value.message.startswith("latent.onnx: not a graph for a bundle: ")


@pytest.mark.parametrize("case", ALLOWED)
def test_a_graph_passes_with(case):
    check_graph(ALLOWED[case]().SerializeToString(), "x.onnx")


def test_the_graphs_of_a_bundle_pass(tiny_files):
    graphs = {name: data for name, data in tiny_files.items() if name.endswith(".onnx")}
    assert len(graphs) == 3
    for name, data in graphs.items():
        check_graph(data, name)


def test_every_opset_that_export_writes_is_known():
    assert {MIN_OPSET, opset_newest()} <= set(check.OPSETS)
    versions = onnx.helper.VERSION_TABLE
    written = {row[1] for row in versions if row[2] in check.OPSETS}
    assert written <= set(check.IR_VERSIONS)


def test_every_allowed_operator_is_one_of_onnx():
    known = {one.name for one in onnx.defs.get_all_schemas_with_history() if one.domain == ""}
    assert known >= operators.ALLOWED
    assert operators.MOVES | operators.KEEPS_SIZE | set(check.SIZE_INPUTS) <= operators.ALLOWED


def test_no_allowed_operator_holds_a_graph_or_gives_anything_but_tensors():
    for name in operators.ALLOWED:
        schema = onnx.defs.get_schema(name, max(check.OPSETS))
        kinds = {one.type for one in schema.attributes.values()}
        assert not kinds & {onnx.defs.OpSchema.AttrType.GRAPH, onnx.defs.OpSchema.AttrType.GRAPHS}
        for output in schema.outputs:
            assert any(kind.startswith("tensor(") and "string" not in kind for kind in output.types), name


def test_a_bundle_whose_graph_reads_another_file_is_not_loaded(replace_file, tiny_files):
    model = onnx.load_from_string(tiny_files["onnx/fp32/latent.onnx"])
    model.graph.initializer[0].CopyFrom(external_tensor(model.graph.initializer[0].name))
    root = replace_file("onnx/fp32/latent.onnx", model.SerializeToString())
    with pytest.raises(IntegrityError, match="another file"):
        TextToImage.load(root)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x0a", b"\x3a\xff\xff\xff\xff\x0f", b"\x80" * 20])
def test_what_is_no_graph_is_refused(data):
    with pytest.raises(IntegrityError, match=r"latent\.onnx: not a graph"):
        check_graph(data, "latent.onnx")


@given(st.data())
def test_any_damage_is_passed_or_an_integrity_error(tiny_files, data):
    graph = bytearray(tiny_files["onnx/fp32/text_encoder.onnx"])
    for _ in range(3):
        graph[data.draw(st.integers(0, len(graph) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_graph(bytes(graph), "x.onnx")
    except IntegrityError as error:
        assert error.message.startswith("x.onnx: ")
        assert len(error.message) < 300
