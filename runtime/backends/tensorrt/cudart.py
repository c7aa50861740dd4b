"""Call the CUDA runtime library through ctypes: the functions that engines need, and a probe for a driver.

TensorRT crashes the process without a driver, so `probe` is called before any of its objects are created.
Function signatures and constants are from the CUDA Runtime API [1]; they are equal from CUDA 11.4 to 13.

[1] https://docs.nvidia.com/cuda/cuda-runtime-api/
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from pathlib import Path

from textual_vision.runtime.errors import BackendMissingError, TextualVisionError

MEMORY_ALLOCATION, INSUFFICIENT_DRIVER, NO_DEVICE = 2, 35, 100
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
STREAM_NON_BLOCKING, CAPTURE_THREAD_LOCAL = 1, 1
HOST_ALLOC_PORTABLE, HOST_ALLOC_MAPPED = 1, 2
ATTRIBUTE_INTEGRATED, ATTRIBUTE_MAJOR, ATTRIBUTE_MINOR = 18, 75, 76
SONAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so", "cudart64_13.dll")
INSTALL_HINT = "pip install nvidia-cuda-runtime, or install CUDA; a Jetson has it with JetPack"
MEMORY_HINT = (
    "close other programs, generate fewer pictures at once, or rebuild the engines with a smaller batch"
)
MIB = 1 << 20

_ARGUMENTS: dict[str, tuple[object, ...]] = {
    "cudaGetDeviceCount": (c_void_p,),
    "cudaDriverGetVersion": (c_void_p,),
    "cudaDeviceGetAttribute": (c_void_p, c_int, c_int),
    "cudaMemGetInfo": (c_void_p, c_void_p),
    "cudaMalloc": (c_void_p, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (c_void_p, c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaHostGetDevicePointer": (c_void_p, c_void_p, c_uint),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (c_void_p, c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, c_void_p),
    "cudaGraphInstantiateWithFlags": (c_void_p, c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGraphDestroy": (c_void_p,),
}


@dataclass(frozen=True, kw_only=True)
class Device:
    """The first GPU that CUDA_VISIBLE_DEVICES shows: "8.7", the driver's CUDA version, sizes in bytes.

    `integrated` GPUs share the computer's memory, so nothing need be copied to them.
    """

    compute: str
    driver: str
    integrated: bool
    free_bytes: int
    total_bytes: int


class CudaRuntime:
    """The functions of a loaded libcudart; a failure raises an error that names the function."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, c_int
        library.cudaGetErrorString.argtypes = (c_int,)
        library.cudaGetErrorString.restype = c_char_p

    def call(self, name: str, *arguments: object) -> None:
        """Call `name`; raises TextualVisionError unless it returns 0."""
        if code := self.code(name, *arguments):
            raise TextualVisionError(f"{name} failed: {self.describe(code)}", "see `dmesg` and `nvidia-smi`")

    def code(self, name: str, *arguments: object) -> int:
        """Call `name` and return its cudaError."""
        return int(getattr(self._library, name)(*arguments))

    def describe(self, code: int) -> str:
        """Return a cudaError's number and text."""
        text: bytes | None = self._library.cudaGetErrorString(code)
        return f"cudaError {code}, {(text or b'unknown').decode('ascii', 'replace')}"

    def memory(self) -> tuple[int, int]:
        """Return the free and total bytes of the device's memory."""
        free, total = c_size_t(), c_size_t()
        self.call("cudaMemGetInfo", byref(free), byref(total))
        return free.value, total.value

    def attribute(self, number: int) -> int:
        """Return an attribute of device 0."""
        value = c_int()
        self.call("cudaDeviceGetAttribute", byref(value), number, 0)
        return value.value

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes on the device; raises TextualVisionError if memory is short."""
        return self._allocate("cudaMalloc", size)

    def allocate_host(self, size: int, *, mapped: bool) -> int:
        """Return the address of `size` page-locked bytes; the device can access `mapped` ones directly."""
        return self._allocate("cudaHostAlloc", size, HOST_ALLOC_MAPPED if mapped else HOST_ALLOC_PORTABLE)

    def device_address(self, host: int) -> int:
        """Return the device's address of the mapped `host` address."""
        address = c_void_p()
        self.call("cudaHostGetDevicePointer", byref(address), host, 0)
        return address.value or 0

    def new_stream(self) -> int:
        """Return a new stream."""
        stream = c_void_p()
        self.call("cudaStreamCreateWithFlags", byref(stream), STREAM_NON_BLOCKING)
        return stream.value or 0

    def copy(self, target: int, source: int, size: int, direction: int, stream: int) -> None:
        """Queue a copy of `size` bytes on `stream`."""
        self.call("cudaMemcpyAsync", target, source, size, direction, stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all work on `stream` is done; raises its errors."""
        self.call("cudaStreamSynchronize", stream)

    def _allocate(self, name: str, size: int, *flags: int) -> int:
        address = c_void_p()
        code = self.code(name, byref(address), size, *flags)
        if code == MEMORY_ALLOCATION:
            free, total = self.memory()
            wanted = f"{size / MIB:.1f} MB wanted, {free // MIB} of {total // MIB} MB free"
            raise TextualVisionError(f"out of GPU memory: {wanted}", MEMORY_HINT)
        if code:
            raise TextualVisionError(f"{name} failed: {self.describe(code)}", MEMORY_HINT)
        return address.value or 0


def load_cudart(path: str | None = None) -> CudaRuntime:
    """Load libcudart from `path`, else from pip's package, else as the system finds it.

    Raises BackendMissingError when there is none.
    """
    for name in [path] if path is not None else _candidates():
        if (library := _loaded(name)) is None:
            continue
        try:
            return CudaRuntime(library)
        except AttributeError as error:  # a function that it lacks
            raise BackendMissingError(f"{name}: an unsuitable CUDA runtime: {error}", INSTALL_HINT) from None
    raise BackendMissingError("the CUDA runtime (libcudart) is not installed", INSTALL_HINT)


def _loaded(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def probe(cuda: CudaRuntime) -> Device:
    """Return the GPU without using TensorRT; raises BackendMissingError without a driver or GPU."""
    count = c_int()
    code = cuda.code("cudaGetDeviceCount", byref(count))
    if code == INSUFFICIENT_DRIVER:
        raise BackendMissingError(
            f"no NVIDIA driver, or one too old ({cuda.describe(code)})",
            "install or update the driver (`nvidia-smi` shows it), or use --backend onnxruntime",
        )
    if code == NO_DEVICE or (code == 0 and count.value == 0):
        raise BackendMissingError(
            f"no NVIDIA GPU is visible ({cuda.describe(NO_DEVICE)})",
            "check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use --backend onnxruntime",
        )
    if code:
        raise BackendMissingError(f"CUDA does not start: {cuda.describe(code)}", "check `nvidia-smi`")
    version = c_int()
    cuda.call("cudaDriverGetVersion", byref(version))
    free, total = cuda.memory()
    return Device(
        compute=f"{cuda.attribute(ATTRIBUTE_MAJOR)}.{cuda.attribute(ATTRIBUTE_MINOR)}",
        driver=f"{version.value // 1000}.{version.value % 1000 // 10}",
        integrated=bool(cuda.attribute(ATTRIBUTE_INTEGRATED)),
        free_bytes=free,
        total_bytes=total,
    )


def _candidates() -> list[str]:
    packaged: list[str] = []
    spec = importlib.util.find_spec("nvidia")  # pip's packages of CUDA share this namespace
    for root in spec.submodule_search_locations or () if spec is not None else ():
        packaged += [str(file) for file in sorted(Path(root).glob("*/lib/libcudart.so.*"), reverse=True)]
    found = ctypes.util.find_library("cudart")
    return [*packaged, *SONAMES, *([found] if found else [])]
