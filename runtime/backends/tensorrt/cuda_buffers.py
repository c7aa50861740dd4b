"""Memory for an engine's tensors: taken once, reused for every run, given back together.

On a desktop each tensor has page-locked memory on the host and its twin on the device. An integrated GPU (a
Jetson) reads and writes the host's memory itself, so there it is one piece and nothing is copied.
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
    """One tensor's place: `host` uint8 (size,) is page-locked; `device` is the GPU's address of its twin."""

    host: npt.NDArray[np.uint8]
    host_address: int
    device: int
    shared: bool


class DeviceMemory:
    """A stream, and everything allocated with it; `close` (or garbage collection) gives all of it back."""

    def __init__(self, cuda: CudaRuntime, *, integrated: bool) -> None:
        self.cuda, self.integrated = cuda, integrated
        self.stream = cuda.new_stream()
        self._owned: list[tuple[str, int]] = [("cudaStreamDestroy", self.stream)]
        self._finalizer = weakref.finalize(self, _release, cuda, self._owned)

    def buffer(self, size: int) -> Buffer:
        """A tensor's place of `size` bytes; TextualVisionError when memory is short."""
        size = max(size, 1)
        host = self.cuda.allocate_host(size, mapped=self.integrated)
        self.own("cudaFreeHost", host)
        device = self.cuda.device_address(host) if self.integrated else self.block(size)
        view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host))
        return Buffer(host=view, host_address=host, device=device, shared=self.integrated)

    def block(self, size: int) -> int:
        """The address of `size` bytes on the device alone."""
        address = self.cuda.allocate(size)
        self.own("cudaFree", address)
        return address

    def own(self, release: str, handle: int) -> None:
        """Call the CUDA function `release` with `handle` on closing; last in, first out."""
        self._owned.append((release, handle))

    def upload(self, buffer: Buffer, size: int) -> None:
        """Queue the copy of the first `size` bytes to the device, unless it sees them anyway."""
        if not buffer.shared:
            self.cuda.copy(buffer.device, buffer.host_address, size, HOST_TO_DEVICE, self.stream)

    def download(self, buffer: Buffer, size: int) -> None:
        """Queue the copy of the first `size` bytes from the device, unless they are there anyway."""
        if not buffer.shared:
            self.cuda.copy(buffer.host_address, buffer.device, size, DEVICE_TO_HOST, self.stream)

    def synchronize(self) -> None:
        """Wait for everything queued."""
        self.cuda.synchronize(self.stream)

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        self._finalizer()


def _release(cuda: CudaRuntime, owned: list[tuple[str, int]]) -> None:
    while owned:
        name, handle = owned.pop()
        cuda.code(name, handle)  # a failure here has no one to tell and nothing to save
