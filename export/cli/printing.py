"""Print the results of tv-export's commands: tables for people, JSON for machines.

Only `show_plan` imports torch, so that the other commands run on devices without it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from textual_vision.export.bundle.inspection import Inspection
from textual_vision.export.bundle.model_card import condition_in_words
from textual_vision.export.cli.doctor import Finding
from textual_vision.export.int8.tolerance import table_lines
from textual_vision.export.model.batch import TOKENS
from textual_vision.export.results import (
    FAIL,
    FREE_RUNNING,
    MERGED,
    PASS,
    TEACHER_FORCED,
    BuildResult,
    PrecisionResult,
    StageGraph,
    StageParity,
)
from textual_vision.runtime.manifest import TextSpec
from textual_vision.runtime.strict_json import json_from_dataclass

if TYPE_CHECKING:
    from textual_vision.export.build.options import BuildOptions
    from textual_vision.export.cli.engine import EngineJob
    from textual_vision.export.tensorrt.engines import EngineResult

FILE_WIDTH = 120  # columns of tables that are written to a file or a pipe
MAX_UNVISITED = 60  # characters of the list of unvisited rows; the report has all of it
MARKS = {PASS: "[green]✓ pass[/]", FAIL: "[red]✗ fail[/]"}


def console() -> Console:
    """Return a console for the standard output, wide enough for tables in files and pipes."""
    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH)


def print_json(value: object) -> None:
    """Print one JSON document on the standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_progress(line: str) -> None:
    """Print one line about the progress of long work on the standard error."""
    click.echo(f"  {line}", err=True)


def show_plan(
    checkpoint: str, output: Path, options: BuildOptions, as_json: bool, engines: EngineJob | None = None
) -> None:
    """Print the steps of a build and of its `engines`.

    Raises what the build would raise before its first step.
    """
    from textual_vision.export.build.options import check_options
    from textual_vision.export.build.plan import plan
    from textual_vision.export.loading.source import load_checked_model

    check_options(options)
    model = load_checked_model(checkpoint, options.prompt_length)
    stages = [stage.name for stage in model.stages]
    steps = plan(options, model) + (engines.steps(stages) if engines is not None else [])
    if as_json:
        print_json({"checkpoint": checkpoint, "bundle": str(output), "steps": steps})
        return
    click.echo(f"{model.name} → {output}")
    for step in steps:
        click.echo(f"  {step}")


def show_build(result: BuildResult, as_json: bool, engines: Sequence[EngineResult] = ()) -> None:
    """Print a build's comparisons, its rewrites, the int8 candidates and the next command."""
    if as_json:
        print_json({**dataclasses.asdict(result), "engines": [dataclasses.asdict(one) for one in engines]})
        return
    out = console()
    for backend in result.backends:
        out.print(_build_table(result, backend))
    if result.rewrites:
        out.print(_rewrite_table(result))
    for precision in result.precisions:
        if "table" in precision.notes:
            for line in int8_lines(precision.notes):
                click.echo(line)
    size = sum(graph.bytes for one in result.precisions for graph in one.graphs)
    click.echo(f"wrote {result.bundle}: {size / 1e6:.1f} MB of graphs in {result.seconds:.0f} s")
    prompt = f'"{result.example}" ' if result.example else ""
    click.echo(f"next: tv-generate {result.bundle} {prompt}-o picture.png")


def int8_lines(notes: Mapping[str, Any]) -> list[str]:
    """Return the calibration and the Pareto table in the notes of `int8_from_float`, a line each."""
    lines = _calibration_lines(notes["calibration"]) if "calibration" in notes else []
    lines += [f"  warning: {text}" for text in notes["warnings"]]
    table = [f"  {line}" for line in table_lines(notes["table"])]
    lines += [f"int8 within {notes['tolerance']}: candidates that no other beats", *table]
    return [*lines, *products_lines(notes["stages"])]


def products_lines(stages: Mapping[str, Any]) -> list[str]:
    """Return a line for each stage: how many products compute in int8, and why the others do not."""
    lines = ["products that compute in int8"]
    for name, stage in stages.items():
        found = stage["products"]
        others = ", ".join(f"{count} not: {why}" for why, count in sorted(found["reasons"].items()))
        line = f"  {name}: {found['int8']} of {found['all']}" if found["all"] else f"  {name}: no products"
        lines.append(f"{line}; {others}" if others else line)
    return lines


def _calibration_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [f"calibrated on {found['prompts']} of {found['offered']} prompts, ranges by {found['ranges']}"]
    for table in found["tables"]:
        never = table["never"]
        shown = never if len(never) <= MAX_UNVISITED else f"{never[:MAX_UNVISITED].rpartition(',')[0]},…"
        visited = f"  {table['tensor']}: {table['visited']} of {table['rows']} rows visited"
        lines.append(f"{visited}, never {shown}" if never else visited)
    return [*lines, *(f"  warning: {text}" for text in found["warnings"])]


