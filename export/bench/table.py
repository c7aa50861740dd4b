"""Show a benchmark's result as tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from textual_vision.export.bench.results import BenchResult, RunnerResult


def tables_from_result(result: BenchResult) -> Group:
    """Return tables of latency, ratios, throughput, utilization and cold starts, without empty ones."""
    return Group(*_parts(result))


def _parts(result: BenchResult) -> Iterator[RenderableType]:
    yield Text(f"{result.name}: {result.prompt!r}, batch 1, {result.iterations} iterations each", "bold")
    threads = "threads: each library's choice" if result.threads is None else f"threads: {result.threads}"
    yield Text(f"{result.processor}, {result.cores} cores, {threads}")
    yield _times(result)
    if any(one.ratios for one in result.runners):
        yield _ratios(result)
    yield _throughput(result)
    yield _utilization(result)
    if any(one.cold_start for one in result.runners):
        yield _cold(result)


def _times(result: BenchResult) -> Table:
    percentiles = list(result.runners[0].end_to_end.percentiles)
    table = _table("milliseconds", "", "stage", "median", *(f"p{p}" for p in percentiles))
    for one in result.runners:
        for stage, timing in one.stages.items():
            cells = (timing.median, *timing.percentiles.values())
            table.add_row("", stage, *(f"{value:.2f}" for value in cells), style="dim")
        cells = (one.end_to_end.median, *one.end_to_end.percentiles.values())
        shown = [f"{value:.2f}" for value in cells]
        table.add_row(one.name, "prompt to pixels", *shown, style="bold", end_section=True)
    return table


def _ratios(result: BenchResult) -> Table:
    table = _table(
        "speed-up over the other runners; 95 % confidence interval", "", "over", "times", "low", "high"
    )
    for one in result.runners:
        for name, ratio in one.ratios.items():
            figures = [f"{value:.2f}" for value in (ratio.median, ratio.low, ratio.high)]
            table.add_row(one.name, name, *figures)
        table.add_section()
    return table


def _throughput(result: BenchResult) -> Table:
    sizes = [t.batch for t in result.runners[0].throughput]
    table = _table("pictures per second", "", *(f"batch {size}" for size in sizes))
    for one in result.runners:
        table.add_row(one.name, *(f"{t.pictures_per_second:.1f}" for t in one.throughput))
    return table


def _utilization(result: BenchResult) -> Table:
    tops = ", ".join(
        f"{c.dtype} {c.macs_per_second / 1e9:.0f} GMAC/s ({c.by})" for c in result.peak_rates.values()
    )
    table = _table(
        f"utilization; peak rates measured here: {tops}", "", "stage", "MMAC", "GMAC/s", "of the peak"
    )
    for one in result.runners:
        for stage, work in one.utilization.items():
            rate, share = (
                f"{work.macs_per_second / 1e9:.1f}",
                f"{100 * work.peak_share:.0f} % of {work.peak_dtype}",
            )
            table.add_row(one.name, stage, f"{work.macs / 1e6:.1f}", rate, share)
    return table


def _cold(result: BenchResult) -> Table:
    table = _table("cold start", "", "first picture, s", "of that loading, s", "peak memory, MB")
    for one in result.runners:
        if one.cold_start is not None:
            table.add_row(one.name, *_cold_cells(one))
    return table


def _cold_cells(one: RunnerResult) -> tuple[str, str, str]:
    assert one.cold_start is not None
    cold = one.cold_start
    return f"{cold.first_picture_seconds:.2f}", f"{cold.load_seconds:.2f}", f"{cold.peak_megabytes:.0f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="italic")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or column in ("stage", "over") else "right")
    return table
