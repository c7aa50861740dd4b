"""Rewrites that only move values, or move fewer of them: bit for bit the same results."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import rewriter
from onnxscript.rewriter import pattern
from onnxscript.rewriter.rules import common as rules

from textual_vision.export.graph.constants import derived_constant, initializer


def make_reshapes_static(model: ir.Model) -> bool:
    """Shapes that are computed at run time become constants: 0 keeps a size, -1 is the rest."""
    changed = False
    for node in list(model.graph):
        if node.op_type != "Reshape" or node.inputs[1] is None or node.inputs[1].const_value is not None:
            continue
        sizes = _constant_shape(node.inputs[0], node.outputs[0])
        if sizes is None:
            continue
        value = initializer(model, f"{node.outputs[0].name}_shape", np.array(sizes, np.int64))
        node.replace_input_with(1, value)
        node.attributes.pop("allowzero", None)
        changed = True
    return changed


def _constant_shape(source: ir.Value | None, target: ir.Value) -> list[int] | None:
    """The shape as constants, when at most one size is neither known nor the input's at the same place."""
    if source is None or source.shape is None or target.shape is None:
        return None
    sizes: list[int] = []
    for axis, size in enumerate(target.shape):
        if isinstance(size, int):
            sizes.append(size)
        elif size.value is not None and axis < len(source.shape) and source.shape[axis] == size:
            sizes.append(0)
        else:
            sizes.append(-1)
    return sizes if sizes.count(-1) <= 1 else None


class _KeyTranspose(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """Keys (B, H, S, E) to (B*H, S, E) to (B*H, E, S) to (B, H, E, S) is one transposition."""

    def pattern(self, op, keys, flat, full):  # type: ignore[no-untyped-def]
        turned = op.Transpose(op.Reshape(keys, flat), perm=[0, 2, 1])
        return op.Reshape(turned, full, _outputs=["result"])

    def check(self, context, keys, flat, full, **_):  # type: ignore[no-untyped-def]
        # The shapes are computed from the keys' own: [-1, S, E] and [B, H, E, S] as slices of it.
        return (
            keys.shape is not None and len(keys.shape) == 4 and _is_tail(flat, keys) and _is_swap(full, keys)
        )

    def rewrite(self, op, keys, **_):  # type: ignore[no-untyped-def]
        return op.Transpose(keys, perm=[0, 1, 3, 2])


def _is_tail(shape: ir.Value, keys: ir.Value) -> bool:
    """Whether `shape` is Concat(-1, S, E) of the keys' sizes."""
    parts = _parts(shape, keys)
    return parts is not None and parts == [(-1,), (2,), (3,)]


def _is_swap(shape: ir.Value, keys: ir.Value) -> bool:
    """Whether `shape` is Concat(B, H, E, S) of the keys' sizes."""
    parts = _parts(shape, keys)
    return parts is not None and [axis for part in parts for axis in part] == [0, 1, 3, 2]


def _parts(shape: ir.Value, keys: ir.Value) -> list[tuple[int, ...]] | None:
    """Of a Concat, which of the keys' axes each part is: from Slice(Shape(keys)), or (-1,) for the number."""
    concat = shape.producer()
    if concat is None or concat.op_type != "Concat":
        return None
    found: list[tuple[int, ...]] = []
    for value in concat.inputs:
        axes = None if value is None else _axes_of(value, keys)
        if axes is None:
            return None
        found.append(axes)
    return found


def _axes_of(value: ir.Value, keys: ir.Value) -> tuple[int, ...] | None:
    if value.const_value is not None:
        return (-1,) if value.const_value.numpy().tolist() == [-1] else None
    node = value.producer()
    if node is None or node.op_type != "Slice" or len(node.inputs) != 3:
        return None
    whole, start, end = node.inputs
    if whole is None or start is None or end is None or start.const_value is None or end.const_value is None:
        return None
    source = whole.producer()
    if source is None or source.op_type != "Shape" or source.inputs[0] is not keys:
        return None
    bounds = slice(int(start.const_value.numpy().item()), int(end.const_value.numpy().item()))
    return tuple(range(4)[bounds])


def fuse_key_transposes(model: ir.Model) -> bool:
    """Attention's keys are turned once, not by two reshapes and a turn; the turn joins the one before it."""
    fused = rewriter.RewriteRuleSet([_KeyTranspose.rule()]).apply_to_model(model)
    if fused:
        passes.RemoveUnusedNodesPass()(model)  # the nodes that computed the shapes also read the keys
    return bool(fused + rewriter.RewriteRuleSet([rules.transpose_transpose_rule]).apply_to_model(model))


class _GroupLookup(pattern.RewriteRuleClassBase):  # type: ignore[misc]
    """table[g, codes[..., g]] by GatherND is one Gather from the groups' tables one below the other."""

    def pattern(self, op, table, groups, shape, codes, axes, axes_codes):  # type: ignore[no-untyped-def]
        columns = op.Concat(
            op.Unsqueeze(op.Expand(groups, shape), axes), op.Unsqueeze(codes, axes_codes), axis=-1
        )
        return op.GatherND(table, columns)

    def check(self, context, table, groups, codes, **_):  # type: ignore[no-untyped-def]
        if table.const_value is None or groups.const_value is None or len(table.const_value.shape) != 3:
            return False
        count = table.const_value.shape[0]
        numbered = np.array_equal(groups.const_value.numpy().ravel(), np.arange(count))
        return numbered and codes.shape is not None and codes.shape[-1] == count

    def rewrite(self, op, table, groups, codes, **_):  # type: ignore[no-untyped-def]
        values = table.const_value.numpy()
        flat = derived_constant(op, table, "flat", lambda: values.reshape(-1, values.shape[2]))
        starts = groups.const_value.numpy().ravel() * values.shape[1]
        first = derived_constant(op, table, "first rows", lambda: starts)
        return op.Gather(flat, op.Add(codes, first), axis=0)


def fuse_group_gathers(model: ir.Model) -> bool:
    """The product quantizer's rows by one Gather, which every backend has and runs well."""
    return bool(rewriter.RewriteRuleSet([_GroupLookup.rule()]).apply_to_model(model))
