"""tv-export build --target: the bundle and its engines in one go."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from textual_vision.export.cli import command
from textual_vision.runtime.backends.cudart import load_cudart, probe
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import BackendMissingError

EXAMPLE = f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'custom_model.py'}:make"


def build(folder: Path, *options: str) -> Result:
    arguments = ["build", EXAMPLE, "-o", str(folder), "--no-cache", "--samples", "4", *options]
    return CliRunner().invoke(command, arguments)


def has_gpu() -> bool:
    try:
        probe(load_cudart())
    except BackendMissingError:
        return False
    return True


@pytest.mark.filterwarnings("ignore::textual_vision.runtime.errors.PromptWarning")
def test_a_build_for_rtx_brings_its_engines(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: no real builds")
    result = build(tmp_path / "toy.tv", "--target", "tensorrt-rtx", "--compute-capability", "8.6")
    assert result.exit_code == 0, result.output
    (engine,) = Bundle(tmp_path / "toy.tv").manifest.engines
    assert engine.fingerprint.endswith("sm86") and engine.precision == "fp32"


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_built_for_one_and_the_way_out_is_named(tmp_path: Path) -> None:
    result = build(tmp_path / "toy.tv", "--target", "tensorrt")
    assert isinstance(result.exception, BackendMissingError)
    assert "--no-engines" in result.exception.hint
    assert not (tmp_path / "toy.tv").exists()


def test_gpus_to_build_for_without_engines_make_no_sense(tmp_path: Path) -> None:
    result = build(tmp_path / "toy.tv", "--compute-capability", "8.6")
    assert result.exit_code != 0 and "tensorrt-rtx" in getattr(result.exception, "hint", "")
