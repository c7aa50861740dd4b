"""Read what a bundle contains: sizes, operators and parameters of its graphs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.manifest import Manifest

if TYPE_CHECKING:
    import onnx


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
    import onnx

    data = bundle.read(file)
    model = _model(data, file)
    operators: dict[str, int] = {}
    for node in model.graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    parameters: dict[str, int] = {}
    for tensor in model.graph.initializer:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name
        count = 1
        for size in tensor.dims:
            count *= size
        parameters[kind] = parameters.get(kind, 0) + count
    return GraphContents(
        precision=precision,
        stage=stage,
        file=file,
        bytes=len(data),
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        operators=dict(sorted(operators.items(), key=lambda item: -item[1])),
        parameters=parameters,
    )


def _model(data: bytes, file: str) -> onnx.ModelProto:
    """Parse the graph; raise IntegrityError when it is not ONNX or has a type that ONNX lacks."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_from_string(data)
    except DecodeError as error:
        raise IntegrityError(f"{file}: not an ONNX graph ({error})", "export the bundle again") from None
    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        raise IntegrityError(f"{file}: an ONNX graph without an opset", "export the bundle again")
    for tensor in model.graph.initializer:
        if tensor.data_type not in onnx.helper.get_all_tensor_dtypes():
            problem = f"{file}: {tensor.name!a} has the unknown type {tensor.data_type}"
            raise IntegrityError(problem, "export the bundle again")
    return model
