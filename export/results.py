"""What a build gives, as data: the table, `--json`, the manifest and the report are made of these.

Every class becomes JSON by `dataclasses.asdict`; durations are in seconds unless the name says milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

TEACHER_FORCED, FREE_RUNNING = "teacher-forced", "free-running"
PASS, FAIL = "pass", "fail"
MERGED = "pipeline"  # the graph of all stages in one


@dataclass(frozen=True, kw_only=True)
class CodeMetrics:
    """How many codes are equal; `near_ties` of the others lost by less than the budget's margin."""

    compared: int
    equal: int
    near_ties: int
    propagated: int = 0  # chosen after a near tie fell the other way, and told of it

    @property
    def agreement(self) -> float:
        """The share of equal codes, 0 … 1."""
        return self.equal / self.compared if self.compared else 1.0


@dataclass(frozen=True, kw_only=True)
class FloatMetrics:
    """Difference of a float tensor from the reference; `cosine` is of the flattened tensors."""

    max_abs: float
    mean_abs: float
    cosine: float


@dataclass(frozen=True, kw_only=True)
class ImageMetrics:
    """Difference of uint8 pictures; decibels are None where pictures are identical.

    `psnr_db` is of the error pooled over all pictures, `worst_psnr_db` that of the worst picture, `ssim` the
    mean over pictures, `max_abs` in levels of 255.
    """

    compared: int
    psnr_db: float | None
    worst_psnr_db: float | None
    ssim: float
    max_abs: int


TensorMetrics: TypeAlias = "CodeMetrics | FloatMetrics | ImageMetrics"


@dataclass(frozen=True, kw_only=True)
class StageParity:
    """One stage against the reference: fed the reference's inputs (teacher-forced) or its own.

    `excluded_pictures` pictures did not count for the verdict, since they follow from near ties.
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
        """The figures of the stage's codes, if it gives any."""
        return next((f for f in self.tensors.values() if isinstance(f, CodeMetrics)), None)

    @property
    def image(self) -> ImageMetrics | None:
        """The figures of the stage's pictures, if it gives any."""
        return next((f for f in self.tensors.values() if isinstance(f, ImageMetrics)), None)


@dataclass(frozen=True, kw_only=True)
class StageGraph:
    """One graph as it stands in the bundle; `milliseconds` is a median of batch 1 on `backend`."""

    stage: str
    file: str
    bytes: int
    nodes: int
    milliseconds: float
    backend: str


@dataclass(frozen=True, kw_only=True)
class PrecisionResult:
    """One precision's graphs and how near they are to the reference; `notes` is the precision's own JSON."""

    precision: str
    graphs: tuple[StageGraph, ...]
    parity: tuple[StageParity, ...]
    verdict: str
    notes: dict[str, object] = field(default_factory=dict)

    @property
    def stage_graphs(self) -> tuple[StageGraph, ...]:
        """The graphs that it takes to draw: the stages', not the one of all in one."""
        return tuple(graph for graph in self.graphs if graph.stage != MERGED)

    def graph(self, stage: str) -> StageGraph:
        """The graph of `stage`."""
        return next(graph for graph in self.graphs if graph.stage == stage)

    def stage_parity(self, stage: str, mode: str, backend: str) -> StageParity | None:
        """The comparison of `stage` in `mode` by `backend`, if it was made."""
        wanted = (stage, mode, backend)
        return next((p for p in self.parity if (p.stage, p.mode, p.backend) == wanted), None)


@dataclass(frozen=True, kw_only=True)
class RewriteResult:
    """What one rewrite bought on one stage; milliseconds are None where it was not measured.

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
    """One step of a build; `cached` when an earlier build had done it."""

    name: str
    seconds: float
    cached: bool


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """All that a build found out. `bundle` is the folder as the user gave it; `seconds` is the whole time, in
    which some `steps` went on side by side.
    """

    bundle: str
    name: str
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
