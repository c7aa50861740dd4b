"""A pytest fixture that asserts parity and keeps the tensors of failed checks in the test's folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from textual_vision.export.testing import assert_parity
from textual_vision.export.verification.verification import Verification

FAILURES = "parity-failures"


@pytest.fixture
def parity(tmp_path: Path) -> Callable[..., Verification]:
    """Return `assert_parity`, which saves failed checks in `parity-failures` of the test's `tmp_path`."""

    def check(
        bundle: str | os.PathLike[str], checkpoint: str | os.PathLike[str], **options: Any
    ) -> Verification:
        return assert_parity(bundle, checkpoint, **{"save_failures": tmp_path / FAILURES, **options})

    return check
