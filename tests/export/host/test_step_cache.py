"""Results of steps are kept by what they depend on, and an interrupted build goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from textual_vision.export.host import step_cache as steps_module
from textual_vision.export.host.step_cache import StepCache, default_cache, digest_of, unzip_bytes, zip_bytes
from textual_vision.runtime.errors import UsageError


def test_a_step_is_done_once_for_the_same_input_and_again_for_another(tmp_path: Path) -> None:
    done: list[int] = []

    def work() -> bytes:
        done.append(1)
        return b"result"

    assert StepCache(tmp_path).run("s", ["a", b"graph"], work) == b"result"
    again = StepCache(tmp_path)
    assert again.run("s", ["a", b"graph"], work) == b"result"
    assert (len(done), again.timings[0].cached) == (1, True)
    again.run("s", ["a", b"another graph"], work)
    again.run("t", ["a", b"graph"], work)
    assert len(done) == 3


def test_a_kept_result_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    StepCache(tmp_path).run("s", 1, lambda: b"result")
    (kept,) = tmp_path.iterdir()
    for damaged in (kept.read_bytes()[:-1], b"", kept.read_bytes()[:-1] + b"T"):
        kept.write_bytes(damaged)
        again = StepCache(tmp_path)
        assert again.run("s", 1, lambda: b"result") == b"result"
        assert not again.timings[0].cached
    assert StepCache(tmp_path).run("s", 1, lambda: b"unused") == b"result"


def test_a_cache_that_cannot_be_written_says_how_to_do_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be kept in .*file") as caught:
        StepCache(tmp_path / "file" / "steps").run("s", 1, lambda: b"result")
    assert "--no-cache" in caught.value.hint


def test_what_another_build_prunes_meanwhile_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StepCache(tmp_path).run("s", 1, lambda: b"result")
    found = [*tmp_path.iterdir(), tmp_path / "gone"]
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(found))
    monkeypatch.setattr(steps_module, "CACHE_LIMIT_BYTES", 0)
    StepCache(tmp_path).prune()
    assert not found[0].exists()


def test_a_step_that_fails_keeps_nothing(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StepCache(tmp_path).run("s", 1, fail)
    assert list(tmp_path.iterdir()) == []


def test_without_a_cache_everything_is_done(tmp_path: Path) -> None:
    steps = StepCache(None)
    assert steps.run("s", 1, lambda: b"1") == b"1"
    assert steps.run("s", 1, lambda: b"2") == b"2"


def test_the_least_recently_used_results_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = StepCache(tmp_path)
    for index in range(3):
        steps.run("s", index, lambda: b"x" * 10)
    for age, file in enumerate(sorted(tmp_path.iterdir())):
        os.utime(file, (age, age))
    oldest = sorted(tmp_path.iterdir())[0]
    monkeypatch.setattr(steps_module, "CACHE_LIMIT_BYTES", 95)  # each is 10 and its digest
    steps.prune()
    assert len(list(tmp_path.iterdir())) == 2 and not oldest.exists()


def test_what_is_packed_comes_back_and_does_not_depend_on_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"a.onnx": b"\x00\x01", "b/c": b""}
    before = zip_bytes(files)
    assert unzip_bytes(before) == files
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    assert zip_bytes(files) == before


def test_a_digest_sees_bytes_by_their_content_and_refuses_what_it_cannot_see() -> None:
    assert digest_of([b"a"]) == digest_of([b"a"]) != digest_of([b"b"])
    with pytest.raises(TypeError, match="set"):
        digest_of({1})


def test_the_cache_follows_the_systems_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/promptsprite/export")
