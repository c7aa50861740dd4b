"""The parts of a benchmark: counted work, fair turns, ratios with spread, ceilings, fresh processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from textual_vision.export.bench import peak_rate as bench_ceiling
from textual_vision.export.bench.iterations import BURST, UNMEASURED, Laps, laps_of, ratio_of, timing_of
from textual_vision.export.bench.macs import multiply_accumulates
from textual_vision.export.bench.peak_rate import BFLOAT16, FLOAT32, INT8, Ceiling, ceilings, higher
from textual_vision.export.bench.runners import Drawing
from textual_vision.export.bench.worker import Lap, burst
from textual_vision.export.cli.bench import numbers
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
    """A contestant that notes when it draws, in this process."""

    def __init__(self, name: str, turns: list[str]) -> None:
        self.name, self.turns = name, turns

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Drawing:
        self.turns.append(self.name)
        return Drawing(images=np.zeros((len(seeds), 1, 1, 3), np.uint8), stage_seconds={"latent": 0.5})

    def burst(
        self, prompts: Sequence[str], seeds: Sequence[int], unmeasured: int, measured: int
    ) -> list[Lap]:
        return burst(self, prompts, seeds, unmeasured, measured)


def test_contestants_take_turns_and_the_one_that_begins_changes() -> None:
    turns: list[str] = []
    pair = {name: _Recorder(name, turns) for name in ("a", "b")}
    laps = laps_of(pair, ["dog"], [0], warm_up=1, iterations=2 * BURST)
    a, b = (["a"] * (UNMEASURED + BURST), ["b"] * (UNMEASURED + BURST))
    assert turns == ["a", "b", *a, *b, *b, *a]
    assert laps["a"].whole.shape == laps["b"].stages["latent"].shape == (2, BURST)
    assert timing_of(laps["a"].stages["latent"], (90,)).percentiles == {"90": 500.0}


def test_iterations_are_rounded_up_to_whole_turns() -> None:
    laps = laps_of({"a": _Recorder("a", [])}, ["dog"], [0], warm_up=0, iterations=BURST + 1)
    assert laps["a"].whole.size == 2 * BURST


def _laps(rounds: list[float]) -> Laps:
    return Laps(whole=np.array([[seconds] * BURST for seconds in rounds]), stages={})


def test_a_ratio_without_noise_has_no_spread() -> None:
    ratio = ratio_of(_laps([2.0] * 8), _laps([1.0] * 8))
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 2.0, 2.0)


def test_a_disturbance_of_whole_rounds_does_not_widen_a_ratio() -> None:
    busy = [1.0, 5.0, 1.0, 9.0, 1.0, 2.0, 3.0, 1.0]
    ratio = ratio_of(_laps([2 * seconds for seconds in busy]), _laps(busy))
    assert ratio.median == ratio.low == ratio.high == 2.0


def test_the_spread_of_a_ratio_holds_its_median() -> None:
    random = np.random.default_rng(0)
    ratio = ratio_of(_laps(list(2 + random.random(20))), _laps(list(1 + random.random(20))))
    assert ratio.low < ratio.median < ratio.high


def test_ceilings_are_measured_for_float_and_integers() -> None:
    found = ceilings(("onnxruntime",), threads=1)
    assert set(found) == {FLOAT32, INT8}
    assert all(one.macs_per_second > 0 and one.by for one in found.values())


def test_what_computes_in_bfloat16_has_a_ceiling_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_ceiling.LOWER, "onnxruntime", BFLOAT16)
    found = ceilings(("onnxruntime",), threads=1)
    assert set(found) == {FLOAT32, BFLOAT16, INT8}
    assert found[FLOAT32].by.startswith("torch") and found[BFLOAT16].by == "onnxruntime MatMul"


def test_of_two_ceilings_the_higher_counts() -> None:
    low, high = (Ceiling(dtype=FLOAT32, macs_per_second=rate, by="") for rate in (1.0, 2.0))
    other = Ceiling(dtype=INT8, macs_per_second=3.0, by="")
    assert higher({FLOAT32: low}, {FLOAT32: high, INT8: other}) == {FLOAT32: high, INT8: other}


def test_the_peak_of_memory_includes_what_was_given_back() -> None:
    script = (
        "from textual_vision.export.bench.cold_start_worker import peak_bytes as peak\n"
        "before = peak(); taken = bytearray(b'x' * (64 << 20)); del taken; print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 64 << 20


def test_the_peak_of_memory_is_not_that_of_the_process_that_started_it() -> None:
    held = bytearray(b"x" * (256 << 20))
    script = "from textual_vision.export.bench.cold_start_worker import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < len(held)


@pytest.mark.parametrize("text", ["", "1,", "two", "0", "2000", "nan"])
def test_a_bad_list_of_numbers_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        numbers(text, "--batch", 1, 1024)
    assert "--batch" in caught.value.message and "--batch 1,4,8" in caught.value.hint
