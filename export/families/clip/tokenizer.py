"""CLIP's byte-pair tokenizer as a tokenizer.json.

Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021. The
vocabulary follows from the list of merges: 256 bytes, the same at the end of a word, one token for each
merge, start, end. The original also repairs wrongly decoded text and HTML entities first; that is left out.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from textual_vision.export.families.clip.byte_characters import PRINTABLE_FIRST
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.manifest import TextSpec

WORD_END = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
BYTES = 256
SPECIAL = 2
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
PAD_ID = 0
FILE_LIMIT_BYTES = 64 << 20


def clip_tokenizer(path: Path, *, rows: int, context: int) -> tuple[bytes, TextSpec]:
    """The text of tokenizer.json and its settings, for an embedding of `rows` and `context` tokens.

    `path` is bpe_simple_vocab_16e6.txt.gz, or merges.txt. Raises IntegrityError when it has fewer merges than
    the embedding has rows for.
    """
    merges = merges_from_file(path, rows - 2 * BYTES - SPECIAL)
    alphabet = PRINTABLE_FIRST
    tokens = [*alphabet, *(one + WORD_END for one in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    if len(vocabulary) != rows:
        problem = f"{path}: {len(vocabulary)} different tokens for an embedding of {rows} rows"
        raise IntegrityError(problem, "give the merges that the text tower was trained with")
    model = models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=WORD_END)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    marks = [(START, vocabulary[START]), (END, vocabulary[END])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=marks)
    spec = TextSpec(
        tokenizer="tokenizer.json",
        max_tokens=context,
        pad_id=PAD_ID,
        unknown_id=vocabulary[START],
        fixed_length=True,
    )
    return tokenizer.to_str().encode(), spec


def merges_from_file(path: Path, count: int) -> list[tuple[str, str]]:
    """The first `count` merges, after the file's line of its version."""
    if not path.is_file():
        raise UsageError(f"no file {path}", "give bpe_simple_vocab_16e6.txt.gz, or merges.txt")
    try:
        text = _read(path)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path} is no list of merges: {error}", "download it again") from None
    pairs = [tuple(line.split()) for line in text.split("\n")[1:]]
    merges = [(pair[0], pair[1]) for pair in pairs[: max(0, count)] if len(pair) == 2]
    if count < 0 or len(merges) != count:
        problem = f"{path} has {len(merges)} merges, the text tower's embedding needs {count}"
        raise IntegrityError(problem, "give the merges that the text tower was trained with")
    return merges


def _read(path: Path) -> str:
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            return stream.read(FILE_LIMIT_BYTES).decode("utf-8")
    if path.stat().st_size > FILE_LIMIT_BYTES:
        raise IntegrityError(f"{path} has more than {FILE_LIMIT_BYTES} bytes", "give merges.txt")
    return path.read_text("utf-8")
