"""A run goes through every phase, and goes on exactly where it was after any end."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from textual_vision.runtime.errors import IntegrityError, TextualVisionError, UsageError
from textual_vision.training.checkpoint import load_checkpoint
from textual_vision.training.config import TrainConfig
from textual_vision.training.data.batches import PictureSource
from textual_vision.training.trainer.phases import CodebookPhase, JointPhase, LatentPhase
from textual_vision.training.trainer.snapshot import snapshot
from textual_vision.training.trainer.state import cut_log, read_log, read_state
from textual_vision.training.trainer.trainer import TrainingRun, run

STEPS = 4  # of each of the three phases


Train = Callable[..., Path]


@pytest.fixture
def train(tiny_config: TrainConfig, shapes: PictureSource) -> Train:
    def go(out: Path, *, config: TrainConfig = tiny_config, resume: bool = False) -> Path:
        return run(config, shapes, "notice", out, resume=resume, on_progress=lambda line: None)

    return go


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run that nothing stopped, made by the first test that asks for it."""
    return {"folder": tmp_path_factory.mktemp("whole") / "run"}


@pytest.fixture
def whole(uninterrupted: dict[str, Path], train: Train) -> Path:
    folder = uninterrupted["folder"]
    if not folder.exists():
        train(folder)
    return folder


class StoppedError(Exception):
    """Raised in the middle of a run, as a power cut would."""


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Saves after that many steps over all phases, and dies in the step after it."""
    done = {"steps": 0}
    for kind in (CodebookPhase, LatentPhase, JointPhase):
        original = kind.step

        def step(self: Any, number: int, original: Any = original) -> Any:
            if done["steps"] == steps:
                raise StoppedError
            done["steps"] += 1
            return original(self, number)

        monkeypatch.setattr(kind, "step", step)
    report = TrainingRun._report

    def reported(self: TrainingRun, *arguments: Any) -> None:
        report(self, *arguments)
        if done["steps"] == steps:
            self.save()

    monkeypatch.setattr(TrainingRun, "_report", reported)


def assert_same_state(a: Any, b: Any, where: str = "state") -> None:
    """Bit for bit, through dicts and lists."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same_state(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_state(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


