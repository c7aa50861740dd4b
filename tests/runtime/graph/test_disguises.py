"""Files that one reader takes for another thing than the next does: each is shown to be a real attack."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.pipeline import TextToImage

SECRET = bytes(range(200, 232))
BIT_32 = 1 << 32
OPTIONS = {
    backend: SessionOptions(backend=backend, name="x.onnx", trusted=True)
    for backend in ("onnxruntime", "openvino")
}


def varint(number):
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def long_field(number, wire, value):
    """A field whose tag has bit 32 set: C++ drops the bit, so it is the field `number` for it."""
    return varint(number << 3 | wire | BIT_32) + value


def with_length(data):
    return varint(len(data)) + data


def graph_that_reads(location, count):
    """y: `count` bytes of the file at `location`. The fields that say so have tags of five bytes."""
    tensor = TensorProto(name="x", data_type=TensorProto.UINT8, dims=[count]).SerializeToString()
    for key, text in (("location", location), ("offset", "0"), ("length", str(count))):
        entry = onnx.StringStringEntryProto(key=key, value=text).SerializeToString()
        tensor += long_field(13, 2, with_length(entry))
    tensor += long_field(14, 0, b"\x01")
    output = helper.make_tensor_value_info("y", TensorProto.UINT8, [count])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [output])
    opsets = [helper.make_opsetid("", 17)]
    shell = onnx.ModelProto(ir_version=8, opset_import=opsets).SerializeToString()
    return shell + b"\x3a" + with_length(graph.SerializeToString() + b"\x2a" + with_length(tensor))


def plain_graph(**changed):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **changed).SerializeToString()


def read_by_onnxruntime(graph):
    """What ONNX Runtime itself draws from the graph; skips where it has learned to refuse it."""
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(graph).run(None, {})[0]
    except Exception as error:  # noqa: BLE001 - whichever way it refuses
        pytest.skip(f"this ONNX Runtime refuses it: {str(error)[:80]}")


def test_a_tag_of_five_bytes_cannot_make_a_graph_read_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(SECRET)
    graph = graph_that_reads("secret.bin", len(SECRET))
    with pytest.raises(IntegrityError, match="not encoded as protobuf writes it"):
        open_session(graph, SessionOptions(backend="onnxruntime", name="x.onnx"))
    assert bytes(read_by_onnxruntime(graph)) == SECRET  # so the attack is real


def test_a_bundle_with_such_a_graph_is_not_loaded(replace_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(SECRET)
    root = replace_file("onnx/fp32/generator.onnx", graph_that_reads("secret.bin", len(SECRET)))
    with pytest.raises(IntegrityError, match=r"generator\.onnx: not a graph for a bundle"):
        TextToImage.load(root)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_is_never_taken_for_onnxruntimes_own_format(backend):
    graph = plain_graph(producer_name="ORTM")
    assert graph[4:8] == b"ORTM"
    with pytest.raises(IntegrityError, match="own format"):
        open_session(graph, SessionOptions(backend=backend, name="x.onnx"))
    # Even if it were not refused, it would be read as what it was checked as.
    found = open_session(graph, OPTIONS[backend]).run({"x": np.float32([3])})
    assert found["y"].tolist() == [-3]


IR = """<net name="evil" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1" element_type="f32"/>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="y" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>"""


def test_a_graph_with_another_model_in_its_texts_is_read_as_onnx_by_openvino():
    import openvino

    graph = plain_graph(producer_name=IR)
    if openvino.Core().read_model(graph, b"").friendly_name != "evil":
        pytest.skip("this OpenVINO does not take it for its own format")
    found = open_session(graph, SessionOptions(backend="openvino", name="x.onnx")).run({"x": np.float32([3])})
    assert found["y"].tolist() == [-3]  # the other model gives 3
