"""MirrorGAN: AttnGAN's stages with attention to the sentence too, and a network that describes the picture.

Qiao et al., "MirrorGAN: learning text-to-image generation by redescription", CVPR 2019. Keys are those of its
checkpoints: AttnGAN's, with `h_netN.att.{conv_sentence_vis,linear}` and `h_netN.conv`. Masks as in AttnGAN.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from textual_vision.export.families.attngan import (
    AttnGanGenerator,
    NextStage,
    WordAttention,
    generator_from_state,
    networks_from_generator,
)
from textual_vision.export.families.damsm import text_from_files
from textual_vision.export.families.mirrorgan.captioning import (
    MAX_WORDS,
    Captioner,
    caption_decoder_from_state,
    picture_encoder_from_state,
)
from textual_vision.export.families.parts import FamilyNetworks, FamilyStage, stage, tensor
from textual_vision.export.families.weights import (
    load_state,
    read_checkpoint,
    state_from_checkpoint,
)
from textual_vision.runtime.errors import UsageError

MAX_WORDS_OF_PROMPT = 25


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
    caption_cnn: Path | None = None,
    caption_rnn: Path | None = None,
) -> FamilyNetworks:
    """All stages of MirrorGAN; with both files of the captioning network it also describes its picture.

    Raises UsageError for one of the two alone.
    """
    network = generator_from_file(generator)
    side = text_from_files(text_encoder, vocabulary, max_words=MAX_WORDS_OF_PROMPT)
    found = networks_from_generator(network, side, generator.name, text_encoder.name)
    if caption_cnn is None and caption_rnn is None:
        return found
    if caption_cnn is None or caption_rnn is None:
        there, lacking = (
            ("caption_rnn", "caption_cnn") if caption_cnn is None else ("caption_cnn", "caption_rnn")
        )
        raise UsageError(
            f"mirrorgan: {there} without {lacking}", "give both files of the captioning network, or none"
        )
    captioner = captioner_from_files(caption_cnn, caption_rnn)
    return replace(found, stages=(*found.stages, _captioner_stage(captioner, found)))


def _captioner_stage(captioner: Captioner, networks: FamilyNetworks) -> FamilyStage:
    prompt = (tensor("input_ids", "int64", "tokens"), tensor("attention_mask", "int64", "tokens"))
    pixels = tensor("image", "uint8", *networks.image_size, 3)
    limit = captioner.decoder.embed.num_embeddings
    outputs = (
        tensor("caption", "int64", MAX_WORDS, limit=limit),
        tensor("caption_cross_entropy", "float32"),
    )
    return stage("captioner", captioner, (pixels, *prompt), outputs)
