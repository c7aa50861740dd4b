"""serving.json: how one version of the served model runs, beside its bundle in the model repository."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.strict_json import dataclass_from_json, json_from_bytes, json_from_dataclass

SERVING_SCHEMA_VERSION = 1
SERVING_JSON = "serving.json"
BUNDLE_FOLDER = "bundle.tv"
AGAIN_HINT = "write the repository again: tv-export triton"

# Names in the served model's interface.
PROMPT, SEED, COUNT, IMAGE, CODES, WARNINGS = "prompt", "seed", "count", "image", "codes", "warnings"


@dataclass(frozen=True, kw_only=True)
class StageModel:
    """A stage as a model of the server: its name, its backend, and the dtypes of its tensors, by name."""

    model: str
    backend: str
    dtypes: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class ServingSpec:
    """`backend` is the runtime's, None where the server runs the stages as models of its own.

    A request has at most `largest_count` pictures for each prompt.
    """

    schema_version: int
    precision: str
    backend: str | None
    largest_count: int
    stage_models: dict[str, StageModel] = field(default_factory=dict)


def bytes_from_serving(spec: ServingSpec) -> bytes:
    """serving.json as UTF-8 text."""
    return (json.dumps(json_from_dataclass(spec), indent=2, allow_nan=False) + "\n").encode("utf-8")


def serving_from_bytes(data: bytes) -> ServingSpec:
    """Return the parsed serving.json; raises IntegrityError that names the first wrong field."""
    value = json_from_bytes(data, SERVING_JSON)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SERVING_SCHEMA_VERSION:
        problem = f"{SERVING_JSON}: this runtime reads version {SERVING_SCHEMA_VERSION}, found {version!r}"
        raise IntegrityError(problem, AGAIN_HINT)
    return dataclass_from_json(ServingSpec, value, SERVING_JSON)
