"""OpenVINO: what is compiled for fixed sizes computes the same, and only sizes that come often are."""

import numpy as np
import pytest
from onnx import helper
from tiny_graphs import FLOAT, INT64, graph

from textual_vision.runtime.backends.session import SessionOptions
from textual_vision.runtime.errors import BackendMissingError, TextualVisionError

openvino = pytest.importorskip("textual_vision.runtime.backends.openvino")
OFTEN = openvino.RUNS_BEFORE_FIXING + 1


def _session(operator="MatMul", kind=FLOAT, output=("batch", 5), backend="openvino"):
    constants = {"w": np.arange(20, dtype=np.float32).reshape(4, 5)} if operator == "MatMul" else {}
    nodes = [helper.make_node(operator, ["x", *constants], ["y"])]
    data = graph(nodes, {"x": (FLOAT, ["batch", 4])}, {"y": (kind, list(output))}, constants)
    return openvino.open_session(data, SessionOptions(backend=backend, name="tiny.onnx", threads=1))


def _rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def test_sizes_that_come_often_are_compiled_for_and_give_the_same():
    session = _session()
    for seed in range(2 * OFTEN):
        x = _rows(2, seed)
        found = session.run({"x": x})["y"]
        assert np.allclose(found, x @ np.arange(20, dtype=np.float32).reshape(4, 5), atol=1e-4)
    assert [sizes[0][1] for sizes in session._fixed] == [(2, 4)]


def test_sizes_that_come_seldom_are_not_compiled_for():
    session = _session()
    for count in range(1, 9):
        assert session.run({"x": _rows(count)})["y"].shape == (count, 5)
    assert not session._fixed


def test_only_the_latest_sizes_are_kept():
    session = _session()
    for count in range(1, openvino.FIXED_LIMIT + 3):
        for _ in range(OFTEN):
            assert session.run({"x": _rows(count)})["y"].shape == (count, 5)
    assert [sizes[0][1][0] for sizes in session._fixed] == [3, 4, 5, 6]


def test_what_a_run_gave_is_not_overwritten_by_the_next():
    session = _session()
    for _ in range(OFTEN):
        session.run({"x": _rows(2)})
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


def test_inputs_that_do_not_fit_are_an_error_however_often_others_came():
    session = _session()
    for _ in range(OFTEN):
        session.run({"x": _rows(2)})
    with pytest.raises(TextualVisionError, match=r"tiny\.onnx: OpenVINO failed"):
        session.run({"no such input": _rows(2)})


def _chosen(operator):
    nodes = [helper.make_node(operator, ["x"], ["y"], axis=-1, keepdims=0)]
    return graph(nodes, {"x": (FLOAT, ["batch", 3, 4, 6])}, {"y": (INT64, ["batch", 3, 4])}, {})


@pytest.mark.parametrize(("operator", "choose"), [("ArgMax", np.argmax), ("ArgMin", np.argmin)])
def test_the_best_along_the_last_axis_is_found_along_another_and_is_the_same(operator, choose):
    data = _chosen(operator)
    model = openvino.openvino.Core().read_model(data, b"")
    assert openvino.turn_choices(model) == 1
    assert openvino.turn_choices(model) == 0
    session = openvino.open_session(data, SessionOptions(backend="openvino", name="tiny.onnx", threads=1))
    x = (
        np.random.default_rng(0).integers(0, 3, (2, 3, 4, 6)).astype(np.float32)
    )  # with ties: the first counts
    for _ in range(OFTEN):
        assert np.array_equal(session.run({"x": x})["y"], choose(x, axis=-1))


def test_bfloat16_is_computed_only_when_asked_for_by_name():
    if "BF16" not in openvino.openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(BackendMissingError, match="bfloat16"):
            _session(backend="openvino-bf16")
        return
    w, x = np.arange(20, dtype=np.float32).reshape(4, 5), _rows(64)
    exact, rough = (_session(backend=name).run({"x": x})["y"] for name in ("openvino", "openvino-bf16"))
    assert np.abs(exact - x @ w).max() < 1e-4 < np.abs(rough - x @ w).max()
    assert np.allclose(rough, x @ w, atol=1.0)
