"""Keep sessions open during a build, and cache what they return.

OpenVINO takes seconds to open the largest graph. A build runs the same inputs several times: teacher-forced,
free-running, as the reference of the merged graph, and for the report.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import CancelledError

import onnx

from textual_vision.export.sessions.opening import open_sessions
from textual_vision.runtime.backends.session import Array, Session

MAX_SESSIONS = 12  # the stages and merged graphs of three precisions
MAX_RUNS = 32  # of each session


class CachingSession:
    """A `Session` that caches the outputs of its last runs; callers must not write to them.

    Several threads may call it at the same time. A session with `several_threads` of its own computes one run
    at a time, since the threads of two runs would wait for each other busily.
    """

    def __init__(
        self, session: Session, stopped: threading.Event | None = None, *, several_threads: bool = False
    ) -> None:
        self._session = session
        self._turn = threading.Lock() if several_threads else contextlib.nullcontext()
        self.inputs, self.outputs, self.largest_batch = session.inputs, session.outputs, session.largest_batch
        self._cache: OrderedDict[bytes, dict[str, Array]] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._stopped = stopped

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name, the same arrays for the same inputs.

        Raises CancelledError when `stopped` is set.
        """
        if self._stopped is not None and self._stopped.is_set():
            raise CancelledError
        key = _digest_of_inputs(inputs)
        with self._cache_lock:
            outputs = self._cache.get(key)
        if outputs is None:
            with self._turn:
                outputs = self._session.run(inputs)
        with self._cache_lock:
            self._cache[key] = outputs
            self._cache.move_to_end(key)
            if len(self._cache) > MAX_RUNS:
                self._cache.popitem(last=False)
        return dict(outputs)

    def uncached(self) -> Session:
        """Return the session itself, for timing."""
        return self._session


class GraphDigests:
    """The digests of graphs, each computed once: the threads of all backends ask for the same graphs."""

    def __init__(self) -> None:
        # By the graph's identity. The graph is kept too, so that no other object can get its identity.
        self._known: dict[int, tuple[bytes, str]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, graph: bytes) -> str:
        """Return a digest of what the graph computes; names and documentation do not count."""
        with self._lock:
            if id(graph) not in self._known:
                self._known[id(graph)] = graph, _digest_of_graph(graph)
            return self._known[id(graph)][1]


class SessionPool:
    """The last MAX_SESSIONS sessions by what their graphs compute, since precisions may share a stage.

    `threads` of each session as in `SessionOptions`.
    """

    def __init__(self, digests: GraphDigests | None = None, *, threads: int | None = None) -> None:
        self._threads, self._stopped, self._digests = threads, threading.Event(), digests or GraphDigests()
        self._opened: OrderedDict[tuple[str, str], CachingSession] = OrderedDict()

    def of(self, graphs: Mapping[str, bytes], backend: str) -> dict[str, CachingSession]:
        """Return a session of each graph by its stage's name; open those that the pool does not hold."""
        keys = {stage: (self._digests.of(graph), backend) for stage, graph in graphs.items()}
        missing = {key: stage for stage, key in keys.items() if key not in self._opened}
        wanted = {stage: graphs[stage] for stage in missing.values()}
        opened = open_sessions(wanted, backend, threads=self._threads)
        for key, stage in missing.items():
            several = self._threads != 1
            self._opened[key] = CachingSession(opened[stage], self._stopped, several_threads=several)
        sessions = {stage: self._opened[key] for stage, key in keys.items()}
        self._drop_oldest(list(keys.values()))
        return sessions

    def stop(self) -> None:
        """Make every further run of the pool's sessions raise CancelledError."""
        self._stopped.set()

    def _drop_oldest(self, used: list[tuple[str, str]]) -> None:
        """Drop the sessions beyond MAX_SESSIONS, those `used` now last."""
        for key in used:
            self._opened.move_to_end(key)
        while len(self._opened) > max(MAX_SESSIONS, len(used)):
            self._opened.popitem(last=False)


def _digest_of_graph(graph: bytes) -> str:
    model = onnx.load_from_string(graph)
    model.graph.ClearField("name")
    model.graph.ClearField("value_info")
    for field in ("producer_name", "producer_version", "metadata_props", "doc_string"):
        model.ClearField(field)
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    digest = hashlib.sha256()
    for tensor in model.graph.initializer:  # one by one: serialized together they would be copied twice
        digest.update(tensor.raw_data)
        tensor.ClearField("raw_data")
    digest.update(model.SerializeToString())
    return digest.hexdigest()


def _digest_of_inputs(inputs: Mapping[str, Array]) -> bytes:
    digest = hashlib.sha256()
    for name, value in sorted(inputs.items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.digest()
