"""MirrorGAN: AttnGAN's stages with attention to the sentence too, and a network that describes the picture.

Qiao et al., "MirrorGAN: learning text-to-image generation by redescription", CVPR 2019. Keys are those of its
checkpoints: AttnGAN's, with `h_netN.att.{conv_sentence_vis,linear}` and `h_netN.conv`. Masks as in AttnGAN.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from textual_vision.export.families.attngan import (
    AttnGanGenerator,
    NextStage,
    WordAttention,
    generator_from_state,
)
from textual_vision.export.families.damsm import encoder_from_state
from textual_vision.export.families.mirrorgan.captioning import (
    MAX_WORDS,
    Captioner,
    caption_decoder_from_state,
    picture_encoder_from_state,
)
from textual_vision.export.families.parts import FamilyNetworks, FamilyStage, stage, tensor
from textual_vision.export.families.vocabulary import read_plain_pickle, word_tokenizer, words_from_captions
from textual_vision.export.families.weights import (
    State,
    load_state,
    read_checkpoint,
    size_of,
    state_from_checkpoint,
)
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.generation.specs import NoiseSpec

MAX_WORDS_OF_PROMPT = 25
FIRST_SIZE = 64  # pixels of the first stage


class GlobalLocalAttention(WordAttention):
    """Attention to the words at each position, and to the sentence in each channel."""

    def __init__(self, features: int, word: int, condition: int) -> None:
        super().__init__(features, word)
        self.conv_sentence_vis = nn.Conv2d(features, features, 1, bias=False)
        self.linear = nn.Linear(condition, features)

    def sentence_context(self, x: Tensor, condition: Tensor) -> Tensor:
        """The sentence (batch, features, H, W), weighted over the channels of each position."""
        sentence = self.linear(condition)[:, :, None, None]
        weighted: Tensor = sentence * self.conv_sentence_vis(x * sentence).softmax(1)
        return weighted


class MirrorStage(NextStage):
    """Doubles the resolution of features that attended to words and sentence."""

    def __init__(self, width: int, word: int, residual: int, condition: int) -> None:
        super().__init__(width, word, residual)
        self.att: GlobalLocalAttention = GlobalLocalAttention(width, word, condition)
        self.conv = nn.Conv2d(width * 3, width * 2, 1, bias=False)

    def upsampled(self, x: Tensor, condition: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features (batch, width, 2 H, 2 W) and attention weights (batch, tokens, H, W)."""
        context, weights = self.att(x, words, mask)
        sentence = self.att.sentence_context(x, condition)
        joined = self.conv(torch.cat((x, context, sentence), dim=1))
        return self.upsample(self.residual(joined)), weights


