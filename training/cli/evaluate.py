"""tv-train evaluate and alignment: scores of a checkpoint, and the model for the alignment score."""

from __future__ import annotations

import json
from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)
CORPUS = Path("out/corpus")


@click.command()
@click.argument("checkpoint")
@click.option(
    "--corpus", type=FOLDER, default=CORPUS, show_default=True, help="Corpus that CHECKPOINT was trained on."
)
@click.option("-o", "--output", type=FOLDER, help="Folder to write to. [default: the checkpoint's own]")
@click.option("--limit", type=click.IntRange(64), help="Use this many held-out pictures. [default: all]")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [default: one per core]")
def evaluate(
    checkpoint: str, corpus: Path, output: Path | None, limit: int | None, threads: int | None
) -> None:
    """Measure CHECKPOINT (a folder or a shipped name) on held-out pictures and prompts.

    Write evaluation.json and contact_sheet.png, and print the scores.
    """
    from textual_vision.training.checkpoint import find_checkpoint, load_checkpoint
    from textual_vision.training.data.corpus import load_corpus

    folder = find_checkpoint(checkpoint)
    opened = load_corpus(corpus)
    import torch

    from textual_vision.training.evaluation.evaluate import evaluate as measure

    if threads is not None:
        torch.set_num_threads(threads)
    found = measure(
        load_checkpoint(str(folder)), opened, limit=limit, on_progress=lambda line: click.echo(line, err=True)
    )
    target = output or folder
    target.mkdir(parents=True, exist_ok=True)
    found.save(target)
    click.echo(json.dumps(found.scores, indent=2))


@click.command()
@click.option(
    "--corpus", type=FOLDER, default=CORPUS, show_default=True, help="Corpus of real captioned pictures."
)
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder to write to.")
def alignment(corpus: Path, output: Path) -> None:
    """Train the alignment model, which scores how well a picture fits a caption."""
    from textual_vision.training.data.corpus import load_corpus

    opened = load_corpus(corpus)
    from textual_vision.training.evaluation.alignment_training import build_alignment

    about = build_alignment(opened, output, on_progress=lambda line: click.echo(line, err=True))
    click.echo(json.dumps(about, indent=2))


COMMANDS = (evaluate, alignment)
