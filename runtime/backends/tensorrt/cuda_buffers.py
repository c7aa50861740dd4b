"""Memory for an engine's tensors: allocated once, reused by every run, and freed together.

On a desktop, each tensor has page-locked memory on the host and a copy on the device. An integrated GPU (a
Jetson) accesses the host's memory directly, so one buffer is enough and nothing is copied.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.backends.tensorrt.cudart import DEVICE_TO_HOST, HOST_TO_DEVICE, CudaRuntime


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """One tensor's memory: `host` uint8 (size,) is page-locked; `device` is the address of its GPU copy."""

    host: npt.NDArray[np.uint8]
    host_address: int
    device: int
    shared: bool


class DeviceMemory:
    """A stream and its allocations; `close` (or garbage collection) frees all of them."""

    def __init__(self, cuda: CudaRuntime, *, integrated: bool) -> None:
        self.cuda, self.integrated = cuda, integrated
        self.stream = cuda.new_stream()
        self._owned: list[tuple[str, int]] = [("cudaStreamDestroy", self.stream)]
        self._finalizer = weakref.finalize(self, _release, cuda, self._owned)

    def buffer(self, size: int) -> Buffer:
        """Return a buffer of `size` bytes; raises TextualVisionError when memory is short."""
        size = max(size, 1)
        host = self.cuda.allocate_host(size, mapped=self.integrated)
        self.own("cudaFreeHost", host)
        device = self.cuda.device_address(host) if self.integrated else self.block(size)
        view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host))
        return Buffer(host=view, host_address=host, device=device, shared=self.integrated)

    def block(self, size: int) -> int:
        """Return the address of `size` newly allocated bytes on the device."""
        address = self.cuda.allocate(size)
        self.own("cudaFree", address)
        return address

    def own(self, release: str, handle: int) -> None:
        """Call the CUDA function `release` with `handle` on closing; last in, first out."""
        self._owned.append((release, handle))

    def upload(self, buffer: Buffer, size: int) -> None:
        """Queue a copy of the first `size` bytes to the device, unless the memory is shared."""
        if not buffer.shared:
            self.cuda.copy(buffer.device, buffer.host_address, size, HOST_TO_DEVICE, self.stream)

    def download(self, buffer: Buffer, size: int) -> None:
        """Queue a copy of the first `size` bytes from the device, unless the memory is shared."""
        if not buffer.shared:
            self.cuda.copy(buffer.host_address, buffer.device, size, DEVICE_TO_HOST, self.stream)

    def synchronize(self) -> None:
        """Wait until all queued work is done."""
        self.cuda.synchronize(self.stream)

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        self._finalizer()


def _release(cuda: CudaRuntime, owned: list[tuple[str, int]]) -> None:
    while owned:
        name, handle = owned.pop()
        cuda.code(name, handle)  # a failure to free memory is ignored