class MirrorGanGenerator(AttnGanGenerator):
    """AttnGAN's generator with `MirrorStage` in the place of its later stages."""

    def __init__(
        self, *, width: int, word: int, condition: int, noise_dim: int, residual: int, stages: int
    ) -> None:
        super().__init__(
            width=width,
            word=word,
            condition=condition,
            noise_dim=noise_dim,
            residual=residual,
            stages=stages,
        )
        for number in range(2, stages + 1):
            setattr(self, f"h_net{number}", MirrorStage(width, word, residual, condition))

    def forward(
        self, words: Tensor, sentence: Tensor, mask: Tensor, noise: Tensor, condition_noise: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Pictures from coarse to fine, and the attention weights of each later stage."""
        condition = self.ca_net(sentence, condition_noise)
        x = self.h_net1(condition, noise)
        pictures, attentions = [self.img_net1(x)], []
        for number in range(2, self.stages + 1):
            x, weights = getattr(self, f"h_net{number}").upsampled(x, condition, words, mask)
            pictures.append(getattr(self, f"img_net{number}")(x))
            attentions.append(weights)
        return pictures, attentions


class PicturesAndAttention(nn.Module):
    """The generator's outputs one by one: the finest picture first, then the coarser ones, then attention."""

    def __init__(self, generator: AttnGanGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self, words: Tensor, sentence: Tensor, attention_mask: Tensor, noise: Tensor, condition_noise: Tensor
    ) -> tuple[Tensor, ...]:
        """Pictures float32 (batch, 3, H, W) in [-1, 1]; weights float32 (batch, tokens, H, W)."""
        pictures, attentions = self.generator(words, sentence, attention_mask, noise, condition_noise)
        return (*reversed(pictures), *attentions)


def generator_from_file(path: Path) -> AttnGanGenerator:
    """The generator of netG.pth with its weights."""
    state = state_from_checkpoint(read_checkpoint(path))
    if "h_net2.att.conv_sentence_vis.weight" not in state:
        problem = f"{path.name} has no attention to the sentence"
        raise UsageError(problem, "give MirrorGAN's netG.pth; AttnGAN's is of family attngan")
    generator = generator_from_state(state, MirrorGanGenerator)
    load_state(generator, state, path.name)
    return generator


def captioner_from_files(cnn: Path, rnn: Path) -> Captioner:
    """The captioning network of its two files, with its weights."""
    pictures, words = (state_from_checkpoint(read_checkpoint(path)) for path in (cnn, rnn))
    encoder, decoder = picture_encoder_from_state(pictures), caption_decoder_from_state(words)
    load_state(encoder, pictures, cnn.name)
    load_state(decoder, words, rnn.name)
    return Captioner(encoder, decoder)


def load_mirrorgan(
    generator: Path,
    text_encoder: Path,
    vocabulary: Path,
    captioner: tuple[Path, Path] | None = None,
) -> FamilyNetworks:
    """All stages of MirrorGAN; `captioner` are the files of caption_cnn and caption_rnn, or None without."""
    network = generator_from_file(generator)
    state: State = state_from_checkpoint(read_checkpoint(text_encoder))
    encoder = encoder_from_state(state)
    load_state(encoder, state, text_encoder.name)
    words = words_from_captions(read_plain_pickle(vocabulary), vocabulary)
    rows = size_of(state, "encoder.weight", 0)
    tokenizer, text = word_tokenizer(words, rows=rows, max_tokens=MAX_WORDS_OF_PROMPT)
    width = network.ca_net.fc.in_features
    if width != (found := 2 * size_of(state, "rnn.weight_hh_l0", 1)):
        problem = f"{generator.name} takes words of {width}, {text_encoder.name} gives {found}"
        raise UsageError(problem, "give the text encoder that it was trained with")
    size = FIRST_SIZE << (network.stages - 1)
    return FamilyNetworks(
        stages=_stages(network, encoder, captioner_from_files(*captioner) if captioner else None, width),
        image_size=(size, size),
        image_range=(-1.0, 1.0),
        noise=(
            NoiseSpec(name="noise", shape=(network.noise_dim,)),
            NoiseSpec(name="condition_noise", shape=(network.condition,)),
        ),
        text=text,
        tokenizer=tokenizer,
    )


def _stages(
    network: AttnGanGenerator, encoder: nn.Module, captioner: Captioner | None, width: int
) -> tuple[FamilyStage, ...]:
    prompt = (tensor("input_ids", "int64", "tokens"), tensor("attention_mask", "int64", "tokens"))
    features = (tensor("words", "float32", width, "tokens"), tensor("sentence", "float32", width))
    noise = (
        tensor("noise", "float32", network.noise_dim),
        tensor("condition_noise", "float32", network.condition),
    )
    sizes = [FIRST_SIZE << number for number in range(network.stages)]
    finest, *coarser = (tensor(f"image_{size}", "float32", 3, size, size) for size in reversed(sizes))
    image = tensor("image", finest.dtype, *finest.shape[1:])
    maps = [tensor(f"attention_{size}", "float32", "tokens", size, size) for size in sizes[:-1]]
    found = [
        stage("text_encoder", encoder, prompt, features),
        stage(
            "generator",
            PicturesAndAttention(network),
            (*features, prompt[1], *noise),
            (image, *coarser, *maps),
        ),
    ]
    if captioner is not None:
        pixels = tensor("image", "uint8", sizes[-1], sizes[-1], 3)
        limit = captioner.decoder.embed.num_embeddings
        outputs = (
            tensor("caption", "int64", MAX_WORDS, limit=limit),
            tensor("caption_cross_entropy", "float32"),
        )
        found.append(stage("captioner", captioner, (pixels, *prompt), outputs))
    return tuple(found)
