"""The C tokenizer gives Python's ids and notes for any text."""

import dataclasses
import json
import random
import warnings
from pathlib import Path

import pytest

from textual_vision.runtime.errors import PromptWarning, TextualVisionError
from textual_vision.runtime.manifest import TextSpec, manifest_from_bytes
from textual_vision.runtime.text.tokenizer import Tokenizer

SHIPPED = Path(__file__).parents[3] / "training" / "checkpoints" / "emoji" / "tokenizer.json"
SHIPPED_SPEC = TextSpec(tokenizer="tokenizer.json", max_tokens=32, pad_id=0, unknown_id=1)
EDGE_CASES = [
    "",
    "   ",
    "\t\n",
    "\x00",
    "dog\x00cat",
    "\u200b",
    "\x1c\x1d dog \x1e\x1f",
    "dog\u0085cat\u000bdog\u000ccat",
    "[PAD]",
    "[UNK] [CLS] [SEP] [MASK]",
    "dog [PAD] cat",
    "[pad]dog[UNK]",
    "##s ##",
    "dogs cats riverss",
    "DOG Wearing SUNGLASSES",
    "İstanbul I\u0307 ß ẞ ﬁ Å Ω K",
    "café cafe\u0301 e\u0301\u0301\u0301 \u0301 \u0301dog",
    "a\u0323\u0307 a\u0307\u0323 \u0344 \u0f73 \u0f71\u0f72",
    "x\u1d165\U0001d165\u302e\U0001d16d\u0301\U0001d158\U0001d165",
    "\u0d4d\u1b44\u0316\u302e a\u1715\u0316",
    "각 가\u11a8 한국어 힣 \uac01\uac00\u11a7",
    "森林 dog森林cat 﨎 豈 \U0002f800 \U00020000",
    "🐶 dog 🐶 👨‍👩‍👧 🏳️‍🌈 ☀️",
    "\ufffd\ufffe\uffff\ue000\U0010ffff",
    "don't stop--now... (really?) $5 ^ ` ~ a|b",
    "¿dog? «cat» „dog“ ‚cat‘ – — … · ، ؟ 。",
    "x" * 10_000,
    "x" * 100,
    "x" * 101,
    "dog " * 2500,
    "dog" * 400,
    "森" * 5000,
    "\u0301" * 5000 + "\u0323" * 3000,
    "a" + "\u0301\u0323" * 40,
    "dog cat " * 15 + "\x1c\x1c river \u2028 river",
    "𒐫 𝔡𝔬𝔤 ｄｏｇ ①",
    "🐶dog🐱cat 👍🏽river ❤️ 1️⃣ 🇩🇪 👩🏿‍🚀👨‍👩‍👧‍👦",
    "ﬃ ㍿ ﷺ ½ ㎏ Ⅷ ｶﾞ ｱﾞﾟ 가 각ᆨ \u1112\u1161\u11ab q\u0307\u0323 \u1e9b\u0323",
    "\u0345\u03b9 \u1fb3 \u0390",
]
ALPHABETS = [
    range(0x20, 0x7F),
    range(0xA0, 0x250),
    range(0x300, 0x370),
    range(0x370, 0x600),
    range(0x900, 0xE00),
    range(0x1AB0, 0x2100),
    range(0x2000, 0x3100),
    range(0x4E00, 0xA000),
    range(0xA640, 0xABFF),
    range(0xAC00, 0xD7B0),
    range(0xF900, 0xFFFF),
    range(0x10000, 0x12000),
    range(0x1D100, 0x1D250),
    range(0x1E000, 0x20000),
    range(0x2F800, 0x2FA20),
    range(0x110000),
]
WORDS = ["dog", "cat", "sunglasses", "##s", "[UNK]", "river,", " ", "forest", "é", "\u0301", "\x00"]


