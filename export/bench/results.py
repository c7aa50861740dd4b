"""What a benchmark is asked and what it finds, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from textual_vision.export.bench.cold_start import ColdStart
from textual_vision.export.bench.iterations import Ratio, Timing
from textual_vision.export.bench.peak_rate import Ceiling
from textual_vision.export.model.prompts import COMPARED


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What `tv-export bench` can be told; see its help. Empty `precisions`, `backends`: the default one."""

    precisions: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    checkpoint: str | None = None
    prompts: tuple[str, ...] = COMPARED
    warm_up: int = 5
    iterations: int = 30
    percentiles: tuple[float, ...] = (90.0, 99.0)
    batches: tuple[int, ...] = (1, 4)
    cold_starts: int = 3
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """Multiply-accumulates of one stage for one picture, per second, and as a share of a ceiling."""

    macs: int
    macs_per_second: float
    share: float
    ceiling: str


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """A batch of different prompts: its median time, and pictures per second."""

    batch: int
    milliseconds: float
    pictures_per_second: float


@dataclass(frozen=True, kw_only=True)
class ContestantResult:
    """One contestant. `whole` is from prompt to pixels, batch 1; `stages` are parts of it.

    `psnr_db` compares its picture with the first contestant's (None: identical). `ratios` say how many times
    as long others take, by their names; only bundles have ratios and `work`.
    """

    name: str
    kind: str
    whole: Timing
    stages: dict[str, Timing]
    psnr_db: float | None
    throughput: tuple[Throughput, ...]
    work: dict[str, StageWork] = field(default_factory=dict)
    cold: ColdStart | None = None
    ratios: dict[str, Ratio] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """A benchmark; becomes JSON by `dataclasses.asdict`. `load` is the load average before and after."""

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
    ceilings: dict[str, Ceiling]
    contestants: tuple[ContestantResult, ...]
    warnings: tuple[str, ...]
