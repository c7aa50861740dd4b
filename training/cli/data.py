"""tv-train data: writes a corpus from captioned pictures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.files import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textual_vision.training.data.picture_files import Entry

LINE_EVERY = 2000  # pictures between two lines without a terminal
SOURCES = ("emoji", "coco", "folder", "shards")


@click.command(name="data")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write the corpus to."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(SOURCES),
    default="emoji",
    show_default=True,
    help="Format of the input: COCO's layout, a folder with captions, or tar shards.",
)
@click.option(
    "--input", "source", type=click.Path(path_type=Path), help="Folder of the pictures; not for emoji."
)
@click.option(
    "--size",
    type=click.IntRange(8, 2048),
    default=128,
    show_default=True,
    help="Height and width in pixels. Training may use any whole fraction of it.",
)
@click.option(
    "--packages",
    type=click.Path(path_type=Path),
    help="Folder of npm packages; missing ones are fetched. [default: the user's cache folder]",
)
@click.option("--skin-tones", "tones", is_flag=True, help="Include the skin-tone variants; for emoji only.")
@click.option(
    "--max-damaged",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Stop when a larger share of the pictures is damaged.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Pictures to decode in parallel. [default: one per core]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the corpus's summary as JSON.")
def data_command(
    output: Path,
    kind: str,
    source: Path | None,
    size: int,
    packages: Path | None,
    tones: bool,
    max_damaged: float,
    workers: int | None,
    as_json: bool,
) -> None:
    """Write a corpus: the emoji art by default, or your own captioned pictures.

    \b
    tv-train data --output corpus
    tv-train data --output corpus --format folder --input my-pictures --size 64
    """
    workers = workers or os.cpu_count() or 1
    if kind == "emoji":
        if source is not None:
            raise UsageError("--input is not for emoji", "name its kind: --format coco, folder or shards")
        summary = _emoji(output, packages or cache_folder("packages"), size, tones, workers)
    else:
        if source is None:
            raise UsageError(f"--format {kind} needs --input", "name the folder that holds the pictures")
        if packages is not None or tones:
            raise UsageError(f"--packages and --skin-tones are not for {kind}", "leave them out")
        summary = _captioned(output, kind, source, size, max_damaged, workers)
    if as_json:
        click.echo(json.dumps(summary, ensure_ascii=False))
        return
    splits = ", ".join(f"{count:,} {name}" for name, count in summary["splits"].items())
    click.echo(f"{output}: {summary['pictures']:,} pictures at {size} px ({splits})")


def _emoji(out: Path, packages: Path, size: int, tones: bool, workers: int) -> dict[str, Any]:
    from textual_vision.training.data.corpus import refuse_foreign_folder
    from textual_vision.training.emoji.build import build_corpus
    from textual_vision.training.emoji.npm_packages import fetch_packages

    refuse_foreign_folder(out)
    fetch_packages(packages, progress=lambda text: click.echo(text, err=True))
    with _Progress("drawing") as progress:
        return build_corpus(out, packages, size=size, tones=tones, workers=workers, progress=progress.show)


def _captioned(
    out: Path, kind: str, source: Path, size: int, max_damaged: float, workers: int
) -> dict[str, Any]:
    from textual_vision.training.data.captioned_corpus import build_captioned_corpus
    from textual_vision.training.data.picture_files import DamageLog

    damage = DamageLog(
        max_share=max_damaged,
        report=lambda name, reason: click.echo(f"skipped {name}: {reason}", err=True),
    )
    with _Progress("reading") as progress:
        summary = build_captioned_corpus(
            out,
            _entries(kind, source),
            size=size,
            source=f"{kind}: {source.name}",
            threads=workers,
            damage=damage,
            progress=lambda done: progress.show(done, None),
        )
    if damage.damaged:
        click.echo(f"{damage.damaged:,} of {damage.seen:,} pictures were damaged and skipped", err=True)
    return summary


def _entries(kind: str, source: Path) -> Iterator[Entry]:
    from textual_vision.training.data.coco import coco_entries
    from textual_vision.training.data.folder import folder_entries
    from textual_vision.training.data.shards import find_shards, shard_entries

    if kind == "coco":
        return coco_entries(source)
    return folder_entries(source) if kind == "folder" else shard_entries(find_shards(source))


class _Progress:
    """A progress bar on a terminal, a line every `LINE_EVERY` pictures elsewhere; both on standard error."""

    def __init__(self, verb: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._verb, self._terminal, self._said = verb, console.is_terminal, 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not self._terminal, transient=True)
        self._task = self._bar.add_task(verb, total=None)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def show(self, done: int, total: int | None) -> None:
        """Show that `done` pictures of `total` are finished; `total` is None when unknown."""
        self._bar.update(self._task, completed=done, total=total)
        if not self._terminal and done - self._said >= LINE_EVERY:
            self._said = done
            click.echo(f"{self._verb}: {done:,}{f' of {total:,}' if total else ''}", err=True)
