"""The cache's folder is this user's alone, or it is not used."""

import os

import pytest

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.graph_cache.private_folder import private_cache_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
    home = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


def test_the_folder_is_made_for_its_user_alone(cache_home):
    folder = private_cache_folder()
    assert folder == cache_home / "promptsprite" / "graphs"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_cache_folder() == folder


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_may_enter_is_refused(cache_home, mode):
    private_cache_folder().chmod(mode)
    with pytest.raises(UsageError, match="not yours alone"):
        private_cache_folder()


def test_a_folder_below_one_that_others_may_write_to_is_refused(cache_home):
    private_cache_folder()
    cache_home.chmod(0o777)
    with pytest.raises(UsageError, match="others may write"):
        private_cache_folder()
    cache_home.chmod(0o1777)  # there nobody can rename what belongs to another
    assert private_cache_folder().is_dir()


def test_the_folder_of_another_user_is_refused(cache_home, monkeypatch):
    private_cache_folder()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UsageError, match="not yours alone"):
        private_cache_folder()


def test_a_link_is_followed_to_a_folder_that_is_checked(cache_home, tmp_path):
    (cache_home / "promptsprite").mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    (cache_home / "promptsprite" / "graphs").symlink_to(tmp_path / "shared")
    with pytest.raises(UsageError, match="not yours alone"):
        private_cache_folder()


def test_a_place_that_is_no_folder_is_refused(cache_home):
    cache_home.write_text("a file")
    with pytest.raises(UsageError, match="cache"):
        private_cache_folder()


def test_a_user_without_a_home_has_no_folder(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", _no_home)
    with pytest.raises(UsageError, match="no home"):
        private_cache_folder()


def _no_home():
    raise RuntimeError("no home")
