"""tv-export build --target: the bundle and its engines in one go."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_graphs as tiny
from click.testing import CliRunner, Result

from textual_vision.export.cli.main import command
from textual_vision.export.int8.stage import prepare_graph
from textual_vision.runtime.backends.tensorrt.cudart import load_cudart, probe
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import BackendMissingError, UsageError

EXAMPLE = f"{Path(__file__).parents[3] / 'docs' / 'examples' / 'custom_model.py'}:make"


def build(folder: Path, *options: str) -> Result:
    arguments = ["build", EXAMPLE, "-o", str(folder), "--no-cache", "--samples", "4", *options]
    return CliRunner().invoke(command, arguments)


def has_gpu() -> bool:
    try:
        probe(load_cudart())
    except BackendMissingError:
        return False
    return True


@pytest.mark.filterwarnings("ignore::textual_vision.calibration.prompts.CalibrationWarning")
def test_a_build_for_rtx_brings_its_engines(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no real builds")
    options = ("--target", "tensorrt-rtx", "--compute-capability", "8.6", "--json")
    result = build(tmp_path / "toy.tv", *options)
    assert result.exit_code == 0, result.output
    (engine,) = Bundle(tmp_path / "toy.tv").manifest.engines
    (told,) = json.loads(result.stdout)["engines"]
    assert told["fingerprint"] == engine.fingerprint and told["precision"] == "fp32"
    assert engine.fingerprint.endswith("sm86") and engine.precision == "fp32"


def test_a_dry_run_lists_the_engines_that_would_be_built(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no real builds")
    options = ("--target", "tensorrt-rtx", "--compute-capability", "8.6", "--dry-run")
    shown = build(tmp_path / "toy.tv", *options).output
    stages = "text_encoder, latent, generator"
    assert f"build tensorrt-rtx engines of fp32 for compute capability 8.6: {stages}" in shown
    assert "engines" not in build(tmp_path / "toy.tv", *options[:2], "--no-engines", "--dry-run").output


def test_a_gpu_that_cannot_be_built_for_is_told_before_any_work(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no real builds")
    for dry in ((), ("--dry-run",)):
        result = build(tmp_path / "toy.tv", "--target", "tensorrt-rtx", "--compute-capability", "8.7", *dry)
        assert isinstance(result.exception, UsageError) and "8.7" in result.exception.message
    assert not (tmp_path / "toy.tv").exists()


@pytest.mark.parametrize(("target", "products"), [("cpu", 1), ("tensorrt", 2)])
def test_products_of_one_input_stay_apart_in_int8_for_tensorrt_which_else_leaves_them_in_float(
    target: str, products: int
) -> None:
    constants = {"w1": tiny.weights(1, 8, 8), "w2": tiny.weights(2, 8, 8), "b": np.ones(8, np.float32)}
    nodes = [onnx.helper.make_node("MatMul", ["x", f"w{i}"], [f"p{i}"]) for i in (1, 2)]
    nodes += [onnx.helper.make_node("Add", [f"p{i}", "b"], [f"s{i}"]) for i in (1, 2)]
    nodes += [onnx.helper.make_node("Relu", [f"s{i}"], [f"y{i}"]) for i in (1, 2)]
    shape = (tiny.FLOAT, ["batch", 4, 8])
    graph = tiny.graph(nodes, {"x": shape}, {"y1": shape, "y2": shape}, constants)
    operators = [node.op_type for node in prepare_graph(graph, target).graph.node]
    assert operators.count("MatMul") == products


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_built_for_one_and_the_way_out_is_named(tmp_path: Path) -> None:
    result = build(tmp_path / "toy.tv", "--target", "tensorrt")
    assert isinstance(result.exception, BackendMissingError)
    assert "--no-engines" in result.exception.hint
    assert not (tmp_path / "toy.tv").exists()


def test_gpus_to_build_for_without_engines_make_no_sense(tmp_path: Path) -> None:
    result = build(tmp_path / "toy.tv", "--compute-capability", "8.6")
    assert result.exit_code != 0 and "tensorrt-rtx" in getattr(result.exception, "hint", "")
