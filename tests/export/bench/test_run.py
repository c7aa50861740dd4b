"""A benchmark of a bundle: every runner is measured, and impossible comparisons are refused."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from textual_vision.export.bench import plan as bench_plan
from textual_vision.export.bench import torch_runners as bench_torch
from textual_vision.export.bench.results import BenchOptions
from textual_vision.export.bench.run import bench
from textual_vision.export.bench.runner import BUNDLE, RunnerSpec
from textual_vision.export.bench.runner_process import RunnerProcess, cold_start
from textual_vision.export.bench.runners import open_runner
from textual_vision.export.bench.table import tables_from_result
from textual_vision.export.bench.timing import ITERATIONS_PER_TURN
from textual_vision.export.cli.bench import bench_command
from textual_vision.export.cli.main import command
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import BackendMissingError, TextualVisionError, UsageError

QUICK = BenchOptions(
    backends=("onnxruntime",),
    prompts=("dog wearing sunglasses", "green forest with river"),
    warm_up=1,
    iterations=3,
    batch_sizes=(1, 2),
    cold_starts=0,
    threads=1,
)
# Three modules with the tensors of the tiny bundle and other weights.
MODEL = """
from pathlib import Path

import torch
from torch import nn
from textual_vision.export.model.stage import Stage, StagedModel, tensor
from textual_vision.runtime.generation.specs import NoiseSpec
from textual_vision.runtime.manifest import ImageSpec, StageSpec, TextSpec

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(32, 8)
    def forward(self, ids, mask):
        text = self.table(ids)
        return ids.unsqueeze(2).expand(-1, -1, 2), text, mask.float() / mask.sum(1, keepdim=True)

