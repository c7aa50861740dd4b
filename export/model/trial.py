"""Run every stage on a few prompts, within seconds, and check what every later step takes for granted.

A stage's module must be a pure function of its inputs: in eval mode, without random numbers, finite, with the
outputs that its spec names, the same for a prompt whatever else is in the batch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from textual_vision.export.host.parallel import torch_single_thread
from textual_vision.export.model.batch import BATCH, TOKENS
from textual_vision.export.model.calling import (
    TupleOutputs,
    arguments_from_inputs,
    check_order,
    run_module,
)
from textual_vision.export.model.module_checks import prepared_module
from textual_vision.export.model.op_watch import OperatorWatch, check_other_random
from textual_vision.export.model.prompts import COMPARED
from textual_vision.export.model.running import condition_of, texts_of
from textual_vision.export.model.stage import Stage, StagedModel
from textual_vision.export.model.user_code import user_errors
from textual_vision.runtime.errors import PromptWarning, UsageError
from textual_vision.runtime.generation.program import (
    ATTENTION_MASK,
    INPUT_IDS,
    LENGTHS,
    start_of_unit,
    step_tensors,
)
from textual_vision.runtime.manifest import TensorSpec, TextSpec
from textual_vision.runtime.text.tokenizer import Tokenizer

HINT = "see docs/how-to/custom-model.md"
PROMPTS = COMPARED[:3]
SEEDS = tuple(range(len(PROMPTS)))
RELATIVE_ERROR = 1e-3  # of a tensor in another batch: rounding in another order moves it by 1e-6
DIFFERENT_CODES = 0.05  # the share that near ties may flip then

Tensors = dict[str, Tensor]


def tried_model(model: StagedModel) -> StagedModel:
    """The model, ready to be run and exported; its fingerprint covers what the trial gave.

    Raises UsageError that names the stage, and the tensor, module or line, for what cannot be exported.
    """
    stages = [_prepared_stage(stage) for stage in model.stages]
    found = hashlib.sha256(model.fingerprint.encode())
    with torch_single_thread(), torch.no_grad():
        longest, several = _inputs(model)
        for stage in stages:
            _add_step(model, stage, longest)
            _run(stage, longest)  # a table that grows with its inputs is as large as it gets
            _check_outputs(stage, longest)
        prepared = []
        for stage in stages:
            _add_step(model, stage, several)
            found.update(json.dumps([stage.name, *_try_stage(stage, several)]).encode())
            prepared.append(_with_tuple_outputs(stage, several))
    image = replace(model.image, channels=several["image"].shape[3])
    return replace(model, stages=tuple(prepared), image=image, fingerprint=found.hexdigest())


def _add_step(model: StagedModel, stage: Stage, tensors: Tensors) -> None:
    """Adds the tensors of a loop's first step before its first stage runs."""
    for unit in model.program.units:
        if unit.loop is not None and unit.stages[0].name == stage.name:
            known = {name: value.numpy() for name, value in tensors.items()}
            start = start_of_unit(unit, known, len(PROMPTS))
            start |= step_tensors(unit, 0, model.program.step_noise(SEEDS), len(PROMPTS))
            tensors.update({name: torch.from_numpy(value.copy()) for name, value in start.items()})


def _prepared_stage(stage: Stage) -> Stage:
    """The stage with its module checked and ready."""
    module = prepared_module(stage.name, stage.module)
    check_order(stage.spec, module)
    arguments_from_inputs(stage.spec, module, stage.spec.inputs)
    return replace(stage, module=module)


def _inputs(model: StagedModel) -> tuple[Tensors, Tensors]:
    """The longest prompt that there can be, and prompts of several lengths; for labels both are the same."""
    given = {name: torch.from_numpy(value) for name, value in model.program.start_tensors(SEEDS).items()}
    if model.text is not None and model.tokenizer is not None:
        longest, several = _prompts(model.tokenizer, model.text)
    else:
        condition = condition_of(model, texts_of(model, PROMPTS, len(PROMPTS)))
        longest = several = {name: torch.from_numpy(value) for name, value in condition.tensors.items()}
    return {**longest, **given}, {**several, **{name: value.clone() for name, value in given.items()}}


