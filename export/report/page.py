"""Render report/index.html, a self-contained page, and report.json with the same data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.parity.agreement import (
    AgreementMatrix,
    cell_in_words,
    json_from_matrix,
    short_names,
)
from textual_vision.export.report.layers import IDENTICAL, NOT_FINITE, LayerRatio, layer_ratios
from textual_vision.export.report.pictures import (
    AMPLIFICATION,
    ReportSample,
    agreement_grid,
    data_uri,
    error_map,
    reference_grid,
    samples_from_batches,
    select_samples,
)
from textual_vision.export.report.plots import layer_plot, stacked_bars
from textual_vision.export.report.summary import PrecisionRows, reference_of, rows_from_precisions
from textual_vision.export.results import MERGED, BuildResult
from textual_vision.export.sessions.opening import open_sessions
from textual_vision.runtime.backends.session import Session
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.generation.program import Program
from textual_vision.runtime.manifest import StageSpec

REPORT_FOLDER = "report"
HTML_NAME, JSON_NAME = "index.html", "report.json"
SCHEMA_VERSION = 1
TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE = "report.html.jinja"
WEAKEST_LAYERS = 8  # listed for each precision
MAX_SAMPLES = 16  # generated again for the report
MAX_KINDS = 5  # of values that a summary counts

Opener = Callable[[Mapping[str, bytes]], Mapping[str, Session]]
Layers = dict[str, dict[str, tuple[LayerRatio, ...]]]


@dataclass(frozen=True, kw_only=True)
class ReportSource:
    """The inputs of a report.

    `graphs` by precision and stage, for the precisions of `result`. `batches` are the reference. `about` is
    shown as it is (license, picture size, checkpoint). `command` is the command line that made the bundle.
    `sessions` opens the sessions of one precision's graphs; None opens new ones. `agreement` compares every
    precision and backend with every other.
    """

    result: BuildResult
    program: Program
    graphs: Mapping[str, Mapping[str, bytes]]
    batches: Sequence[ReferenceBatch]
    about: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    warnings: tuple[str, ...] = ()
    sessions: Opener | None = None
    agreement: AgreementMatrix | None = None

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The stages in running order."""
        return self.program.stages


@dataclass(frozen=True, kw_only=True)
class _Findings:
    rows: tuple[PrecisionRows, ...]
    samples: tuple[ReportSample, ...]
    layers: Layers  # precision → stage → ratios


def write_report(folder: Path, source: ReportSource) -> None:
    """Write index.html and report.json into `folder`, which is created if necessary."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in report_files(source).items():
        write_atomic(folder / Path(name).name, data)


def report_files(source: ReportSource) -> dict[str, bytes]:
    """Return both files by their path in a bundle; runs every stage of every precision again."""
    found = _findings(source)
    return {
        f"{REPORT_FOLDER}/{HTML_NAME}": _html(source, found).encode(),
        f"{REPORT_FOLDER}/{JSON_NAME}": _json(source, found),
    }


def _findings(source: ReportSource) -> _Findings:
    backend = source.result.backends[0]
    names = [stage.name for stage in source.stages]
    opener = source.sessions or partial(open_sessions, backend=backend, threads=1)
    sessions = {
        precision: opener({name: graphs[name] for name in names})
        for precision, graphs in source.graphs.items()
    }
    return _Findings(
        rows=rows_from_precisions(source.result.precisions),
        samples=samples_from_batches(source.program, sessions, _first(source.batches)),
        layers=_layers(source, backend),
    )


def _first(batches: Sequence[ReferenceBatch]) -> Sequence[ReferenceBatch]:
    """Return as many batches as hold MAX_SAMPLES samples."""
    counts = np.cumsum([len(batch.prompts) for batch in batches])
    return batches[: int(np.searchsorted(counts, MAX_SAMPLES)) + 1]


def _layers(source: ReportSource, backend: str) -> Layers:
    first = reference_of(list(source.graphs))
    others = [precision for precision in source.graphs if precision != first]
    found: Layers = {precision: {} for precision in others}
    if not others:
        return found
    for stage in source.stages:
        graphs = {precision: source.graphs[precision][stage.name] for precision in others}
        reference = source.graphs[first][stage.name]
        ratios = layer_ratios(stage, reference, graphs, source.batches[0], backend)
        for precision in others:
            found[precision][stage.name] = ratios[precision]
    return found


def _html(source: ReportSource, found: _Findings) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["records"], environment.filters["summary"] = are_records, summary_from_mapping
    return environment.get_template(TEMPLATE).render(
        result=source.result,
        about=source.about,
        command=source.command,
        warnings=source.warnings,
        rows=found.rows,
        agreement=source.agreement,
        names=short_names(() if source.agreement is None else source.agreement.names),
        cell=cell_in_words,
        size_plot=stacked_bars(_bars(found.rows, "megabytes"), "MB", "size of each precision's graphs"),
        time_plot=stacked_bars(_bars(found.rows, "milliseconds"), "ms", "time for one picture"),
        parts=[stage.name for stage in source.stages],
        cards=_cards(found.samples),
        layers=_layer_plots(source, found.layers),
        weakest=_weakest(found.layers),
        amplification=AMPLIFICATION,
        merged=MERGED,
        reference=reference_of(list(source.graphs)),
        notes={one.precision: one.notes for one in source.result.precisions if one.notes},
    )


def _bars(rows: Sequence[PrecisionRows], value: str) -> dict[str, dict[str, float]]:
    return {
        row.precision: {s.stage: getattr(s, value) for s in row.stages if s.stage != MERGED} for row in rows
    }


def _cards(samples: Sequence[ReportSample]) -> list[dict[str, Any]]:
    """Return each shown sample's columns, PyTorch first, then the precisions; pictures are data URIs."""
    return [
        {
            "prompt": sample.prompt,
            "seed": sample.seed,
            "worst": worst,
            "image": data_uri(sample.image),
            "codes": None if sample.codes is None else data_uri(reference_grid(sample.codes)),
            "generated": [
                {
                    "precision": precision,
                    "image": data_uri(one.image),
                    "error": data_uri(error_map(sample.image, one.image)),
                    "codes": None if sample.codes is None else data_uri(agreement_grid(sample, one.codes)),
                    "picture": one.image_metrics,
                    "code": one.code_metrics,
                }
                for precision, one in sample.generated.items()
            ],
        }
        for sample, worst in select_samples(samples)
    ]


