"""The options and the results of a benchmark, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from textual_vision.export.bench.peak_rate import PeakRate
from textual_vision.export.bench.runner_process import ColdStart
from textual_vision.export.bench.timing import Ratio, Timing
from textual_vision.export.model.prompts import COMPARED


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The options of `tv-export bench`. Empty `precisions` or `backends` mean the default one."""

    precisions: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    compare: tuple[str, ...] = ()
    checkpoint: str | None = None
    prompts: tuple[str, ...] = COMPARED
    warm_up: int = 5
    iterations: int = 30
    percentiles: tuple[float, ...] = (90.0, 99.0)
    batch_sizes: tuple[int, ...] = (1, 4)
    cold_starts: int = 3
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class StageUtilization:
    """Multiply-accumulates of one stage for one picture, per second, and as a share of the peak rate."""

    macs: int
    macs_per_second: float
    peak_share: float
    peak_dtype: str


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """A batch of different prompts: its median time, and pictures per second."""

    batch: int
    milliseconds: float
    pictures_per_second: float


@dataclass(frozen=True, kw_only=True)
class RunnerResult:
    """The results of one runner. `end_to_end` is from prompt to pixels at batch 1; `stages` are its parts.

    `psnr_db` compares its picture with the first runner's; None means identical. `ratios` say how many times
    as long the other runners take, by their names. Only bundles have ratios and `utilization`.
    """

    name: str
    kind: str
    end_to_end: Timing
    stages: dict[str, Timing]
    psnr_db: float | None
    throughput: tuple[Throughput, ...]
    utilization: dict[str, StageUtilization] = field(default_factory=dict)
    cold_start: ColdStart | None = None
    ratios: dict[str, Ratio] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """A benchmark's results, JSON by `dataclasses.asdict`. `load` is the load average before and after."""

    bundle: str
    name: str
    prompt: str
    processor: str
    cores: int
    threads: int | None
    load: tuple[float, float]
    versions: dict[str, str]
    warm_up: int
    iterations: int
    peak_rates: dict[str, PeakRate]
    runners: tuple[RunnerResult, ...]
    warnings: tuple[str, ...]