def _build_table(result: BuildResult, backend: str) -> Table:
    table = Table(
        title=f"{escape(result.name)}, {result.samples} pictures compared with PyTorch by {backend}"
    )
    for name in (
        "stage",
        "precision",
        "MB",
        "nodes",
        "ms",
        "codes equal",
        "teacher-forced, dB",
        "end to end, dB",
        "verdict",
    ):
        table.add_column(name, justify="left" if name in ("stage", "precision", "verdict") else "right")
    for precision in result.precisions:
        if not any(one.backend == backend for one in precision.parity):
            continue
        for graph in precision.graphs:
            table.add_row(*_build_row(precision, graph, backend))
        table.add_section()
    return table


def _build_row(precision: PrecisionResult, graph: StageGraph, backend: str) -> list[str]:
    forced = precision.stage_parity(graph.stage, TEACHER_FORCED, backend)
    free = precision.stage_parity(graph.stage, FREE_RUNNING, backend)
    codes = next((one.codes for one in (forced, free) if one is not None and one.codes is not None), None)
    verdicts = [one.verdict for one in (forced, free) if one is not None]
    mark = MARKS[FAIL if FAIL in verdicts else PASS] if verdicts else ""
    return [
        graph.stage,
        precision.precision,
        f"{graph.bytes / 1e6:.1f}",
        str(graph.nodes),
        f"{graph.milliseconds:.1f}" if graph.backend == backend else "",
        "" if codes is None else f"{100 * codes.agreement:.2f} %",
        _decibels(forced),
        "" if graph.stage == MERGED else _decibels(free),
        mark,
    ]


def _decibels(parity: StageParity | None) -> str:
    if parity is None or parity.image is None:
        return ""
    return "identical" if parity.image.psnr_db is None else f"{parity.image.psnr_db:.1f}"


def _rewrite_table(result: BuildResult) -> Table:
    table = Table(title="rewrites")
    for name in ("rewrite", "stage", "nodes", "ms", "largest change", "codes changed", ""):
        table.add_column(name, justify="left" if name in ("rewrite", "stage", "") else "right")
    for one in result.rewrites:
        before, after = one.milliseconds_before, one.milliseconds_after
        table.add_row(
            one.rewrite,
            one.stage,
            f"{one.nodes_before} → {one.nodes_after}",
            "" if before is None or after is None else f"{before:.2f} → {after:.2f}",
            f"{one.max_abs:.2g}",
            str(one.codes_changed),
            "" if one.applied else f"left out: {one.reason}",
        )
    return table


def show_engines(bundle: Path, result: EngineResult, as_json: bool) -> None:
    """Print the engines that were added to `bundle`, or that it has them already."""
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
    elif result.reused:
        name = f"{result.fingerprint} {result.precision}"
        click.echo(f"{bundle} has {name} engines already; --rebuild builds them again")
    for stage in () if as_json else result.stages:
        click.echo(f"wrote {bundle / stage.file}")


def show_inspection(found: Inspection, as_json: bool) -> None:
    """Print the contents of a bundle."""
    manifest = found.manifest
    if as_json:
        graphs = [dataclasses.asdict(graph) for graph in found.graphs]
        print_json({"bytes": found.bytes, "manifest": json_from_dataclass(manifest), "graphs": graphs})
        return
    out = console()
    size = f"{manifest.image.width}×{manifest.image.height}"
    about = f"{size} pictures, {condition_in_words(manifest)}, {found.bytes / 1e6:.1f} MB, {manifest.license}"
    click.echo(f"{manifest.name}: {about}")
    tensors = Table(title="stages")
    for name in ("stage", "inputs", "outputs"):
        tensors.add_column(name)
    stages = [*manifest.stages, *([manifest.merged] if manifest.merged else [])]
    for stage in stages:
        sides = (
            "\n".join(f"{t.name} {t.dtype} {_shape(t.shape, manifest.text)}" for t in s)
            for s in (stage.inputs, stage.outputs)
        )
        tensors.add_row(escape(stage.name), *map(escape, sides))
    out.print(tensors)
    graphs_table = Table(title="graphs")
    for name in ("graph", "MB", "opset", "parameters", "operators", "verdict"):
        graphs_table.add_column(name)
    for graph in found.graphs:
        graphs_table.add_row(
            escape(graph.file),
            f"{graph.bytes / 1e6:.1f}",
            str(graph.opset),
            ", ".join(
                f"{count / 1e6:.2f} M {kind}" for kind, count in graph.parameters.items() if count > 9999
            ),
            ", ".join(f"{name} {count}" for name, count in list(graph.operators.items())[:6]),
            manifest.precisions[graph.precision].verdict,
        )
    out.print(graphs_table)
    for engine in manifest.engines:
        click.echo(f"engines: {engine.fingerprint}, {engine.precision}")
    click.echo("made with: " + ", ".join(f"{name} {value}" for name, value in manifest.provenance.items()))
    for warning in manifest.warnings:
        click.echo(f"warning: {warning}")


def _shape(shape: Sequence[int | str], text: TextSpec | None) -> str:
    known = {TOKENS: text.max_tokens} if text is not None and text.fixed_length else {}
    return "×".join(str(known.get(size, size) if isinstance(size, str) else size) for size in shape)


def show_doctor(findings: Sequence[Finding], as_json: bool) -> None:
    """Print what works, what does not, and how to mend it."""
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
        return
    for finding in findings:
        click.echo(f"-[{'✓' if finding.works else '✗'}] {finding.name}: {finding.found}")
        if finding.hint and not finding.works:
            click.echo(f"     {finding.hint}")
