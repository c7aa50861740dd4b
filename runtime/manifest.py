"""manifest.json: everything that the runtime must know about a bundle, as frozen dataclasses.

Read strictly: an unknown schema, an unknown or missing field, a wrong type, a path that is absolute or leaves
the bundle, a file that is named but not declared: each is an IntegrityError that names the field.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.generation.checks import check_labels, check_loops, check_noise, check_parameters
from textual_vision.runtime.generation.specs import LabelSpec, LoopSpec, NoiseSpec, ParameterSpec
from textual_vision.runtime.strict_json import (
    DAMAGED_HINT,
    dataclass_from_json,
    json_from_bytes,
    json_from_dataclass,
)

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
MANIFEST_LIMIT_BYTES = 4 << 20
# By the end of a file's name. protobuf reads no graph of 2 GiB; text and pictures are read whole.
LIMITS_BYTES = {".json": 16 << 20, ".onnx": (1 << 31) - 1, ".plan": 8 << 30, ".png": 64 << 20}
OTHER_LIMIT_BYTES = 256 << 20
NAME_LIMIT = 100  # characters
WARNINGS_LIMIT = 20
SIZE_LIMIT = 1 << 20  # no dimension of a tensor, picture or batch is larger
DTYPES = ("float32", "float16", "int64", "int32", "uint8", "int8", "bool")
RANK_LIMIT = 16
INTEGERS = ("int64", "int32", "uint8", "int8")
ID_LIMIT = 1 << 31  # no table has more rows
VERDICTS = ("pass", "fail", "unchecked")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_PATH = re.compile(rf"{_NAME.pattern}(/{_NAME.pattern}){{0,9}}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a stage; a string in `shape` names a dimension that varies.

    `limit` is for integers that point into a table: they are 0 … limit−1.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One network of the way from prompt to picture, with the names of its tensors in the graph."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """The picture's size in pixels; `channels` is 3 for RGB, 1 for gray."""

    height: int
    width: int
    channels: int = 3


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """The tokenizer and the sizes of the text side; `max_tokens` includes the special tokens.

    `fixed_length` when the graphs take prompts of exactly `max_tokens`, shorter ones padded: "tokens" in a
    tensor's shape is that number then. `unknown_id` is None where every character has a token. `drop_unknown`
    when the model was trained without unknown words: their tokens are left out.
    """

    tokenizer: str
    max_tokens: int
    pad_id: int
    unknown_id: int | None
    fixed_length: bool = False
    drop_unknown: bool = False


@dataclass(frozen=True, kw_only=True)
class PrecisionSpec:
    """One precision's graphs (stage name → file), and what comparing them with their source gave.

    `verdict` is "pass", "fail" or "unchecked"; `parity` holds the figures as export gives them.
    """

    files: dict[str, str]
    verdict: str
    parity: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """The batch sizes that an engine is built for."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """Engines built for one device: stage name → file, with the fingerprint that must match to use them."""

    fingerprint: str
    precision: str
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """What a file of the bundle must be."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A bundle's description. `stages` are in running order; `merged` is all of them as one graph.

    `files` lists every file of the bundle except manifest.json itself. `warnings` are shown whenever the
    bundle is loaded. `provenance` tells with what it was made: versions, opset, the checkpoint's digest.

    The condition is a prompt (`text`), a class (`labels`), or nothing where both are None. `noise`,
    `parameters` and `loops` may be empty.
    """

    schema_version: int
    name: str
    image: ImageSpec
    noise: tuple[NoiseSpec, ...]
    stages: tuple[StageSpec, ...]
    precisions: dict[str, PrecisionSpec]
    default_precision: str
    batch: BatchProfile
    files: dict[str, FileSpec]
    license: str
    provenance: dict[str, str]
    text: TextSpec | None = None
    labels: LabelSpec | None = None
    parameters: tuple[ParameterSpec, ...] = ()
    loops: tuple[LoopSpec, ...] = ()
    merged: StageSpec | None = None
    golden: str | None = None
    engines: tuple[EngineSpec, ...] = ()
    warnings: tuple[str, ...] = ()


def manifest_from_bytes(data: bytes) -> Manifest:
    """Parse and check manifest.json; IntegrityError names the first field that is wrong."""
    value = json_from_bytes(data, MANIFEST_NAME)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is int and version != SCHEMA_VERSION:
        newer = "install a newer promptsprite" if version > SCHEMA_VERSION else "export the bundle again"
        shown = version if abs(version) < SIZE_LIMIT else "a huge number"
        message = f"manifest.schema_version: this runtime reads {SCHEMA_VERSION}, the bundle has {shown}"
        raise IntegrityError(message, newer)
    manifest = dataclass_from_json(Manifest, value, "manifest")
    check(manifest)
    return manifest


def bytes_from_manifest(manifest: Manifest) -> bytes:
    """manifest.json as UTF-8 text, ready to write; checked as it will be when it is read."""
    check(manifest)
    text = json.dumps(json_from_dataclass(manifest), indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `folder`/manifest.json whole or not at all."""
    write_atomic(folder / MANIFEST_NAME, bytes_from_manifest(manifest))


