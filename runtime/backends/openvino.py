"""OpenVINO on the CPU, in the precision of the graph; `openvino-bf16` computes float32 graphs in bfloat16."""

from __future__ import annotations

import functools
import io
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import openvino
from openvino import frontend

from textual_vision.runtime.backends.openvino_int8 import computed_in_float, overflows, quantizes
from textual_vision.runtime.backends.openvino_rewrites import (
    fuse_depth_to_space,
    has_as_many_heads_as_tokens,
    move_topk_axis,
)
from textual_vision.runtime.backends.session import (
    FAILED_HINT,
    Array,
    SessionOptions,
    backend_by_name,
    lines_of,
)
from textual_vision.runtime.errors import BackendMissingError, IntegrityError, TextualVisionError

DEVICE = "CPU"
# Without the hint, CPUs with bfloat16 or float16 arithmetic compute float32 graphs in that.
PRECISIONS = {"openvino": "f32", "openvino-bf16": "bf16"}
OPENVINO_ERRORS = (
    RuntimeError,
    UnicodeDecodeError,
    frontend.GeneralFailure,
    frontend.InitializationFailure,
    frontend.NotImplementedFailure,
    frontend.OpConversionFailure,
    frontend.OpValidationFailure,
)

WITHOUT_FUSED_ATTENTION = {"SNIPPETS_MODE": "DISABLE"}  # an internal option of the CPU plugin
FIXED_LIMIT = 4  # batch sizes that stay compiled; the least recently used is dropped


class OpenVinoSession:
    """One graph. If only its batch is dynamic, it is compiled for each batch size, which runs a sixth faster.

    The compilation depends only on the sizes of a run, never on earlier runs: another compilation rounds
    differently, and a near tie may change.

    Concurrent threads wait for each other.
    """

    largest_batch: int | None = None
    providers = (DEVICE,)

    def __init__(
        self,
        core: openvino.Core,
        model: openvino.Model,
        settings: Mapping[str, object],
        name: str,
        declared: Iterable[str],
    ) -> None:
        """`declared` are the graph's inputs; `model` lacks those that no operator reads."""
        self._core, self._model, self._settings, self._name = core, model, dict(settings), name
        self._lock = threading.Lock()
        # After compilation, a port also has the names of equal tensors; before it, only its own.
        self._names = [port.get_any_name() for port in (*model.inputs, *model.outputs)]
        count = len(model.inputs)
        self._read = self._names[:count]
        self.inputs = frozenset(declared)
        self.outputs = frozenset(self._names[count:])
        self._fixed: OrderedDict[int, _FixedSizes] = OrderedDict()
        self._request: openvino.InferRequest | None = None
        if only_batch_is_dynamic(model):
            self._fixed_for(1)
        else:
            compiled = _compiled(core, model, self._settings)
            self._request = compiled.create_infer_request()
            self._outputs = list(zip(compiled.outputs, self._names[count:], strict=True))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; raises TextualVisionError when OpenVINO fails."""
        try:
            with self._lock:
                if self._request is None:
                    return self._fixed_for(max(len(value) for value in inputs.values())).run(inputs)
                results = self._request.infer({input_name: inputs[input_name] for input_name in self._read})
                return {name: results[output].copy() for output, name in self._outputs}
        except OPENVINO_ERRORS as error:
            message = f"{self._name}: OpenVINO failed: {lines_of(error)[-1]}"
            raise TextualVisionError(message, FAILED_HINT) from None

    def _fixed_for(self, batch: int) -> _FixedSizes:
        """Return the graph compiled for `batch`, which the first call compiles."""
        if batch not in self._fixed:
            model = with_batch_size(self._model, batch)
            compiled = _compiled(self._core, model, self._settings)
            self._fixed[batch] = _FixedSizes(compiled, self._names)
            if len(self._fixed) > FIXED_LIMIT:
                self._fixed.popitem(last=False)
        self._fixed.move_to_end(batch)
        return self._fixed[batch]


def _compiled(
    core: openvino.Core, model: openvino.Model, settings: Mapping[str, object]
) -> openvino.CompiledModel:
    if has_as_many_heads_as_tokens(model):
        settings = {**settings, **WITHOUT_FUSED_ATTENTION}
    return core.compile_model(model, DEVICE, settings)


def only_batch_is_dynamic(model: openvino.Model) -> bool:
    """Return whether the first dimension of every input determines all sizes."""
    shapes = [port.partial_shape for port in model.inputs]
    if any(shape.rank.is_dynamic or len(shape) == 0 for shape in shapes):
        return False
    if any(shape[0].is_static or any(n.is_dynamic for n in list(shape)[1:]) for shape in shapes):
        return False
    # An output's size may depend on values.
    return not any(output.partial_shape.is_dynamic for output in with_batch_size(model, 1).outputs)


def with_batch_size(model: openvino.Model, batch: int) -> openvino.Model:
    """A copy for one batch size."""
    copy = model.clone()
    copy.reshape({port.get_any_name(): [batch, *list(port.partial_shape)[1:]] for port in model.inputs})
    return copy


class _FixedSizes:
    """A graph compiled for one set of sizes; its inputs and outputs keep their places in memory."""

    def __init__(self, compiled: openvino.CompiledModel, names: Sequence[str]) -> None:
        """`names` of the inputs, then of the outputs."""
        self._request = compiled.create_infer_request()
        ports = (*compiled.inputs, *compiled.outputs)
        places = [
            (name, self._request.get_tensor(port).data) for name, port in zip(names, ports, strict=True)
        ]
        count = len(compiled.inputs)
        self._inputs, self._outputs = dict(places[:count]), dict(places[count:])

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; raises RuntimeError for inputs of other shapes or types."""
        for name, place in self._inputs.items():
            value = inputs.get(name)
            if value is None or (value.dtype, value.shape) != (place.dtype, place.shape):
                given = "nothing" if value is None else f"{value.dtype} {value.shape}"
                raise RuntimeError(f"input {name!r} is {place.dtype} {place.shape}, was given {given}")
            place[...] = value
        self._request.infer(share_outputs=True)
        return {name: place.copy() for name, place in self._outputs.items()}


