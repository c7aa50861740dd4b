"""The report: one file that needs nothing else, true figures, and nothing in it that a prompt could break."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from textual_vision.export.model.batch import ReferenceBatch
from textual_vision.export.parity.tolerance import TOLERANCES
from textual_vision.export.parity.verdict import parity_of, run_pipeline, verdict_of
from textual_vision.export.report.page import ReportSource, report_files, summary_from_mapping, write_report
from textual_vision.export.report.pictures import NEAR_TIE
from textual_vision.export.results import BuildResult, PrecisionResult, RewriteResult, StageGraph, StepTiming
from textual_vision.export.sessions.opening import open_sessions
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.generation.program import Program, program_from_manifest

PROMPTS = ("dog wearing sunglasses", "a cat with river", "green forest", "a river")
SHOWN = (PROMPTS[0], "<script>alert(1)</script> & cat", *PROMPTS[2:])
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PHONE, DESKTOP = 390, 1280


@pytest.fixture
def source(tiny_bundle: Path) -> ReportSource:
    """A report on the tiny bundle and on a copy of it whose weights are rounded to 1/8."""
    bundle = Bundle(tiny_bundle)
    stages = bundle.manifest.stages
    fp32 = {stage.name: bundle.read(f"onnx/fp32/{stage.name}.onnx") for stage in stages}
    graphs = {"fp32": fp32, "int8": {name: _rounded(graph) for name, graph in fp32.items()}}
    batches = tuple(_batch(bundle, PROMPTS[start : start + 2], start) for start in (0, 2))
    precisions = tuple(_precision(name, graphs[name], bundle, batches) for name in graphs)
    result = BuildResult(
        bundle="tiny.tv",
        name="tiny",
        example=PROMPTS[0],
        verdict="fail",
        precisions=precisions,
        rewrites=(_rewrite("fold-constants", True), _rewrite("conv-transpose-3x3", False)),
        steps=(StepTiming(name="export latent", seconds=1.25, cached=True),),
        seconds=1.5,
        samples=4,
        seed=0,
        opset=17,
        backends=("onnxruntime",),
        versions={"torch": "2.9.0"},
    )
    return ReportSource(
        result=result,
        program=Program(stages=stages),
        graphs=graphs,
        batches=batches,
        about={"license": "Apache-2.0"},
        command="tv-export build tiny -o tiny.tv --precision int8",
        warnings=("int8 failed",),
    )


def _rounded(graph: bytes) -> bytes:
    model = onnx.load_from_string(graph)
    for index, tensor in enumerate(model.graph.initializer):
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and value.ndim > 1:
            rounded = np.round(value * 8) / 8
            model.graph.initializer[index].CopyFrom(
                numpy_helper.from_array(rounded.astype(np.float32), tensor.name)
            )
    return model.SerializeToString()


def _batch(bundle: Bundle, prompts: tuple[str, ...], seed: int) -> ReferenceBatch:
    """The pictures of the tiny bundle itself are the reference; one code in sixteen is a near tie."""
    from textual_vision.export.bench.runners import PromptReader

    seeds = tuple(range(seed, seed + len(prompts)))
    tensors = PromptReader(bundle).tensors(prompts, seeds)
    stages, files = bundle.manifest.stages, bundle.manifest.precisions["fp32"].files
    graphs = {stage.name: bundle.read(files[stage.name]) for stage in stages}
    given = ReferenceBatch(prompts=prompts, seeds=seeds, tensors=tensors, margins={})
    generated = run_pipeline(
        program_from_manifest(bundle.manifest), open_sessions(graphs, "onnxruntime"), given
    )
    margins = np.ones(generated["codes"].shape, np.float32)
    margins[:, 0, 0] = 1e-6
    return ReferenceBatch(
        prompts=tuple(SHOWN[PROMPTS.index(prompt)] for prompt in prompts),
        seeds=seeds,
        tensors={**tensors, **generated},
        margins={"codes": margins},
    )


def _precision(
    name: str, graphs: dict[str, bytes], bundle: Bundle, batches: tuple[ReferenceBatch, ...]
) -> PrecisionResult:
    stages = bundle.manifest.stages
    sessions = open_sessions(graphs, "onnxruntime")
    parity = parity_of(
        program_from_manifest(bundle.manifest),
        sessions,
        batches,
        tolerance=TOLERANCES[name],
        backend="onnxruntime",
    )
    found = [
        StageGraph(
            stage=stage.name,
            file=f"onnx/{name}/{stage.name}.onnx",
            bytes=len(graphs[stage.name]),
            nodes=7,
            milliseconds=1.5,
            backend="onnxruntime",
        )
        for stage in stages
    ]
    notes: dict[str, object] = {"method": "minmax", "layers": {f"layer{i}": "int8" for i in range(20)}}
    return PrecisionResult(
        precision=name,
        graphs=tuple(found),
        parity=parity,
        verdict=verdict_of(parity),
        notes=notes if name == "int8" else {},
    )


def _rewrite(name: str, applied: bool) -> RewriteResult:
    return RewriteResult(
        rewrite=name,
        stage="generator",
        applied=applied,
        reason="" if applied else "not the fastest here",
        nodes_before=20,
        nodes_after=12,
        milliseconds_before=None,
        milliseconds_after=None,
        max_abs=0.0,
        codes_changed=0,
    )


class _Links(HTMLParser):
    """Everything that a page would load, and its tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _page(source: ReportSource) -> str:
    return report_files(source)["report/index.html"].decode()


