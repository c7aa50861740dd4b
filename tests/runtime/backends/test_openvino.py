"""OpenVINO: what is compiled for fixed sizes computes the same; only where nothing but the batch is open."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from onnx import helper
from tiny_graphs import FLOAT, INT64, graph

from textual_vision.runtime.backends.session import SessionOptions
from textual_vision.runtime.errors import BackendMissingError, TextualVisionError

openvino = pytest.importorskip("textual_vision.runtime.backends.openvino")
from textual_vision.runtime.backends.openvino_rewrites import fuse_depth_to_space, move_topk_axis  # noqa: E402


def _session(operator="MatMul", kind=FLOAT, output=("batch", 5), backend="openvino"):
    constants = {"w": np.arange(20, dtype=np.float32).reshape(4, 5)} if operator == "MatMul" else {}
    nodes = [helper.make_node(operator, ["x", *constants], ["y"])]
    data = graph(nodes, {"x": (FLOAT, ["batch", 4])}, {"y": (kind, list(output))}, constants)
    return openvino.open_session(data, SessionOptions(backend=backend, name="tiny.onnx", threads=1))


def _rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def test_each_batch_size_is_compiled_for_and_gives_the_same():
    session = _session()
    for count in (1, 2, 1, 3):
        x = _rows(count, count)
        found = session.run({"x": x})["y"]
        assert np.allclose(found, x @ np.arange(20, dtype=np.float32).reshape(4, 5), atol=1e-4)
    assert list(session._fixed) == [2, 1, 3]


def test_with_another_open_size_than_the_batch_nothing_is_fixed():
    data = graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        {"x": (FLOAT, ["batch", "tokens"])},
        {"y": (FLOAT, ["batch", "tokens"])},
        {},
    )
    session = openvino.open_session(data, SessionOptions(backend="openvino", name="tiny.onnx", threads=1))
    for tokens in (4, 7, 4):
        x = np.random.default_rng(0).standard_normal((2, tokens)).astype(np.float32)
        assert np.array_equal(session.run({"x": x})["y"], np.maximum(x, 0))
    assert not session._fixed


def test_only_the_latest_sizes_are_kept():
    session = _session()
    for count in range(1, openvino.FIXED_LIMIT + 3):
        assert session.run({"x": _rows(count)})["y"].shape == (count, 5)
    assert list(session._fixed) == [3, 4, 5, 6]


def test_what_a_run_gave_is_not_overwritten_by_the_next():
    session = _session()
    first = session.run({"x": _rows(2, 1)})["y"]
    kept = first.copy()
    session.run({"x": _rows(2, 2)})
    assert np.array_equal(first, kept)


def test_outputs_whose_size_depends_on_values_are_never_fixed():
    session = _session("NonZero", INT64, (2, "found"))
    for count in (1, 5, 3, 0, 8, 2):
        x = np.zeros((2, 4), np.float32)
        x.flat[:count] = 1
        assert session.run({"x": x})["y"].shape == (2, count)


@pytest.mark.parametrize(
    "inputs",
    [{"no such input": _rows(2)}, {"x": _rows(2).astype(np.float64)}, {"x": _rows(2)[:, :3]}],
    ids=["another name", "another type", "another size"],
)
def test_inputs_that_do_not_fit_are_an_error(inputs):
    session = _session()
    with pytest.raises(TextualVisionError, match=r"tiny\.onnx: OpenVINO failed"):
        session.run(inputs)


def _chosen(operator):
    nodes = [helper.make_node(operator, ["x"], ["y"], axis=-1, keepdims=0)]
    return graph(nodes, {"x": (FLOAT, ["batch", 3, 4, 6])}, {"y": (INT64, ["batch", 3, 4])}, {})


@pytest.mark.parametrize(("operator", "choose"), [("ArgMax", np.argmax), ("ArgMin", np.argmin)])
def test_the_best_along_the_last_axis_is_found_along_another_and_is_the_same(operator, choose):
    data = _chosen(operator)
    model = openvino.openvino.Core().read_model(data, b"")
    assert move_topk_axis(model) == 1
    assert move_topk_axis(model) == 0
    session = openvino.open_session(data, SessionOptions(backend="openvino", name="tiny.onnx", threads=1))
    x = (
        np.random.default_rng(0).integers(0, 3, (2, 3, 4, 6)).astype(np.float32)
    )  # with ties: the first counts
    assert np.array_equal(session.run({"x": x})["y"], choose(x, axis=-1))


def _woven(blocks, channels):
    """DepthToSpace of (batch, 12, 3, 5) as turns and reshapes."""
    sizes = {"apart": np.array([0, 0, 0, *blocks, channels]), "joined": np.array([0, 6, 10, 3])}
    nodes = [
        helper.make_node("Transpose", ["x"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "apart"], ["phases"]),
        helper.make_node("Transpose", ["phases"], ["rows"], perm=[0, 1, 3, 2, 4, 5]),
        helper.make_node("Reshape", ["rows", "joined"], ["woven"]),
        helper.make_node("Transpose", ["woven"], ["y"], perm=[0, 3, 1, 2]),
    ]
    return graph(nodes, {"x": (FLOAT, ["batch", 12, 3, 5])}, {"y": (FLOAT, ["batch", 3, 6, 10])}, sizes)


def test_turns_that_weave_a_picture_together_become_one_operator_and_are_the_same():
    data = _woven((2, 2), 3)
    model = openvino.openvino.Core().read_model(data, b"")
    assert fuse_depth_to_space(model) == 1
    assert [node.get_type_name() for node in model.get_ops()].count("DepthToSpace") == 1
    session = openvino.open_session(data, SessionOptions(backend="openvino", name="tiny.onnx", threads=1))
    x = np.random.default_rng(0).standard_normal((2, 12, 3, 5)).astype(np.float32)
    # The phase varies slowest among the channels: y[c, 2 i + r, 2 j + s] is x[6 r + 3 s + c, i, j].
    phases = x.reshape(2, 2, 2, 3, 3, 5).transpose(0, 3, 4, 1, 5, 2)
    assert np.array_equal(session.run({"x": x})["y"], phases.reshape(2, 3, 6, 10))


def test_other_turns_are_left_alone():
    model = openvino.openvino.Core().read_model(_woven((4, 1), 3), b"")
    assert fuse_depth_to_space(model) == 0


def test_bfloat16_is_computed_only_when_asked_for_by_name():
    if "BF16" not in openvino.openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(BackendMissingError, match="bfloat16"):
            _session(backend="openvino-bf16")
        return
    w, x = np.arange(20, dtype=np.float32).reshape(4, 5), _rows(64)
    exact, rough = (_session(backend=name).run({"x": x})["y"] for name in ("openvino", "openvino-bf16"))
    assert np.abs(exact - x @ w).max() < 1e-4 < np.abs(rough - x @ w).max()
    assert np.allclose(rough, x @ w, atol=1.0)


SIGNALLED = """
import gc, signal, sys
from textual_vision.runtime.backends.openvino import open_session
from textual_vision.runtime.backends.session import SessionOptions

