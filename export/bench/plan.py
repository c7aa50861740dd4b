"""List the runners of a benchmark: the bundle in each precision on each backend, and its peers."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from textual_vision.export.bench.results import BenchOptions
from textual_vision.export.bench.runner import BUNDLE, COMPILE, EAGER, NAIVE, RunnerSpec
from textual_vision.runtime.backends.session import BACKENDS, backend_by_name, default_backend
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import BackendMissingError, UsageError, choice_hint
from textual_vision.runtime.progress import ProgressCallback

OPENVINO = "openvino"
PEERS = (EAGER, COMPILE, NAIVE, OPENVINO)
NEED_CHECKPOINT = (EAGER, COMPILE, NAIVE)


def check_options(bundle: Bundle, options: BenchOptions) -> None:
    """Raise UsageError or BackendMissingError when the options do not fit the bundle or this machine."""
    manifest = bundle.manifest
    for precision in options.precisions:
        if precision not in manifest.precisions:
            hint = choice_hint(precision, list(manifest.precisions))
            raise UsageError(f"the bundle has no precision {precision!r}", hint)
    for backend in options.backends:
        backend_by_name(backend)
    for peer in options.compare:
        if peer not in PEERS:
            raise UsageError(f"unknown peer {peer!r}", choice_hint(peer, list(PEERS)))
    if OPENVINO in options.compare:
        _check_installed(OPENVINO, BACKENDS[OPENVINO][0].library, BACKENDS[OPENVINO][0].install)
    if NAIVE in options.compare:
        _check_installed(NAIVE, "onnxruntime", BACKENDS["onnxruntime"][0].install)
    if not options.prompts or options.iterations < 1 or min(options.batch_sizes, default=1) < 1:
        raise UsageError(
            "nothing to measure",
            "give at least one prompt, one of --iterations, and batch sizes of 1 or more",
        )


def _check_installed(peer: str, library: str, install: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise BackendMissingError(f"peer {peer!r} needs {library}, which is not installed", install)


def runner_specs(
    folder: Path, bundle: Bundle, options: BenchOptions, scratch: Path, on_progress: ProgressCallback
) -> Iterator[RunnerSpec]:
    """Yield the bundle in each precision on each backend, then its peers; exports the naive graph."""
    precisions = options.precisions or (bundle.manifest.default_precision,)
    backends = options.backends or (default_backend(),)
    pairs = list(itertools.product(precisions, backends))
    if OPENVINO in options.compare:
        pairs += [(precision, OPENVINO) for precision in precisions]
    base = RunnerSpec(name="", kind=BUNDLE, bundle=str(folder.resolve()), threads=options.threads)
    for precision, backend in dict.fromkeys(pairs):
        yield replace(base, name=f"{precision} {backend}", precision=precision, backend=backend)
    peers = [peer for peer in dict.fromkeys(options.compare) if peer in NEED_CHECKPOINT]
    if not peers:
        return
    checkpoint = _checkpoint(bundle, options)
    for peer in peers:
        graph = ""
        if peer == NAIVE:
            on_progress("export the naive graph")
            graph = str(_naive_file(checkpoint, bundle, scratch))
        yield replace(base, name=peer, kind=peer, checkpoint=checkpoint, graph=graph)


def _checkpoint(bundle: Bundle, options: BenchOptions) -> str:
    """Return the requested checkpoint, or the shipped one with the bundle's digest.

    Raises UsageError when the bundle was exported from another checkpoint.
    """
    from textual_vision.export.bench.torch_runners import (
        check_compiler,
        model_of_bundle,
        shipped_model_of_bundle,
    )

    if COMPILE in options.compare:
        check_compiler()
    if options.checkpoint is not None:
        model_of_bundle(options.checkpoint, bundle)
        path = Path(options.checkpoint)
        return str(path.resolve()) if path.exists() else options.checkpoint
    return shipped_model_of_bundle(bundle)


def _naive_file(checkpoint: str, bundle: Bundle, scratch: Path) -> Path:
    from textual_vision.export.bench.runners import PromptReader
    from textual_vision.export.bench.torch_runners import model_of_bundle, naive_graph
    from textual_vision.export.model.prompts import COMPARED
    from textual_vision.export.model.running import texts_of

    file = scratch / "naive.onnx"
    model = model_of_bundle(checkpoint, bundle)
    example = PromptReader(bundle).tensors(texts_of(model, COMPARED[:2], 2), (0, 1))
    file.write_bytes(naive_graph(model, example))
    return file
