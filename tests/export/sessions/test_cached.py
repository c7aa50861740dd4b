"""Sessions of a build are opened once for what a graph computes, and run once on what they are given."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from textual_vision.export.graph.smoke_graph import smoke_graph
from textual_vision.export.model.batch import Array
from textual_vision.export.sessions.cached import (
    MAX_RUNS,
    MAX_SESSIONS,
    CachingSession,
    GraphDigests,
    SessionPool,
)


class Counting:
    """y = 2x + 1, and how often it was computed."""

    inputs, outputs, largest_batch = frozenset("x"), frozenset("y"), None

    def __init__(self) -> None:
        self.runs = 0

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.runs += 1
        return {"y": 2 * inputs["x"] + 1}


def named(name: str, factor: float = 2.0) -> bytes:
    """The graph with notes of its own."""
    model = onnx.load_from_string(smoke_graph())
    model.producer_name, model.graph.name, model.graph.node[0].doc_string = name, name, f"made by {name}"
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array(factor, np.float32), "two"))
    data: bytes = model.SerializeToString()
    return data


def test_a_run_on_the_same_inputs_is_not_done_again() -> None:
    counting = Counting()
    session = CachingSession(counting)
    for value in (1.0, 2.0, 1.0, 2.0):
        given = session.run({"x": np.full((1, 4), value, np.float32)})
        np.testing.assert_array_equal(given["y"], np.full((1, 4), 2 * value + 1, np.float32))
    assert counting.runs == 2


def test_inputs_of_another_shape_or_type_are_others() -> None:
    counting = Counting()
    session = CachingSession(counting)
    for value in (np.zeros((1, 4), np.float32), np.zeros((4, 1), np.float32), np.zeros((1, 4), np.int32)):
        assert session.run({"x": value})["y"].shape == value.shape
    assert counting.runs == 3


@pytest.mark.parametrize("several_threads", [True, False])
def test_sessions_of_several_threads_run_in_turns_and_others_at_once(several_threads: bool) -> None:
    both = threading.Barrier(2)

    class Meeting(Counting):
        met = False

        def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(timeout=1.0 if several_threads else 30.0)
                Meeting.met = True
            return super().run(inputs)

    session = CachingSession(Meeting(), several_threads=several_threads)
    given = [{"x": np.full((1, 4), value, np.float32)} for value in (1.0, 2.0)]
    with ThreadPoolExecutor(2) as pool:
        assert [one["y"][0, 0] for one in pool.map(session.run, given)] == [3.0, 5.0]
    assert Meeting.met is not several_threads


def test_only_the_last_runs_are_kept() -> None:
    counting = Counting()
    session = CachingSession(counting)
    for value in [*range(MAX_RUNS + 1), MAX_RUNS, 0]:
        session.run({"x": np.full((1, 4), value, np.float32)})
    assert counting.runs == MAX_RUNS + 2


def test_graphs_that_differ_in_notes_alone_share_a_session() -> None:
    opened = SessionPool()
    first = opened.of({"latent": named("one"), "generator": named("other", factor=3.0)}, "onnxruntime")
    second = opened.of({"latent": named("two")}, "onnxruntime")
    assert second["latent"] is first["latent"]
    x = {"x": np.ones((1, 4), np.float32)}
    assert [first[name].run(x)["y"][0, 0] for name in ("latent", "generator")] == [3.0, 4.0]


def test_graphs_that_differ_in_a_weight_do_not() -> None:
    digests = GraphDigests()
    assert digests.of(named("one", factor=2.0)) != digests.of(named("one", factor=3.0))


def test_backends_have_sessions_of_their_own() -> None:
    opened = SessionPool()
    first, second = (opened.of({"latent": named("one")}, name) for name in ("onnxruntime", "openvino"))
    assert first["latent"] is not second["latent"]


def test_only_the_last_sessions_are_kept() -> None:
    opened = SessionPool()
    graphs = [named("one", factor=float(index)) for index in range(MAX_SESSIONS + 1)]
    first, *_ = [opened.of({"latent": graph}, "onnxruntime")["latent"] for graph in graphs]
    assert opened.of({"latent": graphs[-1]}, "onnxruntime")["latent"] is not first
    assert opened.of({"latent": graphs[0]}, "onnxruntime")["latent"] is not first


def test_sessions_refuse_to_run_once_they_are_stopped() -> None:
    opened = SessionPool()
    session = opened.of({"latent": named("one")}, "onnxruntime")["latent"]
    session.run({"x": np.ones((1, 4), np.float32)})
    opened.stop()
    with pytest.raises(CancelledError):
        session.run({"x": np.ones((1, 4), np.float32)})


def test_what_a_graph_computes_is_found_out_once_for_all_that_ask() -> None:
    digests, graph = GraphDigests(), named("one")
    assert digests.of(graph) is digests.of(graph) == digests.of(named("two"))
    first, second = SessionPool(digests), SessionPool(digests, threads=1)
    for opened in (first, second):
        opened.of({"latent": graph}, "onnxruntime")
    assert len(digests) == 2


def test_runs_of_several_threads_at_a_time_are_told_apart() -> None:
    session = CachingSession(Counting())
    inputs = [np.full((1, 4), value, np.float32) for value in range(100)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda x: session.run({"x": x})["y"][0, 0], inputs))
    assert found == [2 * value + 1 for value in range(100)]
