from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sabotage

from textual_vision.export.results import BuildResult
from textual_vision.export.verification.options import VerifyOptions
from textual_vision.export.verification.verification import Verification
from textual_vision.export.verification.verify import verify_bundle

Verify = Callable[..., Verification]


@pytest.fixture
def changed(built: tuple[Path, BuildResult], tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be changed."""
    return sabotage.copied(built[0], tmp_path)


@pytest.fixture(scope="session")
def verify(checkpoint: Path) -> Verify:
    """Verifies a bundle of the tiny checkpoint by ONNX Runtime."""

    def run(bundle: Path, **options: object) -> Verification:
        given = {"checkpoint": str(checkpoint), "backends": ("onnxruntime",), **options}
        return verify_bundle(bundle, VerifyOptions(**given))  # type: ignore[arg-type]

    return run
