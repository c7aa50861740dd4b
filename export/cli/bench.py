"""tv-export bench: how fast a bundle draws, beside its peers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from textual_vision.runtime import console
from textual_vision.runtime.errors import UsageError

BATCH_LIMIT = 1024


@click.command("bench")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--precision", "precisions", multiple=True, help="Repeat for several. [default: the bundle's]")
@click.option(
    "--backend", "backends", multiple=True, help="Repeat for several. [default: the first installed]"
)
@click.option(
    "--against",
    multiple=True,
    metavar="PEER,…",
    help="eager, compile (PyTorch), naive (one plain export), openvino.",
)
@click.option("--checkpoint", help="What the bundle was made of. [default: that one of the shipped ones]")
@click.option("--prompt", "prompts", multiple=True, help="What to draw; repeat it for batches.")
@click.option(
    "--warm-up", type=click.IntRange(0), default=5, show_default=True, help="Drawings before measuring."
)
@click.option(
    "--iterations", type=click.IntRange(1), default=30, show_default=True, help="Drawings that are measured."
)
@click.option("--percentile", "percentiles", default="90,99", show_default=True, metavar="P,…")
@click.option("--batch", "batches", default="1,4", show_default=True, metavar="N,…", help="For throughput.")
@click.option("--threads", type=click.IntRange(1), help="For every contestant. [default: each one's choice]")
@click.option(
    "--cold-start",
    "cold_starts",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Fresh processes per contestant; 0 for none.",
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write the result here."
)
def bench_command(
    bundle: Path,
    precisions: tuple[str, ...],
    backends: tuple[str, ...],
    against: tuple[str, ...],
    checkpoint: str | None,
    prompts: tuple[str, ...],
    warm_up: int,
    iterations: int,
    percentiles: str,
    batches: str,
    threads: int | None,
    cold_starts: int,
    json_file: Path | None,
) -> None:
    """Measure how fast BUNDLE draws, and how that compares.

    \b
    tv-export bench emoji.tv --against eager,naive,openvino
    tv-export bench emoji.tv --precision fp32 --precision int8 --backend openvino --batch 1,2,4,8
    """
    # What is wrong with the numbers is said before the heavy imports.
    sizes = tuple(int(n) for n in numbers(batches, "--batch", 1, BATCH_LIMIT) if n == int(n))
    marks = numbers(percentiles, "--percentile", 0, 100)
    if json_file is not None and not json_file.parent.is_dir():
        raise UsageError(f"{json_file.parent} is not a folder", f"make it first: mkdir -p {json_file.parent}")
    from textual_vision.export.bench.results import BenchOptions
    from textual_vision.export.bench.run import bench
    from textual_vision.export.model.prompts import COMPARED

    options = BenchOptions(
        precisions=precisions,
        backends=backends,
        against=tuple(name.strip() for entry in against for name in entry.split(",") if name.strip()),
        checkpoint=checkpoint,
        prompts=prompts or COMPARED,
        warm_up=warm_up,
        iterations=iterations,
        percentiles=marks,
        batches=sizes,
        cold_starts=cold_starts,
        threads=threads,
    )
    result = bench(bundle, options, tell=lambda line: click.echo(line, err=True))
    _show(result, json_file)


def _show(result: object, json_file: Path | None) -> None:
    import dataclasses

    from rich.console import Console

    from textual_vision.export.bench.results import BenchResult
    from textual_vision.export.bench.table import tables_from_result
    from textual_vision.runtime.files import write_atomic

    assert isinstance(result, BenchResult)
    for warning in result.warnings:
        console.print_status("warning", warning, "yellow")
    Console().print(tables_from_result(result))
    if json_file is not None:
        text = json.dumps(dataclasses.asdict(result), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(json_file, (text + "\n").encode())
        click.echo(f"wrote {json_file}", err=True)


def numbers(text: str, option: str, low: float, high: float) -> tuple[float, ...]:
    """The numbers of a list with commas; UsageError unless each is from `low` to `high`."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(low <= number <= high for number in found):
        problem = f"{option} {text!r}: not a list of numbers from {low:g} to {high:g}"
        raise UsageError(
            problem, f"for example {option} 1,4,8" if option == "--batch" else "for example 90,99"
        )
    return found
