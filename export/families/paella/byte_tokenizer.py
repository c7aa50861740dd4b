"""ByT5's tokenizer: one token for each byte of the prompt, then an end token.

Xue et al., "ByT5: towards a token-free future with pre-trained byte-to-byte models", TACL 2022.
"""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from textual_vision.export.families.clip.byte_characters import BY_BYTE
from textual_vision.runtime.manifest import TextSpec

SPECIAL = ("<pad>", "</s>", "<unk>")  # ids 0, 1, 2; byte b is 3 + b
END = SPECIAL[1]
MAX_TOKENS = 768  # that the published network was trained with


def byte_tokenizer() -> tuple[bytes, TextSpec]:
    """The text of tokenizer.json, and its settings."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL)}
    vocabulary |= {character: len(SPECIAL) + byte for byte, character in enumerate(BY_BYTE)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=SPECIAL[2]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    end = (END, SPECIAL.index(END))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[end])
    spec = TextSpec(tokenizer="tokenizer.json", max_tokens=MAX_TOKENS, pad_id=0, unknown_id=2)
    return tokenizer.to_str().encode(), spec
