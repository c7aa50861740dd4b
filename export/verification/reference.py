"""The reference of a verification: PyTorch's pictures in several batch sizes, and the sweeps of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from textual_vision.export.host.parallel import parallel_map, torch_single_thread
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.reference_batches import reference_batch
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.verification.layers.tables import Sweep, sweeps_of
from textual_vision.export.verification.options import VerifyOptions
from textual_vision.export.verification.prompts import Sample
from textual_vision.runtime.golden import Golden

BATCH = 4  # pictures of different prompt lengths, so that padding is compared
SINGLE = 8  # pictures that are compared in batches of one
LARGE = 2  # batches of a size above BATCH


@dataclass(frozen=True, kw_only=True)
class Reference:
    """PyTorch's tensors: `whole` of all samples, `by_size` for each batch size, `sweeps` of the tables."""

    whole: tuple[ReferenceBatch, ...]
    by_size: Mapping[int, tuple[ReferenceBatch, ...]]
    sweeps: tuple[Sweep, ...]
    golden: tuple[ReferenceBatch, ...]


def make_reference(
    model: StagedModel,
    samples: Sequence[Sample],
    options: VerifyOptions,
    largest: int,
    golden: Golden | None,
) -> Reference:
    """Run PyTorch; `largest` is the maximum of the batch profile."""
    size = min(BATCH, largest)
    pairs = [(one.text, one.seed) for one in samples]
    forced = options.defaults.forced
    with torch_single_thread():
        whole = _batches(model, pairs, size)
        by_size = {}
        for count in options.batch_sizes(largest):
            if count == size:
                by_size[count] = whole[: -(-forced // size)]
            else:
                pictures = min(len(pairs), SINGLE if count < size else LARGE * count)
                # A large batch needs its full size, whatever the number of samples.
                repeated = [pairs[index % len(pairs)] for index in range(max(pictures, count))]
                by_size[count] = _batches(model, repeated, count)
    wanted = [] if golden is None else [(one.prompt, one.seed) for one in golden.pictures]
    return Reference(
        whole=whole,
        by_size=by_size,
        sweeps=tuple(sweeps_of(model, whole)),
        golden=_batches(model, wanted, 1),
    )


def _batches(model: StagedModel, pairs: Sequence[tuple[str, int]], size: int) -> tuple[ReferenceBatch, ...]:
    parts = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return tuple(parallel_map(lambda part: reference_batch(model, part), parts))
