"""`tv-generate --prepare`: a bundle's graphs, optimized for this processor, in the user's cache."""

from __future__ import annotations

import click

from textual_vision.runtime.backends.optimized_stages import cache_key
from textual_vision.runtime.backends.session import default_backend
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.graph_cache.entries import GraphCache, size_of
from textual_vision.runtime.pipeline import TextToImage


def prepare_graphs(
    bundle: Bundle, precision: str | None, backend: str | None, *, isolated: bool, graph_cache: bool | None
) -> None:
    """Put the graphs of `bundle` into the cache, and say where they are.

    Raises UsageError where that is not possible: an isolated bundle, another backend than ONNX Runtime on the
    CPU, or no private folder.
    """
    if isolated:
        hint = "if you trust its maker, add --trust"
        raise UsageError("graphs of an isolated bundle are not kept", hint)
    if graph_cache is False:
        raise UsageError("--prepare and --no-graph-cache exclude each other", "leave out one of them")
    cache = GraphCache()
    model = TextToImage.load(bundle, precision, backend or default_backend(), graph_cache=True)
    entry = cache.find(cache_key(bundle, model.precision, model.backend))
    if entry is None:
        problem = f"the graphs could not be written to {cache.folder}"
        raise UsageError(problem, "see that it is writable, and that the disk has room")
    megabytes = size_of(entry) / 1e6
    click.echo(f"prepared {bundle.manifest.name} in {model.precision}: {megabytes:.1f} MB in {entry}")