def test_the_page_asks_for_nothing_and_closes_what_it_opens(source: ReportSource) -> None:
    page = _page(source)
    links = _Links()
    links.feed(page)
    assert links.asked and all(link.startswith("data:") for link in links.asked)
    assert links.open == []
    assert "url(" not in page and "@import" not in page and "<script" not in page


def test_a_prompt_cannot_become_markup(source: ReportSource) -> None:
    page = _page(source)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; cat" in page


def test_the_json_holds_the_figures_that_the_page_shows(source: ReportSource) -> None:
    files = report_files(source)
    page, value = files["report/index.html"].decode(), json.loads(files["report/report.json"])
    low = next(row for row in value["summary"] if row["precision"] == "int8")
    latent = next(row for row in low["stages"] if row["stage"] == "latent")["worst"]
    assert 0 < latent["agreement"] < 1
    assert f"{100 * latent['agreement']:.2f} %" in page
    assert f"{low['end_to_end']['psnr_db']:.1f} dB" in page
    assert [picture["prompt"] for picture in value["pictures"]] == list(SHOWN)
    assert value["command"] in page and "int8 failed" in page and "not the fastest here" in page
    assert set(value["layers"]) == {"int8"}


def test_figures_of_pictures_agree_with_the_comparison(source: ReportSource) -> None:
    value = json.loads(report_files(source)["report/report.json"])
    whole = source.result.precisions[1].stage_parity("latent", "free-running", "onnxruntime")
    assert whole is not None and whole.codes is not None
    drawn = [picture["precisions"]["int8"]["codes"] for picture in value["pictures"]]
    assert sum(codes["equal"] for codes in drawn) == whole.codes.equal
    assert sum(codes["near_ties"] for codes in drawn) == whole.codes.near_ties


def test_numbers_that_json_lacks_become_null(source: ReportSource) -> None:
    bad = dataclasses.replace(source.result.precisions[0], notes={"scale": float("nan"), "top": float("inf")})
    result = dataclasses.replace(source.result, precisions=(bad, source.result.precisions[1]))
    data = report_files(dataclasses.replace(source, result=result))["report/report.json"]
    notes = json.loads(data, parse_constant=pytest.fail)["result"]["precisions"][0]["notes"]
    assert notes == {"scale": None, "top": None}


def test_one_precision_alone_makes_a_report_without_a_comparison_of_layers(source: ReportSource) -> None:
    result = dataclasses.replace(source.result, precisions=source.result.precisions[:1], rewrites=())
    page = _page(dataclasses.replace(source, result=result, graphs={"fp32": source.graphs["fp32"]}))
    assert "Signal-to-noise" not in page and "Rewrites</h2>" not in page


def test_a_long_note_is_folded_under_a_summary_of_its_values(source: ReportSource) -> None:
    assert "<summary>20 int8</summary>" in _page(source)
    assert summary_from_mapping({"a": "int8", "b": "int8", "c": "float"}) == "2 int8, 1 float"
    assert summary_from_mapping({"a": 1, "b": "float"}) == "2 entries"


def test_both_files_are_written_whole(source: ReportSource, tmp_path: Path) -> None:
    write_report(tmp_path / "report", source)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["index.html", "report.json"]
    assert json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))["schema_version"] == 1


def test_the_key_shows_the_colors_of_the_grids(source: ReportSource) -> None:
    assert f"rgb({','.join(map(str, NEAR_TIE))})" in _page(source)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page is not opened")
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_a_browser_shows_it_without_complaint_and_without_scrolling_sideways(
    source: ReportSource, tmp_path: Path, width: int
) -> None:
    write_report(tmp_path, source)
    complaints, _ = _opened(tmp_path / "index.html", width, tmp_path)
    assert complaints == []
    page = (tmp_path / "index.html").read_text("utf-8")
    _, document = _opened(_measured(page, width, tmp_path), width, tmp_path)
    found = re.search(r"<title>(\d+) of (\d+)</title>", document)
    assert found is not None
    assert int(found[1]) <= int(found[2]) == width


def _measured(page: str, width: int, scratch: Path) -> Path:
    """A page whose title becomes the width that `page` needs, of that it has; a window has a least width."""
    script = "<script>parent.postMessage(document.documentElement.scrollWidth+' of '+innerWidth,'*')</script>"
    allowed = page.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    (scratch / "inner.html").write_text(allowed.replace("</body>", f"{script}</body>"), "utf-8")
    outer = scratch / "outer.html"
    outer.write_text(
        "<!doctype html><title></title><script>onmessage=event=>document.title=event.data</script>"
        f'<iframe src="inner.html" style="border:0;width:{width}px;height:900px"></iframe>',
        "utf-8",
    )
    return outer


def _opened(page: Path, width: int, scratch: Path) -> tuple[list[str], str]:
    """What the browser's console says, and the document once it is loaded."""
    assert CHROMIUM is not None
    command = [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
        *(
            f"--user-data-dir={scratch / 'profile'}",
            f"--window-size={width},2000",
            "--dump-dom",
            page.as_uri(),
        ),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stdout
