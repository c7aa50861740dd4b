"""A worker process exports a stage: the same graphs, the same errors, and no process left behind."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from textual_vision.export.build import export_jobs
from textual_vision.export.build.export_jobs import MIN_BLOCKS_FOR_WORKER, needs_worker, spawn_worker
from textual_vision.export.build.stage_export import StageExportSpec, export_stage, exported_stage_from_bytes
from textual_vision.export.loading.source import load_model
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.reference_batches import reference_batches
from textual_vision.export.model.stage import StagedModel
from textual_vision.runtime.errors import TextualVisionError, UsageError

SPEC = StageExportSpec(source="", opset=18, tokens=None, target="cpu")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> StagedModel:
    return load_model(str(checkpoint))


@pytest.fixture(scope="module")
def example(model: StagedModel) -> ReferenceBatch:
    return reference_batches(model, ("red apple", "a cat"), samples=2, seed=0)[0]


def test_the_graph_is_the_one_that_this_process_would_export(
    checkpoint: Path, model: StagedModel, example: ReferenceBatch
) -> None:
    spec = dataclasses.replace(SPEC, source=str(checkpoint), no_rewrite=("simplify",))
    with spawn_worker(spec, "latent", example) as job:
        rewritten = job.rewritten()  # asked for first: results may be cached, so their order is free
        assert job.exported() == export_stage(model, spec, "latent", example)
        stage = exported_stage_from_bytes(job.exported(), rewritten)
    onnx.checker.check_model(stage.graph)
    names = {one.rewrite for one in stage.rewrites}
    assert "fold-constants" in names and "simplify" not in names


def test_what_a_user_can_do_something_about_is_raised_here(
    tmp_path: Path, checkpoint: Path, example: ReferenceBatch
) -> None:
    missing = dataclasses.replace(SPEC, source=f"{tmp_path / 'mine.py'}:make")
    with (
        spawn_worker(missing, "latent", example) as job,
        pytest.raises(UsageError, match=r"no file .*mine\.py") as error,
    ):
        job.exported()
    assert "custom-model.md" in error.value.hint


def test_a_worker_that_ends_early_says_how(tmp_path: Path, example: ReferenceBatch) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import os, sys\nprint('out of order', file=sys.stderr, flush=True)\nos._exit(1)\n", "utf-8"
    )
    spec = dataclasses.replace(SPEC, source=f"{broken}:make")
    with (
        spawn_worker(spec, "latent", example) as job,
        pytest.raises(TextualVisionError, match="stage latent failed: out of order"),
    ):
        job.exported()


def test_only_long_programs_are_worth_a_process(model: StagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = model.stage("latent")
    long = dataclasses.replace(stage, blocks=MIN_BLOCKS_FOR_WORKER)
    monkeypatch.setattr(export_jobs.os, "cpu_count", lambda: 2)
    assert needs_worker(long) and not needs_worker(model.stage("generator"))
    monkeypatch.setattr(export_jobs.os, "cpu_count", lambda: 1)
    assert not needs_worker(long)


PROGRAM = """
import signal, sys, time
from pathlib import Path
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.build.export_jobs import spawn_worker
from textual_vision.export.build.stage_export import StageExportSpec
from textual_vision.runtime import console
import click

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background process ignores

@click.command()
@click.argument("source")
def command(source):
    spec = StageExportSpec(source=source, opset=18, tokens=None, target="cpu")
    with spawn_worker(spec, "latent", ReferenceBatch(prompts=("a",), seeds=(0,), tensors={}, margins={})):
        told = Path(source.removesuffix(":make")).with_suffix(".pid")
        while not told.exists():
            time.sleep(0.01)
        print(told.read_text(), flush=True)
        time.sleep(60)

console.run(command)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the process as Linux shows it")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_behind_when_the_build_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "fresh = Path(__file__).with_suffix('.new')\n"
        "fresh.write_text(str(os.getpid()))\n"
        "fresh.rename(Path(__file__).with_suffix('.pid'))\n"
        "time.sleep(60)\n",
        "utf-8",
    )
    command = [sys.executable, "-c", PROGRAM, f"{slow}:make"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = Path("/proc") / process.stdout.readline().strip()
        assert child.exists() and child.name.isdigit()
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == 128 + number and "Traceback" not in errors
    deadline = time.monotonic() + 10
    while child.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not child.exists()
