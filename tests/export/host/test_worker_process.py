"""A worker process: messages arrive whole, errors are raised in the parent, and no process is left behind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from textual_vision.export.host.worker_process import WorkerProcess
from textual_vision.runtime.errors import BackendMissingError, TextualVisionError

ECHO = """
import os, sys, time
from textual_vision.export.host.worker_process import run_worker
from textual_vision.runtime.errors import BackendMissingError

def work(task, channel):
    print("a library that prints")
    if task == "raise":
        raise BackendMissingError("no such library", "install it")
    if task == "crash":
        raise RuntimeError("out of order")
    if task == "exit":
        os._exit(3)
    channel.send(os.getpid())
    while True:
        channel.send(channel.receive())
        channel.send(bytes(1 << 20))

run_worker(work)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "echo_worker.py").write_text(ECHO, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "echo_worker"


def test_messages_arrive_although_the_worker_prints(module: str) -> None:
    with WorkerProcess(module, "echo", name="an echo") as worker:
        assert worker.receive() != os.getpid()
        worker.send({"codes": [1, 2]})
        worker.send("while a large message waits")
        assert worker.receive() == {"codes": [1, 2]}
        assert len(worker.receive()) == 1 << 20
        assert worker.receive() == "while a large message waits"


def test_a_worker_error_is_raised_here_with_its_hint(module: str) -> None:
    with (
        WorkerProcess(module, "raise", name="an echo") as worker,
        pytest.raises(BackendMissingError, match="no such library") as caught,
    ):
        worker.receive()
    assert caught.value.hint == "install it"


@pytest.mark.parametrize(
    ("task", "reason"),
    [("crash", "RuntimeError: out of order"), ("exit", "a library that prints|exit code 3")],
)
def test_a_worker_that_ends_early_is_reported_with_its_last_line(module: str, task: str, reason: str) -> None:
    with WorkerProcess(module, task, name="an echo", hint="leave it out") as worker:
        for _ in range(2):
            with pytest.raises(TextualVisionError, match=f"process of an echo failed: ({reason})") as caught:
                worker.receive()
    assert caught.value.hint == "leave it out"


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the process as Linux shows it")
@pytest.mark.parametrize("patience_seconds", [0.0, 10.0])
def test_closing_ends_the_process(module: str, patience_seconds: float) -> None:
    start = time.monotonic()
    with WorkerProcess(module, "echo", name="an echo", patience_seconds=patience_seconds) as worker:
        process = Path("/proc") / str(worker.receive())
        assert process.exists()
    assert not process.exists()
    assert time.monotonic() - start < 10.0 + patience_seconds