def random_texts(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        length = rng.choice((1, 3, 8, 20, 60))
        alphabets = rng.sample(ALPHABETS, rng.choice((1, 2, 4)))
        pieces = []
        for _ in range(length):
            code = rng.choice(rng.choice(alphabets))
            letter = "a" if 0xD800 <= code <= 0xDFFF else chr(code)
            pieces.append(letter if rng.random() < 0.8 else rng.choice(WORDS))
        yield "".join(pieces)


def by_python(tokenizer, prompt):
    """What the driver must answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        try:
            tokens = tokenizer.encode([prompt])
        except TextualVisionError as error:
            return [str(error.exit_code), error.message, error.hint]
    (note,) = tokens.notes
    pieces = " ".join(piece.encode().hex() for piece in note.unknown)
    ids = " ".join(map(str, tokens.ids[0].tolist()))
    return ["0", ids, str(note.words_cut), str(int(note.nothing_known)), pieces]


def check(driver, data, spec, prompts):
    tokenizer = Tokenizer(data, spec)
    records = [data, *(prompt.encode() for prompt in prompts)]
    first, *answers = driver.lines("tokens", spec.max_tokens, spec.pad_id, spec.unknown_id, records=records)
    assert first == ["0"]
    assert len(answers) == len(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer == by_python(tokenizer, prompt), ascii(prompt)


@pytest.fixture(scope="session")
def captions():
    """Words of the shipped vocabulary in a row, and the prompts that the training asks for."""
    vocabulary = list(json.loads(SHIPPED.read_text("utf-8"))["model"]["vocab"])
    rng = random.Random(0)
    rows = [" ".join(rng.sample(vocabulary, rng.choice((2, 5, 12, 40)))) for _ in range(2000)]
    documents = (Path(__file__).parents[3] / "docs").glob("*.md")
    return rows + [line for path in sorted(documents) for line in path.read_text("utf-8").splitlines()]


def test_edge_cases_are_read_as_in_python(driver, tiny_files):
    spec = manifest_from_bytes(tiny_files["manifest.json"]).text
    check(driver, tiny_files["tokenizer.json"], spec, EDGE_CASES)
    check(driver, SHIPPED.read_bytes(), SHIPPED_SPEC, EDGE_CASES)


def test_captions_are_read_as_in_python(plain_driver, captions):
    check(plain_driver, SHIPPED.read_bytes(), SHIPPED_SPEC, captions)


def test_ten_thousand_random_texts_are_read_as_in_python(sanitized_driver):
    check(sanitized_driver, SHIPPED.read_bytes(), SHIPPED_SPEC, list(random_texts(10_000, 0)))


@pytest.mark.parametrize(
    "change",
    [
        {"lowercase": False},
        {"lowercase": False, "strip_accents": True},
        {"strip_accents": False},
        {"clean_text": False},
        {"handle_chinese_chars": False},
    ],
    ids=str,
)
def test_every_setting_of_the_normalizer_is_as_in_python(plain_driver, change):
    value = json.loads(SHIPPED.read_text("utf-8"))
    value["normalizer"].update(change)
    prompts = [*EDGE_CASES, *random_texts(1000, 1)]
    check(plain_driver, json.dumps(value, ensure_ascii=False).encode(), SHIPPED_SPEC, prompts)


@pytest.mark.parametrize(("max_tokens", "unknown_id"), [(3, 1), (4, 1), (7, 42), (512, 1)])
def test_cutting_and_the_unknown_id_follow_the_manifest(plain_driver, max_tokens, unknown_id):
    spec = dataclasses.replace(SHIPPED_SPEC, max_tokens=max_tokens, unknown_id=unknown_id)
    check(plain_driver, SHIPPED.read_bytes(), spec, [*EDGE_CASES, *random_texts(300, 2)])


@pytest.mark.parametrize(
    "text",
    [b"\xff", b"dog \xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"a\x80", b"\xf0\x9f\x90"],
)
def test_what_is_not_utf8_is_refused(driver, tiny_files, text):
    _, answer = driver.lines("tokens", 12, 0, 1, records=[tiny_files["tokenizer.json"], text])
    assert answer[0] == "2"
    assert "is not valid text" in answer[1]


def test_a_prompt_of_more_than_a_million_characters_is_refused_as_in_python(plain_driver, tiny_files):
    spec = manifest_from_bytes(tiny_files["manifest.json"]).text
    prompts = ["é" * 1_000_000, "é" * 1_000_001, "dog" * 400_000]
    check(plain_driver, tiny_files["tokenizer.json"], spec, prompts)


def path_set(value, path, new):
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        (("version",), "2.0", "version is '2.0'; this library reads 1.0"),
        (("normalizer",), None, "tokenizer.json.normalizer: expected an object, found None"),
        (("normalizer", "type"), "NFC", "normalizer.type is 'NFC'; this library reads BertNormalizer"),
        (("pre_tokenizer", "type"), "Whitespace", "this library reads BertPreTokenizer"),
        (("model", "type"), "BPE", "model.type is 'BPE'; this library reads WordPiece"),
        (("model", "unk_token"), "[NIX]", "model.unk_token: missing from the vocabulary"),
        (("model", "max_input_chars_per_word"), 10**9, "max_input_chars_per_word: not between 1 and 1000"),
        (("model", "vocab", "dog"), -1, "model.vocab: an id that is not of 32 bits"),
        (("model", "vocab", "dog"), 2**40, "model.vocab: an id that is not of 32 bits"),
        (("model", "extra"), 1, "tokenizer.json.model: unknown field 'extra'"),
        (("added_tokens", 0, "special"), False, "added_tokens[0] is not a special token"),
        (("post_processor",), None, "post_processor: expected an object with a type"),
        (("post_processor", "single"), [], "post_processor: not special tokens around one prompt"),
        (("post_processor", "single", 0, "SpecialToken", "id"), "[NIX]", "not special tokens around"),
        (("normalizer", "strip_accents"), 3, "normalizer.strip_accents: expected true, false or null"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused_by_name(driver, path, new, message):
    value = json.loads(SHIPPED.read_text("utf-8"))
    path_set(value, path, new)
    (answer,) = driver.lines("tokens", 32, 0, 1, records=[json.dumps(value).encode()])
    assert answer[0] == "7"
    assert message in answer[1]


@pytest.mark.parametrize(("arguments", "message"), [((32, 0, 99999), "no token"), ((2, 0, 1), "no room")])
def test_a_manifest_that_the_tokenizer_cannot_serve_is_refused(driver, arguments, message):
    (answer,) = driver.lines("tokens", *arguments, records=[SHIPPED.read_bytes()])
    assert answer[0] == "7"
    assert message in answer[1]
