"""tv-export verify: check a bundle, alone or against its checkpoint."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from textual_vision.runtime import console
from textual_vision.runtime.errors import TextualVisionError, UsageError

if TYPE_CHECKING:
    from textual_vision.export.verification.options import VerifyOptions
    from textual_vision.export.verification.verification import Verification

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    metavar="CHECKPOINT",
    help="Compare with this checkpoint too, not only with the golden pictures.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    help="Precision to verify; repeat the option for several. [default: all]",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help="Backend to verify, such as onnxruntime-cuda; repeat it for several. "
    "[default: every installed CPU backend]",
)
@click.option("--require", metavar="P,P,...", help="Fail unless the bundle has these precisions.")
@click.option(
    "--require-backend",
    "required_backends",
    multiple=True,
    metavar="B",
    help="Verify with this backend too; exit with 6 when it is not installed. Repeat it for several.",
)
@click.option(
    "--level",
    type=click.Choice(["quick", "release"]),
    default="quick",
    show_default=True,
    help="How much is compared: quick for every commit, release before a release.",
)
@click.option("--prompts", type=FILE, metavar="FILE", help="File of prompts to compare, one per line.")
@click.option(
    "--samples",
    type=click.IntRange(2),
    help="Number of whole pictures. [default: 32 for quick, 128 for release]",
)
@click.option("--seed", type=console.SEED, default=0, show_default=True, help="Chooses prompts and seeds.")
@click.option(
    "--batch",
    metavar="N,N,max",
    help="Batch sizes of the stages; max is the largest of the batch profile. "
    "[default: 1,max or, for release, 1,4,max]",
)
@click.option(
    "--baseline", type=FILE, metavar="OLD.json", help="Fail when pictures are worse than in this file."
)
@click.option(
    "--merge",
    type=FILE,
    multiple=True,
    metavar="OTHER.json",
    help="Add another device's pictures to the agreement matrix; repeat it for several.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write everything as JSON, on every exit code; - is the standard output.",
)
@click.option("--junit", type=FILE, metavar="FILE", help="Write JUnit XML, one test case for each check.")
@click.option(
    "--save-failures",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write inputs, expected and found values of every failed check.",
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of each session."
)
@click.option("--quiet", is_flag=True, help="Print nothing but an error.")
def verify_command(
    bundle: Path,
    json_file: Path | None,
    junit: Path | None,
    save_failures: Path | None,
    quiet: bool,
    **given: object,
) -> None:
    """Check BUNDLE, also against its checkpoint.

    Files and golden pictures are always checked; lookup tables, stages and whole pictures with --checkpoint.

    \b
    tv-export verify emoji.tv
    tv-export verify emoji.tv --checkpoint emoji --level release --require fp32,int8
    tv-export verify emoji.tv --checkpoint emoji --junit parity.xml --json parity.json
    """
    from textual_vision.export.verification.verification import Verification
    from textual_vision.export.verification.verify import require_verified, verify_bundle

    checkpoint, level = given["checkpoint"], str(given["level"])
    found = Verification(
        bundle=str(bundle), level=level, checkpoint=None if checkpoint is None else str(checkpoint)
    )
    output = _Output(json_file, junit, save_failures)
    try:
        options = _options(given)
        verify_bundle(bundle, options, found=found, on_progress=_nothing if quiet else _progress)
        output.save_failures(found)
        if not quiet:
            _show(found, to_stderr=str(json_file) == "-")
        require_verified(found)
    except TextualVisionError as error:
        output.write(found, error.exit_code, error.message, error.hint)
        raise
    except BaseException as error:
        output.write(found, _exit_code(error), f"{type(error).__name__}: {error}".rstrip(": "), "")
        raise
    output.write(found, 0, "", "")


def _exit_code(error: BaseException) -> int:
    """The code with which `console.run` leaves after the error."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return console.EXIT_INTERRUPTED
    if (number := getattr(error, "number", None)) is not None:  # a signal
        return console.EXIT_OF_SIGNAL + int(number)
    return console.EXIT_USAGE if isinstance(error, OSError) else 1


