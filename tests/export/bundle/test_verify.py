"""Verifying refuses what it cannot judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from textual_vision.export.bundle import verify
from textual_vision.export.model.stage import StagedModel
from textual_vision.runtime.errors import IntegrityError


def test_a_precision_without_a_budget_is_named(
    edit_manifest: Callable[[Callable[[dict[str, dict[str, str]]], None]], Path],
    checkpoint: Path,
    tiny_model: StagedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = edit_manifest(lambda manifest: manifest["provenance"].update(checkpoint=tiny_model.digest))
    monkeypatch.delitem(verify.TOLERANCES, "fp32")
    with pytest.raises(IntegrityError, match="no tolerance for 'fp32', only for fp16, int8"):
        verify.verify_bundle(bundle, backend="onnxruntime", checkpoint=str(checkpoint), samples=2, seed=0)
