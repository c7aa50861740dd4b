"""Thousands of hostile bundles: an error of ours or a picture, within limits; no crash, no file read."""

import collections
import contextlib
import json
import os
import pickle
import selectors
import subprocess
import sys
import time
from pathlib import Path

import mutants
import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files are watched by inotify")
SECONDS, MEGABYTES = 10, 1024  # of the processor; the machine may be busy with something else
HUNG_SECONDS = 120
GOOD = {"picture", "IntegrityError", "UsageError", "TextualVisionError"}


class Worker:
    """A process that draws from mutants; what it prints is read with a deadline."""

    def __init__(self, files, folder):
        command = [sys.executable, mutants.__file__, str(files)]
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def result(self, seed):
        """What came of the mutant, or why nothing did."""
        self._process.stdin.write(f"{seed}\n".encode())
        self._process.stdin.flush()
        line, deadline = b"", time.monotonic() + HUNG_SECONDS
        while not line.endswith(b"\n"):
            if not self._selector.select(max(0, deadline - time.monotonic())):
                return {"outcome": "hung"}
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                return {"outcome": f"crashed: {self._process.wait()}"}
            line += piece
        return json.loads(line)

    def end(self):
        self._process.kill()
        self._process.wait()
        self._selector.close()
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()


def problem_of(found):
    """What is wrong with a mutant's result, or None."""
    if found["outcome"] not in GOOD:
        return found["outcome"]
    if found["secret"]:
        return "read a file outside of the bundle"
    if found["seconds"] > SECONDS:
        return f"took {found['seconds']:.1f} s"
    return f"took {found['megabytes']} MB" if found["megabytes"] > MEGABYTES else None


def run_mutants(seeds, tiny_files, folder):
    """The problems by seed, and how often each outcome came."""
    files = folder / "files.pickle"
    files.write_bytes(pickle.dumps(tiny_files))
    problems, outcomes, worker = {}, collections.Counter(), None
    for seed in seeds:
        worker = worker or Worker(files, folder)
        found = worker.result(seed)
        outcomes[found["outcome"]] += 1
        if problem := problem_of(found):
            problems[seed] = problem
            worker.end()
            worker = None
    if worker:
        worker.end()
    return problems, outcomes


def test_200_hostile_bundles_do_no_harm(tiny_files, tmp_path):
    problems, outcomes = run_mutants(range(200), tiny_files, tmp_path)
    assert problems == {}
    assert outcomes["picture"] >= 10  # so that mutants reach the backends
    assert outcomes["IntegrityError"] >= 50


@pytest.mark.slow
def test_10_000_hostile_bundles_do_no_harm(tiny_files, tmp_path):
    problems, outcomes = run_mutants(range(1000, 11_000), tiny_files, tmp_path)
    assert problems == {}
    assert min(outcomes["picture"], outcomes["IntegrityError"]) >= 500


def test_a_mutant_is_the_same_for_the_same_seed(tiny_files):
    first, second = (mutants.mutant(tiny_files, 7) for _ in range(2))
    assert first == second
    assert len({mutants.mutant(tiny_files, seed)[1]["manifest.json"] for seed in range(20)}) == 20


def test_the_watch_sees_a_file_that_is_read(tmp_path):
    path = tmp_path / "secret.bin"
    path.write_bytes(b"x")
    watch = mutants.FileWatch(path)
    assert not watch.was_opened()
    Path(path).read_bytes()
    assert watch.was_opened()
    assert not watch.was_opened()
