"""A build that is stopped leaves nothing half-written, and says with its exit code what stopped it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CODES = {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129}
PROGRAM = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from textual_vision.export.bundle import writer as bundle
from textual_vision.runtime import console
import click

def slow(path, data):
    path.write_bytes(data)
    print("writing", flush=True)
    time.sleep(60)

bundle.write_atomic = slow

@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def command(folder):
    bundle.write_bundle(folder, MANIFEST, {"NOTICE": b"whole"})

from textual_vision.runtime.generation.specs import NoiseSpec

from textual_vision.runtime.manifest import *
stage = StageSpec(name="s", inputs=(), outputs=())
MANIFEST = Manifest(schema_version=1, name="n", image=ImageSpec(height=1, width=1),
    noise=(NoiseSpec(shape=(1,), recipe="r"),), stages=(stage,), precisions={}, default_precision="fp32",
    text=TextSpec(tokenizer="t", max_tokens=4, pad_id=0, unknown_id=1),
    batch=BatchProfile(min=1, opt=1, max=1), files={}, license="l", provenance={})
console.run(command)
"""

SIGNALS = [(getattr(signal, name), code) for name, code in CODES.items() if hasattr(signal, name)]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_a_bundle_is_written_leaves_nothing_of_it(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "new.tv")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == code
    assert errors.strip().startswith("error: ") and "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


WORKER = """
import sys, time
from functools import partial
from pathlib import Path
import shutil
from textual_vision.export.host.worker_process import exit_with_parent
exit_with_parent(partial(shutil.rmtree, sys.argv[1]))
print("working", flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows gives orphans no other parent")
def test_a_worker_whose_parent_is_killed_removes_its_folder_and_ends(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    command = [sys.executable, "-c", PARENT, WORKER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "working\n"
        parent.kill()
        assert parent.stdout.read() == ""  # the worker, which has the pipe too, ended
    assert not folder.exists()
