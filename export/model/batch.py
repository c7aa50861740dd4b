"""The reference's tensors for a batch of samples; this module needs no torch."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from textual_vision.export.host.step_cache import unzip_bytes, zip_bytes
from textual_vision.runtime.manifest import StageSpec, TensorSpec

BATCH, TOKENS = "batch", "tokens"  # names of dynamic dimensions
MASKS = ("attention_mask",)  # says which tokens are padding, whichever stage is compared
STEP = ".step"  # suffix of a tensor's name among the margins, see `model.stage.Stage`

PICTURE_AXES = 4  # batch, height, width, channels

Array = npt.NDArray[np.generic]
Inputs = Mapping[str, Array]  # of a stage, by name


@dataclass(frozen=True, kw_only=True)
class ReferenceBatch:
    """Samples with every tensor that the reference computed for them, by name.

    `margins` holds the margins of code tensors (see `model.stage.Stage`). `fixed_length` says that the graphs
    take prompts of this length only, so that padding must stay. `steps` holds, for each stage that runs in a
    loop, its inputs and outputs by name at each step that is kept (see `model.running`).
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    tensors: Mapping[str, Array]
    margins: Mapping[str, npt.NDArray[np.float32]]
    fixed_length: bool = False
    steps: Mapping[str, tuple[Mapping[str, Array], ...]] = field(default_factory=dict)


def batches_of_stage(batches: Sequence[ReferenceBatch], stage: StageSpec) -> list[ReferenceBatch]:
    """The batches with the tensors that the stage takes and gives: of a stage in a loop one for each step."""
    found = []
    for batch in batches:
        runs = batch.steps.get(stage.name)
        if runs is None:
            found.append(batch)
            continue
        given = {name: batch.tensors[name] for name in MASKS if name in batch.tensors}
        found += [replace(batch, tensors={**given, **tensors}, margins={}, steps={}) for tensors in runs]
    return found


def is_codes(spec: TensorSpec) -> bool:
    """Whether the tensor's values are compared for equality: integers and booleans, but no picture."""
    is_picture = spec.dtype == "uint8" and len(spec.shape) == PICTURE_AXES
    return not spec.dtype.startswith("float") and not is_picture


def words_of(spec: TensorSpec, batch: ReferenceBatch) -> npt.NDArray[np.bool_]:
    """Return which of a tensor's values belong to words, not to padding.

    Of the tensor's axes up to its last axis of tokens; (batch,), all True, where it has none.
    """
    axes = [axis for axis, size in enumerate(spec.shape) if size == TOKENS]
    sizes = batch.tensors[spec.name].shape[: max(axes, default=0) + 1]
    keep = np.ones(sizes, bool)
    for axis in axes if "attention_mask" in batch.tensors else ():
        mask = batch.tensors["attention_mask"] == 1
        others = [mask.shape[1] if axis == one else 1 for one in range(1, len(sizes))]
        keep &= mask.reshape([len(mask), *others])
    return keep


def bytes_from_batches(batches: Sequence[ReferenceBatch]) -> bytes:
    """Return the batches as one zip file, for `batches_from_bytes`."""
    files = {}
    for index, batch in enumerate(batches):
        files[f"{index}.json"] = json.dumps([batch.prompts, batch.seeds, batch.fixed_length]).encode()
        runs = {
            f"steps/{stage}/{step}": tensors
            for stage, steps in batch.steps.items()
            for step, tensors in enumerate(steps)
        }
        for kind, arrays in {"tensors": batch.tensors, "margins": batch.margins, **runs}.items():
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                files[f"{index}/{kind}/{name}"] = buffer.getvalue()
    return zip_bytes(files)


def batches_from_bytes(data: bytes) -> tuple[ReferenceBatch, ...]:
    """Return the batches from the result of `bytes_from_batches`."""
    files = unzip_bytes(data)
    count = sum("/" not in name for name in files)
    return tuple(_batch_from_files(files, index) for index in range(count))


def _batch_from_files(files: Mapping[str, bytes], index: int) -> ReferenceBatch:
    prompts, seeds, fixed_length = json.loads(files[f"{index}.json"])
    arrays: dict[str, dict[str, Array]] = {"tensors": {}, "margins": {}}
    for path, data in files.items():
        if path.startswith(f"{index}/"):
            kind, _, name = path.partition("/")[2].rpartition("/")
            arrays.setdefault(kind, {})[name] = np.load(io.BytesIO(data), allow_pickle=False)
    steps: dict[str, list[Mapping[str, Array]]] = {}
    for kind in arrays:  # in the order of the steps
        if kind.startswith("steps/"):
            steps.setdefault(kind.split("/")[1], []).append(arrays[kind])
    return ReferenceBatch(
        prompts=tuple(prompts),
        seeds=tuple(seeds),
        tensors=arrays["tensors"],
        margins={name: value.astype(np.float32) for name, value in arrays["margins"].items()},
        fixed_length=fixed_length,
        steps={stage: tuple(runs) for stage, runs in steps.items()},
    )
