"""Tables that are stored in few bytes and looked up: rows become float after the look-up, not before.

A backend folds what only depends on constants when it loads a graph, which makes a whole table float32. After
the look-up nothing can be folded, so that the table takes as little memory as it does in the file.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Constants = Mapping[str, TensorProto]


@dataclass(frozen=True, kw_only=True)
class _Unpacking:
    """`nodes` make the float table `name` of the constant `stored`: a Cast, and products with `factors`."""

    name: str
    stored: str
    factors: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]


def look_up_before_unpacking(graph: onnx.GraphProto) -> None:
    """Gather rows of stored tables before they are cast, in place; every value stays the same.

    Only tables that nothing but Gathers along the first axis reads: others are needed whole.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    lookups = _lookups(graph)
    unpackings = {found.name: found for found in _unpackings(graph, constants) if found.name in lookups}
    dropped = {node.output[0] for found in unpackings.values() for node in found.nodes}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in unpackings:
            nodes += _unpacked_rows(node, unpackings[node.input[0]], constants, graph)
        elif node.output[0] not in dropped:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)


def look_up_after_unpacking(graph: onnx.GraphProto) -> None:
    """Undo `look_up_before_unpacking` for int8, in place: Gathers read float32 tables."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    given = {node.output[0]: node for node in graph.node}
    tables: dict[tuple[str, ...], str] = {}
    dropped: set[str] = set()
    for node in graph.node:
        stored = constants.get(node.input[0]) if node.op_type == "Gather" else None
        if stored is None or stored.data_type != TensorProto.INT8:
            continue
        factors, unpacked = _unpacking_of_rows(node, constants, readers, given)
        if not unpacked:
            continue
        key = (stored.name, *factors)
        if key not in tables:
            tables[key] = f"{stored.name}.table{len(tables)}"
            values = [numpy_helper.to_array(constants[name]).astype(np.float32) for name in key]
            graph.initializer.append(
                numpy_helper.from_array(functools.reduce(np.multiply, values), tables[key])
            )
        dropped |= {one.output[0] for one in unpacked}
        node.input[0], node.output[0] = tables[key], unpacked[-1].output[0]
    rest = [node for node in graph.node if node.op_type == "Gather" or node.output[0] not in dropped]
    del graph.node[:]
    graph.node.extend(rest)
    _drop_unused(graph)


def _lookups(graph: onnx.GraphProto) -> set[str]:
    """The tensors that only Gathers along the first axis read, as their tables."""
    read = {output.name for output in graph.output}
    tables = set()
    for node in graph.node:
        gathers = node.op_type == "Gather" and not any(a.name == "axis" and a.i != 0 for a in node.attribute)
        tables |= set(node.input[:1] if gathers else ())
        read |= set(node.input[1:] if gathers else node.input)
    return tables - read


def _unpackings(graph: onnx.GraphProto, constants: Constants) -> list[_Unpacking]:
    found: dict[str, _Unpacking] = {}
    for node in graph.node:
        before = found.get(node.input[0]) if node.op_type == "Mul" else None
        if node.op_type == "Cast" and node.input[0] in constants:
            one = _Unpacking(name=node.output[0], stored=node.input[0], factors=(), nodes=(node,))
        elif before is not None and node.input[1] in constants:
            factors = (*before.factors, node.input[1])
            one = _Unpacking(
                name=node.output[0], stored=before.stored, factors=factors, nodes=(*before.nodes, node)
            )
        else:
            continue
        found[one.name] = one
    return list(found.values())


def _unpacked_rows(
    lookup: onnx.NodeProto, unpacking: _Unpacking, constants: Constants, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """The nodes that gather stored rows, and their factors, and multiply them."""
    last = lookup.output[0]
    title = lookup.name or last
    rank = len(constants[unpacking.stored].dims)
    made = [f"{last}.stored", *(f"{last}.times{i}" for i in range(len(unpacking.factors))), last]
    nodes = [
        helper.make_node("Gather", [unpacking.stored, lookup.input[1]], made[:1], name=f"{title}.stored")
    ]
    cast = helper.make_node("Cast", made[:1], made[1:2], name=f"{title}.cast", to=TensorProto.FLOAT)
    nodes.append(cast)
    for i, factors in enumerate(unpacking.factors):
        dims = constants[factors].dims
        if len(dims) == rank and dims[0] != 1:
            name = f"{last}.factors{i}"
            gathered = [factors, lookup.input[1]]
            nodes.append(helper.make_node("Gather", gathered, [name], name=f"{title}.factors{i}"))
        else:
            name = _factors_of_a_row(constants[factors], rank, graph)
        product = [made[i + 1], name]
        nodes.append(helper.make_node("Mul", product, [made[i + 2]], name=f"{title}.scale{i}"))
    return nodes


def _factors_of_a_row(factors: TensorProto, rank: int, graph: onnx.GraphProto) -> str:
    """Factors that are the same for all rows, without the axis of the rows."""
    if len(factors.dims) < rank:
        return str(factors.name)
    name = f"{factors.name}.row"
    if name not in {tensor.name for tensor in graph.initializer}:
        graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(factors)[0], name))
    return name


def _unpacking_of_rows(
    lookup: onnx.NodeProto,
    constants: Constants,
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    given: Mapping[str, onnx.NodeProto],
) -> tuple[list[str], list[onnx.NodeProto]]:
    """The factors of a look-up's rows, and the nodes that make rows float; nothing where none does."""
    factors: list[str] = []
    nodes: list[onnx.NodeProto] = []
    name, wanted = lookup.output[0], "Cast"
    while len(following := readers.get(name, ())) == 1 and following[0].op_type == wanted:
        (node,) = following
        if wanted == "Mul":
            found = _factors_of(node.input[1], lookup, constants, given)
            if found is None:
                break
            factors.append(found)
        nodes.append(node)
        name, wanted = node.output[0], "Mul"
    return factors, nodes


def _factors_of(
    name: str, lookup: onnx.NodeProto, constants: Constants, given: Mapping[str, onnx.NodeProto]
) -> str | None:
    """The constant that has a factor for each row that is looked up, or the same factors for all."""
    node = given.get(name)
    if node is not None and node.op_type == "Gather" and node.input[1] == lookup.input[1]:
        return str(node.input[0]) if node.input[0] in constants else None
    shared = name in constants and len(constants[name].dims) < len(constants[lookup.input[0]].dims)
    return name if shared else None


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes and constants that nothing reads any more."""
    outputs = {output.name for output in graph.output}
    while True:
        used = {name for node in graph.node for name in node.input} | outputs
        nodes = [node for node in graph.node if used.intersection(node.output)]
        if len(nodes) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(nodes)
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
