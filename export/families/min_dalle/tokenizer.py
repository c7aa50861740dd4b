"""min-dalle's byte-pair tokenizer as a tokenizer.json, from its vocab.json and merges.txt.

The original also writes emoji as their names. That is left out, so that emoji are dropped with all else that
is not ASCII. Of a prompt that is too long it drops the end token; here the end token stays.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from textual_vision.export.families.min_dalle.encoder import PAD_ID
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.manifest import TextSpec

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
WORD_START = "Ġ"
FILE_LIMIT_BYTES = 16 << 20
ASCII_DROPPED = r"[^\x00-\x7F]"


def min_dalle_tokenizer(vocabulary: Path, merges: Path, *, rows: int, tokens: int) -> tuple[bytes, TextSpec]:
    """The text of tokenizer.json and its settings, for an embedding of `rows` and prompts of `tokens`."""
    words = vocabulary_from_file(vocabulary, rows)
    pairs = [tuple(line.split()) for line in _text(merges).split("\n")[1:]]
    known = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if missing := [pair for pair in known if not {*pair, "".join(pair)} <= words.keys()]:
        problem = f"{merges}: {' '.join(missing[0])!r} merges tokens that {vocabulary} lacks"
        raise IntegrityError(problem, "give both files of one model")
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=known, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(ASCII_DROPPED), "")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.CharDelimiterSplit(" "),
            pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always", split=False),
        ]
    )
    marks = [(START, words[START]), (END, words[END])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=marks)
    spec = TextSpec(
        tokenizer="tokenizer.json",
        max_tokens=tokens,
        pad_id=PAD_ID,
        unknown_id=words[UNKNOWN],
        fixed_length=True,
    )
    return tokenizer.to_str().encode(), spec


def vocabulary_from_file(path: Path, rows: int) -> dict[str, int]:
    """Id of each token; raises IntegrityError unless it fits an embedding of `rows`."""
    try:
        found = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise IntegrityError(f"{path} is no JSON: {error}", "download it again") from None
    good = isinstance(found, dict) and all(type(number) is int for number in found.values())
    if not good or not {START, END, UNKNOWN} <= found.keys():
        problem = f"{path} does not map tokens to numbers, {START}, {END} and {UNKNOWN} among them"
        raise IntegrityError(problem, "give min-dalle's vocab.json")
    if not 0 <= min(found.values()) <= max(found.values()) < rows:
        problem = f"{path}: ids reach {max(found.values())}, the encoder's embedding has {rows} rows"
        raise IntegrityError(problem, "give the vocabulary that the encoder was trained on")
    return {str(token): number for token, number in found.items()}


def _text(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"no file {path}", "give min-dalle's vocab.json and merges.txt")
    if path.stat().st_size > FILE_LIMIT_BYTES:
        raise IntegrityError(f"{path} has more than {FILE_LIMIT_BYTES} bytes", "download it again")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path} is no UTF-8 text: {error}", "download it again") from None
