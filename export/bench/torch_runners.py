"""The runners that need the checkpoint: PyTorch, and one unoptimized export of the whole model."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from textual_vision.export.bench.runner import COMPILE, RunnerSpec, RunOutput
from textual_vision.export.bench.runners import PromptReader
from textual_vision.export.graph.pipeline_graph import merged_spec
from textual_vision.export.loading.source import load_model
from textual_vision.export.model.batch import BATCH, TOKENS, Array
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.tracing.exporter import BATCH_LIMIT
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import BackendMissingError, UsageError
from textual_vision.runtime.generation.consistency import CODES, IMAGE
from textual_vision.runtime.manifest import StageSpec
from textual_vision.training.checkpoint import SHIPPED_FOLDER

COMPILERS = ("c++", "g++", "clang++")


class TorchRunner:
    """The checkpoint's modules in float32, in eager mode or compiled by torch.compile."""

    def __init__(self, spec: RunnerSpec) -> None:
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        bundle = Bundle(spec.bundle)
        model = model_of_bundle(spec.checkpoint, bundle)
        self._reader = PromptReader(bundle)
        self._program = model.program
        self._modules: dict[str, Any] = {stage.name: stage.module.eval() for stage in model.stages}
        if spec.kind == COMPILE:
            check_compiler()
            self._modules = {name: torch.compile(module) for name, module in self._modules.items()}

    @torch.inference_mode()
    def run(self, prompts: Sequence[str], seeds: Sequence[int]) -> RunOutput:
        """Generate picture k from prompt k and seed k."""
        seconds: dict[str, float] = {}

        def run_stage(spec: StageSpec, known: Mapping[str, Array], step: int) -> dict[str, Array]:
            start = time.perf_counter()
            inputs = {one.name: torch.from_numpy(known[one.name]) for one in spec.inputs}
            outputs = _outputs(spec, self._modules[spec.name], inputs)
            seconds[spec.name] = seconds.get(spec.name, 0.0) + time.perf_counter() - start
            return {name: value.numpy() for name, value in outputs.items()}

        tensors = self._program.run(self._reader.tensors(prompts, seeds), run_stage, seeds)
        return RunOutput(images=tensors[IMAGE].astype(np.uint8, copy=False), stage_seconds=seconds)


class _PipelineModule(nn.Module):
    """All stages as one module: condition and noise → picture (and codes, when there are any)."""

    def __init__(self, model: StagedModel) -> None:
        super().__init__()
        self.specs = [stage.spec for stage in model.stages]
        self.stages = nn.ModuleList(stage.module for stage in model.stages)
        given = {tensor.name for spec in self.specs for tensor in spec.outputs}
        self.inputs = merged_spec(self.specs).inputs
        self.outputs = [name for name in (IMAGE, CODES) if name in given]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tensors = dict(zip([spec.name for spec in self.inputs], inputs, strict=True))
        for spec, module in zip(self.specs, self.stages, strict=True):
            tensors.update(_outputs(spec, module, tensors))
        return tuple(tensors[name] for name in self.outputs)


def _outputs(spec: StageSpec, module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = module(*(tensors[tensor.name] for tensor in spec.inputs))
    values = found if isinstance(found, tuple) else (found,)
    return {tensor.name: value for tensor, value in zip(spec.outputs, values, strict=True)}


def model_of_bundle(checkpoint: str, bundle: Bundle) -> StagedModel:
    """Return the model at `checkpoint`; raises UsageError unless the bundle was exported from it."""
    model = load_model(checkpoint)
    expected = bundle.manifest.provenance.get("checkpoint")
    if expected != model.digest:
        problem = (
            f"{checkpoint} (digest {model.digest[:12]}…) is not the one that the bundle was exported from"
        )
        raise UsageError(
            f"{problem} ({str(expected)[:12]}…)", "give the right checkpoint: --checkpoint FOLDER"
        )
    return model


def shipped_model_of_bundle(bundle: Bundle) -> str:
    """Return the name of the shipped checkpoint whose digest the bundle has.

    Raises UsageError when the bundle was exported from another one.
    """
    names = sorted(config.parent.name for config in SHIPPED_FOLDER.glob("*/config.json"))
    expected = bundle.manifest.provenance.get("checkpoint")
    for name in names:
        if load_model(name).digest == expected:
            return name
    problem = "comparing with PyTorch needs the checkpoint that the bundle was exported from"
    shipped = f"no shipped checkpoint has its digest ({', '.join(names)})"
    raise UsageError(f"{problem}, and {shipped}", "name the checkpoint: --checkpoint FOLDER")


def check_compiler() -> None:
    """Raise BackendMissingError unless a C++ compiler is installed, which torch.compile needs on a CPU."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS) if name):
        raise BackendMissingError(
            "torch.compile needs a C++ compiler, and none is installed", "install g++, or leave out `compile`"
        )


@contextlib.contextmanager
def _only_errors(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def naive_graph(model: StagedModel, example: Mapping[str, Array]) -> bytes:
    """One `torch.onnx.export` of the whole model: only names and sizes that vary are given.

    `example` holds the tensors of a few pictures by name. Raises UsageError for a model that runs in a loop.
    """
    if model.loops:
        problem = f"{model.name} runs the loop {model.loops[0].name!r}, which no single export holds"
        raise UsageError(problem, "leave out `naive`")
    pipeline = _PipelineModule(model).eval()
    batch = torch.export.Dim(BATCH, min=1, max=BATCH_LIMIT)
    longest = 1 if model.text is None else model.text.max_tokens
    sizes = {BATCH: batch, TOKENS: torch.export.Dim(TOKENS, min=1, max=longest)}
    shapes = tuple(
        {axis: sizes[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in pipeline.inputs
    )
    # The exporter warns of its own deprecations and of torchvision, about which users can do nothing.
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _only_errors(logger):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            pipeline,
            tuple(torch.from_numpy(example[spec.name]) for spec in pipeline.inputs),
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=[spec.name for spec in pipeline.inputs],
            output_names=pipeline.outputs,
            dynamic_shapes=(shapes,),
        )
    assert program is not None
    data: bytes = program.model_proto.SerializeToString()
    return data
