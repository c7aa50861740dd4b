"""Assert in a test of your own that a bundle generates the pictures of its checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from textual_vision.export.verification.options import VerifyOptions
from textual_vision.export.verification.output.failures import save_failures as save_evidence
from textual_vision.export.verification.verification import Verification
from textual_vision.export.verification.verify import verify_bundle


def assert_parity(
    bundle: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    *,
    save_failures: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Verification:
    """Verify `bundle` against `checkpoint` and return the result; raise AssertionError when a check fails.

    `checkpoint` is a shipped model's name, a folder, or FILE.py:FUNCTION. `options` are the fields of
    `VerifyOptions`, such as `level="release"` or `precisions=("int8",)`. `save_failures` is a folder for the
    tensors of failed checks. The error lists failed checks in running order, each with its figure, tolerance
    and likely cause. Raises UsageError, BackendMissingError and IntegrityError as `verify_bundle` does.
    """
    found = verify_bundle(Path(bundle), VerifyOptions(checkpoint=os.fspath(checkpoint), **options))
    failed = sorted((check for check in found.checks if check.failed), key=lambda check: check.place)
    if failed and save_failures is not None:
        save_evidence(found, Path(save_failures), f"tv-export verify {bundle} --checkpoint {checkpoint}")
    if failed:
        lines = "\n".join(check.sentence() for check in failed)
        raise AssertionError(f"{len(failed)} of {len(found.checks)} checks fail:\n{lines}")
    return found
