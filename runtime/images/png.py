"""PNG files of 8-bit RGB and gray pictures, by zlib alone (ISO/IEC 15948)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.errors import IntegrityError

Image = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.int16]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BIT_DEPTH = 8
COLOR_TYPES = {1: 0, 3: 2}  # channels → gray or RGB
CHANNELS = {color: channels for channels, color in COLOR_TYPES.items()}
SUB, UP, AVERAGE, PAETH = 1, 2, 3, 4
COMPRESSION = 9
AGAIN_HINT = "export the bundle again"


def png_from_image(image: Image, text: Mapping[str, str] | None = None) -> bytes:
    """A picture, uint8 (height, width, 3) in RGB or (height, width, 1) in gray, as a PNG file.

    `text` becomes international text chunks: keywords of 1 to 79 Latin-1 characters, and any values.
    """
    height, width, channels = image.shape
    header = struct.pack(">2I5B", width, height, BIT_DEPTH, COLOR_TYPES[channels], 0, 0, 0)
    pixels = zlib.compress(_filtered_rows(image), COMPRESSION)
    texts = (
        _chunk(b"iTXt", key.encode("latin-1") + b"\0" * 5 + value.encode())
        for key, value in (text or {}).items()
    )
    chunks = [_chunk(b"IHDR", header), *texts, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(chunks)


def image_from_png(data: bytes, name: str, height: int, width: int) -> Image:
    """The pixels of a PNG file of this size, uint8 (height, width, channels), in gray or RGB.

    Raises IntegrityError, naming the file `name`, for other sizes and kinds, and for damage. No more memory
    is taken than such a picture needs.
    """
    chunks = dict.fromkeys([b"IHDR", b"IDAT"], b"")
    for kind, body in _chunks(data, name):
        if kind in chunks:
            chunks[kind] += body
    if len(chunks[b"IHDR"]) != 13:
        _refuse(name, "no header")
    size = struct.unpack(">2I5B", chunks[b"IHDR"])
    if (size[1], size[0]) != (height, width):
        _refuse(name, f"{size[0]}x{size[1]} pixels, not {width}x{height}")
    if size[2] != BIT_DEPTH or size[3] not in CHANNELS or any(size[4:]):
        _refuse(name, "not a plain picture of 8 bits in gray or RGB")
    channels = CHANNELS[size[3]]
    raw = _inflated(chunks[b"IDAT"], height * (width * channels + 1), name)
    return _unfiltered(raw.reshape(height, -1), channels, name).reshape(height, width, channels)


def texts_of_png(data: bytes, name: str = "PNG") -> dict[str, str]:
    """The international text chunks of a PNG file, by keyword."""
    bodies = [body for kind, body in _chunks(data, name) if kind == b"iTXt"]
    return {
        body.split(b"\0", 1)[0].decode("latin-1"): body.split(b"\0", 1)[1][4:].decode() for body in bodies
    }


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _filtered_rows(image: Image) -> bytes:
    """Each row by the filter that leaves the least sum of absolute differences, its number in front."""
    height, width, channels = image.shape
    here = image.reshape(height, width * channels).astype(np.int16)
    left = np.pad(here, ((0, 0), (channels, 0)))[:, : width * channels]
    above = np.pad(here, ((1, 0), (0, 0)))[:height]
    corner = np.pad(left, ((1, 0), (0, 0)))[:height]
    guesses = (np.zeros_like(here), left, above, (left + above) // 2, _paeth(left, above, corner))
    candidates = np.stack([(here - guess).astype(np.uint8) for guess in guesses])  # (filters, rows, bytes)
    costs = np.abs(candidates.view(np.int8).astype(np.int32)).sum(2)
    best = costs.argmin(0)
    rows = candidates[best, np.arange(height)]
    return np.concatenate([best[:, None].astype(np.uint8), rows], 1).tobytes()


def _paeth(
    left: npt.NDArray[np.int16], above: npt.NDArray[np.int16], corner: npt.NDArray[np.int16]
) -> npt.NDArray[np.int16]:
    toward_left, toward_above = np.abs(above - corner), np.abs(left - corner)
    toward_corner = np.abs(left + above - 2 * corner)
    nearest = np.where(toward_above <= toward_corner, above, corner)
    return np.where((toward_left <= toward_above) & (toward_left <= toward_corner), left, nearest)


def _chunks(data: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    if not data.startswith(SIGNATURE):
        _refuse(name, "not a PNG file")
    place, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        if place + 12 > len(data):
            _refuse(name, "it ends too early")
        (length,) = struct.unpack_from(">I", data, place)
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        check = data[place + 8 + length : place + 12 + length]
        if check != struct.pack(">I", zlib.crc32(kind + body)):
            _refuse(name, "a part of it is damaged (CRC)")
        yield kind, body
        place += 12 + length


def _inflated(data: bytes, size: int, name: str) -> Image:
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(data, size + 1)
    except zlib.error:
        _refuse(name, "its pixels are damaged")
    if len(raw) != size:
        _refuse(name, f"{len(raw)} bytes of pixels, not {size}")
    return np.frombuffer(raw, np.uint8)


def _unfiltered(rows: Image, step: int, name: str) -> Image:
    above = np.zeros(rows.shape[1] - 1, np.uint8)
    found = np.empty((len(rows), rows.shape[1] - 1), np.uint8)
    for index, row in enumerate(rows):
        kind, values = int(row[0]), row[1:]
        if kind > PAETH:
            _refuse(name, f"an unknown filter {kind}")
        if kind == UP:
            above = values + above
        elif kind == SUB:
            above = np.cumsum(values.reshape(-1, step), 0, dtype=np.uint8).ravel()
        elif kind:
            above = _row_by_bytes(kind, values, above, step)
        else:
            above = values
        found[index] = above
    return found


def _row_by_bytes(kind: int, values: Image, above: Image, step: int) -> Image:
    """A row whose bytes each need the byte before: the filters average and Paeth."""
    row, over = bytearray(values.tobytes()), above.tobytes()
    for place, value in enumerate(row):
        left, corner = (row[place - step], over[place - step]) if place >= step else (0, 0)
        up = over[place]
        if kind == AVERAGE:
            guess = (left + up) // 2
        else:
            distances = (abs(up - corner), abs(left - corner), abs(left + up - 2 * corner))
            guess = (left, up, corner)[distances.index(min(distances))]
        row[place] = (value + guess) & 0xFF
    return np.frombuffer(bytes(row), np.uint8)


def _refuse(name: str, problem: str) -> NoReturn:
    raise IntegrityError(f"{name}: {problem}", AGAIN_HINT)