class _Output:
    """The files that a verification writes."""

    def __init__(self, json_file: Path | None, junit: Path | None, failures: Path | None) -> None:
        self._json, self._junit, self._failures = json_file, junit, failures

    def save_failures(self, found: Verification) -> None:
        """Write the tensors of failed checks."""
        from textual_vision.export.verification.output.failures import save_failures

        if self._failures is not None:
            save_failures(found, self._failures, shlex.join(["tv-export", *sys.argv[1:]]))

    def write(self, found: Verification, exit_code: int, error: str, hint: str) -> None:
        """Write JSON and JUnit."""
        from textual_vision.export.verification.output.junit import junit_from_verification
        from textual_vision.export.verification.verification import json_from_verification
        from textual_vision.runtime.files import write_atomic

        if self._json is not None:
            value = json_from_verification(found, exit_code=exit_code, error=error, hint=hint)
            data = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
            if str(self._json) == "-":
                click.echo(data)
            else:
                write_atomic(self._json, f"{data}\n".encode())
        if self._junit is not None:
            early = error if error and found.failure is None else ""
            write_atomic(self._junit, junit_from_verification(found, error=early))


def _options(given: dict[str, object]) -> VerifyOptions:
    """Return the library's options; raises what reading the prompt file raises."""
    import warnings

    from textual_vision.calibration.prompts import CalibrationWarning, read_prompts
    from textual_vision.export.verification.options import VerifyOptions, batches_from_text

    changed = dict(given)
    prompts, batch, required = changed.pop("prompts"), changed.pop("batch"), changed.pop("require")
    if isinstance(prompts, Path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)  # a comparison needs fewer prompts
            changed["prompts"] = read_prompts(prompts).texts
    changed["batches"] = batches_from_text(batch) if isinstance(batch, str) else ()
    changed["required_precisions"] = _names(required) if isinstance(required, str) else ()
    return VerifyOptions(**changed)  # type: ignore[arg-type]


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UsageError(f"--require {text!r} has an empty name", "separate precisions by commas: fp32,int8")
    return names


def _progress(line: str) -> None:
    click.echo(f"  {line}", err=True)


def _nothing(line: str) -> None:
    del line


def _show(found: Verification, *, to_stderr: bool) -> None:
    """Print every check, a line each, then the notes and the agreement matrix."""
    from textual_vision.export.verification.checks import LAYERS

    for layer in LAYERS:
        checks = [check for check in found.checks if check.layer == layer]
        good = sum(not check.failed for check in checks)
        if checks:
            click.echo(f"{layer}: {good} of {len(checks)} checks pass", err=to_stderr)
        for check in checks:
            mark = "✗" if check.failed else "✓"
            click.echo(f"-[{mark}] {check.id}: {check.figure}", err=to_stderr)
    for note in found.notes:
        click.echo(f"  {note}", err=to_stderr)
    if found.matrix is not None:
        _show_matrix(found, to_stderr=to_stderr)


def _show_matrix(found: Verification, *, to_stderr: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from textual_vision.export.cli.printing import FILE_WIDTH
    from textual_vision.export.parity.agreement import cell_in_words, short_names

    matrix = found.matrix
    assert matrix is not None
    names = short_names(matrix.names)
    stream = sys.stderr if to_stderr else sys.stdout
    count = len(next(iter(found.sets.values())).images)
    table = Table(title=f"agreement of {count} pictures, free-running; = is identical")
    table.add_column("")
    for name in matrix.names:
        table.add_column(names[name], justify="right")
    for row in matrix.names:
        cells = (matrix.cells[row].get(column) for column in matrix.names)
        table.add_row(names[row], *("" if cell is None else cell_in_words(cell) for cell in cells))
    Console(file=stream, width=None if stream.isatty() else FILE_WIDTH).print(table)
