"""A bundle's folder is written whole or stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from textual_vision.export.bundle.writer import check_place, write_bundle
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import UsageError


def rewrite(place: Path) -> None:
    """Writes the bundle at `place` again, with another notice."""
    bundle = Bundle(place)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    write_bundle(place, bundle.manifest, {**files, "NOTICE": b"another"})


def test_the_old_bundle_comes_back_when_the_new_one_cannot_take_its_place(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise KeyboardInterrupt
        return rename(self, target)

    before = (tiny_bundle / "manifest.json").read_bytes()
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(KeyboardInterrupt):
        rewrite(tiny_bundle)
    assert (tiny_bundle / "manifest.json").read_bytes() == before
    assert [path.name for path in tiny_bundle.parent.iterdir()] == [tiny_bundle.name]


def test_a_bundle_is_replaced_from_inside_its_own_folder(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_bundle)
    check_place(Path(), force=True)
    rewrite(Path())
    assert Bundle(tiny_bundle).read("NOTICE") == b"another"
    assert [path.name for path in tiny_bundle.parent.iterdir()] == [tiny_bundle.name]


def test_a_link_to_a_bundle_stays_and_the_bundle_is_replaced(tiny_bundle: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.tv"
    link.parent.mkdir()
    link.symlink_to(tiny_bundle)
    rewrite(link)
    assert link.is_symlink()
    assert Bundle(tiny_bundle).read("NOTICE") == b"another"


def test_a_link_to_nowhere_is_refused_before_any_work(tmp_path: Path) -> None:
    link = tmp_path / "link.tv"
    link.symlink_to(tmp_path / "gone" / "emoji.tv")
    with pytest.raises(UsageError, match="gone is not a folder"):
        check_place(link, force=True)
