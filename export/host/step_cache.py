"""StepCache of a build that are not done twice: results are kept by the digest of what they depend on.

A kept result is a file named by a SHA-256 over the step's name, its inputs, our own source and the versions
of the libraries involved. An interrupted build goes on where it stopped, and changing one option redoes only
what depends on it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

from textual_vision.export.results import StepTiming
from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.files import cache_folder, write_atomic
from textual_vision.runtime.version import __version__

CACHE_LIMIT_BYTES = 2 << 30
PACKAGES_FOLDER = Path(__file__).parents[2]
PACKAGES = ("export", "training", "runtime", "calibration")
DISTRIBUTION = "promptsprite"  # the name on the package registry
LIBRARIES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "openvino", "numpy")

DIGEST_BYTES = 32  # of the result, before it in its file

P = ParamSpec("P")
T = TypeVar("T")
Tell = Callable[[StepTiming], None]


class StepCache:
    """Runs steps, keeps what they give in `folder` (None: keep nothing), and times them."""

    def __init__(self, folder: Path | None, tell: Tell | None = None) -> None:
        self.folder = folder
        self.timings: list[StepTiming] = []
        self._tell, self._begun = tell, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the first could begin: less than theirs together where some went on side by side."""
        return time.perf_counter() - self._begun

    def run(self, name: str, depends_on: object, work: Callable[[], bytes]) -> bytes:
        """`work()`, or what it gave for the same `depends_on` (anything that JSON can hold) before.

        Raises UsageError when the folder cannot be read or written.
        """
        start = time.perf_counter()
        place = self._place(name, depends_on)
        kept = None if place is None else _told(_read, place)
        data = work() if kept is None else kept
        if place is not None and kept is None:
            _told(_keep, place, data)
        self._note(name, start, cached=kept is not None)
        return data

    def has(self, name: str, depends_on: object) -> bool:
        """Whether what `run` would give is kept; it may be damaged."""
        place = self._place(name, depends_on)
        return place is not None and place.is_file()

    def timed(self, name: str, work: Callable[[], T]) -> T:
        """`work()`, never kept, but timed."""
        start = time.perf_counter()
        found = work()
        self._note(name, start, cached=False)
        return found

    def prune(self) -> None:
        """Drops the least recently used results above CACHE_LIMIT_BYTES."""
        if self.folder is None or not self.folder.is_dir():
            return
        found = []
        for file in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another build may be pruning too
                found.append((file.stat(), file))
        total = 0
        for about, file in sorted(found, key=lambda one: one[0].st_mtime, reverse=True):
            total += about.st_size
            if total > CACHE_LIMIT_BYTES:
                file.unlink(missing_ok=True)

    def _place(self, name: str, depends_on: object) -> Path | None:
        return None if self.folder is None else self.folder / digest_of([name, depends_on, base_digest()])

    def _note(self, name: str, start: float, *, cached: bool) -> None:
        timing = StepTiming(name=name, seconds=time.perf_counter() - start, cached=cached)
        self.timings.append(timing)
        if self._tell is not None:
            self._tell(timing)


def _read(place: Path) -> bytes | None:
    """What was kept at `place`; None when nothing was, or when it is damaged: then the step is done again."""
    try:
        digest, data = (whole := place.read_bytes())[:DIGEST_BYTES], whole[DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != digest:
            return None
        place.touch()  # the least recently used go first
    except FileNotFoundError:
        return None
    return data


def _keep(place: Path, data: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    # The digest tells when it is damaged.
    write_atomic(place, hashlib.sha256(data).digest(), data, fsync=False)


def _told(work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """`work`, its OSError with the way out."""
    try:
        return work(*given, **named)
    except OSError as error:
        problem = f"the results of steps cannot be kept in {error.filename}: {error.strerror}"
        hint = "--no-cache does without them; XDG_CACHE_HOME names another place for them"
        raise UsageError(problem, hint) from error


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """Several results as one: an uncompressed zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # without the time: equal files, equal bytes
    return buffer.getvalue()


def unzip_bytes(data: bytes) -> dict[str, bytes]:
    """What `zip_bytes` was given."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def default_cache() -> Path:
    """Where the operating system's conventions put such things."""
    folder = cache_folder()
    if folder is None:
        problem = "this user has no home folder, so the results of steps cannot be kept"
        raise UsageError(problem, "--no-cache does without them; XDG_CACHE_HOME names a place for them")
    return folder / "export"


def digest_of(value: object) -> str:
    """SHA-256 of a value as JSON; bytes count by their own digest."""

    def plain(item: object) -> object:
        if isinstance(item, bytes):
            return hashlib.sha256(item).hexdigest()
        raise TypeError(f"{type(item).__name__} is not part of a digest")

    return hashlib.sha256(json.dumps(value, sort_keys=True, default=plain).encode()).hexdigest()


@functools.cache
def base_digest() -> str:
    """Of our own source and the libraries' versions: whatever is computed may depend on them."""
    return digest_of([versions(), [path.read_bytes() for path in source_files()]])


def source_files() -> list[Path]:
    """Every Python file of our four packages, sorted."""
    return sorted(path for name in PACKAGES for path in (PACKAGES_FOLDER / name).glob("**/*.py"))


@functools.cache
def versions() -> dict[str, str]:
    """The versions of this distribution and of the installed libraries that a build uses."""
    installed = {name: list(importlib.metadata.distributions(name=name)) for name in LIBRARIES}
    return {DISTRIBUTION: __version__} | {
        name: found[0].version for name, found in installed.items() if found
    }
