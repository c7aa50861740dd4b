"""tv-generate: generate pictures with a bundle."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from textual_vision.runtime import console
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.version import __version__

if TYPE_CHECKING:
    from textual_vision.runtime.bundle import Bundle
    from textual_vision.runtime.cli.prompt_sources import Source
    from textual_vision.runtime.pipeline import TextToImage

COUNT_LIMIT = 10_000
FEW_PICTURES = 16  # for which threads in a busy wait cost more than they save


@click.command(name="tv-generate", no_args_is_help=True)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("prompts", nargs=-1, metavar="PROMPT...")
@click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Read prompts from FILE, one per line; - is the standard input.",
)
@click.option(
    "--seed", type=console.SEED, default=0, show_default=True, help="Seed of each prompt's first picture."
)
@click.option(
    "--count",
    type=click.IntRange(1, COUNT_LIMIT),
    default=1,
    show_default=True,
    help="Pictures per prompt, from the seeds SEED, SEED+1, …",
)
@click.option("--grid/--no-grid", default=False, help="Put all pictures on one sheet, a row per prompt.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("out.png"),
    show_default=True,
    help="PNG to write; several pictures without --grid become out-1.png, out-2.png, …",
)
@click.option(
    "--explain",
    "explanation",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write a PNG that shows which word changes which part of the picture.",
)
@click.option("--precision", help="Precision, such as fp32. [default: the bundle's own]")
@click.option(
    "--backend",
    help="Backend, such as openvino or onnxruntime-cuda. [default: the first CPU backend installed]",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [default: the backend's choice]")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Pictures computed at once; with 1, none depends on the others. "
    "[default: the bundle's largest batch]",
)
@click.option(
    "--isolated/--no-isolated",
    default=None,
    help="Work in a child process with limits on memory and time. "
    "[default: for bundles that were not built or trusted on this machine]",
)
@click.option(
    "--require-signature",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Refuse the bundle unless this public key (PEM, Ed25519) signed it; see tv-export sign.",
)
@click.option(
    "--graph-cache/--no-graph-cache",
    default=None,
    help="Keep graphs that ONNX Runtime has optimized for this processor in the user's cache folder. "
    "[default: yes, unless TV_GRAPH_CACHE=off]",
)
@click.option("--prepare", is_flag=True, help="Only put the optimized graphs into that cache.")
@click.option("--trust", is_flag=True, help="Trust this bundle from now on: it is not isolated.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each picture.")
@click.option("--verify", is_flag=True, help="Only check every file and the golden pictures.")
@click.version_option(__version__)
def command(
    bundle: Path,
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    seed: int,
    count: int,
    grid: bool,
    output: Path,
    explanation: Path | None,
    precision: str | None,
    backend: str | None,
    threads: int | None,
    batch_size: int | None,
    isolated: bool | None,
    require_signature: Path | None,
    graph_cache: bool | None,
    prepare: bool,
    trust: bool,
    as_json: bool,
    verify: bool,
) -> None:
    """Generate pictures of each PROMPT with BUNDLE, a folder or zip archive that `tv-export build` wrote.

    For a model that takes labels, PROMPT is a label's name or number. Leave it out for a model that takes
    neither.

    \b
    tv-generate emoji.tv "dog wearing sunglasses" -o dog.png
    tv-generate emoji.tv "green forest with river" --count 8 --grid
    tv-generate emoji.tv --prompts prompts.txt --json
    """
    from textual_vision.runtime.bundle import Bundle
    from textual_vision.runtime.cli import generating, prompt_sources
    from textual_vision.runtime.pipeline import TextToImage

    source = prompt_sources.Source(prompts, prompts_file)
    generates = _check_mode(source, verify=verify, prepare=prepare)
    for place in (output, explanation) if generates else ():
        generating.check_output(place)
    opened = Bundle(bundle)
    if require_signature is not None:
        opened.check_signature(require_signature)
    with prompt_sources.opened(source, opened, needed=generates) as lines:
        apart = _isolation(opened, isolated, trust)
        if prepare:
            from textual_vision.runtime.cli.preparation import prepare_graphs

            prepare_graphs(opened, precision, backend, isolated=apart, graph_cache=graph_cache)
            return
        # It is not closed: the process ends, and to give memory back one by one takes time.
        model = TextToImage.load(
            opened,
            precision,
            backend,
            threads,
            isolated=apart,
            batch_size=batch_size,
            graph_cache=graph_cache,
            spinning=prompts_file is not None or count * len(prompts) > FEW_PICTURES,
        )
        gc.enable()
        if verify:
            from textual_vision.runtime.cli.verification import verify_model

            verify_model(model, as_json)
            return
        job = generating.Job(seed=seed, count=count, output=output, grid=grid, as_json=as_json)
        shown = generating.generate(model, lines, job)
        if explanation is not None:
            _explain(model, shown, seed, explanation)


def _check_mode(source: Source, *, verify: bool, prepare: bool) -> bool:
    """Whether pictures are wanted; UsageError for prompts, or both modes, where none are."""
    if verify and prepare:
        raise UsageError("--verify and --prepare exclude each other", "leave out one of them")
    if source.given and (verify or prepare):
        raise UsageError(f"--{'verify' if verify else 'prepare'} takes no prompt", "leave the prompt out")
    return not (verify or prepare)


def _explain(model: TextToImage, prompts: list[str], seed: int, file: Path) -> None:
    if len(prompts) != 1:
        raise UsageError(f"--explain for {len(prompts)} prompts", "explain one prompt at a time")
    from textual_vision.runtime.files import write_atomic
    from textual_vision.runtime.images.explanation import png_from_explanation

    write_atomic(file, png_from_explanation(model.explain(prompts[0], seed)))


def _isolation(bundle: Bundle, isolated: bool | None, trust: bool) -> bool:
    """Whether to work in a child process: as asked for, or when the bundle is unknown on this machine."""
    from textual_vision.runtime.isolation import trusted

    if trust and isolated:
        raise UsageError("--trust and --isolated exclude each other", "leave out one of them")
    if trust and not trusted.trust(bundle.digest):
        raise UsageError(
            "there is no home folder to record a trusted bundle in",
            "name a folder by XDG_STATE_HOME, or use --no-isolated each time",
        )
    return not trusted.is_trusted(bundle.digest) if isolated is None else isolated


def main() -> None:
    """The entry point of `tv-generate`."""
    gc.disable()  # until the model is loaded: a start leaves no cycles behind
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy multiplies no matrices here
    try:
        console.run(command)
    except SystemExit as ended:
        if ended.code == 0 and "textual_vision.runtime.isolation.process" not in sys.modules:
            _end_at_once()
        raise


def _end_at_once() -> None:
    """End the process; returns where its output cannot be written.

    All files are whole. To free the model and to unload the libraries takes a twentieth of a start. A
    child process is ended in the usual way.
    """
    with contextlib.suppress(
        OSError, ValueError, AttributeError
    ):  # a closed pipe, a closed or missing stream
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
