"""Two builds of one checkpoint give the same graphs, to the byte."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path

import pytest

from textual_vision.export.build.build import build_bundle
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.results import BuildResult
from textual_vision.runtime.bundle import Bundle

TIMES = ("report/index.html", "report/report.json")


@pytest.mark.slow
def test_a_second_build_without_the_cache_differs_in_its_report_alone(
    built: tuple[Path, BuildResult], checkpoint: Path, small_build: BuildOptions, tmp_path: Path
) -> None:
    build_bundle(str(checkpoint), tmp_path / "tiny.tv", small_build)
    first, second = (Bundle(folder).manifest for folder in (built[0], tmp_path / "tiny.tv"))
    for name in sorted(set(first.files) | set(second.files)):
        same = first.files.get(name) == second.files.get(name)
        assert same or name in TIMES, name
    assert dataclasses.replace(first, files={}) == dataclasses.replace(second, files={})
    assert first.provenance["graphs"] == second.provenance["graphs"]


def test_the_arithmetic_of_every_stage_is_recorded(built: tuple[Path, BuildResult]) -> None:
    provenance = Bundle(built[0]).manifest.provenance
    assert provenance["arithmetic fp32"] == "text_encoder float32, latent float32, generator float32"
    assert "generator float16" in provenance["arithmetic fp16"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_the_folder_heeds_the_umask(
    checkpoint: Path, small_build: BuildOptions, kept_steps: Path, tmp_path: Path
) -> None:
    before = os.umask(0o027)
    try:
        build_bundle(str(checkpoint), tmp_path / "tiny.tv", small_build, cache=kept_steps)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "tiny.tv").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "tiny.tv" / "onnx" / "fp32").stat().st_mode) == 0o750
