"""The model `text_to_image` of Triton's Python backend: requests of tensors in, pictures out.

On a CPU a child process computes. Triton does not start a model's process again that has ended, so that
process only passes tensors on; a child that was killed is replaced when the next request comes.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textual_vision.runtime.backends.session import Array, Session, available_cores
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import PromptWarning, TextualVisionError, UsageError
from textual_vision.runtime.generation.results import GeneratedImage
from textual_vision.runtime.isolation.limits import IsolationLimits
from textual_vision.runtime.isolation.process import ISOLATED_BACKENDS
from textual_vision.runtime.manifest import Manifest
from textual_vision.runtime.pipeline import TextToImage
from textual_vision.runtime.triton.requests import (
    Picture,
    groups_by_parameters,
    pictures_from_tensors,
    tensors_from_images,
)
from textual_vision.runtime.triton.spec import (
    BUNDLE_FOLDER,
    COUNT,
    PROMPT,
    SEED,
    SERVING_JSON,
    ServingSpec,
    serving_from_bytes,
)
from textual_vision.runtime.triton.stages import StageModelSession, load_python_backend

# The bundle is the server's own: these end a child that hangs, and keep no model from loading.
CHILD_LIMITS = IsolationLimits(memory_bytes=1 << 40, seconds=120.0)
GPU = "GPU"


class TritonPythonModel:
    """The class that Triton's Python backend looks for in a model.py; the server calls its methods."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the bundle of this version; an error keeps the server from serving it."""
        warnings.simplefilter("ignore", PromptWarning)  # the response says it
        self._utils = load_python_backend()
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self._spec = serving_from_bytes((folder / SERVING_JSON).read_bytes())
        self._bundle = Bundle(folder / BUNDLE_FOLDER)
        self._version = int(args["model_version"])
        self._batch_size = int(config["max_batch_size"])
        self._instances = sum(int(group.get("count", 1)) for group in config["instance_group"])
        if args["model_instance_kind"] == GPU:
            _choose_gpu(int(args["model_instance_device_id"]))
        self._model = self._loaded()
        if self._spec.backend is not None:  # the server's own models warm up by themselves
            self._model.warm_up()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request: its pictures, or an error.

        A client's mistake is INVALID_ARG, HTTP's 400; a child that has ended is UNAVAILABLE, HTTP's 503.
        """
        answers: list[Any] = [None] * len(requests)
        read: dict[int, list[Picture]] = {}
        for place, request in enumerate(requests):
            found = self._pictures(request)
            if isinstance(found, UsageError):
                answers[place] = self._error(found)
            else:
                read[place] = found
        for place, answer in self._answers(read).items():
            answers[place] = answer
        return answers

    def finalize(self) -> None:
        """Close the model before the server ends the process."""
        self._model.close()

    def _pictures(self, request: Any) -> list[Picture] | UsageError:
        """The pictures that a request asks for, or why it cannot be read."""
        try:
            return pictures_from_tensors(self._tensors(request), self._spec.largest_count)
        except UsageError as error:
            return error

    def _answers(self, read: Mapping[int, Sequence[Picture]]) -> dict[int, Any]:
        """The response of each request, all generated together, or one by one when one of them is wrong."""
        if not read:
            return {}
        try:
            images = iter(self._generated([picture for pictures in read.values() for picture in pictures]))
        except UsageError as error:
            if len(read) == 1:
                return dict.fromkeys(read, self._error(error))
            return {place: self._answers({place: pictures})[place] for place, pictures in read.items()}
        except TextualVisionError as error:
            return {place: self._error(error) for place in read}
        return {place: self._response([next(images) for _ in pictures]) for place, pictures in read.items()}

    def _generated(self, pictures: Sequence[Picture]) -> list[GeneratedImage]:
        """The pictures in their order; raises what `TextToImage.generate` raises."""
        if not self._model.alive:
            self._model.close()
            self._model = self._loaded()
        found: dict[int, GeneratedImage] = {}
        for parameters, places in groups_by_parameters(pictures).items():
            prompts = [pictures[place].prompt for place in places]
            seeds = [pictures[place].seed for place in places]
            made = self._model.generate(prompts, seeds, parameters=dict(parameters))
            found |= zip(places, made.pictures, strict=True)
        return [found[place] for place in range(len(pictures))]

    def _loaded(self) -> TextToImage:
        spec = self._spec
        if spec.backend is None:
            return TextToImage(
                self._bundle,
                precision=spec.precision,
                backend="triton",
                threads=None,
                batch_size=self._batch_size,
                sessions=self._stage_models(self._bundle.manifest, spec),
            )
        isolated = spec.backend in ISOLATED_BACKENDS
        return TextToImage.load(
            self._bundle,
            spec.precision,
            spec.backend,
            max(1, available_cores() // self._instances) if isolated else None,
            isolated=isolated,
            limits=CHILD_LIMITS if isolated else None,
            batch_size=self._batch_size,
        )

    def _stage_models(self, manifest: Manifest, spec: ServingSpec) -> dict[str, Session]:
        return {
            stage.name: StageModelSession(
                stage, spec.stage_models[stage.name], self._version, self._batch_size
            )
            for stage in manifest.stages
        }

    def _tensors(self, request: Any) -> dict[str, Array]:
        names = [PROMPT, SEED, COUNT, *(one.name for one in self._bundle.manifest.parameters)]
        given = {name: self._utils.get_input_tensor_by_name(request, name) for name in names}
        return {name: tensor.as_numpy() for name, tensor in given.items() if tensor is not None}

    def _response(self, images: Sequence[GeneratedImage]) -> Any:
        text = self._bundle.manifest.text
        tensors = tensors_from_images(images, None if text is None else text.max_tokens)
        return self._utils.InferenceResponse(
            output_tensors=[self._utils.Tensor(name, tensor) for name, tensor in tensors.items()]
        )

    def _error(self, error: TextualVisionError) -> Any:
        kind = self._utils.TritonError
        code, text = kind.INTERNAL, error.message
        if isinstance(error, UsageError):
            code, text = kind.INVALID_ARG, f"{error.message}; {error.hint}" if error.hint else error.message
        elif not self._model.alive:
            code, text = kind.UNAVAILABLE, f"{error.message}; try again"
        return self._utils.InferenceResponse(error=kind(text, code))


def _choose_gpu(number: int) -> None:
    """Let this process see the instance's GPU alone; `number` counts those that the server sees."""
    visible = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
