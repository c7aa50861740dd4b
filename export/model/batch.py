"""Some samples as every step of the way sees them: nothing here needs torch."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textual_vision.export.host.step_cache import unzip_bytes, zip_bytes
from textual_vision.runtime.manifest import TensorSpec

BATCH, TOKENS = "batch", "tokens"  # sizes that a graph leaves open
STEP = ".step"  # after a tensor's name, among the margins: see `Stage.margins`

PICTURE_AXES = 4  # batch, height, width, channels

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class ReferenceBatch:
    """Some samples: every tensor of the way by its name, as the reference gave it.

    `margins` holds, for tensors of codes, how clearly each was chosen (see `Stage.margins`). `fixed_length`
    when the graphs take prompts of this length only, so that padding must stay.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    tensors: Mapping[str, Array]
    margins: Mapping[str, npt.NDArray[np.float32]]
    fixed_length: bool = False


def is_codes(spec: TensorSpec) -> bool:
    """Whether the tensor is compared value by value for equality: integers and booleans, but no picture."""
    is_picture = spec.dtype == "uint8" and len(spec.shape) == PICTURE_AXES
    return not spec.dtype.startswith("float") and not is_picture


def words_of(spec: TensorSpec, batch: ReferenceBatch) -> npt.NDArray[np.bool_]:
    """Which of a tensor's values belong to words, not to padding.

    Of the tensor's axes up to its last axis of tokens; (batch,), all True, where it has none.
    """
    mask = batch.tensors["attention_mask"] == 1
    axes = [axis for axis, size in enumerate(spec.shape) if size == TOKENS]
    sizes = batch.tensors[spec.name].shape[: max(axes, default=0) + 1]
    keep = np.ones(sizes, bool)
    for axis in axes:
        keep &= mask.reshape(
            [len(mask), *(mask.shape[1] if axis == one else 1 for one in range(1, len(sizes)))]
        )
    return keep


def bytes_from_batches(batches: Sequence[ReferenceBatch]) -> bytes:
    """The batches as one blob, for `batches_from_bytes`."""
    files = {}
    for index, batch in enumerate(batches):
        files[f"{index}.json"] = json.dumps([batch.prompts, batch.seeds, batch.fixed_length]).encode()
        for kind, arrays in (("tensors", batch.tensors), ("margins", batch.margins)):
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                files[f"{index}/{kind}/{name}"] = buffer.getvalue()
    return zip_bytes(files)


def batches_from_bytes(data: bytes) -> tuple[ReferenceBatch, ...]:
    """What `bytes_from_batches` was given."""
    files = unzip_bytes(data)
    count = sum("/" not in name for name in files)
    return tuple(_batch_from_files(files, index) for index in range(count))


def _batch_from_files(files: Mapping[str, bytes], index: int) -> ReferenceBatch:
    prompts, seeds, fixed_length = json.loads(files[f"{index}.json"])
    arrays: dict[str, dict[str, Array]] = {"tensors": {}, "margins": {}}
    for path, data in files.items():
        if path.startswith(f"{index}/"):
            _, kind, name = path.split("/")
            arrays[kind][name] = np.load(io.BytesIO(data), allow_pickle=False)
    return ReferenceBatch(
        prompts=tuple(prompts),
        seeds=tuple(seeds),
        tensors=arrays["tensors"],
        margins={name: value.astype(np.float32) for name, value in arrays["margins"].items()},
        fixed_length=fixed_length,
    )