def _layer_plots(source: ReportSource, layers: Layers) -> list[dict[str, str]]:
    plots = []
    for stage in source.stages:
        series = {precision: stages[stage.name] for precision, stages in layers.items()}
        svg = layer_plot(series, f"signal-to-noise of the layers of {stage.name}, in decibels")
        if svg:
            plots.append({"stage": stage.name, "svg": svg})
    return plots


def _weakest(layers: Layers) -> dict[str, list[tuple[str, LayerRatio]]]:
    """Return each precision's layers with the smallest ratios; those that overflowed come first."""

    def order(entry: tuple[str, LayerRatio]) -> float:
        ratio = entry[1]
        return -math.inf if ratio.state == NOT_FINITE else ratio.db if ratio.db is not None else math.inf

    found = {}
    for precision, stages in layers.items():
        entries = [(stage, r) for stage, ratios in stages.items() for r in ratios if r.state != IDENTICAL]
        found[precision] = sorted(entries, key=order)[:WEAKEST_LAYERS]
    return found


def are_records(values: Sequence[object]) -> bool:
    """Whether the values are mappings without nested values, which the page shows as rows of a table."""
    return bool(values) and all(
        isinstance(value, Mapping)
        and bool(value)
        and not any(isinstance(item, (Mapping, list, tuple)) for item in value.values())
        for value in values
    )


def summary_from_mapping(value: Mapping[str, object]) -> str:
    """Summarize a mapping: the count of each value where these are few texts, else of all entries."""
    counts = Counter(item for item in value.values() if isinstance(item, str))
    if sum(counts.values()) == len(value) and len(counts) <= MAX_KINDS:
        return ", ".join(f"{count} {text}" for text, count in counts.most_common())
    return f"{len(value)} entries"


def _json(source: ReportSource, found: _Findings) -> bytes:
    value = {
        "schema_version": SCHEMA_VERSION,
        "result": dataclasses.asdict(source.result),
        "about": dict(source.about),
        "command": source.command,
        "warnings": list(source.warnings),
        "agreement": None if source.agreement is None else json_from_matrix(source.agreement),
        "summary": [dataclasses.asdict(row) for row in found.rows],
        "pictures": [
            {
                "prompt": sample.prompt,
                "seed": sample.seed,
                "precisions": {
                    name: {
                        "picture": dataclasses.asdict(one.image_metrics),
                        "codes": None if one.code_metrics is None else dataclasses.asdict(one.code_metrics),
                    }
                    for name, one in sample.generated.items()
                },
            }
            for sample in found.samples
        ],
        "layers": {
            precision: {stage: [dataclasses.asdict(r) for r in ratios] for stage, ratios in stages.items()}
            for precision, stages in found.layers.items()
        },
    }
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def _finite(value: object) -> object:
    """Return the value with None for floats that are not finite, which JSON lacks."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
