"""Who takes part in a benchmark: the bundle by every precision and backend asked for, and its peers."""

from __future__ import annotations

import difflib
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from textual_vision.export.bench.results import BenchOptions
from textual_vision.export.bench.runners import BUNDLE, COMPILE, EAGER, NAIVE, ContestantSpec
from textual_vision.runtime.backends.session import BACKENDS, backend_by_name, default_backend
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import BackendMissingError, UsageError

OPENVINO = "openvino"
PEERS = (EAGER, COMPILE, NAIVE, OPENVINO)
WITH_CHECKPOINT = (EAGER, COMPILE, NAIVE)

Tell = Callable[[str], None]


def check_options(bundle: Bundle, options: BenchOptions) -> None:
    """UsageError or BackendMissingError, before any work, when the options make no sense here."""
    manifest = bundle.manifest
    for precision in options.precisions:
        if precision not in manifest.precisions:
            hint = f"it has: {', '.join(manifest.precisions)}"
            raise UsageError(f"the bundle has no precision {precision!r}", hint)
    for backend in options.backends:
        backend_by_name(backend)
    for peer in options.against:
        if peer not in PEERS:
            near = difflib.get_close_matches(peer, PEERS, 1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"unknown peer {peer!r}", f"{meant}there are: {', '.join(PEERS)}")
    if OPENVINO in options.against:
        _need(OPENVINO, BACKENDS[OPENVINO][0].library, BACKENDS[OPENVINO][0].install)
    if NAIVE in options.against:
        _need(NAIVE, "onnxruntime", BACKENDS["onnxruntime"][0].install)
    if not options.prompts or options.iterations < 1 or min(options.batches, default=1) < 1:
        raise UsageError(
            "nothing to measure", "give a prompt, 1 or more --iterations and batches of 1 or more"
        )


def _need(peer: str, library: str, install: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise BackendMissingError(f"peer {peer!r} needs {library}, which is not installed", install)


def contestants_of(
    folder: Path, bundle: Bundle, options: BenchOptions, scratch: Path, tell: Tell
) -> Iterator[ContestantSpec]:
    """The bundle by every precision and backend asked for, then its peers; exports the naive graph."""
    precisions = options.precisions or (bundle.manifest.default_precision,)
    backends = options.backends or (default_backend(),)
    pairs = list(itertools.product(precisions, backends))
    if OPENVINO in options.against:
        pairs += [(precision, OPENVINO) for precision in precisions]
    base = ContestantSpec(name="", kind=BUNDLE, bundle=str(folder.resolve()), threads=options.threads)
    for precision, backend in dict.fromkeys(pairs):
        yield replace(base, name=f"{precision} {backend}", precision=precision, backend=backend)
    peers = [peer for peer in dict.fromkeys(options.against) if peer in WITH_CHECKPOINT]
    if not peers:
        return
    checkpoint = _checkpoint(bundle, options)
    for peer in peers:
        graph = ""
        if peer == NAIVE:
            tell("export the naive graph")
            graph = str(_naive_file(checkpoint, bundle, scratch))
        yield replace(base, name=peer, kind=peer, checkpoint=checkpoint, graph=graph)


def _checkpoint(bundle: Bundle, options: BenchOptions) -> str:
    """The checkpoint asked for, or the shipped one that the bundle was made of; another is refused."""
    from textual_vision.export.bench.torch_runners import (
        check_compiler,
        model_of_bundle,
        shipped_model_of_bundle,
    )

    if COMPILE in options.against:
        check_compiler()
    if options.checkpoint is not None:
        model_of_bundle(options.checkpoint, bundle)
        place = Path(options.checkpoint)
        return str(place.resolve()) if place.exists() else options.checkpoint
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
