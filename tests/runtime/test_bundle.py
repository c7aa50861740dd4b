"""A bundle's folder: read only when it is exactly what its manifest says."""

import os
import tracemalloc

import pytest

from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.pipeline import TextToImage


def flip_byte(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_whole_bundle_verifies_and_reads(tiny_bundle, tiny_files):
    bundle = Bundle(tiny_bundle)
    bundle.verify()
    assert bundle.read("tokenizer.json") == tiny_files["tokenizer.json"]


def test_one_bit_changed_in_any_file_is_found(tiny_bundle, tiny_files):
    bundle = Bundle(tiny_bundle)
    for name in bundle.manifest.files:
        flip_byte(tiny_bundle / name, len(tiny_files[name]) // 2)
        with pytest.raises(IntegrityError, match=name):
            Bundle(tiny_bundle).verify()
        (tiny_bundle / name).write_bytes(tiny_files[name])
    bundle.verify()


@pytest.mark.parametrize("name", ["tokenizer.json", "onnx/fp32/latent.onnx"])
def test_nothing_is_drawn_with_a_changed_file(tiny_bundle, name):
    flip_byte(tiny_bundle / name, 20)
    with pytest.raises(IntegrityError, match=name):
        TextToImage.load(tiny_bundle)


@pytest.mark.parametrize("size", [0, 10])
def test_a_truncated_file_is_found_on_opening(tiny_bundle, size):
    path = tiny_bundle / "onnx/fp32/latent.onnx"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(IntegrityError, match=rf"latent\.onnx: {size} bytes"):
        Bundle(tiny_bundle)


def test_a_missing_file_is_named(tiny_bundle):
    (tiny_bundle / "MODEL_CARD.md").unlink()
    with pytest.raises(IntegrityError, match=r"MODEL_CARD\.md: missing"):
        Bundle(tiny_bundle)


@pytest.mark.parametrize("name", ["extra.bin", "onnx/fp32/weights.data", "onnx/int8/latent.onnx"])
def test_a_file_that_the_manifest_does_not_list_is_refused(tiny_bundle, name):
    (tiny_bundle / name).parent.mkdir(exist_ok=True)
    (tiny_bundle / name).write_bytes(b"x")
    with pytest.raises(IntegrityError, match="not in the manifest"):
        Bundle(tiny_bundle)


def test_folders_in_folders_are_not_followed_for_ever(tiny_bundle):
    deep = tiny_bundle / "/".join("abcdefghijklm")
    deep.mkdir(parents=True)
    with pytest.raises(IntegrityError, match="folders deeper than 10"):
        Bundle(tiny_bundle)


def test_a_link_in_place_of_a_file_is_refused_even_when_it_leads_to_the_same_bytes(tiny_bundle, tmp_path):
    path = tiny_bundle / "MODEL_CARD.md"
    path.rename(tmp_path / "elsewhere.md")
    path.symlink_to(tmp_path / "elsewhere.md")
    with pytest.raises(IntegrityError, match="a link"):
        Bundle(tiny_bundle)


def test_a_link_put_there_after_opening_is_not_followed(tiny_bundle, tmp_path):
    bundle = Bundle(tiny_bundle)
    path = tiny_bundle / "MODEL_CARD.md"
    path.rename(tmp_path / "elsewhere.md")
    path.symlink_to(tmp_path / "elsewhere.md")
    with pytest.raises(IntegrityError, match=r"MODEL_CARD\.md"):
        bundle.read("MODEL_CARD.md")


def test_a_linked_folder_is_refused(tiny_bundle, tmp_path):
    (tiny_bundle / "golden").rename(tmp_path / "golden")
    (tiny_bundle / "golden").symlink_to(tmp_path / "golden")
    with pytest.raises(IntegrityError, match="a link"):
        Bundle(tiny_bundle)


def test_a_linked_manifest_is_refused(tiny_bundle, tmp_path):
    (tiny_bundle / "manifest.json").rename(tmp_path / "m.json")
    (tiny_bundle / "manifest.json").symlink_to(tmp_path / "m.json")
    with pytest.raises(IntegrityError, match="a link"):
        Bundle(tiny_bundle)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_and_not_waited_for(tiny_bundle):
    (tiny_bundle / "MODEL_CARD.md").unlink()
    os.mkfifo(tiny_bundle / "MODEL_CARD.md")
    with pytest.raises(IntegrityError, match="not a plain file"):
        Bundle(tiny_bundle)


def test_the_bundle_itself_may_be_reached_by_a_link(tiny_bundle, tmp_path):
    (tmp_path / "link.tv").symlink_to(tiny_bundle)
    bundle = Bundle(tmp_path / "link.tv")
    bundle.verify()
    assert bundle.manifest == Bundle(tiny_bundle).manifest


@pytest.mark.parametrize("name", ["nowhere", "tiny.tv/MODEL_CARD.md", "tiny.tv/golden"])
def test_what_is_no_bundle_is_a_usage_error(tiny_bundle, name):
    with pytest.raises(UsageError):
        Bundle(tiny_bundle.parent / name)


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "onnx/desktop.ini", "golden/._00.png"])
def test_what_a_file_manager_leaves_in_a_folder_is_ignored(tiny_bundle, name):
    (tiny_bundle / name).write_bytes(b"x")
    Bundle(tiny_bundle).verify()


def test_a_link_is_refused_whatever_its_name(tiny_bundle):
    (tiny_bundle / ".DS_Store").symlink_to(tiny_bundle / "MODEL_CARD.md")
    with pytest.raises(IntegrityError, match="a link"):
        Bundle(tiny_bundle)


@pytest.mark.parametrize(
    ("name", "size"),
    [("tokenizer.json", 3 << 30), ("onnx/fp32/latent.onnx", 1 << 31), ("golden/00.png", 1 << 27)],
)
def test_a_file_larger_than_its_kind_may_be_is_refused_unread(edit_manifest, name, size):
    root = edit_manifest(lambda manifest: manifest["files"][name].update(bytes=size))
    os.truncate(root / name, size)  # sparse
    with pytest.raises(IntegrityError, match=rf"files\.'{name}'\.bytes: not between"):
        Bundle(root)


def test_a_file_with_another_digest_is_not_read_whole(tiny_bundle, edit_manifest):
    size = 12 << 20
    root = edit_manifest(lambda manifest: manifest["files"]["tokenizer.json"].update(bytes=size))
    os.truncate(root / "tokenizer.json", size)
    bundle = Bundle(root)
    tracemalloc.start()
    with pytest.raises(IntegrityError, match="SHA-256"):
        bundle.read("tokenizer.json")
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < size / 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_put_there_after_opening_is_not_waited_for(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    (tiny_bundle / "MODEL_CARD.md").unlink()
    os.mkfifo(tiny_bundle / "MODEL_CARD.md")
    with pytest.raises(IntegrityError, match=r"MODEL_CARD\.md: 0 bytes"):
        bundle.read("MODEL_CARD.md")
