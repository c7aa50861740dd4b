"""The fresh process of a cold start: open one contestant, draw, and tell the times and the peak memory.

Run by bench_process as `python -m`; the argument is JSON, and so is the one line that it prints.
"""

from __future__ import annotations

import json
import sys
import time

STARTED = time.monotonic()
FURTHER_DRAWINGS = 3  # before the memory is read: some of it is only taken later
KIBIBYTE = 1024


def main() -> None:
    """Times are of the system's monotonic clock, which the parent process shares."""
    given = json.loads(sys.argv[1])
    from textual_vision.export.bench.runners import ContestantSpec, open_contestant

    contestant = open_contestant(ContestantSpec(**given["spec"]))
    loaded = time.monotonic()
    contestant.generate([given["prompt"]], [0])
    drawn = time.monotonic()
    for seed in range(FURTHER_DRAWINGS):
        contestant.generate([given["prompt"]], [seed])
    print(json.dumps({"started": STARTED, "loaded": loaded, "drawn": drawn, "peak_bytes": peak_bytes()}))


def peak_bytes() -> int:
    """The most memory that this process has had resident.

    Linux's ru_maxrss is at least what the parent had when it started us, so the kernel's own account of this
    process is read where there is one.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - pathlib would be one more import
            found = [line for line in status if line.startswith("VmHWM:")]
        return int(found[0].split()[1]) * KIBIBYTE
    except (OSError, IndexError):
        import resource

        unit = 1 if sys.platform == "darwin" else KIBIBYTE
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
