"""OpenVINO on the CPU, in the precision that the graph says; lower only where bfloat16 is asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import openvino
from openvino import opset13

from textual_vision.runtime.backends.session import (
    FAILED_HINT,
    Array,
    SessionOptions,
    backend_by_name,
    lines_of,
)
from textual_vision.runtime.errors import BackendMissingError, IntegrityError, TextualVisionError

DEVICE = "CPU"
# Without the hint, CPUs with bfloat16 or half arithmetic would compute float32 graphs in that.
PRECISIONS = {"openvino": "f32", "openvino-bf16": "bf16"}
OPENVINO_ERRORS = (RuntimeError, UnicodeDecodeError)

# A graph compiled for fixed sizes runs a sixth faster, but compiling takes as long as some hundred runs save:
# so only for sizes that came this often, and only for so many sizes, the least recent dropped.
RUNS_BEFORE_FIXING, FIXED_LIMIT = 3, 4

LEAST_TURNED_RANK = 3  # below it the second axis is the last

Sizes = tuple[tuple[str, tuple[int, ...], str], ...]


class OpenVinoSession:
    """One graph: compiled for any sizes, and again for the sizes that it is often run with."""

    largest_batch: int | None = None

    def __init__(
        self, core: openvino.Core, model: openvino.Model, settings: Mapping[str, object], name: str
    ) -> None:
        self._core, self._model, self._settings, self._name = core, model, dict(settings), name
        compiled = core.compile_model(model, DEVICE, self._settings)
        self._request = compiled.create_infer_request()
        # Compiled, a port has the names of all tensors that were found to be the same; here it has its own.
        self._names = [port.get_any_name() for port in (*model.inputs, *model.outputs)]
        count = len(model.inputs)
        self._outputs = list(zip(compiled.outputs, self._names[count:], strict=True))
        self.inputs = frozenset(self._names[:count])
        self.outputs = frozenset(self._names[count:])
        self._runs: OrderedDict[Sizes, int] = OrderedDict()
        self._fixed: OrderedDict[Sizes, _FixedSizes] = OrderedDict()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name; TextualVisionError when OpenVINO cannot compute them."""
        sizes = tuple((name, value.shape, value.dtype.str) for name, value in inputs.items())
        try:
            fixed = self._fixed_for(sizes)
            if fixed is not None:
                return fixed.run(inputs)
            results = self._request.infer(dict(inputs))
        except OPENVINO_ERRORS as error:
            message = f"{self._name}: OpenVINO failed: {lines_of(error)[-1]}"
            raise TextualVisionError(message, FAILED_HINT) from None
        self._note(sizes)
        return {name: results[output].copy() for output, name in self._outputs}

    def _fixed_for(self, sizes: Sizes) -> _FixedSizes | None:
        """What is compiled for `sizes`, which is done here when they have come often enough."""
        if sizes not in self._fixed:
            if self._runs.get(sizes, 0) < RUNS_BEFORE_FIXING:
                return None
            model = self._model.clone()
            model.reshape({name: list(shape) for name, shape, _ in sizes})
            if any(output.partial_shape.is_dynamic for output in model.outputs):
                self._runs[sizes] = -1 << 62  # its outputs' sizes depend on values: never
                return None
            compiled = self._core.compile_model(model, DEVICE, self._settings)
            self._fixed[sizes] = _FixedSizes(compiled, self._names)
            if len(self._fixed) > FIXED_LIMIT:
                self._fixed.popitem(last=False)
        self._fixed.move_to_end(sizes)
        return self._fixed[sizes]

    def _note(self, sizes: Sizes) -> None:
        """Count a run; sizes that have not come for long are forgotten."""
        self._runs[sizes] = self._runs.pop(sizes, 0) + 1
        if len(self._runs) > 16 * FIXED_LIMIT:
            self._runs.popitem(last=False)


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
        """All outputs by name, for inputs of exactly these sizes and types."""
        for name, place in self._inputs.items():
            np.copyto(place, inputs[name], casting="no")
        self._request.infer(share_outputs=True)
        return {name: place.copy() for name, place in self._outputs.items()}


def open_session(graph: bytes, options: SessionOptions) -> OpenVinoSession:
    """Compile `graph`; see `session.open_session`."""
    precision = PRECISIONS[options.backend]
    settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        raise BackendMissingError(
            "this CPU does not compute in bfloat16", backend_by_name(options.backend).install
        )
    try:
        model = core.read_model(graph, b"")
        turn_choices(model)
        return OpenVinoSession(core, model, settings, options.name)
    except OPENVINO_ERRORS as error:
        problem = f"{options.name}: OpenVINO cannot load it: {lines_of(error)[-1]}"
        raise IntegrityError(problem, "export it again, or use another --backend") from None


def turn_choices(model: openvino.Model) -> int:
    """Choosing the best along the last axis takes OpenVINO thrice as long as along another one, so it is
    done along the second. Exact: the same values are compared in the same order. Returns how many changed.
    """
    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "TopK" and _along_last(node):
            _turn(node)
            count += 1
    model.validate_nodes_and_infer_types()
    return count


def _along_last(node: openvino.Node) -> bool:
    rank = node.input_value(0).get_partial_shape().rank
    if rank.is_dynamic or rank.get_length() < LEAST_TURNED_RANK:
        return False
    axis: int = node.get_axis()
    return axis in (-1, rank.get_length() - 1)


def _turn(node: openvino.Node) -> None:
    last = node.input_value(0).get_partial_shape().rank.get_length() - 1
    how = node.get_attributes()
    turned = opset13.transpose(node.input_value(0), np.array([0, last, *range(1, last)]))
    chosen = opset13.topk(
        turned,
        node.input_value(1),
        1,
        how["mode"],
        how["sort"],
        how["index_element_type"],
        stable=how["stable"],
    )
    for output, fresh in zip(node.outputs(), chosen.outputs(), strict=True):
        back = opset13.transpose(fresh, np.array([0, *range(2, last + 1), 1]))
        back.output(0).set_names(output.get_names())
        for target in output.get_target_inputs():
            target.replace_source_output(back.output(0))
