"""A libcudart without a GPU: device memory is the computer's own, and everything taken is counted.

Compiled by the C compiler that is here; tests that need it are skipped where there is none.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
typedef int E; typedef void *P;
int fake_error = 0, fake_devices = 1, fake_integrated = 0, fake_major = 8, fake_minor = 6;
int fake_live = 0, fake_allocations = 0, fake_fail_at = 0;
int fake_copies = 0, fake_launches = 0, fake_mapped = 0;
static E take(P *p, size_t n) {
    if (++fake_allocations == fake_fail_at) return 2;
    *p = calloc(1, n ? n : 1); fake_live++; return 0;
}
static E drop(P p) { if (p) { free(p); fake_live--; } return 0; }
E cudaGetDeviceCount(int *n) { *n = fake_error ? 0 : fake_devices; return fake_error; }
E cudaDriverGetVersion(int *v) { *v = 12040; return 0; }
E cudaDeviceGetAttribute(int *v, int a, int d) {
    *v = a == 75 ? fake_major : a == 76 ? fake_minor : a == 18 ? fake_integrated : -1; return *v < 0;
}
E cudaMemGetInfo(size_t *f, size_t *t) { *f = 3 << 20; *t = 8 << 20; return 0; }
E cudaMalloc(P *p, size_t n) { return take(p, n); }
E cudaFree(P p) { return drop(p); }
E cudaHostAlloc(P *p, size_t n, unsigned flags) { fake_mapped += flags == 2; return take(p, n); }
E cudaFreeHost(P p) { return drop(p); }
E cudaHostGetDevicePointer(P *d, P h, unsigned f) { *d = h; return 0; }
E cudaMemcpyAsync(P t, P s, size_t n, int k, P st) { fake_copies++; memcpy(t, s, n); return st ? 0 : 400; }
E cudaStreamCreateWithFlags(P *s, unsigned f) { return take(s, 1); }
E cudaStreamSynchronize(P s) { return s ? 0 : 400; }
E cudaStreamDestroy(P s) { return drop(s); }
E cudaStreamBeginCapture(P s, int m) { return 0; }
E cudaStreamEndCapture(P s, P *g) { return take(g, 1); }
E cudaGraphInstantiateWithFlags(P *e, P g, unsigned long long f) { return take(e, 1); }
E cudaGraphLaunch(P e, P s) { fake_launches++; return 0; }
E cudaGraphExecDestroy(P e) { return drop(e); }
E cudaGraphDestroy(P g) { return drop(g); }
const char *cudaGetErrorString(E e) { return e == 35 ? "driver too old" : "some error"; }
"""


def compile_cudart(folder: Path) -> Path | None:
    """The library's file, or None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    source, library = folder / "cudart.c", folder / "libcudart.so.13"
    source.write_text(SOURCE, "utf-8")
    command = [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return library


class Counters:
    """The library's counters and switches as attributes: live, allocations, fail_at, error, integrated, …"""

    def __init__(self, library: Path) -> None:
        object.__setattr__(self, "_library", ctypes.CDLL(str(library)))
        for name, value in {
            "error": 0,
            "devices": 1,
            "integrated": 0,
            "major": 8,
            "minor": 6,
            "fail_at": 0,
            "allocations": 0,
            "copies": 0,
            "launches": 0,
            "mapped": 0,
        }.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> int:
        return ctypes.c_int.in_dll(self._library, f"fake_{name}").value

    def __setattr__(self, name: str, value: int) -> None:
        ctypes.c_int.in_dll(self._library, f"fake_{name}").value = value
