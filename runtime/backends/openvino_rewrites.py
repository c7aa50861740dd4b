"""Other ways to say the same to OpenVINO, where it is slow at what a graph says. All exact."""

from __future__ import annotations

import numpy as np
import openvino
from openvino import opset13

LEAST_TURNED_RANK = 3  # below it the second axis is the last
# DepthToSpace as the graph says it for ONNX Runtime, from its last node to its first.
WEAVING = (
    ("Transpose", (0, 3, 1, 2)),
    ("Reshape", None),
    ("Transpose", (0, 1, 3, 2, 4, 5)),
    ("Reshape", None),
    ("Transpose", (0, 2, 3, 1)),
)


def move_topk_axis(model: openvino.Model) -> int:
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


def fuse_depth_to_space(model: openvino.Model) -> int:
    """Turns and reshapes that come to DepthToSpace become it, which takes OpenVINO half as long.

    The graph has them because ONNX Runtime takes longer for DepthToSpace. Returns how many.
    """
    count = 0
    for node in model.get_ordered_ops():
        source = _woven_from(node)
        if source is not None:
            woven = opset13.depth_to_space(source, "blocks_first", 2)
            woven.output(0).set_names(node.output(0).get_names())
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(woven.output(0))
            count += 1
    model.validate_nodes_and_infer_types()
    return count


def _woven_from(last: openvino.Node) -> openvino.Output | None:
    """What a weaving that ends in `last` weaves; None when it is no such node."""
    output, apart = last.output(0), None
    for kind, turn in WEAVING:
        node = output.get_node()
        if node.get_type_name() != kind or (node is not last and len(output.get_target_inputs()) != 1):
            return None
        how = node.input_value(1).get_node()
        if turn is None:
            apart = node.get_output_partial_shape(0)
        elif how.get_type_name() != "Constant" or tuple(how.data.tolist()) != turn:
            return None
        output = node.input_value(0)
    # Of the first reshape, the last that was looked at: each position's channels as 2 x 2 pictures of them.
    return output if apart is not None and [str(size) for size in apart][3:5] == ["2", "2"] else None
