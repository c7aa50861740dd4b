"""Which bundles are trusted: those that were built or trusted by this user on this machine."""

import os
import stat

import pytest

from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.isolation import trusted
from textual_vision.runtime.isolation.trusted import is_trusted, trust, trust_written

FIRST, SECOND = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "promptsprite"


def test_a_bundle_is_unknown_until_it_is_trusted():
    assert not is_trusted(FIRST)
    assert trust(FIRST)
    assert is_trusted(FIRST)
    assert not is_trusted(SECOND)
    assert not is_trusted(FIRST[:-1])


def test_trusting_twice_is_recorded_once_for_this_user_alone(folder):
    trust(FIRST)
    trust(SECOND)
    trust(FIRST)
    path = folder / trusted.FILE_NAME
    assert path.read_text() == f"{FIRST}\n{SECOND}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_record_does_not_grow_for_ever(folder, monkeypatch):
    monkeypatch.setattr(trusted, "FILE_LIMIT_BYTES", 650)
    digests = [f"{number:064d}" for number in range(30)]
    for digest in digests:
        trust(digest)
    assert (folder / trusted.FILE_NAME).stat().st_size <= 650 + 65
    assert is_trusted(digests[-1])
    assert not is_trusted(digests[0])


def test_a_bundle_that_this_process_has_written_is_trusted_until_it_changes(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    trust_written(bundle.manifest)
    assert is_trusted(Bundle(tiny_bundle).digest)
    path = tiny_bundle / "manifest.json"
    path.write_text(path.read_text("utf-8").replace('"name": "tiny"', '"name": "tinier"'), "utf-8")
    assert not is_trusted(Bundle(tiny_bundle).digest)


def test_a_user_without_a_home_trusts_nothing(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert not trust(FIRST)
    assert not is_trusted(FIRST)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_no_obstacle_to_a_build(folder, tiny_bundle):
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    trust_written(Bundle(tiny_bundle).manifest)
    assert not is_trusted(Bundle(tiny_bundle).digest)
