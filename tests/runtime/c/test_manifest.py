"""The C library reads just the manifests that Python reads, and says the same of the others."""

import copy
import json
import random
import re

import loop_model
import pytest

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.manifest import manifest_from_bytes

DELETED = object()
CHANGES = [
    (("schema_version",), 2),
    (("schema_version",), 0),
    (("schema_version",), -5),
    (("schema_version",), 10**30),
    (("schema_version",), 8 << 30),
    (("schema_version",), "1"),
    (("schema_version",), True),
    (("schema_version",), DELETED),
    (("extra",), 1),
    (("ä\n",), 1),
    (("image", "height"), True),
    (("image", "height"), 0),
    (("image", "height"), 1 << 21),
    (("image", "height"), 10**30),
    (("image", "height"), DELETED),
    (("image",), []),
    (("image",), "x" * 100),
    (("image",), "it's"),
    (("image",), "a\"b'c\\\n\r\t\x7f\u00e9\u4e00\U0001f436"),
    (("name",), None),
    (("name",), "\x1b[31m"),
    (("name",), "\u202e"),
    (("name",), "tiny \u00e9\U0001f436"),
    (("name",), 1.5),
    (("license",), "a\u2028b"),
    (("warnings",), ["fine", "x\x00" + "y" * 50]),
    (("warnings",), [1]),
    (("provenance", "torch"), "2\x1b[2J"),
    (("provenance", "a\nb"), "2"),
    (("provenance", "a\nb"), 2),
    (("provenance", "caf\u00e9"), 2),
    (("stages",), []),
    (("stages",), {}),
    (("stages", 0, "inputs", 0, "dtype"), "float8"),
    (("stages", 0, "inputs", 0, "shape"), ["batch", 0]),
    (("stages", 0, "inputs", 0, "shape"), []),
    (("stages", 0, "inputs", 0, "shape", 0), 1.5),
    (("stages", 0, "inputs", 0, "shape", 0), ""),
    (("stages", 0, "inputs", 0, "shape", 0), -1),
    (("stages", 0, "inputs", 0, "name"), "a b"),
    (("stages", 0, "inputs", 0, "name"), "attention_mask"),
    (("stages", 0, "inputs"), []),
    (("stages", 0, "name"), "latent"),
    (("stages", 0, "name"), "-x"),
    (("stages", 0, "name"), "other"),
    (("precisions", "fp32", "verdict"), "good"),
    (("precisions", "fp32", "parity"), [1]),
    (("precisions", "fp32", "parity"), {"a": {"b": [1.5, None, True]}}),
    (("precisions", "fp32", "parity"), DELETED),
    (("precisions", "fp32", "files", "latent"), "../latent.onnx"),
    (("precisions", "fp32", "files", "latent"), DELETED),
    (("precisions", "fp32", "files", "nothing"), "tokenizer.json"),
    (("precisions", "fp32", "files", "a\tb"), "tokenizer.json"),
    (("precisions", "a/b"), {"files": {}, "verdict": "pass"}),
    (("default_precision",), "int8"),
    (("batch", "min"), 9),
    (("batch", "opt"), 0),
    (("text", "pad_id"), -1),
    (("text", "pad_id"), 0),
    (("text", "fixed_length"), 1),
    (("text", "fixed_length"), True),
    (("text", "tokenizer"), "x.json"),
    (("noise", 0, "law"), "normally"),
    (("golden",), "golden.json"),
    (("golden",), None),
    (("golden",), 5),
    (("merged",), None),
    (("merged",), {"name": "m", "inputs": [], "outputs": []}),
    (("merged",), 7),
    (("files", "../x"), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "/etc/x"), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "a/../../x"), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "a//x"), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "x/"), {"sha256": "0" * 64, "bytes": 0}),
    (("files", ""), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "C:\\x"), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "x\n"), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "a" * 100), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "a" * 101), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "/".join("abcdefghij")), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "/".join("abcdefghijk")), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "manifest.json"), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "model_card.md"), {"sha256": "0" * 64, "bytes": 0}),
    (("files", "tokenizer.json", "sha256"), "A" * 64),
    (("files", "tokenizer.json", "sha256"), "0" * 63),
    (("files", "tokenizer.json", "bytes"), -1),
    (("files", "tokenizer.json", "bytes"), 8 << 30),
    (("files", "tokenizer.json", "bytes"), (8 << 30) + 1),
    (("files", "tokenizer.json", "bytes"), 2**64),
    (("engines",), [{"fingerprint": "../x", "precision": "fp32", "files": {}}]),
    (("engines",), [{"fingerprint": "x", "precision": "fp16", "files": {}}]),
    (("engines",), [{"fingerprint": "x", "precision": "fp32", "files": {}}]),
]
LOOP_CHANGES = [
    (("loops",), []),
    (("loops",), {}),
    (("loops", 0), 1),
    (("loops", 1, "name"), "step"),
    (("loops", 1, "name"), "a b"),
    (("loops", 1, "name"), DELETED),
    (("loops", 1, "steps"), 0),
    (("loops", 1, "steps"), 4097),
    (("loops", 1, "steps"), 4),
    (("loops", 1, "steps"), 2**70),
    (("loops", 1, "steps"), 1.0),
    (("loops", 1, "stages"), []),
    (("loops", 1, "stages"), ["nothing"]),
    (("loops", 1, "stages"), ["reader", "step"]),
    (("loops", 1, "stages", 0), 1),
    (("loops", 1, "carry", "nothing"), "next_x"),
    (("loops", 1, "carry", "x"), "nothing"),
    (("loops", 1, "carry", "x"), None),
    (("loops", 1, "carry"), {}),
    (("loops", 1, "start"), {}),
    (("loops", 1, "start", "x"), {}),
    (("loops", 1, "start", "x"), {"tensor": None, "fill": None}),
    (("loops", 1, "start", "x"), {"tensor": "noise", "fill": 0}),
    (("loops", 1, "start", "x"), {"fill": True}),
    (("loops", 1, "start", "x"), {"fill": 2**60}),
    (("loops", 1, "start", "x"), {"fill": -0.0}),
    (("loops", 1, "start", "x"), {"other": 1}),
    (("loops", 1, "start", "time"), {"fill": 1}),
    (("loops", 1, "tables", "x"), [1, 2, 3, 4, 5]),
    (("loops", 1, "tables", "nothing"), [1, 2, 3, 4, 5]),
    (("loops", 1, "tables", "time"), [1, 2, 3, 4]),
    (("loops", 1, "tables", "time"), [1, 2, 3, 4, "5"]),
    (("loops", 1, "tables", "time"), 1),
    (("loops", 1, "tables"), DELETED),
    (("noise", 1, "per_step"), False),
]
NOT_JSON = [
    b"",
    b"\xff",
    b"{",
    b"[" * 100_000,
    b"9" * 5000,
    b"null",
    b"[]",
    b'{"a": NaN}',
    b'{"a": 1e999}',
    b'{"a":1,"a":1}',
    b'{"a":"\\ud800"}',
    b'{"a":"\\udc00\\ud800"}',
    b'{"a":"\n"}',
    b'{"a":01}',
    b'{"a":-}',
    b'{"a":1.}',
    b'{"a":1e}',
    b'{"a":.5}',
    b'{"a":+1}',
    b'{"a":tru}',
    b'{"a":"\\x"}',
    b'{"a":"\\u12g4"}',
    b'{"a":1,}',
    b"{} {}",
    b"\xef\xbb\xbf{}",
]
JSON_TEXTS = [
    "1e5",
    "-0",
    "1E+2",
    "0.5",
    "123456789012345678901234567890",
    "-1e-400",
    '"\\ud83d\\udc36\\u00e9\\/"',
    "[[[]]]",
    '{"": {"": 0}}',
    "true",
    "false",
    "null",
    '"\x7f"',
    "1e308",
    "179769313486231570000e288",
]


