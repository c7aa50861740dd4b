"""TensorRT's own calibration cache, for versions up to 10: a scale for each tensor, as text.

The first line names the library's version and the calibrator; each further line is a tensor's name and its
scale, a float32 as eight hexadecimal digits, most significant first:

    TRT-8601-EntropyCalibration2
    image: 3c010a14

The format is the one that the library itself writes and reads [1]. A scale is the largest absolute value over
127, as everywhere here. Later versions read scales from Q/DQ in the graph instead.

[1] https://docs.nvidia.com/deeplearning/tensorrt/ ("INT8 calibration", "calibration cache")
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import Any

from textual_vision.runtime.backends.tensorrt.api import has_api
from textual_vision.runtime.errors import IntegrityError, UsageError

CALIBRATOR = "EntropyCalibration2"

_HEADER = re.compile(r"TRT-(\d+)-(\w+)")
_LINE = re.compile(r"(.+): ([0-9a-f]{1,8})")


def header_from_version(version: str) -> str:
    """The first line for a library's version: "8.6.1" → TRT-8601-…, "10.3.0" → TRT-100300-…."""
    numbers = [int(part) for part in re.findall(r"\d+", version)[:3]]
    if len(numbers) < 3:
        raise UsageError(f"{version!r} is not a version of TensorRT", 'give it as in "10.3.0"')
    major, minor, patch = numbers
    thousands, hundreds = (1000, 100) if major < 10 else (10000, 100)
    return f"TRT-{major * thousands + minor * hundreds + patch}-{CALIBRATOR}"


def cache_from_scales(scales: Mapping[str, float], version: str) -> bytes:
    """The cache for tensor name → scale, in the given order.

    Raises UsageError for a scale that is not a positive float32, and for names that no line can hold.
    """
    lines = [header_from_version(version)]
    for name, scale in scales.items():
        if not name or "\n" in name or "\r" in name:
            raise UsageError(f"tensor {name!r}: no name for a calibration cache", "rename it in the graph")
        lines.append(f"{name}: {_hex(name, scale)}")
    return ("\n".join(lines) + "\n").encode("utf-8")


def _hex(name: str, scale: float) -> str:
    if not (math.isfinite(scale) and 2.0**-126 <= scale < 2.0**127):
        raise UsageError(f"tensor {name!r}: scale {scale}", "calibrate again: a scale is positive and finite")
    return struct.pack(">f", scale).hex()


def scales_from_cache(data: bytes) -> dict[str, float]:
    """Tensor name → scale of a cache; IntegrityError, naming the line, if it is damaged.

    Lines without a usable scale, which the library writes for tensors that it saw no values of (0), are an
    error too: an engine built from them would be wrong without a word.
    """
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"calibration cache: not UTF-8 text: {error}", "calibrate again") from None
    header = _HEADER.fullmatch(lines[0]) if lines else None
    if header is None:
        raise IntegrityError("calibration cache, line 1: not TRT-VERSION-CALIBRATOR", "calibrate again")
    if header[2] != CALIBRATOR:
        raise IntegrityError(
            f"calibration cache: made by {header[2]}, not by {CALIBRATOR}", "calibrate again"
        )
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        name, scale = _scale(line, number)
        if name in scales:
            raise IntegrityError(f"calibration cache, line {number}: {name!r} for the second time")
        scales[name] = scale
    return scales


def _scale(line: str, number: int) -> tuple[str, float]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise IntegrityError(f"calibration cache, line {number}: not NAME: HEX", "calibrate again")
    (scale,) = struct.unpack(">f", bytes.fromhex(found[2].zfill(8)))
    if not (math.isfinite(scale) and scale > 0):
        raise IntegrityError(
            f"calibration cache, line {number}: scale {scale} of {found[1]!r}", "calibrate again"
        )
    return found[1], float(scale)


def calibrator_from_cache(trt: Any, cache: bytes) -> Any:
    """An entropy calibrator (of the library's module `trt`) that has nothing but a cache.

    Raises UsageError when this version has no calibrators, IntegrityError for a damaged cache.
    """
    if not has_api(trt, "IInt8EntropyCalibrator2"):
        raise UsageError(
            f"TensorRT {trt.__version__} has no calibrators", "use the int8 graphs: their scales are inside"
        )
    scales_from_cache(cache)

    class CachedCalibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.written: bytes | None = None

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            """No batch: everything is in the cache."""

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, written: Any) -> None:
            self.written = bytes(written)

    return CachedCalibrator()
