"""Record the launches of ONNX Runtime on a GPU as a CUDA graph for each set of shapes, and replay it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime

from textual_vision.runtime.backends.session import Array

DEVICE = "cuda"
GRAPH_LIMIT = 8  # recorded sets of shapes, which ONNX Runtime keeps on the GPU as long as the session lives
UNRECORDED = -1

P = ParamSpec("P")
T = TypeVar("T")
# Name, shape and type of each tensor, in order of the names (inputs) or of the session (outputs).
InputShapes = tuple[tuple[str, tuple[int, ...], str], ...]
OutputShapes = list[tuple[str, tuple[int, ...], npt.DTypeLike]]

# ONNX Runtime records separately for each thread and keeps the recordings until the session ends. During a
# recording, no other thread may use CUDA. Therefore one thread runs everything.
_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnxruntime-cuda")


def in_cuda_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Return or raise the result of `function` in the one thread of this process that uses CUDA."""
    return _THREAD.submit(function, *arguments, **named).result()


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The recording of one set of shapes, which reads `inputs` and writes `outputs`."""

    options: onnxruntime.RunOptions
    binding: onnxruntime.IOBinding
    inputs: Mapping[str, onnxruntime.OrtValue]
    outputs: Mapping[str, onnxruntime.OrtValue]


class CudaGraphs:
    """Runs a session that was opened with `enable_cuda_graph`, for one thread at a time.

    The first run with a set of shapes is not recorded, because it determines the outputs' shapes. The second
    run is recorded, for up to `GRAPH_LIMIT` sets; other sets run without a recording, with the same results.
    No shape in the graph may depend on the inputs' values, because a replay would not notice.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._unrecorded = _options(UNRECORDED)
        # No number is used twice: ONNX Runtime would replay the first recording, whose buffers are freed.
        self._ids = itertools.count(1)
        self._seen: dict[InputShapes, OutputShapes] = {}
        self._recordings: dict[InputShapes, Recording] = {}

    def run(self, names: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """Return the outputs called `names`, always all of them, in new arrays.

        Raises what `InferenceSession.run` does, and RuntimeError when recording or replaying fails.
        """
        values = dict(sorted(inputs.items()))
        shapes = tuple((name, value.shape, value.dtype.str) for name, value in values.items())
        if shapes in self._recordings:
            return self._replay(self._recordings[shapes], values)
        if shapes in self._seen and len(self._recordings) < GRAPH_LIMIT:
            recording = self._new_recording(values, self._seen.pop(shapes))
            recorded = self._replay(recording, values)  # ONNX Runtime records during this run
            self._recordings[shapes] = recording
            return recorded
        results: list[Array] = self._session.run(names, values, self._unrecorded)
        if len(self._recordings) < GRAPH_LIMIT:
            self._seen[shapes] = [
                (name, one.shape, one.dtype.type) for name, one in zip(names, results, strict=True)
            ]
        return results

    def _new_recording(self, values: Mapping[str, Array], outputs: OutputShapes) -> Recording:
        recording = Recording(
            options=_options(next(self._ids)),
            binding=self._session.io_binding(),
            inputs={name: _buffer(value.shape, value.dtype.type) for name, value in values.items()},
            outputs={name: _buffer(shape, dtype) for name, shape, dtype in outputs},
        )
        for name, buffer in recording.inputs.items():
            recording.binding.bind_ortvalue_input(name, buffer)
        for name, buffer in recording.outputs.items():
            recording.binding.bind_ortvalue_output(name, buffer)
        return recording

    def _replay(self, recording: Recording, values: Mapping[str, Array]) -> list[Array]:
        for name, buffer in recording.inputs.items():
            buffer.update_inplace(values[name])
        self._session.run_with_iobinding(recording.binding, recording.options)
        # On a CPU device, `numpy` returns the buffer itself.
        return [np.array(buffer.numpy()) for buffer in recording.outputs.values()]


def _options(graph_id: int) -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options


def _buffer(shape: tuple[int, ...], dtype: npt.DTypeLike) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, DEVICE, 0)
