"""tv-generate: draw pictures with a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from textual_vision.runtime import console
from textual_vision.runtime.errors import ParityError, UsageError
from textual_vision.runtime.version import __version__

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from textual_vision.runtime.bundle import Bundle
    from textual_vision.runtime.pipeline import TextToImage

COUNT_LIMIT = 10_000


@click.command(name="tv-generate", no_args_is_help=True)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("prompts", nargs=-1, metavar="PROMPT...")
@click.option(
    "--seed", type=console.SEED, default=0, show_default=True, help="Seed of each prompt's first picture."
)
@click.option(
    "--count",
    type=click.IntRange(1, COUNT_LIMIT),
    default=1,
    show_default=True,
    help="GeneratedImages per prompt, from the seeds SEED, SEED+1, …",
)
@click.option("--grid/--no-grid", default=False, help="All pictures on one sheet, a row per prompt.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("out.png"),
    show_default=True,
    help="PNG to write; several pictures without --grid become out-1.png, out-2.png, …",
)
@click.option("--precision", help="fp32, fp16, int8: what the bundle has. [default: the bundle's own]")
@click.option("--backend", help="onnxruntime, openvino, … [default: the first that is installed]")
@click.option("--threads", type=click.IntRange(1), help="Threads to use. [default: the backend's choice]")
@click.option(
    "--isolated/--no-isolated",
    default=None,
    help="Work in a child process with limits on memory and time. "
    "[default: for bundles that were not built or trusted on this machine]",
)
@click.option("--trust", is_flag=True, help="Trust this bundle from now on: it is not isolated.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@click.option("--verify", is_flag=True, help="Check every file and redraw the golden pictures instead.")
@click.version_option(__version__)
def command(
    bundle: Path,
    prompts: tuple[str, ...],
    seed: int,
    count: int,
    grid: bool,
    output: Path,
    precision: str | None,
    backend: str | None,
    threads: int | None,
    isolated: bool | None,
    trust: bool,
    as_json: bool,
    verify: bool,
) -> None:
    """Generate pictures of each PROMPT by the BUNDLE, a folder that `tv-export build` wrote.

    A PROMPT is a label, by name or number, where the model takes labels, and left out where it takes neither.

    \b
    tv-generate emoji.tv "dog wearing sunglasses" -o dog.png
    tv-generate emoji.tv "green forest with river" --count 8 --grid
    """
    from textual_vision.runtime.bundle import Bundle
    from textual_vision.runtime.pipeline import TextToImage

    if verify and prompts:
        raise UsageError("--verify takes no prompt", "leave the prompt out")
    if not verify:
        _check_output(output)
    opened = Bundle(bundle)
    if not verify:
        prompts = _conditions(opened, prompts)
    isolated = _isolation(opened, isolated, trust)
    model = TextToImage.load(opened, precision, backend, threads, isolated=isolated)
    if verify:
        _verify(model, as_json)
        return
    seeds = [seed + index for index in range(count)]
    images = _images(model, prompts, seeds)
    pairs = [(prompt, one_seed) for prompt in prompts for one_seed in seeds]
    files = _write(images, output, count if grid else None)
    _report(model, pairs, files, as_json)


def _conditions(bundle: Bundle, prompts: tuple[str, ...]) -> tuple[str, ...]:
    """The prompts or labels to generate from: one empty condition for a model that takes none."""
    manifest = bundle.manifest
    if prompts or (manifest.text is None and manifest.labels is None):
        return prompts or ("",)
    if manifest.labels is not None:
        names = ", ".join(manifest.labels.names[:8])
        raise UsageError("no label", f"give one by its name or number: {names}"[:200])
    raise UsageError("no prompt", 'for example: tv-generate emoji.tv "dog wearing sunglasses"')


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


def _check_output(output: Path) -> None:
    """Say before the work, not after it, that its result has no place."""
    if output.is_dir():
        raise UsageError(f"{output} is a folder", f"give a file's name: -o {output / 'out.png'}")
    if output.suffix.lower() != ".png":
        raise UsageError(f"{output}: not a .png name", "pictures are written as PNG: -o picture.png")
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent} is not a folder", f"make it first: mkdir -p {output.parent}")


def _images(model: TextToImage, prompts: tuple[str, ...], seeds: list[int]) -> npt.NDArray[np.uint8]:
    """All pictures, (prompts · seeds, height, width, 3), prompt by prompt."""
    import numpy as np

    return np.concatenate([model.generate([prompt], seeds).images for prompt in prompts])


def _write(images: npt.NDArray[np.uint8], output: Path, columns: int | None) -> list[Path]:
    """Write one sheet with `columns` pictures a row, or every picture by itself; returns the files."""
    from textual_vision.runtime.files import write_atomic
    from textual_vision.runtime.golden import png_from_image

    if columns is not None:
        write_atomic(output, png_from_image(_sheet(images, columns)))
        return [output]
    if len(images) == 1:
        files = [output]
    else:
        files = [output.with_stem(f"{output.stem}-{index + 1}") for index in range(len(images))]
    for file, image in zip(files, images, strict=True):
        write_atomic(file, png_from_image(image))
    return files


def _sheet(images: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    """(rows · columns, height, width, 3) → (rows · height, columns · width, 3)."""
    _, height, width, channels = images.shape
    tiled: npt.NDArray[np.uint8] = images.reshape(-1, columns, height, width, channels).swapaxes(1, 2)
    sheet: npt.NDArray[np.uint8] = tiled.reshape(-1, columns * width, channels)
    return sheet


def _report(model: TextToImage, pairs: list[tuple[str, int]], files: list[Path], as_json: bool) -> None:
    if not as_json:
        for file in files:
            click.echo(f"wrote {file}")
        return
    pictures = [
        {"prompt": prompt, "seed": seed, "file": str(files[index if len(files) > 1 else 0])}
        for index, (prompt, seed) in enumerate(pairs)
    ]
    about = {"bundle": model.bundle.manifest.name, "precision": model.precision, "backend": model.backend}
    click.echo(json.dumps({**about, "pictures": pictures}, ensure_ascii=False))


def _verify(model: TextToImage, as_json: bool) -> None:
    from textual_vision.runtime.golden import compare
    from textual_vision.runtime.strict_json import json_from_dataclass

    model.bundle.verify()
    results = list(compare(model))
    if as_json:
        about = {"precision": model.precision, "backend": model.backend}
        click.echo(json.dumps({**about, "pictures": json_from_dataclass(results)}, ensure_ascii=False))
    else:
        for result in results:
            mark = "✓" if result.passed else "✗"
            psnr = "identical" if result.psnr_db is None else f"{result.psnr_db:.1f} dB"
            agreement = result.code_agreement
            codes = "" if agreement is None else f"codes {100 * agreement:.1f} % equal, "
            noise = "" if result.noise_equal else ", noise differs"
            click.echo(f"[{mark}] {result.prompt!r} seed {result.seed}: {codes}picture {psnr}{noise}")
    if failed := sum(not result.passed for result in results):
        problem = f"{failed} of {len(results)} golden pictures are outside the budget"
        raise ParityError(problem, "try another --backend or --precision; report it with the output above")


def main() -> None:
    """The entry point of `tv-generate`."""
    console.run(command)


if __name__ == "__main__":
    main()
