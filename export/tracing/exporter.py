"""Export a stage to an ONNX graph with torch's dynamo exporter."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import onnx
import onnx_ir as ir
import torch
from torch.export._draft_export import DraftExportReport
from torch.nn.attention import SDPBackend, sdpa_kernel

from textual_vision.export.graph.opset import (
    OPSET_NEWEST_OF_TENSORRT_10,
    OPSET_OF_EXPORTER,
    check,
    check_opset,
    downgrade_to_17,
    opset_of,
)
from textual_vision.export.host.gc_tuning import gc_disabled
from textual_vision.export.model.batch import BATCH, TOKENS, Array
from textual_vision.export.model.calling import arguments_from_inputs, open_sizes
from textual_vision.export.model.stage import Stage
from textual_vision.export.passes.folding import fold_constants
from textual_vision.export.tracing.diagnostics import (
    constant_size,
    constant_size_error,
    export_error,
    size_range,
    size_range_error,
)
from textual_vision.export.tracing.embedding_bag import exportable_embedding_bag
from textual_vision.export.tracing.exact_translations import exact_translations
from textual_vision.export.tracing.fast_translation import Translations, patch_torch_export, translations
from textual_vision.export.tracing.fourier import exportable_fourier, fourier_translations
from textual_vision.export.tracing.kernel_per_sample import kernel_per_sample_translations
from textual_vision.export.tracing.recurrent import exportable_recurrence, recurrent_translations
from textual_vision.export.tracing.size_conditions import program_of_all_sizes
from textual_vision.export.tracing.tensor_names import name_tensors
from textual_vision.runtime.errors import TextualVisionError, UsageError

BATCH_LIMIT = 1 << 15
TRIED_BATCHES = (1, 2, 3, 8, BATCH_LIMIT)
Shapes = tuple[Any, ...]  # of each argument of forward: open axes with their sizes, or a tuple of such


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export. `tokens` None keeps the number of tokens dynamic, up to `max_tokens`."""

    opset: int = OPSET_NEWEST_OF_TENSORRT_10
    tokens: int | None = None
    max_tokens: int = 32


def onnx_from_stage(stage: Stage, example: Mapping[str, Array], options: ExportOptions) -> onnx.ModelProto:
    """The stage's graph, checked; `example` holds its inputs for at least two prompts of several tokens.

    Raises UsageError naming the module and its line when an operator cannot be exported, or when what was
    written is of another opset.
    """
    check_opset(options.opset)
    program = _program_from_stage(stage, example, options)
    name_tensors(program.model, stage.spec)
    model: onnx.ModelProto = program.model_proto
    if options.opset < OPSET_OF_EXPORTER:
        found = ir.from_proto(model)
        fold_constants(found)
        downgrade_to_17(found)
        model = ir.to_proto(found)
    written = opset_of(model)
    if written != options.opset:  # the exporter silently skips a conversion that it cannot do
        problem = f"{stage.name}: torch's exporter wrote opset {written}, not {options.opset}"
        raise UsageError(problem, f"export with --opset {written}")
    check(model)
    return model


def _program_from_stage(
    stage: Stage, example: Mapping[str, Array], options: ExportOptions
) -> torch.onnx.ONNXProgram:
    inputs = tuple(torch.from_numpy(example[spec.name]) for spec in stage.spec.inputs)
    shapes = _dynamic_shapes(stage, options)
    traced: torch.export.ExportedProgram | None = None
    # Without decomposition a chunk becomes a Split with num_outputs, which needs opset 18.
    once = patch_torch_export() if options.opset >= OPSET_OF_EXPORTER else contextlib.nullcontext()
    # The cache of fake tensors takes longer than computing them again.
    uncached = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    # Kernels of attention differ in the strides of their results, and the exporter's traces in their kernels.
    one_kernel = sdpa_kernel(SDPBackend.MATH)
    with (
        _quiet(),
        gc_disabled(),
        once,
        uncached,
        one_kernel,
        exportable_recurrence(),
        exportable_embedding_bag(),
        exportable_fourier(),
    ):
        try:
            traced = _traced(stage, inputs, shapes, options)
            program = torch.onnx.export(
                traced,
                dynamo=True,
                opset_version=max(options.opset, OPSET_OF_EXPORTER),
                external_data=False,
                optimize=False,
                verbose=False,
                custom_translation_table=_all_translations(options.opset),
            )
        except TextualVisionError:
            raise
        except Exception as error:  # a user's code may raise anything
            if (constant := constant_size(error)) is not None:
                report = _draft_report(stage, inputs, shapes)
                raise constant_size_error(stage.name, *constant, report) from error
            if (limited := size_range(error)) is not None:
                report = _draft_report(stage, inputs, shapes)
                raise size_range_error(stage.name, *limited, report) from error
            raise export_error(stage.name, error, traced) from error
    assert program is not None
    return program


def _traced(
    stage: Stage, inputs: tuple[torch.Tensor, ...], shapes: Shapes, options: ExportOptions
) -> torch.export.ExportedProgram:
    module = stage.module.eval()
    try:
        return torch.export.export(module, inputs, dynamic_shapes=shapes)
    except torch._dynamo.exc.UserError as error:
        if size_range(error) is None:
            raise
        sizes = {BATCH: TRIED_BATCHES, TOKENS: range(1, options.max_tokens + 1)}
        program = program_of_all_sizes(module, inputs, shapes, open_sizes(stage.spec), sizes)
        if program is None:
            raise
        return program


def _all_translations(opset: int) -> Translations:
    """Return our translations of operators, each kind of which has a module of its own."""
    return {
        **translations(opset),
        **exact_translations(),
        **fourier_translations(),
        **kernel_per_sample_translations(),
        **recurrent_translations(),
    }


def _draft_report(stage: Stage, inputs: tuple[torch.Tensor, ...], shapes: Shapes) -> DraftExportReport:
    """Return the report of torch's draft export, which continues after errors: the lines that fix a size.

    Draft export writes a log that by default stays in the system's temporary folder, and does not close it.
    """
    with tempfile.TemporaryDirectory() as logs, mock.patch.dict(os.environ, TORCH_TRACE=logs):
        program: Any = torch.export.draft_export(stage.module.eval(), inputs, dynamic_shapes=shapes)
        report: DraftExportReport = program._report
        gc.collect()
    return report


def _dynamic_shapes(stage: Stage, options: ExportOptions) -> Shapes:
    sizes = {BATCH: torch.export.Dim(BATCH, min=1, max=BATCH_LIMIT)}
    if options.tokens is None and options.max_tokens > 1:  # a model without a prompt has no size of tokens
        sizes[TOKENS] = torch.export.Dim(TOKENS, min=1, max=options.max_tokens)
    shapes = [
        {axis: sizes[size] for axis, size in open_axes.items() if size in sizes}
        for open_axes in open_sizes(stage.spec)
    ]
    return arguments_from_inputs(stage.spec, stage.module, shapes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about torchvision and its own deprecations."""
    logging.disable(logging.CRITICAL)
    try:
        quiet = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
