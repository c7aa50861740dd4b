"""Open the engines of a bundle that TensorRT or TensorRT-RTX built for this device.

The driver is probed first, because the library crashes without one. Then this machine's fingerprint is
compared with each engine's. Nothing is built, and there is no fallback.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from textual_vision.runtime.backends.tensorrt.api import (
    has_api,
    last_error,
    last_message,
    load_library,
    new_logger,
    released_on_error,
)
from textual_vision.runtime.backends.tensorrt.cuda_buffers import DeviceMemory
from textual_vision.runtime.backends.tensorrt.cudart import CudaRuntime, Device, load_cudart, probe
from textual_vision.runtime.backends.tensorrt.engine_session import EngineSession, scratch_bytes
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.engines import (
    EngineRecord,
    Fingerprint,
    find_engines,
    jetpack_release,
    rebuild_command,
)
from textual_vision.runtime.errors import (
    BackendMissingError,
    DeviceMismatchError,
    IntegrityError,
    TextualVisionError,
    UsageError,
)
from textual_vision.runtime.manifest import EngineSpec


@dataclass(frozen=True, kw_only=True)
class EngineRunOptions:
    """How to run: `cuda_graph` records an engine's launches for each set of shapes and replays them.

    Version-compatible engines contain code that runs on the CPU. They are loaded only with `trust_host_code`,
    which is unsafe for a bundle of unknown origin.
    """

    cuda_graph: bool = False
    trust_host_code: bool = False


DEFAULTS = EngineRunOptions()


class EngineSet(Mapping[str, EngineSession]):
    """The session of each stage by its name, and their shared memory."""

    def __init__(
        self,
        trt: Any,
        bundle: Bundle,
        spec: EngineSpec,
        record: EngineRecord,
        memory: DeviceMemory,
        options: EngineRunOptions,
    ) -> None:
        """Load every plan of `spec`; on an error, free everything that was allocated."""
        self._memory, self._sessions = memory, dict[str, EngineSession]()
        logger = new_logger(trt)
        owners = [logger]  # objects that engines refer to
        # Contexts and graphs are freed before the objects that they use, also by garbage collection.
        self._finalizer = weakref.finalize(self, _close, self._sessions, owners, memory)
        command = rebuild_command(bundle, record.precision, record.fingerprint, record.dla_core)
        try:
            runtime = _new_runtime(trt, logger, record, options)
            owners.append(runtime)
            engines = {
                name: engine_from_plan(
                    trt, runtime, bundle.read(file), file, logger, f"build them again: {command}"
                )
                for name, file in spec.files.items()
            }
            for stage in bundle.manifest.stages:
                self._sessions[stage.name] = EngineSession(
                    trt, engines[stage.name], stage, memory, logger, cuda_graph=options.cuda_graph
                )
            self._share_scratch(max(scratch_bytes(trt, engines[name]) for name in self._sessions))
        except BaseException:  # an interrupt leaves memory behind just as well; it is raised again
            self.close()
            raise

    def __getitem__(self, stage: str) -> EngineSession:
        return self._sessions[stage]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sessions)

    def __len__(self) -> int:
        return len(self._sessions)

    def _share_scratch(self, size: int) -> None:
        if size:
            address = self._memory.block(size)
            for session in self._sessions.values():
                session.use_scratch(address, size)

    def close(self) -> None:
        """Free contexts, engines, the library's runtime, memory and stream; a second call does nothing."""
        self._finalizer()


def _close(sessions: Mapping[str, EngineSession], owners: list[Any], memory: DeviceMemory) -> None:
    for session in sessions.values():
        session.close()
    while owners:
        owners.pop()
    memory.close()


@released_on_error()
def open_engines(
    bundle: Bundle,
    precision: str,
    kind: str,
    options: EngineRunOptions = DEFAULTS,
    *,
    cuda: CudaRuntime | None = None,
    trt: Any = None,
) -> EngineSet:
    """Return the loaded engines of `precision` for this device; `kind` is tensorrt or tensorrt-rtx.

    `cuda` and `trt` None are the installed libraries. Raises BackendMissingError (no library, driver or GPU),
    DeviceMismatchError (no engine for this device), IntegrityError (a damaged plan, or one that came from
    other graphs), UsageError (an engine with host code) and TextualVisionError (no memory).
    """
    cuda = cuda if cuda is not None else load_cudart()
    device = probe(cuda)
    trt = trt if trt is not None else load_library(kind)
    spec, record = find_engines(bundle, precision, fingerprint_here(trt, kind, device))
    memory = DeviceMemory(cuda, integrated=device.integrated)
    return EngineSet(trt, bundle, spec, record, memory, options)


def _new_runtime(trt: Any, logger: Any, record: EngineRecord, options: EngineRunOptions) -> Any:
    runtime = trt.Runtime(logger)
    if record.fingerprint.version_compatible:
        if not options.trust_host_code:
            raise UsageError(
                f"{record.fingerprint.name} engines contain code that runs on the CPU",
                "build them here without --version-compatible, or load them with trust_host_code=True",
            )
        runtime.engine_host_code_allowed = True
    if record.dla_core is not None:
        runtime.DLA_core = record.dla_core
    return runtime


def fingerprint_here(trt: Any, kind: str, device: Device) -> Fingerprint:
    """Return the fingerprint that an engine needs to run here."""
    return Fingerprint(
        kind=kind,
        library=trt.__version__,
        compute=(device.compute,),
        driver=device.driver,
        jetpack=jetpack_release(),
    )


def engine_from_plan(trt: Any, runtime: Any, plan: bytes, name: str, logger: Any, hint: str) -> Any:
    """Return the engine in the plan's bytes.

    Raises IntegrityError or DeviceMismatchError, with the `hint`, when the library refuses it, and
    BackendMissingError when it cannot use the GPU.
    """
    if not plan:
        raise IntegrityError(f"{name}: the plan is empty", hint)
    refuse_invalid_plan(trt, runtime, plan, name, logger, hint)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        problem = last_error(logger)
        if "version" in problem.lower():
            raise DeviceMismatchError(f"{name}: {problem}", hint)
        raise IntegrityError(f"{name}: TensorRT cannot read the plan: {problem}", hint)
    return engine


def refuse_invalid_plan(trt: Any, runtime: Any, plan: bytes, name: str, logger: Any, hint: str) -> None:
    """Raise an error for a plan that TensorRT-RTX calls invalid; the check uses no GPU."""
    if not has_api(trt, "EngineInvalidityDiagnostics.MALFORMED_ENGINE"):
        return
    validity, bits = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return
    known = trt.EngineInvalidityDiagnostics.__members__.items()
    found = [problem for problem, member in known if int(bits) & int(member)]
    if not found and "cuda" in (said := last_message(logger)).lower():
        raise BackendMissingError(f"{name}: TensorRT-RTX cannot use the GPU: {said}", "check `nvidia-smi`")
    message = f"{name}: TensorRT-RTX refuses the plan: {', '.join(found) or 'unreadable'}"
    if not found or "MALFORMED_ENGINE" in found:
        raise IntegrityError(message, hint)
    if "INSUFFICIENT_GPU_MEMORY" in found:
        raise TextualVisionError(message, "close other programs that use the GPU")
    if "UNSUPPORTED_CC" in found:  # seen on Hopper, whose compute capability is 9.0
        hint = (
            f"built for other GPUs, or RTX knows none like this one: use TensorRT or onnxruntime-cuda; {hint}"
        )
    raise DeviceMismatchError(message, hint)