_STARTING = threading.Lock()


def _core() -> openvino.Core:
    """OpenVINO, started once.

    Its bindings first use numpy under a lock that they take in the other order than Python's: two threads
    that do so at a time would wait for each other.
    """
    with _STARTING:
        return _started()


@functools.cache
def _started() -> openvino.Core:
    """Return the core of the process, which is never unloaded.

    On CPUs with AMX, its plugin sets the thread's signal stack. A second plugin sets another one. After both
    are unloaded, the thread keeps a freed stack, and the next signal crashes the process.
    """
    _ = openvino.opset13.constant([0]).data
    return openvino.Core()


@functools.cache
def _overflows(precision: str) -> bool:
    return overflows(_core(), DEVICE, precision)


def _read(graph: bytes) -> tuple[openvino.Model, list[str]]:
    """The graph as OpenVINO's own, and the names of all inputs: OpenVINO drops those that nothing reads.

    It is read as ONNX: `Core.read_model` would try other formats first.
    """
    front_end = frontend.FrontEndManager().load_by_framework("onnx")
    found = front_end.load(io.BytesIO(graph))
    declared = [place.get_names()[0] for place in found.get_inputs()]
    return front_end.convert(found), declared


def open_session(graph: bytes, options: SessionOptions) -> OpenVinoSession:
    """Compile `graph`; see `session.open_session`."""
    precision = PRECISIONS[options.backend]
    settings: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        # Otherwise OpenVINO also quantizes the inputs of int8 weights, which no graph asks for.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    core = _core()
    if precision == "bf16" and "BF16" not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        raise BackendMissingError(
            "this CPU does not compute in bfloat16", backend_by_name(options.backend).install
        )
    try:
        model, declared = _read(graph)
        move_topk_axis(model)
        fuse_depth_to_space(model)
        if quantizes(model) and _overflows(precision):
            settings |= computed_in_float(model)
        return OpenVinoSession(core, model, settings, options.name, declared)
    except OPENVINO_ERRORS as error:
        problem = f"{options.name}: OpenVINO cannot load it: {lines_of(error)[-1]}"
        raise IntegrityError(problem, "export it again, or use another --backend") from None
