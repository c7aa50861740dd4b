"""A bundle's folder: read only when it is exactly what its manifest says, as in Python."""

import hashlib
import os
import shutil

import pytest

from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import TextualVisionError


def flip_byte(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def answers(driver, *folders):
    return driver.lines("bundles", records=[str(folder).encode() for folder in folders])


def by_python(folder):
    try:
        Bundle(folder).verify()
    except TextualVisionError as error:
        return [str(error.exit_code), error.message, error.hint]
    return ["0"]


def test_a_whole_bundle_verifies_and_draws(driver, tiny_bundle, tmp_path):
    (tmp_path / "link.tv").symlink_to(tiny_bundle)
    assert answers(driver, tiny_bundle, tmp_path / "link.tv") == [["0"], ["0"]]


def test_one_bit_changed_in_any_file_is_found(driver, tiny_bundle, tiny_files, tmp_path):
    folders = []
    for name in Bundle(tiny_bundle).manifest.files:
        folders.append(tmp_path / f"changed-{len(folders)}.tv")
        shutil.copytree(tiny_bundle, folders[-1])
        flip_byte(folders[-1] / name, len(tiny_files[name]) // 2)
    for folder, answer in zip(folders, answers(driver, *folders), strict=True):
        assert answer[0] == "7"
        assert answer[1].endswith("its content is not what the manifest promises (SHA-256)")
        assert by_python(folder)[0] == "7"


DAMAGES = {
    "a missing file": lambda root: (root / "MODEL_CARD.md").unlink(),
    "an empty file": lambda root: (root / "onnx/fp32/latent.onnx").write_bytes(b""),
    "a shorter file": lambda root: (root / "tokenizer.json").write_bytes(b"{}"),
    "a longer file": lambda root: (root / "MODEL_CARD.md").write_bytes(b"x" * 2000),
    "an undeclared file": lambda root: (root / "extra.bin").write_bytes(b"x"),
    "an undeclared file in a folder": lambda root: (root / "onnx/fp32/weights.data").write_bytes(b"x"),
    "a file of a strange name": lambda root: (root / "a\n\x1b[31m\u00e9").write_bytes(b"x"),
    "a link to a folder": lambda root: (root / "engines").symlink_to("/etc"),
    "a broken link": lambda root: (root / "extra").symlink_to("nowhere"),
    "a pipe": lambda root: os.mkfifo(root / "extra"),
    "an empty manifest": lambda root: (root / "manifest.json").write_bytes(b""),
    "no manifest": lambda root: (root / "manifest.json").unlink(),
}


@pytest.mark.skipif(os.name != "posix", reason="links and pipes are made as on POSIX")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_gets_the_words_of_python(driver, tiny_bundle, damage):
    DAMAGES[damage](tiny_bundle)
    (answer,) = answers(driver, tiny_bundle)
    expected = by_python(tiny_bundle)
    assert expected != ["0"]
    if "not valid JSON" in expected[1]:
        assert answer[0] == "7"
    else:
        assert answer == expected


@pytest.mark.parametrize("name", ["MODEL_CARD.md", "manifest.json", "golden", "onnx/fp32/latent.onnx"])
def test_a_link_in_place_of_a_file_or_folder_is_refused(driver, tiny_bundle, tmp_path, name):
    path = tiny_bundle / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    (answer,) = answers(driver, tiny_bundle)
    assert answer == by_python(tiny_bundle)
    assert "a link" in answer[1]


@pytest.mark.parametrize("name", ["nowhere", "tiny.tv/MODEL_CARD.md", "tiny.tv/golden"])
def test_what_is_no_bundle_is_a_usage_error(driver, tiny_bundle, name):
    folder = tiny_bundle.parent / name
    (answer,) = answers(driver, folder)
    assert answer[:2] == by_python(folder)[:2]  # Python's hint also speaks of zip archives


def test_folders_nested_deeper_than_a_manifest_lists_are_refused(driver, tiny_bundle):
    (tiny_bundle / "/".join("abcdefghijkl")).mkdir(parents=True)
    (answer,) = answers(driver, tiny_bundle)
    assert answer[0] == "7"
    assert "nested deeper" in answer[1]


def test_a_tokenizer_of_gigabytes_is_refused_before_it_is_read(driver, tiny_bundle, edit_manifest):
    size = 3 << 30
    edit_manifest(lambda manifest: manifest["files"]["tokenizer.json"].update(bytes=size))
    os.truncate(tiny_bundle / "tokenizer.json", size)
    (answer,) = answers(driver, tiny_bundle)
    assert answer[:2] == ["7", "manifest.files.'tokenizer.json'.bytes: not between 0 and 16777216"]


def test_a_signature_and_what_a_file_manager_leaves_behind_are_ignored(driver, tiny_bundle):
    for name in ("signature.json", ".DS_Store", "onnx/Thumbs.db", "desktop.ini", "onnx/fp32/._latent.onnx"):
        (tiny_bundle / name).write_bytes(b"litter")
    assert answers(driver, tiny_bundle) == [["0"]]


def test_other_golden_codes_or_noise_do_not_pass(driver, tiny_files, replace_file):
    golden = tiny_files["golden/golden.json"]
    first = golden.index(b'"noise_bits": ["') + len(b'"noise_bits": ["')
    other = golden[:first] + (b"0" if golden[first : first + 1] != b"0" else b"1") + golden[first + 1 :]
    (answer,) = answers(driver, replace_file("golden/golden.json", other))
    assert answer[0] == "3"
    assert "its noise is another" in answer[1]
    codes = golden.replace(b'"codes": [[', b'"codes": [[9', 1)
    (answer,) = answers(driver, replace_file("golden/golden.json", codes))
    assert answer[0] == "3"
    assert "0.9375 of the codes are equal" in answer[1]


def test_a_bundle_without_golden_pictures_says_so(driver, edit_manifest):
    root = edit_manifest(lambda manifest: manifest.update(golden=None))
    assert answers(driver, root)[0][:2] == ["2", "the bundle has no golden pictures"]


LOOP = {"name": "l", "stages": ["latent"], "steps": 2, "carry": {}, "start": {}}
PLANS = {
    "a stage that needs nothing known": (
        lambda m: m["stages"].reverse(),
        "'generator' needs 'codes', which no stage before it gives",
    ),
    "no pictures": (lambda m: m["stages"].pop(), "no stage gives 'image'"),
    "other noise": (
        lambda m: m["noise"][0].update(shape=[7]),
        "'latent' takes 'noise' not as float32 of its shape",
    ),
    "a recipe from the future": (
        lambda m: m["noise"][0].update(recipe="philox-9"),
        "manifest.noise: unknown recipe 'philox-9'",
    ),
    "a loop over stages that are no neighbors": (
        lambda m: m.update(loops=[{**LOOP, "stages": ["latent", "text_encoder"]}]),
        "loop 'l': its stages do not follow each other",
    ),
    "a loop beyond the last stage": (
        lambda m: m.update(loops=[{**LOOP, "stages": ["generator", "latent"]}]),
        "loop 'l': its stages do not follow each other",
    ),
    "a loop that begins with nothing known": (
        lambda m: m.update(
            loops=[{**LOOP, "carry": {"noise": "codes"}, "start": {"noise": {"tensor": "image"}}}]
        ),
        "'l' needs 'image', which no stage before it gives",
    ),
    "a loop that begins with a number of any length": (
        lambda m: m.update(
            loops=[{**LOOP, "carry": {"text": "codes"}, "start": {"text": {"fill": 0}}, "stages": ["latent"]}]
        ),
        "'text' cannot begin with a number: only its batch may vary",
    ),
    "gray pictures": (lambda m: m["image"].update(channels=1), "pictures of 3 channels"),
    "tokens of another number": (
        lambda m: m["stages"][0]["inputs"][0].update(shape=["batch", 5]),
        "'text_encoder' takes 5 tokens, the text's length varies",
    ),
    "ids as float32": (
        lambda m: m["stages"][0]["inputs"][0].update(dtype="float32"),
        "'text_encoder' takes 'input_ids' not as int64 of its shape",
    ),
    "more tokens than are read": (
        lambda m: m["text"].update(max_tokens=5000),
        "manifest.text.max_tokens: 5000; this library reads at most 4096",
    ),
    "an output of another name": (
        lambda m: m["stages"][0]["outputs"][2].update(name="weights"),
        "text_encoder.onnx: its outputs are not those that the manifest says",
    ),
    "an output of another type": (
        lambda m: m["stages"][0]["outputs"][2].update(dtype="float16"),
        "the tensor 'attention' is not as the manifest says: of another type",
    ),
    "an output of another rank": (
        lambda m: m["stages"][0]["outputs"][2].update(shape=["batch"]),
        "the tensor 'attention' is not as the manifest says: of another number of dimensions",
    ),
    "pictures of another size": (
        lambda m: m["image"].update(height=16),
        "the pictures are not uint8 of 16 x 8",
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_manifest_that_its_graphs_do_not_fit_is_refused(driver, edit_manifest, name):
    change, message = PLANS[name]

    def edit(manifest):
        change(manifest)
        if name == "no pictures":
            del manifest["precisions"]["fp32"]["files"]["generator"]

    (answer,) = answers(driver, edit_manifest(edit))
    assert answer[0] == "7"
    assert message in answer[1]


def test_digests_are_those_of_hashlib(driver):
    records = [bytes(index % 251 for index in range(size)) for size in [*range(140), 1000, 100_000]]
    digests = driver.ask("digests", records=records).decode().split()
    assert digests == [hashlib.sha256(record).hexdigest() for record in records]
