"""Contestants as the benchmark holds them: each in its own process, drawing only when it is its turn."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from textual_vision.export.bench.runners import ContestantSpec
from textual_vision.export.bench.worker import Lap, argument_of
from textual_vision.runtime import errors
from textual_vision.runtime.errors import TextualVisionError

WORKER = "textual_vision.export.bench.worker"
PATIENCE_SECONDS = 10  # for a process that was told to end


class Racer:
    """One contestant's process. Leaving the `with` block ends it."""

    def __init__(self, spec: ContestantSpec) -> None:
        """Start it and wait until it is ready; raises what opening the contestant raises."""
        self._name = spec.name
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - `close` does
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER, argument_of(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def burst(
        self, prompts: Sequence[str], seeds: Sequence[int], unmeasured: int, measured: int
    ) -> list[Lap]:
        """Let it draw; how long each of the `measured` drawings took, and their stages, in seconds."""
        answer = self._order(prompts, seeds, unmeasured=unmeasured, measured=measured)
        return [(seconds, stages) for seconds, stages in answer["laps"]]

    def picture(self, prompts: Sequence[str], seeds: Sequence[int]) -> npt.NDArray[np.uint8]:
        """What it draws, uint8 (pictures, height, width, 3)."""
        answer = self._order(prompts, seeds)
        pixels: npt.NDArray[np.uint8] = np.frombuffer(base64.b64decode(answer["pixels"]), np.uint8)
        return pixels.reshape(tuple(answer["shape"]))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(PATIENCE_SECONDS)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Racer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _order(self, prompts: Sequence[str], seeds: Sequence[int], **more: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        order = json.dumps({"prompts": list(prompts), "seeds": list(seeds), **more})
        try:
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; its answer says why
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise TextualVisionError(
                f"the process with {self._name} ended: {self._last_words()}", "leave it out to go on"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"], answer["hint"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return lines[-1] if lines else f"exit code {code}"
