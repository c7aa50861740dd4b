"""The bundle's folder: everything into a temporary folder beside it, renamed when whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from textual_vision.export.host.parallel import parallel_map
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.manifest import MANIFEST_NAME, FileSpec, Manifest, write_manifest


def check_place(folder: Path, *, force: bool) -> None:
    """UsageError, before any work, when no bundle can or may be written at `folder`."""
    shown, folder = folder, folder.resolve()  # "." has no name, and a link's bundle lies elsewhere
    if not folder.parent.is_dir():
        raise UsageError(f"{folder.parent} is not a folder", f"make it first: mkdir -p {folder.parent}")
    if not os.access(folder.parent, os.W_OK):
        raise UsageError(
            f"{folder.parent} is not writable", "choose another place, or change its permissions"
        )
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file()):
        raise UsageError(f"{shown} exists and is not a bundle", "choose another place: -o NAME.tv")
    if not force and any(folder.iterdir()):
        raise UsageError(f"{shown} exists", "give --force to replace it")


def write_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Writes `files` (path in the bundle → bytes) and the manifest, which gets their sizes and digests.

    What was at `folder` is replaced only when everything is written; a link stays and its bundle is replaced.
    Raises OSError as the system gives it; nothing is left behind then.
    """
    folder = folder.resolve()
    names = sorted(files)
    declared = dict(zip(names, parallel_map(lambda name: _spec(files[name]), names), strict=True))
    whole = replace(manifest, files=declared)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        for name in names:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        list(parallel_map(lambda name: write_atomic(fresh / name, files[name]), names))
        write_manifest(whole, fresh)
        _put(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return whole


def _spec(data: bytes) -> FileSpec:
    return FileSpec(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def _put(fresh: Path, folder: Path) -> None:
    if not folder.exists():
        fresh.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
    try:
        folder.rename(old / "bundle")
        fresh.rename(folder)
    except BaseException:  # an interrupt puts the old bundle back too; it is raised again
        if not folder.exists() and (old / "bundle").exists():
            (old / "bundle").rename(folder)
        raise
    finally:
        if folder.exists():  # else the old bundle could not be put back, and is all that there is
            shutil.rmtree(old, ignore_errors=True)