class Latent(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(14, 4 * 4 * 16)
    def forward(self, text, mask, noise):
        pooled = torch.cat([(text * mask.unsqueeze(2)).sum(1), noise], 1)
        return self.project(pooled).unflatten(1, (4, 4, 16)).argmin(3)

class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(16, 3)
    def forward(self, codes, text, mask):
        cells = self.table(codes).repeat_interleave(2, 1).repeat_interleave(2, 2)
        return (cells * 50 + 128).clamp(0, 255).to(torch.uint8)

def make():
    torch.manual_seed(0)
    ids, mask = (tensor(name, "int64", "batch", "tokens") for name in ("input_ids", "attention_mask"))
    text, noise = tensor("text", "float32", "batch", "tokens", 8), tensor("noise", "float32", "batch", 6)
    codes, image = tensor("codes", "int64", "batch", 4, 4), tensor("image", "uint8", "batch", 8, 8, 3)
    text_codes = tensor("text_codes", "int64", "batch", "tokens", 2)
    words = (text_codes, text, tensor("attention", "float32", "batch", "tokens"))
    specs = (
        StageSpec(name="text_encoder", inputs=(ids, mask), outputs=words),
        StageSpec(name="latent", inputs=(text, mask, noise), outputs=(codes,)),
        StageSpec(name="generator", inputs=(codes, text, mask), outputs=(image,)),
    )
    text_spec = TextSpec(tokenizer="tokenizer.json", max_tokens=12, pad_id=0, unknown_id=1)
    return StagedModel(
        name="tiny",
        stages=tuple(Stage(spec=s, module=m) for s, m in zip(specs, (Words(), Latent(), Pixels()))),
        image=ImageSpec(height=8, width=8),
        noise=(NoiseSpec(shape=(6,)),),
        text=text_spec,
        tokenizer=Path(__file__).with_name("tokenizer.json").read_bytes(),
        license="Apache-2.0",
        notice="",
        digest="d" * 64,
    )
"""


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_bundle: Path) -> str:
    file = tmp_path / "tiny_model.py"
    (tmp_path / "tokenizer.json").write_bytes((tiny_bundle / "tokenizer.json").read_bytes())
    file.write_text(MODEL, "utf-8")
    return f"{file}:make"


@pytest.fixture
def bundle(edit_manifest: Callable[[Callable[[dict], None]], Path]) -> Path:
    """The tiny bundle with the digest of the checkpoint above."""

    def change(manifest: dict) -> None:
        manifest["provenance"]["checkpoint"] = "d" * 64

    return edit_manifest(change)


def test_a_bundle_has_latency_utilization_and_throughput(bundle: Path) -> None:
    result = bench(bundle, QUICK)
    (only,) = result.runners
    assert only.name == "fp32 onnxruntime" and only.psnr_db is None and only.ratios == {}
    assert list(only.stages) == ["text_encoder", "latent", "generator"]
    assert only.end_to_end.count == ITERATIONS_PER_TURN and list(only.end_to_end.percentiles) == ["90", "99"]
    assert sum(stage.median for stage in only.stages.values()) <= 1.5 * only.end_to_end.median
    assert [t.batch for t in only.throughput] == [1, 2]
    assert only.utilization["latent"].macs == 8 * 256 + 6 * 256
    assert only.utilization["latent"].peak_dtype == "float32" and only.utilization["latent"].peak_share > 0


def test_pytorch_and_the_naive_export_are_compared_with_it(bundle: Path, checkpoint: str) -> None:
    options = dataclasses.replace(QUICK, compare=("eager", "naive"), checkpoint=checkpoint, percentiles=(50,))
    result = bench(bundle, options)
    ours, eager, naive = result.runners
    assert (eager.name, naive.name) == ("eager", "naive")
    assert list(eager.stages) == list(ours.stages) and naive.stages == {}
    assert eager.psnr_db == naive.psnr_db  # both draw what the checkpoint draws
    assert set(ours.ratios) == {"eager", "naive"} and eager.ratios == {}
    ratio = ours.ratios["eager"]
    assert ratio.low <= ratio.median <= ratio.high
    assert any("eager generates another picture" in warning for warning in result.warnings)


def test_every_requested_precision_and_backend_is_measured(bundle: Path) -> None:
    pytest.importorskip("openvino")
    options = dataclasses.replace(QUICK, compare=("openvino",))
    result = bench(bundle, options)
    assert [one.name for one in result.runners] == ["fp32 onnxruntime", "fp32 openvino"]
    assert set(result.runners[1].ratios) == {"fp32 onnxruntime"}


def test_a_runner_generates_the_same_in_its_own_process(bundle: Path) -> None:
    spec = RunnerSpec(
        name="x", kind=BUNDLE, bundle=str(bundle), precision="fp32", backend="onnxruntime", threads=1
    )
    with RunnerProcess(spec) as process:
        iterations = process.run_iterations(["dog"], [0], warm_up=1, measured=2)
        images = process.images(["dog", "cat"], [0, 1])
    assert np.array_equal(images, open_runner(spec).run(["dog", "cat"], [0, 1]).images)
    assert len(iterations) == 2
    assert all(0 < sum(one.stage_seconds.values()) <= one.seconds for one in iterations)


def test_the_error_of_loading_a_runner_is_raised_here(tmp_path: Path) -> None:
    spec = RunnerSpec(
        name="x", kind=BUNDLE, bundle=str(tmp_path / "no"), precision="fp32", backend="openvino"
    )
    with pytest.raises(UsageError, match="does not exist") as caught:
        RunnerProcess(spec)
    assert caught.value.hint


def test_the_error_names_the_runner_whose_process_crashed(bundle: Path) -> None:
    spec = RunnerSpec(name="x", kind=BUNDLE, bundle=str(bundle), precision="fp32", backend="onnxruntime")
    with (
        RunnerProcess(spec) as process,
        pytest.raises(TextualVisionError, match=r"the worker process of x failed: .*Error"),
    ):
        process.run_iterations([3], [0], warm_up=0, measured=1)  # type: ignore[list-item] - a crash


def test_the_shipped_checkpoint_is_found_by_its_digest(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}", "utf-8")
    monkeypatch.setattr(bench_torch, "SHIPPED_FOLDER", tmp_path)
    digests = {"one": "a" * 64, "two": "d" * 64}
    monkeypatch.setattr(bench_torch, "load_model", lambda name: SimpleNamespace(digest=digests[name]))
    assert bench_torch.shipped_model_of_bundle(Bundle(bundle)) == "two"
    digests["two"] = "b" * 64
    with pytest.raises(UsageError, match=r"no shipped checkpoint has its digest \(one, two\)") as caught:
        bench_torch.shipped_model_of_bundle(Bundle(bundle))
    assert "--checkpoint" in caught.value.hint


def test_a_cold_start_has_times_and_the_memory_of_its_process(bundle: Path) -> None:
    spec = RunnerSpec(
        name="x", kind=BUNDLE, bundle=str(bundle), precision="fp32", backend="onnxruntime", threads=1
    )
    cold = cold_start(spec, "dog", 1)
    assert 0 < cold.load_seconds < cold.first_picture_seconds
    assert 20 < cold.peak_megabytes < 400  # a process that had imported torch would need more


def test_a_cold_start_that_fails_says_why(tmp_path: Path) -> None:
    spec = RunnerSpec(
        name="x", kind=BUNDLE, bundle=str(tmp_path / "no"), precision="fp32", backend="onnxruntime"
    )
    with pytest.raises(TextualVisionError, match="does not exist"):
        cold_start(spec, "dog", 1)


def test_the_tables_show_every_runner(bundle: Path) -> None:
    result = bench(bundle, QUICK)
    out = io.StringIO()
    Console(file=out, width=120).print(tables_from_result(result))
    shown = out.getvalue()
    assert shown.count("fp32 onnxruntime") >= 3
    assert "prompt to pixels" in shown and "of the peak" in shown
    assert f"{result.runners[0].end_to_end.median:.2f}" in shown


def test_the_command_writes_the_numbers_that_it_shows(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    words = "--backend onnxruntime --iterations 3 --warm-up 0 --batch-sizes 1 --cold-start 0 --threads 1"
    arguments = [str(bundle), *words.split(), "--prompt", "dog", "-o", str(file)]
    done = CliRunner().invoke(bench_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    value = json.loads(file.read_text("utf-8"), parse_constant=pytest.fail)
    assert f"{value['runners'][0]['end_to_end']['median']:.2f}" in done.output
    assert value["prompt"] == "dog" and value["peak_rates"]["float32"]["macs_per_second"] > 0


def test_a_busy_machine_gives_a_warning(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (3.0, 3.0, 3.0))
    assert any("load average 3.0" in warning for warning in bench(bundle, QUICK).warnings)


@pytest.mark.parametrize(
    ("change", "problem", "hint"),
    [
        ({"compare": ("eagre",)}, "unknown peer 'eagre'", "'eager'"),
        ({"precisions": ("int4",)}, "no precision 'int4'", "fp32"),
        ({"backends": ("openvno",)}, "unknown backend", "'openvino'"),
        ({"compare": ("eager",)}, "needs the checkpoint", "--checkpoint"),
        ({"prompts": ()}, "nothing to measure", "prompt"),
    ],
)
def test_impossible_measurements_are_refused_before_any_work(
    bundle: Path, change: dict, problem: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        bench(bundle, dataclasses.replace(QUICK, **change))
    assert problem in caught.value.message and hint in caught.value.hint


def test_a_checkpoint_with_another_digest_is_refused(tiny_bundle: Path, checkpoint: str) -> None:
    options = dataclasses.replace(QUICK, compare=("eager",), checkpoint=checkpoint)
    with pytest.raises(UsageError, match="is not the one that the bundle was exported from"):
        bench(tiny_bundle, options)


def test_a_peer_whose_library_is_missing_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_plan.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendMissingError, match="needs openvino, which is not installed"):
        bench(bundle, dataclasses.replace(QUICK, compare=("openvino",)))


def test_compiling_without_a_compiler_is_refused(
    bundle: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    options = dataclasses.replace(QUICK, compare=("compile",), checkpoint=checkpoint)
    with pytest.raises(BackendMissingError, match="C\\+\\+ compiler"):
        bench(bundle, options)


def test_the_command_prints_json(bundle: Path) -> None:
    arguments = "--backend onnxruntime --iterations 1 --warm-up 0 --batch-sizes 1 --cold-start 0 --json"
    done = CliRunner().invoke(bench_command, [str(bundle), *arguments.split()], catch_exceptions=False)
    assert json.loads(done.stdout)["runners"][0]["name"] == "fp32 onnxruntime"


def test_the_command_is_part_of_tv_export() -> None:
    done = CliRunner().invoke(command, ["bench", "--help"])
    assert done.exit_code == 0 and "--compare" in done.output