def told(number, frame):
    print("handled", flush=True)

signal.signal(signal.SIGINT, told)
options = SessionOptions(backend="openvino", name="tiny.onnx", threads=1)
graph = open(sys.argv[1], "rb").read()
first, second = open_session(graph, options), open_session(graph, options)
del first
gc.collect()
del second
gc.collect()
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.skipif(not hasattr(signal, "sigwait"), reason="Windows has no stacks for signals")
def test_a_signal_is_handled_after_sessions_were_closed(tmp_path):
    data = graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        {"x": (FLOAT, ["batch", 4])},
        {"y": (FLOAT, ["batch", 4])},
        {},
    )
    (tmp_path / "tiny.onnx").write_bytes(data)
    command = [sys.executable, "-c", SIGNALLED, str(tmp_path / "tiny.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


TWO_THREADS = """
import sys, threading, time
import numpy.lib

class Slow(numpy.lib.NumpyVersion):  # OpenVINO's bindings ask for it when they first use numpy
    def __init__(self, version):
        time.sleep(0.5)
        super().__init__(version)

numpy.lib.NumpyVersion = Slow
from textual_vision.runtime import TextToImage
given = {"args": (sys.argv[1],), "kwargs": {"backend": "openvino"}}
loading = [threading.Thread(target=TextToImage.load, **given) for _ in range(2)]
for one in loading:
    one.start()
for one in loading:
    one.join()
print("both")
"""


def test_two_threads_load_at_a_time(tiny_bundle):
    command = [sys.executable, "-c", TWO_THREADS, str(tiny_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr


@pytest.mark.parametrize("tokens", [2, 4, 5])
def test_attention_with_as_many_heads_as_tokens_is_right(tokens):
    heads, width = 4, 8
    constants = {
        "parts": np.array([0, 0, 3, heads, width]),
        "axis": np.array([0]),
        "joined": np.array([0, 0, heads * width]),
    }
    make = helper.make_node
    nodes = [
        make("Reshape", ["x", "parts"], ["r"]),
        make("Transpose", ["r"], ["t"], perm=[2, 0, 3, 1, 4]),
        make("Split", ["t"], ["a", "b", "c"], axis=0, num_outputs=3),
        *(make("Squeeze", [one, "axis"], [name]) for one, name in zip("abc", "qkv", strict=True)),
        make("Transpose", ["k"], ["turned"], perm=[0, 1, 3, 2]),
        make("MatMul", ["q", "turned"], ["scores"]),
        make("Softmax", ["scores"], ["shares"], axis=-1),
        make("MatMul", ["shares", "v"], ["found"]),
        make("Transpose", ["found"], ["back"], perm=[0, 2, 1, 3]),
        make("Reshape", ["back", "joined"], ["y"]),
    ]
    shape = ["batch", tokens, 3 * heads * width]
    data = graph(nodes, {"x": (FLOAT, shape)}, {"y": (FLOAT, ["batch", tokens, heads * width])}, constants)
    session = openvino.open_session(data, SessionOptions(backend="openvino", name="tiny.onnx", threads=1))
    x = np.random.default_rng(0).standard_normal((2, *shape[1:])).astype(np.float32)
    queries, keys, values = x.reshape(2, tokens, 3, heads, width).transpose(2, 0, 3, 1, 4)
    shares = np.exp(queries @ keys.swapaxes(2, 3))
    found = (shares / shares.sum(3, keepdims=True)) @ values
    expected = found.swapaxes(1, 2).reshape(2, tokens, heads * width)
    assert np.abs(session.run({"x": x})["y"] - expected).max() < 1e-5
