"""A graph in float16 but for some of its nodes, with the casts between."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir as ir

from textual_vision.export.graph.cleanup import tidy

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
HALF_TYPE = "tensor(float16)"  # in the schema of an operator
# What these read decides shapes or is computed with in float32 by definition.
NEVER_HALF = frozenset({"QuantizeLinear", "DequantizeLinear", "Range", "Resize"})


def fp16_graph_from_float(graph: bytes, fp32_nodes: Collection[str]) -> bytes:
    """The serialized float32 `graph` in float16.

    Nodes named in `fp32_nodes` keep float32, as do the graph's inputs and outputs.
    """
    model = infer_types(onnx.load_from_string(graph))
    halves, read_inside = _Halves(model), _values_read_inside(model.graph)
    for node in list(model.graph):
        if node.name in fp32_nodes or not read_inside.isdisjoint(node.outputs):
            continue
        if _follows_inputs(node) and _may_be_half(node, model):
            halves.convert(node)
    halves.connect()
    tidy(model)
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def infer_types(model: onnx.ModelProto) -> ir.Model:
    """The graph with the type of every value: what a rewrite made may come without."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def is_float32(value: ir.Value) -> bool:
    """Whether the value is a float32 tensor."""
    return bool(value.dtype == FLOAT)


def _follows_inputs(node: ir.Node) -> bool:
    """Whether half inputs make its outputs half; a constant, or what fills a shape, says its own type."""
    return node.op_type == "Cast" or any(value is not None and is_float32(value) for value in node.inputs)


def _may_be_half(node: ir.Node, model: ir.Model) -> bool:
    """Whether ONNX has the operator in half for each of its float32 inputs and outputs.

    The graphs inside an If or a Loop keep float32.
    """
    if node.op_type in NEVER_HALF or _graphs_inside(node):
        return False
    if node.domain != "":
        return True
    schema = onnx.defs.get_schema(node.op_type, model.opset_imports[""])
    for values, parameters in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for index, value in enumerate(values):
            parameter = parameters[min(index, len(parameters) - 1)]  # the last may stand for several
            if value is not None and is_float32(value) and HALF_TYPE not in parameter.types:
                return False
    return True


def _graphs_inside(node: ir.Node) -> list[ir.Graph]:
    """The graphs that the node runs, as If and Loop do."""
    return [one.as_graph() for one in node.attributes.values() if one.type == ir.AttributeType.GRAPH]


def _values_read_inside(graph: ir.Graph) -> set[ir.Value]:
    """The values that graphs inside nodes read or pass on."""
    found: set[ir.Value] = set()
    for inside in (one for node in graph for one in _graphs_inside(node)):
        for node in inside.all_nodes():
            found |= {value for value in node.inputs if value is not None}
        found |= set(inside.outputs)
    return found


class _Halves:
    """Casts and half constants, made once for each value that needs one."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._converted: set[ir.Node] = set()
        self._outputs: set[ir.Value] = set()  # float32 before, half now

    def convert(self, node: ir.Node) -> None:
        """Mark `node` as computed in half."""
        self._converted.add(node)
        for output in node.outputs:
            if is_float32(output):
                self._outputs.add(output)

    def connect(self) -> None:
        """Give every node its inputs in its own precision, and the graph its outputs in theirs."""
        nodes = list(self._graph)
        fresh: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        for node in nodes:
            wanted = HALF if node in self._converted else FLOAT
            for index, value in enumerate(node.inputs):
                if value is not None and is_float32(value) and self._dtype(value) != wanted:
                    key = (value, wanted)
                    if key not in fresh:
                        fresh[key] = self._as(value, wanted)
                    node.replace_input_with(index, fresh[key])
            if node in self._converted and node.op_type == "Cast" and node.attributes["to"].as_int() == FLOAT:
                node.attributes["to"] = ir.AttrInt64("to", int(HALF))
        for output in list(self._graph.outputs):
            if output in self._outputs:
                self._cast_graph_output(output)
        for value in self._outputs:
            value.type = ir.TensorType(HALF)

    def _dtype(self, value: ir.Value) -> ir.DataType:
        return HALF if value in self._outputs else FLOAT

    def _as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in `dtype`: a constant of its own, or a Cast."""
        name = f"{value.name}:{dtype.name.lower()}"
        if value.const_value is not None and value.is_initializer():
            with np.errstate(over="ignore"):  # nodes with infinite constants are among the fp32 nodes
                array = value.const_value.numpy().astype(np.float16)
            made = ir.Value(name=f"{value.name}:half", type=ir.TensorType(HALF), shape=value.shape)
            made.const_value = ir.tensor(array, name=made.name)
            self._graph.register_initializer(made)
            return made
        cast = ir.node("Cast", [value], attributes={"to": int(dtype)})
        cast.name = name
        result = cast.outputs[0]
        result.name, result.type, result.shape = f"{name}:out", ir.TensorType(dtype), value.shape
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], cast)
        else:
            self._graph.insert_after(producer, cast)
        return result

    def _cast_graph_output(self, output: ir.Value) -> None:
        """The graph's output keeps its name and type; what gave it is now called otherwise."""
        producer = output.producer()
        assert producer is not None
        cast = ir.node("Cast", [output], attributes={"to": int(FLOAT)})
        cast.name = f"{output.name}:float"
        result = cast.outputs[0]
        result.type, result.shape = ir.TensorType(FLOAT), output.shape
        index = list(self._graph.outputs).index(output)
        self._graph.outputs[index] = result
        result.name, output.name = output.name, f"{output.name}:half"
        self._graph.insert_after(producer, cast)
