"""A bundle draws the same from wherever it lies; archives are read as strictly as folders."""

import importlib.resources
import io
import sys
import zipfile

import numpy as np
import pytest

from textual_vision.runtime import Bundle, IntegrityError, TextToImage, UsageError

LINK_MODE = 0o120777 << 16


def zip_bytes(files, prefix="", **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", options.get("method", zipfile.ZIP_DEFLATED)) as archive:
        for name, data in files.items():
            archive.writestr(f"{prefix}{name}", data)
    return buffer.getvalue()


@pytest.fixture
def dog(tiny_bundle):
    return TextToImage.load(tiny_bundle)("dog", seed=3)


@pytest.mark.parametrize("prefix", ["", "tiny.tv/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_archive_draws_the_same(dog, tiny_files, tmp_path, prefix, method):
    data = zip_bytes({**tiny_files, ".DS_Store": b"litter"}, prefix, method=method)
    (tmp_path / "tiny.zip").write_bytes(data)
    for source in (data, tmp_path / "tiny.zip", str(tmp_path / "tiny.zip")):
        with TextToImage.load(source) as model:
            model.bundle.verify()
            assert np.array_equal(model("dog", seed=3), dog)


def test_a_zip_archive_is_isolated_by_its_path(dog, tiny_files, tmp_path):
    (tmp_path / "tiny.zip").write_bytes(zip_bytes(tiny_files))
    with TextToImage.load(tmp_path / "tiny.zip", isolated=True) as model:
        assert np.array_equal(model("dog", seed=3), dog)
    with pytest.raises(UsageError, match="a zip archive in memory is no folder"):
        TextToImage.load(zip_bytes(tiny_files), isolated=True)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_package_carries_a_bundle(dog, tiny_files, tmp_path, monkeypatch, zipped):
    files = {f"toy_app/tiny.tv/{name}": data for name, data in tiny_files.items()}
    files["toy_app/__init__.py"] = b""
    place = tmp_path / "site"
    if zipped:
        place.write_bytes(zip_bytes(files))
    else:
        zipfile.ZipFile(io.BytesIO(zip_bytes(files))).extractall(place)
    monkeypatch.syspath_prepend(str(place))
    model = TextToImage.load(importlib.resources.files("toy_app") / "tiny.tv")
    assert np.array_equal(model("dog", seed=3), dog)
    del sys.modules["toy_app"]


def test_an_archive_without_a_manifest_is_no_bundle():
    with pytest.raises(UsageError, match="it has no manifest"):
        Bundle(zip_bytes({"a.txt": b"x"}))


def test_a_file_that_the_manifest_does_not_list_is_refused_in_an_archive(tiny_files):
    with pytest.raises(IntegrityError, match="not in the manifest"):
        Bundle(zip_bytes({**tiny_files, "../evil": b"x"}))


def test_links_are_refused_in_an_archive(tiny_files):
    buffer = io.BytesIO(zip_bytes(tiny_files))
    with zipfile.ZipFile(buffer, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = LINK_MODE
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(IntegrityError, match="a link or not a plain file"):
        Bundle(buffer.getvalue())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused_in_an_archive(tiny_files):
    buffer = io.BytesIO(zip_bytes(tiny_files))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("tokenizer.json", b"{}")
    with pytest.raises(IntegrityError, match="twice in the archive"):
        Bundle(buffer.getvalue())


def test_a_damaged_archive_is_an_error_of_ours_wherever_the_damage_is(tiny_files):
    data = zip_bytes(tiny_files)
    for place in range(0, len(data), 211):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        try:
            Bundle(bytes(damaged)).verify()
        except (IntegrityError, UsageError):
            continue
        assert zipfile.ZipFile(io.BytesIO(damaged)).testzip() is None
