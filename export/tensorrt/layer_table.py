"""Which arithmetic an engine really uses, by its own account, and whether that is what the graph asked for.

TensorRT-RTX logs a table of an engine's layers as it builds; TensorRT's inspector gives the same rows. A row
has the types of its tensors and the names of the ONNX nodes it computes. Rows may hold several nodes (matrix
products that share an input are run as one) and a node may be in several rows (its bias is often added
elsewhere): the row that multiplies is the one that counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from textual_vision.runtime.engines import LayerCount
from textual_vision.runtime.errors import BudgetError, IntegrityError

TABLE_START = "Layers:"
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PASSED_THROUGH = ("Transpose", "Reshape")  # between a weight's dequantization and its use
INT8, FP16, FLOAT32 = "int8", "fp16", "float32"

# Names of types in the table, both libraries' spellings; wider ones later
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
# A fusion is called after the steps in it, as in __myl_FcAddRelu_myl0_5 or _gemm_mha_v2_myl0_17.
_PRODUCT_STEP = re.compile(r"_gemm|__myl_\w*?(?:Fc|Conv|Corr|Deco|Gemm|Bmm|Mha)")


@dataclass(frozen=True, kw_only=True)
class TableTensor:
    """A tensor in a row: its type as we call it ("int8", "fp16", "float32", …) and its sizes, -1 = varies."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EngineLayer:
    """One row: the engine's layer, the ONNX nodes in it, and its tensors.

    `weights` is the type of a convolution's, where the row tells of them apart from the tensors (8.6).
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
        """2 for a layer that is a product, 1 for a fusion that holds one by its name, 0 for others."""
        if _PRODUCT_KIND.search(self.kind):
            return 2
        return int(_PRODUCT_STEP.match(self.name) is not None)

    @property
    def dtype(self) -> str:
        """The type it multiplies in: its weights' when an input has the same, else its inputs' widest."""
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
    """The rows of a layer table; IntegrityError when there are none that can be read."""
    rows = _ROW.split(text)[1:]
    layers = [_layer(row) for row in rows]
    if not layers:
        raise IntegrityError("the engine's layer table has no rows", "report it, with the library's version")
    return layers


def _layer(row: str) -> EngineLayer:
    kind, name = _KIND.search(row), row.split(", LayerType:")[0].strip()
    weights = _WEIGHTS.search(row)
    # Where a row does not say which nodes it computes, its name does: "conv_1 + relu_2".
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
    # The list ends at the first "]" that follows no tensor: those inside belong to a tensor's own lists.
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
    """The type in which each of `nodes` is multiplied; those that no layer names are left out."""
    best: dict[str, EngineLayer] = {}
    for layer in layers:
        for node in layer.nodes:
            if node not in best or layer.multiplies > best[node].multiplies:
                best[node] = layer
    return {node: best[node].dtype for node in nodes if node in best}


def count_types(types: dict[str, str]) -> LayerCount:
    """How many nodes run in which arithmetic."""
    values = list(types.values())
    known = {name: values.count(name) for name in (INT8, FP16, FLOAT32)}
    return LayerCount(
        int8=known[INT8],
        fp16=known[FP16],
        float32=known[FLOAT32],
        other=len(values) - sum(known.values()),
    )


def product_nodes(graph: bytes) -> tuple[dict[str, str], frozenset[str]]:
    """Each convolution and matrix product of an ONNX graph, by name, with its operator; and which are INT8.

    A node is meant for INT8 when both factors come from DequantizeLinear. Raises IntegrityError for products
    without a name of their own, since the engine could not be asked about them.
    """
    import onnx

    nodes = onnx.load_model_from_string(graph).graph.node
    maker = {output: node for node in nodes for output in node.output}
    products = [node for node in nodes if node.op_type in PRODUCTS]
    names = [node.name for node in products]
    if not all(names) or len(set(names)) != len(names):
        wrong = next((name for name in names if not name or names.count(name) > 1), "")
        raise IntegrityError(f"two nodes or none are called {wrong!r}", "give every node its own name")
    meant = (node.name for node in products if all(_dequantized(maker, name) for name in node.input[:2]))
    return {node.name: node.op_type for node in products}, frozenset(meant)


def _dequantized(maker: dict[str, object], name: str) -> bool:
    node = maker.get(name)
    while node is not None and node.op_type in PASSED_THROUGH:  # type: ignore[attr-defined]
        node = maker.get(node.input[0])  # type: ignore[attr-defined]
    return node is not None and node.op_type == "DequantizeLinear"  # type: ignore[attr-defined]


def check_int8(types: dict[str, str], operators: dict[str, str], meant: frozenset[str], name: str) -> None:
    """BudgetError unless every node in `meant` is multiplied in INT8."""
    failed = sorted(node for node in meant if types.get(node) != INT8)
    if not failed:
        return
    shown = ", ".join(f"{node} ({operators[node]}: {types.get(node, 'not in it')})" for node in failed[:5])
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    hint = "export for it (tv-export build --target tensorrt), or leave these layers in float"
    if any(operators[node] == "ConvTranspose" for node in failed):
        hint = (
            "TensorRT keeps ConvTranspose in float: rewrite it as Conv + DepthToSpace, or do not quantize it"
        )
    raise BudgetError(
        f"{name}: {len(failed)} of {len(meant)} INT8 layers do not run in INT8: {shown}{more}", hint
    )