def test_a_run_leaves_a_checkpoint_a_log_of_every_phase_curves_and_events(whole: Path) -> None:
    checkpoint = load_checkpoint(str(whole / "checkpoint"))
    assert checkpoint.notice == "notice"
    assert {line["phase"] for line in read_log(whole)} == {"text", "codebook", "latent", "joint", "choice"}
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((whole / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("steps", [4, 6, 10])
def test_a_run_that_died_anywhere_ends_bit_for_bit_like_one_that_did_not(
    whole: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(StoppedError):
            train(tmp_path / "run")
    train(tmp_path / "run", resume=True)
    assert_same_state(read_state(tmp_path / "run/state.pt"), read_state(whole / "state.pt"))
    weights = (tmp_path / "run/checkpoint/model.safetensors").read_bytes()
    assert weights == (whole / "checkpoint/model.safetensors").read_bytes()
    assert read_log(tmp_path / "run") == read_log(whole)


def test_the_state_in_mid_joint_phase_holds_discriminator_optimizers_and_averages(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 2 * STEPS + 2)
    with pytest.raises(StoppedError):
        train(tmp_path / "run")
    state = read_state(tmp_path / "run/state.pt")
    assert state["phase"].keys() == {"generator", "encoder", "discriminating", "discriminator"}
    assert state["ema"]["updates"] == 2
    parts = [part for name, part in state["phase"].items() if name != "discriminator"]
    assert all(optimizer["state"] for part in parts for optimizer in part)


KILLED = """
    import os, signal, sys, torch
    sys.path.insert(0, {folder!r})
    torch.set_num_threads(1)
    from pathlib import Path
    from conftest import TINY, Shapes
    from textual_vision.training.config_file import config_from_json
    from textual_vision.training.trainer.phases import LatentPhase
    from textual_vision.training.trainer.trainer import run

    config = config_from_json({{**TINY, "checkpoint_minutes": 0.0}})
    step = LatentPhase.step

    def killed(self, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, number)

    LatentPhase.step = killed
    run(config, Shapes(), "notice", Path({out!r}), resume=False, on_progress=print)
"""


def test_a_run_ended_by_kill_9_goes_on_to_the_same_end(
    whole: Path, train: Train, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    script = textwrap.dedent(KILLED).format(folder=str(Path(__file__).parents[1]), out=str(out))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert read_state(out / "state.pt")["next_step"] == 2
    train(out, config=replace(tiny_config, checkpoint_minutes=0.0), resume=True)
    weights = (out / "checkpoint/model.safetensors").read_bytes()
    assert weights == (whole / "checkpoint/model.safetensors").read_bytes()


def test_an_interrupt_finishes_the_step_saves_and_says_how_to_go_on(
    train: Train, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = CodebookPhase.step

    def interrupted(self: CodebookPhase, number: int) -> Any:
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, number)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(CodebookPhase, "step", interrupted)
        with pytest.raises(TextualVisionError, match="after step 2 of phase codebook") as caught:
            train(tmp_path / "run")
    assert "--resume" in caught.value.hint
    assert signal.getsignal(signal.SIGINT) is before
    assert read_state(tmp_path / "run/state.pt")["next_step"] == 2
    train(tmp_path / "run", resume=True)
    assert_same_state(read_state(tmp_path / "run/state.pt"), read_state(whole / "state.pt"))


def test_a_loss_that_is_no_number_stops_the_run_and_the_last_good_weights_stay(
    train: Train, tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = CodebookPhase.step

    def poisoned(self: CodebookPhase, number: int) -> Any:
        if number == 2:
            with torch.no_grad():
                self.model.generator.color.bias.fill_(float("nan"))
        return step(self, number)

    monkeypatch.setattr(CodebookPhase, "step", poisoned)
    with pytest.raises(
        TextualVisionError, match=r"phase codebook, step 2: .*picture.* is not a finite"
    ) as caught:
        train(tmp_path / "run", config=replace(tiny_config, checkpoint_minutes=0.0))
    assert "phase codebook, step 2" in caught.value.hint
    state = read_state(tmp_path / "run/state.pt")
    assert state["next_step"] == 2
    assert all(torch.isfinite(w).all() for w in state["model"].values() if w.is_floating_point())


def test_a_gradient_that_is_no_number_moves_nothing(
    train: Train, tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = CodebookPhase.step
    seen: dict[str, Any] = {}

    def poisoned(self: CodebookPhase, number: int) -> Any:
        weight = self.model.generator.color.weight
        if number == 2:
            weight.register_hook(lambda gradient: gradient * float("inf"))
            seen["before"], seen["weight"] = weight.detach().clone(), weight
        return step(self, number)

    monkeypatch.setattr(CodebookPhase, "step", poisoned)
    with pytest.raises(TextualVisionError, match="step 2: the gradient"):
        train(tmp_path / "run")
    assert torch.equal(seen["before"], seen["weight"])


@pytest.fixture
def fill_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """From the third step of a run on, no file can be larger than that many bytes."""
    step = CodebookPhase.step
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(most: int) -> None:
        def filled(self: CodebookPhase, number: int) -> Any:
            if number == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
            return step(self, number)

        monkeypatch.setattr(CodebookPhase, "step", filled)

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_told_and_leaves_the_state_before_it(
    train: Train, tiny_config: TrainConfig, tmp_path: Path, fill_disk: Callable[[int], None]
) -> None:
    fill_disk(1 << 20)
    with pytest.raises(TextualVisionError, match=r"state\.pt can't be written") as caught:
        train(tmp_path / "run", config=replace(tiny_config, checkpoint_minutes=0.0))
    assert "disk full" in caught.value.hint
    assert read_state(tmp_path / "run/state.pt")["next_step"] == 2
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_disk_that_is_full_for_the_tokenizer_already_leaves_the_one_before_it(
    train: Train, tiny_config: TrainConfig, tmp_path: Path, fill_disk: Callable[[int], None]
) -> None:
    fill_disk(1000)
    with pytest.raises(OSError, match="too large"):
        train(tmp_path / "run", config=replace(tiny_config, checkpoint_minutes=0.0))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert snapshot(tmp_path / "run", tmp_path / "taken").step == 2


def test_a_damaged_tokenizer_is_named(train: Train, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run/tokenizer.json"
    path.write_text(path.read_text()[:1000])
    with pytest.raises(IntegrityError, match=r"tokenizer\.json can't be read"):
        train(tmp_path / "run", resume=True)
    with pytest.raises(IntegrityError, match=r"tokenizer\.json can't be read"):
        snapshot(tmp_path / "run", tmp_path / "taken")


def test_a_folder_with_a_run_is_not_overwritten_and_one_without_is_not_resumed(
    train: Train, whole: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="has a run already"):
        train(whole)
    with pytest.raises(UsageError, match="has no run to resume"):
        train(tmp_path / "nothing", resume=True)
    with pytest.raises(UsageError, match="started with another config"):
        train(whole, config=replace(tiny_config, seed=6), resume=True)


def test_a_damaged_state_is_named(train: Train, whole: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "run"
    damaged.mkdir()
    for name in ("config.json", "tokenizer.json", "log.jsonl"):
        (damaged / name).write_bytes((whole / name).read_bytes())
    (damaged / "state.pt").write_bytes((whole / "state.pt").read_bytes()[:5000])
    with pytest.raises(IntegrityError, match=r"state\.pt can't be read"):
        train(damaged, resume=True)


def test_a_snapshot_is_a_checkpoint_of_the_averages(whole: Path, tmp_path: Path) -> None:
    taken = snapshot(whole, tmp_path / "snapshot")
    assert (taken.phase, taken.step) == ("end", 0)
    load_checkpoint(str(tmp_path / "snapshot"))
    with pytest.raises(UsageError, match="is not a run"):
        snapshot(tmp_path, tmp_path / "other")


def test_the_log_loses_steps_that_will_be_done_again_and_a_line_that_a_kill_cut(tmp_path: Path) -> None:
    lines = [{"phase": "text"}, {"phase": "codebook", "step": 3}, {"phase": "latent", "step": 0}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"phase": "lat'
    (tmp_path / "log.jsonl").write_text(text)
    cut_log(tmp_path, 1, 0)
    assert read_log(tmp_path) == lines[:2]


def test_batches_that_do_not_divide_among_processes_are_refused(tiny_config: TrainConfig) -> None:
    from textual_vision.training.trainer.trainer import check_batch_sizes

    check_batch_sizes(tiny_config, 2)
    with pytest.raises(
        UsageError, match=r"codebook_phase\.batch_size 8 is not a multiple of the 3 processes"
    ):
        check_batch_sizes(tiny_config, 3)
