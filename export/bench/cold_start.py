"""Cold start and memory of one contestant, each time in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from textual_vision.export.bench.runners import ContestantSpec
from textual_vision.runtime.errors import TextualVisionError

CHILD = "textual_vision.export.bench.cold_start_worker"
TIME_LIMIT_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Medians over `count` fresh processes.

    `first_picture_seconds` is from starting the interpreter to the first picture; `load_seconds` the part of
    it for imports and loading. `peak_megabytes` is the most memory resident while drawing single pictures.
    """

    first_picture_seconds: float
    load_seconds: float
    peak_megabytes: float
    count: int


def cold_start(spec: ContestantSpec, prompt: str, count: int) -> ColdStart:
    """Start `count` processes one after the other; TextualVisionError when one fails."""
    runs = [_run(spec, prompt) for _ in range(count)]
    return ColdStart(
        first_picture_seconds=statistics.median(run["drawn"] - run["asked"] for run in runs),
        load_seconds=statistics.median(run["loaded"] - run["started"] for run in runs),
        peak_megabytes=statistics.median(run["peak_bytes"] for run in runs) / 1e6,
        count=count,
    )


def _run(spec: ContestantSpec, prompt: str) -> dict[str, float]:
    argument = json.dumps({"spec": dataclasses.asdict(spec), "prompt": prompt})
    asked = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", CHILD, argument],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIME_LIMIT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TextualVisionError(
            f"a fresh process with {spec.name} failed: {last}", "leave it out: --cold-start 0"
        )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**found, "asked": asked}
