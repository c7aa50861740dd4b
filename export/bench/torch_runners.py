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

import torch
from torch import Tensor, nn

from textual_vision.export.bench.runner import COMPILE, RunnerSpec, RunOutput
from textual_vision.export.bench.runners import PromptReader
from textual_vision.export.model.batch import BATCH, TOKENS
from textual_vision.export.model.loading import load_model
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.tracing.exporter import BATCH_LIMIT
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import BackendMissingError, UsageError
from textual_vision.runtime.manifest import StageSpec
from textual_vision.runtime.pipeline import CODES, IMAGE, NOISE, PROMPT_TENSORS
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
        self._stages = [(stage.spec, stage.module.eval()) for stage in model.stages]
        if spec.kind == COMPILE:
            check_compiler()
            self._stages = [(s, torch.compile(module)) for s, module in self._stages]  # type: ignore[misc]

    @torch.inference_mode()
    def run(self, prompts: Sequence[str], seeds: Sequence[int]) -> RunOutput:
        """Generate picture k from prompt k and seed k."""
        given = self._reader.tensors(prompts, seeds)
        tensors = {name: torch.from_numpy(value) for name, value in given.items()}
        seconds = {}
        for spec, module in self._stages:
            start = time.perf_counter()
            tensors.update(_outputs(spec, module, tensors))
            seconds[spec.name] = time.perf_counter() - start
        return RunOutput(images=tensors[IMAGE].numpy(), stage_seconds=seconds)


class _PipelineModule(nn.Module):
    """All stages as one module: token ids, mask and noise → picture (and codes, if the model has any)."""

    def __init__(self, model: StagedModel) -> None:
        super().__init__()
        self.specs = [stage.spec for stage in model.stages]
        self.stages = nn.ModuleList(stage.module for stage in model.stages)
        given = {tensor.name for spec in self.specs for tensor in spec.outputs}
        self.outputs = [name for name in (IMAGE, CODES) if name in given]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        names = (*PROMPT_TENSORS, NOISE)
        tensors = dict(zip(names, (input_ids, attention_mask, noise), strict=True))
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


def naive_graph(model: StagedModel) -> bytes:
    """Return one `torch.onnx.export` of the whole model, given only tensor names and dynamic shapes."""
    dim = model.noise_dim
    ids = torch.zeros(2, 5, dtype=torch.int64)
    example = (ids, torch.ones_like(ids), torch.zeros(2, dim))
    pipeline = _PipelineModule(model).eval()
    batch = torch.export.Dim(BATCH, min=1, max=BATCH_LIMIT)
    tokens = torch.export.Dim(TOKENS, min=1, max=model.text.max_tokens)
    words = {0: batch, 1: tokens}
    # The exporter warns of its own deprecations and of torchvision, about which users can do nothing.
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _only_errors(logger):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            pipeline,
            example,
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=[*PROMPT_TENSORS, NOISE],
            output_names=pipeline.outputs,
            dynamic_shapes=(words, words, {0: batch}),
        )
    assert program is not None
    data: bytes = program.model_proto.SerializeToString()
    return data
