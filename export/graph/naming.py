"""Names that a person recognizes: of the module that a node comes from, not `val_123`.

The exporter notes each node's module in its metadata, together with paths of the machine that exported; the
module becomes the name, the rest is dropped.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes

SCOPES = "pkg.torch.onnx.name_scopes"
WEIGHTED = ("MatMul", "Gemm", "Conv", "ConvTranspose")
_NUMBERED = re.compile(r"[a-z_]+?_?\d+(\.|_|$)")  # val_12_scaled, linear_3.merged.weight


def assign_names(model: ir.Model) -> None:
    """Names nodes, the values between them and constants; drops metadata. Inputs and outputs keep theirs."""
    outer = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    taken = {name for name in outer if name}
    taken |= {name for name in model.graph.initializers if not _is_generated(name)}
    scope = ""
    for node in model.graph:
        scope = module_scope(node) or scope  # a node that a rewrite made belongs to what came before it
        node.name = _unique_name(f"{scope}/{node.op_type}" if scope else node.op_type, taken)
        for index, output in enumerate(node.outputs):
            if not output.is_graph_output():
                suffix = f".{index}" if len(node.outputs) > 1 else ""
                output.name = _unique_name(f"{node.name}{suffix}:out", taken)
        _name_constants(node, scope, taken)
    passes.ClearMetadataAndDocStringPass()(model)


def module_scope(node: ir.Node) -> str:
    """The module that the node comes from, by its metadata: the last but one scope."""
    text = node.metadata_props.get(SCOPES)
    if not text:
        return ""
    scopes = ast.literal_eval(text)
    return str(scopes[-2]) if len(scopes) > 1 and not scopes[-2].startswith("_") else ""


def mark_merged(made: Sequence[ir.Node], replaced: Sequence[ir.Node]) -> None:
    """Nodes that do the work of several modules get the scope that those have in common, and `merged`."""
    common = module_scope(replaced[0]).split(".")
    for node in replaced[1:]:
        pairs = zip(common, module_scope(node).split("."), strict=False)
        common = [mine for mine, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
    scope = ".".join([*common, "merged"])
    for node in made:
        node.metadata_props[SCOPES] = repr(["", scope, node.op_type])


def _name_constants(node: ir.Node, scope: str, taken: set[str]) -> None:
    """Constants with a made-up name are called after the first node that reads them."""
    for index, value in enumerate(node.inputs):
        if value is None or not value.is_initializer() or not _is_generated(value.name or ""):
            continue
        weight = node.op_type in WEIGHTED and index in (1, 2)
        role = ("weight", "bias")[index - 1] if weight else "constant"
        value.name = _unique_name(f"{scope}.{role}" if scope else role, taken)


def _is_generated(name: str) -> bool:
    return "." not in name or _NUMBERED.match(name) is not None


def _unique_name(name: str, taken: set[str]) -> str:
    """`name`, with a number when it is taken; takes it."""
    fresh, count = name, 1
    while fresh in taken:
        count += 1
        fresh = f"{name}_{count}"
    taken.add(fresh)
    return fresh
