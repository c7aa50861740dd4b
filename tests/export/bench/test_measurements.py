"""The parts of a benchmark: multiply-accumulates, turns, confidence intervals, peak rates, memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from textual_vision.export.bench import peak_rate
from textual_vision.export.bench.macs import multiply_accumulates
from textual_vision.export.bench.peak_rate import (
    BFLOAT16,
    FLOAT32,
    INT8,
    PeakRate,
    faster_peak,
    measure_peak_rates,
)
from textual_vision.export.bench.runner import Iteration, RunOutput
from textual_vision.export.bench.runners import run_iterations
from textual_vision.export.bench.timing import (
    ITERATIONS_PER_TURN,
    WARM_UP_PER_TURN,
    Iterations,
    ratio_of_times,
    run_interleaved,
    timing_from_seconds,
)
from textual_vision.export.cli.arguments import numbers_from_text
from textual_vision.runtime.errors import UsageError


def _graph(node: onnx.NodeProto, weights: Sequence[int]) -> bytes:
    """A graph of one node from x to y, with weights w."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "one",
        [value("x", TensorProto.FLOAT, None)],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(weights, np.float32), "w")],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()


@pytest.mark.parametrize(
    ("op", "attributes", "x", "w", "expected"),
    [
        ("Conv", {"pads": [1, 1, 1, 1]}, (1, 8, 4, 4), (16, 8, 3, 3), 16 * 4 * 4 * 8 * 9),
        ("Conv", {"group": 4}, (2, 8, 5, 5), (8, 2, 3, 3), 2 * 8 * 3 * 3 * 2 * 9),
        (
            "ConvTranspose",
            {"strides": [2, 2], "pads": [1, 1, 1, 1]},
            (1, 8, 4, 4),
            (8, 6, 4, 4),
            8 * 16 * 6 * 16,
        ),
        ("MatMul", {}, (3, 5, 7), (7, 11), 3 * 5 * 7 * 11),
        ("Gemm", {"transB": 1}, (5, 7), (11, 7), 5 * 7 * 11),
        ("Gemm", {"transA": 1}, (7, 5), (7, 11), 5 * 7 * 11),
        ("Add", {}, (3, 5), (5,), 0),
    ],
)
def test_multiply_accumulates_are_counted_from_real_shapes(
    op: str, attributes: dict, x: tuple[int, ...], w: tuple[int, ...], expected: int
) -> None:
    graph = _graph(helper.make_node(op, ["x", "w"], ["y"], **attributes), w)
    assert multiply_accumulates(graph, {"x": np.ones(x, np.float32)}, "onnxruntime") == expected


class _Recorder:
    """A runner in this process that records its turns."""

    def __init__(self, name: str, turns: list[str]) -> None:
        self.name, self.turns = name, turns

    def run(self, prompts: Sequence[str], seeds: Sequence[int]) -> RunOutput:
        self.turns.append(self.name)
        return RunOutput(images=np.zeros((len(seeds), 1, 1, 3), np.uint8), stage_seconds={"latent": 0.5})

    def run_iterations(
        self, prompts: Sequence[str], seeds: Sequence[int], *, warm_up: int, measured: int
    ) -> list[Iteration]:
        return run_iterations(self, prompts, seeds, warm_up=warm_up, measured=measured)


def test_runners_take_turns_and_their_order_rotates() -> None:
    turns: list[str] = []
    pair = {name: _Recorder(name, turns) for name in ("a", "b")}
    times = run_interleaved(pair, ["dog"], [0], warm_up=1, iterations=2 * ITERATIONS_PER_TURN)
    a, b = (
        ["a"] * (WARM_UP_PER_TURN + ITERATIONS_PER_TURN),
        ["b"] * (WARM_UP_PER_TURN + ITERATIONS_PER_TURN),
    )
    assert turns == ["a", "b", *a, *b, *b, *a]
    assert times["a"].end_to_end.shape == times["b"].stages["latent"].shape == (2, ITERATIONS_PER_TURN)
    assert timing_from_seconds(times["a"].stages["latent"], (90,)).percentiles == {"90": 500.0}


def test_iterations_are_rounded_up_to_whole_turns() -> None:
    times = run_interleaved(
        {"a": _Recorder("a", [])}, ["dog"], [0], warm_up=0, iterations=ITERATIONS_PER_TURN + 1
    )
    assert times["a"].end_to_end.size == 2 * ITERATIONS_PER_TURN


def _times(rounds: list[float]) -> Iterations:
    return Iterations(end_to_end=np.array([[seconds] * ITERATIONS_PER_TURN for seconds in rounds]), stages={})


def test_a_ratio_without_noise_has_no_spread() -> None:
    ratio = ratio_of_times(_times([2.0] * 8), _times([1.0] * 8))
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 2.0, 2.0)


def test_a_disturbance_of_whole_rounds_does_not_widen_a_ratio() -> None:
    busy = [1.0, 5.0, 1.0, 9.0, 1.0, 2.0, 3.0, 1.0]
    ratio = ratio_of_times(_times([2 * seconds for seconds in busy]), _times(busy))
    assert ratio.median == ratio.low == ratio.high == 2.0


def test_the_spread_of_a_ratio_holds_its_median() -> None:
    random = np.random.default_rng(0)
    ratio = ratio_of_times(_times(list(2 + random.random(20))), _times(list(1 + random.random(20))))
    assert ratio.low < ratio.median < ratio.high


def test_peak_rates_are_measured_for_float_and_integers() -> None:
    found = measure_peak_rates(("onnxruntime",), threads=1)
    assert set(found) == {FLOAT32, INT8}
    assert all(one.macs_per_second > 0 and one.by for one in found.values())


def test_a_backend_that_computes_in_bfloat16_has_a_peak_rate_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(peak_rate.FLOAT_DTYPES, "onnxruntime", BFLOAT16)
    found = measure_peak_rates(("onnxruntime",), threads=1)
    assert set(found) == {FLOAT32, BFLOAT16, INT8}
    assert found[FLOAT32].by.startswith("torch") and found[BFLOAT16].by == "onnxruntime MatMul"


def test_the_higher_of_two_peak_rates_counts() -> None:
    low, high = (PeakRate(dtype=FLOAT32, macs_per_second=rate, by="") for rate in (1.0, 2.0))
    other = PeakRate(dtype=INT8, macs_per_second=3.0, by="")
    assert faster_peak({FLOAT32: low}, {FLOAT32: high, INT8: other}) == {FLOAT32: high, INT8: other}


def test_the_peak_memory_includes_freed_memory() -> None:
    script = (
        "from textual_vision.export.bench.worker import peak_bytes as peak\n"
        "before = peak(); taken = bytearray(b'x' * (64 << 20)); del taken; print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 64 << 20


def test_the_peak_memory_is_not_that_of_the_parent_process() -> None:
    held = bytearray(b"x" * (256 << 20))
    script = "from textual_vision.export.bench.worker import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < len(held)


@pytest.mark.parametrize("text", ["", "1,", "two", "0", "2000", "nan"])
def test_a_bad_list_of_numbers_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        numbers_from_text(text, "--batch-sizes", 1, 1024, "1,4,8")
    assert "--batch-sizes" in caught.value.message and "--batch-sizes 1,4,8" in caught.value.hint
