"""Quick figures of a graph for the table of a build; `tv-export bench` measures thoroughly."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import onnx

from textual_vision.export.model.batch import TOKENS, Array, ReferenceBatch
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.manifest import StageSpec

WARM_UP, ITERATIONS = 2, 7
ROUNDS, OF_A_ROUND = 3, 3
LASTING_SECONDS = 0.1  # of each graph, where what it takes of a core decides

Timing = tuple[float, ...]  # milliseconds of each session


def median_latency_ms(sessions: Sequence[Session], stage: StageSpec, batch: ReferenceBatch) -> Timing:
    """The median time of one drawing by each, on the first sample of `batch`.

    In rounds, since a machine is now faster and now slower; in each some drawings one after another, since
    the threads of the session before go on waiting busily for a while.
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
    """The least that one drawing by each, a session of one thread, takes of a core, in turns.

    After ITERATIONS turns more are taken until they last `seconds` for each session, on average.
    """
    times = _interleaved_cpu_times(sessions, first_sample(stage, batch), seconds)
    return tuple(1e3 * min(found) for found in times)


def min_latency_ms(sessions: Sequence[Session], stage: StageSpec, batch: ReferenceBatch) -> Timing:
    """Return the least elapsed milliseconds of each session for the first sample of `batch`.

    The sessions take turns of WARM_UP and OF_A_ROUND runs until they have run for LASTING_SECONDS each, on
    average: threads of the session before go on waiting busily for a while, and other programs may interrupt.
    """
    inputs = first_sample(stage, batch)
    times: list[list[float]] = [[] for _ in sessions]
    rounds = 0
    while rounds < ROUNDS or sum(map(sum, times)) < LASTING_SECONDS * len(sessions):
        for session, found in zip(sessions, times, strict=True):
            found += _elapsed_seconds(session, inputs)
        rounds += 1
    return tuple(1e3 * min(found) for found in times)


def _elapsed_seconds(session: Session, inputs: dict[str, Array]) -> list[float]:
    """Return the seconds of OF_A_ROUND runs that follow WARM_UP others."""
    found = []
    for _ in range(WARM_UP + OF_A_ROUND):
        start = time.perf_counter()
        session.run(inputs)
        found.append(time.perf_counter() - start)
    return found[WARM_UP:]


def _interleaved_cpu_times(
    sessions: Sequence[Session], inputs: dict[str, Array], seconds: float
) -> list[list[float]]:
    """By session the seconds of every turn but the first WARM_UP.

    CPU time of this thread, in which a session of one thread computes: other programs hardly change it, nor
    does what a build does beside. In elapsed time with several threads a graph of 1 ms took 15 and more on a
    busy machine, in the best of its turns too: threads wait for the one that lost its core.
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
    """The stage's inputs for the batch's first sample, without its padding where that may be left out."""
    mask = batch.tensors["attention_mask"]
    words = mask.shape[1] if batch.fixed_length else int((mask[0] == 1).sum())
    return {
        tensor.name: batch.tensors[tensor.name][:1, :words]
        if TOKENS in tensor.shape
        else batch.tensors[tensor.name][:1]
        for tensor in stage.inputs
    }


def node_count(graph: bytes) -> int:
    """Nodes of a serialized graph."""
    return len(onnx.load_from_string(graph).graph.node)
