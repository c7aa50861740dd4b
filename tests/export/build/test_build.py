"""A checkpoint becomes a bundle that draws the same, or nothing at all."""

from __future__ import annotations

import dataclasses
import errno
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from textual_vision.export.build import export_jobs
from textual_vision.export.build.build import build_bundle
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.bundle import writer as bundle_module
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.parity.tolerance import TOLERANCES
from textual_vision.export.results import FAIL, FREE_RUNNING, PASS, TEACHER_FORCED, BuildResult
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import BundleWarning, ParityError, UsageError
from textual_vision.runtime.golden import compare
from textual_vision.runtime.manifest import BatchProfile
from textual_vision.runtime.noise import noise_from_seed
from textual_vision.runtime.pipeline import TextToImage
from textual_vision.runtime.text.tokenizer import Tokenizer

STAGES = ("text_encoder", "latent", "generator")
STEPS_OF_A_STAGE = ("export {}", "rewrite {}", "convert {} to fp16")
Built = tuple[Path, BuildResult]


def test_the_bundle_draws_the_codes_and_the_picture_that_pytorch_draws(
    built: Built, tiny_model: StagedModel
) -> None:
    drawn = TextToImage.load(built[0], backend="onnxruntime").generate(["red apple"], [5])
    tokens = Tokenizer(tiny_model.tokenizer, tiny_model.text).encode(["red apple"])
    ids, mask = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)
    noise = torch.from_numpy(noise_from_seed(5, 1, tiny_model.noise[0].shape[0]))
    with torch.no_grad():
        _, text, _ = tiny_model.stage("text_encoder").module(ids, mask)
        codes = tiny_model.stage("latent").module(text, mask, noise)
        image = tiny_model.stage("generator").module(codes, text, mask, noise)
    assert np.array_equal(drawn.codes, codes.numpy())
    assert np.abs(drawn.images.astype(int) - image.numpy().astype(int)).max() <= 1
    assert image.float().std() > 10, "a picture of one color would prove nothing"


def test_different_prompts_and_seeds_give_different_codes(built: Built) -> None:
    codes = TextToImage.load(built[0]).generate(["red apple", "a cat", "a cat"], [1, 1, 2]).codes
    assert not np.array_equal(codes[0], codes[1])
    assert not np.array_equal(codes[1], codes[2])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_golden_picture_is_met(built: Built, precision: str, backend: str) -> None:
    pytest.importorskip(backend)
    assert all(
        one.passed for one in compare(TextToImage.load(built[0], precision=precision, backend=backend))
    )


def test_every_stage_is_compared_in_both_ways_by_every_backend(built: Built) -> None:
    for precision in built[1].precisions:
        for backend in built[1].backends:
            for stage in STAGES:
                for mode in (TEACHER_FORCED, FREE_RUNNING):
                    found = precision.stage_parity(stage, mode, backend)
                    assert found is not None and found.verdict == PASS


def test_the_merged_graph_gives_what_the_stages_give(built: Built) -> None:
    for precision in built[1].precisions:
        merged = precision.stage_parity("pipeline", FREE_RUNNING, "onnxruntime")
        assert merged is not None and merged.codes is not None and merged.image is not None
        assert merged.codes.agreement == 1.0
        assert merged.image.max_abs <= 1


def test_a_half_graph_is_about_half_the_size_and_keeps_its_inputs_and_outputs(built: Built) -> None:
    bundle = Bundle(built[0])
    files = bundle.manifest.precisions
    for stage in STAGES:
        full, half = (
            onnx.load_from_string(bundle.read(files[name].files[stage])) for name in ("fp32", "fp16")
        )
        for side in ("input", "output"):
            kinds = [
                [(v.name, v.type.tensor_type.elem_type) for v in getattr(m.graph, side)] for m in (full, half)
            ]
            assert kinds[0] == kinds[1]
        kinds_of_weights = {tensor.data_type for tensor in half.graph.initializer}
        assert onnx.TensorProto.FLOAT16 in kinds_of_weights


def test_graphs_name_their_modules_and_not_the_machine_that_made_them(built: Built, checkpoint: Path) -> None:
    bundle = Bundle(built[0])
    data = bundle.read("onnx/fp32/generator.onnx")
    model = onnx.load_from_string(data)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names) and all(names)
    assert any(name.startswith("generator.ups.0") for name in names)
    weights = [tensor.name for tensor in model.graph.initializer]
    assert "generator.color.weight" in weights
    assert not [name for name in names + weights if name.startswith(("val_", "node_", "onnx::"))]
    assert str(Path(torch.__file__).parent).encode() not in data
    assert b".py" not in data


def test_a_second_build_with_one_option_changed_redoes_only_what_changed(
    small_build: BuildOptions, built: Built, checkpoint: Path, kept_steps: Path, tmp_path: Path
) -> None:
    options = dataclasses.replace(small_build, samples=6)
    result = build_bundle(str(checkpoint), tmp_path / "again.tv", options, cache=kept_steps)
    kept = {step.name for step in result.steps if step.cached}
    redone = {step.name for step in result.steps if not step.cached}
    assert {f"export {stage}" for stage in STAGES} | {"convert to fp16"} <= kept
    assert "generate the reference pictures" in redone and "compare fp32 on onnxruntime" in redone


