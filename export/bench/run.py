"""Measure how fast a bundle generates, and compare it with other runtimes, all interleaved in one run."""

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

from textual_vision.export.bench.macs import multiply_accumulates
from textual_vision.export.bench.peak_rate import (
    FLOAT32,
    FLOAT_DTYPES,
    INT8,
    PeakRate,
    faster_peak,
    measure_peak_rates,
)
from textual_vision.export.bench.plan import check_options, runner_specs
from textual_vision.export.bench.results import (
    BenchOptions,
    BenchResult,
    RunnerResult,
    StageUtilization,
    Throughput,
)
from textual_vision.export.bench.runner import BUNDLE, RunnerSpec
from textual_vision.export.bench.runner_process import ColdStart, RunnerProcess, cold_start
from textual_vision.export.bench.runners import PromptReader
from textual_vision.export.bench.timing import (
    Iterations,
    Timing,
    ratio_of_times,
    run_interleaved,
    timing_from_seconds,
)
from textual_vision.export.host.versions import versions
from textual_vision.export.model.batch import Array
from textual_vision.export.parity.metrics import image_metrics
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.progress import ProgressCallback, ignore_progress

MAX_LOAD = 0.5  # other runnable processes; above it the times are rough
SAME_PICTURE_DB = 20.0  # below it, a runner does other work than the first


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The measurements by runner; `iterations` by batch size first."""

    peak_rates: dict[str, PeakRate]
    iterations: dict[int, dict[str, Iterations]]
    decibels: dict[str, float | None]
    cold_starts: dict[str, ColdStart]


def bench(
    folder: Path, options: BenchOptions, on_progress: ProgressCallback = ignore_progress
) -> BenchResult:
    """Measure the bundle at `folder` and its peers in turns.

    Raises UsageError (unknown bundle, precision, backend or peer; a missing or another checkpoint) and
    BackendMissingError (a peer that is not installed).
    """
    load = os.getloadavg()[0]
    bundle = Bundle(folder)
    check_options(bundle, options)
    with tempfile.TemporaryDirectory(prefix="tv-bench-") as scratch, _torch_threads_restored():
        specs = tuple(runner_specs(folder, bundle, options, Path(scratch), on_progress))
        run = _run(specs, options, on_progress)
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
        iterations=found[0].end_to_end.count,
        peak_rates=run.peak_rates,
        runners=found,
        warnings=tuple(_warnings(load, options, found)),
    )


def _run(specs: Sequence[RunnerSpec], options: BenchOptions, on_progress: ProgressCallback) -> _Run:
    backends = tuple(dict.fromkeys(spec.backend for spec in specs if spec.kind == BUNDLE))
    on_progress("measure the peak rates")
    top = measure_peak_rates(backends, options.threads)
    with contextlib.ExitStack() as stack:  # they end before the cold starts, which need all cores
        processes: dict[str, RunnerProcess] = {}
        for spec in specs:
            on_progress(f"load {spec.name}")
            processes[spec.name] = stack.enter_context(RunnerProcess(spec))
        decibels = _same_pictures(processes, options.prompts[0])
        iterations = {
            size: _iterations(processes, options, size, on_progress)
            for size in sorted({1, *options.batch_sizes})
        }
    top = faster_peak(top, measure_peak_rates(backends, options.threads))
    cold = {}
    for spec in specs if options.cold_starts else ():
        on_progress(f"cold start of {spec.name}")
        cold[spec.name] = cold_start(spec, options.prompts[0], options.cold_starts)
    return _Run(peak_rates=top, iterations=iterations, decibels=decibels, cold_starts=cold)


@contextlib.contextmanager
def _torch_threads_restored() -> Iterator[None]:
    """Restore PyTorch's number of threads, which `measure_peak_rates` changes for the whole process."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _same_pictures(processes: Mapping[str, RunnerProcess], prompt: str) -> dict[str, float | None]:
    """Return the PSNR of each runner's picture to the first's in dB; None where they are identical."""
    images = {name: process.images([prompt], [0]) for name, process in processes.items()}
    first = next(iter(images.values()))
    return {name: image_metrics(first, image).psnr_db for name, image in images.items()}


def _iterations(
    processes: Mapping[str, RunnerProcess], options: BenchOptions, size: int, on_progress: ProgressCallback
) -> dict[str, Iterations]:
    prompts = list(itertools.islice(itertools.cycle(options.prompts), size))
    return run_interleaved(
        processes,
        prompts,
        list(range(size)),
        warm_up=options.warm_up,
        iterations=options.iterations,
        on_progress=on_progress,
    )


def _result(bundle: Bundle, spec: RunnerSpec, run: _Run, options: BenchOptions) -> RunnerResult:
    own = run.iterations[1][spec.name]
    others = {name: other for name, other in run.iterations[1].items() if name != spec.name}
    ours = spec.kind == BUNDLE
    stages = {name: timing_from_seconds(times, options.percentiles) for name, times in own.stages.items()}
    return RunnerResult(
        name=spec.name,
        kind=spec.kind,
        end_to_end=timing_from_seconds(own.end_to_end, options.percentiles),
        stages=stages,
        psnr_db=run.decibels[spec.name],
        throughput=tuple(
            _throughput(size, run.iterations[size][spec.name]) for size in dict.fromkeys(options.batch_sizes)
        ),
        utilization=_utilization(bundle, spec, stages, run.peak_rates, options.prompts[0]) if ours else {},
        cold_start=run.cold_starts.get(spec.name),
        ratios={name: ratio_of_times(other, own) for name, other in others.items()} if ours else {},
    )


def _throughput(size: int, iterations: Iterations) -> Throughput:
    median = float(np.median(iterations.end_to_end))
    return Throughput(batch=size, milliseconds=1e3 * median, pictures_per_second=size / median)


def _utilization(
    bundle: Bundle,
    spec: RunnerSpec,
    stages: Mapping[str, Timing],
    top: Mapping[str, PeakRate],
    prompt: str,
) -> dict[str, StageUtilization]:
    """Return the multiply-accumulates of every stage, compared with the peak rate of its dtype."""
    dtype = INT8 if spec.precision == "int8" and INT8 in top else FLOAT_DTYPES.get(spec.backend, FLOAT32)
    work = {}
    for stage, macs in _stage_macs(bundle, spec.precision, spec.backend, prompt).items():
        rate = macs / (1e-3 * stages[stage].median)
        share = rate / top[dtype].macs_per_second
        work[stage] = StageUtilization(macs=macs, macs_per_second=rate, peak_share=share, peak_dtype=dtype)
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


def _warnings(load: float, options: BenchOptions, found: Sequence[RunnerResult]) -> Iterator[str]:
    if load > MAX_LOAD:
        yield f"other programs were running (load average {load:.1f}): times are rough, ratios less so"
    if options.threads is None and "OMP_NUM_THREADS" in os.environ:
        value = os.environ["OMP_NUM_THREADS"]
        yield f"OMP_NUM_THREADS={value} limits PyTorch but not every backend: compare fairly with --threads"
    for one in found:
        if one.psnr_db is not None and one.psnr_db < SAME_PICTURE_DB:
            yield f"{one.name} generates another picture than {found[0].name} ({one.psnr_db:.1f} dB)"


def _processor() -> str:
    """Return the processor's name as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
