"""Check that there is enough memory to build an engine, because the system kills a build silently."""

from __future__ import annotations

from pathlib import Path

from textual_vision.runtime.errors import DeviceMismatchError

MIB = 1 << 20
# Measured memory of a build, without the graph. TensorRT-RTX 1.7.1 took 100 to 270 MB for stages of 2 to 33
# MB, of which it holds several copies. TensorRT also loads its kernels and a CUDA context.
LIBRARY_BYTES = {"tensorrt-rtx": 256 * MIB, "tensorrt": 1024 * MIB}
COPIES_OF_GRAPH = 6
MEMINFO = Path("/proc/meminfo")


def build_bytes(kind: str, graph_bytes: int, workspace_bytes: int | None) -> int:
    """Return a rough estimate of the memory in bytes that building a graph of `graph_bytes` takes."""
    return LIBRARY_BYTES[kind] + COPIES_OF_GRAPH * graph_bytes + (workspace_bytes or 0)


def available_bytes(path: Path = MEMINFO) -> int | None:
    """Return the memory in bytes that a program can use without swapping; None where Linux does not say."""
    if not path.is_file():
        return None
    for line in path.read_text("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable" and value.split():
            return int(value.split()[0]) * 1024
    return None


def check_memory(needed: int, available: int | None, name: str) -> None:
    """Raise DeviceMismatchError with the numbers when the memory is too small to build `name`."""
    if available is None or needed <= available:
        return
    raise DeviceMismatchError(
        f"{name}: building takes about {needed // MIB} MB, {available // MIB} MB are free",
        "close other programs (on a Jetson: sudo init 3 stops the desktop), add swap, give a smaller "
        "--workspace-mib or --batch-profile, or skip this check with --ignore-memory",
    )
