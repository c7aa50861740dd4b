"""Run prompts through the PyTorch stages: the reference of every comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from textual_vision.export.host.parallel import torch_single_thread
from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.model.running import StageRun, condition_of, run_model
from textual_vision.export.model.stage import StagedModel

BATCH_SIZE = 4  # several prompts of different lengths, so that padding is compared too


def reference_batches(
    model: StagedModel, prompts: Sequence[str], *, samples: int, seed: int, margins: bool = True
) -> tuple[ReferenceBatch, ...]:
    """Return `samples` pictures by PyTorch in float32, with all tensors in between.

    The prompts repeat in order, with the seeds `seed`, `seed + 1`, … Without `margins`, which only
    comparisons need, this takes half the time.
    """
    chosen = [(prompts[index % len(prompts)], seed + index) for index in range(samples)]
    parts = [chosen[start : start + BATCH_SIZE] for start in range(0, samples, BATCH_SIZE)]
    with torch_single_thread():
        return tuple(reference_batch(model, part, margins=margins) for part in parts)


def reference_batch(
    model: StagedModel, chosen: Sequence[tuple[str, int]], *, margins: bool = True
) -> ReferenceBatch:
    """Return the pictures of (prompt, seed) pairs as one batch, with all tensors in between."""
    seeds = [seed for _, seed in chosen]
    condition = condition_of(model, [text for text, _ in chosen])
    tensors, runs = run_model(model, condition, seeds)
    looped = {name: [run for run in runs if run.stage == name] for name in model.program.looped}
    return ReferenceBatch(
        prompts=condition.texts,
        seeds=tuple(seeds),
        tensors=tensors,
        margins=_margins(model, runs) if margins else {},
        fixed_length=model.text is not None and model.text.fixed_length,
        steps={name: tuple({**run.inputs, **run.outputs} for run in steps) for name, steps in looped.items()},
    )


@torch.no_grad()
def _margins(model: StagedModel, runs: Sequence[StageRun]) -> dict[str, npt.NDArray[np.float32]]:
    """How clearly the codes of stages outside of loops were chosen."""
    found: dict[str, Tensor] = {}
    for run in runs:
        stage = model.stage(run.stage)
        if stage.margins is not None and run.stage not in model.program.looped:
            inputs = {name: torch.from_numpy(np.array(value)) for name, value in run.inputs.items()}
            found.update(stage.margins(inputs))
    return {name: value.contiguous().float().numpy() for name, value in found.items()}
