"""tv-export build --precision int8, from a checkpoint to a bundle that draws."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textual_vision.calibration.cache import read_cache
from textual_vision.calibration.tensorrt_cache import scales_from_cache
from textual_vision.export.build.build import build_bundle
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.cli.main import command
from textual_vision.export.cli.printing import show_build
from textual_vision.export.results import BuildResult
from textual_vision.runtime import console
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.pipeline import TextToImage

OFFERED = (
    "red apple",
    "red red apple",
    "green forest with river",
    "a cat",
    "dog wearing sunglasses",
    "a red",
)
CHOSEN = 4
pytestmark = pytest.mark.usefixtures("integers_pay")


@pytest.fixture(scope="session")
def int8_options(small_build: BuildOptions) -> BuildOptions:
    return replace(
        small_build,
        precisions=("int8",),
        int8_tolerance="code_agreement>=0.5",
        calibration_method="mse",
        calibration_prompts=OFFERED,
        calibration_count=CHOSEN,
        allow_failing=True,
    )


@pytest.fixture(scope="module")
def int8_built(
    checkpoint: Path,
    int8_options: BuildOptions,
    kept_steps: Path,
    integers_pay: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, BuildResult]:
    folder = tmp_path_factory.mktemp("int8") / "tiny.tv"
    return folder, build_bundle(str(checkpoint), folder, int8_options, cache=kept_steps)


def notes_of(result: BuildResult) -> dict[str, Any]:
    return result.precisions[0].notes


def calibration_of(folder: Path) -> Path:
    (file,) = folder.glob("calibration/*.json")
    return file


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::textual_vision.runtime.errors.BundleWarning")
def test_an_int8_bundle_draws_and_says_what_every_layer_became(int8_built: tuple[Path, BuildResult]) -> None:
    folder, result = int8_built
    stages = notes_of(result)["stages"]
    assert set(stages) == {"text_encoder", "latent", "generator"}
    modes = {mode for stage in stages.values() for mode in stage["layers"].values()}
    assert modes <= {"int8", "weight_only", "float"} and modes & {"int8", "weight_only"}
    drawn = TextToImage.load(folder, backend="onnxruntime").generate(["red apple"], [3])
    assert drawn.images.shape == (1, 16, 16, 3)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="graphs are prepared on Linux only")
@pytest.mark.filterwarnings("ignore::textual_vision.runtime.errors.BundleWarning")
def test_prepared_graphs_of_an_int8_bundle_give_the_same_bits(
    int8_built: tuple[Path, BuildResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    drawn = [
        TextToImage.load(int8_built[0], backend="onnxruntime", graph_cache=kept).generate(
            ["red apple", "a cat", "green forest"], [3, 4, 2**60]
        )
        for kept in (False, True, True)
    ]
    for other in drawn[1:]:
        assert np.array_equal(drawn[0].images, other.images)
        assert np.array_equal(drawn[0].codes, other.codes)
    assert len(list(tmp_path.glob("promptsprite/graphs/*/entry.json"))) == 1


@pytest.mark.slow
def test_ranges_are_by_the_method_asked_for(int8_built: tuple[Path, BuildResult]) -> None:
    stages = notes_of(int8_built[1])["stages"].values()
    assert {found["method"] for stage in stages for found in stage["ranges"].values()} == {"mse"}


@pytest.mark.slow
def test_the_notes_and_the_terminal_tell_of_prompts_rows_and_choices(
    int8_built: tuple[Path, BuildResult], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result = int8_built
    found = notes_of(result)["calibration"]
    assert (found["prompts"], found["offered"]) == (CHOSEN, len(OFFERED))
    sizes = {table["tensor"]: table["rows"] for table in found["tables"]}
    assert sizes == {"text_codes": 2 * 8, "codes": 16}
    assert any(f"only {CHOSEN} different prompts" in text for text in found["warnings"])
    show_build(result, as_json=False)
    shown = capsys.readouterr().out
    assert f"calibrated on {CHOSEN} of {len(OFFERED)} prompts, ranges by mse" in shown
    for table in found["tables"]:
        assert f"{table['tensor']}: {table['visited']} of {table['rows']} rows visited" in shown
    choices = notes_of(result)["table"]
    assert choices and all(row["label"] in shown for row in choices)
    report = json.loads((folder / "report" / "report.json").read_bytes())
    assert json.dumps(choices) in json.dumps(report)


@pytest.mark.slow
def test_the_calibration_is_in_the_bundle_in_our_form_and_in_tensorrts(
    int8_built: tuple[Path, BuildResult],
) -> None:
    folder, _ = int8_built
    files = Bundle(folder).manifest.files
    ours = calibration_of(folder)
    theirs = ours.with_suffix(".cache")
    assert {f"calibration/{ours.name}", f"calibration/{theirs.name}"} <= set(files)
    calibration = read_cache(ours, None)
    assert calibration.samples == CHOSEN and ours.stem == calibration.origin.digest
    scales = scales_from_cache(theirs.read_bytes())
    assert set(scales) == {tensor for stage in calibration.ranges.values() for tensor in stage}


@pytest.mark.slow
def test_the_ranges_of_an_earlier_bundle_are_used_again(
    int8_built: tuple[Path, BuildResult],
    checkpoint: Path,
    int8_options: BuildOptions,
    kept_steps: Path,
    tmp_path: Path,
) -> None:
    cache = tmp_path / "ranges.json"
    whole = json.loads(calibration_of(int8_built[0]).read_bytes())
    for stage in whole["ranges"].values():
        for found in stage.values():
            found["threshold"] *= 1.5  # so that ranges calibrated anew would be seen
    cache.write_text(json.dumps(whole))
    options = replace(int8_options, ranges=cache, int8_tolerance="code_agreement>=0", merged=False)
    result = build_bundle(str(checkpoint), tmp_path / "again.tv", options, cache=kept_steps)
    for name, stage in notes_of(result)["stages"].items():
        for tensor, found in stage["ranges"].items():
            assert found["threshold"] == whole["ranges"][name][tensor]["threshold"]
    assert notes_of(result)["calibration"]["ranges"] == "the cache ranges.json"


@pytest.mark.slow
def test_a_cache_of_another_model_other_prompts_or_another_method_is_refused(
    int8_built: tuple[Path, BuildResult],
    checkpoint: Path,
    int8_options: BuildOptions,
    kept_steps: Path,
    tmp_path: Path,
) -> None:
    cache = tmp_path / "ranges.json"
    whole = json.loads(calibration_of(int8_built[0]).read_bytes())
    cache.write_text(json.dumps({**whole, "origin": {**whole["origin"], "model": "0" * 64}}))
    options = replace(int8_options, ranges=cache)
    with pytest.raises(IntegrityError, match="of another model"):
        build_bundle(str(checkpoint), tmp_path / "no.tv", options, cache=kept_steps)
    cache.write_text(json.dumps(whole))
    with pytest.raises(IntegrityError, match="of other prompts"):
        other = replace(options, calibration_prompts=OFFERED[:2])
        build_bundle(str(checkpoint), tmp_path / "no.tv", other, cache=kept_steps)
    with pytest.raises(UsageError, match="of the method mse, not minmax"):
        build_bundle(
            str(checkpoint),
            tmp_path / "no.tv",
            replace(options, calibration_method="minmax"),
            cache=kept_steps,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["ranges.json"]


@pytest.mark.slow
def test_a_tolerance_that_cannot_be_met_ends_with_code_4_and_the_best_found(
    int8_built: tuple[Path, BuildResult],
    checkpoint: Path,
    kept_steps: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("textual_vision.export.host.step_cache.default_cache", lambda: kept_steps)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(OFFERED))
    arguments = ["build", str(checkpoint), "-o", str(tmp_path / "no.tv"), "--precision", "int8"]
    arguments += ["--samples", "8", "--calibration-prompts", str(prompts), "--calibration-count", str(CHOSEN)]
    arguments += ["--calibration-method", "mse", "--int8-tolerance", "megabytes<=0.0001"]
    with pytest.raises(SystemExit) as ended:
        console.run(command, arguments)
    assert ended.value.code == 4
    said = capsys.readouterr().err
    assert "the best found has megabytes" in said and "that choice was: text_encoder:" in said
    assert not (tmp_path / "no.tv").exists()


def test_a_tolerance_that_does_not_parse_is_refused_before_any_work(
    checkpoint: Path, small_build: BuildOptions, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is not METRIC"):
        build_bundle(str(checkpoint), tmp_path / "tiny.tv", replace(small_build, int8_tolerance="psnr>32"))
    assert not list(tmp_path.iterdir())


def test_a_calibration_cache_that_is_not_there_or_not_used_is_refused_before_any_work(
    checkpoint: Path, int8_options: BuildOptions, tmp_path: Path
) -> None:
    options = replace(int8_options, ranges=tmp_path / "none.json")
    with pytest.raises(UsageError, match="no calibration cache"):
        build_bundle(str(checkpoint), tmp_path / "tiny.tv", options)
    with pytest.raises(UsageError, match="without int8"):
        build_bundle(str(checkpoint), tmp_path / "tiny.tv", replace(options, precisions=("fp32",)))
    assert not list(tmp_path.iterdir())
