"""A sign of life while an engine is built, which on a Jetson can take many minutes.

Where the library has a progress monitor its phases are shown, and Ctrl-C stops the build at its next step.
Elsewhere (8.6) there is the time that has passed, and Ctrl-C waits for the build to end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from textual_vision.export.host.progress import ProgressCallback
from textual_vision.runtime.backends.tensorrt.api import has_api

T = TypeVar("T")
HEARTBEAT_SECONDS = 5.0


class Progress:
    """The phases that are running, innermost last. The library calls from threads of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, tuple[int, int]] = {}
        self.cancelled = False

    def start(self, phase: str, steps: int) -> None:
        with self._lock:
            self._phases[phase] = (0, steps)

    def step(self, phase: str, step: int) -> bool:
        """Note that `step` is done; whether to go on."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase] = (step + 1, self._phases[phase][1])
        return not self.cancelled

    def finish(self, phase: str) -> None:
        with self._lock:
            self._phases.pop(phase, None)

    def text(self) -> str:
        """Such as "Building engine 2/6, Optimizing graph 12/30"."""
        with self._lock:
            return ", ".join(f"{name} {done}/{steps}" for name, (done, steps) in self._phases.items())


def new_monitor(trt: Any, progress: Progress) -> Any:
    """The library's own kind of monitor, telling `progress`; None where it has none."""
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
    """What `build` returns; meanwhile `report` hears every few seconds how long it takes and where it is."""
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
        finally:  # an interrupt, or a report that fails, waits for the build's next step, not for its end
            progress.cancelled = True
    del monitor  # it had to outlive the build
    return building.result()
