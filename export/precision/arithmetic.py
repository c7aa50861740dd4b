"""The arithmetic of a graph: float32, float16 or int8, read from its operators."""

from __future__ import annotations

from collections.abc import Mapping

from textual_vision.runtime.graph.model import FLOAT16, GraphModel, Node, model_from_bytes

FLOAT32_ARITHMETIC, FLOAT16_ARITHMETIC, INT8_ARITHMETIC = "float32", "float16", "int8"
ARITHMETICS = (FLOAT32_ARITHMETIC, FLOAT16_ARITHMETIC, INT8_ARITHMETIC)  # the more exact first
# Each precision must have a stage with this arithmetic, and none with a later one.
ARITHMETIC_OF_PRECISION = {
    "fp32": FLOAT32_ARITHMETIC,
    "fp16": FLOAT16_ARITHMETIC,
    "int8": INT8_ARITHMETIC,
}
PRECISION_OF_ARITHMETIC = {value: name for name, value in ARITHMETIC_OF_PRECISION.items()}
ARITHMETIC = "arithmetic"  # key in the manifest's provenance, followed by the precision
MOVES = ("Cast", "Gather")  # operators that read stored float16 without computing in it


def arithmetic_of(graph: bytes) -> str:
    """Return the least exact arithmetic that a serialized graph uses.

    int8 are graphs that quantize activations, and those with weights behind DequantizeLinear. float16 are
    those with an operator that reads float16; constants that are only stored in it do not count.
    """
    model = model_from_bytes(graph)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.nodes):
        return INT8_ARITHMETIC
    return FLOAT16_ARITHMETIC if half_values(model) & _computed_with(model) else FLOAT32_ARITHMETIC


def arithmetic_in_words(arithmetics: Mapping[str, str]) -> str:
    """Return the arithmetic of every stage in one line, from a map by stage."""
    return ", ".join(f"{stage} {name}" for stage, name in arithmetics.items())


def half_values(model: GraphModel) -> set[str]:
    """Return the names of the values that are certainly float16: constants, casts, and their successors."""
    half = {name for name, tensor in model.constants.items() if tensor.dtype == FLOAT16}
    for node in model.nodes:
        if node.op_type == "Cast":
            half |= set(node.outputs) if node.attributes.get("to") == FLOAT16 else set()
        elif _is_half(node, half):
            half |= set(node.outputs)
    return half


def _is_half(node: Node, half: set[str]) -> bool:
    """Whether the node's outputs have the type of a float16 input."""
    if node.op_type in ("Shape", "Size", "ArgMax", "ArgMin", "Less", "Greater", "Equal", "IsNaN"):
        return False
    return bool(half.intersection(node.inputs[:1] if node.op_type in ("Gather", "Expand") else node.inputs))


def _computed_with(model: GraphModel) -> set[str]:
    return {name for node in model.nodes if node.op_type not in MOVES for name in node.inputs}
