"""Generate pictures of prompts as they come, and write each picture as soon as it is there."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.generation.results import GeneratedImage
from textual_vision.runtime.images.png import png_from_image
from textual_vision.runtime.pipeline import TextToImage

PROGRESS_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Job:
    """Generate each prompt's pictures from the seeds `seed` … `seed`+`count`−1, into files or one sheet."""

    seed: int
    count: int
    output: Path
    grid: bool
    as_json: bool


def check_output(output: Path | None) -> None:
    """Say before the work, not after it, that its result has no place."""
    if output is None:
        return
    if output.is_dir():
        raise UsageError(f"{output} is a folder", f"give a file's name: -o {output / 'out.png'}")
    if output.suffix.lower() != ".png":
        raise UsageError(f"{output}: not a .png name", "pictures are written as PNG: -o picture.png")
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent} is not a folder", f"make it first: mkdir -p {output.parent}")


def generate(model: TextToImage, prompts: Iterator[str], job: Job) -> list[str]:
    """Generate the pictures of all prompts and write the files; returns the first two prompts.

    At most a batch of prompts is in memory, and without a sheet at most a batch of pictures.
    """
    first = list(itertools.islice(prompts, 2))
    pictures = _pictures(model, itertools.chain(first, prompts), job)
    if job.grid:
        _write_sheet(list(pictures), job, model)
    else:
        _write_each(pictures, job, model, several=len(first) > 1 or job.count > 1)
    return first


def _pictures(model: TextToImage, prompts: Iterator[str], job: Job) -> Iterator[GeneratedImage]:
    seeds = [job.seed + index for index in range(job.count)]
    if job.count > 1:
        for prompt in prompts:
            yield from model.stream([prompt], seeds)
        return
    while some := list(itertools.islice(prompts, model.batch_size)):
        yield from model.stream(some, seeds)


def _write_each(pictures: Iterator[GeneratedImage], job: Job, model: TextToImage, *, several: bool) -> None:
    shown = time.monotonic()
    number = 0
    for number, picture in enumerate(pictures, 1):
        output = job.output
        file = output.with_stem(f"{output.stem}-{number}") if several else output
        picture.save(file)
        _report(picture, file, job, model)
        if several and time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            _progress(f"{number} pictures")
    _progress("")


def _write_sheet(pictures: list[GeneratedImage], job: Job, model: TextToImage) -> None:
    images = np.stack([picture.image for picture in pictures])
    write_atomic(job.output, png_from_image(_sheet(images, job.count)))
    if not job.as_json:
        click.echo(f"wrote {job.output}")
        return
    for picture in pictures:
        _report(picture, job.output, job, model)


def _sheet(images: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    """(rows · columns, height, width, 3) → (rows · height, columns · width, 3)."""
    _, height, width, channels = images.shape
    tiled: npt.NDArray[np.uint8] = images.reshape(-1, columns, height, width, channels).swapaxes(1, 2)
    sheet: npt.NDArray[np.uint8] = tiled.reshape(-1, columns * width, channels)
    return sheet


def _report(picture: GeneratedImage, file: Path, job: Job, model: TextToImage) -> None:
    if not job.as_json:
        click.echo(f"wrote {file}")
        return
    line = {
        "prompt": picture.prompt,
        "seed": picture.seed,
        "file": str(file),
        "unknown": list(picture.note.unknown),
        "words_cut": picture.note.words_cut,
        "bundle": model.bundle.manifest.name,
        "digest": picture.digest,
        "precision": model.precision,
        "backend": model.backend,
    }
    click.echo(json.dumps(line, ensure_ascii=False))


def _progress(text: str) -> None:
    """One line on a terminal that pictures' names do not go to; it is overwritten by the next."""
    if sys.stderr is not None and sys.stderr.isatty() and not sys.stdout.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
