"""Check a tokenizer.json before the tokenizers library reads it.

The file may be an attacker's. The library runs whatever components and regular expressions it names, and some
values make it hang, take all memory or panic. So the components are from a list, their regular expressions
are from a list, and everything that is repeated or multiplied is bounded. The prompt's length is not: it is
the user's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.strict_json import json_from_bytes

FILE_LIMIT_BYTES = 16 << 20
ADDED_LIMIT = 1024  # tokens beside the vocabulary
VOCABULARY_LIMIT = 1 << 20
ID_LIMIT = 1 << 24
TOKEN_LIMIT, TEXT_LIMIT = 256, 64  # characters
WORD_LIMIT = 200  # characters of a word that WordPiece cuts up, in a time that grows with their square
STEPS_LIMIT = 8  # components one after the other
ITEMS_LIMIT = 64
DEPTH_LIMIT = 6
GROWTH_LIMIT = 8  # times that normalization may lengthen a prompt

# Type → its fields
NORMALIZERS = {
    "BertNormalizer": "clean_text handle_chinese_chars strip_accents lowercase",
    "ByteLevel": "",
    "Lowercase": "",
    "NFC": "",
    "NFD": "",
    "NFKC": "",
    "NFKD": "",
    "Nmt": "",
    "Prepend": "prepend",
    "Replace": "pattern content",
    "Strip": "strip_left strip_right",
    "StripAccents": "",
}
PRE_TOKENIZERS = {
    "BertPreTokenizer": "",
    "ByteLevel": "add_prefix_space trim_offsets use_regex",
    "CharDelimiterSplit": "delimiter",
    "Digits": "individual_digits",
    "Metaspace": "replacement prepend_scheme split",
    "Punctuation": "behavior",
    "Split": "pattern behavior invert",
    "UnicodeScripts": "",
    "Whitespace": "",
    "WhitespaceSplit": "",
}
POST_PROCESSORS = {
    "BertProcessing": "sep cls",
    "ByteLevel": "add_prefix_space trim_offsets use_regex",
    "RobertaProcessing": "sep cls trim_offsets add_prefix_space",
    "TemplateProcessing": "single pair special_tokens",
}
DECODERS = {
    "BPEDecoder": "suffix",
    "ByteFallback": "",
    "ByteLevel": "add_prefix_space trim_offsets use_regex",
    "Fuse": "",
    "Metaspace": "replacement prepend_scheme split",
    "Strip": "content start stop",
    "WordPiece": "prefix cleanup",
}
MODELS = {
    "BPE": "dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk byte_fallback "
    "ignore_merges vocab merges",
    "Unigram": "unk_id vocab byte_fallback",
    "WordLevel": "vocab unk_token",
    "WordPiece": "unk_token continuing_subword_prefix max_input_chars_per_word vocab",
}
# Place in the file → its components, and the field of a Sequence that holds several
PARTS = {
    "normalizer": (NORMALIZERS, "normalizers"),
    "pre_tokenizer": (PRE_TOKENIZERS, "pretokenizers"),
    "post_processor": (POST_PROCESSORS, "processors"),
    "decoder": (DECODERS, "decoders"),
}
ADDED_TOKEN = "id content single_word lstrip rstrip normalized special"
REGEXES = {
    r"\s+",
    r"\w+",
    r"[^\x00-\x7F]",
    r" {2,}",
    # CLIP's, and GPT-2's byte pairs
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}


def check_tokenizer_file(data: bytes, name: str) -> None:
    """Raise IntegrityError, naming the file `name`, unless it has only what is known to be harmless."""
    if len(data) > FILE_LIMIT_BYTES:
        _refuse(name, f"{len(data)} bytes, at most {FILE_LIMIT_BYTES} are read")
    value = json_from_bytes(data, name)
    fields = _object(value, "version truncation padding added_tokens model " + " ".join(PARTS), name)
    for part, (known, several) in PARTS.items():
        _check_part(fields.get(part), known, several, f"{name}: {part}")
    _check_growth(fields.get("normalizer"), f"{name}: normalizer")
    _check_added(fields.get("added_tokens", []), f"{name}: added_tokens")
    _check_model(fields.get("model"), f"{name}: model")


def _check_part(part: Any, known: Mapping[str, str], several: str, where: str) -> None:
    if part is None:
        return
    if isinstance(part, dict) and part.get("type") == "Sequence":
        steps = _object(part, f"type {several}", where).get(several)
        if not isinstance(steps, list) or len(steps) > STEPS_LIMIT:
            _refuse(where, f"not a list of at most {STEPS_LIMIT} components")
    else:
        steps = [part]
    for step in steps:
        fields = _component(step, known, where)
        if (pattern := fields.get("pattern")) is not None:
            _check_pattern(pattern, where)
        _check_small(fields, where, DEPTH_LIMIT)


def _component(value: Any, known: Mapping[str, str], where: str) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in known:
        _refuse(where, f"the component {str(kind)[:TEXT_LIMIT]!a} is not allowed in a bundle")
    return _object(value, f"type {known[kind]}", f"{where}.{kind}")


def _check_pattern(pattern: Any, where: str) -> None:
    fields = _object(pattern, "String Regex", where)
    if len(fields) != 1:
        _refuse(where, "a pattern is either a text or a regular expression")
    if "Regex" in fields and fields["Regex"] not in REGEXES:
        _refuse(where, "a regular expression that is not allowed in a bundle")
    if not all(isinstance(text, str) and text for text in fields.values()):
        _refuse(where, "an empty pattern")


def _check_small(value: Any, where: str, depth: int) -> None:
    """No text, list or number is large."""
    if depth == 0:
        _refuse(where, "nested too deep")
    if isinstance(value, str):
        limit = max(len(one) for one in REGEXES)
        if len(value) > limit:
            _refuse(where, f"a text of {len(value)} characters, at most {limit} are read")
    elif isinstance(value, int | float):
        if not -ID_LIMIT < value < ID_LIMIT:
            _refuse(where, "a number out of range")
    elif isinstance(value, list | dict):
        if len(value) > ITEMS_LIMIT:
            _refuse(where, f"{len(value)} items, at most {ITEMS_LIMIT} are read")
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            _check_small(item, where, depth - 1)


def _check_growth(normalizer: Any, where: str) -> None:
    steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    growth = 1.0
    for step in steps:
        if step["type"] == "Replace":
            pattern, content = step.get("pattern", {}), step.get("content", "")
            growth *= max(1.0, len(content) / len(pattern.get("String", " ")))
    if growth > GROWTH_LIMIT:
        _refuse(where, f"lengthens a text {growth:g} times, at most {GROWTH_LIMIT} times are allowed")


def _check_added(tokens: Any, where: str) -> None:
    if not isinstance(tokens, list) or len(tokens) > ADDED_LIMIT:
        _refuse(where, f"not a list of at most {ADDED_LIMIT} tokens")
    for token in tokens:
        fields = _object(token, ADDED_TOKEN, where)
        _check_token(fields.get("content"), fields.get("id"), where)


def _check_token(text: Any, number: Any, where: str) -> None:
    if not isinstance(text, str) or len(text) > TOKEN_LIMIT:
        _refuse(where, f"a token that is no text of at most {TOKEN_LIMIT} characters")
    if type(number) is not int or not 0 <= number < ID_LIMIT:
        _refuse(where, f"a token's number is not between 0 and {ID_LIMIT}")


def _check_model(value: Any, where: str) -> None:
    fields = _component(value, MODELS, where)
    vocabulary = fields.get("vocab")
    if not isinstance(vocabulary, dict | list) or not 0 < len(vocabulary) <= VOCABULARY_LIMIT:
        _refuse(where, f"not a vocabulary of at most {VOCABULARY_LIMIT} tokens")
    if isinstance(vocabulary, dict) == (fields["type"] == "Unigram"):
        _refuse(where, "its vocabulary has another form")
    pairs = vocabulary.items() if isinstance(vocabulary, dict) else _scored(vocabulary, where)
    for text, number in pairs:
        _check_token(text, number, where)
    longest = fields.get("max_input_chars_per_word", 0)
    if type(longest) is not int or not 0 <= longest <= WORD_LIMIT:
        _refuse(where, f"max_input_chars_per_word is not between 0 and {WORD_LIMIT}")
    if fields.get("dropout") not in (None, 0):
        _refuse(where, "dropout, which makes tokens random, is not allowed")
    rest = {name: item for name, item in fields.items() if name not in ("vocab", "merges")}
    _check_small(rest, where, DEPTH_LIMIT)
    _check_merges(fields.get("merges", []), where)


def _scored(vocabulary: list[Any], where: str) -> list[tuple[Any, int]]:
    """Text and place of each token, from pairs of text and score."""
    for pair in vocabulary:
        good = isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], int | float)
        if not good or not math.isfinite(pair[1]):
            _refuse(where, "a token without a score")
    return [(pair[0], place) for place, pair in enumerate(vocabulary)]


def _check_merges(merges: Any, where: str) -> None:
    if not isinstance(merges, list) or len(merges) > VOCABULARY_LIMIT:
        _refuse(where, f"not a list of at most {VOCABULARY_LIMIT} merges")
    for merge in merges:
        texts = merge.split(" ") if isinstance(merge, str) else merge
        good = isinstance(texts, list) and len(texts) == 2
        if not good or not all(isinstance(text, str) and 0 < len(text) <= TOKEN_LIMIT for text in texts):
            _refuse(where, "a merge that is no pair of tokens")


def _object(value: Any, known: str, where: str) -> dict[str, Any]:
    """`value` as an object that has no field but those."""
    if not isinstance(value, dict):
        _refuse(where, "not an object")
    if unknown := sorted(set(value) - set(known.split())):
        _refuse(where, f"the field {unknown[0][:TEXT_LIMIT]!a} is not allowed in a bundle")
    found: dict[str, Any] = value
    return found


def _refuse(where: str, problem: str) -> NoReturn:
    raise IntegrityError(f"{where}: {problem}", "export the bundle again")
