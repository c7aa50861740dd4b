"""TensorRT and TensorRT-RTX: the engines of a bundle that were built for this very device.

The driver is probed first: the library ends the process when it is used without one. Then the fingerprint
of what is here is compared with each engine's; nothing is built and nothing else is run in its place.
"""

from __future__ import annotations

from typing import Any

from textual_vision.runtime.backends.cuda_buffers import DeviceMemory
from textual_vision.runtime.backends.cudart import CudaRuntime, Device, load_cudart, probe
from textual_vision.runtime.backends.engine_session import EngineSession, scratch_bytes
from textual_vision.runtime.backends.tensorrt_api import last_error, load_library, new_logger, offers
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.engines import EngineRecord, Fingerprint, find_engines, jetpack_release
from textual_vision.runtime.errors import DeviceMismatchError, IntegrityError, TextualVisionError
from textual_vision.runtime.manifest import EngineSpec

REBUILD_HINT = "build the engines again: tv-export engine BUNDLE --rebuild"


class EngineSet:
    """The sessions of all stages, with the memory that they share."""

    def __init__(
        self, trt: Any, bundle: Bundle, spec: EngineSpec, memory: DeviceMemory, *, cuda_graph: bool = False
    ) -> None:
        """Load every plan of `spec`; on an error everything taken so far is given back."""
        self._memory, self._logger = memory, new_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self.sessions: dict[str, EngineSession] = {}
        try:
            engines = {
                name: engine_from_plan(trt, self._runtime, bundle.read(file), file, self._logger)
                for name, file in spec.files.items()
            }
            for stage in bundle.manifest.stages:
                self.sessions[stage.name] = EngineSession(
                    trt, engines[stage.name], stage, memory, self._logger, cuda_graph=cuda_graph
                )
            self._share_scratch(max(scratch_bytes(trt, engines[name]) for name in self.sessions))
        except BaseException:
            self.close()
            raise

    def _share_scratch(self, size: int) -> None:
        if size:
            address = self._memory.block(size)
            for session in self.sessions.values():
                session.use_scratch(address, size)

    def close(self) -> None:
        """Give back contexts and engines, then the library's runtime, then memory and stream."""
        for session in self.sessions.values():
            session.close()
        self._runtime = None
        self._memory.close()


def open_engines(
    bundle: Bundle, precision: str, kind: str, *, cuda_graph: bool = False, cuda: CudaRuntime | None = None
) -> EngineSet:
    """The engines of `precision` that fit this device, ready to run; `kind` is tensorrt or tensorrt-rtx.

    Raises BackendMissingError (no library, driver or GPU), DeviceMismatchError (no engine for this device),
    IntegrityError (a damaged plan, or one that came from other graphs) and TextualVisionError (no memory).
    """
    cuda = cuda if cuda is not None else load_cudart()
    device = probe(cuda)
    trt = load_library(kind)
    spec, _ = fitting_engines(trt, bundle, precision, kind, device)
    memory = DeviceMemory(cuda, integrated=device.integrated)
    return EngineSet(trt, bundle, spec, memory, cuda_graph=cuda_graph)


def fitting_engines(
    trt: Any, bundle: Bundle, precision: str, kind: str, device: Device
) -> tuple[EngineSpec, EngineRecord]:
    """The bundle's engines for `device` and the loaded library; see `engines.find_engines`."""
    return find_engines(bundle, precision, fingerprint_here(trt, kind, device))


def fingerprint_here(trt: Any, kind: str, device: Device) -> Fingerprint:
    """What an engine must have been built for to run here."""
    return Fingerprint(
        kind=kind,
        library=trt.__version__,
        compute=(device.compute,),
        driver=device.driver,
        jetpack=jetpack_release(),
    )


def engine_from_plan(trt: Any, runtime: Any, plan: bytes, name: str, logger: Any) -> Any:
    """The engine in the plan's bytes; IntegrityError or DeviceMismatchError when the library refuses it."""
    if offers(trt, "Runtime.get_engine_validity"):
        refuse_invalid_plan(trt, runtime, plan, name)
    if not plan:
        raise IntegrityError(f"{name}: an empty plan", REBUILD_HINT)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        problem = last_error(logger)
        if "version" in problem.lower():
            raise DeviceMismatchError(f"{name}: {problem}", REBUILD_HINT)
        raise IntegrityError(f"{name}: TensorRT cannot read the plan: {problem}", REBUILD_HINT)
    return engine


def refuse_invalid_plan(trt: Any, runtime: Any, plan: bytes, name: str) -> None:
    """Ask TensorRT-RTX about a plan before loading it: it says what is wrong without touching the GPU."""
    if not offers(trt, "EngineInvalidityDiagnostics.MALFORMED_ENGINE"):
        return
    validity, bits = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return
    found = _diagnostics(trt, int(bits))
    message = f"{name}: TensorRT-RTX refuses the plan: {', '.join(found) or 'unreadable'}"
    if not found or "MALFORMED_ENGINE" in found:
        raise IntegrityError(message, REBUILD_HINT)
    if "INSUFFICIENT_GPU_MEMORY" in found:
        raise TextualVisionError(message, "close other programs that use the GPU")
    raise DeviceMismatchError(message, REBUILD_HINT)


def _diagnostics(trt: Any, bits: int) -> list[str]:
    members = trt.EngineInvalidityDiagnostics.__members__.items()
    return [name for name, member in members if bits & int(member)]
