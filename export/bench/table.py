"""A benchmark's result as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from textual_vision.export.bench.results import BenchResult, ContestantResult


def tables_from_result(result: BenchResult) -> Group:
    """Times, ratios, throughput, work and cold starts, each where there is something to show."""
    return Group(*_parts(result))


def _parts(result: BenchResult) -> Iterator[RenderableType]:
    yield Text(f"{result.name}: {result.prompt!r}, one picture, {result.iterations} drawings each", "bold")
    threads = (
        "each library's own choice of threads" if result.threads is None else f"threads: {result.threads}"
    )
    yield Text(f"{result.processor}, {result.cores} cores, {threads}")
    yield _times(result)
    if any(one.ratios for one in result.contestants):
        yield _ratios(result)
    yield _throughput(result)
    yield _work(result)
    if any(one.cold for one in result.contestants):
        yield _cold(result)


def _times(result: BenchResult) -> Table:
    percentiles = list(result.contestants[0].whole.percentiles)
    table = _table("milliseconds", "", "stage", "median", *(f"p{p}" for p in percentiles))
    for one in result.contestants:
        for stage, timing in one.stages.items():
            cells = (timing.median, *timing.percentiles.values())
            table.add_row("", stage, *(f"{value:.2f}" for value in cells), style="dim")
        cells = (one.whole.median, *one.whole.percentiles.values())
        shown = [f"{value:.2f}" for value in cells]
        table.add_row(one.name, "prompt to pixels", *shown, style="bold", end_section=True)
    return table


def _ratios(result: BenchResult) -> Table:
    table = _table("how many times as fast; 95 % of a bootstrap over rounds", "", "as", "times", "from", "to")
    for one in result.contestants:
        for name, ratio in one.ratios.items():
            figures = [f"{value:.2f}" for value in (ratio.median, ratio.low, ratio.high)]
            table.add_row(one.name, name, *figures)
        table.add_section()
    return table


def _throughput(result: BenchResult) -> Table:
    sizes = [t.batch for t in result.contestants[0].throughput]
    table = _table("pictures per second", "", *(f"batch {size}" for size in sizes))
    for one in result.contestants:
        table.add_row(one.name, *(f"{t.pictures_per_second:.1f}" for t in one.throughput))
    return table


def _work(result: BenchResult) -> Table:
    tops = ", ".join(
        f"{c.dtype} {c.macs_per_second / 1e9:.0f} GMAC/s ({c.by})" for c in result.ceilings.values()
    )
    table = _table(
        f"work; the ceiling measured here: {tops}", "", "stage", "MMAC", "GMAC/s", "of the ceiling"
    )
    for one in result.contestants:
        for stage, work in one.work.items():
            rate, share = f"{work.macs_per_second / 1e9:.1f}", f"{100 * work.share:.0f} % of {work.ceiling}"
            table.add_row(one.name, stage, f"{work.macs / 1e6:.1f}", rate, share)
    return table


def _cold(result: BenchResult) -> Table:
    table = _table("a fresh process", "", "first picture, s", "of it loading, s", "peak memory, MB")
    for one in result.contestants:
        if one.cold is not None:
            table.add_row(one.name, *_cold_cells(one))
    return table


def _cold_cells(one: ContestantResult) -> tuple[str, str, str]:
    assert one.cold is not None
    cold = one.cold
    return f"{cold.first_picture_seconds:.2f}", f"{cold.load_seconds:.2f}", f"{cold.peak_megabytes:.0f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="italic")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or column in ("stage", "as") else "right")
    return table
