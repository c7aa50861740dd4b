"""Entries are whole and as they were written, or they are not found; together they stay within a limit."""

import os
import time

import pytest

from textual_vision.runtime.graph_cache import entries
from textual_vision.runtime.graph_cache.entries import GraphCache, key_from, size_of

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return GraphCache()


def write(cache, key, size=100):
    with cache.writing(key) as folder:
        (folder / "0.onnx").write_bytes(b"x" * size)
        (folder / "0.weights").write_bytes(b"y")


def test_an_entry_is_found_under_its_key_alone(cache):
    assert cache.find("a") is None
    write(cache, "a")
    entry = cache.find("a")
    assert (entry / "0.onnx").read_bytes() == b"x" * 100
    assert cache.find("b") is None
    assert size_of(entry) > 101


def change(entry):
    (entry / "0.onnx").write_bytes(b"z" * 100)


def shorten(entry):
    (entry / "0.onnx").write_bytes(b"")


def add(entry):
    (entry / "1.onnx").write_bytes(b"")


def drop(entry):
    (entry / "0.weights").unlink()


def link(entry):
    (entry / "0.onnx").rename(entry.parent / "elsewhere")
    (entry / "0.onnx").symlink_to(entry.parent / "elsewhere")


def spoil(entry):
    (entry / "entry.json").write_bytes(b'{"schema_version": 1}')


@pytest.mark.parametrize("damage", [change, shorten, add, drop, link, spoil])
def test_a_damaged_entry_is_not_found_and_is_removed(cache, damage):
    write(cache, "a")
    damage(cache.folder / "a")
    assert cache.find("a") is None
    assert not (cache.folder / "a").exists()


def test_an_entry_that_fails_half_way_leaves_nothing(cache):
    with pytest.raises(ZeroDivisionError), cache.writing("a") as folder:
        (folder / "0.onnx").write_bytes(b"x")
        raise ZeroDivisionError
    assert list(cache.folder.iterdir()) == []


def test_of_two_processes_that_write_one_entry_the_first_wins(cache):
    with cache.writing("a") as folder:
        (folder / "0.onnx").write_bytes(b"late")
        write(cache, "a")
    assert (cache.find("a") / "0.onnx").read_bytes() == b"x" * 100
    assert [one.name for one in cache.folder.iterdir()] == ["a"]


def test_the_entries_that_were_used_longest_ago_give_way(cache, monkeypatch):
    for age, key in enumerate("abc"):
        write(cache, key, 1000)
        os.utime(cache.folder / key / "entry.json", (1000 + age, 1000 + age))
    assert cache.find("a")  # its time is now
    monkeypatch.setattr(entries, "LIMIT_BYTES", 4000)
    write(cache, "d", 1000)
    assert sorted(one.name for one in cache.folder.iterdir()) == ["a", "c", "d"]


def test_an_entry_above_the_limit_is_not_kept(cache, monkeypatch):
    monkeypatch.setattr(entries, "LIMIT_BYTES", 50)
    write(cache, "a")
    assert list(cache.folder.iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_an_hour(cache):
    left, fresh = cache.folder / ".part-left", cache.folder / ".part-fresh"
    left.mkdir()
    fresh.mkdir()
    os.utime(left, (0, time.time() - 3700))
    write(cache, "a")
    assert sorted(one.name for one in cache.folder.iterdir()) == [".part-fresh", "a"]


def test_a_key_depends_on_every_value():
    keys = {key_from({"bundle": "1", "library": "1"}), key_from({"bundle": "2", "library": "1"})}
    assert len(keys | {key_from({"bundle": "1", "library": "2"})}) == 3
