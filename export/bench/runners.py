"""Runners of a bundle and of one unoptimized ONNX graph, each doing the same work from prompt to pixels.

This module imports the runtime alone, so that the cold start of a bundle imports no more than an application
does. The runners of PyTorch are in `torch_runners`, which `open_runner` imports when they are used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from textual_vision.export.bench.runner import BUNDLE, NAIVE, Iteration, Runner, RunnerSpec, RunOutput
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.generation.conditions import ConditionReader
from textual_vision.runtime.generation.consistency import CODES, IMAGE
from textual_vision.runtime.generation.program import program_from_manifest
from textual_vision.runtime.pipeline import TextToImage

Array = npt.NDArray[np.generic]


def open_runner(spec: RunnerSpec) -> Runner:
    """Load what `spec` describes; raises what loading it raises."""
    if spec.kind == BUNDLE:
        return BundleRunner(spec)
    if spec.kind == NAIVE:
        return NaiveRunner(spec)
    from textual_vision.export.bench.torch_runners import TorchRunner

    return TorchRunner(spec)


def run_iterations(
    runner: Runner, prompts: Sequence[str], seeds: Sequence[int], *, warm_up: int, measured: int
) -> list[Iteration]:
    """Return the times of `measured` runs after `warm_up` runs, which refill the caches."""
    for _ in range(warm_up):
        runner.run(prompts, seeds)
    iterations = []
    for _ in range(measured):
        start = time.perf_counter()
        output = runner.run(prompts, seeds)
        seconds = time.perf_counter() - start
        iterations.append(Iteration(seconds=seconds, stage_seconds=output.stage_seconds))
    return iterations


class PromptReader:
    """Converts prompts and seeds to the tensors that every runner starts from, as the runtime does."""

    def __init__(self, bundle: Bundle) -> None:
        self._conditions, self._program = ConditionReader(bundle), program_from_manifest(bundle.manifest)

    def tensors(self, prompts: Sequence[str], seeds: Sequence[int]) -> dict[str, Array]:
        """Return the tensors of the condition, such as `input_ids`, the noise, and the parameters."""
        return {**self._conditions.read(prompts).tensors, **self._program.start_tensors(seeds)}


class BundleRunner:
    """A bundle in one precision on one backend, through the runtime's own pipeline."""

    def __init__(self, spec: RunnerSpec) -> None:
        self._model = TextToImage.load(
            spec.bundle,
            spec.precision,
            spec.backend,
            spec.threads,
            text_cache=0,  # each run encodes anew
        )
        self._stage_seconds: dict[str, float] = {}
        self._model.on_stage = self._add_seconds

    def run(self, prompts: Sequence[str], seeds: Sequence[int]) -> RunOutput:
        """Generate picture k from prompt k and seed k."""
        self._stage_seconds = {}
        images = self._model.generate(prompts, seeds).images
        return RunOutput(images=images, stage_seconds=self._stage_seconds)

    def _add_seconds(self, stage: str, seconds: float) -> None:
        self._stage_seconds[stage] = self._stage_seconds.get(stage, 0.0) + seconds


class NaiveRunner:
    """The graph of all stages as the exporter wrote it, on ONNX Runtime with its default options."""

    def __init__(self, spec: RunnerSpec) -> None:
        import onnxruntime

        self._reader = PromptReader(Bundle(spec.bundle))
        options = onnxruntime.SessionOptions()
        if spec.threads is not None:
            options.intra_op_num_threads = spec.threads
        graph = Path(spec.graph).read_bytes()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        # Both outputs are computed, because the bundle's stages compute both.
        self._outputs = [o.name for o in self._session.get_outputs() if o.name in (IMAGE, CODES)]

    def run(self, prompts: Sequence[str], seeds: Sequence[int]) -> RunOutput:
        """Generate picture k from prompt k and seed k."""
        tensors = self._reader.tensors(prompts, seeds)
        given = {one.name: tensors[one.name] for one in self._session.get_inputs()}
        values: Sequence[Array] = self._session.run(self._outputs, given)
        outputs: Mapping[str, Array] = dict(zip(self._outputs, values, strict=True))
        return RunOutput(images=outputs[IMAGE].astype(np.uint8, copy=False))