def is_plain_name(text: object) -> bool:
    """Whether `text` may name a stage or a tensor."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def check(manifest: Manifest) -> None:
    """Everything that types alone do not say; raises IntegrityError."""
    _check_sizes(manifest)
    _check_files(manifest)
    _check_stages(manifest)
    _check_precisions(manifest)
    made_with = [text for pair in manifest.provenance.items() for text in pair]
    for text in (manifest.name, manifest.license, *manifest.warnings, *made_with):
        _require(text.isprintable(), "manifest", f"{text[:40]!a} has characters that cannot be printed")
    good = 0 < len(manifest.name) <= NAME_LIMIT
    _require(good, "manifest.name", f"not between 1 and {NAME_LIMIT} characters")
    _check_declarations(manifest)
    _require(
        len(manifest.warnings) <= WARNINGS_LIMIT, "manifest.warnings", f"more than {WARNINGS_LIMIT} warnings"
    )
    for index, engine in enumerate(manifest.engines):
        where = f"manifest.engines[{index}]"
        _require(_NAME.fullmatch(engine.fingerprint), f"{where}.fingerprint", "not a plain name")
        _require(engine.precision in manifest.precisions, f"{where}.precision", "no such precision")
        _check_stage_files(manifest, engine.files, f"{where}.files")


def _check_declarations(manifest: Manifest) -> None:
    """Noise, labels, parameters and loops, and that the model has one kind of condition at most."""
    check_noise(manifest.noise, _require)
    check_labels(manifest.labels, _require)
    check_parameters(manifest.parameters, _require)
    outputs = {stage.name: {spec.name for spec in stage.outputs} for stage in manifest.stages}
    inputs = {stage.name: {spec.name for spec in stage.inputs} for stage in manifest.stages}
    check_loops(manifest.loops, outputs, inputs, _require)
    one = manifest.text is None or manifest.labels is None
    _require(one, "manifest.labels", "a model is conditioned on text or on labels, not on both")


def _check_sizes(manifest: Manifest) -> None:
    for part_name in ("image", "text", "batch"):
        part = getattr(manifest, part_name)
        for item in () if part is None else dataclasses.fields(part):
            value, where = getattr(part, item.name), f"manifest.{part_name}.{item.name}"
            if type(value) is int:  # a bool is none
                lowest = 0 if item.name.endswith("_id") else 1
                _require(lowest <= value <= SIZE_LIMIT, where, f"not between {lowest} and {SIZE_LIMIT}")
    batch = manifest.batch
    _require(batch.min <= batch.opt <= batch.max, "manifest.batch", "min <= opt <= max does not hold")
    _require(manifest.image.channels in (1, 3), "manifest.image.channels", "neither 1 nor 3")


def _check_files(manifest: Manifest) -> None:
    for path, spec in manifest.files.items():
        where = f"manifest.files.{path!a}"
        _require(_PATH.fullmatch(path), where, "not a relative path of plain names inside the bundle")
        _require(path != MANIFEST_NAME, where, "the manifest cannot list itself")
        _require(_SHA256.fullmatch(spec.sha256), f"{where}.sha256", "not 64 lower-case hexadecimal digits")
        limit = limit_bytes(path)
        _require(0 <= spec.bytes <= limit, f"{where}.bytes", f"not between 0 and {limit}")
    folded = {path.casefold() for path in manifest.files}
    _require(
        len(folded) == len(manifest.files), "manifest.files", "two paths differ only in upper and lower case"
    )
    tokenizer = None if manifest.text is None else manifest.text.tokenizer
    for field_name, named in (("text.tokenizer", tokenizer), ("golden", manifest.golden)):
        if named is not None:
            _require(named in manifest.files, f"manifest.{field_name}", "not among manifest.files")
            _require(named.endswith(".json"), f"manifest.{field_name}", "not a .json file")


def limit_bytes(path: str) -> int:
    """The size that a bundle's file may have, by the end of its name."""
    return LIMITS_BYTES.get(PurePosixPath(path).suffix, OTHER_LIMIT_BYTES)


