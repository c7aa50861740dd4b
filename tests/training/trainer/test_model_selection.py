"""What is kept is what scores best on the validation pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from textual_vision.runtime.noise import noise_from_seed
from textual_vision.training.checkpoint import load_checkpoint
from textual_vision.training.config import TrainConfig
from textual_vision.training.data.batches import (
    PictureSource,
    caption_with_style,
    signed_from_pixels,
)
from textual_vision.training.evaluation.sampling import CHUNK
from textual_vision.training.models.caption_encoder import ids_from_captions
from textual_vision.training.trainer.model_selection import ValidationScorer, select_interpolation
from textual_vision.training.trainer.state import read_log, read_weights
from textual_vision.training.trainer.trainer import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chosen") / "run"


@pytest.fixture
def chosen(
    folder: Path, tiny_config: TrainConfig, shapes: PictureSource, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run that scores every other step, and chooses by its own pictures."""
    monkeypatch.setattr("textual_vision.training.trainer.trainer.SCORE_EVERY", 2)
    monkeypatch.setattr("textual_vision.training.trainer.trainer.MIN_PICTURES", 1)
    if not folder.exists():
        run(
            tiny_config,
            shapes,
            "notice",
            folder,
            resume=False,
            on_progress=lambda line: None,
            validation=shapes,
        )
    return folder


def test_the_latent_phase_hands_on_the_weights_that_draw_nearest_to_real_pictures(
    chosen: Path, shapes: PictureSource
) -> None:
    scores = [x["validation_kid"] for x in read_log(chosen) if "validation_kid" in x]
    assert len(scores) == 2
    checkpoint = load_checkpoint(str(chosen / "checkpoint"))
    choice = ValidationScorer(checkpoint.model, checkpoint.tokenizer, shapes)
    handed_on = read_weights(chosen / "before-joint.safetensors")
    assert choice.distance(handed_on) == pytest.approx(min(scores), abs=1e-6)


def test_the_share_of_the_joint_phase_with_the_least_distance_is_the_result(chosen: Path) -> None:
    (line,) = [line for line in read_log(chosen) if line["phase"] == "choice"]
    tried = {float(share): kid for share, kid in line["kid_from_share"].items()}
    assert tried[line["share"]] == min(tried.values())
    kept = read_weights(chosen / "kept.safetensors")
    stored = load_checkpoint(str(chosen / "checkpoint")).model.state_dict()
    torch.testing.assert_close(stored["codebook.rows"], kept["codebook.rows"], atol=1e-3, rtol=1e-3)


def test_cross_entropy_is_that_of_codes_told_by_caption_style_and_the_seed_of_its_place(
    chosen: Path, shapes: PictureSource
) -> None:
    checkpoint = load_checkpoint(str(chosen / "checkpoint"))
    model, config = checkpoint.model.eval(), checkpoint.config
    found = ValidationScorer(model, checkpoint.tokenizer, shapes).code_cross_entropy(
        model.state_dict(), config.losses
    )
    total = 0.0
    # As many at once as there: in other company rounding may find another of two drafts equally near.
    for some in torch.arange(len(shapes)).split(CHUNK):
        indices = some.tolist()
        captions = [caption_with_style(shapes.captions(i)[0], shapes.style(i)) for i in indices]
        ids, mask = ids_from_captions(checkpoint.tokenizer, captions)
        with torch.no_grad():
            _, text, _ = model.text_encoder(ids, mask)
            noise = torch.cat([torch.from_numpy(noise_from_seed(i, 1, model.config.noise)) for i in indices])
            pictures = signed_from_pixels(np.stack([shapes.picture(i) for i in indices]))
            codes = model.codebook.nearest(model.image_encoder(pictures))
            retrieved = model.latent.retrieve(text, mask, noise, model.codebook)
            context = model.latent.context(text, mask, noise, retrieved)
            raw = model.latent.teacher_forced(context, codes, model.codebook)
            logits = config.losses.logit_scale * raw.flatten(0, 2) @ model.codebook.rows.T
            total += len(indices) * float(F.cross_entropy(logits, codes.flatten()))
    assert found == pytest.approx(total / len(shapes), rel=1e-3)


def test_with_nothing_to_choose_by_the_last_share_is_kept() -> None:
    assert select_interpolation(None, {}, {}, (0.0, 0.5, 1.0), print).share == 1.0


def test_a_run_with_too_few_validation_pictures_says_so_and_keeps_the_last(
    tmp_path: Path, tiny_config: TrainConfig, shapes: PictureSource
) -> None:
    said: list[str] = []
    run(tiny_config, shapes, "notice", tmp_path / "run", resume=False, on_progress=said.append)
    assert any("validation pictures" in line for line in said)
    (line,) = [line for line in read_log(tmp_path / "run") if line["phase"] == "choice"]
    assert json.dumps(line["kid_from_share"]) == "{}"
