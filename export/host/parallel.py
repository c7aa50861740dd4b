"""The same work for many things, side by side on all cores.

Backends let other threads of Python go on while they compute. Several runs at a time of a session that has
one thread take half of what one after the other takes on all cores: a graph is thousands of small operations,
at each of which a session's threads wait for each other busily.
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
    """Torch on one thread: to load a model and a few drawings are thousands of small operations, each over
    before a second thread has begun, and the threads wait for each other busily. With one core kept busy by
    another program that took eight times as long.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def parallel_map(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """What `work` gives for each of the items, in their order; raises what it raises.

    It goes on while a result is looked at, but is never further ahead than there are cores: memory does not
    grow with the number of items.
    """
    cores = os.cpu_count() or 1
    if cores == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(cores) as pool:
        begun: deque[Future[R]] = deque()
        try:
            for item in items:
                begun.append(pool.submit(work, item))
                if len(begun) > cores:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
