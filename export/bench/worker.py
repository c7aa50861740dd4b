"""A contestant in a process of its own, which draws when it is told to and tells how long it took.

Libraries keep threads waiting busily after a picture, and share one process's settings: in one process they
would disturb each other. Run by bench_racers as `python -m`; the argument is a ContestantSpec in JSON, then
every line that comes in is one order and every line that goes out its answer, both in JSON.
"""

from __future__ import annotations

import base64
import dataclasses
import gc
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from textual_vision.export.bench.runners import Contestant, ContestantSpec, open_contestant
from textual_vision.runtime.errors import TextualVisionError

Lap = tuple[float, Mapping[str, float]]  # seconds of the whole, and of each stage


def main() -> None:
    """Answers go to what was stdout; what libraries print there goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        contestant = open_contestant(ContestantSpec(**json.loads(sys.argv[1])))
        _tell(answers, {})
        gc.collect()
        gc.disable()
        for line in sys.stdin:
            _tell(answers, _done(contestant, json.loads(line)))
    except TextualVisionError as error:
        _tell(answers, {"error": type(error).__name__, "message": error.message, "hint": error.hint})
        sys.exit(error.exit_code)


def burst(
    contestant: Contestant, prompts: Sequence[str], seeds: Sequence[int], unmeasured: int, measured: int
) -> list[Lap]:
    """The laps of `measured` drawings after some that are not, which warm up what others have cooled."""
    for _ in range(unmeasured):
        contestant.generate(prompts, seeds)
    found = []
    for _ in range(measured):
        start = time.perf_counter()
        drawing = contestant.generate(prompts, seeds)
        found.append((time.perf_counter() - start, drawing.stage_seconds))
    return found


def argument_of(spec: ContestantSpec) -> str:
    """What the process is started with."""
    return json.dumps(dataclasses.asdict(spec))


def _done(contestant: Contestant, order: dict[str, Any]) -> dict[str, object]:
    prompts, seeds = order["prompts"], order["seeds"]
    if "measured" in order:
        laps = burst(contestant, prompts, seeds, order["unmeasured"], order["measured"])
        gc.collect()
        return {"laps": laps}
    images = contestant.generate(prompts, seeds).images
    return {"shape": images.shape, "pixels": base64.b64encode(images.tobytes()).decode("ascii")}


def _tell(answers: TextIO, answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
