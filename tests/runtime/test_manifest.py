"""manifest.json: a round trip byte for byte, and nothing but IntegrityError from a wrong one."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.runtime.errors import IntegrityError
from textual_vision.runtime.manifest import bytes_from_manifest, manifest_from_bytes

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="session")
def text(tiny_files):
    return tiny_files["manifest.json"]


def places(value, path=()):
    """The path to every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(text, path, new):
    value = json.loads(text)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return json.dumps(value).encode()


def test_what_is_written_is_read_back_and_written_the_same(text):
    manifest = manifest_from_bytes(text)
    assert bytes_from_manifest(manifest) == text
    assert manifest.stages[1].inputs[2].shape == ("batch", 6)


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        (("schema_version",), 2, "manifest.schema_version: this runtime reads 1, the bundle has 2"),
        (("schema_version",), "1", "manifest.schema_version: expected an integer, found '1'"),
        (("extra",), 1, "manifest: unknown field 'extra'"),
        (("image", "height"), True, "manifest.image.height: expected an integer, found True"),
        (("image", "height"), 0, "manifest.image.height: not between 1 and 1048576"),
        (("name",), None, "manifest.name: expected a string, found None"),
        (("name",), "\x1b[31m", "characters that cannot be printed"),
        (("name",), "x" * 101, "manifest.name: not between 1 and 100 characters"),
        (("warnings",), ["w"] * 21, "manifest.warnings: more than 20 warnings"),
        (("text", "tokenizer"), "MODEL_CARD.md", "manifest.text.tokenizer: not a .json file"),
        (("provenance", "torch"), "2\x1b[2J", "characters that cannot be printed"),
        (("provenance", "a\nb"), "2", "characters that cannot be printed"),
        (("stages",), [], "manifest.stages: empty"),
        (
            ("stages", 0, "inputs", 0, "dtype"),
            "float8",
            "manifest.stages.'text_encoder'.inputs.'input_ids'.dtype",
        ),
        (("stages", 0, "inputs", 0, "shape"), ["batch", 0], "'input_ids'.shape"),
        (("stages", 0, "inputs", 0, "shape", 0), 1.5, "shape[0]: expected int or str"),
        (("stages", 1, "outputs", 0, "limit"), 0, "limit: not between 1 and"),
        (("stages", 0, "outputs", 1, "limit"), 4, "limit: only integers have one"),
        (("precisions", "fp32", "verdict"), "good", "manifest.precisions.'fp32'.verdict"),
        (("precisions", "fp32", "files", "latent"), "../latent.onnx", "'fp32'.files.latent: not among"),
        (("default_precision",), "int8", "manifest.default_precision"),
        (("batch", "min"), 9, "manifest.batch: min <= opt <= max does not hold"),
        (("golden",), "golden.json", "manifest.golden"),
        (("files", "../x"), {"sha256": "0" * 64, "bytes": 0}, "manifest.files.'../x'"),
        (("files", "/etc/x"), {"sha256": "0" * 64, "bytes": 0}, "manifest.files.'/etc/x'"),
        (("files", "a/../../x"), {"sha256": "0" * 64, "bytes": 0}, "not a relative path"),
        (("files", "a//x"), {"sha256": "0" * 64, "bytes": 0}, "not a relative path"),
        (("files", "C:\\x"), {"sha256": "0" * 64, "bytes": 0}, "not a relative path"),
        (("files", "manifest.json"), {"sha256": "0" * 64, "bytes": 0}, "cannot list itself"),
        (("files", "model_card.md"), {"sha256": "0" * 64, "bytes": 0}, "upper and lower case"),
        (("files", "tokenizer.json", "sha256"), "A" * 64, "sha256"),
        (("files", "tokenizer.json", "bytes"), -1, "bytes"),
        (("files", "tokenizer.json", "bytes"), 2**60, "bytes"),
        (("engines",), [{"fingerprint": "../x", "precision": "fp32", "files": {}}], "fingerprint"),
    ],
)
def test_a_wrong_field_is_named(text, path, new, message):
    with pytest.raises(IntegrityError) as caught:
        manifest_from_bytes(changed(text, path, new))
    assert message in caught.value.message
    assert caught.value.hint


def test_each_field_is_needed_unless_it_has_a_default(text):
    declared = {"text", "labels", "parameters", "loops"}
    optional = {"merged", "golden", "engines", "warnings", *declared}
    for name in json.loads(text):
        value = json.loads(text)
        del value[name]
        if name in optional:
            manifest_from_bytes(json.dumps(value).encode())
        else:
            with pytest.raises(IntegrityError, match=f"'{name}' is missing"):
                manifest_from_bytes(json.dumps(value).encode())


@pytest.mark.parametrize(
    "data",
    [
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
    ],
)
def test_what_is_not_json_is_refused(data):
    with pytest.raises(IntegrityError):
        manifest_from_bytes(data)


@given(st.binary(max_size=60))
def test_any_bytes_give_nothing_but_an_integrity_error(data):
    with pytest.raises(IntegrityError):
        manifest_from_bytes(data)


@given(st.data())
def test_any_value_anywhere_is_read_or_refused(text, data):
    path = data.draw(st.sampled_from(list(places(json.loads(text)))))
    broken = changed(text, path, data.draw(JSON_VALUES))
    try:
        manifest = manifest_from_bytes(broken)
    except IntegrityError as error:
        assert "\n" not in error.message
    else:
        assert manifest_from_bytes(bytes_from_manifest(manifest)) == manifest


@given(st.data())
def test_any_byte_changed_is_read_or_refused(text, data):
    broken = bytearray(copy.copy(text))
    broken[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        manifest_from_bytes(bytes(broken))
    except IntegrityError as error:
        assert error.exit_code == 7
