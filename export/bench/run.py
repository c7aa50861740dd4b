"""How fast a bundle draws, beside PyTorch and the plainest export, on this machine and in one run."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textual_vision.export.bench.cold_start import ColdStart, cold_start
from textual_vision.export.bench.iterations import Laps, Timing, laps_of, ratio_of, timing_of
from textual_vision.export.bench.macs import multiply_accumulates
from textual_vision.export.bench.peak_rate import FLOAT32, INT8, LOWER, Ceiling, ceilings, higher
from textual_vision.export.bench.plan import Tell, check_options, contestants_of
from textual_vision.export.bench.results import (
    BenchOptions,
    BenchResult,
    ContestantResult,
    StageWork,
    Throughput,
)
from textual_vision.export.bench.runner_process import Racer
from textual_vision.export.bench.runners import (
    BUNDLE,
    ContestantSpec,
    PromptReader,
)
from textual_vision.export.host.step_cache import versions
from textual_vision.export.model.batch import Array
from textual_vision.export.parity.metrics import image_metrics
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.bundle import Bundle

LOAD_LIMIT = 0.5  # runnable processes besides us: above it figures are rough
SAME_PICTURE_DB = 20.0  # less than that, and a contestant did other work


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What was measured, by contestant; `laps` by batch size first."""

    ceilings: dict[str, Ceiling]
    laps: dict[int, dict[str, Laps]]
    decibels: dict[str, float | None]
    cold: dict[str, ColdStart]


def bench(folder: Path, options: BenchOptions, tell: Tell = lambda _: None) -> BenchResult:
    """Measure the bundle at `folder`, and what it is to be compared with, in turns.

    Raises UsageError (no such bundle, precision, backend or peer; no checkpoint or another one) and
    BackendMissingError (a peer that is not installed).
    """
    load = os.getloadavg()[0]
    bundle = Bundle(folder)
    check_options(bundle, options)
    with tempfile.TemporaryDirectory(prefix="tv-bench-") as scratch, _threads_put_back():
        specs = tuple(contestants_of(folder, bundle, options, Path(scratch), tell))
        run = _run(specs, options, tell)
    found = tuple(_result(bundle, spec, run, options) for spec in specs)
    return BenchResult(
        bundle=str(folder),
        name=bundle.manifest.name,
        prompt=options.prompts[0],
        processor=_processor(),
        cores=os.cpu_count() or 1,
        threads=options.threads,
        load=(load, os.getloadavg()[0]),
        versions=versions(),
        warm_up=options.warm_up,
        iterations=found[0].whole.count,
        ceilings=run.ceilings,
        contestants=found,
        warnings=tuple(_warnings(load, options, found)),
    )


def _run(specs: Sequence[ContestantSpec], options: BenchOptions, tell: Tell) -> _Run:
    backends = tuple(dict.fromkeys(spec.backend for spec in specs if spec.kind == BUNDLE))
    tell("measure the ceiling")
    top = ceilings(backends, options.threads)
    with contextlib.ExitStack() as stack:  # a cold start is alone on the machine: they end before it
        racers: dict[str, Racer] = {}
        for spec in specs:
            tell(f"load {spec.name}")
            racers[spec.name] = stack.enter_context(Racer(spec))
        decibels = _same_pictures(racers, options.prompts[0])
        laps = {size: _laps(racers, options, size, tell) for size in sorted({1, *options.batches})}
    top = higher(top, ceilings(backends, options.threads))
    cold = {}
    for spec in specs if options.cold_starts else ():
        tell(f"cold start of {spec.name}")
        cold[spec.name] = cold_start(spec, options.prompts[0], options.cold_starts)
    return _Run(ceilings=top, laps=laps, decibels=decibels, cold=cold)


