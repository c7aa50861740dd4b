"""tv-export as people type it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from textual_vision.export.build.options import BuildOptions
from textual_vision.export.cli.main import COMMANDS, command
from textual_vision.export.model.prompts import CALIBRATED
from textual_vision.export.results import BuildResult
from textual_vision.runtime.errors import TextualVisionError

DOC = Path(__file__).parents[3] / "docs" / "how-to" / "export.md"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['tv-export', '--help']\n"
        "from textual_vision.export.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'numpy', 'rich', 'transformers'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout and "build" in done.stdout


def test_every_command_has_help_and_is_in_the_docs() -> None:
    text = DOC.read_text("utf-8")
    for name in ("build", "inspect", "verify", "doctor"):
        assert call(name, "--help").exit_code == 0
        assert f"tv-export {name}" in text


def test_every_lazy_command_loads() -> None:
    listed = call("--help").output
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        assert call(name, "--help").exit_code == 0


def test_build_prints_the_table_and_the_next_command(
    checkpoint: Path, small_build: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# mine\nred apple\na cat\ngreen forest with river\n")
    place = tmp_path / "cli.tv"
    result = call("build", checkpoint, "-o", place, "--samples", 4, "--prompts", prompts)
    assert result.exit_code == 0, result.output
    assert "fp32" in result.output and "✓ pass" in result.output and "conv-transpose" in result.output
    assert f'tv-generate {place} "red apple"' in result.output
    again = call("build", checkpoint, "-o", place, "--samples", 4, "--prompts", prompts, "--force", "--json")
    document = json.loads(again.stdout)
    assert document["verdict"] == "pass" and document["samples"] == 4
    assert all(step["cached"] for step in document["steps"] if step["name"].startswith(("export", "rewrite")))


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    result = call("build", checkpoint, "-o", tmp_path / "dry.tv", "--dry-run", "--precision", "fp16")
    assert "export latent, opset 20" in result.output and "convert to fp16" in result.output
    assert "calibration prompts" not in result.output
    few = ("--precision", "int8", "--calibration-count", 3)
    result = call("build", checkpoint, "-o", tmp_path / "dry.tv", "--dry-run", *few)
    assert f"choose 3 of {len(CALIBRATED)} calibration prompts" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["1,2", "a,b,c", "1,1,8,9", "1,-1,8", "4,2,1", "²,1,8", "0,1,8"])
def test_a_batch_profile_that_is_not_three_rising_numbers_is_refused(
    checkpoint: Path, tmp_path: Path, text: str
) -> None:
    result = call("build", checkpoint, "-o", tmp_path / "x.tv", "--batch-profile", text)
    assert isinstance(result.exception, TextualVisionError) and "--batch-profile" in result.exception.message


def test_inspect_shows_stages_graphs_and_where_they_come_from(built: tuple[Path, BuildResult]) -> None:
    output = call("inspect", built[0]).output
    for part in ("text_encoder", "codes int64", "onnx/fp16/latent.onnx", "float16", "checkpoint"):
        assert part in output
    document = json.loads(call("inspect", built[0], "--json").stdout)
    assert document["manifest"]["name"] == "tiny"
    assert document["graphs"][0]["operators"]


def test_verify_checks_files_golden_pictures_and_the_checkpoint(
    built: tuple[Path, BuildResult], checkpoint: Path
) -> None:
    result = call("verify", built[0], "--checkpoint", checkpoint, "--samples", 4)
    assert result.exit_code == 0, result.output
    for shown in (
        "golden/pictures: 4 pictures are PyTorch's",
        "fp32/latent/forced/openvino/batch4",
        "PyTorch",
    ):
        assert shown in result.output


def test_verify_refuses_another_checkpoint_than_the_bundles_own(
    built: tuple[Path, BuildResult],
) -> None:
    other = Path(__file__).parents[3] / "docs" / "examples" / "custom_model.py"
    result = call("verify", built[0], "--checkpoint", f"{other}:make")
    assert isinstance(result.exception, TextualVisionError)
    assert "not made from the checkpoint" in result.exception.message


def test_doctor_tries_backends_instead_of_listing_them() -> None:
    document = json.loads(call("doctor", "--json").stdout)
    found = {one["name"]: one for one in document}
    assert found["backend onnxruntime"]["found"] == "works: computed a small graph"
    assert all(one["works"] or one["hint"] for one in document)