def _prompts(data: bytes, text: TextSpec) -> tuple[Tensors, Tensors]:
    """The longest prompt, with the largest id, and prompts of several lengths."""
    tokenizer = Tokenizer(data, replace(text, drop_unknown=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        try:
            several = tokenizer.encode(PROMPTS)
        except UsageError as error:
            problem = f"the tokenizer makes no tokens of {PROMPTS[0]!r}: {error.message}"
            raise UsageError(problem, f"give it an unknown token; {HINT}") from None
    length, largest = text.max_tokens, tokenizer.largest_id
    if text.drop_unknown and text.unknown_id is not None:  # no stage ever gets the unknown token
        largest = min(largest, text.unknown_id - 1)
        several = replace(several, ids=np.where(several.ids == text.unknown_id, largest, several.ids))
    ids = np.resize(several.ids[0], (len(PROMPTS), length))
    ids[:, : several.ids.shape[1]] = several.ids[:, :length]
    ids[0, length // 2] = largest
    return _prompt_tensors(ids, np.ones_like(ids)), _prompt_tensors(several.ids, several.mask)


def _prompt_tensors(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Tensors:
    arrays = {INPUT_IDS: ids, ATTENTION_MASK: mask, LENGTHS: mask.sum(1)}
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def _run(stage: Stage, tensors: Tensors) -> Tensors:
    """Adds the stage's outputs to `tensors`, and returns them."""
    given = "; ".join(_described(one.name, tensors[one.name]) for one in stage.spec.inputs)
    with user_errors(f"stage {stage.name!r} on its first prompts", hint=f"it was given {given}; {HINT}"):
        found = run_module(stage.spec, stage.module, tensors)
    tensors.update(found)
    return found


def _described(name: str, value: Tensor) -> str:
    """The tensor's name, dtype and shape, and of integers their range: what indexes a table."""
    text = f"{name} {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if value.is_floating_point() or value.dtype == torch.bool or not value.numel():
        return text
    return f"{text} of {int(value.min())} to {int(value.max())}"


def _try_stage(stage: Stage, tensors: Tensors) -> Iterator[str]:
    """Runs all checks, adds the outputs to `tensors`; gives the outputs' digests."""
    versions = _versions(stage.module)
    found: Tensors = {}
    with OperatorWatch(stage.name):
        check_other_random(stage.name, lambda: found.update(_run(stage, tensors)))
    _check_outputs(stage, tensors)
    _check_repeated(stage, tensors, found)
    if changed := [
        name for name, version in _versions(stage.module).items() if versions.get(name) != version
    ]:
        problem = f"stage {stage.name!r} changes {changed[0]!r} while it runs"
        raise UsageError(problem, "a graph keeps no state: forward must not assign to buffers or parameters")
    _check_alone(stage, tensors, found)
    return (hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest() for value in found.values())


def _versions(module: nn.Module) -> dict[str, tuple[int, int]]:
    """What changes when a parameter or buffer is written to or replaced."""
    values = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: (id(value), value._version) for name, value in values}


def _check_outputs(stage: Stage, tensors: Tensors) -> None:
    for spec in stage.spec.outputs:
        _check_output(stage.name, spec, tensors[spec.name], tensors)


def _check_output(stage: str, spec: TensorSpec, value: Tensor, tensors: Mapping[str, Tensor]) -> None:
    ids = tensors.get(INPUT_IDS)
    sizes = {BATCH: len(PROMPTS), TOKENS: 1 if ids is None else ids.shape[1]}
    shape = tuple(sizes.get(size, size) if isinstance(size, str) else size for size in spec.shape)
    dtype = str(value.dtype).removeprefix("torch.")
    if (dtype, tuple(value.shape)) != (spec.dtype, shape):
        declared = ", ".join(
            f"{size}={n}" if size != n else f"{n}" for size, n in zip(spec.shape, shape, strict=True)
        )
        problem = (
            f"stage {stage!r} gives {spec.name!r} as {dtype} {tuple(value.shape)}, "
            f"the spec says {spec.dtype} ({declared})"
        )
        raise UsageError(problem, f"change the spec or the module; {HINT}")
    if value.is_floating_point() and not value.isfinite().all():
        kind = "NaN" if value.isnan().any() else "an infinite number"
        hint = "look at the checkpoint; mask with a large number such as -1e4 instead of -inf"
        raise UsageError(f"stage {stage!r} gives {kind} in {spec.name!r}", hint)


def _check_repeated(stage: Stage, tensors: Tensors, found: Tensors) -> None:
    again = _run(stage, dict(tensors))
    for name, value in found.items():
        if not _is_close(again[name], value):
            problem = f"stage {stage.name!r} gives another {name!r} for the same inputs when it runs again"
            raise UsageError(problem, "a graph keeps no state: forward must not change its module")


def _check_alone(stage: Stage, tensors: Tensors, found: Tensors) -> None:
    """Every prompt alone gives what it gives among others."""
    for index in range(len(PROMPTS)):
        alone = {name: value[index : index + 1] for name, value in tensors.items()}
        one = _run(stage, alone)
        for name, value in found.items():
            if one[name].shape != value[index : index + 1].shape or not _is_close(
                one[name], value[index : index + 1]
            ):
                problem = f"stage {stage.name!r} gives another {name!r} for a prompt alone than among others"
                hint = "every prompt is computed by itself: no sum, mean, sort or norm over the batch's axis"
                raise UsageError(problem, hint)


def _is_close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    if not expected.is_floating_point() and expected.dtype != torch.uint8:
        return float((found != expected).double().mean()) <= DIFFERENT_CODES
    difference, size = (found.double() - expected.double()).norm(), expected.double().norm()
    lowest = 1e-6 if expected.is_floating_point() else float(expected.numel()) ** 0.5
    return bool(difference <= RELATIVE_ERROR * size + lowest)


def _with_tuple_outputs(stage: Stage, tensors: Tensors) -> Stage:
    """The stage, its module wrapped if it returns a mapping: a graph's outputs have an order."""
    inputs: Sequence[Tensor] = [tensors[one.name].clone() for one in stage.spec.inputs]
    if not isinstance(stage.module(*inputs), Mapping):
        return stage
    return replace(stage, module=TupleOutputs(stage.module, stage.spec))
