"""The results of a build as data, from which the tables, `--json`, the manifest and the report are made.

`dataclasses.asdict` gives the JSON of every class. Durations are in seconds unless the name says
milliseconds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

TEACHER_FORCED, FREE_RUNNING = "teacher-forced", "free-running"
PASS, FAIL = "pass", "fail"
MERGED = "pipeline"  # the graph of all stages in one


@dataclass(frozen=True, kw_only=True)
class CodeMetrics:
    """The number of equal codes; `near_ties` of the others lost by less than the tolerance's margin.

    `propagated` codes differ because an earlier code was a near tie that the other candidate won.
    """

    compared: int
    equal: int
    near_ties: int
    propagated: int = 0

    @property
    def agreement(self) -> float:
        """Return the share of equal codes, 0 … 1."""
        return self.equal / self.compared if self.compared else 1.0


@dataclass(frozen=True, kw_only=True)
class FloatMetrics:
    """The difference of a float tensor from the reference; `cosine` is of the flattened tensors."""

    max_abs: float
    mean_abs: float
    cosine: float


@dataclass(frozen=True, kw_only=True)
class ImageMetrics:
    """The difference of uint8 pictures; decibels are None where pictures are identical.

    `psnr_db` pools the error over all pictures, `worst_psnr_db` is that of the worst picture, `ssim` is the
    mean over pictures, and `max_abs` is in levels of 255.
    """

    compared: int
    psnr_db: float | None
    worst_psnr_db: float | None
    ssim: float
    max_abs: int


TensorMetrics: TypeAlias = "CodeMetrics | FloatMetrics | ImageMetrics"


@dataclass(frozen=True, kw_only=True)
class StageParity:
    """The comparison of one stage with the reference, on the reference's inputs (teacher-forced) or its own.

    `excluded_pictures` pictures do not count for the verdict, because they follow from near ties.
    """

    stage: str
    mode: str
    backend: str
    tensors: dict[str, TensorMetrics]
    verdict: str
    reason: str = ""  # why it failed
    excluded_pictures: int = 0

    @property
    def codes(self) -> CodeMetrics | None:
        """Return the metrics of the stage's codes; None when it has no codes."""
        return next((f for f in self.tensors.values() if isinstance(f, CodeMetrics)), None)

    @property
    def image(self) -> ImageMetrics | None:
        """Return the metrics of the stage's pictures; None when it has no pictures."""
        return next((f for f in self.tensors.values() if isinstance(f, ImageMetrics)), None)


@dataclass(frozen=True, kw_only=True)
class StageGraph:
    """One graph in the bundle; `milliseconds` is the median latency of batch 1 on `backend`."""

    stage: str
    file: str
    bytes: int
    nodes: int
    milliseconds: float
    backend: str


@dataclass(frozen=True, kw_only=True)
class PrecisionResult:
    """One precision's graphs and their comparison with the reference; `notes` is the precision's own JSON."""

    precision: str
    graphs: tuple[StageGraph, ...]
    parity: tuple[StageParity, ...]
    verdict: str
    notes: dict[str, object] = dataclasses.field(default_factory=dict)

    @property
    def stage_graphs(self) -> tuple[StageGraph, ...]:
        """Return the graphs of the stages, without the merged one."""
        return tuple(graph for graph in self.graphs if graph.stage != MERGED)

    def graph(self, stage: str) -> StageGraph:
        """Return the graph of `stage`."""
        return next(graph for graph in self.graphs if graph.stage == stage)

    def stage_parity(self, stage: str, mode: str, backend: str) -> StageParity | None:
        """Return the comparison of `stage` in `mode` by `backend`; None when there is none."""
        wanted = (stage, mode, backend)
        return next((p for p in self.parity if (p.stage, p.mode, p.backend) == wanted), None)


@dataclass(frozen=True, kw_only=True)
class RewriteResult:
    """The effect of one rewrite on one stage; milliseconds are None where it was not measured.

    `max_abs` is the largest change of any float output (or of the picture, in levels) on the samples.
    """

    rewrite: str
    stage: str
    applied: bool
    reason: str
    nodes_before: int
    nodes_after: int
    milliseconds_before: float | None
    milliseconds_after: float | None
    max_abs: float
    codes_changed: int


@dataclass(frozen=True, kw_only=True)
class StepTiming:
    """One step of a build; `cached` when its result was in the cache."""

    name: str
    seconds: float
    cached: bool


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """All results of a build.

    `bundle` is the folder as the user gave it. `seconds` is the total time, in which some `steps` run in
    parallel. `example` is a prompt or a label that the model takes, empty for a model without a condition.
    """

    bundle: str
    name: str
    example: str
    verdict: str
    precisions: tuple[PrecisionResult, ...]
    rewrites: tuple[RewriteResult, ...]
    steps: tuple[StepTiming, ...]
    seconds: float
    samples: int
    seed: int
    opset: int
    backends: tuple[str, ...]
    versions: dict[str, str]


def bytes_from_results(results: Sequence[StageParity | RewriteResult]) -> bytes:
    """Return the results as JSON, for the cache of steps."""
    return json.dumps([dataclasses.asdict(result) for result in results]).encode()


def parity_from_bytes(data: bytes) -> tuple[StageParity, ...]:
    """Return the comparisons that `bytes_from_results` encoded."""
    return tuple(
        StageParity(
            **{**one, "tensors": {name: _metrics_from_json(value) for name, value in one["tensors"].items()}}
        )
        for one in json.loads(data)
    )


def rewrites_from_bytes(data: bytes) -> tuple[RewriteResult, ...]:
    """Return the rewrites that `bytes_from_results` encoded."""
    return tuple(RewriteResult(**one) for one in json.loads(data))


def _metrics_from_json(value: dict[str, Any]) -> TensorMetrics:
    for kind in (CodeMetrics, FloatMetrics, ImageMetrics):
        if set(value) == {field.name for field in dataclasses.fields(kind)}:
            return kind(**value)
    raise AssertionError(f"metrics of no known kind: {sorted(value)}")
