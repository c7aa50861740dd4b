"""Read what a bundle contains: sizes, operators and parameters of its graphs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.graph.check import check_graph
from textual_vision.runtime.graph.model import (
    BOOL,
    DOUBLE,
    FLOAT,
    FLOAT16,
    INT8,
    INT32,
    INT64,
    UINT8,
    model_from_bytes,
)
from textual_vision.runtime.manifest import Manifest

ELEMENT_NAMES = {
    FLOAT: "float32",
    FLOAT16: "float16",
    DOUBLE: "float64",
    INT64: "int64",
    INT32: "int32",
    INT8: "int8",
    UINT8: "uint8",
    BOOL: "bool",
}


@dataclass(frozen=True, kw_only=True)
class GraphContents:
    """One graph: its file, size in bytes, operators (name → count) and parameters (dtype → count)."""

    precision: str
    stage: str
    file: str
    bytes: int
    opset: int
    operators: dict[str, int]
    parameters: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A bundle's manifest and graphs; `bytes` is the size of all its files."""

    bundle: str
    manifest: Manifest
    bytes: int
    graphs: tuple[GraphContents, ...]


def inspect_bundle(folder: Path) -> Inspection:
    """Return the contents of the bundle at `folder`; raises UsageError and IntegrityError."""
    bundle = Bundle(folder)
    manifest = bundle.manifest
    graphs = [
        _graph_contents(bundle, precision, stage, file)
        for precision, spec in manifest.precisions.items()
        for stage, file in spec.files.items()
    ]
    size = sum(file.bytes for file in manifest.files.values())
    return Inspection(bundle=str(folder), manifest=manifest, bytes=size, graphs=tuple(graphs))


def _graph_contents(bundle: Bundle, precision: str, stage: str, file: str) -> GraphContents:
    data = bundle.read(file)
    check_graph(data, file)
    model = model_from_bytes(data)
    parameters: Counter[str] = Counter()
    for tensor in model.constants.values():
        parameters[ELEMENT_NAMES[tensor.dtype]] += tensor.count
    return GraphContents(
        precision=precision,
        stage=stage,
        file=file,
        bytes=len(data),
        opset=next(version for domain, version in model.opsets if domain in ("", "ai.onnx")),
        operators=dict(Counter(node.op_type for node in model.nodes).most_common()),
        parameters=dict(parameters),
    )
