"""Read the arithmetic of an engine's layers from its layer table, and check that INT8 layers run in INT8.

TensorRT-RTX logs a table of the layers during a build; TensorRT's inspector gives the same rows. A row has
the types of its tensors and the names of the ONNX nodes that it computes. A row may hold several nodes,
because matrix products with a common input are fused. A node may be in several rows, because its bias is
often added in another layer; the row that multiplies counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from textual_vision.runtime.engines import LayerCount
from textual_vision.runtime.errors import IntegrityError, ToleranceError

TABLE_START = "Layers:"
PRODUCT_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVEMENT_OPS = ("Transpose", "Reshape")  # between the dequantization of a weight and its use
INT8, FP16, FLOAT32 = "int8", "fp16", "float32"

# Names of types in the tables of both libraries, from narrow to wide.
TYPES = {
    "Int4": "int4",
    "FP4": "fp4",
    "FP8": "fp8",
    "Int8": INT8,
    "INT8": INT8,
    "UInt8": "uint8",
    "Half": FP16,
    "FP16": FP16,
    "BFloat16": "bf16",
    "BF16": "bf16",
    "Float": FLOAT32,
    "FP32": FLOAT32,
}
WIDTH = {name: width for width, name in enumerate(TYPES.values())}

_ROW = re.compile(r"^Name: ", re.MULTILINE)
_KIND = re.compile(r"LayerType: ([\w/]+)")
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_TENSOR = re.compile(r"\{ Name: [^{}]*\}")
_DATATYPE = re.compile(r"(?:Format/)?Datatype: ([^,}]*(?:, Format: )?)")
_DIMENSIONS = re.compile(r"Dimensions: \[([-\d, ]*)\]")
_TYPE_WORD = re.compile("|".join(sorted(TYPES, key=len, reverse=True)))
_WEIGHTS = re.compile(r'Weights: \{"Type": "(\w+)"')
_PRODUCT_KIND = re.compile(r"correlation|conv|gemm|matrixmultiply", re.IGNORECASE)
# The name of a fusion lists its steps, as in __myl_FcAddRelu_myl0_5 or _gemm_mha_v2_myl0_17.
_PRODUCT_STEP = re.compile(r"_gemm|__myl_\w*?(?:Fc|Conv|Corr|Deco|Gemm|Bmm|Mha)")


@dataclass(frozen=True, kw_only=True)
class TableTensor:
    """A tensor in a row: its type ("int8", "fp16", "float32", …) and its shape, in which -1 varies."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EngineLayer:
    """One row: a layer of the engine, its ONNX nodes, and its tensors.

    `weights` is the type of a convolution's weights where the row lists them separately (8.6).
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[TableTensor, ...]
    constants: tuple[TableTensor, ...]
    outputs: tuple[TableTensor, ...]
    weights: str = "unknown"

    @property
    def multiplies(self) -> int:
        """Return 2 for a matrix product or convolution, 1 for a fusion whose name has one, 0 for others."""
        if _PRODUCT_KIND.search(self.kind):
            return 2
        return int(_PRODUCT_STEP.match(self.name) is not None)

    @property
    def dtype(self) -> str:
        """Return the type of the product: that of the weights if an input has it too, else the widest."""
        weights = [tensor for tensor in self.constants if sum(size > 1 for size in tensor.shape) >= 2]
        types = [tensor.dtype for tensor in self.inputs]
        if weights:
            weight = max(weights, key=lambda tensor: math.prod(tensor.shape))
            if weight.dtype in types:
                return weight.dtype
        operands = types if weights else types[:2]
        known = [dtype for dtype in operands if dtype in WIDTH]
        return max(known, key=lambda dtype: WIDTH[dtype]) if known else self.weights


def layers_from_table(text: str) -> list[EngineLayer]:
    """Return the rows of a layer table; raises IntegrityError when the text has none."""
    rows = _ROW.split(text)[1:]
    layers = [_layer(row) for row in rows]
    if not layers:
        raise IntegrityError("the engine's layer table has no rows", "report it, with the library's version")
    return layers


def _layer(row: str) -> EngineLayer:
    kind, name = _KIND.search(row), row.split(", LayerType:")[0].strip()
    weights = _WEIGHTS.search(row)
    # A row without a list of nodes has them in its name, as in "conv_1 + relu_2".
    nodes = _ONNX.findall(row) or name.split(" + ")
    return EngineLayer(
        name=name,
        kind=kind[1] if kind else "",
        nodes=tuple(dict.fromkeys(nodes)),
        inputs=_tensors(row, "Inputs"),
        constants=_tensors(row, "Constants"),
        outputs=_tensors(row, "Outputs"),
        weights=TYPES.get(weights[1], "unknown") if weights else "unknown",
    )


def _tensors(row: str, side: str) -> tuple[TableTensor, ...]:
    # The list ends at the first "]" after a tensor; earlier ones end lists inside a tensor.
    start = row.find(f"{side}: [")
    if start < 0:
        return ()
    place, found = start + len(side) + 3, []
    while tensor := _TENSOR.match(row, _next(row, place)):
        found.append(_tensor(tensor[0]))
        place = tensor.end()
    return tuple(found)


def _next(row: str, place: int) -> int:
    while place < len(row) and row[place] in " ,":
        place += 1
    return place


def _tensor(text: str) -> TableTensor:
    sizes = _DIMENSIONS.search(text)
    declared = _DATATYPE.search(text)
    word = _TYPE_WORD.search(declared[1]) if declared else None
    return TableTensor(
        dtype=TYPES[word[0]] if word else (declared[1].strip() if declared else "unknown"),
        shape=tuple(int(size) for size in re.findall(r"-?\d+", sizes[1])) if sizes else (),
    )


def node_types(layers: Iterable[EngineLayer], nodes: Iterable[str]) -> dict[str, str]:
    """Return the type in which each of `nodes` is multiplied, without nodes that no layer names."""
    best: dict[str, EngineLayer] = {}
    for layer in layers:
        for node in layer.nodes:
            if node not in best or layer.multiplies > best[node].multiplies:
                best[node] = layer
    return {node: best[node].dtype for node in nodes if node in best}


def count_types(types: dict[str, str]) -> LayerCount:
    """Return how many nodes run in each type."""
    values = list(types.values())
    known = {name: values.count(name) for name in (INT8, FP16, FLOAT32)}
    return LayerCount(
        int8=known[INT8],
        fp16=known[FP16],
        float32=known[FLOAT32],
        other=len(values) - sum(known.values()),
    )


def product_nodes(graph: bytes) -> tuple[dict[str, str], frozenset[str]]:
    """Return the operator of each convolution and matrix product by node name, and the names of INT8 nodes.

    A node is expected in INT8 when both factors come from DequantizeLinear. Raises IntegrityError for
    products without a unique name, which a layer table could not identify.
    """
    import onnx

    nodes = onnx.load_model_from_string(graph).graph.node
    maker = {output: node for node in nodes for output in node.output}
    products = [node for node in nodes if node.op_type in PRODUCT_OPS]
    names = [node.name for node in products]
    if not all(names) or len(set(names)) != len(names):
        wrong = next((name for name in names if not name or names.count(name) > 1), "")
        raise IntegrityError(
            f"the node name {wrong!r} is empty or not unique", "give every node its own name"
        )
    expected = (node.name for node in products if all(_dequantized(maker, name) for name in node.input[:2]))
    return {node.name: node.op_type for node in products}, frozenset(expected)


def _dequantized(maker: dict[str, object], name: str) -> bool:
    node = maker.get(name)
    while node is not None and node.op_type in MOVEMENT_OPS:  # type: ignore[attr-defined]
        node = maker.get(node.input[0])  # type: ignore[attr-defined]
    return node is not None and node.op_type == "DequantizeLinear"  # type: ignore[attr-defined]


def check_int8(types: dict[str, str], operators: dict[str, str], expected: frozenset[str], name: str) -> None:
    """Raise ToleranceError unless every node in `expected` is multiplied in INT8."""
    failed = sorted(node for node in expected if types.get(node) != INT8)
    if not failed:
        return
    shown = ", ".join(
        f"{node} ({operators[node]}: {types.get(node, 'not in the engine')})" for node in failed[:5]
    )
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    hint = "export for TensorRT (tv-export build --target tensorrt), or keep these layers in float"
    if any(operators[node] == "ConvTranspose" for node in failed):
        hint = (
            "TensorRT keeps ConvTranspose in float: rewrite it as Conv + DepthToSpace, or do not quantize it"
        )
    raise ToleranceError(
        f"{name}: {len(failed)} of {len(expected)} INT8 layers do not run in INT8: {shown}{more}", hint
    )