def _check_stages(manifest: Manifest) -> None:
    _require(manifest.stages, "manifest.stages", "empty")
    names = [stage.name for stage in _all_stages(manifest)]
    _require(len(set(names)) == len(names), "manifest.stages", "two stages have the same name")
    for stage in _all_stages(manifest):
        where = f"manifest.stages.{stage.name!a}"
        _require(_NAME.fullmatch(stage.name), where, "not a plain name")
        for side, tensors in (("inputs", stage.inputs), ("outputs", stage.outputs)):
            _require(tensors, f"{where}.{side}", "empty")
            _require(
                len({t.name for t in tensors}) == len(tensors), f"{where}.{side}", "a name is given twice"
            )
            for tensor in tensors:
                _check_tensor(tensor, f"{where}.{side}.{tensor.name!a}")


def _check_tensor(tensor: TensorSpec, where: str) -> None:
    _require(_NAME.fullmatch(tensor.name), where, "not a plain name")
    _require(tensor.dtype in DTYPES, f"{where}.dtype", f"not one of {', '.join(DTYPES)}")
    if tensor.limit is not None:
        _require(tensor.dtype in INTEGERS, f"{where}.limit", "only integers have one")
        _require(1 <= tensor.limit <= ID_LIMIT, f"{where}.limit", f"not between 1 and {ID_LIMIT}")
    _require(len(tensor.shape) <= RANK_LIMIT, f"{where}.shape", f"more than {RANK_LIMIT} sizes")
    for size in tensor.shape:
        good = _NAME.fullmatch(size) if isinstance(size, str) else 1 <= size <= SIZE_LIMIT
        _require(good, f"{where}.shape", "a size is neither a name nor a sensible number")


def _check_precisions(manifest: Manifest) -> None:
    default = manifest.default_precision
    _require(default in manifest.precisions, "manifest.default_precision", "not among manifest.precisions")
    for name, precision in manifest.precisions.items():
        where = f"manifest.precisions.{name!a}"
        _require(_NAME.fullmatch(name), where, "not a plain name")
        _require(precision.verdict in VERDICTS, f"{where}.verdict", f"not one of {', '.join(VERDICTS)}")
        _check_stage_files(manifest, precision.files, f"{where}.files")


def _check_stage_files(manifest: Manifest, files: dict[str, str], where: str) -> None:
    known = {stage.name for stage in _all_stages(manifest)}
    for stage in manifest.stages:
        _require(stage.name in files, where, f"no file for the stage {stage.name!r}")
    for stage_name, path in files.items():
        _require(stage_name in known, f"{where}.{stage_name!a}", "no such stage")
        _require(path in manifest.files, f"{where}.{stage_name}", "not among manifest.files")


def _all_stages(manifest: Manifest) -> Iterator[StageSpec]:
    yield from manifest.stages
    if manifest.merged is not None:
        yield manifest.merged


def _require(holds: object, where: str, problem: str) -> None:
    if not holds:
        raise IntegrityError(f"{where}: {problem}", DAMAGED_HINT)
