"""A real model so small that it exports in seconds, with every parameter random.

Fresh weights would make comparisons vacuous: batch norms and biases that do nothing hide whole branches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_tensorrt import fake_library
from pretended_orin import table_of
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from textual_vision.export.build.build import build_bundle
from textual_vision.export.build.options import BuildOptions
from textual_vision.export.int8.score import Evaluator
from textual_vision.export.loading.source import load_model
from textual_vision.export.model.stage import StagedModel
from textual_vision.export.results import BuildResult
from textual_vision.export.tensorrt import engines as engine_bundle
from textual_vision.runtime.manifest import BatchProfile, StageSpec
from textual_vision.training.checkpoint import save_checkpoint
from textual_vision.training.config import (
    CodebookConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    LatentConfig,
    ModelConfig,
    RetrievalConfig,
    SamplingConfig,
    TextConfig,
    TrainConfig,
)
from textual_vision.training.models.text_to_image import LatentStage, TextToImageModel

WORDS = ["dog", "wearing", "sunglasses", "green", "forest", "with", "river", "red", "apple", "a", "cat"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
PROMPTS = ("dog wearing sunglasses", "green forest with river", "red apple", "a cat")
SMALL_BUILD = BuildOptions(
    precisions=("fp32", "fp16"),
    samples=8,
    prompts=PROMPTS,
    calibration_prompts=("cat with apple", "red dog", "a river"),
    batch_profile=BatchProfile(min=1, opt=1, max=4),
)


def tiny_config() -> TrainConfig:
    model = ModelConfig(
        image_size=16,
        noise=6,
        text=TextConfig(
            vocabulary=len(PIECES),
            max_tokens=12,
            hidden=24,
            layers=1,
            heads=2,
            intermediate=32,
            groups=2,
            codebook_size=8,
            embed_dim=16,
        ),
        codebook=CodebookConfig(codebook_size=16, codebook_dim=8, channels=(8, 8)),
        latent=LatentConfig(
            grid=4,
            steps=4,
            split_doublings=1,
            embed_dim=16,
            blocks=1,
            heads=2,
            head_width=16,
        ),
        retrieval=RetrievalConfig(entries=20, dim=6, count=3),
        generator=GeneratorConfig(channels=(16, 12, 8), residual_blocks=1, condition=12),
        discriminator=DiscriminatorConfig(input="pixels", channels=(8, 8)),
    )
    sampling = SamplingConfig(
        guidance_scale=2.5,
        temperature=0.2,
        stochastic_steps=3,
        query_noise=0.3,
        copy_strength=1.0,
        copy_strength_composition=1.0,
        nearest_bonus=0.0,
    )
    return TrainConfig(name="tiny", model=model, sampling=sampling)


def tiny_tokenizer() -> Tokenizer:
    ids = {piece: index for index, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(PIECES[:4])
    return tokenizer


SCALES = {
    "text_encoder.encoder": 2.0,
    "text_encoder.quantizer": 0.2,
    "latent.condition": 2.0,
    "latent.initial": 2.0,
    "latent.position": 0.1,
    "generator": 0.3,
}


def filled_values(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters, then buffers, those of the schedule and the sampler before the retrieval index's.

    With this order and the seed of `randomize`, no code of the tiny model is near a tie in half precision.
    """
    buffers = list(module.named_buffers())
    derived = [one for one in buffers if one[0].startswith(("latent.schedule.", "sampler."))]
    others = [one for one in buffers if not one[0].startswith(("latent.schedule.", "sampler."))]
    place = next((i for i, one in enumerate(others) if one[0].startswith("latent.")), len(others))
    return [*module.named_parameters(), *others[:place], *derived, *others[place:]]


def randomize(module: torch.nn.Module, seed: int = 9) -> None:
    """Fill everything that a checkpoint holds by chance; variances stay positive, codes' rows unit."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in filled_values(module):
            if name.endswith(("is_composition", "is_nearest")):  # ones and zeros
                continue
            if value.dtype == torch.float16:  # codes of a retrieval index
                value.copy_(torch.randint(0, 16, value.shape, generator=generator))
            if value.dtype != torch.float32:
                continue
            # In the plan, what is drawn must outweigh where, and pictures must not be so rough that half
            # precision blurs them.
            scale = 0.2 + 0.2 * (value.ndim > 1)
            for prefix, other in SCALES.items():
                scale = other if name.startswith(prefix) else scale
            fresh = torch.randn(value.shape, generator=generator) * scale
            positive = name.endswith(("running_var", "norm.weight"))
            value.copy_(fresh.abs() + 0.5 if positive else fresh)


def changed(config: Any, changes: dict[str, object]) -> Any:
    """`config` with those of `changes` that are its fields, which are taken out of `changes`."""
    own = {field.name for field in fields(config)} & changes.keys()
    return replace(config, **{name: changes.pop(name) for name in own})


@pytest.fixture(scope="session")
def latent_stage() -> Callable[..., LatentStage]:
    """Makes the latent stage of a tiny random model, with changes to its network's configuration."""

    def made(**changes: object) -> LatentStage:
        config = tiny_config()
        latent = changed(config.model.latent, changes)
        retrieval = changed(config.model.retrieval, changes)
        sampling = changed(config.sampling, changes)
        assert not changes, f"no such fields: {changes}"
        model = TextToImageModel(replace(config.model, latent=latent, retrieval=retrieval), sampling)
        randomize(model)
        with torch.no_grad():
            model.codebook.rows.copy_(torch.nn.functional.normalize(model.codebook.rows, dim=1))
        return LatentStage(model.latent, model.sampler, model.codebook).eval()

    return made


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    config = tiny_config()
    model = TextToImageModel(config.model, config.sampling)
    randomize(model)
    rows = torch.nn.functional.normalize(model.codebook.rows, dim=1)
    with torch.no_grad():
        model.codebook.rows.copy_(rows)
    save_checkpoint(folder, config, dict(model.state_dict()), tiny_tokenizer(), "Whose work is in it.\n")
    return folder


@pytest.fixture(scope="module")
def integers_pay() -> Iterator[None]:
    """Instead of `Evaluator.time`: of graphs so small, a clock says by chance whether integers are faster."""

    def time(evaluator: Evaluator, stage: StageSpec, graphs: Sequence[bytes]) -> tuple[float, ...]:
        return (0.5,) * (len(graphs) - 1) + (1.0,)  # the last is the float graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "time", time)
        yield


@pytest.fixture(scope="session")
def small_build() -> BuildOptions:
    """Both float precisions, compared on few pictures."""
    return SMALL_BUILD


@pytest.fixture(scope="session")
def tiny_model(checkpoint: Path) -> StagedModel:
    return load_model(str(checkpoint))


@pytest.fixture(scope="session")
def kept_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that all builds of the tests share."""
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="session")
def built(
    checkpoint: Path, kept_steps: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, BuildResult]:
    """A bundle of the tiny checkpoint in float32 and half, and what building it found out."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny.tv"
    return folder, build_bundle(str(checkpoint), folder, SMALL_BUILD, cache=kept_steps)


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch) -> object:
    """The library of a Jetson Orin with TensorRT 10.3, whose layer table has every product as float32."""
    library = fake_library("10.3.0")
    monkeypatch.setattr(
        engine_bundle, "table_from_plan", lambda trt, plan, settings, profile: table_of(library)
    )
    monkeypatch.setattr(engine_bundle, "available_bytes", lambda: None)
    return library
