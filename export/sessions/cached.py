"""Sessions of a build's graphs: each is opened once, and not run again on what it was run on before.

To open the largest takes OpenVINO seconds, and a comparison asks for the same drawings several times:
teacher-forced, free-running, and as what a merged graph should give.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import CancelledError

from textual_vision.export.host.crash_watch import crash_watch
from textual_vision.export.sessions.opening import open_in_parallel
from textual_vision.runtime.backends.session import Array, Session

SESSIONS_KEPT = 12  # of three precisions' stages and merged graphs
RUNS_KEPT = 32  # of each


class CachingSession:
    """A `Session` that keeps what its last runs gave; its outputs are not to be written to.

    Several threads may run it at a time; in turns if it has `several_threads` of its own: those of two runs
    would wait busily for each other.
    """

    def __init__(
        self,
        session: Session,
        stopped: threading.Event | None = None,
        *,
        several_threads: bool = False,
        name: str = "a backend",
    ) -> None:
        """`name` says in the report of a crash what was running."""
        self._session, self._name = session, name
        self._turn = threading.Lock() if several_threads else contextlib.nullcontext()
        self.inputs, self.outputs, self.largest_batch = session.inputs, session.outputs, session.largest_batch
        self._known: OrderedDict[bytes, dict[str, Array]] = OrderedDict()
        self._lock = threading.Lock()  # of what is known
        self._stopped = stopped

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name, the same arrays for the same inputs; CancelledError when `stopped` is set."""
        if self._stopped is not None and self._stopped.is_set():
            raise CancelledError
        key = _digest(inputs)
        with self._lock:
            found = self._known.get(key)
        if found is None:
            with self._turn, crash_watch().naming(f"{self._name} was running"):
                found = self._session.run(inputs)
        with self._lock:
            self._known[key] = found
            self._known.move_to_end(key)
            if len(self._known) > RUNS_KEPT:
                self._known.popitem(last=False)
        return dict(found)

    def uncached(self) -> Session:
        """The session itself, to be timed."""
        return self._session


class GraphDigests:
    """Of graphs, found out once: every backend's thread asks for the same ones."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[bytes, str]] = {}  # by the graph's identity, which is kept with it
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, graph: bytes) -> str:
        """What the graph computes."""
        with self._lock:
            if id(graph) not in self._known:
                self._known[id(graph)] = graph, _graph_digest(graph)
            return self._known[id(graph)][1]


class SessionPool:
    """The last SESSIONS_KEPT sessions, by what their graph computes: some precisions share a stage.

    `threads` of each as in `SessionOptions`.
    """

    def __init__(self, digests: GraphDigests | None = None, *, threads: int | None = None) -> None:
        self._threads, self._stopped, self._digests = threads, threading.Event(), digests or GraphDigests()
        self._opened: OrderedDict[tuple[str, str], CachingSession] = OrderedDict()

    def of(self, graphs: Mapping[str, bytes], backend: str) -> dict[str, CachingSession]:
        """A session of each graph, by its stage's name."""
        keys = {stage: (self._digests.of(graph), backend) for stage, graph in graphs.items()}
        missing = {key: stage for stage, key in keys.items() if key not in self._opened}
        wanted = [(graphs[stage], f"{stage}.onnx") for stage in missing.values()]
        opened = open_in_parallel(wanted, backend, threads=self._threads)
        for key, session in zip(missing, opened, strict=True):
            several = self._threads != 1
            name = f"{backend} with {missing[key]}.onnx"
            self._opened[key] = CachingSession(session, self._stopped, several_threads=several, name=name)
        sessions = {stage: self._opened[key] for stage, key in keys.items()}
        self._forget(list(keys.values()))
        return sessions

    def stop(self) -> None:
        """From now on they refuse to run."""
        self._stopped.set()

    def _forget(self, used: list[tuple[str, str]]) -> None:
        """All but the last; `used` are the last."""
        for key in used:
            self._opened.move_to_end(key)
        while len(self._opened) > max(SESSIONS_KEPT, len(used)):
            self._opened.popitem(last=False)


def _graph_digest(graph: bytes) -> str:
    """A digest of the graph without what is only told to people: where it comes from, shapes in between."""
    import onnx  # a device has none, and opens sessions too

    model = onnx.load_from_string(graph)
    model.graph.ClearField("name")
    model.graph.ClearField("value_info")
    for field in ("producer_name", "producer_version", "metadata_props", "doc_string"):
        model.ClearField(field)
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    found = hashlib.sha256()
    for tensor in model.graph.initializer:  # one by one: all at once they would be copied twice
        found.update(tensor.raw_data)
        tensor.ClearField("raw_data")
    found.update(model.SerializeToString())
    return found.hexdigest()


def _digest(inputs: Mapping[str, Array]) -> bytes:
    found = hashlib.sha256()
    for name, value in sorted(inputs.items()):
        found.update(f"{name} {value.dtype} {value.shape}".encode())
        found.update(value.tobytes())
    return found.digest()
