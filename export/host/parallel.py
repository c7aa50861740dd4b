"""Run the same work for many items on all CPU cores.

Backends release Python's global lock while they compute. Several single-threaded sessions in parallel take
half the time of one session with a thread per core: a graph has thousands of small operations, and a
session's threads busy-wait for each other at each of them.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextlib.contextmanager
def torch_single_thread() -> Iterator[None]:
    """Limit torch to one thread inside the context.

    Loading a model and generating a few pictures are thousands of short operations. Several threads busy-wait
    for each other at each; with another busy program on one core, that took eight times as long.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def parallel_map(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `work(item)` for each item in order; raises what `work` raises.

    At most one result more than there are cores is computed ahead, so memory does not grow with the number of
    items.
    """
    cores = os.cpu_count() or 1
    if cores == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(cores) as pool:
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > cores:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
