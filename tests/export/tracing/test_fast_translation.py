"""Operators with a translation of ours compute what PyTorch computes; programs that hold others still go."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from textual_vision.export.model.stage import Stage, tensor
from textual_vision.export.tracing.exporter import ExportOptions, onnx_from_stage
from textual_vision.runtime.backends.session import SessionOptions, open_session
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.manifest import StageSpec

SPEC = StageSpec(
    name="odd",
    inputs=(tensor("x", "float32", "batch", 4, 6), tensor("ids", "int64", "batch", 6)),
    outputs=(tensor("y", "float32", "batch", 4, 6),),
)
X = np.linspace(-1, 1, 72, dtype=np.float32).reshape(3, 4, 6)
IDS = np.arange(18, dtype=np.int64).reshape(3, 6) % 5

BITS = "__or__ of numbers"
CASES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "to": lambda x, ids: x + ids.to(torch.float32)[:, None],
    "numpy_T": lambda x, ids: x + x[0].T[:4, :1],
    "__or__": lambda x, ids: x * ((x > 0.5) | (x < 0))[:, :1],
    BITS: lambda x, ids: x * (ids | 2)[:, None],
    "rsub": lambda x, ids: 1.0 - x,
    "rsub of whole numbers": lambda x, ids: x * (1 - ids)[:, None],
    "rsub by a factor": lambda x, ids: torch.rsub(x, x[:, :1], alpha=2),
    "square": lambda x, ids: x.square() + ids.square()[:, None],
    "unflatten in front": lambda x, ids: x.flatten(0, 1).unflatten(0, (-1, 4)),
    "unflatten in front to an open size": lambda x, ids: x.flatten(0, 1).unflatten(0, (ids.shape[0], 4)),
    "unflatten at the end": lambda x, ids: x.unflatten(-1, (2, 3)).transpose(2, 3).flatten(2),
    "unflatten before an open size": lambda x, ids: (
        x.permute(1, 0, 2).flatten(1).unflatten(0, (2, 2)).flatten(0, 1).unflatten(1, (-1, 6)).transpose(0, 1)
    ),
    "in place": lambda x, ids: (x * 2).add_(ids[:, None]),
    "without a translation of its own": lambda x, ids: torch.special.xlog1py(x.abs(), x.abs()),
}


class Doing(nn.Module):
    def __init__(self, work: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.work = work

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.work(x, ids)


def test_bits_are_put_together_from_opset_18_on() -> None:
    stage = Stage(spec=SPEC, module=Doing(CASES[BITS]))
    with pytest.raises(UsageError, match="opset 17 cannot say BitwiseOr"):
        onnx_from_stage(stage, {"x": X, "ids": IDS}, ExportOptions(opset=17))


@pytest.mark.parametrize(
    ("name", "opset"), [(name, opset) for name in CASES for opset in (17, 20) if (name, opset) != (BITS, 17)]
)
def test_operators_compute_what_pytorch_computes(name: str, opset: int) -> None:
    work = CASES[name]
    module = Doing(work)
    stage = Stage(spec=SPEC, module=module)
    graph = onnx_from_stage(stage, {"x": X, "ids": IDS}, ExportOptions(opset=opset))
    session = open_session(graph.SerializeToString(), SessionOptions(backend="onnxruntime", name="odd"))
    for batch in (1, 2):
        x, ids = X[:batch], IDS[:batch]
        expected = work(torch.from_numpy(x.copy()), torch.from_numpy(ids)).numpy()
        np.testing.assert_allclose(session.run({"x": x, "ids": ids})["y"], expected, atol=2e-6)
