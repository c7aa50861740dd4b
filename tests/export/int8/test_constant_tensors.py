"""An int8 without int8 is an error, not a success."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from textual_vision.export.int8.convert import check_any_quantized
from textual_vision.export.int8.layers import FLOAT, INT8
from textual_vision.runtime.errors import ToleranceError

STAGE = SimpleNamespace(
    stage=SimpleNamespace(name="generator"),
    layers=[SimpleNamespace(name="entry"), SimpleNamespace(name="color")],
)


def test_a_tolerance_that_leaves_everything_in_float_cannot_be_met_by_int8() -> None:
    with pytest.raises(ToleranceError, match="all 2 layers"):
        check_any_quantized([STAGE], {"generator": {"entry": FLOAT}})  # type: ignore[list-item]


def test_one_layer_in_int8_is_enough() -> None:
    check_any_quantized([STAGE], {"generator": {"entry": INT8}})  # type: ignore[list-item]
    assert INT8 != FLOAT
