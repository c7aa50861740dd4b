"""tv-train run, snapshot and describe: a training run, and the size of its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from textual_vision.runtime.errors import UsageError

if TYPE_CHECKING:
    from textual_vision.training.evaluation.model_size import StageSize

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("config")
@click.option(
    "-o", "--output", type=FOLDER, required=True, help="Folder of the run; the result is OUTPUT/checkpoint."
)
@click.option(
    "--corpus", type=FOLDER, default=Path("out/corpus"), show_default=True, help="Corpus to train on."
)
@click.option("--resume", is_flag=True, help="Continue the run in OUTPUT.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [default: one per core]")
def run(config: str, output: Path, corpus: Path, resume: bool, threads: int | None) -> None:
    """Train CONFIG, a shipped name such as emoji-64 or a .json file, through all phases.

    \b
    tv-train data --output out/corpus
    tv-train run emoji-64 --corpus out/corpus --output out/run
    tv-train run emoji-64 --corpus out/corpus --output out/run --resume
    """
    from textual_vision.training.config_file import load_config

    parsed = load_config(config)
    import torch

    from textual_vision.training.trainer.allocator import keep_freed_memory
    from textual_vision.training.trainer.train import train

    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    train(parsed, corpus, output, resume=resume, on_progress=click.echo)


@click.command()
@click.argument("run", type=FOLDER)
@click.option("-o", "--output", type=FOLDER, help="Folder of the checkpoint. [default: RUN/snapshot]")
def snapshot(run: Path, output: Path | None) -> None:
    """Write a checkpoint of RUN in its current state, without stopping it."""
    from textual_vision.training.trainer.snapshot import snapshot as take

    taken = take(run, output or run / "snapshot")
    click.echo(f"wrote {taken.folder} (phase {taken.phase}, step {taken.step})")


@click.command()
@click.argument("config")
@click.option(
    "--entries",
    type=click.IntRange(1),
    help="Pictures in the retrieval index, where CONFIG leaves their number to the corpus.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def describe(config: str, entries: int | None, as_json: bool) -> None:
    """Print the weights and multiply-accumulates of each stage of CONFIG."""
    from dataclasses import asdict

    from textual_vision.training.config import with_retrieval_entries
    from textual_vision.training.config_file import load_config

    parsed = load_config(config)
    from textual_vision.training.evaluation.model_size import describe as measure

    if entries is not None:
        parsed = with_retrieval_entries(parsed, entries)
    elif parsed.model.retrieval.entries is None:
        raise UsageError(
            f"config {parsed.name!r} has a retrieval entry for each picture of its corpus",
            "give their number, as in --entries 10000",
        )
    sizes = measure(parsed)
    if as_json:
        click.echo(json.dumps({"config": parsed.name, "stages": [asdict(size) for size in sizes]}))
    else:
        _print_table(parsed.name, sizes)


def _print_table(name: str, sizes: list[StageSize]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=name)
    table.add_column("stage")
    table.add_column("weights", justify="right")
    table.add_column("multiply-accumulates", justify="right")
    generating = [size for size in sizes if size.multiply_accumulates is not None]
    for size in sizes:
        if size.multiply_accumulates is None and size is sizes[len(generating)]:
            _add_total(table, generating)
        macs = "" if size.multiply_accumulates is None else f"{size.multiply_accumulates / 1e6:,.1f} M"
        table.add_row(size.stage, f"{size.weights / 1e6:,.2f} M", macs)
    Console().print(table)


def _add_total(table: object, generating: list[StageSize]) -> None:
    from rich.table import Table

    assert isinstance(table, Table)
    table.add_section()
    macs = sum(size.multiply_accumulates or 0 for size in generating)
    table.add_row(
        "one picture", f"{sum(size.weights for size in generating) / 1e6:,.2f} M", f"{macs / 1e6:,.1f} M"
    )
    table.add_section()


COMMANDS = (run, snapshot, describe)
