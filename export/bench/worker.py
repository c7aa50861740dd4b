"""The process of one runner. `runner_process` starts it with `python -m` and sends it requests.

Libraries keep threads in a busy wait after a run and share the settings of one process. Runners in one
process would therefore disturb each other.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

START = time.monotonic()  # before the imports, which are part of the cold start

from textual_vision.export.bench.runner import Runner, RunnerSpec  # noqa: E402
from textual_vision.export.host.worker_process import Channel, run_worker  # noqa: E402

RUNS_BEFORE_MEMORY = 3  # the libraries take some of their memory in later runs
KIBIBYTE = 1024


def work(spec: RunnerSpec, channel: Channel) -> None:
    """Open the runner, send the times of the start, and answer requests until the pipe closes.

    Times are of the system's monotonic clock, which the parent process shares. A request is the name of a
    function below and its arguments.
    """
    from textual_vision.export.bench.runners import open_runner

    runner = open_runner(spec)
    channel.send({"start": START, "loaded": time.monotonic()})
    while True:
        name, arguments = channel.receive()
        channel.send(REQUESTS[name](runner, *arguments))


def _first_run(runner: Runner, prompt: str) -> dict[str, float]:
    runner.run([prompt], [0])
    finished = time.monotonic()
    for seed in range(RUNS_BEFORE_MEMORY):
        runner.run([prompt], [seed])
    return {"finished": finished, "peak_bytes": float(peak_bytes())}


def _iterations(runner: Runner, prompts: list[str], seeds: list[int], warm_up: int, measured: int) -> Any:
    from textual_vision.export.bench.runners import run_iterations

    gc.collect()
    gc.disable()
    return run_iterations(runner, prompts, seeds, warm_up=warm_up, measured=measured)


def _images(runner: Runner, prompts: list[str], seeds: list[int]) -> Any:
    return runner.run(prompts, seeds).images


REQUESTS: dict[str, Any] = {"first_run": _first_run, "iterations": _iterations, "images": _images}


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far.

    Linux's ru_maxrss is at least that of the parent at the start, so the kernel's own record of this process
    is read where it exists.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - pathlib is another import
            found = [line for line in status if line.startswith("VmHWM:")]
        return int(found[0].split()[1]) * KIBIBYTE
    except (OSError, IndexError):
        import resource

        unit = 1 if sys.platform == "darwin" else KIBIBYTE
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    run_worker(work)
