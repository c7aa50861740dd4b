"""Open a bundle's stages from the user's cache of optimized graphs, or fill it.

Optimizing the graphs takes most of the time of a start. The cache never changes a result: a graph is loaded
only where it was optimized, by the same build of ONNX Runtime and for the same processor. Where there is no
private folder to keep it in, a start only takes longer.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from textual_vision.runtime.backends.session import (
    Session,
    SessionOptions,
    check_threads,
    imported_backend,
    open_session,
)
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.graph_cache.entries import GraphCache, key_from
from textual_vision.runtime.graph_cache.processor import processor_features

BACKEND = "onnxruntime"
FORMAT = "1"  # changes when the session options, or the files of an entry, do

LOG = logging.getLogger("textual_vision")


def open_optimized_stages(
    bundle: Bundle, precision: str, options: SessionOptions
) -> Mapping[str, Session] | None:
    """Return each stage's session by its name, None where they can neither come from the cache nor go there.

    Raises what `session.open_session` does, but never for the cache's sake.
    """
    try:
        key, cache = cache_key(bundle, precision, options.backend), GraphCache()
    except UsageError as error:
        LOG.debug("no prepared graphs: %s", error.message)
        return None
    check_threads(options.threads)
    if (entry := cache.find(key)) is not None:
        try:
            return _loaded(bundle, precision, options, entry)
        except IntegrityError as error:
            LOG.debug("prepared graphs cannot be loaded and are made again: %s", error.message)
            cache.remove(key)
    try:
        with cache.writing(key) as folder:
            return _optimized(bundle, precision, options, folder)
    except (OSError, IntegrityError) as error:  # a full disk, or a graph that is refused without a cache too
        LOG.debug("graphs are not prepared: %s", error)
    return None


def cache_key(bundle: Bundle, precision: str, backend: str) -> str:
    """The key of a bundle's entry: its digest, the precision, the library's build and the processor.

    Raises UsageError for another backend than ONNX Runtime on the CPU, and where the system does not tell the
    processor.
    """
    if backend != BACKEND:
        raise UsageError(
            f"graphs are not prepared for {backend}", f"prepare them for {BACKEND}, or leave this out"
        )
    processor = processor_features()
    if processor is None:
        raise UsageError(
            "this system does not tell its processor, which prepared graphs are for", "prepare on Linux"
        )
    imported_backend(backend)
    import onnxruntime

    return key_from(
        {
            "format": FORMAT,
            "bundle": bundle.digest,
            "precision": precision,
            "library": f"{onnxruntime.__version__} {onnxruntime.get_build_info()}",
            "machine": platform.machine(),
            "processor": processor,
        }
    )


def _loaded(bundle: Bundle, precision: str, options: SessionOptions, entry: Path) -> Mapping[str, Session]:
    module = imported_backend(options.backend)
    return {
        stage: module.open_optimized(path, replace(options, name=file))
        for stage, file, path in _places(bundle, precision, entry)
    }


def _optimized(
    bundle: Bundle, precision: str, options: SessionOptions, folder: Path
) -> Mapping[str, Session]:
    return {
        stage: open_session(bundle.read(file), replace(options, name=file, optimized=path))
        for stage, file, path in _places(bundle, precision, folder)
    }


def _places(bundle: Bundle, precision: str, folder: Path) -> list[tuple[str, str, Path]]:
    """Each stage, its graph in the bundle, and the optimized graph in an entry."""
    files = bundle.manifest.precisions[precision].files
    stages = [stage.name for stage in bundle.manifest.stages]
    return [(stage, files[stage], folder / f"{index}.onnx") for index, stage in enumerate(stages)]