def test_while_one_stage_is_made_beside_all_is_done_that_the_others_are_enough_for(
    small_build: BuildOptions, built: Built, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_jobs, "needs_worker", lambda stage: stage.name == "latent")
    told: list[str] = []
    place = tmp_path / "beside.tv"
    result = build_bundle(
        str(checkpoint),
        place,
        small_build,
        cache=tmp_path / "kept",
        on_progress=lambda line: told.append(line.partition(":")[0]),
    )
    others = [step.format(name) for name in ("text_encoder", "generator") for step in STEPS_OF_A_STAGE]
    assert [name for name in told if name in others] == others
    assert told.index(others[-1]) < told.index("export latent") < told.index("rewrite latent")
    assert "convert latent to fp16" not in told
    assert result.verdict == PASS
    assert all(one.passed for one in compare(TextToImage.load(place, precision="fp16")))
    assert not list(tmp_path.glob(".*"))
    again = build_bundle(str(checkpoint), tmp_path / "again.tv", small_build, cache=tmp_path / "kept")
    assert {step.name for step in again.steps if not step.cached} == {"write the report", "write the bundle"}


def test_no_cached_step_of_a_stage_is_begun_beside(
    small_build: BuildOptions,
    built: Built,
    checkpoint: Path,
    kept_steps: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_jobs, "needs_worker", lambda stage: True)
    monkeypatch.setattr(export_jobs, "spawn_worker", lambda *_: pytest.fail("a process was started"))
    build_bundle(str(checkpoint), tmp_path / "again.tv", small_build, cache=kept_steps)


@pytest.fixture
def build_in_vain(
    small_build: BuildOptions,
    built: Built,
    checkpoint: Path,
    kept_steps: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., BuildResult]:
    """Builds into a folder under a tolerance for fp16 that no half graph meets."""
    tolerance = dataclasses.replace(TOLERANCES["fp16"], picture_db=200.0, cosine=1.1)
    monkeypatch.setitem(TOLERANCES, "fp16", tolerance)

    def attempt(place: Path, **changed: bool) -> BuildResult:
        return build_bundle(
            str(checkpoint), place, dataclasses.replace(small_build, **changed), cache=kept_steps
        )

    return attempt


def test_a_bundle_outside_its_tolerance_is_refused_and_nothing_is_written(
    build_in_vain: Callable[..., BuildResult], tmp_path: Path
) -> None:
    with pytest.raises(ParityError, match=r"fp16 text_encoder .* cosine") as error:
        build_in_vain(tmp_path / "bad.tv")
    assert error.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_failing_bundle_that_is_allowed_says_so_whenever_it_is_loaded(
    build_in_vain: Callable[..., BuildResult], built: Built, tmp_path: Path
) -> None:
    assert build_in_vain(tmp_path / "bad.tv", allow_failing=True).verdict == FAIL
    manifest = Bundle(tmp_path / "bad.tv").manifest
    assert manifest.precisions["fp16"].verdict == FAIL and manifest.default_precision == "fp32"
    with pytest.warns(BundleWarning, match="fp16 failed"):
        TextToImage.load(tmp_path / "bad.tv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TextToImage.load(built[0])


def test_a_full_disk_leaves_nothing_behind_and_the_old_bundle_in_its_place(
    small_build: BuildOptions,
    built: Built,
    checkpoint: Path,
    kept_steps: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "kept.tv"
    build_bundle(str(checkpoint), place, small_build, cache=kept_steps)
    before = (place / "manifest.json").read_bytes()
    written: list[Path] = []

    def full(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        path.write_bytes(data)

    monkeypatch.setattr(bundle_module, "write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        build_bundle(str(checkpoint), place, dataclasses.replace(small_build, force=True), cache=kept_steps)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.tv"]
    assert (place / "manifest.json").read_bytes() == before


def test_an_existing_bundle_is_replaced_only_when_told_to(
    small_build: BuildOptions, built: Built, checkpoint: Path, kept_steps: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="exists"):
        build_bundle(str(checkpoint), built[0], small_build, cache=kept_steps)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="not a bundle"):
        build_bundle(str(checkpoint), tmp_path / "mine", dataclasses.replace(small_build, force=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"opset": 9}, "opset 9"),
        ({"opset": 99}, "opset 99"),
        ({"precisions": ("int4",)}, "unknown precision 'int4'"),
        ({"precisions": ()}, "no precision"),
        ({"batch_profile": BatchProfile(min=4, opt=1, max=2)}, "out of order"),
        ({"no_rewrite": ("fold",)}, "unknown rewrite"),
        ({"target": "toaster"}, "unknown target"),
        ({"prompt_length": 99}, "99 tokens"),
        ({"samples": 1}, "1 samples"),
        ({"calibration_method": "kl"}, "unknown range method 'kl'"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_any_work(
    small_build: BuildOptions, checkpoint: Path, tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    options = dataclasses.replace(small_build, **changed)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message) as error:
        build_bundle(str(checkpoint), tmp_path / "no.tv", options, on_progress=pytest.fail)
    assert error.value.hint
