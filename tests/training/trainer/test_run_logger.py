"""What a run shows does not touch what it learns."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from textual_vision.training.config import TrainConfig
from textual_vision.training.data.batches import PictureSource
from textual_vision.training.trainer import trainer as run_module
from textual_vision.training.trainer.run_logger import RunLogger, curves_from_log
from textual_vision.training.trainer.state import read_log
from textual_vision.training.trainer.trainer import run


def train(config: TrainConfig, source: PictureSource, out: Path) -> list[str]:
    said: list[str] = []
    run(config, source, "notice", out, resume=False, on_progress=said.append)
    return said


def test_samples_are_drawn_in_every_phase_and_change_nothing(
    tiny_config: TrainConfig, shapes: PictureSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = train(tiny_config, shapes, tmp_path / "without")
    assert not (tmp_path / "without/samples").exists()
    monkeypatch.setattr(run_module, "SAMPLE_EVERY", 2)
    train(tiny_config, shapes, tmp_path / "with")
    weights = [
        (tmp_path / name / "checkpoint/model.safetensors").read_bytes() for name in ("with", "without")
    ]
    assert weights[0] == weights[1]
    names = sorted(path.name for path in (tmp_path / "with/samples").iterdir())
    assert names[0] == "1-codebook-000002.png"
    assert names[-1] == "3-joint-000004.png"
    assert len(names) == 6
    assert any("min left" in line and "psnr" in line for line in said)
    assert [line["step"] for line in read_log(tmp_path / "with") if line["phase"] == "latent"] == [0, 3]


def test_events_hold_every_logged_term(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch = RunLogger(tmp_path, print)
    watch.open(0)
    watch.start_phase("latent", 0, 2)
    watch.step("latent", 0, 2, {"loss": 2.5}, 1)
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, format="PNG")
    watch.sample("one", picture.getvalue(), 1)
    watch.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("latent/loss")] == [2.5]
    assert events.Tags()["images"] == ["samples"]
    assert read_log(tmp_path) == [{"phase": "latent", "step": 0, "loss": 2.5}]


def test_curves_are_a_picture_even_of_an_empty_log() -> None:
    for log in ([], [{"phase": "latent", "step": 0, "loss": 1.0}, {"phase": "text", "error": 1.0}]):
        with Image.open(io.BytesIO(curves_from_log(log))) as curves:
            assert curves.width > 500
