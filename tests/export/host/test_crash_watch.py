"""A backend that crashes is named, with its graph."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal
from textual_vision.export.host.crash_watch import crash_watch
with crash_watch().naming("onnxruntime was opening fine.onnx"):
    pass
with crash_watch().naming("onnxruntime was opening odd.onnx"):
    END
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_the_graph_that_was_open_when_the_process_crashed_is_named() -> None:
    program = PROGRAM.replace("END", "os.kill(os.getpid(), signal.SIGSEGV)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "onnxruntime was opening odd.onnx" in done.stderr and "fine.onnx" not in done.stderr
    assert done.stderr.startswith("error: ") and "hint: " in done.stderr


def test_nothing_is_said_when_all_went_well() -> None:
    program = PROGRAM.replace("END", "pass")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
