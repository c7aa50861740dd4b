"""Prepare a build: load the model, start exporting its long stages, and generate the reference pictures.

Three things run at the same time: worker processes export the long stages, this process generates pictures
and converts the other stages, and threads compare the precisions that are ready.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from textual_vision.calibration.prompts import CalibrationWarning, random_prompts, vocabulary_prompts
from textual_vision.export.build.calibration import calibration_count, choose_prompts
from textual_vision.export.build.comparisons import Comparisons, start_comparisons
from textual_vision.export.build.export_jobs import StageExportJobs, start_stage_exports
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.build.stage_export import StageExportSpec
from textual_vision.export.host.step_cache import StepCache
from textual_vision.export.loading.source import load_checked_model
from textual_vision.export.model.batch import ReferenceBatch, batches_from_bytes, bytes_from_batches
from textual_vision.export.model.reference_batches import BATCH_SIZE, reference_batches
from textual_vision.export.model.running import condition_of, is_built_in, texts_of
from textual_vision.export.model.stage import StagedModel
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.program import INPUT_IDS

CALIBRATION_SEED = 1 << 32  # added to the seed, so that calibration noise differs from that of the comparison


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """The inputs and the running work that the steps of a build share.

    `batches` are the reference pictures, `calibration` the batches to calibrate on (none for fp32 alone).
    """

    model: StagedModel
    options: BuildOptions
    steps: StepCache
    jobs: StageExportJobs
    batches: tuple[ReferenceBatch, ...]
    calibration: tuple[ReferenceBatch, ...]
    comparisons: Comparisons


@contextlib.contextmanager
def prepare(source: str, options: BuildOptions, steps: StepCache) -> Iterator[BuildContext]:
    """Yield the context of a build. Leaving it ends its worker processes and threads."""
    model = load_checked_model(source, options.prompt_length)
    _warn_of_unknown_prompts(model, options)
    spec = StageExportSpec(
        source=source,
        opset=options.opset,
        tokens=options.prompt_length,
        target=options.target,
        no_rewrite=options.no_rewrite,
    )
    with contextlib.ExitStack() as stack:
        example = partial(_example_batch, model, options)
        jobs = stack.enter_context(start_stage_exports(model, spec, steps, example))
        batches = _reference_batches(model, options, steps)
        calibration = _calibration_batches(model, options, steps) if options.calibrates else ()
        comparisons = stack.enter_context(start_comparisons(model, batches, steps))
        yield BuildContext(
            model=model,
            options=options,
            steps=steps,
            jobs=jobs,
            batches=batches,
            calibration=calibration,
            comparisons=comparisons,
        )


def _warn_of_unknown_prompts(model: StagedModel, options: BuildOptions) -> None:
    if model.text is None or not is_built_in(options.prompts):
        return
    if texts_of(model, options.prompts, 1)[0] not in options.prompts:
        warnings.warn(
            f"{model.name} knows few words of the built-in prompts: it is compared on random words of its "
            "vocabulary; give prompts of your own by --prompts and --calibration-prompts",
            CalibrationWarning,
            stacklevel=3,
        )


def _example_batch(model: StagedModel, options: BuildOptions) -> ReferenceBatch:
    """Return inputs to trace the stages with and to time their graphs on."""
    count = min(BATCH_SIZE, options.samples)
    texts = texts_of(model, options.prompts, count)
    if model.tokenizer is not None and condition_of(model, texts).tensors[INPUT_IDS].shape[1] == 1:
        texts = vocabulary_prompts(model.tokenizer, count)  # the exporter takes a size of 1 for a constant
    return reference_batches(model, texts, samples=count, seed=options.seed, margins=False)[0]


def _reference_batches(
    model: StagedModel, options: BuildOptions, steps: StepCache
) -> tuple[ReferenceBatch, ...]:
    work = partial(_generate, model, options.prompts, options.samples, options.seed, margins=True)
    depends = [model.fingerprint, options.prompts, options.samples, options.seed, options.prompt_length]
    return batches_from_bytes(steps.run("generate the reference pictures", depends, work))


def _calibration_batches(
    model: StagedModel, options: BuildOptions, steps: StepCache
) -> tuple[ReferenceBatch, ...]:
    seed = options.seed + CALIBRATION_SEED
    prompts = _calibration_prompts(model, options, steps, seed)
    work = partial(_generate, model, prompts, len(prompts), seed, margins=False)
    depends = [model.fingerprint, prompts, seed, options.prompt_length]
    return batches_from_bytes(steps.run("generate the calibration pictures", depends, work))


def _calibration_prompts(
    model: StagedModel, options: BuildOptions, steps: StepCache, seed: int
) -> tuple[str, ...]:
    """Return the prompts to calibrate on: of more than needed, those that visit the most codebook rows."""
    prompts, count = options.calibration_prompts, calibration_count(model, options.calibration_count)
    if options.calibration_random:
        if model.tokenizer is None:
            problem = f"{model.name} takes no prompts to make of random words"
            raise UsageError(problem, "leave out random: calibration uses the labels and seeds")
        prompts = random_prompts(model.tokenizer, count, options.seed)
    prompts = texts_of(model, prompts, count)
    if len(prompts) <= count:
        return prompts
    work = partial(_chosen_indices, model, prompts, count, seed)
    depends = [model.fingerprint, prompts, count, seed, options.prompt_length]
    chosen = json.loads(steps.run("choose the calibration prompts", depends, work))
    return tuple(prompts[index] for index in chosen)


def _generate(
    model: StagedModel, prompts: tuple[str, ...], samples: int, seed: int, *, margins: bool
) -> bytes:
    texts = texts_of(model, prompts, samples)
    return bytes_from_batches(reference_batches(model, texts, samples=samples, seed=seed, margins=margins))


def _chosen_indices(model: StagedModel, prompts: tuple[str, ...], count: int, seed: int) -> bytes:
    return json.dumps(choose_prompts(model, prompts, count=count, seed=seed)).encode()