@contextlib.contextmanager
def _threads_put_back() -> Iterator[None]:
    """PyTorch's number of threads is the process's; measuring the ceiling sets it."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _same_pictures(racers: Mapping[str, Racer], prompt: str) -> dict[str, float | None]:
    """PSNR of each contestant's picture to the first's; None where it is identical."""
    images = {name: racer.picture([prompt], [0]) for name, racer in racers.items()}
    first = next(iter(images.values()))
    return {name: image_metrics(first, image).psnr_db for name, image in images.items()}


def _laps(racers: Mapping[str, Racer], options: BenchOptions, size: int, tell: Tell) -> dict[str, Laps]:
    prompts = list(itertools.islice(itertools.cycle(options.prompts), size))
    return laps_of(
        racers,
        prompts,
        list(range(size)),
        warm_up=options.warm_up,
        iterations=options.iterations,
        tell=tell,
    )


def _result(bundle: Bundle, spec: ContestantSpec, run: _Run, options: BenchOptions) -> ContestantResult:
    own = run.laps[1][spec.name]
    others = {name: other for name, other in run.laps[1].items() if name != spec.name}
    ours = spec.kind == BUNDLE
    stages = {name: timing_of(times, options.percentiles) for name, times in own.stages.items()}
    return ContestantResult(
        name=spec.name,
        kind=spec.kind,
        whole=timing_of(own.whole, options.percentiles),
        stages=stages,
        psnr_db=run.decibels[spec.name],
        throughput=tuple(
            _throughput(size, run.laps[size][spec.name]) for size in dict.fromkeys(options.batches)
        ),
        work=_work(bundle, spec, stages, run.ceilings, options.prompts[0]) if ours else {},
        cold=run.cold.get(spec.name),
        ratios={name: ratio_of(other, own) for name, other in others.items()} if ours else {},
    )


def _throughput(size: int, laps: Laps) -> Throughput:
    median = float(np.median(laps.whole))
    return Throughput(batch=size, milliseconds=1e3 * median, pictures_per_second=size / median)


def _work(
    bundle: Bundle,
    spec: ContestantSpec,
    stages: Mapping[str, Timing],
    top: Mapping[str, Ceiling],
    prompt: str,
) -> dict[str, StageWork]:
    """The multiply-accumulates of every stage, beside the ceiling of what it computes in."""
    dtype = INT8 if spec.precision == "int8" and INT8 in top else LOWER.get(spec.backend, FLOAT32)
    work = {}
    for stage, macs in _stage_macs(bundle, spec.precision, spec.backend, prompt).items():
        rate = macs / (1e-3 * stages[stage].median)
        share = rate / top[dtype].macs_per_second
        work[stage] = StageWork(macs=macs, macs_per_second=rate, share=share, ceiling=dtype)
    return work


def _stage_macs(bundle: Bundle, precision: str, backend: str, prompt: str) -> dict[str, int]:
    tensors: dict[str, Array] = PromptReader(bundle).tensors([prompt], [0])
    found = {}
    for stage in bundle.manifest.stages:
        file = bundle.manifest.precisions[precision].files[stage.name]
        graph = bundle.read(file)
        inputs = {spec.name: tensors[spec.name] for spec in stage.inputs}
        found[stage.name] = multiply_accumulates(graph, inputs, backend)
        tensors |= open_session(graph, SessionOptions(backend=backend, name=file)).run(inputs)
    return found


def _warnings(load: float, options: BenchOptions, found: Sequence[ContestantResult]) -> Iterator[str]:
    if load > LOAD_LIMIT:
        yield f"other work was running (load average {load:.1f}): figures are rough, ratios less so"
    if options.threads is None and "OMP_NUM_THREADS" in os.environ:
        value = os.environ["OMP_NUM_THREADS"]
        yield f"OMP_NUM_THREADS={value} limits PyTorch but not every backend: give --threads for a fair race"
    for one in found:
        if one.psnr_db is not None and one.psnr_db < SAME_PICTURE_DB:
            yield f"{one.name} draws another picture than {found[0].name} ({one.psnr_db:.1f} dB)"


def _processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
