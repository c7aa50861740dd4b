"""Write a version of the served model into a model repository, beside the versions that are there.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from textual_vision.export.bundle.writer import write_bundle
from textual_vision.export.triton.model_config import front_config, front_interface, stage_interface
from textual_vision.export.triton.options import TritonOptions, check_options
from textual_vision.export.triton.stage_models import Machine, ModelFiles, stage_files
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.manifest import Manifest
from textual_vision.runtime.triton.spec import (
    BUNDLE_FOLDER,
    SERVING_JSON,
    SERVING_SCHEMA_VERSION,
    ServingSpec,
    StageModel,
    bytes_from_serving,
    serving_from_bytes,
)

CONFIG_NAME = "config.pbtxt"
CARDS = ("MODEL_CARD.md", "NOTICE")
MODEL_PY = '''"""The model of this folder, run by the runtime that the server's Python has."""

try:
    from textual_vision.runtime.triton.model import TritonPythonModel  # noqa: F401
except ImportError as error:
    hint = "install the runtime for the server's Python: pip install './runtime[cpu]' in a clone"
    raise ImportError(f"{error}; {hint}") from None
'''
OTHER_HINT = "choose another repository, or another --name"


@dataclass(frozen=True, kw_only=True)
class RepositoryResult:
    """The models that a version consists of; the first is the one that clients call."""

    repository: str
    version: int
    precision: str
    models: tuple[str, ...]
    bytes: int


def write_repository(
    path: Path, repository: Path, options: TritonOptions, machine: Machine | None = None
) -> RepositoryResult:
    """Write the bundle at `path` as the next version of `options.name` into `repository`.

    The repository may be new, or hold other models and older versions; a server that polls it sees a version
    when it is whole. Raises UsageError for a repository that cannot hold it, and what `check_options` and
    `stage_files` raise. After an error the repository is as it was.
    """
    bundle = Bundle(path)
    precision = check_options(bundle, options)
    shown, repository = repository, repository.resolve()
    _check_place(repository, shown)
    version = _next_version(repository, bundle.manifest, options)
    models: dict[str, ModelFiles] = {}
    dtypes: dict[str, dict[str, str]] = {}
    if options.stages != "python":
        models, dtypes = stage_files(bundle, precision, options, machine or Machine())
    spec = ServingSpec(
        schema_version=SERVING_SCHEMA_VERSION,
        precision=precision,
        backend=options.backend,
        largest_count=options.largest_count,
        stage_models={
            stage: StageModel(model=one.name, backend=options.stages, dtypes=dtypes[stage])
            for stage, one in models.items()
        },
    )
    front = ModelFiles(
        name=options.name,
        config=front_config(bundle.manifest, options),
        files={"model.py": MODEL_PY.encode(), SERVING_JSON: bytes_from_serving(spec)},
    )
    # The front comes last: what it calls is there before it.
    written = _write(repository, version, [*models.values(), front], bundle, precision)
    return RepositoryResult(
        repository=str(shown),
        version=version,
        precision=precision,
        models=(front.name, *(one.name for one in models.values())),
        bytes=written,
    )


def _check_place(repository: Path, shown: Path) -> None:
    if repository.exists() and not repository.is_dir():
        raise UsageError(f"{shown} is a file", "name a folder for the repository")
    if not repository.parent.is_dir():
        raise UsageError(
            f"{repository.parent} is not a folder", f"make it first: mkdir -p {repository.parent}"
        )
    if (repository / "manifest.json").exists():
        raise UsageError(f"{shown} is a bundle", "name another folder for the repository: -o REPOSITORY")


def _next_version(repository: Path, manifest: Manifest, options: TritonOptions) -> int:
    """Return the number after the largest of all models concerned.

    Raises UsageError unless the latest version has the same inputs and outputs: all share one config.pbtxt.
    """
    folder = repository / options.name
    if not folder.exists():
        return 1
    versions = _versions(folder)
    if not versions or not (folder / str(versions[-1]) / SERVING_JSON).is_file():
        raise UsageError(f"{folder} is a model that tv-export triton did not write", OTHER_HINT)
    latest = folder / str(versions[-1])
    _check_interface(latest, manifest, options)
    stages = [f"{options.name}_{stage.name}" for stage in manifest.stages]
    others = [number for name in stages for number in _versions(repository / name)]
    return max(*versions, *others, 0) + 1


def _check_interface(latest: Path, manifest: Manifest, options: TritonOptions) -> None:
    served = Bundle(latest / BUNDLE_FOLDER).manifest
    if front_interface(served) != front_interface(manifest):
        problem = f"{latest} has other inputs and outputs than this bundle's model"
        raise UsageError(problem, OTHER_HINT)
    spec = serving_from_bytes((latest / SERVING_JSON).read_bytes())
    if options.stages == "python" or not spec.stage_models:
        return
    stages = {stage.name: stage for stage in manifest.stages}
    old = {stage.name: stage for stage in served.stages}
    for name, model in spec.stage_models.items():
        same = name in stages and stage_interface(old[name], model.dtypes) == stage_interface(
            stages[name], model.dtypes
        )
        if not same or model.backend != options.stages:
            problem = f"{latest} runs its stage {name!r} by {model.backend} with other tensors"
            if same:
                problem = f"{latest} runs its stages by {model.backend}, not {options.stages}"
            raise UsageError(problem, OTHER_HINT)


def _versions(folder: Path) -> list[int]:
    """The numbers of a model's versions, rising; none when there is no such model."""
    if not folder.is_dir():
        return []
    return sorted(int(one.name) for one in folder.iterdir() if one.is_dir() and one.name.isdecimal())


def _write(
    repository: Path, version: int, models: Sequence[ModelFiles], bundle: Bundle, precision: str
) -> int:
    """Write all models under temporary names, then rename them; return the bytes of the new version."""
    if repository.exists():
        with contextlib.ExitStack() as stack:
            moves = [
                stack.enter_context(_prepared(repository, version, one, bundle, precision, one is models[-1]))
                for one in models
            ]
            size = sum(_size(fresh) for fresh, _ in moves)
            _rename(moves)
        for one in models:
            write_atomic(repository / one.name / CONFIG_NAME, one.config)
        return size
    with _temporary(repository) as fresh:
        for one in models:
            folder = fresh / one.name
            folder.mkdir()
            write_atomic(folder / CONFIG_NAME, one.config)
            _fill(folder / str(version), one, bundle, precision, one is models[-1])
        size = _size(fresh)
        fresh.rename(repository)
    return size


@contextlib.contextmanager
def _prepared(
    repository: Path, version: int, model: ModelFiles, bundle: Bundle, precision: str, front: bool
) -> Iterator[tuple[Path, Path]]:
    """A model, or its new version, under a temporary name, and the place that it is meant for."""
    folder = repository / model.name
    if folder.exists():
        with _temporary(folder / str(version), make=False) as fresh:
            _fill(fresh, model, bundle, precision, front)
            yield fresh, folder / str(version)
        return
    with _temporary(folder) as fresh:
        write_atomic(fresh / CONFIG_NAME, model.config)
        _fill(fresh / str(version), model, bundle, precision, front)
        yield fresh, folder


@contextlib.contextmanager
def _temporary(place: Path, *, make: bool = True) -> Iterator[Path]:
    """A name beside `place` that is removed in the end unless it was renamed."""
    fresh = place.with_name(f".{place.name[:100]}.{secrets.token_hex(8)}.part")
    if make:
        fresh.mkdir()
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _fill(folder: Path, model: ModelFiles, bundle: Bundle, precision: str, front: bool) -> None:
    """Write the files of a model's version; the front's has the bundle too."""
    folder.mkdir()
    for name, data in model.files.items():
        write_atomic(folder / name, data)
    if front:
        manifest, files = _served_bundle(bundle, precision)
        write_bundle(folder / BUNDLE_FOLDER, manifest, files)


def _served_bundle(bundle: Bundle, precision: str) -> tuple[Manifest, dict[str, bytes]]:
    """The bundle with one precision's graphs, without engines and report."""
    manifest = bundle.manifest
    graphs = {stage.name: manifest.precisions[precision].files[stage.name] for stage in manifest.stages}
    kept = {*graphs.values(), *CARDS}
    if manifest.text is not None:
        kept.add(manifest.text.tokenizer)
    golden = "" if manifest.golden is None else f"{PurePosixPath(manifest.golden).parent}/"
    files = {
        name: bundle.read(name)
        for name in manifest.files
        if name in kept or (golden and name.startswith(golden))
    }
    only = replace(manifest.precisions[precision], files=graphs)
    served = replace(
        manifest, precisions={precision: only}, default_precision=precision, merged=None, engines=()
    )
    return served, files


def _rename(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename all, or none when one of them fails."""
    done: list[Path] = []
    try:
        for fresh, place in moves:
            fresh.rename(place)
            done.append(place)
    except BaseException:  # an interrupt too; it is raised again
        for place in done:
            shutil.rmtree(place, ignore_errors=True)
        raise


def _size(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
