"""Write a bundle into a temporary folder next to its place, and rename it when complete."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from textual_vision.export.host.parallel import parallel_map
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.files import replace_folder, write_atomic
from textual_vision.runtime.manifest import MANIFEST_NAME, FileSpec, Manifest, write_manifest


def check_place(folder: Path, *, force: bool) -> None:
    """Raise UsageError when no bundle can or may be written at `folder`."""
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
    """Write `files` (path in the bundle → bytes) and the manifest; return it with their sizes and digests.

    An existing bundle is replaced only after everything is written. A symbolic link stays; the bundle that it
    points to is replaced. After an OSError nothing is left behind.
    """
    folder = folder.resolve()
    names = sorted(files)
    declared = dict(zip(names, parallel_map(lambda name: _spec(files[name]), names), strict=True))
    complete = replace(manifest, files=declared)
    # Not by tempfile, whose folders are their owner's alone: a bundle's folder heeds the umask.
    fresh = folder.with_name(f".{folder.name[:100]}.{secrets.token_hex(8)}.part")
    fresh.mkdir()
    try:
        for name in names:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        list(parallel_map(lambda name: write_atomic(fresh / name, files[name]), names))
        write_manifest(complete, fresh)
        replace_folder(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return complete


def _spec(data: bytes) -> FileSpec:
    return FileSpec(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
