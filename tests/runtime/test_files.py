"""Files are written whole or not at all."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from textual_vision.runtime.files import replace_folder, sha256_of_file, write_atomic


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    write_atomic(tmp_path / "a.bin", b"old")
    write_atomic(tmp_path / "a.bin", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_it_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    write_atomic(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_many_threads_change_nobodys_permissions(tmp_path):
    mask, interval = os.umask(0o022), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: write_atomic(tmp_path / str(name), b""), range(2000)))
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
    finally:
        sys.setswitchinterval(interval)
        assert os.umask(mask) == 0o022


def test_parts_follow_each_other(tmp_path):
    write_atomic(tmp_path / "a", b"one", b"", b" two", fsync=False)
    assert (tmp_path / "a").read_bytes() == b"one two"


def test_a_failure_leaves_nothing_and_names_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "inside").write_bytes(b"")
    with pytest.raises(OSError, match="directory") as caught:
        write_atomic(tmp_path / "a", b"data")
    assert caught.value.filename == str(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_digest_is_sha_256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_a_finished_folder_replaces_the_older_one(tmp_path):
    fresh, folder = folder_of(tmp_path / "fresh", "new"), folder_of(tmp_path / "folder", "old")
    replace_folder(fresh, folder)
    assert (folder / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_replacement_that_fails_half_way_puts_the_older_folder_back(tmp_path):
    folder = folder_of(tmp_path / "folder", "old")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "missing", folder)
    assert (folder / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def folder_of(folder, text):
    folder.mkdir()
    (folder / "file").write_text(text)
    return folder
