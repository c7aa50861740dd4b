"""Exact rewrites of graphs for OpenVINO, which is slow at some operators of ours."""

from __future__ import annotations

import numpy as np
import openvino
from openvino import opset13

MIN_RANK = 3  # below it, the second axis is the last
# The nodes that replace DepthToSpace for ONNX Runtime, from the last to the first.
DEPTH_TO_SPACE = (
    ("Transpose", (0, 3, 1, 2)),
    ("Reshape", None),
    ("Transpose", (0, 1, 3, 2, 4, 5)),
    ("Reshape", None),
    ("Transpose", (0, 2, 3, 1)),
)


def move_topk_axis(model: openvino.Model) -> int:
    """Move TopK from the last axis to the second; return the number of changed nodes.

    OpenVINO takes three times as long along the last axis. The result is exact, because the same values are
    compared in the same order.
    """
    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "TopK" and _is_on_last_axis(node):
            _move_axis(node)
            count += 1
    model.validate_nodes_and_infer_types()
    return count


def _is_on_last_axis(node: openvino.Node) -> bool:
    rank = node.input_value(0).get_partial_shape().rank
    if rank.is_dynamic or rank.get_length() < MIN_RANK:
        return False
    axis: int = node.get_axis()
    return axis in (-1, rank.get_length() - 1)


def _move_axis(node: openvino.Node) -> None:
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


def fuse_depth_to_space(model: openvino.Model) -> int:
    """Fuse Transpose and Reshape nodes into DepthToSpace; return the number of fused groups.

    OpenVINO runs DepthToSpace in half the time. The graph avoids it because ONNX Runtime runs it slower.
    """
    count = 0
    for node in model.get_ordered_ops():
        source = _fused_input(node)
        if source is not None:
            fused = opset13.depth_to_space(source, "blocks_first", 2)
            fused.output(0).set_names(node.output(0).get_names())
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(fused.output(0))
            count += 1
    model.validate_nodes_and_infer_types()
    return count


def _fused_input(last: openvino.Node) -> openvino.Output | None:
    """Return the input of the group of nodes that ends in `last`; None when there is no such group."""
    output, apart = last.output(0), None
    for kind, turn in DEPTH_TO_SPACE:
        node = output.get_node()
        if node.get_type_name() != kind or (node is not last and len(output.get_target_inputs()) != 1):
            return None
        how = node.input_value(1).get_node()
        if turn is None:
            apart = node.get_output_partial_shape(0)
        elif how.get_type_name() != "Constant" or tuple(how.data.tolist()) != turn:
            return None
        output = node.input_value(0)
    # The first Reshape, the last one visited, splits the channels of each position into 2 x 2 blocks.
    return output if apart is not None and [str(size) for size in apart][3:5] == ["2", "2"] else None


def has_as_many_heads_as_tokens(model: openvino.Model) -> bool:
    """Return whether a softmax (batch, heads, queries, keys) has equal sizes among the last three.

    OpenVINO 2026.4 then takes heads for tokens where it fuses the attention, and computes something else.
    """
    for node in model.get_ops():
        if node.get_type_name() == "Softmax":
            shape = node.get_output_partial_shape(0)
            if shape.is_static and len(shape) > MIN_RANK:
                heads, queries, keys = list(shape.to_shape())[-3:]
                if heads in (queries, keys):
                    return True
    return False
