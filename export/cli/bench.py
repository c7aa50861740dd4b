"""tv-export bench: measure how fast a bundle generates, compared with PyTorch and other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from textual_vision.export.cli.arguments import numbers_from_text
from textual_vision.runtime import console
from textual_vision.runtime.errors import UsageError

if TYPE_CHECKING:
    from textual_vision.export.bench.results import BenchResult

BATCH_LIMIT = 1024


@click.command("bench")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    help="Precision to measure; repeat the option for several. [default: the bundle's default]",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help="Backend to measure; repeat the option for several. [default: the first CPU backend installed]",
)
@click.option(
    "--compare",
    multiple=True,
    metavar="PEER,…",
    help="Compare with eager or compile (PyTorch), naive (one unoptimized export), or openvino.",
)
@click.option(
    "--checkpoint",
    help="Checkpoint that the bundle was exported from. [default: the shipped one with the same digest]",
)
@click.option("--prompt", "prompts", multiple=True, help="Prompt to generate; repeat the option for batches.")
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Iterations before the measured ones.",
)
@click.option(
    "--iterations", type=click.IntRange(1), default=30, show_default=True, help="Measured iterations."
)
@click.option(
    "--percentile",
    "percentiles",
    default="90,99",
    show_default=True,
    metavar="P,…",
    help="Percentiles of the latency to report.",
)
@click.option(
    "--batch-sizes",
    default="1,4",
    show_default=True,
    metavar="N,…",
    help="Batch sizes to measure throughput at.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads of every runner. [default: each library's choice]"
)
@click.option(
    "--cold-start",
    "cold_starts",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Fresh processes to measure the start with, for each runner; 0 skips it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the JSON to this file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of tables.")
def bench_command(
    bundle: Path,
    percentiles: str,
    batch_sizes: str,
    compare: tuple[str, ...],
    prompts: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    **given: object,
) -> None:
    """Measure the speed and memory of BUNDLE.

    --compare adds PyTorch and other runtimes.

    \b
    tv-export bench emoji.tv --compare eager,naive,openvino
    tv-export bench emoji.tv --precision fp32 --precision int8 --backend openvino --batch-sizes 1,2,4,8
    """
    # The numbers are checked before the heavy imports.
    sizes = numbers_from_text(batch_sizes, "--batch-sizes", 1, BATCH_LIMIT, "1,4,8")
    ranks = numbers_from_text(percentiles, "--percentile", 0, 100, "90,99")
    if output is not None and not output.parent.is_dir():
        raise UsageError(f"{output.parent} is not a folder", f"create it first: mkdir -p {output.parent}")
    from textual_vision.export.bench.results import BenchOptions
    from textual_vision.export.bench.run import bench
    from textual_vision.export.cli.printing import print_progress
    from textual_vision.export.model.prompts import COMPARED

    options = BenchOptions(
        compare=tuple(name.strip() for entry in compare for name in entry.split(",") if name.strip()),
        prompts=prompts or COMPARED,
        percentiles=ranks,
        batch_sizes=tuple(int(size) for size in sizes if size == int(size)),
        **given,  # type: ignore[arg-type]
    )
    _show(bench(bundle, options, on_progress=print_progress), output, as_json)


def _show(result: BenchResult, output: Path | None, as_json: bool) -> None:
    import dataclasses
    import json

    from rich.console import Console

    from textual_vision.export.bench.table import tables_from_result
    from textual_vision.runtime.files import write_atomic

    for warning in result.warnings:
        console.print_status("warning", warning, "yellow")
    text = json.dumps(dataclasses.asdict(result), indent=1, ensure_ascii=False, allow_nan=False)
    if as_json:
        click.echo(text)
    else:
        Console().print(tables_from_result(result))
    if output is not None:
        write_atomic(output, (text + "\n").encode())
        click.echo(f"wrote {output}", err=True)
