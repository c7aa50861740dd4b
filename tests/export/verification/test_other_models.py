"""Models with labels, loops and several noises, and without codes, are verified too; no home is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sabotage

from textual_vision.export.build.build import build_bundle
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.verification.options import VerifyOptions
from textual_vision.export.verification.verify import verify_bundle

SOURCE = f"{Path(__file__).parents[2] / 'support' / 'label_model.py'}:make"
OPTIONS = VerifyOptions(checkpoint=SOURCE, backends=("onnxruntime",), samples=8)


@pytest.fixture(scope="module")
def labels(kept_steps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels") / "labels.tv"
    build_bundle(SOURCE, folder, BuildOptions(samples=8), cache=kept_steps)
    return folder


def test_a_model_with_labels_and_a_loop_passes(labels: Path) -> None:
    found = verify_bundle(labels, OPTIONS)
    assert [check.sentence() for check in found.checks if check.failed] == []
    ids = {check.id for check in found.checks}
    assert "fp32/label_encoder/table/labels/onnxruntime" in ids
    assert {f"fp32/denoiser/forced/onnxruntime/batch{size}" for size in (1, 8)} <= ids
    assert "tokenizer/file" not in ids


def test_a_change_inside_the_loop_is_blamed_on_its_stage(labels: Path, tmp_path: Path) -> None:
    bundle = sabotage.copied(labels, tmp_path)
    change = sabotage.change_constant(sabotage.has_shape(3, 3, 3, 3), lambda value: value * 1.05)
    sabotage.edit_graph(bundle, "fp32", "denoiser", change)
    failure = verify_bundle(bundle, OPTIONS).failure
    assert failure is not None and failure.id.startswith("fp32/denoiser/")


def test_other_steps_of_a_loop_are_found(labels: Path, tmp_path: Path) -> None:
    bundle = sabotage.copied(labels, tmp_path)
    sabotage.edit_json(
        bundle, "manifest.json", lambda m: m["loops"][0]["tables"].update(time=[1.0, 0.9, 0.7])
    )
    failure = verify_bundle(bundle, OPTIONS).failure
    assert failure is not None and failure.sentence().startswith(
        "specs/model: loops[0].tables.time[2] is 0.7"
    )


@pytest.mark.parametrize("home", ["missing", "read-only"])
def test_no_home_folder_is_needed(built, checkpoint: Path, tmp_path: Path, home: str) -> None:
    place = tmp_path / "home"
    if home == "read-only":
        place.mkdir(mode=0o555)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HF_"))}
    words = ["verify", built[0], "--checkpoint", checkpoint, "--samples", 2, "--precision", "fp32", "--quiet"]
    code = "from textual_vision.export.cli.main import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, words)]
    done = subprocess.run(
        command, env={**kept, "HOME": str(place)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not place.exists() or not any(place.iterdir())
