"""`tv-generate --verify`: every file's digest, and the golden pictures."""

from __future__ import annotations

import json

import click

from textual_vision.runtime.errors import ParityError
from textual_vision.runtime.golden import GoldenResult, compare
from textual_vision.runtime.pipeline import TextToImage
from textual_vision.runtime.strict_json import json_from_dataclass


def verify_model(model: TextToImage, as_json: bool) -> None:
    """Check the bundle of `model`, and print how each golden picture is met.

    Raises IntegrityError for a damaged file, ParityError when a picture is outside the budget.
    """
    model.bundle.verify()
    results = list(compare(model))
    if as_json:
        about = {"precision": model.precision, "backend": model.backend}
        click.echo(json.dumps({**about, "pictures": json_from_dataclass(results)}, ensure_ascii=False))
    else:
        for result in results:
            click.echo(_line(result))
    if failed := sum(not result.passed for result in results):
        problem = f"{failed} of {len(results)} golden pictures are outside the budget"
        raise ParityError(problem, "try another --backend or --precision; report it with the output above")


def _line(result: GoldenResult) -> str:
    mark = "✓" if result.passed else "✗"
    psnr = "identical" if result.psnr_db is None else f"{result.psnr_db:.1f} dB"
    agreement = result.code_agreement
    codes = "" if agreement is None else f"codes {100 * agreement:.1f} % equal, "
    noise = "" if result.noise_equal else ", noise differs"
    return f"[{mark}] {result.prompt!r} seed {result.seed}: {codes}picture {psnr}{noise}"
