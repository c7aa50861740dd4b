"""A graph's inputs and outputs get the names of the stage's spec, whatever the exporter called other values.

The exporter names values after operators and parameters ("embedding", "mul", "embedding.weight"). An output
of that name would be given twice, so graphs are exported with the exporter's own names and renamed here.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import StageSpec


def name_tensors(model: ir.Model, spec: StageSpec) -> None:
    """Renames the graph's inputs and outputs in place, and other values that have one of these names.

    An output that is an input, a constant or another output too gets an Identity of its own. Raises
    UsageError when the graph does not have the spec's number of inputs and outputs.
    """
    graph = model.graph
    _check_count(spec, len(graph.inputs), len(graph.outputs))
    _separate_outputs(graph)
    names = [one.name for one in (*spec.inputs, *spec.outputs)]
    outer = [*graph.inputs, *graph.outputs]
    taken = {value.name for value in _values(graph)} | set(names)
    for value in _values(graph):
        if value.name in names or any(value is one for one in outer):
            value.name = _fresh_name(str(value.name), taken)
    for value, name in zip(outer, names, strict=True):
        value.name = name


def _check_count(spec: StageSpec, inputs: int, outputs: int) -> None:
    if (inputs, outputs) != (len(spec.inputs), len(spec.outputs)):
        problem = (
            f"stage {spec.name!r}: its graph has {inputs} inputs and {outputs} outputs, "
            f"the spec {len(spec.inputs)} and {len(spec.outputs)}"
        )
        raise UsageError(problem, "a graph keeps no state: forward must not assign to buffers or parameters")


def _separate_outputs(graph: ir.Graph) -> None:
    """Every output is given by a node, and by no other output."""
    seen: set[int] = set()
    for index, value in enumerate(graph.outputs):
        if value.producer() is None or id(value) in seen:
            copy = ir.node("Identity", [value])
            copy.outputs[0].name = f"{value.name}.copy"
            copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
            graph.append(copy)
            graph.outputs[index] = copy.outputs[0]
        seen.add(id(graph.outputs[index]))


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every named value of the graph and of the graphs inside it."""
    yield from graph.inputs
    yield from tuple(graph.initializers.values())
    for node in graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from attribute.as_graph().inputs
                yield from tuple(attribute.as_graph().initializers.values())
        yield from node.outputs


def _fresh_name(name: str, taken: set[str | None]) -> str:
    """A name that no value has; takes it."""
    count = 1
    while (fresh := f"{name}.{count}") in taken:
        count += 1
    taken.add(fresh)
    return fresh
