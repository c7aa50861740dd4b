"""Report progress while an engine is built, which takes many minutes on a Jetson.

Where the library has a progress monitor, the phases are reported, and Ctrl-C stops the build at its next
step. In TensorRT 8.6, only the elapsed time is reported, and Ctrl-C waits for the end of the build.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from textual_vision.runtime.backends.tensorrt.api import has_api
from textual_vision.runtime.progress import ProgressCallback

T = TypeVar("T")
HEARTBEAT_SECONDS = 5.0


class Progress:
    """The phases that are running, innermost last. The library calls it from its own threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, tuple[int, int]] = {}
        self.cancelled = False

    def start(self, phase: str, steps: int) -> None:
        """Record the start of a phase of `steps` steps."""
        with self._lock:
            self._phases[phase] = (0, steps)

    def step(self, phase: str, step: int) -> bool:
        """Record that `step` is done; return whether the build shall continue."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase] = (step + 1, self._phases[phase][1])
        return not self.cancelled

    def finish(self, phase: str) -> None:
        """Record the end of a phase."""
        with self._lock:
            self._phases.pop(phase, None)

    def text(self) -> str:
        """Return the running phases, such as "Building engine 2/6, Optimizing graph 12/30"."""
        with self._lock:
            return ", ".join(f"{name} {done}/{steps}" for name, (done, steps) in self._phases.items())


def new_monitor(trt: Any, progress: Progress) -> Any:
    """Return a monitor for the library that updates `progress`; None where the library has no monitors."""
    if not has_api(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()


def build_with_progress(
    trt: Any,
    config: Any,
    build: Callable[[], T],
    on_progress: ProgressCallback,
    every: float = HEARTBEAT_SECONDS,
) -> T:
    """Return `build()`; report the elapsed time and the running phases every few seconds."""
    progress = Progress()
    monitor = new_monitor(trt, progress)
    if has_api(trt, "IBuilderConfig.progress_monitor"):
        config.progress_monitor = monitor
    started = time.monotonic()
    with ThreadPoolExecutor(1, thread_name_prefix="engine build") as pool:
        building = pool.submit(build)
        try:
            while not wait([building], every).done:
                on_progress(f"{time.monotonic() - started:.0f} s  {progress.text()}".rstrip())
        finally:  # after an interrupt, the build stops at its next step
            progress.cancelled = True
    del monitor  # the library needs it until the build ends
    return building.result()
