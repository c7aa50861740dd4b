"""What a benchmark compares: ways from a prompt to a picture, each doing the same work.

This file needs the runtime alone, so that a fresh process that opens a bundle imports no more than an
application would; PyTorch's contestants are in bench_torch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.generation.conditions import ConditionReader
from textual_vision.runtime.generation.consistency import CODES, IMAGE
from textual_vision.runtime.generation.program import program_from_manifest
from textual_vision.runtime.manifest import StageSpec
from textual_vision.runtime.pipeline import TextToImage

Array = npt.NDArray[np.generic]

BUNDLE, NAIVE, EAGER, COMPILE = "bundle", "naive", "eager", "compile"


@dataclass(frozen=True, kw_only=True)
class ContestantSpec:
    """How to open a contestant, in this process or in a fresh one; all plain JSON.

    A contestant of kind "bundle" has `precision` and `backend`; "naive" the file of its `graph`; "eager" and
    "compile" their `checkpoint`. `threads` None leaves the number to the library.
    """

    name: str
    kind: str
    bundle: str
    precision: str = ""
    backend: str = ""
    graph: str = ""
    checkpoint: str = ""
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """`images` uint8 (pictures, height, width, 3), and how long each stage took, in seconds."""

    images: npt.NDArray[np.uint8]
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


class Contestant(Protocol):
    """Ready to draw picture k from prompt k and seed k."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Drawing: ...


def open_contestant(spec: ContestantSpec) -> Contestant:
    """Load what `spec` describes; raises what loading it raises."""
    if spec.kind == BUNDLE:
        return BundleContestant(spec)
    if spec.kind == NAIVE:
        return NaiveContestant(spec)
    from textual_vision.export.bench.torch_runners import TorchContestant

    return TorchContestant(spec)


class _Timed(TextToImage):
    """The runtime itself, noting how long each stage takes."""

    stage_seconds: dict[str, float]

    def _run(self, stage: StageSpec, tensors: Mapping[str, Array]) -> dict[str, Array]:
        start = time.perf_counter()
        outputs = super()._run(stage, tensors)
        taken = time.perf_counter() - start
        self.stage_seconds[stage.name] = self.stage_seconds.get(stage.name, 0.0) + taken
        return outputs


class BundleContestant:
    """A bundle, by one backend and in one precision, through the runtime's own pipeline."""

    def __init__(self, spec: ContestantSpec) -> None:
        model = _Timed.load(
            spec.bundle,
            spec.precision,
            spec.backend,
            spec.threads,
            text_cache=0,  # each round encodes anew
        )

        assert isinstance(model, _Timed)
        self._model = model

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Drawing:
        """Picture k from prompt k and seed k."""
        self._model.stage_seconds = {}
        images = self._model.generate(prompts, seeds).images
        return Drawing(images=images, stage_seconds=self._model.stage_seconds)


class PromptReader:
    """Prompts and seeds into the tensors that every contestant starts from, as the runtime makes them."""

    def __init__(self, bundle: Bundle) -> None:
        self._conditions, self._program = ConditionReader(bundle), program_from_manifest(bundle.manifest)

    def tensors(self, prompts: Sequence[str], seeds: Sequence[int]) -> dict[str, Array]:
        """The tensors of the condition, such as `input_ids`, the noise, and the parameters."""
        return {**self._conditions.read(prompts).tensors, **self._program.start_tensors(seeds)}


class NaiveContestant:
    """The whole model as one graph, as the exporter gave it, by ONNX Runtime with its defaults."""

    def __init__(self, spec: ContestantSpec) -> None:
        import onnxruntime

        self._reader = PromptReader(Bundle(spec.bundle))
        options = onnxruntime.SessionOptions()
        if spec.threads is not None:
            options.intra_op_num_threads = spec.threads
        graph = Path(spec.graph).read_bytes()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        # Both outputs are asked for, as the bundle's own stages give both.
        self._outputs = [o.name for o in self._session.get_outputs() if o.name in (IMAGE, CODES)]

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Drawing:
        """Picture k from prompt k and seed k."""
        tensors = self._reader.tensors(prompts, seeds)
        given = {one.name: tensors[one.name] for one in self._session.get_inputs()}
        values = self._session.run(self._outputs, given)
        return Drawing(images=dict(zip(self._outputs, values, strict=True))[IMAGE])
