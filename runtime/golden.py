"""Golden pictures: what a bundle must generate, kept inside it, so that it can test itself on any device.

`golden/golden.json` holds prompts and seeds, the first values of their noise (the float32 bits in
hexadecimal), the codes, and the name of the picture's PNG.
The budgets say how far each precision may be from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.generation.program import noise_tensors
from textual_vision.runtime.generation.specs import NoiseSpec
from textual_vision.runtime.images.png import image_from_png, png_from_image
from textual_vision.runtime.metrics import psnr_db
from textual_vision.runtime.strict_json import dataclass_from_json, json_from_bytes, json_from_dataclass

if TYPE_CHECKING:
    from textual_vision.runtime.pipeline import TextToImage

Image = npt.NDArray[np.uint8]

GOLDEN_NAME = "golden/golden.json"
GOLDEN_SCHEMA_VERSION = 1
NOISE_HEAD = 8


@dataclass(frozen=True, kw_only=True)
class GoldenPicture:
    """One prompt and seed with what they gave; `picture` is the PNG's path in the bundle."""

    prompt: str
    seed: int
    noise_bits: tuple[str, ...]
    codes: tuple[tuple[int, ...], ...]
    picture: str


@dataclass(frozen=True, kw_only=True)
class GoldenBudget:
    """The least share of equal codes (0 … 1) and the least PSNR in dB, for every picture."""

    code_agreement: float
    psnr_db: float


@dataclass(frozen=True, kw_only=True)
class Golden:
    """golden.json: the pictures, and a budget for every precision of the bundle."""

    schema_version: int
    pictures: tuple[GoldenPicture, ...]
    budgets: dict[str, GoldenBudget]


@dataclass(frozen=True, kw_only=True)
class GoldenResult:
    """How one golden picture was met; `psnr_db` None is an identical picture, `code_agreement` no codes."""

    prompt: str
    seed: int
    noise_equal: bool
    code_agreement: float | None
    psnr_db: float | None
    passed: bool


def golden_files(
    prompts: Sequence[str],
    seeds: Sequence[int],
    images: Image,
    codes: npt.NDArray[np.int64] | None,
    noise: Sequence[NoiseSpec],
) -> tuple[tuple[GoldenPicture, ...], dict[str, bytes]]:
    """The golden pictures of a reference's `images` (N, H, W, 3) and `codes` (N, h, w); their PNG files."""
    pictures = []
    files: dict[str, bytes] = {}
    for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        path = f"golden/{index:02d}.png"
        files[path] = png_from_image(images[index])
        rows = () if codes is None else tuple(tuple(row) for row in codes[index].tolist())
        bits = noise_bits(seed, noise)
        pictures.append(GoldenPicture(prompt=prompt, seed=seed, noise_bits=bits, codes=rows, picture=path))
    return tuple(pictures), files


def bytes_from_golden(golden: Golden) -> bytes:
    """golden.json as UTF-8 text."""
    text = json.dumps(json_from_dataclass(golden), ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def golden_from_bytes(data: bytes, name: str = GOLDEN_NAME) -> Golden:
    """Parse golden.json strictly; raises IntegrityError."""
    golden = dataclass_from_json(Golden, json_from_bytes(data, name), "golden")
    if golden.schema_version != GOLDEN_SCHEMA_VERSION or not golden.pictures:
        raise IntegrityError(f"{name}: an unknown schema, or no pictures", "export the bundle again")
    for index, picture in enumerate(golden.pictures):
        if len({len(row) for row in picture.codes}) > 1 or not 0 <= picture.seed < 2**64:
            raise IntegrityError(
                f"{name}: pictures[{index}] has no grid of codes or no seed", "export it again"
            )
    return golden


def golden_of_bundle(bundle: Bundle) -> Golden:
    """The bundle's golden pictures; UsageError when it was made without."""
    name = bundle.manifest.golden
    if name is None:
        raise UsageError("the bundle has no golden pictures", "export it again, with golden pictures")
    return golden_from_bytes(bundle.read(name), name)


def compare(model: TextToImage) -> Iterator[GoldenResult]:
    """Generate each golden picture by `model`; compare noise, codes and picture with what they must be."""
    golden = golden_of_bundle(model.bundle)
    budget = golden.budgets.get(model.precision)
    if budget is None:
        raise IntegrityError(f"golden.budgets: none for {model.precision!r}", "export the bundle again")
    for expected in golden.pictures:
        yield _compare_one(model, expected, budget)


def _compare_one(model: TextToImage, expected: GoldenPicture, budget: GoldenBudget) -> GoldenResult:
    generated = model.generate([expected.prompt], [expected.seed])
    picture = picture_of(model.bundle, expected.picture)
    agreement = _code_agreement(expected, None if generated.codes is None else generated.codes[0])
    psnr = image_psnr_db(picture, generated.images[0])
    head = noise_bits(expected.seed, model.bundle.manifest.noise)
    noise_equal = head == expected.noise_bits
    same_codes = agreement is None or agreement >= budget.code_agreement
    passed = noise_equal and same_codes and psnr >= budget.psnr_db
    return GoldenResult(
        prompt=expected.prompt,
        seed=expected.seed,
        noise_equal=noise_equal,
        code_agreement=agreement,
        psnr_db=None if math.isinf(psnr) else psnr,
        passed=passed,
    )


def _code_agreement(expected: GoldenPicture, found: npt.NDArray[np.int64] | None) -> float | None:
    """The share of equal codes; None for a model without codes."""
    if found is None and not expected.codes:
        return None
    codes = np.array(expected.codes)
    if found is None or codes.shape != found.shape:
        problem = (
            f"golden.json: codes of {codes.shape}, the model's are {None if found is None else found.shape}"
        )
        raise IntegrityError(problem, "export the bundle again")
    return float(np.mean(codes == found))


def image_psnr_db(first: Image, second: Image) -> float:
    """Return the peak signal-to-noise ratio of two uint8 pictures in dB; infinite when they are equal."""
    return psnr_db(float(np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)))


def noise_bits(seed: int, noise: Sequence[NoiseSpec]) -> tuple[str, ...]:
    """The float32 bits of the first values of a seed's noise, eight hexadecimal digits each.

    Of several tensors the values follow each other; those generated anew at each step of a loop are left out.
    """
    tensors = noise_tensors(noise, [seed]).values()
    head = np.concatenate([np.zeros(0, np.float32), *(tensor.ravel() for tensor in tensors)])[:NOISE_HEAD]
    return tuple(f"{int(bits):08x}" for bits in head.view(np.uint32))


def picture_of(bundle: Bundle, path: str) -> Image:
    """The golden picture at `path`, uint8 (height, width, channels); IntegrityError when it is none."""
    if path not in bundle.manifest.files or PurePosixPath(path).suffix != ".png":
        raise IntegrityError(f"golden.json: {path!a} is not a PNG of the bundle", "export the bundle again")
    size = bundle.manifest.image
    return image_from_png(bundle.read(path), path, size.height, size.width)
