"""A model run by PyTorch, stage by stage and step by step: the reference of every comparison."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from textual_vision.calibration.prompts import vocabulary_prompts
from textual_vision.export.model.batch import Array
from textual_vision.export.model.calling import run_module
from textual_vision.export.model.prompts import CALIBRATED, COMPARED
from textual_vision.export.model.stage import Stage, StagedModel
from textual_vision.runtime.generation.conditions import (
    Condition,
    condition_from_labels,
    condition_from_prompts,
    no_condition,
)
from textual_vision.runtime.manifest import StageSpec
from textual_vision.runtime.text.tokenizer import Tokenizer

KEPT_LIMIT_BYTES = 64 << 20  # of a looped stage's tensors of one batch, over all steps


FEW_PROMPTS = 4  # of the built-in ones


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """One run of a stage: its tensors by name; `step` counts the runs in a loop, 0 outside."""

    stage: str
    step: int
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def texts_of(model: StagedModel, texts: Sequence[str], count: int) -> tuple[str, ...]:
    """`texts` for a model that takes prompts; else `count` conditions: its labels in turn, or empty ones.

    Labels that a user gave in the place of our own prompts are kept. Of the built-in prompts those remain
    whose words are all in the vocabulary; where they are few, there are `count` prompts of random words.
    """
    if model.text is not None:
        if not is_built_in(texts) or model.tokenizer is None:
            return tuple(texts)
        known = known_prompts(model, texts)
        return (
            known
            if len(known) >= min(FEW_PROMPTS, len(texts))
            else vocabulary_prompts(model.tokenizer, count)
        )
    if model.labels is None:
        return ("",) * count
    given = set(model.labels.names) | {str(number) for number in range(len(model.labels.names))}
    labels = tuple(texts) if set(texts) <= given else model.labels.names
    return tuple(itertools.islice(itertools.cycle(labels), count))


def is_built_in(texts: Sequence[str]) -> bool:
    """Return whether all `texts` are built-in prompts, which a user did not choose."""
    return set(texts) <= {*COMPARED, *CALIBRATED}


def known_prompts(model: StagedModel, texts: Sequence[str]) -> tuple[str, ...]:
    """Return those of `texts` whose words are all in the model's vocabulary."""
    if model.text is None or model.tokenizer is None:
        return ()
    tokenizer = Tokenizer(model.tokenizer, replace(model.text, drop_unknown=False))
    (tokens,) = tokenizer.encode_batches(texts, len(texts))
    return tuple(text for text, note in zip(texts, tokens.notes, strict=True) if not note.unknown)


def condition_of(model: StagedModel, texts: Sequence[str]) -> Condition:
    """The condition's tensors for `texts`: prompts, or labels by name or number.

    A model without a condition ignores them.
    """
    if model.text is not None and model.tokenizer is not None:
        return condition_from_prompts(Tokenizer(model.tokenizer, model.text), texts)
    if model.labels is not None:
        return condition_from_labels(model.labels, texts)
    return no_condition(len(texts))


@torch.no_grad()
def run_model(
    model: StagedModel, condition: Condition, seeds: Sequence[int]
) -> tuple[dict[str, Array], list[StageRun]]:
    """Every tensor of the way by name (of a loop those of its last step), and the runs of its stages.

    Of a loop whose tensors need much memory, only some steps are among the runs: the first, the last, and
    others at equal distances.

    Row k is for `condition`'s row k and the seed k; parameters have their defaults.
    """
    stages = {stage.name: stage for stage in model.stages}
    steps = {name: loop.steps for loop in model.loops for name in loop.stages}
    runs: list[StageRun] = []

    def run(spec: StageSpec, known: Mapping[str, Array], step: int) -> Mapping[str, Array]:
        inputs = {one.name: known[one.name] for one in spec.inputs}
        outputs = outputs_of(stages[spec.name], inputs)
        if step in kept_steps(steps.get(spec.name, 1), [*inputs.values(), *outputs.values()]):
            runs.append(StageRun(stage=spec.name, step=step, inputs=inputs, outputs=outputs))
        return outputs

    program = model.program
    tensors = {**condition.tensors, **program.start_tensors(seeds)}
    return program.run(tensors, run, seeds), runs


def kept_steps(steps: int, tensors: Sequence[Array]) -> frozenset[int]:
    """The steps of a loop whose tensors are kept, where one step has `tensors`: all, if memory allows."""
    step_bytes = max(1, sum(tensor.nbytes for tensor in tensors))
    count = min(steps, max(2, KEPT_LIMIT_BYTES // step_bytes))
    return frozenset(round(number * (steps - 1) / max(1, count - 1)) for number in range(count))


def outputs_of(stage: Stage, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The stage's outputs by name."""
    given = {spec.name: torch.from_numpy(inputs[spec.name]) for spec in stage.spec.inputs}
    outputs = run_module(stage.spec, stage.module, given)
    return {name: value.contiguous().numpy() for name, value in outputs.items()}
