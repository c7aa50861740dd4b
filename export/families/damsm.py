"""The text encoder of DAMSM, which AttnGAN introduced and DF-GAN, MirrorGAN and others condition on.

Xu et al., "AttnGAN: fine-grained text to image generation with attentional generative adversarial networks",
CVPR 2018: word embeddings, then a bidirectional LSTM over the words that are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from textual_vision.export.families.vocabulary import read_plain_pickle, word_tokenizer, words_from_captions
from textual_vision.export.families.weights import load_state, read_checkpoint, size_of, state_from_checkpoint
from textual_vision.runtime.manifest import TextSpec

DROPOUT = 0.5  # while it is trained


class RnnEncoder(nn.Module):
    """Word features (batch, width, tokens) and sentence (batch, width) from ids and mask."""

    def __init__(self, *, vocabulary: int, embedding: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Embedding(vocabulary, embedding)
        self.drop = nn.Dropout(DROPOUT)
        self.rnn = nn.LSTM(embedding, width // 2, batch_first=True, bidirectional=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Words float32 (batch, width, tokens), 0 on padding; sentence float32 (batch, width)."""
        lengths = attention_mask.sum(1)
        embedded = self.drop(self.encoder(input_ids))
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, (hidden, _) = self.rnn(packed)
        words, _ = pad_packed_sequence(outputs, batch_first=True, total_length=input_ids.shape[1])
        return words.transpose(1, 2), hidden.transpose(0, 1).flatten(1)


def encoder_from_state(state: Mapping[str, Tensor]) -> RnnEncoder:
    """The encoder whose sizes are those of the state's tensors, without its weights."""
    return RnnEncoder(
        vocabulary=size_of(state, "encoder.weight", 0),
        embedding=size_of(state, "encoder.weight", 1),
        width=2 * size_of(state, "rnn.weight_hh_l0", 1),
    )


class Sentence(nn.Module):
    """The sentence float32 (batch, width) of a recurrent text encoder."""

    def __init__(self, encoder: RnnEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The sentence."""
        _, sentence = self.encoder(input_ids, attention_mask)
        features: Tensor = sentence
        return features


@dataclass(frozen=True, kw_only=True)
class TextSide:
    """The encoder with its weights, the width of its features, and the tokenizer of its vocabulary."""

    encoder: RnnEncoder
    width: int
    tokenizer: bytes
    text: TextSpec


def text_from_files(text_encoder: Path, vocabulary: Path, *, max_words: int) -> TextSide:
    """DAMSM's text encoder and the vocabulary in its captions.pickle.

    Raises IntegrityError when a file is damaged or the two do not fit.
    """
    state = state_from_checkpoint(read_checkpoint(text_encoder))
    encoder = encoder_from_state(state)
    load_state(encoder, state, text_encoder.name)
    words = words_from_captions(read_plain_pickle(vocabulary), vocabulary)
    rows = size_of(state, "encoder.weight", 0)
    tokenizer, text = word_tokenizer(words, rows=rows, max_tokens=max_words)
    return TextSide(
        encoder=encoder, width=2 * size_of(state, "rnn.weight_hh_l0", 1), tokenizer=tokenizer, text=text
    )
