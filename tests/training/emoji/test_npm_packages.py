"""Packages come through npm, and what comes is checked."""

from __future__ import annotations

import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from textual_vision.runtime.errors import BackendMissingError, IntegrityError
from textual_vision.training.emoji.npm_packages import ALL_PACKAGES, fetch_packages

TinyPackages = Any  # made in conftest.py


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a program `npm` alone on the PATH: a Python script that is given as text."""

    def install(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "npm"
        program.write_text(f"#!{sys.executable}\nimport pathlib, shutil, sys\n{script}")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder))

    return install


def test_a_package_is_fetched_once_and_kept(tiny_packages: TinyPackages, tmp_path: Path, npm: Any) -> None:
    package, log = tiny_packages.text, tmp_path / "log"
    npm(
        f"open({str(log)!r}, 'a').write(' '.join(sys.argv[1:3]) + '\\n')\n"
        f"shutil.copy({str(tiny_packages.folder / package.file_name)!r}, sys.argv[-1])"
    )
    said: list[str] = []
    for _ in range(2):
        fetch_packages(tmp_path / "cache", (package,), progress=said.append)
    assert log.read_text() == "pack emojibase-data@1.0.0\n"
    assert said == ["fetching emojibase-data@1.0.0"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [package.file_name]


def test_without_npm_the_error_names_the_way_out(
    tiny_packages: TinyPackages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(BackendMissingError, match="npm is not installed") as caught:
        fetch_packages(tmp_path / "cache", (tiny_packages.text,))
    assert "npm pack emojibase-data@1.0.0" in caught.value.hint
    assert "--packages" in caught.value.hint


def test_packages_that_are_there_already_need_no_npm(
    tiny_packages: TinyPackages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    before = sorted(tiny_packages.folder.rglob("*"))
    fetch_packages(tiny_packages.folder, (*tiny_packages.art, tiny_packages.text))
    assert before and sorted(tiny_packages.folder.rglob("*")) == before


def test_what_npm_complains_about_is_passed_on_and_nothing_is_left(
    tiny_packages: TinyPackages, tmp_path: Path, npm: Any
) -> None:
    npm("print('npm ERR! 404 not found', file=sys.stderr); sys.exit(1)")
    with pytest.raises(BackendMissingError, match=r"fetch emojibase-data@1\.0\.0: npm ERR! 404"):
        fetch_packages(tmp_path / "cache", (tiny_packages.text,))
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_digest_than_the_pinned_one_is_refused(tiny_packages: TinyPackages) -> None:
    package = replace(tiny_packages.text, sha256="0" * 64)
    with pytest.raises(IntegrityError, match="expected 0000000000000000") as caught:
        fetch_packages(tiny_packages.folder, (package,))
    assert "delete it" in caught.value.hint


def test_a_tarball_is_called_what_npm_calls_it() -> None:
    names = {package.name: package.file_name for package in ALL_PACKAGES}
    assert names["@iconify-json/noto"] == "iconify-json-noto-1.2.9.tgz"
    assert names["emojibase-data"] == "emojibase-data-17.0.0.tgz"


def test_every_package_is_pinned_by_its_digest() -> None:
    assert all(len(package.sha256) == 64 for package in ALL_PACKAGES)
    assert len({package.sha256 for package in ALL_PACKAGES}) == len(ALL_PACKAGES) == 9
