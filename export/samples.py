"""Real prompts as the stages' inputs, and what PyTorch makes of them: the reference of every comparison."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from textual_vision.export.cores import torch_on_one_core
from textual_vision.export.stages import StagedModel
from textual_vision.export.steps import packed, unpacked
from textual_vision.runtime.noise import noise_from_seed
from textual_vision.runtime.tokenizer import Tokenizer

Array = npt.NDArray[np.generic]

BATCH_SIZE = 4  # of the comparison: several prompts of different length, so that padding is tested too


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some samples: every tensor of the way by its name, as the reference gave it.

    `margins` holds, for tensors of codes, how clearly each was chosen (see `Stage.margins`). `fixed` when the
    graphs take prompts of this length only, so that padding must stay.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    tensors: Mapping[str, Array]
    margins: Mapping[str, npt.NDArray[np.float32]]
    fixed: bool = False


def reference_batches(
    model: StagedModel, prompts: Sequence[str], *, samples: int, seed: int, margins: bool = True
) -> tuple[Batch, ...]:
    """`samples` drawings by PyTorch in float32: the prompts in turn, with the seeds from `seed` on.

    Without `margins`, which only a comparison asks for, it takes half the time.
    """
    tokenizer = Tokenizer(model.tokenizer, model.text)
    chosen = [(prompts[index % len(prompts)], seed + index) for index in range(samples)]
    parts = [chosen[start : start + BATCH_SIZE] for start in range(0, samples, BATCH_SIZE)]
    with torch_on_one_core():
        return tuple(_reference_batch(model, tokenizer, part, margins) for part in parts)


@torch.no_grad()
def _reference_batch(
    model: StagedModel, tokenizer: Tokenizer, chosen: Sequence[tuple[str, int]], with_margins: bool
) -> Batch:
    tokens = tokenizer.encode([prompt for prompt, _ in chosen])
    noise = np.concatenate([noise_from_seed(seed, 1, model.noise_dim) for _, seed in chosen])
    tensors = {
        "input_ids": torch.from_numpy(tokens.ids),
        "attention_mask": torch.from_numpy(tokens.mask),
        "noise": torch.from_numpy(noise),
    }
    margins: dict[str, Tensor] = {}
    for stage in model.stages:
        inputs = {spec.name: tensors[spec.name] for spec in stage.spec.inputs}
        outputs = stage.module(*inputs.values())
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        tensors.update({spec.name: o for spec, o in zip(stage.spec.outputs, outputs, strict=True)})
        if with_margins and stage.margins is not None:
            margins.update(stage.margins(inputs))
    return Batch(
        prompts=tuple(prompt for prompt, _ in chosen),
        seeds=tuple(seed for _, seed in chosen),
        tensors={name: value.contiguous().numpy() for name, value in tensors.items()},
        margins={name: value.contiguous().float().numpy() for name, value in margins.items()},
        fixed=model.text.fixed,
    )


def bytes_from_batches(batches: Sequence[Batch]) -> bytes:
    """The batches as one blob, for `batches_from_bytes`."""
    files = {}
    for index, batch in enumerate(batches):
        files[f"{index}.json"] = json.dumps([batch.prompts, batch.seeds, batch.fixed]).encode()
        for kind, arrays in (("tensors", batch.tensors), ("margins", batch.margins)):
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                files[f"{index}/{kind}/{name}"] = buffer.getvalue()
    return packed(files)


def batches_from_bytes(data: bytes) -> tuple[Batch, ...]:
    """What `bytes_from_batches` was given."""
    files = unpacked(data)
    count = sum("/" not in name for name in files)
    return tuple(_batch_from_files(files, index) for index in range(count))


def _batch_from_files(files: Mapping[str, bytes], index: int) -> Batch:
    prompts, seeds, fixed = json.loads(files[f"{index}.json"])
    arrays: dict[str, dict[str, Array]] = {"tensors": {}, "margins": {}}
    for path, data in files.items():
        if path.startswith(f"{index}/"):
            _, kind, name = path.split("/")
            arrays[kind][name] = np.load(io.BytesIO(data), allow_pickle=False)
    return Batch(
        prompts=tuple(prompts),
        seeds=tuple(seeds),
        tensors=arrays["tensors"],
        margins={name: value.astype(np.float32) for name, value in arrays["margins"].items()},
        fixed=fixed,
    )
