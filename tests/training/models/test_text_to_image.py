"""Shapes and types of the stages, and that each listens to what it is given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from textual_vision.training.config import DiscriminatorConfig, TrainConfig, with_retrieval_entries
from textual_vision.training.config_file import load_config
from textual_vision.training.evaluation.model_size import describe
from textual_vision.training.models.attention import attend_in_products, fused_attention, score_bias
from textual_vision.training.models.blocks import Residual, Upsample, pixels_from_signed
from textual_vision.training.models.discriminator import PixelDiscriminator, make_discriminator
from textual_vision.training.models.image_encoder import Posterior, reparameterize
from textual_vision.training.models.text_to_image import TextToImageModel, stages_from_model
from textual_vision.training.trainer.ema import interpolate_weights, with_generator_of
from textual_vision.training.trainer.muon import Muon, orthogonal
from textual_vision.training.trainer.phases import hidden_matrices


@pytest.fixture
def model(tiny_config: TrainConfig) -> TextToImageModel:
    torch.manual_seed(0)
    return TextToImageModel(tiny_config.model, tiny_config.sampling).eval()


def test_an_upsampling_block_doubles_both_sides() -> None:
    x, condition = torch.randn(2, 6, 5, 5), torch.randn(2, 4)
    assert Upsample(6, 3, 4)(x, condition).shape == (2, 3, 10, 10)
    assert Residual(6, 4)(x, condition).shape == x.shape


def test_a_block_listens_to_its_condition() -> None:
    block, x = Upsample(6, 3, 4).eval(), torch.randn(1, 6, 5, 5)
    assert not torch.allclose(block(x, torch.zeros(1, 4)), block(x, torch.ones(1, 4)))


def test_pixels_are_rounded_clipped_and_channels_last() -> None:
    signed = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, -0.9961]).reshape(1, 3, 1, 2)
    pixels = pixels_from_signed(signed)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (1, 1, 2, 3)
    assert pixels.permute(0, 3, 1, 2).flatten().tolist() == [0, 0, 128, 255, 255, 0]


def test_a_drawing_has_the_shapes_and_types_of_the_exported_graphs(model: TextToImageModel) -> None:
    ids, mask = torch.randint(0, 600, (2, 5)), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    generated = model.generate(ids, mask, torch.randn(2, 4))
    assert (generated.text_codes.shape, generated.text_codes.dtype) == ((2, 5, 8), torch.int64)
    assert (generated.attention.shape, generated.attention.dtype) == ((2, 5), torch.float32)
    assert (generated.codes.shape, generated.codes.dtype) == ((2, 8, 8), torch.int64)
    assert (generated.image.shape, generated.image.dtype) == ((2, 16, 16, 3), torch.uint8)


def test_the_stages_are_views_of_the_model(model: TextToImageModel) -> None:
    stages = stages_from_model(model)
    ids, mask, noise = torch.randint(0, 600, (1, 5)), torch.ones(1, 5, dtype=torch.long), torch.randn(1, 4)
    with torch.no_grad():
        _, text, _ = stages.text_encoder(ids, mask)
        codes = stages.latent(text, mask, noise)
        image = stages.generator(codes, text, mask, noise)
    assert torch.equal(image, model.generate(ids, mask, noise).image)


def test_words_and_noise_both_move_the_latents(model: TextToImageModel) -> None:
    text, mask, noise = torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.long), torch.randn(1, 4)
    with torch.no_grad():
        latents = model.sampler(text, mask, noise, model.codebook).latents
        for other in ((text, mask, -noise), (-text, mask, noise)):
            assert not torch.allclose(latents, model.sampler(*other, model.codebook).latents)


def test_sampling_equals_teacher_forcing_on_its_own_codes(model: TextToImageModel) -> None:
    text, mask, noise = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.long), torch.randn(2, 4)
    model = unguided(model)
    with torch.no_grad():
        sampled = model.sampler(text, mask, noise, model.codebook)
        retrieved = model.latent.retrieve(text, mask, noise, model.codebook)
        context = model.latent.context(text, mask, noise, retrieved)
        forced = model.latent.teacher_forced(context, sampled.codes, model.codebook)
    torch.testing.assert_close(sampled.latents, forced)
    assert torch.equal(sampled.codes, model.codebook.nearest(forced))


@pytest.mark.parametrize(("steps", "split_doublings", "fine"), [(6, 2, 4), (5, 1, 3), (4, 0, 2), (1, 0, 1)])
def test_the_fine_steps_choose_three_quarters_of_the_codes(
    tiny_config: TrainConfig, steps: int, split_doublings: int, fine: int
) -> None:
    latent = replace(tiny_config.model.latent, steps=steps, split_doublings=split_doublings)
    network = TextToImageModel(replace(tiny_config.model, latent=latent), tiny_config.sampling).latent
    assert network.schedule.fine_steps == fine
    codes = latent.grid**2
    assert network.schedule.codes_of_step(steps - fine)[0] == (0 if steps == 1 else codes // 4)


def unguided(model: TextToImageModel) -> TextToImageModel:
    model.sampler.sampling = replace(model.sampler.sampling, guidance_scale=1.0, temperature=0.0)
    return model


@pytest.mark.parametrize(("steps", "guidance"), [(1, 3.0), (4, 1.0)])
def test_guidance_extrapolates_from_the_unconditional_latents_but_not_in_the_first_of_several_steps(
    tiny_config: TrainConfig, steps: int, guidance: float
) -> None:
    torch.manual_seed(0)
    latent = replace(tiny_config.model.latent, steps=steps, split_doublings=0)
    sampling = replace(tiny_config.sampling, stochastic_steps=1)
    model = unguided(TextToImageModel(replace(tiny_config.model, latent=latent), sampling).eval())
    text, mask, noise = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.long), torch.randn(2, 4)
    network, sampler, book = model.latent, model.sampler, model.codebook
    assert network.retrieval is not None
    network.retrieval.is_composition.fill_(1)
    with torch.no_grad():
        conditional = sampler(text, mask, noise, book).latents
        retrieved = network.retrieve(text, mask, noise, book)  # by the words, also for the unconditional copy
        inputs = sampler.inputs(0 * text, mask, noise, retrieved)
        raw: list[Tensor] = []

        def choose(x: Tensor, turn: slice) -> Tensor:
            raw.append(x)
            return book.rows[book.nearest(x)]

        sampler._run_steps(inputs, choose, 0)
        unconditional = torch.cat(raw, 1)[:, network.schedule.rank].unflatten(1, (8, 8))
        sampler.sampling = replace(sampler.sampling, guidance_scale=3.0)
        guided = sampler(text, mask, noise, book).latents
    ranks = network.schedule.order[slice(*network.schedule.turns[0][0])]
    first = [x.flatten(1, 2)[:, ranks] for x in (conditional, unconditional, guided)]
    torch.testing.assert_close(first[2], first[1] + guidance * (first[0] - first[1]))


def test_the_noise_of_codes_is_standard_normal_and_looks_independent(model: TextToImageModel) -> None:
    recipe = with_retrieval_entries(load_config("emoji-64"), 20)
    config = recipe.model
    model = TextToImageModel(config, recipe.sampling)
    found = model.sampler.code_noise(
        torch.randn(4000, config.noise, generator=torch.Generator().manual_seed(0))
    )
    assert found.shape == (
        4000,
        model.latent.schedule.codes_of_step(recipe.sampling.stochastic_steps - 1)[1],
        config.codebook.codebook_dim,
    )
    assert float(found.mean()) == pytest.approx(0, abs=0.01)
    assert float(found.std()) == pytest.approx(1, abs=0.02)
    flat = found.transpose(1, 2)  # positions of one picture against each other, over many pictures
    together = torch.einsum("bdn,bdm->nm", flat, flat) / (flat.shape[0] * flat.shape[1])
    assert float(together.fill_diagonal_(0).square().mean().sqrt()) < 0.25


def test_a_code_changes_only_later_turns_and_all_later_steps(model: TextToImageModel) -> None:
    text, mask, noise = torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.long), torch.randn(1, 4)
    network = model.latent
    (before, turn_after), (_, after) = network.schedule.turns[1]
    place = network.schedule.order[before]  # the first that the second step chooses
    codes = torch.randint(0, 12, (1, 8, 8))
    changed = codes.clone()
    changed.view(-1)[place] += 1
    with torch.no_grad():
        retrieved = network.retrieve(text, mask, noise, model.codebook)
        context = network.context(text, mask, noise, retrieved)
        first, second = (network.teacher_forced(context, x, model.codebook) for x in (codes, changed))
    moved = (first - second).abs().amax(3).flatten()[network.schedule.order] > 0
    assert not moved[:turn_after].any()
    assert moved[turn_after:after].any()
    assert moved[after:].all()


def test_the_pixel_discriminator_scores_each_picture_with_its_caption(tiny_config: TrainConfig) -> None:
    discriminator = PixelDiscriminator(tiny_config.model).eval()
    pictures, sentence = torch.randn(3, 3, 16, 16), torch.randn(3, 16)
    with torch.no_grad():
        logits = discriminator(pictures, sentence)
        assert logits.shape == (3, 1)
        assert not torch.allclose(logits, discriminator(pictures, sentence.roll(1, 0)))


def test_the_pixel_discriminator_is_of_convolutions_batch_norm_and_leaky_relu(
    tiny_config: TrainConfig,
) -> None:
    first, *others = PixelDiscriminator(tiny_config.model).blocks
    assert [type(layer) for layer in first] == [nn.Conv2d, nn.LeakyReLU]  # as in DCGAN, no norm at the pixels
    for block in others:
        assert [type(layer) for layer in block] == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]


def test_the_feature_discriminator_scores_three_scales_and_its_backbone_is_fixed(
    tiny_config: TrainConfig,
) -> None:
    changed = DiscriminatorConfig(input="features", channels=(8,))
    judge = make_discriminator(replace(tiny_config.model, image_size=64, discriminator=changed))
    pictures, sentence = torch.randn(2, 3, 64, 64, requires_grad=True), torch.randn(2, 16)
    logits = judge(pictures, sentence)
    assert logits.shape == (2, 3)
    assert not torch.allclose(logits, judge(pictures, sentence.roll(1, 0)))
    logits.sum().backward()
    assert pictures.grad is not None and bool(pictures.grad.abs().sum() > 0)
    trained = {name.split(".")[0] for name, weight in judge.named_parameters() if weight.requires_grad}
    assert trained == {"entries", "bodies", "heads"}


def test_the_posterior_is_sampled_by_its_mean_and_deviation(tiny_config: TrainConfig) -> None:
    mean, log_variance = Posterior(tiny_config.model).eval()(torch.randn(2, 3, 16, 16))
    assert mean.shape == log_variance.shape == (2, 4)
    normal = torch.randn(2, 4)
    torch.testing.assert_close(
        reparameterize(mean, log_variance, normal), mean + (0.5 * log_variance).exp() * normal
    )


def test_describe_counts_what_the_modules_hold_and_what_a_linear_layer_costs() -> None:
    config = with_retrieval_entries(load_config("emoji-64"), 20)
    sizes = {size.stage: size for size in describe(config)}
    model = TextToImageModel(config.model, config.sampling)
    generator = sum(parameter.numel() for parameter in model.generator.parameters())
    assert sizes["generator"].weights == generator
    tables = model.text_encoder.quantizer.centroids.numel()
    assert sizes["text_encoder"].weights == tables + sum(p.numel() for p in model.text_encoder.parameters())
    text = config.model.text
    layer = 4 * text.hidden**2 + 2 * text.hidden * text.intermediate
    least = text.max_tokens * text.layers * layer
    cost = sizes["text_encoder"].multiply_accumulates
    assert cost is not None
    assert least < cost < 1.5 * least
    assert sizes["discriminator (training only)"].multiply_accumulates is None


def test_the_shipped_recipes_draw_with_less_than_ten_million_weights_beyond_the_text_encoder() -> None:
    for name in ("emoji-64", "emoji-128"):
        sizes = {
            size.stage: size.weights for size in describe(with_retrieval_entries(load_config(name), 10_000))
        }
        assert sizes["latent"] + sizes["generator"] < 10e6


def test_what_is_kept_of_a_phase_lies_between_its_ends(tiny_config: TrainConfig) -> None:
    before, after = (TextToImageModel(tiny_config.model, tiny_config.sampling).state_dict() for _ in range(2))
    between = interpolate_weights(before, after, 0.25)
    name = "latent.head.latent.weight"
    torch.testing.assert_close(between[name], 0.75 * before[name] + 0.25 * after[name])
    rows = between["codebook.rows"]
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


def test_attention_in_products_is_the_fused_one(tiny_config: TrainConfig) -> None:
    query, key, value = (torch.randn(2, 3, n, 8) for n in (5, 4, 4))
    bias = score_bias(torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]))
    for b in (bias, None):
        torch.testing.assert_close(
            attend_in_products(query, key, value, b), fused_attention(query, key, value, b)
        )


def test_muon_moves_the_matrices_between_hidden_states_and_nothing_else(tiny_config: TrainConfig) -> None:
    model = TextToImageModel(tiny_config.model, tiny_config.sampling)
    found = {id(p) for p in hidden_matrices(model)}
    names = {name for name, p in model.named_parameters() if id(p) in found}
    assert all(name.startswith(("latent.blocks.", "latent.head.")) for name in names)
    assert {"latent.blocks.0.query_key_value.weight", "latent.head.mix.weight"} <= names
    assert not names & {"latent.head.cell_embedding", "latent.head.latent.weight"}
    assert not any(name.endswith("bias") or "norm" in name for name in names)


def test_muons_moves_are_nearly_orthogonal_whatever_their_size() -> None:
    for shape in ((6, 6), (4, 9), (9, 4)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        found = orthogonal(1e3 * matrix, torch.float32)
        values = torch.linalg.svdvals(found)
        assert bool(((values > 0.6) & (values < 1.3)).all())  # the iteration's coefficients promise no more
        assert float((found * (u @ v)).sum() / found.norm() / (u @ v).norm()) > 0.97


def test_muon_moves_as_torchs_own_does_in_its_precision() -> None:
    start, gradients = torch.randn(6, 9), torch.randn(3, 6, 9)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    muon = Muon([{"params": [ours]}], weight_decay=0.1, lr=0.02, dtype=torch.bfloat16)
    torchs = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        torchs.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    assert float((ours.detach() - start).abs().max()) > 0.01


def test_muon_goes_downhill_and_is_resumed_with_its_momentum() -> None:
    def walk(matrix: torch.nn.Parameter, muon: Muon, steps: int) -> None:
        for _ in range(steps):
            matrix.grad = 2 * matrix.detach()  # of the squared length
            muon.step()

    start = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    whole, half = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    walk(whole, Muon([{"params": [whole]}], weight_decay=0.01, lr=0.05), 4)
    first = Muon([{"params": [half]}], weight_decay=0.01, lr=0.05)
    walk(half, first, 2)
    again = Muon([{"params": [half]}], weight_decay=0.01, lr=0.05)
    again.load_state_dict(first.state_dict())
    walk(half, again, 2)
    assert float(whole.detach().norm()) < float(start.norm())
    torch.testing.assert_close(half, whole, rtol=0, atol=0)


def test_of_the_joint_phase_the_generator_alone_can_be_kept() -> None:
    names = ("latent.norm.bias", "generator.color.bias", "image_encoder.last.bias", "codebook.rows")
    before, after = ({name: torch.full((2, 2), value) for name in names} for value in (0.0, 1.0))
    kept = with_generator_of(before, after)
    assert {name: float(weight.mean()) for name, weight in kept.items()} == {
        "latent.norm.bias": 0.0,
        "generator.color.bias": 1.0,
        "image_encoder.last.bias": 1.0,
        "codebook.rows": 0.0,
    }
