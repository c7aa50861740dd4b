"""The interface of the runners that a benchmark compares, and how to open one in another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

BUNDLE, NAIVE, EAGER, COMPILE = "bundle", "naive", "eager", "compile"


@dataclass(frozen=True, kw_only=True)
class RunnerSpec:
    """How to open a runner.

    A runner of kind "bundle" has `precision` and `backend`; "naive" has the file of its `graph`; "eager" and
    "compile" have their `checkpoint`. `threads` None leaves the number to the library.
    """

    name: str
    kind: str
    bundle: str
    precision: str = ""
    backend: str = ""
    graph: str = ""
    checkpoint: str = ""
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunOutput:
    """`images` uint8 (pictures, height, width, 3), and the time of each stage in seconds."""

    images: npt.NDArray[np.uint8]
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


class Runner(Protocol):
    """A loaded model on one runtime."""

    def run(self, prompts: Sequence[str], seeds: Sequence[int]) -> RunOutput:
        """Generate picture k from prompt k and seed k."""


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """The time of one run, and of each of its stages, in seconds."""

    seconds: float
    stage_seconds: Mapping[str, float]
