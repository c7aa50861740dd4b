"""tv-export build --precision int8, from a checkpoint to a bundle that draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from textual_vision.export.build import BuildOptions, build
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.pipeline import TextToImage


@pytest.mark.filterwarnings("ignore::textual_vision.runtime.errors.BundleWarning")
def test_an_int8_bundle_draws_and_says_what_every_layer_became(
    checkpoint: Path, small_build: BuildOptions, kept_steps: Path, tmp_path: Path
) -> None:
    options = replace(small_build, precisions=("int8",), budget="code_agreement>=0.5", allow_failing=True)
    result = build(str(checkpoint), tmp_path / "tiny.tv", options, cache=kept_steps)
    (made,) = result.precisions
    stages = made.notes["stages"]
    assert isinstance(stages, dict) and set(stages) == {"text_encoder", "latent", "generator"}
    modes = {mode for stage in stages.values() for mode in stage["layers"].values()}
    assert modes <= {"int8", "weights", "float"} and modes & {"int8", "weights"}
    drawn = TextToImage.load(tmp_path / "tiny.tv", backend="onnxruntime").draw(["red apple"], [3])
    assert drawn.images.shape == (1, 16, 16, 3)


def test_a_budget_that_does_not_parse_is_refused_before_any_work(
    checkpoint: Path, small_build: BuildOptions, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is not METRIC"):
        build(str(checkpoint), tmp_path / "tiny.tv", replace(small_build, budget="psnr>32"))
    assert not list(tmp_path.iterdir())
