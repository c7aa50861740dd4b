"""The C library, built plainly and again with sanitizers, behind a driver that the tests ask."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "runtime" / "c"
DRIVER = Path(__file__).parent / "driver.c"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow", "-Wvla")
SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
INCLUDES = (f"-I{LIBRARY / 'include'}", f"-I{LIBRARY / 'src'}")
TIMEOUT_SECONDS = 300


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What the C library drew: `images` and `codes` as Python's `Pictures` has them."""

    images: np.ndarray
    codes: np.ndarray
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The driver's executable, run with ONNX Runtime's library in its environment."""

    executable: Path
    environment: dict[str, str]

    def ask(
        self, *arguments: object, records: Iterable[bytes] = (), timeout: float = TIMEOUT_SECONDS
    ) -> bytes:
        """What the driver answers to the records; it must end by itself, without a sanitizer's complaint."""
        data = b"".join(struct.pack("<I", len(record)) + record for record in records)
        command = [str(self.executable), *map(str, arguments)]
        done = subprocess.run(
            command, input=data, capture_output=True, check=False, timeout=timeout, env=self.environment
        )
        assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-4000:]
        return done.stdout

    def lines(
        self, *arguments: object, records: Iterable[bytes] = (), timeout: float = TIMEOUT_SECONDS
    ) -> list[list[str]]:
        """Each line of the answer, cut at its tabs."""
        answer = self.ask(*arguments, records=records, timeout=timeout).decode("utf-8")
        return [line.split("\t") for line in answer.split("\n")[:-1]]

    def draw(
        self,
        bundle: Path,
        prompts: Sequence[str],
        seeds: Sequence[int],
        precision: str = "-",
        threads: int = 0,
    ) -> Drawn | list[str]:
        """The pictures, or the error's code, message and hint."""
        records = [" ".join(map(str, seeds)).encode(), *(prompt.encode() for prompt in prompts)]
        answer = self.ask("draw", bundle, precision, threads, records=records)
        head, _, rest = answer.partition(b"\n")
        status, *fields = head.decode().split("\t")
        if status != "0":
            return [status, *fields]
        count, height, width, rows, columns, warned = map(int, fields[0].split())
        *warnings, rest = rest.split(b"\n", warned)
        pixels = count * height * width * 3
        return Drawn(
            images=np.frombuffer(rest[:pixels], np.uint8).reshape(count, height, width, 3),
            codes=np.frombuffer(rest[pixels:], np.int64).reshape(count, rows, columns),
            warnings=[warning.decode() for warning in warnings],
        )


@pytest.fixture(scope="session")
def compiler() -> str:
    found = shutil.which(os.environ.get("CC", "cc"))
    if found is None:
        pytest.skip("no C compiler here")
    return found


@pytest.fixture(scope="session")
def onnxruntime_library() -> Path:
    """The shared library inside Python's wheel: the same code as Python's own binding runs."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    for path in sorted([*folder.glob("libonnxruntime.so*"), *folder.glob("libonnxruntime*.dylib")]):
        return path
    pytest.skip("this onnxruntime wheel has no shared library of its own")


@pytest.fixture(scope="session")
def library_environment(onnxruntime_library: Path) -> dict[str, str]:
    options = "detect_leaks=1:allocator_may_return_null=1:max_allocation_size_mb=4096"
    return {**os.environ, "TV_ONNXRUNTIME": str(onnxruntime_library), "ASAN_OPTIONS": options}


def compiled(compiler: str, output: Path, *arguments: object) -> Path:
    """Build `output`; a warning is an error."""
    command = [compiler, *map(str, arguments), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stderr
    return output


def library_sources() -> list[Path]:
    return sorted((LIBRARY / "src").glob("*/*.c"))


@pytest.fixture(scope="session")
def plain_driver(compiler: str, library_environment: dict[str, str], tmp_path_factory) -> Driver:
    output = tmp_path_factory.mktemp("plain") / "driver"
    compiled(
        compiler, output, *STRICT, "-O2", *INCLUDES, *library_sources(), DRIVER, "-pthread", "-ldl", "-lm"
    )
    return Driver(executable=output, environment=library_environment)


@pytest.fixture(scope="session")
def sanitized_driver(compiler: str, library_environment: dict[str, str], tmp_path_factory) -> Driver:
    folder = tmp_path_factory.mktemp("sanitized")
    (folder / "probe.c").write_text("int main(void) { return 0; }\n", "utf-8")
    probe = [compiler, "-fsanitize=address,undefined", str(folder / "probe.c"), "-o", str(folder / "probe")]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("this compiler has no sanitizers")
    output = folder / "driver"
    compiled(
        compiler, output, *STRICT, *SANITIZE, *INCLUDES, *library_sources(), DRIVER, "-pthread", "-ldl", "-lm"
    )
    return Driver(executable=output, environment=library_environment)


@pytest.fixture(params=["plain", "sanitized"])
def driver(request) -> Driver:
    """Both builds, one after the other."""
    return request.getfixturevalue(f"{request.param}_driver")
