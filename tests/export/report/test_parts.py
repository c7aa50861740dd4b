"""The parts of a report: pictures, layers, plots, the table, and the command."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from textual_vision.export.build.options import BuildOptions
from textual_vision.export.build.report_files import build_command
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.report.layers import IDENTICAL, MEASURED, NOT_FINITE, LayerRatio, layer_ratios
from textual_vision.export.report.pictures import (
    AMPLIFICATION,
    DIFFERENT,
    FIRST_SAMPLES,
    NEAR_TIE,
    ReportImage,
    ReportSample,
    agreement_grid,
    error_map,
    select_samples,
)
from textual_vision.export.report.plots import layer_plot, stacked_bars
from textual_vision.export.report.summary import reference_of, rows_from_precisions
from textual_vision.export.results import (
    CodeMetrics,
    FloatMetrics,
    ImageMetrics,
    PrecisionResult,
    StageGraph,
    StageParity,
)
from textual_vision.runtime.manifest import StageSpec, TensorSpec

STAGE = StageSpec(
    name="latent",
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 4)),),
)


def _graph(scale: float) -> bytes:
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["hidden"], name="block.first"),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("MatMul", ["positive", "second"], ["y"], name="block.second"),
    ]
    weights = {
        "first": np.eye(4, dtype=np.float32),
        "second": np.diag(np.full(4, scale, np.float32)),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "latent",
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _batch() -> ReferenceBatch:
    x = np.array([[1, 2, 3, 4]], np.float32)
    return ReferenceBatch(prompts=("a",), seeds=(0,), tensors={"x": x}, margins={})


def test_the_ratio_of_a_layer_is_signal_power_over_that_of_the_difference() -> None:
    found = layer_ratios(STAGE, _graph(1.0), {"int8": _graph(1.125)}, _batch(), "onnxruntime")["int8"]
    assert [ratio.name for ratio in found] == ["block.first", "block.second"]
    assert found[0] == LayerRatio(name="block.first", op="MatMul", db=None, state=IDENTICAL)
    assert found[1].state == MEASURED
    assert found[1].db == pytest.approx(20 * math.log10(1 / 0.125))


def test_an_overflow_in_a_layer_is_told_as_such() -> None:
    found = layer_ratios(STAGE, _graph(1.0), {"fp16": _graph(math.inf)}, _batch(), "onnxruntime")["fp16"]
    assert found[1].state == NOT_FINITE and found[1].db is None


def _sample(prompt: str, *, error: int = 0) -> ReportSample:
    image = np.full((2, 2, 3), 100, np.uint8)
    found = image + np.uint8(error)
    figures = ImageMetrics(
        compared=1, psnr_db=50.0 - error if error else None, worst_psnr_db=None, ssim=1.0, max_abs=error
    )
    codes = np.array([[1, 2], [3, 4]])
    drawn = ReportImage(image=found, codes=codes, image_metrics=figures, code_metrics=None)
    margins = np.array([[1.0, 1e-6], [1.0, 1.0]], np.float32)
    return ReportSample(
        prompt=prompt, seed=0, image=image, codes=codes, margins=margins, generated={"int8": drawn}
    )


def test_the_first_samples_are_shown_and_then_the_worst_of_the_others() -> None:
    first = [_sample(f"first {index}") for index in range(FIRST_SAMPLES)]
    others = [_sample("same"), _sample("bad", error=9), _sample("worse", error=20), _sample("fair", error=1)]
    shown = select_samples([*first, *others])
    assert [sample.prompt for sample, worst in shown if not worst] == [sample.prompt for sample in first]
    assert [sample.prompt for sample, worst in shown if worst] == ["worse", "bad"]


def test_an_error_map_is_black_without_error_and_white_from_an_amplified_full_error_on() -> None:
    image = np.zeros((1, 3, 3), np.uint8)
    found = image.copy()
    found[0, 1, 2] = math.ceil(255 / AMPLIFICATION)
    found[0, 2] = 255
    heat = error_map(image, found)
    assert heat[0, 0].tolist() == [0, 0, 0]
    assert heat[0, 1].tolist() == heat[0, 2].tolist() == [255, 255, 255]


def test_codes_are_colored_by_agreement() -> None:
    grid = agreement_grid(_sample("a"), np.array([[1, 9], [9, 4]]))
    assert tuple(grid[0, 1]) == NEAR_TIE
    assert tuple(grid[1, 0]) == DIFFERENT
    assert tuple(grid[0, 0]) not in (NEAR_TIE, DIFFERENT)


def test_bars_are_as_wide_as_their_values_and_stand_side_by_side() -> None:
    svg = stacked_bars({"fp32": {"latent": 3.0, "generator": 1.0}, "int8": {"latent": 1.0}}, "MB", "size")
    assert 'x="0.00%" y="22" width="75.00%"' in svg
    assert 'x="75.00%" y="22" width="25.00%"' in svg
    assert 'y="74" width="25.00%"' in svg


def test_a_layer_without_a_measure_breaks_the_line() -> None:
    ratios = [
        LayerRatio(name=str(i), op="Conv", db=db, state=MEASURED) for i, db in enumerate([40, 50, None, 30])
    ]
    svg = layer_plot({"int8": ratios}, "signal")
    assert svg.count("<circle") == 3
    assert svg.count('<line class="c0"') == 1


def test_a_plot_of_nothing_is_left_out() -> None:
    same = LayerRatio(name="a", op="Conv", db=None, state=IDENTICAL)
    assert layer_plot({"int8": [same]}, "signal") == ""


def test_names_in_plots_are_escaped() -> None:
    assert "<b>" not in stacked_bars({"<b>": {"<b>": 1.0}}, "MB", '"<b>"')


def _parity(mode: str, backend: str, equal: int, decibels: float | None, verdict: str) -> StageParity:
    return StageParity(
        stage="latent",
        mode=mode,
        backend=backend,
        tensors={
            "codes": CodeMetrics(compared=100, equal=equal, near_ties=1),
            "image": ImageMetrics(compared=1, psnr_db=decibels, worst_psnr_db=decibels, ssim=0.9, max_abs=3),
            "text": FloatMetrics(max_abs=0.1, mean_abs=0.1, cosine=math.nan),
        },
        verdict=verdict,
        reason="" if verdict == "pass" else "too few",
    )


def _precision(name: str, size: int) -> PrecisionResult:
    graph = StageGraph(
        stage="latent", file="x", bytes=size, nodes=1, milliseconds=size / 1e6, backend="onnxruntime"
    )
    parity = (
        _parity("teacher-forced", "onnxruntime", 99, None, "pass"),
        _parity("teacher-forced", "openvino", 90, 35.0, "fail"),
        _parity("free-running", "onnxruntime", 80, 30.0, "pass"),
    )
    return PrecisionResult(precision=name, graphs=(graph,), parity=parity, verdict="fail")


def test_a_row_has_the_worst_backends_figures_and_reasons() -> None:
    (row,) = rows_from_precisions([_precision("fp32", 4_000_000)])
    worst = row.stages[0].worst
    assert (worst.agreement, worst.different, worst.near_ties) == (0.9, 10, 1)
    assert (worst.psnr_db, worst.verdict, worst.reasons) == (35.0, "fail", ("openvino: too few",))
    assert worst.cosine == -1.0  # not a number counts as the worst there is
    assert (row.end_to_end.agreement, row.end_to_end.psnr_db) == (0.8, 30.0)


def test_sizes_and_times_are_compared_with_float32_wherever_it_stands() -> None:
    rows = rows_from_precisions([_precision("int8", 1_000_000), _precision("fp32", 4_000_000)])
    assert [(row.precision, row.size_ratio, row.speedup) for row in rows] == [
        ("int8", 4.0, 4.0),
        ("fp32", 1.0, 1.0),
    ]
    assert reference_of(["int8", "fp16"]) == "int8"


def test_the_command_tells_of_no_place() -> None:
    options = BuildOptions(
        precisions=("fp32", "int8"), prompt_length=16, reference=True, no_rewrite=("fold-film",)
    )
    command = build_command("/home/someone/my model", Path("/home/someone/out.tv"), options)
    assert command.startswith("tv-export build 'my model' -o out.tv --precision fp32 --precision int8 ")
    assert "someone" not in command
    assert (
        "--prompt-length 16" in command and "--reference" in command and "--no-rewrite fold-film" in command
    )
