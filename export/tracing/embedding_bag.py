"""An exact stand-in for `embedding_bag` of rows of equal length, as a table's lookup and a reduction.

torch's exporter writes a Loop for it that ends the process when ONNX Runtime 1.32 opens the graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F


@contextlib.contextmanager
def exportable_embedding_bag() -> Iterator[None]:
    """`embedding_bag` of ids (batch, count) can be traced inside; results are those of torch."""
    with mock.patch.object(F, "embedding_bag", _embedding_bag):
        yield


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    if offsets is not None or input.dim() != 2:
        raise RuntimeError("embedding_bag with offsets cannot be exported: give it ids of (batch, count)")
    if max_norm is not None:
        raise RuntimeError("embedding_bag with max_norm cannot be exported: use nn.EmbeddingBag")
    rows = weight[input]  # (batch, count, width)
    counts = torch.ones_like(input) if padding_idx is None else (input != padding_idx % len(weight)).long()
    kept = counts.bool()[:, :, None]
    if mode == "max":
        largest = torch.where(kept, rows, -torch.inf).amax(1)
        return torch.where(kept.any(1), largest, 0.0)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, :, None]
    total = torch.where(kept, rows, 0.0).sum(1)
    if mode == "sum":
        return total
    return total / counts.sum(1, keepdim=True).clamp(min=1)
