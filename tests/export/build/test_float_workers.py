"""A stage made in a process of its own: the same graphs, the same errors, and no process left behind."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from textual_vision.export.build import float_workers as floats_beside
from textual_vision.export.build.float_workers import (
    GRAPH_FILE,
    LOWERED_FILE,
    MIN_BLOCKS_FOR_WORKER,
    NOTES_FILE,
    StageExportSpec,
    exported_stage,
    needs_worker,
    started,
)
from textual_vision.export.host.step_cache import unzip_bytes
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.loading import load_model
from textual_vision.export.model.reference_batches import reference_batches
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.results import rewrites_from_bytes
from textual_vision.runtime.errors import TextualVisionError, UsageError

TASK = StageExportSpec(source="", opset=18, tokens=None, target="cpu")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> StagedModel:
    return load_model(str(checkpoint))


@pytest.fixture(scope="module")
def example(model: StagedModel) -> ReferenceBatch:
    return reference_batches(model, ("red apple", "a cat"), samples=2, seed=0)[0]


def test_the_graph_is_the_one_that_this_process_would_export(
    checkpoint: Path, model: StagedModel, example: ReferenceBatch
) -> None:
    task = dataclasses.replace(TASK, source=str(checkpoint), without=("simplify",))
    with started(task, "latent", example) as begun:
        assert begun.exported() == exported_stage(model, task, "latent", example)
        files = unzip_bytes(begun.rewritten())
    assert set(files) == {GRAPH_FILE, LOWERED_FILE, NOTES_FILE}
    names = {one.rewrite for one in rewrites_from_bytes(files[NOTES_FILE])}
    assert "fold-constants" in names and "simplify" not in names


def test_what_a_user_can_do_something_about_is_raised_here(
    tmp_path: Path, checkpoint: Path, example: ReferenceBatch
) -> None:
    missing = dataclasses.replace(TASK, source=f"{tmp_path / 'mine.py'}:make")
    with (
        started(missing, "latent", example) as begun,
        pytest.raises(UsageError, match=r"no file .*mine\.py") as error,
    ):
        begun.exported()
    assert "custom-model.md" in error.value.hint


def test_a_process_that_fails_says_how(tmp_path: Path, example: ReferenceBatch) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('out of order')\n", "utf-8")
    task = dataclasses.replace(TASK, source=f"{broken}:make")
    with (
        started(task, "latent", example) as begun,
        pytest.raises(TextualVisionError, match="exported latent failed: RuntimeError: out of order"),
    ):
        begun.exported()


def test_only_long_programs_are_worth_a_process(model: StagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = model.stage("latent")
    long = dataclasses.replace(stage, blocks=MIN_BLOCKS_FOR_WORKER)
    monkeypatch.setattr(floats_beside.os, "cpu_count", lambda: 2)
    assert needs_worker(long) and not needs_worker(model.stage("generator"))
    monkeypatch.setattr(floats_beside.os, "cpu_count", lambda: 1)
    assert not needs_worker(long)


PROGRAM = """
import signal, sys, time
from pathlib import Path
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.build.float_workers import StageExportSpec, started
from textual_vision.runtime import console
import click

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background process ignores

@click.command()
@click.argument("source")
def command(source):
    task = StageExportSpec(source=source, opset=18, tokens=None, target="cpu")
    with started(task, "latent", ReferenceBatch(prompts=("a",), seeds=(0,), tensors={}, margins={})):
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
