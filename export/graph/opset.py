"""Which opsets the tools on this machine write, and ONNX's own check of what they wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from textual_vision.export.graph.constants import fresh_name, initializer
from textual_vision.runtime.errors import UsageError

MIN_OPSET = 17  # LayerNormalization; TensorRT 8.6 reads no newer one
OPSET_OF_EXPORTER = 18  # what torch's exporter writes at first; it converts from there
OPSET_NEWEST_OF_TENSORRT_10 = 20

SHAPE_BOUNDS = {"start": 0, "end": np.iinfo(np.int64).max, "axes": 0}  # of a part of a shape: all of it


def opset_newest() -> int:
    """The newest opset that the installed ONNX library and torch's exporter both know."""
    from torch.onnx._constants import ONNX_MAX_OPSET

    return int(min(ONNX_MAX_OPSET, onnx.defs.onnx_opset_version()))


def check_opset(opset: int) -> None:
    """UsageError unless this machine's tools can write `opset`."""
    newest = opset_newest()
    if not MIN_OPSET <= opset <= newest:
        hint = (
            f"{OPSET_NEWEST_OF_TENSORRT_10} is the newest that TensorRT 10 reads, 17 that TensorRT 8.6 does"
        )
        raise UsageError(f"opset {opset}: the installed tools write {MIN_OPSET} to {newest}", hint)


def downgrade_to_17(model: ir.Model) -> None:
    """From opset 18 to 17, in place; the constants must be folded.

    Torch's exporter asks ONNX's converter for that, which gives up on several operators, and then leaves the
    graph as it was. Raises UsageError naming an operator that opset 17 has no word for.
    """
    for node in model.graph.all_nodes():
        if node.domain != "" or onnx.defs.get_schema(node.op_type, OPSET_OF_EXPORTER).since_version < 18:
            continue
        if not _fits_17(node):
            where = f"{node.op_type} {node.name!r}"
            raise UsageError(f"opset 17 cannot say {where}", "export with --opset 18 or newer")
    model.opset_imports[""] = MIN_OPSET


def _fits_17(node: ir.Node) -> bool:
    """Whether opset 17 knows this; said as it wants it, where it does."""
    if node.op_type == "Split":
        return node.attributes.pop("num_outputs", None) is None or _is_in_equal_parts(node)
    if node.op_type.startswith("Reduce"):
        return len(node.inputs) < 2 or _with_axes_as_attribute(node)
    if node.op_type == "Pad":
        return len(node.inputs) < 4 or _with_all_axes_padded(node)
    if node.op_type.startswith("Scatter"):
        return node.attributes.get_string("reduction", "none") in ("none", "add", "mul")
    if node.op_type == "Resize":
        every_axis = tuple(range(_rank(node.inputs[0])))
        defaults = {"antialias": 0, "keep_aspect_ratio_policy": "stretch", "axes": every_axis}
        return _without_defaults(node, defaults)
    if node.op_type == "LpPool":
        kernel = node.attributes.get_ints("kernel_shape", ())
        return _without_defaults(node, {"ceil_mode": 0, "dilations": (1,) * len(kernel)})
    return False


def _without_defaults(node: ir.Node, defaults: Mapping[str, object]) -> bool:
    """Drop the attributes that opset 17 lacks where they only repeat their defaults; whether that was all."""
    for name, default in defaults.items():
        attribute = node.attributes.get(name)
        if attribute is None:
            continue
        if attribute.value != default:
            return False
        del node.attributes[name]
    return True


def _rank(value: ir.Value | None) -> int:
    return 0 if value is None or value.shape is None else len(value.shape)


def _with_all_axes_padded(node: ir.Node) -> bool:
    """Write the pads of some axes as pads of all, where the axes, the pads and the rank are known."""
    source, pads, axes = node.inputs[0], node.inputs[1], node.inputs[3]
    if axes is None:
        node.resize_inputs(3)
        return True
    rank = _rank(source)
    if rank == 0 or pads is None:
        return False
    given, wanted = (ir.convenience.get_const_tensor(value) for value in (pads, axes))
    if given is None or wanted is None or node.graph is None or not isinstance(node.graph, ir.Graph):
        return False
    few = given.numpy().reshape(2, -1)
    whole = np.zeros((2, rank), np.int64)
    whole[:, [axis % rank for axis in wanted.numpy().tolist()]] = few
    name = fresh_name(node.graph, f"{node.outputs[0].name}_pads")
    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([2 * rank]))
    value.const_value = ir.tensor(whole.ravel(), name=name)
    node.graph.register_initializer(value)
    node.replace_input_with(1, value)
    node.resize_inputs(3)
    return True


def _is_in_equal_parts(node: ir.Node) -> bool:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    size = None if shape is None else shape[node.attributes.get_int("axis", 0)]
    return isinstance(size, int) and size % len(node.outputs) == 0


def _with_axes_as_attribute(node: ir.Node) -> bool:
    given = node.inputs[1]
    axes: Sequence[int] | None = None
    if given is not None and (constant := ir.convenience.get_const_tensor(given)) is not None:
        axes = np.atleast_1d(constant.numpy()).tolist()
    noop = node.attributes.get_int("noop_with_empty_axes", 0)
    if (given is not None and axes is None) or (noop and not axes):
        return False
    node.attributes.pop("noop_with_empty_axes", None)
    node.resize_inputs(1)
    if axes:
        node.attributes.add(ir.AttrInt64s("axes", axes))
    return True


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the model uses."""
    version: int = next(entry.version for entry in model.opset_import if entry.domain == "")
    return version


def expand_partial_shapes(model: ir.Model) -> None:
    """Shape of some axes as a part of all, in place: TensorRT 8.6.0 passes over `start` and `end`."""
    for node in list(model.graph):
        if node.op_type != "Shape" or not node.attributes:
            continue
        part = node.outputs[0]
        ends = {place: node.attributes.get_int(place, other) for place, other in SHAPE_BOUNDS.items()}
        bounds = [initializer(model, f"{part.name}_{place}", np.array([at])) for place, at in ends.items()]
        whole = ir.node("Shape", [node.inputs[0]], name=node.name)
        cut = ir.node("Slice", [whole.outputs[0], *bounds], name=f"{node.name}/Slice")
        whole.outputs[0].name = f"{part.name}_whole"
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [whole, cut], [part], cut.outputs)


def check(model: onnx.ModelProto | bytes) -> None:
    """ONNX's own checker, types and shapes included; a failure is our bug. It reads bytes in the end."""
    onnx.checker.check_model(model, full_check=True)
