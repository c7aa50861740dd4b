"""Scores move the way they should, on pictures and numbers made for it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.data.batches import PictureSource
from textual_vision.training.evaluation import alignment, measures
from textual_vision.training.evaluation.alignment import Pairs, Sentences, Towers
from textual_vision.training.evaluation.contact_sheet import CELL, GAP, LINE, LINES, contact_sheet
from textual_vision.training.evaluation.features import FEATURES, EfficientNetFeatures, kid
from textual_vision.training.evaluation.probes import answers_unseen, probe_from_pictures
from textual_vision.training.evaluation.sampling import psnr_of_pictures


def all_pictures(source: PictureSource) -> np.ndarray:
    return np.stack([source.picture(index) for index in range(len(source))])


def test_kid_is_near_zero_for_one_distribution_and_grows_with_the_shift() -> None:
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(300, 20)).astype(np.float32) for _ in range(2))
    assert abs(kid(a, b)) < 0.02
    assert 0.02 < kid(a, b + 0.5) < kid(a, b + 1.0)


def test_kid_is_the_unbiased_cubic_estimate() -> None:
    a, b = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([[1.0, 1.0], [0.0, 0.0]], np.float32)
    within_a, within_b = 1.0, 1.0  # both products are 0
    across = (2 * 1.5**3 + 2 * 1.0) / 4
    assert kid(a, b) == pytest.approx(within_a + within_b - 2 * across)


def test_features_are_of_pictures_shrunk_to_one_size(shapes: PictureSource) -> None:
    extractor, pictures = EfficientNetFeatures(), all_pictures(shapes)[:3]
    large = pictures.repeat(8, axis=1).repeat(8, axis=2)  # 128 pixels a side
    small = pictures.repeat(4, axis=1).repeat(4, axis=2)  # 64
    seen = extractor.extract(large)
    assert seen.pooled.shape == (3, FEATURES)
    assert seen.combined.shape[1] == FEATURES + seen.layout.shape[1]
    assert np.abs(seen.pooled - extractor.extract(small).pooled).max() < 1e-3
    assert np.abs(seen.pooled[0] - seen.pooled[1]).max() > 0.5


def test_a_probe_learns_shapes_from_three_colors_and_tells_them_in_the_fourth(shapes: PictureSource) -> None:
    features = EfficientNetFeatures().extract(all_pictures(shapes)).combined
    answers = [shapes.captions(index)[0].split()[1] for index in range(len(shapes))]
    colors = [index // 6 for index in range(len(shapes))]
    found = answers_unseen(features, answers, colors)
    assert np.mean([a == b for a, b in zip(found, answers, strict=True)]) > 0.9


def test_a_probe_weighs_answers_alike_however_often_they_occur() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(220, 4)).astype(np.float32)
    features[:20, 0] += 3
    probe = probe_from_pictures(features, ["rare"] * 20 + ["common"] * 200)
    told = np.array(probe.answer(features))
    assert (told[:20] == "rare").mean() > 0.8
    assert (told[20:] == "common").mean() > 0.8


def test_psnr_is_of_eight_bit_pictures() -> None:
    a = np.zeros((2, 4, 4, 3), np.uint8)
    b = a.copy()
    b[1] = 255
    assert psnr_of_pictures(a, b)[1] == pytest.approx(0.0)
    assert psnr_of_pictures(a, b)[0] > 70


def test_spread_is_zero_for_one_picture_many_times() -> None:
    one = np.ones((4, 8), np.float32)
    assert measures.spread(one) == pytest.approx(0.0, abs=1e-6)
    assert measures.spread(np.eye(4, dtype=np.float32)) == pytest.approx(1.0)


def test_a_copy_is_told_from_a_new_picture(shapes: PictureSource) -> None:
    train = measures.TrainingThumbs(shapes)
    pictures = all_pictures(shapes)[:4]
    noise = np.random.default_rng(0).integers(0, 255, pictures.shape).astype(np.uint8)
    found = measures.copying(train, pictures, noise)
    assert found["generated"]["share_above_30_db"] == 1.0
    assert found["real"]["share_above_30_db"] == 0.0


def test_a_contact_sheet_has_a_cell_for_every_picture_and_room_for_its_words(shapes: PictureSource) -> None:
    sheet = Image.open(io.BytesIO(contact_sheet(all_pictures(shapes)[:5], ["red disc"] * 5, 3)))
    assert sheet.size == (GAP + 3 * (CELL + GAP), GAP + 2 * (CELL + GAP + LINES * LINE))
    assert sheet.getpixel((GAP + CELL // 2, GAP + CELL // 2)) == (220, 30, 30)
    caption = np.asarray(sheet)[GAP + CELL : GAP + CELL + LINE, GAP : GAP + CELL]
    assert caption.min() < 100  # something is written


def pairs() -> Pairs:
    random = np.random.default_rng(0)
    meaning = random.normal(size=(12, 8)).astype(np.float32)
    to_features, to_sentences = random.normal(size=(8, FEATURES)), random.normal(size=(8, alignment.SENTENCE))
    noise = random.normal(size=(60, FEATURES)) * 0.1
    rows = [[index % 12] for index in range(60)]
    return Pairs(
        features=(meaning[[r[0] for r in rows]] @ to_features + noise).astype(np.float32),
        sentences=(meaning @ to_sentences).astype(np.float32),
        rows=rows,
        concepts=[str(row[0]) for row in rows],
    )


def test_towers_learn_which_words_belong_to_which_picture_and_survive_storage(tmp_path: Path) -> None:
    known = pairs()
    own = [rows[0] for rows in known.rows]
    towers = alignment.train_towers(known, steps=40)
    recall = alignment.recall_at_1(towers, known.features, known.sentences, own)
    assert recall > 0.95 > alignment.recall_at_1(Towers().eval(), known.features, known.sentences, own)
    alignment.save_towers(towers, {"pairs": 60}, tmp_path)
    loaded, about = alignment.load_towers(tmp_path)
    assert about == {"pairs": 60}
    assert alignment.recall_at_1(loaded, known.features, known.sentences, own) == recall


def test_pictures_of_one_concept_are_no_negatives_of_each_other() -> None:
    unit = torch.eye(3)
    same = torch.stack([unit[0], unit[0], unit[2]])
    apart = alignment.contrast(same, same, torch.tensor([0, 1, 2]))
    together = alignment.contrast(same, same, torch.tensor([0, 0, 2]))
    assert together < apart


def test_missing_and_damaged_alignment_models_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no alignment model"):
        alignment.load_towers(tmp_path)
    (tmp_path / alignment.WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(IntegrityError, match="damaged"):
        alignment.load_towers(tmp_path)


def test_the_shipped_alignment_model_is_small_and_states_its_ceiling() -> None:
    _, about = alignment.load_towers()
    assert (alignment.SHIPPED_FOLDER / alignment.WEIGHTS).stat().st_size < 2e6
    assert 0 < about["real_held_out"]["recall_at_1"] <= 1


def test_sentences_of_one_meaning_are_nearer_than_others() -> None:
    vectors = Sentences().vectors(
        ["a dog with sunglasses", "puppy wearing shades", "green forest with river"]
    )
    near, far = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert near > far + 0.2
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
