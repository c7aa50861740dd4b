"""Real prompts as the stages' inputs, and what PyTorch makes of them: the reference of every comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from textual_vision.export.host.parallel import torch_single_thread
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.calling import run_module
from textual_vision.export.model.stage import StagedModel
from textual_vision.runtime.noise import noise_from_seed
from textual_vision.runtime.tokenizer import Tokenizer

BATCH_SIZE = 4  # of the comparison: several prompts of different length, so that padding is tested too


def reference_batches(
    model: StagedModel, prompts: Sequence[str], *, samples: int, seed: int, margins: bool = True
) -> tuple[ReferenceBatch, ...]:
    """`samples` drawings by PyTorch in float32: the prompts in turn, with the seeds from `seed` on.

    Without `margins`, which only a comparison asks for, it takes half the time.
    """
    tokenizer = Tokenizer(model.tokenizer, model.text)
    chosen = [(prompts[index % len(prompts)], seed + index) for index in range(samples)]
    parts = [chosen[start : start + BATCH_SIZE] for start in range(0, samples, BATCH_SIZE)]
    with torch_single_thread():
        return tuple(_reference_batch(model, tokenizer, part, margins) for part in parts)


@torch.no_grad()
def _reference_batch(
    model: StagedModel, tokenizer: Tokenizer, chosen: Sequence[tuple[str, int]], with_margins: bool
) -> ReferenceBatch:
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
        tensors.update(run_module(stage.spec, stage.module, inputs))
        if with_margins and stage.margins is not None:
            margins.update(stage.margins({name: value.clone() for name, value in inputs.items()}))
    return ReferenceBatch(
        prompts=tuple(prompt for prompt, _ in chosen),
        seeds=tuple(seed for _, seed in chosen),
        tensors={name: value.contiguous().numpy() for name, value in tensors.items()},
        margins={name: value.contiguous().float().numpy() for name, value in margins.items()},
        fixed_length=model.text.fixed_length,
    )
