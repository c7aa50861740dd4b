"""OpenVINO on the CPU, in the precision that the graph says and no lower."""

from __future__ import annotations

from collections.abc import Mapping

import openvino

from textual_vision.runtime.backends.session import Array, SessionOptions, lines_of
from textual_vision.runtime.errors import IntegrityError, TextualVisionError

DEVICE = "CPU"
OPENVINO_ERRORS = (RuntimeError, UnicodeDecodeError)


class OpenVinoSession:
    """One compiled graph with one request."""

    largest_batch: int | None = None

    def __init__(self, compiled: openvino.CompiledModel, name: str) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = [(output, output.get_any_name()) for output in compiled.outputs]
        self.inputs = frozenset(entry.get_any_name() for entry in compiled.inputs)
        self.outputs = frozenset(name for _, name in self._outputs)
        self._name = name

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name; TextualVisionError when OpenVINO cannot compute them."""
        try:
            results = self._request.infer(dict(inputs))
        except OPENVINO_ERRORS as error:
            raise TextualVisionError(f"{self._name}: OpenVINO failed: {lines_of(error)[-1]}") from None
        return {name: results[output].copy() for output, name in self._outputs}


def open_session(graph: bytes, options: SessionOptions) -> OpenVinoSession:
    """Compile `graph`; see `session.open_session`."""
    # Without the hint, CPUs with bfloat16 or half arithmetic would compute float32 graphs in that.
    settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(graph, b""), DEVICE, settings)
    except OPENVINO_ERRORS as error:
        problem = f"{options.name}: OpenVINO cannot load it: {lines_of(error)[-1]}"
        raise IntegrityError(problem, "export it again, or use another --backend") from None
    return OpenVinoSession(compiled, options.name)
