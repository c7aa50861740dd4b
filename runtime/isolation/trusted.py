"""The bundles that this user has built or trusted on this machine, by their digests.

One digest a line in the user's state folder, where only this user writes. A bundle's digest is that of its
manifest, which holds the digests of all its files: a bundle that changes is another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os

from textual_vision.runtime.files import state_folder
from textual_vision.runtime.manifest import Manifest, bytes_from_manifest

FILE_NAME = "trusted-bundles"
FILE_LIMIT_BYTES = 1 << 20  # 16,000 bundles; the oldest are forgotten


def trust(digest: str) -> bool:
    """Record the bundle with this digest as trusted; False when this user has no folder to record it in.

    Raises OSError when the folder cannot be written.
    """
    folder = state_folder()
    if folder is None:
        return False
    if is_trusted(digest):
        return True
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / FILE_NAME
    if path.exists() and path.stat().st_size > FILE_LIMIT_BYTES:
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[len(lines) // 2 :]))
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    descriptor = os.open(path, flags, 0o600)
    try:
        os.write(descriptor, f"{digest}\n".encode("ascii"))
    finally:
        os.close(descriptor)
    return True


def is_trusted(digest: str) -> bool:
    """Whether the bundle with this digest was built or trusted by this user on this machine."""
    folder = state_folder()
    if folder is None or not (path := folder / FILE_NAME).is_file():
        return False
    return digest.encode("ascii") in path.read_bytes().split(b"\n")


def trust_written(manifest: Manifest) -> None:
    """Trust the bundle that this process has written with `manifest`.

    Where the record cannot be written, the bundle is isolated when it is loaded, which is safe.
    """
    with contextlib.suppress(OSError):
        trust(hashlib.sha256(bytes_from_manifest(manifest)).hexdigest())
