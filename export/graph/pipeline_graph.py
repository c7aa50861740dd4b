"""All stages as one graph, for apps that want one session: prompt and noise in, picture and codes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir

from textual_vision.export.graph.cleanup import tidy
from textual_vision.export.results import MERGED
from textual_vision.runtime.manifest import StageSpec, TensorSpec

OUTPUTS = ("image", "codes")


def merged_spec(stages: Sequence[StageSpec]) -> StageSpec:
    """The merged graph's inputs (those that no stage gives) and outputs."""
    given = {tensor.name: tensor for stage in stages for tensor in stage.outputs}
    inputs: dict[str, TensorSpec] = {}
    for stage in stages:
        inputs.update({t.name: t for t in stage.inputs if t.name not in given})
    outputs = tuple(given[name] for name in OUTPUTS if name in given)
    return StageSpec(name=MERGED, inputs=tuple(inputs.values()), outputs=outputs)


def merged_from_stages(stages: Sequence[StageSpec], graphs: Mapping[str, bytes]) -> bytes:
    """One serialized graph of the stages', each feeding the next; what two compute alike is kept once."""
    spec = merged_spec(stages)
    models = [ir.from_proto(onnx.load_from_string(graphs[stage.name])) for stage in stages]
    graph = ir.Graph([], [], nodes=[], name=MERGED, opset_imports=dict(models[0].graph.opset_imports))
    known: dict[str, ir.Value] = {}
    for stage, model in zip(stages, models, strict=True):
        _append(graph, stage, model.graph, known)
    graph.inputs.extend(known[tensor.name] for tensor in spec.inputs)
    graph.outputs.extend(known[tensor.name] for tensor in spec.outputs)
    merged = ir.Model(graph, ir_version=models[0].ir_version)
    tidy(merged)
    _separate_zero_points(merged)
    data: bytes = ir.to_proto(merged).SerializeToString()
    return data


def _separate_zero_points(model: ir.Model) -> None:
    """Give each quantized weight a zero point of its own again.

    ONNX Runtime on x86 turns weights and their zero points to uint8. It refuses to do so twice for one
    constant, and the whole graph would compute in float.
    """
    seen: set[str] = set()
    for node in model.graph:
        if node.op_type != "DequantizeLinear" or len(node.inputs) < 3:
            continue
        weight, zero = node.inputs[0], node.inputs[2]
        if weight is None or zero is None or zero.name is None or not weight.is_initializer():
            continue
        if zero.name in seen and zero.const_value is not None:
            name = f"{weight.name}.zero_point.own"
            copied = ir.Value(name=name, shape=zero.shape, type=zero.type, const_value=zero.const_value)
            model.graph.register_initializer(copied)
            node.replace_input_with(2, copied)
        seen.add(zero.name)


def _append(graph: ir.Graph, stage: StageSpec, part: ir.Graph, known: dict[str, ir.Value]) -> None:
    """Moves the nodes and constants of `part` to the end of `graph`, its inputs taken from `known`."""
    inputs, outputs = list(part.inputs), list(part.outputs)
    part.inputs.clear()
    part.outputs.clear()
    for value in inputs:
        assert value.name is not None
        if value.name in known:
            value.replace_all_uses_with(known[value.name])
        else:
            known[value.name] = value
    constants = list(part.initializers.values())
    part.initializers.clear()
    nodes = list(part)
    part.remove(nodes)
    for value in constants:
        value.name = f"{stage.name}.{value.name}"
        graph.register_initializer(value)
    for node in nodes:
        node.name = f"{stage.name}.{node.name}"
        for output in node.outputs:
            if output not in outputs:
                output.name = f"{stage.name}.{output.name}"
    graph.extend(nodes)
    known.update({value.name: value for value in outputs if value.name is not None})
