"""Stages that the server runs as models of its own: a session sends a request inside of the server."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from textual_vision.runtime.backends.session import Array
from textual_vision.runtime.errors import TextualVisionError, shortened
from textual_vision.runtime.manifest import StageSpec
from textual_vision.runtime.triton.spec import StageModel

FAILED_HINT = "the server's log says more"


def load_python_backend() -> Any:
    """Return the module that Triton's Python backend gives to its models; there is none elsewhere."""
    return importlib.import_module("triton_python_backend_utils")


class StageModelSession:
    """One stage as a model of the server, called from another model: its business logic scripting."""

    def __init__(self, stage: StageSpec, served: StageModel, version: int, largest_batch: int) -> None:
        self._stage, self._served, self._version = stage, served, version
        self.largest_batch = largest_batch
        self.inputs = frozenset(spec.name for spec in stage.inputs)
        self.outputs = frozenset(spec.name for spec in stage.outputs)
        self.providers = (f"triton:{served.model}",)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name, in the manifest's dtypes; TextualVisionError when the server's model fails."""
        utils = load_python_backend()
        request = utils.InferenceRequest(
            model_name=self._served.model,
            model_version=self._version,
            requested_output_names=[spec.name for spec in self._stage.outputs],
            inputs=[utils.Tensor(name, self._sent(name, tensor)) for name, tensor in inputs.items()],
            preferred_memory=utils.PreferredMemory(utils.TRITONSERVER_MEMORY_CPU),
        )
        response = request.exec()
        if response.has_error():
            problem = f"{self._served.model}: {shortened(response.error().message())}"
            raise TextualVisionError(problem, FAILED_HINT)
        found = {}
        for spec in self._stage.outputs:
            tensor = utils.get_output_tensor_by_name(response, spec.name).as_numpy()
            # A copy: the memory is the response's.
            found[spec.name] = np.array(tensor[:, 0] if len(spec.shape) == 1 else tensor, spec.dtype)
        return found

    def _sent(self, name: str, tensor: Array) -> Array:
        """The tensor as the model takes it: a number for each row has a second dimension there."""
        rows = tensor[:, None] if tensor.ndim == 1 else tensor
        return np.ascontiguousarray(rows, self._served.dtypes[name])
