"""The retrieval index, and the copy head of the latent network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from noise_batches import batch_of
from torch import Tensor

from textual_vision.training.config import ModelConfig, RetrievalConfig, SamplingConfig, TrainConfig
from textual_vision.training.data.batches import StepRandom
from textual_vision.training.models.latent.retrieval_index import (
    RetrievalIndex,
    RetrievalTraining,
    entries_of,
)
from textual_vision.training.models.latent.retrieved_pictures import (
    CopyControl,
    CopyHead,
    CopyInputs,
    RetrievedEncoder,
    code_features,
    copy_control,
)
from textual_vision.training.models.text_to_image import TextToImageModel
from textual_vision.training.trainer.objectives.latent import LatentObjective
from textual_vision.training.trainer.objectives.retrieval_augmentation import (
    SIMILARITY_THRESHOLD,
    retrieval_augmentation,
)

COUNT = 40
STILL = SamplingConfig(query_noise=0.0)


@pytest.fixture
def whole(tiny_config: TrainConfig) -> ModelConfig:
    """With a index that loses nothing of 40 captions."""
    return replace(tiny_config.model, retrieval=RetrievalConfig(entries=COUNT, dim=16, count=3))


@pytest.fixture
def sentences() -> Tensor:
    return torch.randn(COUNT, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def codes() -> Tensor:
    return torch.arange(COUNT)[:, None].repeat(1, 64) % 16


def filled(
    config: ModelConfig, sentences: Tensor, codes: Tensor, sampling: SamplingConfig = STILL
) -> RetrievalIndex:
    index = RetrievalIndex(config, sampling)
    index.fill(sentences, sentences, codes, codes[:, 0] % 2)
    return index


def found(
    index: RetrievalIndex,
    sentences: Tensor,
    noise: Tensor | None = None,
    training: RetrievalTraining | None = None,
) -> tuple[Tensor, Tensor]:
    noise = torch.zeros(len(sentences), 4) if noise is None else noise
    mask = torch.ones(len(sentences), 1, dtype=torch.int64)
    retrieved, near, _ = index(sentences[:, None], mask, noise, training)
    return retrieved, near


def test_each_picture_is_found_by_its_caption(whole: ModelConfig, sentences: Tensor, codes: Tensor) -> None:
    index, mask = filled(whole, sentences, codes), torch.ones(COUNT, 1, dtype=torch.int64)
    retrieved, near, composed = index(sentences[:, None], mask, torch.zeros(COUNT, 4))
    assert torch.equal(retrieved[:, 0], codes)
    torch.testing.assert_close(near[:, 0], torch.ones(COUNT), atol=1e-3, rtol=0)
    assert torch.equal(composed, codes[:, 0] % 2)


def test_what_the_nearest_leave_unsaid_is_found_too(whole: ModelConfig, codes: Tensor) -> None:
    four = replace(whole, retrieval=replace(whole.retrieval, count=4))
    one, other = torch.eye(16)[:2]
    index = RetrievalIndex(four, STILL)
    index.directions.copy_(torch.eye(16))
    index.codes.copy_(codes)
    index.keys.zero_()
    index.keys[:8], index.keys[8:11] = one, other  # as of "dog" in eight styles, and "glasses" in three
    retrieved, near = found(index, (0.8 * one + 0.6 * other)[None])
    assert retrieved[0, :, 0].tolist() == [0, 8, 9, 10]
    wanted = torch.tensor([0.8, 0.6 / (0.4**2 + 0.6**2) ** 0.5])  # the second of what is left
    torch.testing.assert_close(near[0, :2], wanted, atol=1e-4, rtol=0)


def test_of_pictures_with_one_caption_the_first_come_first(
    whole: ModelConfig, sentences: Tensor, codes: Tensor
) -> None:
    sentences = sentences.clone()
    sentences[[7, 21]] = sentences[3].clone()
    retrieved, near = found(filled(whole, sentences, codes), sentences[3:4])
    assert torch.equal(retrieved[0], codes[[3, 7, 21]])
    assert float(near[0].std()) < 1e-4


def test_a_memory_with_room_left_finds_nothing_in_it(
    whole: ModelConfig, sentences: Tensor, codes: Tensor
) -> None:
    index = filled(whole, sentences[:10], codes[:10] + 5)
    retrieved, near = found(index, sentences[:10])
    assert bool((retrieved[near > 0.1] >= 5).all()) and bool((index.keys[10:] == 0).all())


def test_seeds_find_other_pictures_but_those_that_are_near(
    whole: ModelConfig, sentences: Tensor, codes: Tensor
) -> None:
    noise = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    retrieved, _ = found(
        filled(whole, sentences, codes, SamplingConfig(query_noise=0.5)), sentences[:1].repeat(200, 1), noise
    )
    still, _ = found(filled(whole, sentences, codes), sentences[:1].repeat(200, 1), noise)
    assert len(retrieved.unique(dim=0)) > 5 and len(still.unique(dim=0)) == 1
    assert float((retrieved[:, 0] == codes[0]).all(1).float().mean()) > 0.8


def test_what_is_hidden_is_not_found_and_what_is_planted_is(
    whole: ModelConfig, sentences: Tensor, codes: Tensor
) -> None:
    own = torch.full((COUNT, 64), 99)
    place = torch.arange(COUNT) % 4  # 3: nowhere
    training = RetrievalTraining(masked=torch.eye(COUNT, dtype=torch.bool), codes=own, slot=place)
    index = filled(whole, sentences, codes)
    retrieved, near = found(index, sentences, training=training)
    assert torch.equal((retrieved == 99).all(2), place[:, None] == torch.arange(3))
    alike = index.keys @ index.keys.T - 2 * torch.eye(COUNT)
    torch.testing.assert_close(near[:, 0], alike.amax(1), atol=1e-3, rtol=0)
    assert torch.equal(retrieved[place > 0, 0], codes[alike.argmax(1)][place > 0])


def test_entries_are_all_pictures_or_some_evenly() -> None:
    assert entries_of(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert entries_of(9, 3).tolist() == [0, 4, 8]
    assert entries_of(3, 7).tolist() == [0, 1, 2]


def test_a_picture_is_learned_without_its_own_entry(tiny_config: TrainConfig) -> None:
    model = TextToImageModel(tiny_config.model, tiny_config.sampling)
    kept = entries_of(50, 30)
    lost = next(index for index in range(50) if index not in kept.tolist())
    batch = batch_of([int(kept[0]), lost, int(kept[9])] * 40, 50)
    index = model.latent.retrieval
    assert index is not None
    codes = torch.randint(0, 16, (120, 8, 8))
    training = retrieval_augmentation(index, batch, codes, StepRandom(0, "latent", 0))
    assert training is not None
    rows = training.masked.unflatten(0, (40, 3))
    assert bool(rows[:, 0, 0].all()) and bool(rows[:, 2, 9].all()) and not bool(rows[:, 1].any())
    for entry, number in ((0, 0), (9, 2)):  # of a share all that are as alike as the least alike, too
        alike = index.similarities(torch.tensor([entry]))[0]
        hidden = rows[:, number]
        least = alike.where(hidden, 1.0).amin(1, keepdim=True)
        others = torch.arange(30) != entry
        assert torch.equal(hidden[:, others], (alike >= least)[:, others] & (hidden.sum(1, keepdim=True) > 1))
        assert float(least.min()) > SIMILARITY_THRESHOLD
        assert 0 < float((hidden.sum(1) > 1).float().mean()) < 1
    assert torch.equal(training.codes, codes.flatten(1))
    assert set(training.slot.tolist()) == {0, 1, 2, index.count}


def test_compositions_are_learned_without_those_of_the_same_things(tiny_config: TrainConfig) -> None:
    model = TextToImageModel(tiny_config.model, tiny_config.sampling)
    same_concept = {0: (0, 3, 6), 3: (0, 3, 6), 1: (1,)}
    batch = batch_of([0, 3, 1, 9] * 40, 30, same_concept)
    codes = torch.randint(0, 16, (160, 8, 8))
    index = model.latent.retrieval
    assert index is not None
    index.keys.copy_(torch.eye(len(index.keys), index.keys.shape[1]))  # nothing is alike
    training = retrieval_augmentation(index, batch, codes, StepRandom(0, "latent", 0))
    assert training is not None
    rows = training.masked.unflatten(0, (40, 4))
    apart = rows[:, :2].sum(2) == 3
    assert 0.4 < float(apart.float().mean()) < 0.8
    assert bool(rows[:, :2, [0, 3, 6]][apart].all()) and bool((rows.sum(2) == 1)[:, :2][~apart].all())
    assert bool((rows[:, 2:].sum(2) == 1).all())
    places = training.slot.unflatten(0, (40, 4))
    assert bool((places[:, :2][apart] == index.count).all())
    assert bool((places[:, 2:] < index.count).any())


def test_known_of_a_code_is_its_row_and_how_like_the_drafts_it_is() -> None:
    rows, retrieved = torch.randn(2, 5, 8), torch.randn(2, 5, 3, 8)
    known = code_features(rows, retrieved)
    torch.testing.assert_close(known[..., :8], rows)
    torch.testing.assert_close(known[1, 4, 8 + 2], rows[1, 4] @ retrieved[1, 4, 2])
    assert code_features(rows, None) is rows


def test_a_drawing_goes_on_with_the_draft_that_it_came_out_like() -> None:
    head, rows = CopyHead(6, 3), torch.randn(4, 3, 8)
    like = torch.tensor([0.0, 1.0, 0.0]).repeat(4, 1)
    with torch.no_grad():
        head.score.weight.zero_()
        head.strength.weight.zero_()
        head.similarity_scale.fill_(20.0)
        found = head(
            torch.randn(4, 6), CopyInputs(vectors=rows, neighbor_similarity=like, mean_similarity=like)
        )
    torch.testing.assert_close(found, rows[:, 1])


def test_a_drawing_can_hold_on_to_the_nearest_draft() -> None:
    head, x, rows = CopyHead(6, 3), torch.randn(4, 6), torch.randn(4, 3, 8)
    equal = torch.zeros(4, 3)

    def control(more: float, bonus: float) -> CopyControl:
        return CopyControl(
            strength=torch.full((4, 1), more),
            nearest_bonus=torch.full((4, 1), bonus),
            guidance_scale=torch.ones(4, 1),
        )

    with torch.no_grad():
        head.score.weight.zero_()
        learned = head(x, CopyInputs(vectors=rows, neighbor_similarity=equal, mean_similarity=equal))
        twice = head(
            x,
            CopyInputs(
                vectors=rows, neighbor_similarity=equal, mean_similarity=equal, control=control(2.0, 0.0)
            ),
        )
        held = head(
            x,
            CopyInputs(
                vectors=rows, neighbor_similarity=equal, mean_similarity=equal, control=control(1.0, 30.0)
            ),
        )
        strength = head.strength(x)
    torch.testing.assert_close(twice, 2 * learned)
    torch.testing.assert_close(held, strength * rows[:, 0])


def test_a_drawing_combines_where_the_nearest_shows_several_things(whole: ModelConfig) -> None:
    composed = torch.tensor([0.0, 1.0])
    as_learned = SamplingConfig(
        guidance_scale=1.0, copy_strength=1.0, copy_strength_composition=1.0, nearest_bonus=0.0
    )
    assert copy_control(composed, as_learned) is None
    config = SamplingConfig(
        copy_strength=2.0, copy_strength_composition=0.5, nearest_bonus=3.0, guidance_scale=1.5
    )
    control = copy_control(composed, config)
    assert control is not None
    found = (
        torch.cat([control.strength, control.nearest_bonus, control.guidance_scale], 1).squeeze(3).squeeze(2)
    )
    torch.testing.assert_close(found, torch.tensor([[2.0, 3.0, 1.0], [0.5, 0.0, 1.5]]))


def test_learning_knows_nothing_of_how_a_drawing_holds_on(
    whole: ModelConfig, tiny_config: TrainConfig
) -> None:
    losses, found = [], []
    still = replace(tiny_config.sampling, query_noise=0.0)
    for sampling in (still, replace(still, copy_strength=3.0, nearest_bonus=5.0)):
        torch.manual_seed(0)
        model = TextToImageModel(whole, sampling)
        loss, _ = LatentObjective(model, tiny_config.losses)(
            batch_of([0, 1], COUNT), StepRandom(0, "latent", 0)
        )
        losses.append(float(loss.detach()))
        ids = torch.ones(1, 4, dtype=torch.int64)
        assert model.latent.retrieval is not None
        model.latent.retrieval.is_composition.zero_()
        with torch.no_grad():
            found.append(model.eval().generate(ids, ids, torch.zeros(1, 4)).codes)
    assert losses[0] == losses[1]
    assert not torch.equal(*found)


def test_a_patch_is_told_what_drafts_have_there_and_one_code_around(whole: ModelConfig) -> None:
    encoder, rows = RetrievedEncoder(whole), torch.randn(1, 3, 64, 8)
    near = torch.rand(1, 3)
    moved = rows.clone()
    moved[0, 1, 3 * 8 + 4] += 1  # row 3, column 4: in the patch of row 1, column 2, at its lower left
    with torch.no_grad():
        change = (encoder(moved, near) - encoder(rows, near)).abs().amax((0, 2)) > 0
    assert change.view(4, 4).nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_without_a_memory_everything_else_works(tiny_config: TrainConfig) -> None:
    without = replace(tiny_config.model, retrieval=RetrievalConfig(entries=0))
    model = TextToImageModel(without, tiny_config.sampling).eval()
    assert not any(".retrieval." in name or ".copy." in name for name in model.state_dict())
    ids, mask = torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.int64)
    with torch.no_grad():
        assert model.generate(ids, mask, torch.zeros(1, 4)).image.shape[0] == 1
    losses = tiny_config.losses
    loss, _ = LatentObjective(model, losses)(batch_of([0, 1], 2), StepRandom(0, "latent", 0))
    assert bool(loss.isfinite())
