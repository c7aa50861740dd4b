"""A runner in a process of its own, and the cold start of such a process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt

from textual_vision.export.bench.runner import Iteration, RunnerSpec
from textual_vision.export.host.worker_process import WorkerProcess

WORKER = "textual_vision.export.bench.worker"
PATIENCE_SECONDS = 10.0


class RunnerProcess:
    """One runner in its own process, which runs on request. Leaving the `with` block ends it."""

    def __init__(self, spec: RunnerSpec) -> None:
        """Start the process and wait until the runner is loaded; raises what loading it raises."""
        self.spawned = time.monotonic()
        self._worker = WorkerProcess(
            WORKER, spec, name=spec.name, hint="leave it out to continue", patience_seconds=PATIENCE_SECONDS
        )
        try:
            self.start_times: dict[str, float] = self._worker.receive()
        except BaseException:
            self.close()
            raise

    def run_iterations(
        self, prompts: Sequence[str], seeds: Sequence[int], *, warm_up: int, measured: int
    ) -> list[Iteration]:
        """Return the times of `measured` runs after `warm_up` runs."""
        self._worker.send(("iterations", (list(prompts), list(seeds), warm_up, measured)))
        iterations: list[Iteration] = self._worker.receive()
        return iterations

    def images(self, prompts: Sequence[str], seeds: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Return the generated pictures, uint8 (pictures, height, width, 3)."""
        self._worker.send(("images", (list(prompts), list(seeds))))
        images: npt.NDArray[np.uint8] = self._worker.receive()
        return images

    def first_run(self, prompt: str) -> dict[str, float]:
        """Generate one picture; return the time when it was `finished`, and the process's `peak_bytes`."""
        self._worker.send(("first_run", (prompt,)))
        times: dict[str, float] = self._worker.receive()
        return times

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def __enter__(self) -> RunnerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Medians over `count` fresh processes.

    `first_picture_seconds` is the time from starting the interpreter to the first picture; `load_seconds` is
    its part for imports and loading. `peak_megabytes` is the largest resident memory while single pictures
    are generated.
    """

    first_picture_seconds: float
    load_seconds: float
    peak_megabytes: float
    count: int


def cold_start(spec: RunnerSpec, prompt: str, count: int) -> ColdStart:
    """Start `count` processes one after the other; raises TextualVisionError when one fails."""
    starts = [_cold_start(spec, prompt) for _ in range(count)]
    return ColdStart(
        first_picture_seconds=statistics.median(start["first_picture_seconds"] for start in starts),
        load_seconds=statistics.median(start["load_seconds"] for start in starts),
        peak_megabytes=statistics.median(start["peak_megabytes"] for start in starts),
        count=count,
    )


def _cold_start(spec: RunnerSpec, prompt: str) -> dict[str, float]:
    with RunnerProcess(spec) as process:
        run = process.first_run(prompt)
    return {
        "first_picture_seconds": run["finished"] - process.spawned,
        "load_seconds": process.start_times["loaded"] - process.start_times["start"],
        "peak_megabytes": run["peak_bytes"] / 1e6,
    }
