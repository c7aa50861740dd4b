"""Many small products of one input as one large product: the same sums in the same order."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from textual_vision.export.graph.constants import initializer
from textual_vision.export.graph.naming import mark_merged

MIN_LINEARS = 2


def fuse_parallel_linears(model: ir.Model) -> bool:
    """x W1 + b1, x W2 + b2, … → Split(x [W1 W2 …] + [b1 b2 …]): queries, keys and values."""
    groups: dict[ir.Value, list[tuple[ir.Node, ir.Node]]] = {}
    for node in model.graph:
        pair = _linear(node)
        if pair is not None:
            source = pair[0].inputs[0]
            assert source is not None
            groups.setdefault(source, []).append(pair)
    made: dict[tuple[int, ...], tuple[ir.Value, ir.Value]] = {}
    several = {source: pairs for source, pairs in groups.items() if len(pairs) >= MIN_LINEARS}
    for source, pairs in several.items():
        _merge(model, source, pairs, made)
    model.graph.sort()
    return bool(several)


def fuse_film_linears(model: ir.Model) -> bool:
    """Gemm(c, W1, b1), Gemm(c, W2, b2), … → Split(Gemm(c, [W1; W2; …], [b1 b2 …])): every FiLM at once."""
    groups: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        if _is_condition(node):
            source = node.inputs[0]
            assert source is not None
            groups.setdefault(source, []).append(node)
    several = {source: nodes for source, nodes in groups.items() if len(nodes) >= MIN_LINEARS}
    for source, nodes in several.items():
        _merge_gemms(model, source, nodes)
    model.graph.sort()
    return bool(several)


def _linear(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """(MatMul, Add) when `node` multiplies by a constant matrix and nothing but a bias comes after it."""
    if node.op_type != "MatMul" or not _constant(node.inputs[1], rank=2):
        return None
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or node.outputs[0].is_graph_output():
        return None
    add = uses[0].node
    bias = add.inputs[1 - uses[0].idx]
    outputs = _size(node.inputs[1], 1)
    if add.outputs[0].is_graph_output() or not _constant(bias, rank=1) or _size(bias, 0) not in (1, outputs):
        return None
    return node, add


def _constant(value: ir.Value | None, rank: int) -> bool:
    return value is not None and value.const_value is not None and len(value.const_value.shape) == rank


def _size(value: ir.Value | None, axis: int) -> int:
    assert value is not None and value.const_value is not None
    size = value.const_value.shape[axis]
    assert isinstance(size, int)
    return size


def _bias(values: np.ndarray, outputs: int) -> np.ndarray:
    """A bias of one number is added to every output."""
    return np.broadcast_to(values, (outputs,))


def _merge(
    model: ir.Model,
    source: ir.Value,
    pairs: list[tuple[ir.Node, ir.Node]],
    made: dict[tuple[int, ...], tuple[ir.Value, ir.Value]],
) -> None:
    """`made` are the merged constants so far: a network that runs in steps has them once for all steps."""
    weights = [matmul.inputs[1].const_value.numpy() for matmul, _ in pairs]
    biases = [
        next(v for v in add.inputs if v is not None and v.const_value is not None).const_value.numpy()
        for _, add in pairs
    ]
    constants = (v for pair in pairs for node in pair for v in node.inputs if v and v.const_value is not None)
    key = tuple(id(value) for value in constants)
    if key not in made:
        stem = f"merged_{pairs[0][1].outputs[0].name}"
        weight = initializer(model, f"{stem}_weight", np.concatenate(weights, axis=1))
        whole = [_bias(values, one.shape[1]) for values, one in zip(biases, weights, strict=True)]
        made[key] = weight, initializer(model, f"{stem}_bias", np.concatenate(whole))
    weight, bias = made[key]
    product = ir.node("MatMul", [source, weight])
    total = ir.node("Add", [product.outputs[0], bias])
    _split(model, [product, total], [add for _, add in pairs], [w.shape[1] for w in weights], axis=-1)
    for matmul, _ in pairs:
        model.graph.remove(matmul, safe=True)


def _is_condition(node: ir.Node) -> bool:
    attributes = node.attributes
    return (
        node.op_type == "Gemm"
        and len(node.inputs) == 3
        and not node.outputs[0].is_graph_output()
        and _constant(node.inputs[1], rank=2)
        and _constant(node.inputs[2], rank=1)
        and _size(node.inputs[2], 0) in (1, _size(node.inputs[1], 0))
        and attributes.get_int("transB", 0) == 1
        and attributes.get_int("transA", 0) == 0
        and attributes.get_float("alpha", 1.0) == 1.0
        and attributes.get_float("beta", 1.0) == 1.0
    )


def _merge_gemms(model: ir.Model, source: ir.Value, nodes: list[ir.Node]) -> None:
    weights = [node.inputs[1].const_value.numpy() for node in nodes]
    biases = [
        _bias(node.inputs[2].const_value.numpy(), len(weight))
        for node, weight in zip(nodes, weights, strict=True)
    ]
    stem = f"merged_{nodes[0].outputs[0].name}"
    weight = initializer(model, f"{stem}_weight", np.concatenate(weights))
    bias = initializer(model, f"{stem}_bias", np.concatenate(biases))
    product = ir.node("Gemm", [source, weight, bias], attributes={"transB": 1})
    _split(model, [product], nodes, [w.shape[0] for w in weights], axis=1)


def _split(
    model: ir.Model, made: list[ir.Node], replaced: list[ir.Node], sizes: list[int], axis: int
) -> None:
    """Puts `made` and a Split of its result before the first of `replaced`, whose outputs it takes over."""
    lengths = initializer(model, f"{replaced[0].outputs[0].name}_split", np.array(sizes, np.int64))
    inputs = [made[-1].outputs[0], lengths]
    split = ir.node("Split", inputs, attributes={"axis": axis}, num_outputs=len(sizes))
    model.graph.insert_before(replaced[0], [*made, split])
    mark_merged([*made, split], replaced)
    for old, new in zip(replaced, split.outputs, strict=True):
        new.type, new.shape = old.outputs[0].type, old.outputs[0].shape
        ir.convenience.replace_all_uses_with(old.outputs[0], new)
        model.graph.remove(old, safe=True)
