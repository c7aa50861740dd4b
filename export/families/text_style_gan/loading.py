"""textStyleGAN's networks from its files: StyleGAN's generator, a text encoder and its vocabulary."""

from __future__ import annotations

from pathlib import Path

from textual_vision.export.families.damsm import Sentence, text_from_files
from textual_vision.export.families.parts import FamilyNetworks, stage, tensor
from textual_vision.export.families.text_style_gan.generator import (
    START,
    StyleGenerator,
    generator_from_state,
    scaled_state,
)
from textual_vision.export.families.weights import (
    load_state,
    read_checkpoint,
    state_from_checkpoint,
)
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.specs import NoiseSpec

MAX_WORDS = 25


def generator_from_file(path: Path, size: int | None = None) -> StyleGenerator:
    """The generator with its weights, for pictures of `size` pixels; None takes the largest."""
    state = scaled_state(state_from_checkpoint(read_checkpoint(path), inside=("g_running",)))
    levels = None if size is None else levels_from_size(size)
    generator = generator_from_state(state, levels)
    load_state(generator, state, path.name)
    return generator.eval()


def levels_from_size(size: int) -> int:
    """The number of resolutions up to `size` pixels; UsageError unless it is 4 times a power of two."""
    levels = size.bit_length() - START.bit_length() + 1
    if levels < 1 or size != START << (levels - 1):
        raise UsageError(f"pictures of {size} pixels", f"give a power of two from {START} on")
    return levels


def load_text_style_gan(
    generator: Path, text_encoder: Path, vocabulary: Path, *, size: int | None = None
) -> FamilyNetworks:
    """Both stages of textStyleGAN; the text encoder is DAMSM's, the vocabulary its captions.pickle."""
    network = generator_from_file(generator, size)
    side = text_from_files(text_encoder, vocabulary, max_words=MAX_WORDS)
    width = side.width
    noise_dim = network.config.latent - width
    if noise_dim < 1:
        problem = f"{generator.name} takes {network.config.latent} values, the sentence has {width}"
        raise UsageError(problem, "give a generator whose latent is noise joined with the sentence")
    prompt = (tensor("input_ids", "int64", "tokens"), tensor("attention_mask", "int64", "tokens"))
    sentence = (tensor("sentence", "float32", width),)
    noise = [NoiseSpec(name="noise", shape=(noise_dim,))]
    noise += [NoiseSpec(name=f"noise_{one}", shape=(1, one, one)) for one in network.sizes]
    inputs = (*sentence, *(tensor(spec.name, "float32", *spec.shape) for spec in noise))
    last = network.sizes[-1]
    picture = (tensor("image", "float32", network.config.colors, last, last),)
    return FamilyNetworks(
        stages=(
            stage("text_encoder", Sentence(side.encoder), prompt, sentence),
            stage("generator", network, inputs, picture),
        ),
        image_size=(last, last),
        image_range=(-1.0, 1.0),
        noise=tuple(noise),
        text=side.text,
        tokenizer=side.tokenizer,
    )
