"""Sessions of a build's graphs: each is opened once, and not run again on what it was run on before.

To open the largest takes OpenVINO seconds, and a comparison asks for the same drawings several times:
teacher-forced, free-running, and as what a merged graph should give.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping

import onnx

from textual_vision.export.measure import opened_at_once
from textual_vision.runtime.backends.session import Array, Session

SESSIONS_KEPT = 8  # of a precision's three stages and the merged graph, on two backends
RUNS_KEPT = 32  # of each


class RememberingSession:
    """A `Session` that keeps what its last runs gave; its outputs are not to be written to."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.inputs, self.outputs, self.largest_batch = session.inputs, session.outputs, session.largest_batch
        self._known: OrderedDict[bytes, dict[str, Array]] = OrderedDict()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name, the same arrays for the same inputs."""
        key = _digest(inputs)
        if key not in self._known:
            self._known[key] = self._session.run(inputs)
            if len(self._known) > RUNS_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return dict(self._known[key])

    def forgetful(self) -> Session:
        """The session itself, to be timed."""
        return self._session


class OpenedSessions:
    """The last SESSIONS_KEPT sessions, by what their graph computes: some precisions share a stage."""

    def __init__(self) -> None:
        self._opened: OrderedDict[tuple[str, str], RememberingSession] = OrderedDict()
        self._meanings: dict[int, tuple[bytes, str]] = {}  # by the graph's identity, which is kept with it

    def of(self, graphs: Mapping[str, bytes], backend: str) -> dict[str, RememberingSession]:
        """A session of each graph, by its stage's name."""
        keys = {stage: (self._meaning(graph), backend) for stage, graph in graphs.items()}
        missing = {key: stage for stage, key in keys.items() if key not in self._opened}
        wanted = [(graphs[stage], f"{stage}.onnx") for stage in missing.values()]
        for key, session in zip(missing, opened_at_once(wanted, backend), strict=True):
            self._opened[key] = RememberingSession(session)
        sessions = {stage: self._opened[key] for stage, key in keys.items()}
        self._forget(list(keys.values()))
        return sessions

    def _meaning(self, graph: bytes) -> str:
        """Each backend asks for the same graphs, and who measures their time."""
        if id(graph) not in self._meanings:
            self._meanings[id(graph)] = graph, _meaning(graph)
        return self._meanings[id(graph)][1]

    def _forget(self, used: list[tuple[str, str]]) -> None:
        """All but the last; `used` are the last."""
        for key in used:
            self._opened.move_to_end(key)
        while len(self._opened) > max(SESSIONS_KEPT, len(used)):
            self._opened.popitem(last=False)


def _meaning(graph: bytes) -> str:
    """A digest of the graph without what is only told to people: where it comes from, shapes in between."""
    model = onnx.load_from_string(graph)
    model.graph.ClearField("name")
    model.graph.ClearField("value_info")
    for field in ("producer_name", "producer_version", "metadata_props", "doc_string"):
        model.ClearField(field)
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return hashlib.sha256(model.SerializeToString()).hexdigest()


def _digest(inputs: Mapping[str, Array]) -> bytes:
    found = hashlib.sha256()
    for name, value in sorted(inputs.items()):
        found.update(f"{name} {value.dtype} {value.shape}".encode())
        found.update(value.tobytes())
    return found.digest()
