"""A whole model in int8: the seam of `tv-export build`, the search, and the sensitivity of its layers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner

from textual_vision.calibration.cache import TensorRange
from textual_vision.export.cli.sensitivity import sensitivity_command
from textual_vision.export.int8 import convert as quantize
from textual_vision.export.int8.convert import Int8Options, check_any_quantized, int8_from_float
from textual_vision.export.int8.layers import INT8, QUANTIZED, WEIGHT_ONLY, default_modes
from textual_vision.export.int8.score import Evaluator
from textual_vision.export.int8.search import search
from textual_vision.export.int8.sensitivity import plot_sensitivity, sensitivity
from textual_vision.export.int8.stage import (
    PLAIN,
    QuantizedStage,
    RangeOptions,
    prepare_graph,
    quantize_stage,
)
from textual_vision.export.int8.tolerance import DEFAULT_TOLERANCE, parse_tolerance
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.reference_batches import reference_batches
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.passes.manager import REWRITES, apply_pass
from textual_vision.export.precision.registry import FloatGraphs, convert_stage
from textual_vision.export.sessions.opening import open_sessions
from textual_vision.export.tracing.exporter import ExportOptions, onnx_from_stage
from textual_vision.runtime.errors import IntegrityError, ToleranceError, UsageError
from textual_vision.runtime.generation.program import Program
from textual_vision.runtime.manifest import StageSpec

PROMPTS = ("dog wearing sunglasses", "green forest with river", "red apple", "a cat")
PLAIN_RANGES = RangeOptions(method="mse", corrections=(PLAIN,))


@pytest.fixture(scope="module")
def batches(tiny_model: StagedModel) -> Sequence[ReferenceBatch]:
    return reference_batches(tiny_model, PROMPTS, samples=8, seed=0)


@pytest.fixture(scope="module")
def floats(tiny_model: StagedModel, batches: Sequence[ReferenceBatch]) -> dict[str, bytes]:
    options = ExportOptions(max_tokens=tiny_model.text.max_tokens)
    graphs = {}
    for stage in tiny_model.stages:
        graph = onnx_from_stage(stage, batches[0].tensors, options).SerializeToString()
        for rewrite in REWRITES.values():
            graph = apply_pass(graph, rewrite)
        graphs[stage.name] = graph
    return graphs


@pytest.fixture(scope="module")
def source(
    tiny_model: StagedModel, floats: dict[str, bytes], batches: Sequence[ReferenceBatch]
) -> FloatGraphs:
    specs = tuple(stage.spec for stage in tiny_model.stages)
    return FloatGraphs(program=Program(stages=specs), fp32=floats, batches=batches, target="cpu")


@pytest.fixture(scope="module")
def evaluator(source: FloatGraphs) -> Evaluator:
    return Evaluator(source.program, source.fp32, source.batches, "onnxruntime")


@pytest.fixture(scope="module")
def stages(source: FloatGraphs, evaluator: Evaluator) -> list[QuantizedStage]:
    return [quantize_stage(s, source.fp32[s.name], evaluator, PLAIN_RANGES) for s in source.stages]


@pytest.mark.usefixtures("integers_pay")
def test_int8_graphs_keep_the_stages_inputs_and_outputs(source: FloatGraphs) -> None:
    options = Int8Options(ranges=PLAIN_RANGES, tolerance="code_agreement>=0")
    made = int8_from_float(source, options)
    assert list(made.graphs) == [stage.name for stage in source.stages]
    for stage in source.stages:
        graph = onnx.load_from_string(made.graphs[stage.name])
        onnx.checker.check_model(graph, full_check=True)
        assert [value.name for value in graph.graph.input] == [spec.name for spec in stage.inputs]
        assert [value.name for value in graph.graph.output] == [spec.name for spec in stage.outputs]
    json.dumps(made.notes, allow_nan=False)


def test_a_transposed_convolution_becomes_one_that_int8_can_run(floats: dict[str, bytes]) -> None:
    before = {node.op_type for node in onnx.load_from_string(floats["generator"]).graph.node}
    after = {node.op_type for node in prepare_graph(floats["generator"]).graph.node}
    assert "ConvTranspose" in before
    assert "ConvTranspose" not in after and "DepthToSpace" in after


def test_pictures_are_woven_with_channels_last_on_the_cpu_alone(stages: list[QuantizedStage]) -> None:
    for target, woven in (("cpu", True), ("tensorrt", False)):
        stage = replace(stages[-1], target=target)
        graph = onnx.load_from_string(stage.graph(default_modes(stage.layers, INT8)))
        assert ("DepthToSpace" in {node.op_type for node in graph.graph.node}) is not woven


def test_the_search_meets_the_tolerance_that_it_was_given(
    source: FloatGraphs, stages, evaluator: Evaluator
) -> None:
    tolerance = parse_tolerance("code_agreement>=0.97,psnr>=32,generator_psnr>=30")
    found = search(stages, evaluator, tolerance)
    again = evaluator.score(found.graphs)
    assert again.code_agreement >= 0.97 and again.psnr >= 32 and again.generator_psnr >= 30
    assert found.table_json() and found.trials


def test_a_loose_tolerance_leaves_more_layers_in_int8_than_a_strict_one(stages, evaluator: Evaluator) -> None:
    loose, strict = (
        search(stages, evaluator, parse_tolerance(text), timed=False)  # so small, integers are no faster
        for text in ("psnr>=1", "psnr>=90,code_agreement>=1")
    )
    in_int8 = [
        sum(mode in (INT8, WEIGHT_ONLY) for modes in found.modes.values() for mode in modes.values())
        for found in (loose, strict)
    ]
    assert in_int8[0] > in_int8[1]


def test_there_is_int8_however_slow_it_was_on_a_busy_machine(
    source: FloatGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time(evaluator: Evaluator, stage: StageSpec, graphs: Sequence[bytes]) -> tuple[float, ...]:
        return (70.0,) * (len(graphs) - 1) + (1.0,)  # the last is the float graph

    monkeypatch.setattr(Evaluator, "time", time)
    options = Int8Options(ranges=PLAIN_RANGES, tolerance="code_agreement>=0.9,generator_psnr>=30")
    stages: Any = int8_from_float(source, options).notes["stages"]
    modes = [mode for stage in stages.values() for mode in stage["layers"].values()]
    assert not set(QUANTIZED).isdisjoint(modes)


def test_a_tolerance_that_only_float_meets_is_an_error(stages, evaluator: Evaluator) -> None:
    found = search(stages[-1:], evaluator, parse_tolerance("generator_psnr>=200"))
    with pytest.raises(ToleranceError, match="nothing in int8"):
        check_any_quantized(stages[-1:], found.modes)


def test_a_tolerance_that_cannot_be_met_is_an_error_with_the_best_that_was_found(
    stages, evaluator: Evaluator
) -> None:
    with pytest.raises(ToleranceError, match=r"megabytes .* \(asked: <=0\.0001\)") as caught:
        search(stages, evaluator, parse_tolerance("megabytes<=0.0001"))
    assert caught.value.exit_code == 4
    assert "latent:" in caught.value.hint


def test_ranges_from_a_cache_are_used_instead_of_new_ones(
    source: FloatGraphs, stages, evaluator: Evaluator
) -> None:
    last = stages[-1]
    given = {
        last.stage.name: {
            n: TensorRange(threshold=9.0, method="minmax", low=-9.0, high=9.0) for n in last.ranges
        }
    }
    options = RangeOptions(ranges=given)
    made = quantize_stage(last.stage, source.fp32[last.stage.name], evaluator, options)
    assert dict(made.ranges) == given[last.stage.name]


def test_graphs_of_the_float_model_score_perfectly(source: FloatGraphs, evaluator: Evaluator) -> None:
    score = evaluator.score({})
    assert score.code_agreement == score.text_code_agreement == 1.0
    assert score.psnr == float("inf")
    assert score.megabytes == pytest.approx(sum(len(graph) for graph in source.fp32.values()) / 1e6)


def test_teacher_forced_pictures_do_not_suffer_from_wrong_codes(stages, evaluator: Evaluator) -> None:
    latent = next(one for one in stages if one.stage.name == "latent")
    coarse = {name: replace(found, threshold=found.threshold / 50) for name, found in latent.ranges.items()}
    latent = replace(latent, ranges=coarse)
    score = evaluator.score({"latent": latent.graph(default_modes(latent.layers, INT8))})
    assert score.generator_psnr == float("inf")
    assert score.code_agreement < 1.0 and score.psnr < 100


def test_every_layer_is_measured_alone(stages, evaluator: Evaluator, tmp_path: Path) -> None:
    found = list(sensitivity(stages[-1:], evaluator))
    large = [layer.name for layer in stages[-1].layers if layer.parameters >= 256]
    assert [one.layer for one in found] == large
    assert {one.mode for one in found if one.kind != "table"} == {"int8"}
    assert any(one.psnr_db is not None for one in found)
    assert all(one.text_code_agreement == 1.0 for one in found)
    plot_sensitivity(found, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore::textual_vision.calibration.prompts.CalibrationWarning")
def test_the_command_measures_a_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("dog wearing sunglasses\ngreen forest with river\n", "utf-8")
    arguments = [
        str(tiny_bundle),
        "--calibration-prompts",
        str(prompts),
        "--backend",
        "onnxruntime",
        "--json",
    ]
    result = CliRunner().invoke(sensitivity_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert {one["stage"] for one in json.loads(result.stdout)} <= {"text_encoder", "latent", "generator"}


def test_the_command_refuses_a_plot_that_is_no_picture_before_it_works(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="no known picture format"):
        CliRunner().invoke(
            sensitivity_command,
            [str(tiny_bundle), "--plot", "x.txt"],
            catch_exceptions=False,
            standalone_mode=False,
        )


def test_the_default_tolerance_is_what_a_build_promises() -> None:
    assert parse_tolerance(DEFAULT_TOLERANCE) == {
        "code_agreement": 0.995,
        "psnr": 32.0,
        "generator_psnr": 36.0,
    }


def test_sessions_of_int8_graphs_open_in_openvino_too(stages) -> None:
    graphs = {one.stage.name: one.graph(default_modes(one.layers, INT8)) for one in stages}
    assert set(open_sessions(graphs, "openvino")) == set(graphs)


def test_a_cache_that_lacks_a_tensor_is_refused_by_its_name(
    source: FloatGraphs, evaluator: Evaluator
) -> None:
    last = source.stages[-1]
    found = TensorRange(threshold=9.0, method="minmax", low=-9.0, high=9.0)
    options = RangeOptions(ranges={last.name: {"nothing.known": found}})
    with pytest.raises(IntegrityError, match=rf"no range for \d+ tensors of {last.name}, such as '"):
        quantize_stage(last, source.fp32[last.name], evaluator, options)


def test_a_stage_is_made_ready_early_without_the_graphs_of_others(
    source: FloatGraphs, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = source.stages[-1]
    graph = source.fp32[stage.name]
    early = convert_stage("int8", replace(source, fp32={stage.name: graph}), stage)
    expected = quantize_stage(stage, graph, evaluator, RangeOptions())
    modes = default_modes(expected.layers, INT8)
    assert isinstance(early, QuantizedStage)
    assert early.errors == expected.errors and early.graph(modes) == expected.graph(modes)
    made: list[str] = []

    def noted(one: StageSpec, *given: Any, **named: Any) -> QuantizedStage:
        made.append(one.name)
        return quantize_stage(one, *given, **named)

    monkeypatch.setattr(quantize, "quantize_stage", noted)
    options = Int8Options(ranges=PLAIN_RANGES, tolerance="code_agreement>=0")
    int8_from_float(replace(source, stage_results={stage.name: early}), options)
    assert made == [one.name for one in source.stages[:-1]]
