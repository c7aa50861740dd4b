"""One stage on TensorRT: named tensors, memory taken once at the profile's maximum, one stream, no torch.

A run copies its inputs into page-locked memory, queues copy, engine and copy on the stream and waits once.
With `cuda_graph` the engine's launches are recorded for each set of shapes and replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import byref, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.backends.session import Array
from textual_vision.runtime.backends.tensorrt.api import has_api, last_error
from textual_vision.runtime.backends.tensorrt.cuda_buffers import Buffer, DeviceMemory
from textual_vision.runtime.backends.tensorrt.cudart import CAPTURE_THREAD_LOCAL
from textual_vision.runtime.errors import BackendMissingError, IntegrityError, TextualVisionError, UsageError
from textual_vision.runtime.manifest import StageSpec

NUMPY_TYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT64": np.int64,
    "INT32": np.int32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
GRAPH_LIMIT = 8  # recorded sets of shapes; the least recent is dropped
INT32 = np.iinfo(np.int32)

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EngineTensor:
    """One input or output: its type in the engine, the type that callers see, its place and its shapes.

    `smallest` and `largest` are the profile's shapes of an input; an output has neither.
    """

    dtype: npt.DTypeLike
    declared_dtype: npt.DTypeLike
    buffer: Buffer
    smallest: Shape
    largest: Shape


class EngineSession:
    """One stage's engine with its own execution context; the memory is shared with the other stages."""

    def __init__(
        self, trt: Any, engine: Any, stage: StageSpec, memory: DeviceMemory, logger: Any, *, cuda_graph: bool
    ) -> None:
        """Check the tensors against the manifest's and take their memory.

        Raises IntegrityError when they differ, TextualVisionError when memory is short.
        """
        self._trt, self._engine, self._memory, self._logger = trt, engine, memory, logger
        self._name = stage.name
        self._cuda_graph, self._graphs = cuda_graph, dict[tuple[Shape, ...], int]()
        self._context = new_context(trt, engine)
        if self._context is None:
            raise TextualVisionError(f"{stage.name}: no execution context: {last_error(logger)}")
        self._names = self._checked_names(stage)
        self._inputs, self._outputs = self._tensors(stage)
        for name, tensor in (self._inputs | self._outputs).items():
            self._require(self._context.set_tensor_address(name, tensor.buffer.device), f"address of {name}")

    @property
    def inputs(self) -> frozenset[str]:
        """The names of the tensors that `run` takes."""
        return frozenset(self._inputs)

    @property
    def outputs(self) -> frozenset[str]:
        """The names of the tensors that `run` gives."""
        return frozenset(self._outputs)

    @property
    def largest_batch(self) -> int | None:
        """The most rows that the engine was built for."""
        return min((tensor.largest[0] for tensor in self._inputs.values() if tensor.largest), default=None)

    def use_scratch(self, address: int, size: int) -> None:
        """Let the engine compute in the `size` bytes at `address`, which other stages use in their turn."""
        if has_api(self._trt, "IExecutionContext.set_device_memory"):
            self._context.set_device_memory(address, size)
        else:
            self._context.device_memory = address

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name, in fresh arrays.

        Raises UsageError when a shape is outside the engine's profile, a value does not fit its type, an
        input is missing or the engines were closed, and TextualVisionError when the engine fails.
        """
        if self._context is None:
            raise UsageError(f"{self._name}: its engines were closed", "open them again")
        shapes = tuple(self._bind(name, inputs) for name in self._inputs)
        results = {name: self._result(name) for name in self._outputs}
        self._launch(shapes)
        for name, (_, size) in results.items():
            self._memory.download(self._outputs[name].buffer, size)
        self._memory.synchronize()
        return {name: self._read(name, shape, size) for name, (shape, size) in results.items()}

    def _bind(self, name: str, inputs: Mapping[str, Array]) -> Shape:
        tensor = self._inputs[name]
        if name not in inputs:
            raise UsageError(f"{self._name}: input {name!r} is missing", f"give {', '.join(self._inputs)}")
        value = _in_engine_type(inputs[name], tensor, f"{self._name}: input {name!r}")
        _check_profile(value.shape, tensor, f"{self._name}: input {name!r}")
        self._require(self._context.set_input_shape(name, value.shape), f"shape {value.shape} of {name}")
        tensor.buffer.host[: value.nbytes].view(value.dtype)[:] = value.reshape(-1)
        self._memory.upload(tensor.buffer, value.nbytes)
        return value.shape

    def _result(self, name: str) -> tuple[Shape, int]:
        shape = tuple(self._context.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            raise TextualVisionError(f"{self._name}: the shape of {name!r} depends on values: {shape}")
        size = int(np.prod(shape)) * np.dtype(self._outputs[name].dtype).itemsize
        if size > len(self._outputs[name].buffer.host):
            raise TextualVisionError(
                f"{self._name}: {name!r} needs {size} bytes, more than the profile's most"
            )
        return shape, size

    def _read(self, name: str, shape: Shape, size: int) -> Array:
        tensor = self._outputs[name]
        array = tensor.buffer.host[:size].view(tensor.dtype).reshape(shape)
        return array.astype(tensor.declared_dtype, copy=True)

    def _launch(self, shapes: tuple[Shape, ...]) -> None:
        if not self._cuda_graph:
            self._execute()
            return
        if shapes not in self._graphs:
            self._execute()  # allocates what it needs for these shapes, which must not happen while recording
            if self._can_record():
                self._record(shapes)
            return
        self._memory.cuda.call("cudaGraphLaunch", self._graphs[shapes], self._memory.stream)

    def _execute(self) -> None:
        self._require(self._context.execute_async_v3(self._memory.stream), "execution")

    def _can_record(self) -> bool:
        """TensorRT-RTX may still be compiling kernels for these shapes; then a later run is recorded."""
        if has_api(self._trt, "IExecutionContext.is_stream_capturable"):
            return bool(self._context.is_stream_capturable(self._memory.stream))
        return True

    def _record(self, shapes: tuple[Shape, ...]) -> None:
        cuda, stream = self._memory.cuda, self._memory.stream
        self._memory.synchronize()
        if len(self._graphs) >= GRAPH_LIMIT:
            cuda.call("cudaGraphExecDestroy", self._graphs.pop(next(iter(self._graphs))))
        graph, executable = c_void_p(), c_void_p()
        cuda.call("cudaStreamBeginCapture", stream, CAPTURE_THREAD_LOCAL)
        recorded = self._context.execute_async_v3(stream)
        cuda.call("cudaStreamEndCapture", stream, byref(graph))
        try:
            self._require(recorded, "recording a CUDA graph")
            cuda.call("cudaGraphInstantiateWithFlags", byref(executable), graph, 0)
        finally:
            cuda.code("cudaGraphDestroy", graph)
        self._graphs[shapes] = executable.value or 0

    def close(self) -> None:
        """Give back the recorded graphs, the context and the engine; the memory belongs to others."""
        while self._graphs:
            _, executable = self._graphs.popitem()
            self._memory.cuda.code("cudaGraphExecDestroy", executable)
        self._context = self._engine = None

    def _checked_names(self, stage: StageSpec) -> list[str]:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        declared = {spec.name for spec in (*stage.inputs, *stage.outputs)}
        if set(names) != declared:
            problem = f"{stage.name}: the engine has {sorted(names)}, the manifest says {sorted(declared)}"
            raise IntegrityError(problem, "build the engines again")
        return names

    def _tensors(self, stage: StageSpec) -> tuple[dict[str, EngineTensor], dict[str, EngineTensor]]:
        declared = {spec.name: np.dtype(spec.dtype) for spec in (*stage.inputs, *stage.outputs)}
        inputs: dict[str, EngineTensor] = {}
        outputs: dict[str, EngineTensor] = {}
        takes = [name for name in self._names if self._is_input(name)]
        for name in takes:
            smallest, _, largest = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, 0))
            dtype = self._dtype(name)
            size = int(np.prod(largest)) * dtype.itemsize
            inputs[name] = EngineTensor(
                dtype=dtype,
                declared_dtype=declared[name],
                buffer=self._memory.buffer(size),
                smallest=smallest,
                largest=largest,
            )
            self._require(self._context.set_input_shape(name, largest), f"largest shape of {name}")
        for name in self._names:
            if name not in inputs:
                size = int(self._context.get_max_output_size(name))
                if size < 0:
                    raise TextualVisionError(f"{stage.name}: the size of {name!r} has no bound")
                outputs[name] = EngineTensor(
                    dtype=self._dtype(name),
                    declared_dtype=declared[name],
                    buffer=self._memory.buffer(size),
                    smallest=(),
                    largest=(),
                )
        return inputs, outputs

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def _dtype(self, name: str) -> np.dtype[Any]:
        found = self._engine.get_tensor_dtype(name).name
        if found not in NUMPY_TYPES:
            raise IntegrityError(f"{self._name}: {name!r} is {found}", "build the engines again")
        return np.dtype(NUMPY_TYPES[found])

    def _require(self, done: object, doing: str) -> None:
        if not done:
            raise TextualVisionError(f"{self._name}: TensorRT refused {doing}: {last_error(self._logger)}")


def new_context(trt: Any, engine: Any) -> Any:
    """A context without memory of its own, so that stages can share one block."""
    if has_api(trt, "ExecutionContextAllocationStrategy.USER_MANAGED"):
        return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if has_api(trt, "ICudaEngine.create_execution_context_without_device_memory"):
        return engine.create_execution_context_without_device_memory()
    return engine.create_execution_context()


def scratch_bytes(trt: Any, engine: Any) -> int:
    """How much memory `engine` computes in, beside its tensors and weights."""
    if has_api(trt, "ICudaEngine.device_memory_size_v2"):
        return int(engine.device_memory_size_v2)
    if has_api(trt, "ICudaEngine.device_memory_size"):
        return int(engine.device_memory_size)
    raise BackendMissingError(f"TensorRT {trt.__version__} is not known here", "install TensorRT 8.6 to 11")


def _in_engine_type(value: Array, tensor: EngineTensor, where: str) -> Array:
    """`value` as the engine wants it: TensorRT 8.6 has no int64 and takes int32 instead."""
    given, wanted = np.asarray(value), np.dtype(tensor.dtype)
    if given.dtype == wanted:
        return np.ascontiguousarray(given)
    if given.dtype != np.dtype(tensor.declared_dtype) or (given.dtype, wanted) != (
        np.dtype(np.int64),
        np.dtype(np.int32),
    ):
        raise UsageError(f"{where}: is {given.dtype}, expected {np.dtype(tensor.declared_dtype)}")
    if given.size and (given.min() < INT32.min or given.max() > INT32.max):
        raise UsageError(f"{where}: a value does not fit 32 bits, and this TensorRT has no int64")
    return np.ascontiguousarray(given, dtype=wanted)


def _check_profile(shape: Shape, tensor: EngineTensor, where: str) -> None:
    low, high = tensor.smallest, tensor.largest
    fits = len(shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
    if not fits:
        raise UsageError(
            f"{where}: shape {shape}, the engine was built for {low} to {high}",
            "stay within it, or build again: tv-export engine … --batch-profile MIN,OPT,MAX --rebuild",
        )
