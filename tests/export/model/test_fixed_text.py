"""A bundle for prompts of one length draws what one for any length draws, and ONNX's reference agrees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from textual_vision.export.build.build import build_bundle
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.cli.main import command
from textual_vision.export.parity.onnx_reference import REFERENCE_BACKEND
from textual_vision.export.results import FREE_RUNNING, PASS, TEACHER_FORCED, BuildResult
from textual_vision.export.verification.options import VerifyOptions
from textual_vision.export.verification.verify import require_verified, verify_bundle
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import PromptWarning
from textual_vision.runtime.pipeline import TextToImage

LENGTH = 6
Built = tuple[Path, BuildResult]


@pytest.fixture(scope="module")
def fixed(
    small_build: BuildOptions, checkpoint: Path, kept_steps: Path, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    folder = tmp_path_factory.mktemp("fixed") / "fixed.tv"
    options = dataclasses.replace(small_build, prompt_length=LENGTH, reference=True)
    return folder, build_bundle(str(checkpoint), folder, options, cache=kept_steps)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("prompt", ["red apple", "green forest with river"])
def test_prompts_that_fit_are_drawn_as_by_a_bundle_for_any_length(
    fixed: Built, built: Built, prompt: str, precision: str, backend: str
) -> None:
    pytest.importorskip(backend)
    one, other = (
        TextToImage.load(folder, precision=precision, backend=backend).generate([prompt], [3])
        for folder in (fixed[0], built[0])
    )
    assert np.array_equal(one.codes, other.codes)
    assert np.abs(one.images.astype(int) - other.images.astype(int)).max() <= 1


def test_a_longer_prompt_is_cut_with_a_warning(fixed: Built) -> None:
    model = TextToImage.load(fixed[0], backend="onnxruntime")
    with pytest.warns(PromptWarning, match="longer than 6 tokens, the last 2 words were cut"):
        cut = model("green forest with river a cat", seed=3)
    assert np.array_equal(cut, model("green forest with river", seed=3))


def test_the_graphs_and_what_is_said_of_them_name_the_length(fixed: Built) -> None:
    bundle = Bundle(fixed[0])
    assert bundle.manifest.text.max_tokens == LENGTH and bundle.manifest.text.fixed_length
    for file in bundle.manifest.precisions["fp16"].files.values():
        words = [i for i in onnx.load_from_string(bundle.read(file)).graph.input if "mask" in i.name]
        assert all(i.type.tensor_type.shape.dim[1].dim_value == LENGTH for i in words)
    shown = CliRunner().invoke(command, ["inspect", str(fixed[0])]).output
    assert "prompts of up to 6 tokens, padded to as many" in shown
    assert "input_ids int64 batch×6" in shown and "tokens " not in shown.partition("stages")[2]
    assert b"up to 6 tokens, padded to as many" in bundle.read("report/index.html")


def test_it_passes_its_verification_with_the_checkpoint(fixed: Built, checkpoint: Path) -> None:
    options = VerifyOptions(checkpoint=str(checkpoint), backends=("onnxruntime",), samples=4)
    found = verify_bundle(fixed[0], options)
    require_verified(found)
    assert "fp32/latent/forced/onnxruntime/batch4" in {check.id for check in found.checks}


def test_onnx_own_reference_is_compared_in_every_stage_but_not_in_half(fixed: Built) -> None:
    assert fixed[1].backends[-1] == REFERENCE_BACKEND
    full, half = fixed[1].precisions
    for stage in ("text_encoder", "latent", "generator"):
        for mode in (TEACHER_FORCED, FREE_RUNNING):
            found = full.stage_parity(stage, mode, REFERENCE_BACKEND)
            assert found is not None and found.verdict == PASS
    assert all(one.backend != REFERENCE_BACKEND for one in half.parity)
    assert REFERENCE_BACKEND in Bundle(fixed[0]).manifest.precisions["fp32"].parity
