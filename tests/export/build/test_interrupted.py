"""A build that is stopped leaves nothing half-written, and says with its exit code what stopped it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
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
