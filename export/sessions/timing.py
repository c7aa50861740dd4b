"""Time a build's graphs; `tv-export bench` measures thoroughly."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from textual_vision.export.model.batch import TOKENS, Array, ReferenceBatch, batches_of_stage
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.manifest import StageSpec

WARM_UP, ITERATIONS = 2, 7
ROUNDS, ITERATIONS_PER_ROUND = 3, 3
MIN_LATENCY_SECONDS = 0.1  # how long `min_latency_ms` runs each graph

Timing = tuple[float, ...]  # milliseconds, of each session


def median_latency_ms(sessions: Sequence[Session], stage: StageSpec, batch: ReferenceBatch) -> Timing:
    """Return each session's median elapsed time of a run on the first sample of `batch`.

    The sessions take turns, since the machine's speed changes over time. A turn has several runs, since the
    threads of the previous session still wait busily for a while.
    """
    inputs = first_sample(stage, batch)
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(ROUNDS):
        for session, found in zip(sessions, times, strict=True):
            found += _elapsed_seconds(session, inputs)
    return tuple(1e3 * statistics.median(found) for found in times)


def min_cpu_ms(
    sessions: Sequence[Session], stage: StageSpec, batch: ReferenceBatch, *, seconds: float = 0.0
) -> Timing:
    """Return each session's minimum CPU time of a run; the sessions use one thread and take turns.

    There are at least ITERATIONS turns, and more until they last `seconds` for each session on average.
    """
    times = _interleaved_cpu_times(sessions, first_sample(stage, batch), seconds)
    return tuple(1e3 * min(found) for found in times)


def min_latency_ms(sessions: Sequence[Session], stage: StageSpec, batch: ReferenceBatch) -> Timing:
    """Return the least elapsed milliseconds of each session for the first sample of `batch`.

    The sessions take turns of WARM_UP and ITERATIONS_PER_ROUND runs, for MIN_LATENCY_SECONDS each on average.
    The threads of the previous session still wait busily for a while, and other programs may interrupt.
    """
    inputs = first_sample(stage, batch)
    times: list[list[float]] = [[] for _ in sessions]
    rounds = 0
    while rounds < ROUNDS or sum(map(sum, times)) < MIN_LATENCY_SECONDS * len(sessions):
        for session, found in zip(sessions, times, strict=True):
            found += _elapsed_seconds(session, inputs)
        rounds += 1
    return tuple(1e3 * min(found) for found in times)


def _elapsed_seconds(session: Session, inputs: dict[str, Array]) -> list[float]:
    """Return the seconds of ITERATIONS_PER_ROUND runs that follow WARM_UP others."""
    found = []
    for _ in range(WARM_UP + ITERATIONS_PER_ROUND):
        start = time.perf_counter()
        session.run(inputs)
        found.append(time.perf_counter() - start)
    return found[WARM_UP:]


def _interleaved_cpu_times(
    sessions: Sequence[Session], inputs: dict[str, Array], seconds: float
) -> list[list[float]]:
    """Return, by session, the CPU seconds of every turn except the first WARM_UP.

    A session of one thread computes in the calling thread. That thread's CPU time hardly depends on other
    programs or on the build's other threads. Elapsed time of several threads does: on a busy machine a graph
    of 1 ms took 15 ms at best, since threads wait for the one that lost its core.
    """
    times: list[list[float]] = [[] for _ in sessions]
    turns, spent = 0, 0.0
    while turns < WARM_UP + ITERATIONS or spent < seconds * len(sessions):
        for session, found in zip(sessions, times, strict=True):
            start = time.thread_time()
            session.run(inputs)
            found.append(time.thread_time() - start)
        turns, spent = turns + 1, spent + sum(found[-1] for found in times)
    return [found[WARM_UP:] for found in times]


def first_sample(stage: StageSpec, batch: ReferenceBatch) -> dict[str, Array]:
    """Return the stage's inputs for the batch's first sample, without padding unless its length is fixed."""
    batch = batches_of_stage([batch], stage)[0]
    mask = batch.tensors.get("attention_mask")
    words = None if mask is None or batch.fixed_length else int((mask[0] == 1).sum())
    found = {}
    for tensor in stage.inputs:
        parts = [slice(words) if size == TOKENS else slice(None) for size in tensor.shape[1:]]
        place = (slice(1), *parts)
        found[tensor.name] = batch.tensors[tensor.name][place]
    return found


def node_count(graph: bytes) -> int:
    """Return the number of nodes of a serialized graph."""
    import onnx  # a device has none, and times sessions too

    return len(onnx.load_from_string(graph).graph.node)
