"""What is inside a bundle is shown or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from textual_vision.export.bundle.inspection import inspect_bundle
from textual_vision.runtime.errors import IntegrityError

GRAPH = "onnx/fp32/generator.onnx"


def without_opset(data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    del model.opset_import[:]
    return model.SerializeToString()


def of_unknown_type(data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    model.graph.initializer[0].data_type = 99
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "not an ONNX graph"),
        (without_opset, "without an opset"),
        (of_unknown_type, "unknown type 99"),
    ],
)
def test_a_graph_that_is_none_is_named_when_the_bundle_is_looked_into(
    tiny_bundle: Path,
    replace_file: Callable[[str, bytes], Path],
    damage: Callable[[bytes], bytes],
    message: str,
) -> None:
    replace_file(GRAPH, damage((tiny_bundle / GRAPH).read_bytes()))
    with pytest.raises(IntegrityError, match=f"{GRAPH}: .*{message}"):
        inspect_bundle(tiny_bundle)
