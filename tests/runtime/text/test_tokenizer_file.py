"""Tokenizer files from strangers: what could hang, panic or take all memory is refused before it is read."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.manifest import TextSpec, manifest_from_bytes
from textual_vision.runtime.text import tokenizer_file
from textual_vision.runtime.text.tokenizer import PROBE, Tokenizer
from textual_vision.runtime.text.tokenizer_file import check_tokenizer_file


@pytest.fixture(scope="session")
def value(tiny_files):
    return json.loads(tiny_files["tokenizer.json"])


@pytest.fixture(scope="session")
def spec(tiny_files):
    return manifest_from_bytes(tiny_files["manifest.json"]).text


def changed(value, path, new):
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return json.dumps(value).encode()


def replace(content, **pattern):
    return {"type": "Replace", "pattern": pattern, "content": content}


REFUSED = {
    "a catastrophic regular expression": (("normalizer",), replace("", Regex="(a+)+$"), "regular expression"),
    "one in a sequence": (
        ("pre_tokenizer",),
        {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "(x*)*y"}, "behavior": "Removed", "invert": False}
            ],
        },
        "regular expression",
    ),
    "a replacement that multiplies": (("normalizer",), replace("a" * 60, String="a"), "lengthens a text 60"),
    "replacements that multiply": (
        ("normalizer",),
        {"type": "Sequence", "normalizers": [replace("aa", String="a")] * 8},
        "lengthens a text 256",
    ),
    "an empty pattern": (("normalizer",), replace("a", String=""), "empty pattern"),
    "a sequence in a sequence": (
        ("normalizer",),
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]},
        "'Sequence' is not allowed",
    ),
    "a long sequence": (
        ("normalizer",),
        {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 9},
        "at most 8",
    ),
    "a table of characters in binary": (
        ("normalizer",),
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        "'Precompiled' is not allowed",
    ),
    "a component that is no object": (("pre_tokenizer",), 3, "not allowed"),
    "an unknown field": (("normalizer", "extra"), 1, "'extra' is not allowed"),
    "an unknown field at the top": (("extra",), 1, "'extra' is not allowed"),
    "words of any length": (("model", "max_input_chars_per_word"), 10**9, "max_input_chars_per_word"),
    "a vocabulary of another form": (("model", "vocab"), [["a", 1.0]], "another form"),
    "no vocabulary": (("model", "vocab"), {}, "not a vocabulary"),
    "a token's number that is negative": (("model", "vocab", "dog"), -1, "number is not between"),
    "a token's number that is huge": (("model", "vocab", "dog"), 2**31, "number is not between"),
    "a token of a megabyte": (("model", "vocab", "a" * 2**20), 4, "at most 256 characters"),
    "a million added tokens": (("added_tokens",), [{}] * 2000, "at most 1024 tokens"),
    "an added token without text": (("added_tokens",), [{"id": 1}], "no text"),
    "a model that is none": (("model",), None, "model: the component"),
    "random tokens": (
        ("model",),
        {"type": "BPE", "dropout": 0.5, "vocab": {"a": 0}, "merges": []},
        "dropout",
    ),
    "merges that are none": (("model",), {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}, "no pair"),
    "a template of thousands": (
        ("post_processor",),
        {"type": "TemplateProcessing", "single": [0] * 1000, "pair": [], "special_tokens": {}},
        "1000 items",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tokenizer_file_is_refused_for(value, case):
    path, new, message = REFUSED[case]
    with pytest.raises(IntegrityError, match=message) as caught:
        check_tokenizer_file(changed(value, path, new), "tokenizer.json")
    assert caught.value.message.startswith("tokenizer.json: ")
    assert len(caught.value.message) < 300


CLIP = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [{"id": 2, "content": "<|startoftext|>", "special": True}],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [{"type": "NFC"}, replace(" ", Regex=r"\s+"), {"type": "Lowercase"}],
    },
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"},
                "behavior": "Removed",
                "invert": True,
            },
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    },
    "post_processor": {
        "type": "RobertaProcessing",
        "sep": ["<|endoftext|>", 3],
        "cls": ["<|startoftext|>", 2],
        "trim_offsets": False,
        "add_prefix_space": False,
    },
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<|endoftext|>",
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "</w>",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {"a": 0, "b</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3, "ab</w>": 4},
        "merges": [["a", "b</w>"]],
    },
}


def test_a_tokenizer_as_clip_has_it_is_read():
    spec = TextSpec(tokenizer="t.json", max_tokens=8, pad_id=3, unknown_id=3)
    value = {**CLIP, "added_tokens": []}
    assert Tokenizer(json.dumps(value).encode(), spec).encode(["ab ab"]).ids.tolist() == [[2, 4, 4, 3]]


def test_every_listed_component_is_one_that_the_library_knows(value):
    import tokenizers

    modules = {
        "normalizer": tokenizers.normalizers,
        "pre_tokenizer": tokenizers.pre_tokenizers,
        "post_processor": tokenizers.processors,
        "decoder": tokenizers.decoders,
    }
    for part, (known, _) in tokenizer_file.PARTS.items():
        assert all(hasattr(modules[part], name) for name in known), part
    assert all(hasattr(tokenizers.models, name) for name in tokenizer_file.MODELS)


PANICS = {
    "a template without its tokens": (("post_processor",), {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[A]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }),
    "merges shorter than their prefix": (("model",), {
        "type": "BPE", "continuing_subword_prefix": "##", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]],
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", PANICS)
def test_a_panic_of_the_library_is_an_integrity_error(value, spec, case):
    import tokenizers

    data = changed(value, *PANICS[case])
    with pytest.raises(BaseException) as caught:  # so the case is real
        tokenizers.Tokenizer.from_buffer(data).encode("a b")
    assert not isinstance(caught.value, Exception)
    with pytest.raises(IntegrityError, match=r"tokenizer\.json: "):
        Tokenizer(data, spec)


def test_a_tokenizer_that_fails_at_a_prompt_only_is_an_integrity_error(value, spec):
    model = {"type": "WordLevel", "vocab": {"a": 0, PROBE.split()[1]: 1, "dog": 2}, "unk_token": "none"}
    tokenizer = Tokenizer(changed(value, ("model",), model), spec)
    with pytest.raises(IntegrityError, match=r"tokenizer\.json: .*[Mm]issing"):
        tokenizer.encode(["cat"])


def test_marks_that_leave_no_place_for_a_word_are_refused(value):
    short = TextSpec(tokenizer="t.json", max_tokens=2, pad_id=0, unknown_id=1)
    with pytest.raises(IntegrityError, match="adds 2 tokens to a prompt of at most 2"):
        Tokenizer(json.dumps(value).encode(), short)


def test_a_file_that_is_too_large_is_refused(monkeypatch, tiny_files):
    monkeypatch.setattr(tokenizer_file, "FILE_LIMIT_BYTES", 100)
    with pytest.raises(IntegrityError, match="at most 100 are read"):
        check_tokenizer_file(tiny_files["tokenizer.json"], "tokenizer.json")


@given(st.data())
def test_any_value_anywhere_is_read_or_refused(value, spec, data):
    places = [(name,) for name in value] + [
        (part, name) for part in value if isinstance(value[part], dict) for name in value[part]
    ]
    path = data.draw(st.sampled_from(places))
    small = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    new = data.draw(small | st.lists(small, max_size=3) | st.dictionaries(st.text(max_size=5), small))
    try:
        Tokenizer(changed(value, path, new), spec)
    except IntegrityError as error:
        assert len(error.message) < 300