def changed(text, path, new):
    value = json.loads(text)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is DELETED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return json.dumps(value).encode()


def by_python(data):
    try:
        manifest_from_bytes(data)
    except IntegrityError as error:
        return [str(error.exit_code), error.message, error.hint]
    return ["0"]


def without_long_texts(answer):
    """C cuts a quoted text at 40 characters, Python at various lengths; C shows a number as it is written."""
    answer = [re.sub(r"found -?[0-9].*", "found a number", field) for field in answer]
    return [re.sub(r"(['\"])(.{35})[^:]*", r"\1\2", field) for field in answer]


@pytest.fixture(scope="session")
def text(tiny_files):
    return tiny_files["manifest.json"]


def test_a_wrong_field_gets_the_words_of_python(driver, text):
    records = [changed(text, path, new) for path, new in CHANGES]
    answers = driver.lines("manifests", records=records)
    expected = [by_python(record) for record in records]
    assert sum(answer == ["0"] for answer in expected) > 5
    for change, answer, by in zip(CHANGES, answers, expected, strict=True):
        assert without_long_texts(answer) == without_long_texts(by), change


@pytest.fixture(scope="session")
def loop_text(text):
    """A manifest with loops, whose files need not be there."""
    manifest = json.loads(text)
    loop_model.declare_loops(manifest)
    for name in loop_model.STAGES:
        manifest["files"][f"onnx/fp32/{name}.onnx"] = {"sha256": "0" * 64, "bytes": 1}
    return json.dumps(manifest).encode()


