"""Cache the results of build steps under a digest of everything that they depend on.

A cached result is a file named by a SHA-256 over the step's name, its inputs, our source code and the library
versions. An interrupted build continues where it stopped. A changed option repeats only the steps that depend
on it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

from textual_vision.export.host.versions import versions
from textual_vision.export.results import StepTiming
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.files import cache_folder, write_atomic
from textual_vision.runtime.progress import ProgressCallback, ignore_progress

CACHE_LIMIT_BYTES = 2 << 30
PACKAGES_FOLDER = Path(__file__).parents[2]
PACKAGES = ("export", "training", "runtime", "calibration")
DIGEST_BYTES = 32  # the digest of the result, at the start of its file

P = ParamSpec("P")
T = TypeVar("T")


class StepCache:
    """Runs steps, times them, and keeps their results in `folder` (None: keeps nothing)."""

    def __init__(self, folder: Path | None, on_progress: ProgressCallback = ignore_progress) -> None:
        self.folder = folder
        self.timings: list[StepTiming] = []
        self._on_progress, self._start = on_progress, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Return the time since creation: less than the sum of the steps where some ran in parallel."""
        return time.perf_counter() - self._start

    def run(self, name: str, depends_on: object, work: Callable[[], bytes]) -> bytes:
        """Return `work()`, or its cached result for the same `depends_on` (any value that JSON can hold).

        Raises UsageError when the folder cannot be read or written.
        """
        start = time.perf_counter()
        file = self._file(name, depends_on)
        cached = None if file is None else _with_cache_hint(_read, file)
        data = work() if cached is None else cached
        if file is not None and cached is None:
            _with_cache_hint(_write, file, data)
        self._record(name, start, cached=cached is not None)
        return data

    def has(self, name: str, depends_on: object) -> bool:
        """Return whether a result is cached for `run`; the file may still be damaged."""
        file = self._file(name, depends_on)
        return file is not None and file.is_file()

    def timed(self, name: str, work: Callable[[], T]) -> T:
        """Return `work()` and record its time, without caching."""
        start = time.perf_counter()
        result = work()
        self._record(name, start, cached=False)
        return result

    def prune(self) -> None:
        """Delete the least recently used results until CACHE_LIMIT_BYTES are left."""
        if self.folder is None or not self.folder.is_dir():
            return
        found = []
        for file in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another build may prune at the same time
                found.append((file.stat(), file))
        total = 0
        for about, file in sorted(found, key=lambda entry: entry[0].st_mtime, reverse=True):
            total += about.st_size
            if total > CACHE_LIMIT_BYTES:
                file.unlink(missing_ok=True)

    def _file(self, name: str, depends_on: object) -> Path | None:
        return None if self.folder is None else self.folder / digest_of([name, depends_on, base_digest()])

    def _record(self, name: str, start: float, *, cached: bool) -> None:
        timing = StepTiming(name=name, seconds=time.perf_counter() - start, cached=cached)
        self.timings.append(timing)
        self._on_progress(f"{name}: {'cached' if cached else f'{timing.seconds:.1f} s'}")


def _read(file: Path) -> bytes | None:
    """Return the result in `file`; None when the file is missing or damaged."""
    try:
        digest, data = (content := file.read_bytes())[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != digest:
            return None
        file.touch()  # `prune` deletes the least recently used first
    except FileNotFoundError:
        return None
    return data


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Without fsync, because the digest reveals a file that a power failure damaged.
    write_atomic(file, hashlib.sha256(data).digest(), data, fsync=False)


def _with_cache_hint(work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Return `work(...)`; turns an OSError into a UsageError with a hint about --no-cache."""
    try:
        return work(*given, **named)
    except OSError as error:
        problem = f"the results of steps cannot be kept in {error.filename}: {error.strerror}"
        hint = "turn the cache off with --no-cache, or set XDG_CACHE_HOME to another folder"
        raise UsageError(problem, hint) from error


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """Return an uncompressed zip archive of `files`; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # ZipInfo has a constant time
    return buffer.getvalue()


def unzip_bytes(data: bytes) -> dict[str, bytes]:
    """Return the files of an archive that `zip_bytes` made."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def default_cache() -> Path:
    """Return the user's folder for the results of build steps."""
    try:
        return cache_folder("export")
    except UsageError as error:
        raise UsageError(error.message, f"{error.hint}, or give --no-cache") from None


def digest_of(value: object) -> str:
    """Return the SHA-256 of a value as JSON, in which bytes are replaced by their digest."""

    def plain(item: object) -> object:
        if isinstance(item, bytes):
            return hashlib.sha256(item).hexdigest()
        raise TypeError(f"{type(item).__name__} is not part of a digest")

    return hashlib.sha256(json.dumps(value, sort_keys=True, default=plain).encode()).hexdigest()


@functools.cache
def base_digest() -> str:
    """Return a digest of our source code and the library versions, on which every result depends."""
    return digest_of([versions(), [path.read_bytes() for path in source_files()]])


def source_files() -> list[Path]:
    """Return every Python file of our four packages, sorted."""
    return sorted(path for name in PACKAGES for path in (PACKAGES_FOLDER / name).glob("**/*.py"))
