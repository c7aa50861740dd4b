"""ONNX Runtime on the CPU, or on another provider, which is never silently replaced by the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from textual_vision.runtime.backends.session import (
    FAILED_HINT,
    Array,
    SessionOptions,
    backend_by_name,
    lines_of,
)
from textual_vision.runtime.errors import BackendMissingError, IntegrityError, TextualVisionError

PROVIDERS = {
    "onnxruntime": "CPUExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
}
CUDA = PROVIDERS["onnxruntime-cuda"]
# By default, CUDA rounds factors to TF32 (10 bits), which changed 64 of 4,096 codes on an H200.
SETTINGS: dict[str, dict[str, str]] = {CUDA: {"use_tf32": "0"}}
RECORDED = {**SETTINGS[CUDA], "enable_cuda_graph": "1"}
# In earlier versions, other shapes overwrite host memory of a recording: microsoft/onnxruntime pull 32121.
RECORDS_SINCE = (1, 30)
NOT_RECORDED = "This session cannot use the graph capture feature"
LOG_ERRORS, LOG_FATAL = 3, 4
MATRIX_TWICE = "Attempt to replace the existing tensor"
ORT_ERRORS = (
    UnicodeDecodeError,
    *(
        getattr(ort_errors, name)
        for name in (
            "EPFail",
            "Fail",
            "InvalidArgument",
            "InvalidGraph",
            "InvalidProtobuf",
            "NoModel",
            "NoSuchFile",
            "NotImplemented",
            "RuntimeException",
        )
    ),
)

Run = Callable[[Sequence[str], Mapping[str, Array]], list[Array]]


class OnnxRuntimeSession:
    """One graph in an InferenceSession; `run` is the session's method or one that records CUDA graphs."""

    largest_batch: int | None = None

    def __init__(self, session: onnxruntime.InferenceSession, name: str, run: Run) -> None:
        self._run = run
        self._name = name
        self._outputs = [output.name for output in session.get_outputs()]
        self.providers = tuple(session.get_providers())
        self.inputs = frozenset(entry.name for entry in session.get_inputs())
        self.outputs = frozenset(self._outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; raises TextualVisionError when ONNX Runtime fails."""
        try:
            values = self._run(self._outputs, dict(inputs))
        except (*ORT_ERRORS, RuntimeError) as error:  # the latter from recordings
            message = f"{self._name}: ONNX Runtime failed: {lines_of(error)[0]}"
            raise TextualVisionError(message, FAILED_HINT) from None
        return dict(zip(self._outputs, values, strict=True))


def open_session(graph: bytes, options: SessionOptions) -> OnnxRuntimeSession:
    """Load `graph` on the provider that `options.backend` stands for; see `session.open_session`.

    On CUDA it runs by CUDA graphs, recorded for each set of shapes. Where ONNX Runtime refuses to record, as
    it does when an operator has no kernel there, it runs without: the same results, only slower.
    """
    provider = PROVIDERS[options.backend]
    hint = backend_by_name(options.backend).install
    if provider not in onnxruntime.get_available_providers():
        raise BackendMissingError(f"this ONNX Runtime was built without {provider}", hint)
    try:
        if provider == CUDA:
            from textual_vision.runtime.backends.cuda_graphs import in_cuda_thread

            session, run = in_cuda_thread(_opened_on_cuda, graph, options)
        else:
            session = _loaded(graph, options, SETTINGS.get(provider, {}))
            run = session.run
    except ORT_ERRORS as error:
        problem = f"{options.name}: ONNX Runtime cannot load it: {lines_of(error)[0]}"
        raise IntegrityError(problem, "export it again, or for an older opset") from None
    except RuntimeError as error:  # a provider whose libraries are missing
        raise BackendMissingError(f"{provider} does not work here: {lines_of(error)[0]}", hint) from None
    # ONNX Runtime does not raise on a machine without a GPU: the session silently runs on the CPU.
    if (used := session.get_providers()[0]) != provider:
        raise BackendMissingError(f"{provider} does not work here: ONNX Runtime would use {used}", hint)
    return OnnxRuntimeSession(session, options.name, run)


def open_optimized(path: Path, options: SessionOptions) -> OnnxRuntimeSession:
    """Load the graph that `open_session` wrote to `path` by `options.optimized` for this very processor.

    Weights are mapped, not read. Raises IntegrityError when ONNX Runtime cannot load it.
    """
    settings = _settings(options, None)
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = [PROVIDERS[options.backend]]
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=providers, enable_fallback=0)
    except ORT_ERRORS as error:
        raise IntegrityError(f"{path}: ONNX Runtime cannot load it: {lines_of(error)[0]}") from None
    return OnnxRuntimeSession(session, options.name, session.run)


def _opened_on_cuda(graph: bytes, options: SessionOptions) -> tuple[onnxruntime.InferenceSession, Run]:
    from textual_vision.runtime.backends.cuda_graphs import CudaGraphs

    if _version() >= RECORDS_SINCE:
        try:
            session = _loaded(graph, options, RECORDED, LOG_FATAL)  # a refusal is no error to log
            if session.get_providers()[0] == CUDA:
                return session, _in_cuda_thread(CudaGraphs(session).run)
        except ORT_ERRORS as error:
            if NOT_RECORDED not in str(error):
                raise
    session = _loaded(graph, options, SETTINGS[CUDA])
    return session, _in_cuda_thread(session.run)


def _in_cuda_thread(run: Run) -> Run:
    from textual_vision.runtime.backends.cuda_graphs import in_cuda_thread

    return lambda names, inputs: in_cuda_thread(run, names, inputs)


def _version() -> tuple[int, int]:
    major, minor = onnxruntime.__version__.split(".")[:2]
    return int(major), int(minor)


def _loaded(
    graph: bytes, options: SessionOptions, asked: Mapping[str, str], severity: int | None = None
) -> onnxruntime.InferenceSession:
    """With integers that don't overflow, and the provider's settings `asked`.

    x86 CPUs without VNNI add two products of int8 in 16 bits, which overflows: they would generate something
    else than other CPUs. ONNX Runtime's slower, exact way there, which changes nothing elsewhere, can't load
    a graph that multiplies by one int8 matrix twice; what Q/DQ say is computed in float then.
    """
    settings = _settings(options, severity)
    settings.add_session_config_entry("session.x64quantprecision", "1")
    providers = [(PROVIDERS[options.backend], dict(asked))]
    try:
        return onnxruntime.InferenceSession(graph, settings, providers=providers, enable_fallback=0)
    except ORT_ERRORS as error:
        if MATRIX_TWICE not in str(error):
            raise
    settings = _settings(options, severity)
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(graph, settings, providers=providers, enable_fallback=0)


def _settings(options: SessionOptions, severity: int | None) -> onnxruntime.SessionOptions:
    settings = onnxruntime.SessionOptions()
    # Errors on the CPU are raised; the reason why a GPU provider fails to start is only in the log.
    usual = LOG_FATAL if options.backend == "onnxruntime" else LOG_ERRORS
    settings.log_severity_level = usual if severity is None else severity
    settings.inter_op_num_threads = 1
    # The bytes were checked as ONNX; they must not be read as ONNX Runtime's own format.
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    # Stages run in turn: threads in a busy wait would keep the next stage from its cores.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    if not options.spinning:
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    if options.optimized is not None:
        settings.optimized_model_filepath = str(options.optimized)
        weights = {"file_name": options.optimized.with_suffix(".weights").name, "min_size_in_bytes": "1024"}
        for name, value in weights.items():
            settings.add_session_config_entry(f"session.optimized_model_external_initializers_{name}", value)
        # Matrices also in the layout of this processor's kernels: a mapped one costs no private memory.
        settings.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    return settings