def test_a_wrong_loop_gets_the_words_of_python(driver, loop_text):
    records = [loop_text, *(changed(loop_text, path, new) for path, new in LOOP_CHANGES)]
    answers = driver.lines("manifests", records=records)
    expected = [by_python(record) for record in records]
    assert expected[0] == ["0"]
    assert sum(answer == ["0"] for answer in expected) == 5
    for change, answer, by in zip([None, *LOOP_CHANGES], answers, expected, strict=True):
        assert without_long_texts(answer) == without_long_texts(by), change


def test_what_is_not_json_is_refused(driver):
    for record, answer in zip(NOT_JSON, driver.lines("manifests", records=NOT_JSON), strict=True):
        assert by_python(record)[0] == answer[0] == "7", record


def test_json_is_read_as_in_python(driver, text):
    """Any value may stand in a precision's parity."""
    records = [text.replace(b'"codes": 1.0', f'"codes": {value}'.encode()) for value in JSON_TEXTS]
    assert all(record != text for record in records)
    for value, record, answer in zip(
        JSON_TEXTS, records, driver.lines("manifests", records=records), strict=True
    ):
        assert answer == by_python(record) == ["0"], value


def places(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutants(text, count, seed):
    """The manifest with a value replaced, deleted or moved, or with bytes changed."""
    rng = random.Random(seed)
    everywhere = list(places(json.loads(text)))
    values = [
        None,
        True,
        0,
        -1,
        1,
        2**31,
        2**63,
        2**64,
        1.5,
        "",
        "x",
        "fp32",
        "../x",
        [],
        {},
        [1],
        {"a": 1},
        "\x00",
    ]
    for _ in range(count):
        if rng.random() < 0.5:
            value = json.loads(text)
            place = rng.choice(everywhere)
            other = json.loads(changed(text, place, rng.choice(values)))
            yield json.dumps(rng.choice((value, other)) if rng.random() < 0.02 else other).encode()
            continue
        data = bytearray(copy.copy(text))
        for _ in range(rng.choice((1, 1, 3))):
            start = rng.randrange(len(data))
            data[start : start + rng.choice((0, 1, 1, 8))] = rng.choice(
                [bytes([rng.randrange(256)]), b'"', b"{", b"]", b"1", b"\\u0000", b"", b"e9"]
            )
        yield bytes(data)


@pytest.mark.parametrize("count", [600, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damaged_manifests_are_read_or_refused_as_in_python(sanitized_driver, text, loop_text, count):
    records = [*mutants(text, count, 0), *mutants(loop_text, count, 1)]
    answers = sanitized_driver.lines("manifests", records=records)
    for record, answer in zip(records, answers, strict=True):
        expected = by_python(record)
        if expected == ["0"] and "this library" in " ".join(answer):  # Python runs more than C does
            continue
        assert answer[0] == expected[0], (record, answer, expected)
        if expected[0] != "0" and "not valid JSON" not in expected[1]:
            assert without_long_texts(answer) == without_long_texts(expected)
